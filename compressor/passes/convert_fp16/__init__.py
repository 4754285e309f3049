"""Float16 and bfloat16 graphs for GPUs."""
