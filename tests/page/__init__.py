"""The page that shows the algorithms: its routes, and the page in a browser."""
