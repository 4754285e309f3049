"""Pruning of the hidden size."""
