"""Structured pruning: heads, feed-forward neurons and layers go for good."""
