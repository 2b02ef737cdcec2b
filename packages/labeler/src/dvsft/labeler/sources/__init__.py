"""Datasets as their publishers ship them, as pages."""
