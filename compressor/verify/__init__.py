"""Measures models: scores on a split, and times that take turns."""
