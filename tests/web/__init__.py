"""Requests without a framework: rules, subjects, verdicts, header fields and problems."""
