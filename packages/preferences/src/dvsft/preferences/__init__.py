"""Preference pairs: a model answers the questions of a label run, its answers are scored and paired."""
