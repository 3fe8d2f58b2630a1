"""Benchmarks of the limiter: ``python -m bench``. README.md in this folder explains them."""
