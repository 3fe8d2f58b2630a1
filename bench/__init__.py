"""Measurements of the limiter: ``python -m bench``, explained in README.md beside this file."""
