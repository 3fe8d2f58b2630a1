"""Policies in a file: what may stand in it, what is said of what may not, and the file when it changes."""
