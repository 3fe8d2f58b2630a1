"""Tests on real servers, and the models that say what is right."""
