"""Which weights and units to remove, and removing them: arrays in, arrays out."""
