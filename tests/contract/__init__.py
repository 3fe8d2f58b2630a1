"""The scripts keep their contract, whoever calls them."""
