"""What the pipeline lends a pass, for tests that apply one directly."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch

from compressor.data import Dataset
from compressor.models.onnx_model import OnnxModel
from compressor.models.torch_model import TorchModel, load_checkpoint
from compressor.passes import PassContext
from compressor.passes.quantize import race
from compressor.progress import SILENT
from compressor.verify.timing import Clock, Run, Steady

ContextMaker = Callable[..., PassContext]


@pytest.fixture(autouse=True)
def drawn_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let int8 forms run once, each slower than the one before it.

    A busy machine would refuse to tell tiny graphs apart by real times.
    """

    def drawn(runs: Mapping[str, Run], *, clock: Clock, **_: object) -> Steady:
        for run in runs.values():
            run()
        times = {name: float(place) for place, name in enumerate(runs, 1)}
        return Steady(clock, (times,), reference_ms=1.0, error=0.0, num_rounds=1)

    monkeypatch.setattr(race, "measure_until_steady", drawn)


@pytest.fixture
def notes() -> list[str]:
    return []


@pytest.fixture
def make_context(tmp_path: Path, notes: list[str]) -> ContextMaker:
    """Return a function that makes a context of splits, given by name.

    `baseline` is the folder of the untouched checkpoint; a pass that loads it where its test gave
    none fails. `exported` is that of the model which a graph was exported from, if it is another.
    `work` names the scratch folder.
    """

    def make(
        baseline: Path | None = None,
        *,
        exported: Path | None = None,
        work: str = "work",
        seed: int = 0,
        **splits: Dataset,
    ) -> PassContext:
        def load(folder: Path | None) -> TorchModel:
            assert folder is not None, "this test's settings need no other model"
            return load_checkpoint(folder)

        return PassContext(
            splits=splits,
            load_baseline=lambda: load(baseline),
            device=torch.device("cpu"),
            seed=seed,
            work_dir=tmp_path / work,
            progress=SILENT,
            note=notes.append,
            load_exported=None if exported is None else lambda: load(exported),
        )

    return make


@pytest.fixture
def unlabelled(text_dataset: Dataset) -> Dataset:
    """Return the texts as calibration rows, which have no labels."""
    return dataclasses.replace(text_dataset, name="calibration", labels=None)


@pytest.fixture
def context(make_context: ContextMaker, tiny_bert_dir: Path, unlabelled: Dataset) -> PassContext:
    """Return what a pass over the graph of the tiny BERT gets when it asks for calibration rows."""
    return make_context(exported=tiny_bert_dir, calibration=unlabelled)


@pytest.fixture
def exported(exported_bert: OnnxModel) -> OnnxModel:
    """Return the graph that passes start from: the tiny BERT, fused for the CPU."""
    return exported_bert
