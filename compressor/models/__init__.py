"""Models in memory and on disk: PyTorch checkpoints, ONNX files, and their shapes and sizes."""
