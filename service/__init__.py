"""The demo's two applications: one in Flask with limits of its own, and an upstream without a limiter."""
