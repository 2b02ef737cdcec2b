"""A run as a dataset that others load."""
