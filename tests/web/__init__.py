"""Identity, headers and problems: a decision told over HTTP."""
