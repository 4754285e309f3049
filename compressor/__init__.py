"""Turn a Hugging Face checkpoint into a smaller, faster ONNX model, and prove that it is accurate.

The public names load on first use, so that `compress --help` and `compress validate` answer without
loading torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from compressor.errors import missing_package

if TYPE_CHECKING:
    from compressor.artifact import Artifact, load_artifact
    from compressor.models.torch_model import TorchModel, load_checkpoint
    from compressor.pipeline.run import run
    from compressor.recipe.recipe import Recipe, load_recipe
    from compressor.report.run_report import RunReport
    from compressor.tasks import MetricInputs

__version__ = "0.1.0"

__all__ = [
    "Artifact",
    "MetricInputs",
    "Recipe",
    "RunReport",
    "TorchModel",
    "load_artifact",
    "load_checkpoint",
    "load_recipe",
    "run",
]

_HOMES = {
    "Artifact": "artifact",
    "MetricInputs": "tasks",
    "Recipe": "recipe.recipe",
    "RunReport": "report.run_report",
    "TorchModel": "models.torch_model",
    "load_artifact": "artifact",
    "load_checkpoint": "models.torch_model",
    "load_recipe": "recipe.recipe",
    "run": "pipeline.run",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        home = importlib.import_module(f"{__name__}.{_HOMES[name]}")
    except ModuleNotFoundError as error:
        if (mismatch := missing_package(error)) is None:
            raise
        raise mismatch from error
    return getattr(home, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
