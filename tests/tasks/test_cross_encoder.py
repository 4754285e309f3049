"""Classifiers that CrossEncoder saved are read as CrossEncoder reads them, or refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from compressor.errors import EnvironmentMismatch
from compressor.models.torch_model import load_checkpoint

KIND = "sentence_transformers.base.modules.transformer.Transformer"


@pytest.fixture(params=[None, "multi_label_classification"])
def copy(request: pytest.FixtureRequest, tiny_bert_dir: Path, tmp_path: Path) -> Path:
    """Return a classifier of each kind, with the file of a step that reads 12 tokens."""
    folder = Path(shutil.copytree(tiny_bert_dir, tmp_path / "copy"))
    place = folder / "config.json"
    place.write_text(json.dumps({**json.loads(place.read_text()), "problem_type": request.param}))
    (folder / "config_sentence_transformers.json").write_text('{"model_type": "CrossEncoder"}')
    step(folder, max_seq_length=12)
    return folder


def step(folder: Path, *, others: tuple[str, ...] = (), **content: Any) -> None:
    steps = [{"type": KIND, "path": ""}, *({"type": kind, "path": "1_Other"} for kind in others)]
    (folder / "modules.json").write_text(json.dumps(steps))
    (folder / "sentence_bert_config.json").write_text(json.dumps(content))


def test_as_many_tokens_are_read_as_the_step_says(copy: Path, tmp_path: Path):
    model = load_checkpoint(copy)
    [ids] = model.task.encode(model.preprocessor, ["good " * 40])["input_ids"]
    assert len(ids) == 12
    model.save(tmp_path / "saved")
    assert load_checkpoint(tmp_path / "saved").preprocessor.model_max_length == 12


def test_the_steps_of_an_encoder_say_nothing_of_a_head(copy: Path):
    step(copy, others=("sentence_transformers.models.Pooling",), max_seq_length=12, do_lower_case=1)
    assert load_checkpoint(copy).preprocessor.model_max_length > 12
    (copy / "modules.json").unlink()
    assert load_checkpoint(copy).preprocessor.model_max_length > 12


def test_what_would_change_the_answers_is_refused_by_its_name(copy: Path):
    step(copy, processing_kwargs={"text": {"max_length": 4}})
    with pytest.raises(EnvironmentMismatch, match=r"processing_kwargs\.text is .*not followed"):
        load_checkpoint(copy)
    step(copy, do_lower_case=True)
    place = copy / "tokenizer.json"
    content = json.loads(place.read_text())
    content["normalizer"]["lowercase"] = False
    place.write_text(json.dumps(content))
    place = copy / "tokenizer_config.json"
    place.write_text(json.dumps({**json.loads(place.read_text()), "do_lower_case": False}))
    with pytest.raises(EnvironmentMismatch, match="puts texts to lower case"):
        load_checkpoint(copy)
