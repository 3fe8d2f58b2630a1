"""Every call of a limiter, on every kind of store, from threads and from coroutines."""
