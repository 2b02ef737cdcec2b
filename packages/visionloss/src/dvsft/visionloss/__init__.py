"""The equation of DV-SFT (arXiv 2605.26656), for any trainer."""
