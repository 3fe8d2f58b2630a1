"""The version of the distribution, and of the scripts it ships."""

__version__ = "0.1.0"
