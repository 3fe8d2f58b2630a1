"""Hypothesis drives model and script side by side."""
