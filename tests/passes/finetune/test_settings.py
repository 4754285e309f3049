import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from compressor.data import Dataset
from compressor.models.torch_model import TorchModel, load_checkpoint
from compressor.passes import PassContext, apply_pass
from compressor.passes.finetune.settings import Finetune
from compressor.progress import SILENT
from compressor.training.recovery import finetune
from compressor.training.settings import FinetuneSettings
from compressor.training.trainer import TrainingRun

ContextMaker = Callable[..., PassContext]


def test_it_is_fine_tuning_with_the_settings_seed_and_split_of_the_run(
    tiny_bert: TorchModel,
    tiny_bert_dir: Path,
    text_dataset: Dataset,
    make_context: ContextMaker,
    tmp_path: Path,
):
    by_hand = load_checkpoint(tiny_bert_dir)
    run = TrainingRun(torch.device("cpu"), 3, tmp_path, SILENT, "by hand")
    settings = FinetuneSettings(max_steps=4, batch_size=8, learning_rate=1e-3)
    finetune(by_hand, text_dataset, settings, run)

    tuned = apply_pass(
        Finetune(max_steps=4, batch_size=8, learning_rate=1e-3),
        tiny_bert,
        make_context(train=text_dataset, seed=3),
    )

    expected = by_hand.module.state_dict()
    assert all(torch.equal(v, expected[name]) for name, v in tuned.module.state_dict().items())


def test_the_report_says_how_long_it_trained(
    tiny_bert: TorchModel, text_dataset: Dataset, make_context: ContextMaker, notes: list[str]
):
    apply_pass(
        Finetune(max_steps=2, batch_size=8), tiny_bert, make_context(train=text_dataset, seed=3)
    )

    assert len(notes) == 1
    assert notes[0].startswith("2 steps in ")


def test_it_reads_the_training_split_alone():
    assert Finetune().required_splits() == {"train"}


def test_rows_without_labels_are_refused(
    tiny_bert: TorchModel, text_dataset: Dataset, make_context: ContextMaker
):
    unlabelled = dataclasses.replace(text_dataset, labels=None)

    with pytest.raises(ValueError, match="fine-tuning needs labels"):
        apply_pass(Finetune(), tiny_bert, make_context(train=unlabelled, seed=3))


def test_settings_of_distillation_are_refused():
    with pytest.raises(ValidationError) as caught:
        Finetune.model_validate({"temperature": 2.0})

    assert [error["loc"] for error in caught.value.errors()] == [("temperature",)]
