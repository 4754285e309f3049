"""Cutting the vectors of sentence encoders that were trained to be cut."""
