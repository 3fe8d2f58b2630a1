"""The examples of the documents run, and their claims hold."""
