"""Attacks on a running limiter, behind real proxies and in front of real frameworks."""
