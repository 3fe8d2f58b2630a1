"""The store in the process gives the replies of a server, and keeps the same state."""
