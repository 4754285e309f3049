"""From a PyTorch model to an ONNX graph that is shown to compute the same logits."""
