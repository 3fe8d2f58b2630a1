"""The scripts keep the contract of ``lua/README.md`` for any caller."""
