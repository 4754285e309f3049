"""Storing of the table of words as a product of two matrices."""
