"""``limiter simulate``: read access logs, and replay them through policies in simulated time.

It calls no store and no clock: the algorithms are those of ``memory://``, and the time is that of the log.
"""
