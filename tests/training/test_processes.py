"""Two processes train to the weights of one, and what one of them leaves the other goes on from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from conftest import word_piece_tokenizer
from safetensors.torch import load_file
from torch import Tensor, nn
from trained_together import CASES, Calling, in_two_processes, run_in, save_models, trained

from compressor.data import Dataset
from compressor.errors import StepFailed
from compressor.machine.launchers import Launch
from compressor.machine.team import ALONE, Team
from compressor.models.torch_model import TorchModel
from compressor.tasks import load_task
from compressor.training.batches import TrainingBatch, training_loader
from compressor.training.data_parallel import draws_of_step, require_own_rows
from compressor.training.recovery import check_finetuning
from compressor.training.settings import FinetuneSettings
from compressor.training.training_run import TrainingRun

WITHIN = 1e-5


class Stopped(BaseException):
    """Ends a run like Ctrl-C."""


def stop() -> None:
    raise Stopped


def trained_by_two(folder: Path, *names: str, **variables: str) -> Path:
    """Return `folder` with what two processes made of trainings, one of them killed in the last.

    Another one they find half done, by one process.
    """
    save_models(folder, word_piece_tokenizer())
    stopped = replace(run_in(folder, "resumed"), progress=Calling(5, stop))
    with pytest.raises(Stopped):
        trained(folder, "resumed", stopped)
    code, other, told = in_two_processes(folder, *names, "resumed", "killed", **variables)
    (folder / "told").write_text(f"{code} {other}\n{told}")
    return folder


ALIKE = [name for name in CASES if name not in ("killed", "resumed")]
DIVIDED = ["AdamW", "averages and scores", "layers"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return what two processes made that each have the whole model."""
    return trained_by_two(tmp_path_factory.mktemp("alike"), *ALIKE)


