"""Predictions of an artifact with ONNX Runtime, tokenizers and NumPy alone.

`pip install compressor-runtime` installs this folder as `compressor_runtime`, and nothing else of
the package. So a module here imports the standard library, those three, and its neighbours by
relative names.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .artifact import Artifact, load_artifact
    from .errors import CompressorError, EnvironmentMismatch, RecipeError

__version__ = "0.1.0"

__all__ = ["Artifact", "CompressorError", "EnvironmentMismatch", "RecipeError", "load_artifact"]

_HOMES = {
    "Artifact": "artifact",
    "CompressorError": "errors",
    "EnvironmentMismatch": "errors",
    "RecipeError": "errors",
    "load_artifact": "artifact",
}


def __getattr__(name: str) -> Any:
    # `compressor` itself reads modules of this folder where onnxruntime is not wanted.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
