"""Attributions: what a prediction rests on, and whether that stays when a model is compressed."""
