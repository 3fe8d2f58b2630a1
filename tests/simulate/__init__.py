"""Simulations of access logs: what a policy file would have decided."""
