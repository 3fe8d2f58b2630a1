"""Access logs, and their replay through policies in simulated time."""
