"""Cutting the vocabulary of a tokenizer and of its embedding table."""
