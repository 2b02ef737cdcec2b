"""Which questions need their text."""
