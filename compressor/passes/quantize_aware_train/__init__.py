"""Training with the roundings of an int8 file simulated."""
