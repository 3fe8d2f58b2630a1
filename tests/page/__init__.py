"""The page that shows the algorithms: what it asks, and how it is in a browser."""
