"""Other libraries' names for what this one does, so that their users can move by changing an import."""
