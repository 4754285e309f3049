"""Integer arithmetic for weights, and its place in a graph: arrays in, arrays out."""
