"""The version of the distribution, and of the scripts in it."""

__version__ = "1.0.0rc1"
