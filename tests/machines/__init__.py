"""Hypothesis runs random histories on model and script, and compares them."""
