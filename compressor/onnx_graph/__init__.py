"""ONNX graphs and the integer arithmetic in them: arrays in, arrays out; no data, no models."""
