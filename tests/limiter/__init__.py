"""The library without a store: policies, grammar, keys, decisions, settings, errors."""
