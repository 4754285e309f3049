"""What `compress init` does: a commented recipe from a checkpoint, data and this machine."""
