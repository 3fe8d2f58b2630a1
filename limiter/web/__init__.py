"""Shared by all web adapters: which rules apply to a request, and how the verdict is written over HTTP."""
