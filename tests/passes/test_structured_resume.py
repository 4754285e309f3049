from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor

from compressor.data import Dataset
from compressor.models.torch_model import TorchModel, load_checkpoint
from compressor.passes import PassContext, apply_pass
from compressor.passes.prune_structured.settings import PruneStructured
from compressor.progress import SILENT, Advance, Progress, Silent
from compressor.training.checkpoints import State, StateFile


class Stopped(BaseException):
    """Ends a pass like Ctrl-C, which nothing may catch."""


class Told(Silent):
    """Remembers which steps of recovery were told, and stops at one of them."""

    def __init__(self, stop_in: str = "nothing") -> None:
        self.steps: list[str] = []
        self.stop_in = stop_in

    @contextmanager
    def bar(self, description: str, total: int | None) -> Iterator[Advance]:
        def advance(amount: int = 1, detail: str = "") -> None:
            if description.startswith("recovery"):
                self.steps.append(f"{description}: {detail}")
            if description == self.stop_in:
                raise Stopped

        yield advance


def apply_to(
    checkpoint: Path, dataset: Dataset, work_dir: Path, progress: Progress = SILENT
) -> dict[str, Tensor]:
    settings = PruneStructured.of(
        {
            "ratio": 0.5,
            "steps": 3,
            "importance": "magnitude",
            "recovery": {"kind": "distill", "max_steps": 6, "batch_size": 8},
        }
    )
    context = PassContext(
        splits={"train": dataset, "calibration": dataset},
        load_baseline=lambda: load_checkpoint(checkpoint),
        device=torch.device("cpu"),
        seed=0,
        work_dir=work_dir,
        progress=progress,
        note=lambda _: None,
    )
    model: TorchModel = apply_pass(settings, load_checkpoint(checkpoint), context)
    return {name: value.clone() for name, value in model.module.state_dict().items()}


@pytest.fixture(scope="module")
def expected(
    tiny_bert_dir: Path, text_dataset: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Tensor]:
    """Return the weights of a pass that nothing disturbed."""
    return apply_to(tiny_bert_dir, text_dataset, tmp_path_factory.mktemp("undisturbed"))


def test_a_pass_that_was_stopped_repeats_the_pruning_but_no_finished_recovery(
    expected: dict[str, Tensor], tiny_bert_dir: Path, text_dataset: Dataset, tmp_path: Path
):
    stopped, resumed = Told(stop_in="recovery after step 2 of 3"), Told()

    with pytest.raises(Stopped):
        apply_to(tiny_bert_dir, text_dataset, tmp_path / "stopped", stopped)
    found = apply_to(tiny_bert_dir, text_dataset, tmp_path / "stopped", resumed)

    assert resumed.steps[0] == "recovery after step 1 of 3: finished before"
    assert sum(step.startswith("recovery after step 1") for step in resumed.steps) == 1
    assert sum(step.startswith("recovery after step 2") for step in resumed.steps) == 2
    assert found.keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in found.items())


@pytest.mark.parametrize("step", [1, 2, 3])
def test_a_disk_that_was_full_when_a_result_was_written_costs_that_training_alone(
    step: int,
    expected: dict[str, Tensor],
    tiny_bert_dir: Path,
    text_dataset: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    write, resumed = StateFile.write, Told()

    def full(file: StateFile, state: State) -> None:
        if file.path.parent.name == f"recovery-{step}" and file.path.name.startswith("trained"):
            raise OSError(28, "No space left on device")
        write(file, state)

    monkeypatch.setattr(StateFile, "write", full)
    with pytest.raises(OSError, match="No space left"):
        apply_to(tiny_bert_dir, text_dataset, tmp_path / "stopped")
    monkeypatch.setattr(StateFile, "write", write)
    found = apply_to(tiny_bert_dir, text_dataset, tmp_path / "stopped", resumed)

    finished = [told for told in resumed.steps if told.endswith("finished before")]
    assert len(finished) == step - 1
    assert all(torch.equal(value, expected[name]) for name, value in found.items())
