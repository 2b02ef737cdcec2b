"""Pages as words."""
