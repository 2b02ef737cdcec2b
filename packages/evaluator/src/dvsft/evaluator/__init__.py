"""Judges a Hugging Face image-text folder."""
