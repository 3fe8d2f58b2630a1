"""Replacements for other libraries: moving from one begins with another import."""
