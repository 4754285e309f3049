"""`compress explain`: what predictions rest on, before and after a run."""

from compressor.explain.explain import explain, write_explanations

__all__ = ["explain", "write_explanations"]
