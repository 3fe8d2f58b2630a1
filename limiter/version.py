"""The version of the distribution, and of the scripts in it."""

__version__ = "0.1.0"
