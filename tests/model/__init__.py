"""The slow, exact meaning of every algorithm: whole histories, counted by definition."""

from tests.model import fixed_window, several, sliding_log, token_bucket

__all__ = ["fixed_window", "several", "sliding_log", "token_bucket"]
