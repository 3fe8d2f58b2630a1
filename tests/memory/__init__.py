"""The store in the process says and keeps what Redis would."""
