"""Simulated schedules of the clients: one seed decides each delay, fault and interleaving.

``world`` has the virtual clock, the seeded choices and the trace. ``network`` carries bytes between the
client and the simulated servers of ``servers``; ``stores`` has the faults that befall these. The limiters
run unchanged: ``loop`` is the event loop of an AsyncLimiter, and ``threads`` runs the threads of a Limiter
as greenlets, one at a time. ``seams`` puts all of that into their places. ``plans`` draws a schedule from a
seed, ``runs`` runs it, and ``checks`` looks for broken promises. ``faults`` has faults that must be found.
"""
