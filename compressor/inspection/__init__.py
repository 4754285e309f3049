"""What `compress inspect` finds out about a checkpoint or an .onnx file, without changing it."""