@pytest.fixture(scope="module")
def divided_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return what two processes made that each have half of the model."""
    variables = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
    return trained_by_two(tmp_path_factory.mktemp("divided"), *DIVIDED, **variables)


def farthest(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    assert found.keys() == expected.keys()
    return max(float((found[name] - expected[name]).abs().max()) for name in expected)


def alone(folder: Path, name: str) -> dict[str, Tensor]:
    run = replace(run_in(folder, name), work_dir=folder / "alone" / name)
    return dict(trained(folder, name, run).module.state_dict())


@pytest.mark.parametrize("name", [*ALIKE, "resumed"])
def test_two_processes_end_with_the_weights_of_one_or_go_on_from_what_it_left(
    folder: Path, name: str
):
    assert farthest(load_file(folder / f"{name}.safetensors"), alone(folder, name)) < WITHIN


@pytest.mark.parametrize("name", [*DIVIDED, "resumed"])
def test_processes_with_half_a_model_each_end_with_the_same_weights(
    divided_folder: Path, name: str
):
    found = load_file(divided_folder / f"{name}.safetensors")
    assert farthest(found, alone(divided_folder, name)) < WITHIN


def test_a_process_keeps_its_part_of_parameters_and_optimizer_state(divided_folder: Path):
    told = (divided_folder / "AdamW.txt").read_text()
    assert told.startswith("in 2 processes, ")
    assert int(told.split()[3].removesuffix("%")) <= 60


@pytest.mark.parametrize("how", ["folder", "divided_folder"])
def test_one_process_goes_on_where_two_were_when_one_of_them_was_killed(
    how: str, request: pytest.FixtureRequest
):
    folder: Path = request.getfixturevalue(how)
    progress = Calling(0, stop)

    run = replace(run_in(folder, "killed"), progress=progress)
    found = dict(trained(folder, "killed", run).module.state_dict())

    assert progress.amounts[0] == 5  # steps, of which none is done again
    assert farthest(found, alone(folder, "killed")) < WITHIN


def test_the_death_of_a_process_is_told_by_its_number(folder: Path):
    codes, *told = (folder / "told").read_text().strip().splitlines()

    assert codes == "1 -9"  # a script that nothing is caught in
    last = told[-1].removeprefix("[rank0]: ")
    assert "errors.EnvironmentMismatch: process 1 of 2" in last
    assert "start the same command again" in last


class Pretended(Team):
    """One of several processes, without the others: and one more of everything."""

    def __init__(self, rank: int, size: int) -> None:
        super().__init__(Launch(rank, size))

    def total(self, value: Tensor) -> Tensor:
        return value + 1


@pytest.mark.parametrize("size", [2, 3, 8])
@pytest.mark.parametrize("parts", [1, 2])
def test_processes_read_disjoint_rows_that_together_are_those_of_one(
    tiny_bert: TorchModel, text_dataset: Dataset, size: int, parts: int
):
    def steps(team: Team) -> list[list[int]]:
        own = {"batch_size": 7, "seed": 3, "parts": parts, "team": team}
        loader = training_loader(tiny_bert, text_dataset, **own)
        return [
            [row for part in step for row in part["rows"].tolist() if part.get("counts", True)]
            for step in loader
        ]

    whole = steps(ALONE)
    shared = [steps(Pretended(rank, size)) for rank in range(size)]

    together = [sorted(row for rows in own for row in rows) for own in zip(*shared, strict=True)]
    assert together == [sorted(rows) for rows in whole]
    lengths = [len(rows) for own in shared for rows in own]
    assert max(lengths) <= -(-7 // size) + parts - 1


def test_no_window_of_a_long_context_is_lost_where_processes_share_a_batch():
    tokenizer = word_piece_tokenizer()
    config = transformers.BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=8,
    )
    task = load_task("question-answering", max_length=12)
    module = transformers.BertForQuestionAnswering(config)
    model = TorchModel(module, tokenizer, task)
    contexts = ["a film", " ".join(["the plot was dull and"] * 9), "the story is good"] * 2
    pairs = tuple(("what was bad", context) for context in contexts)
    rows = Dataset("train", pairs, None, np.arange(6), "drawn")

    def windows(team: Team) -> list[list[int]]:
        [[part]] = list(training_loader(model, rows, batch_size=6, seed=3, team=team))
        return [*part["inputs"]["input_ids"].tolist()]

    whole = [token for window in windows(ALONE) for token in window if token]
    shared = [windows(Pretended(rank, 2)) for rank in range(2)]

    assert sum(map(len, shared)) == len(windows(ALONE)) > 6
    assert [token for own in shared for window in own for token in window if token] == whole


def test_a_process_without_rows_computes_one_that_does_not_count(
    tiny_bert: TorchModel, text_dataset: Dataset
):
    rows = replace(text_dataset, examples=text_dataset.examples[:1], labels=np.array([1]))
    rows = replace(rows, rows=np.arange(1))
    loader = training_loader(tiny_bert, rows, batch_size=4, seed=0, team=Pretended(1, 2))

    [[part]] = list(loader)
    batch = TrainingBatch(**part, team=Pretended(1, 2))

    assert (batch.rows.tolist(), batch.counts) == ([0], False)
    loss = tiny_bert.task.losses.on_labels(tiny_bert.module(**batch.inputs).logits, batch.targets)
    assert batch.mean(loss).item() == 0


def test_what_is_drawn_differs_between_processes_and_steps_and_is_repeated(
    training_run: TrainingRun,
):
    def drawn(rank: int, step: int) -> tuple[float, float]:
        with torch.random.fork_rng(devices=[]):
            draws_of_step(replace(training_run, team=Pretended(rank, 2)), step)
            return float(torch.rand(())), float(np.random.rand())

    found = [drawn(rank, step) for rank in range(2) for step in range(2)]

    assert len(set(found)) == 4
    assert found == [drawn(rank, step) for rank in range(2) for step in range(2)]


def test_batch_normalization_is_refused_where_processes_would_each_do_it(tiny_bert: TorchModel):
    tiny_bert.module.add_module("norm", nn.BatchNorm1d(3))

    require_own_rows(tiny_bert, FinetuneSettings(), ALONE)
    require_own_rows(tiny_bert, FinetuneSettings(dropout=False), Pretended(0, 2))
    with pytest.raises(StepFailed, match="set dropout to false"):
        require_own_rows(tiny_bert, FinetuneSettings(), Pretended(0, 2))


@pytest.mark.parametrize("settings", [{"accumulation_steps": 2}, {"gradient_checkpointing": True}])
def test_batch_normalization_is_refused_where_a_batch_is_read_in_parts_or_twice(
    tiny_bert: TorchModel, text_dataset: Dataset, settings: dict[str, Any]
):
    check_finetuning(tiny_bert, text_dataset, FinetuneSettings(**settings))
    tiny_bert.module.add_module("norm", nn.BatchNorm1d(3))

    check_finetuning(tiny_bert, text_dataset, FinetuneSettings())
    with pytest.raises(StepFailed, match=f"{next(iter(settings))}: .* has batch normalization"):
        check_finetuning(tiny_bert, text_dataset, FinetuneSettings(**settings))
