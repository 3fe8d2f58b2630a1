"""The pages, and the programs that belong to them."""
