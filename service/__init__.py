"""The demo service: one limited route, and what a proxy and an operator ask."""
