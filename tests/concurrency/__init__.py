"""Many threads and processes at once: every window keeps its bound."""
