"""Runs: shards, the run folder, what was counted."""
