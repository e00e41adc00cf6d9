"""Weights: where they come from, what they say about themselves, how they are loaded."""
