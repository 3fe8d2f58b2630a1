"""The files in deploy/: each is checked by the program that reads it, and tried on the real service."""
