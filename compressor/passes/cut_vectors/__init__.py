"""Cutting the vectors of encoders that were trained to be cut."""
