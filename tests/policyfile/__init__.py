"""Policy files: their keys, the messages about wrong ones, and reading them again after a change."""
