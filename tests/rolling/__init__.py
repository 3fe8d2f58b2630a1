"""Releases that run side by side on one store while workers are replaced."""
