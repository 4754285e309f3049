"""The prompts of a sentence encoder stand before the texts they are for, wherever it reads them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compressor.artifact import load_artifact, seal_artifact, write_artifact
from compressor.errors import RecipeError
from compressor.export.to_onnx import export_onnx
from compressor.models.torch_model import TorchModel, load_checkpoint
from compressor.runtime.prompts import Document, Prompted, Prompts, Query, prompts_of
from compressor.tasks import load_task

TEXTS = ["a good film", "the plot was very quite lovely"]
BOTH = {"query": "the film ", "passage": "bad story "}


@pytest.fixture
def copy(tiny_encoder_dir: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_encoder_dir, tmp_path / "copy")


def say(directory: Path, **about: Any) -> None:
    (directory / "config_sentence_transformers.json").write_text(json.dumps(about))


def vectors(model: TorchModel, examples: Any) -> np.ndarray:
    return model.predict(model.task.encode(model.preprocessor, examples))


def test_queries_and_documents_are_read_after_their_own_prompts(copy: Path):
    say(copy, prompts=BOTH)
    model = load_checkpoint(copy)
    examples = [Query("good"), Document("good"), Prompted("good", "query"), "good"]
    right = vectors(model, ["the film good", "bad story good", "the film good", "good"])
    np.testing.assert_allclose(vectors(model, examples), right, atol=1e-6)


def test_the_default_prompt_stands_before_every_other_text(copy: Path):
    plain = load_checkpoint(copy)
    say(copy, prompts=BOTH, default_prompt_name="query")
    model = load_checkpoint(copy)
    right = vectors(plain, [f"the film {text}" for text in TEXTS])
    np.testing.assert_allclose(vectors(model, TEXTS), right, atol=1e-6)
    assert model.task.token_counts(model.preprocessor, TEXTS).tolist() == [7, 10]
    assert model.task.token_counts(plain.preprocessor, TEXTS).tolist() == [5, 8]


@pytest.mark.parametrize(
    ("prompts", "found"),
    [
        # None of them tells queries from documents, so the default is for both.
        (Prompts({"search": "s: "}, "search"), ["s: ", "s: ", "s: "]),
        # One of the two has a prompt: the other has none.
        (Prompts({"query": "q: "}, "query"), ["q: ", "", "q: "]),
        (Prompts({"query": "q: ", "document": "d: ", "passage": "p: "}), ["q: ", "d: ", ""]),
        (Prompts({"corpus": "c: "}), ["", "c: ", ""]),
        (Prompts({}), ["", "", ""]),
    ],
)
def test_which_prompt_stands_before_queries_documents_and_others(
    prompts: Prompts, found: list[str]
):
    assert [prompts.before(item) for item in (Query("x"), Document("x"), "x")] == found


def test_a_saved_and_loaded_checkpoint_has_its_prompts(copy: Path, tmp_path: Path):
    say(copy, prompts=BOTH, default_prompt_name="passage")
    model = load_checkpoint(copy)
    model.save(tmp_path / "saved")
    again = load_checkpoint(tmp_path / "saved")
    assert prompts_of(again.preprocessor) == Prompts(BOTH, "passage")
    np.testing.assert_allclose(vectors(again, TEXTS), vectors(model, TEXTS), atol=1e-6)


def test_what_the_file_says_counts_and_not_what_a_tokenizer_was_saved_with(
    copy: Path, tmp_path: Path
):
    say(copy, prompts=BOTH, default_prompt_name="passage")
    load_checkpoint(copy).save(tmp_path / "saved")
    say(tmp_path / "saved")
    assert prompts_of(load_checkpoint(tmp_path / "saved").preprocessor) == Prompts({})


@pytest.fixture
def artifact_dir(copy: Path, tmp_path: Path) -> Path:
    say(copy, prompts=BOTH, default_prompt_name="passage")
    model = load_checkpoint(copy)
    write_artifact(
        tmp_path / "artifact",
        model=export_onnx(model, tmp_path / "model.onnx", threads=1),
        preprocessor=model.preprocessor,
        config=model.module.config,
    )
    seal_artifact(tmp_path / "artifact", task=model.task, labels=(), facts={})
    return tmp_path / "artifact"


def test_an_artifact_takes_the_name_of_a_prompt(artifact_dir: Path, copy: Path):
    artifact, model = load_artifact(artifact_dir), load_checkpoint(copy)
    queries = vectors(model, [Prompted(text, "query") for text in TEXTS])
    passages = vectors(model, [Prompted(text, "passage") for text in TEXTS])
    assert np.abs(queries - passages).max() > 0.01
    np.testing.assert_allclose(artifact(TEXTS, prompt_name="query"), queries, atol=1e-5)
    np.testing.assert_allclose(artifact(TEXTS, prompt_name="passage"), passages, atol=1e-5)
    read = model.task.encode(model.preprocessor, [Prompted(text, "query") for text in TEXTS])
    lengths = artifact.lengths(TEXTS, prompt_name="query")
    assert lengths.tolist() == read["attention_mask"].sum(axis=1).tolist()
    np.testing.assert_allclose(artifact(TEXTS), passages, atol=1e-5)  # the default
    with pytest.raises(ValueError, match=r"no prompt is called 'querry'.*query"):
        artifact(TEXTS, prompt_name="querry")


def test_an_artifact_of_a_checkpoint_without_prompts_refuses_a_name(tiny_encoder: TorchModel):
    task = tiny_encoder.task
    prompts_of(tiny_encoder.preprocessor).require("query")
    tiny_encoder.preprocessor.init_kwargs.clear()
    with pytest.raises(ValueError, match="the checkpoint has no prompts"):
        task.prompted(tiny_encoder.preprocessor, TEXTS, "query")


def test_a_classifier_refuses_the_name_of_a_prompt(tiny_bert: TorchModel):
    with pytest.raises(ValueError, match="text-classification reads no prompts"):
        tiny_bert.task.prompted(tiny_bert.preprocessor, TEXTS, "query")


def test_a_longer_text_has_the_same_prompt():
    task = load_task("sentence-embedding")
    assert task.repeated(Query("good"), 3) == Query("good good good")
    assert task.repeated("good", 2) == "good good"


def test_names_of_prompts_in_a_recipe_are_checked_against_the_checkpoint(copy: Path):
    say(copy, prompts=BOTH)
    wanted = {"data.search.prompt_name": "query", "data.train.prompt_name": "pasage"}
    task = load_task("sentence-embedding")
    with pytest.raises(RecipeError) as refused:
        task.require_prompts(copy, wanted)
    [mistake] = refused.value.mistakes
    assert mistake.startswith("data.train.prompt_name: no prompt is called 'pasage'")
    task.require_prompts(copy, {"data.search.prompt_name": "query"})
    with pytest.raises(RecipeError, match="image-classification reads no prompts"):
        load_task("image-classification").require_prompts(copy, wanted)
