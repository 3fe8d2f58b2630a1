"""The round trip, against real servers and everything that can go wrong on the way."""
