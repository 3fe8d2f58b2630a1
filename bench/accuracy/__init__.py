"""Accuracy of the algorithms, and of those of other libraries: ``python -m bench.accuracy``."""
