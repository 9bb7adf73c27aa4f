"""Comparisons: one task under several learning rules, and what the difference between them is worth."""
