"""Proof of layouts: does every visual token of a real processor and vision tower look where its layout says?"""
