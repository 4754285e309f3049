from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import torch

from compressor.data import Dataset
from compressor.machine.launchers import Launch
from compressor.machine.team import ALONE, Team
from compressor.models.torch_model import TorchModel
from compressor.passes.prune_structured.calibration_batches import batches_of
from compressor.progress import SILENT
from compressor.training.training_run import TrainingRun


def test_processes_share_whole_batches_of_the_rows_that_one_would_read(
    tiny_bert: TorchModel, text_dataset: Dataset, tmp_path: Path
):
    many = dataclasses.replace(
        text_dataset,
        examples=text_dataset.examples * 4,
        labels=np.tile(text_dataset.labels, 4),
        rows=np.arange(192),
    )

    def read(team: Team) -> list[tuple[torch.Tensor, torch.Tensor]]:
        run = TrainingRun(torch.device("cpu"), 0, tmp_path, SILENT, "measuring", team=team)
        found = batches_of(tiny_bert, many, 150, run)
        return [(inputs["input_ids"], labels) for inputs, labels in found]

    alone = read(ALONE)
    parts = [read(Team(Launch(rank=rank, size=3))) for rank in range(3)]

    assert [len(labels) for _, labels in alone] == [32, 32, 32, 32, 22]
    assert [len(part) for part in parts] == [2, 2, 1]
    joined = [parts[number % 3][number // 3] for number in range(5)]
    for own, other in zip(alone, joined, strict=True):
        assert torch.equal(own[0], other[0])
        assert torch.equal(own[1], other[1])
