"""Post-training quantization: int8 and fewer bits, in the forms that runtimes read."""
