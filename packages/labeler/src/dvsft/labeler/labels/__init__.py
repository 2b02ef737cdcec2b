"""Words as labels."""
