"""The slow, exact meaning of every algorithm: whole histories, counted by definition."""
