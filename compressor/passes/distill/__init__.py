"""Distillation: a student learns to predict as its teacher does."""
