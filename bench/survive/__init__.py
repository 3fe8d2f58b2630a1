"""How the limiter survives faults of networks, servers, clocks, names and machines: ``make survive``.

An application calls limiters all the time while one event after the other happens to its store. Each figure
is a fact about its calls, about what the store then says was charged, or about the application's process.
"""
