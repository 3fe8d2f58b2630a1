"""Deliberately broken scripts and clients; each is caught by a check of the suite."""
