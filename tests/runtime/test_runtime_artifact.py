"""What the light runtime predicts is what the package predicts with a tokenizer of transformers."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import transformers
from byte_level import byte_level_tokenizer
from conftest import word_piece_tokenizer
from onnx.external_data_helper import set_external_data
from small_artifacts import TASKS, write_small_artifact

import compressor
from compressor.runtime import EnvironmentMismatch, RecipeError, load_artifact
from compressor.runtime.artifact import READERS
from compressor.runtime.files import sha256
from compressor.runtime.manifest import MANIFEST, NEEDS_TRANSFORMERS
from compressor.tasks import task_names

ROOT = Path(__file__).parents[2]
TEXTS = [
    "a good film, quite lovely",
    "x",
    "the story was very dull and the plot was poor and boring and it is a terrible film " * 3,
    "naïve 🙂 film's  two  spaces\tand a\nline",
    "The QUICK film",
]
PAIRS = list(zip(TEXTS, reversed(TEXTS), strict=True))
MASKED = ["a [MASK] film", "the [MASK] was [MASK] !", "it is a very lovely [MASK]"]
WORDS = [*TEXTS, "", ["the", "film", "unlovely"], ["it"]]
EXAMPLES: dict[str, list[Any]] = {
    "masked-language-modeling": MASKED,
    "question-answering": [("is it good", text) for text in TEXTS],
    "token-classification": WORDS,
}


def examples_of(name: str) -> list[Any]:
    return EXAMPLES.get(name, TEXTS)


def read_by_transformers(folder: Path, name: str, **options: Any) -> Any:
    """Return the artifact as the package loads one whose tokenizer needs transformers."""
    facts = {NEEDS_TRANSFORMERS: "a test says so"}
    return compressor.load_artifact(write_small_artifact(folder, name, facts=facts, **options))


def plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else value


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("max_length", [16, None])
def test_predictions_are_those_of_the_package(name: str, max_length: int | None, tmp_path: Path):
    light = load_artifact(write_small_artifact(tmp_path / "a", name, max_length=max_length))
    full = read_by_transformers(tmp_path / "b", name, max_length=max_length)
    assert isinstance(full.preprocessor, transformers.PreTrainedTokenizerBase)
    expected = full(examples_of(name))
    assert plain(light(examples_of(name), batch_size=2)) == plain_near(expected)


def plain_near(value: Any) -> Any:
    """Return predictions whose numbers are equal to within rounding of another batch."""
    if isinstance(value, dict):
        return {key: plain_near(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain_near(item) for item in value]
    if isinstance(value, np.ndarray):
        return plain_near(value.tolist())
    return pytest.approx(value, abs=1e-5) if isinstance(value, float) else value


@pytest.mark.parametrize(
    "name", ["text-classification", "text-scoring", "multi-label-classification"]
)
def test_pairs_are_read_together(name: str, tmp_path: Path):
    light = load_artifact(write_small_artifact(tmp_path / "a", name))
    full = read_by_transformers(tmp_path / "b", name)
    assert plain(light(PAIRS)) == plain_near(full(PAIRS))
    assert light.logits(PAIRS) == pytest.approx(full.logits(PAIRS), abs=1e-5)


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_tokenizer_that_pads_and_cuts_on_either_side_is_followed(
    name: str, side: str, tmp_path: Path
):
    tokenizer = word_piece_tokenizer()
    tokenizer.padding_side = tokenizer.truncation_side = side
    light = load_artifact(write_small_artifact(tmp_path / "a", name, tokenizer=tokenizer))
    full = read_by_transformers(tmp_path / "b", name, tokenizer=tokenizer)
    assert plain(light(examples_of(name))) == plain_near(full(examples_of(name)))


@pytest.mark.parametrize("add_prefix_space", [False, True])
@pytest.mark.parametrize("name", ["text-classification", "token-classification"])
def test_a_byte_level_tokenizer_is_read_alike(name: str, add_prefix_space: bool, tmp_path: Path):
    tokenizer = byte_level_tokenizer(add_prefix_space=add_prefix_space)
    light = load_artifact(write_small_artifact(tmp_path / "a", name, tokenizer=tokenizer))
    full = read_by_transformers(tmp_path / "b", name, tokenizer=tokenizer)
    assert plain(light(examples_of(name))) == plain_near(full(examples_of(name)))


@pytest.mark.parametrize("aggregation", ["none", "simple", "first", "average", "max"])
def test_each_way_to_join_tokens_is_the_same(aggregation: str, tmp_path: Path):
    light = load_artifact(write_small_artifact(tmp_path / "a", "token-classification"))
    full = read_by_transformers(tmp_path / "b", "token-classification")
    expected = full(WORDS, aggregation=aggregation)
    assert light(WORDS, aggregation=aggregation) == plain_near(expected)


def test_thresholds_of_labels_decide_what_is_predicted(tmp_path: Path):
    name, own = "multi-label-classification", (0.2, 0.9, 0.5)
    light = load_artifact(write_small_artifact(tmp_path / "a", name, thresholds=own))
    full = read_by_transformers(tmp_path / "b", name, thresholds=own)
    assert light(TEXTS) == plain_near(full(TEXTS))
    assert any(item["predicted"] != (item["score"] >= 0.5) for row in light(TEXTS) for item in row)


def test_prompts_stand_before_texts(tmp_path: Path):
    tokenizer = word_piece_tokenizer()
    prompts = {"by_name": {"query": "it is ", "document": "a "}, "default": "document"}
    tokenizer.init_kwargs["sentence_prompts"] = prompts
    folder = write_small_artifact(tmp_path, "sentence-embedding", tokenizer=tokenizer)
    light, full = load_artifact(folder), compressor.load_artifact(folder)
    by_hand = load_artifact(write_small_artifact(tmp_path / "plain", "sentence-embedding"))
    assert plain(light(["good"])) == plain_near(full(["good"]))
    assert plain(light(["good"])) == plain_near(by_hand(["a good"]))
    assert plain(light(["good"], prompt_name="query")) == plain_near(by_hand(["it is good"]))
    with pytest.raises(ValueError, match="no prompt is called 'querry', did you mean 'query'"):
        light(["good"], prompt_name="querry")


def test_many_threads_get_what_one_gets(tmp_path: Path):
    light = load_artifact(write_small_artifact(tmp_path, "text-classification"), threads=1)
    expected = light(TEXTS)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: light(TEXTS), range(64)))
    assert all(item == expected for item in found)


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("value", [[], None, "a text", [None], [3.5], {"text": "a film"}])
def test_what_is_no_example_is_refused_in_the_words_of_the_package(
    name: str, value: Any, tmp_path: Path
):
    folder = write_small_artifact(tmp_path, name)
    with pytest.raises(ValueError, match=r"give a list|must be a") as ours:
        compressor.load_artifact(folder)(value)
    with pytest.raises(ValueError, match=r"give a list|must be a") as found:
        load_artifact(folder)(value)
    assert str(found.value) == str(ours.value)


def test_options_of_other_tasks_are_refused(tmp_path: Path):
    light = load_artifact(write_small_artifact(tmp_path, "text-classification"))
    with pytest.raises(ValueError, match="prompt_name: text-classification reads no prompts"):
        light(["good"], prompt_name="query")
    with pytest.raises(ValueError, match="aggregation: text-classification gives no tags"):
        light(["good"], aggregation="first")
    with pytest.raises(ValueError, match="batch_size: must be 1 or more, got 0"):
        light(["good"], batch_size=0)


def test_a_text_without_a_token_is_refused(tmp_path: Path):
    tokenizer = byte_level_tokenizer()
    tokenizer.backend_tokenizer.post_processor = None
    folder = write_small_artifact(tmp_path, "text-classification", tokenizer=tokenizer)
    with pytest.raises(RecipeError, match="the text '' gives no token"):
        load_artifact(folder)(["good", ""])


def test_logits_are_of_tasks_with_a_row_of_numbers(tmp_path: Path):
    light = load_artifact(write_small_artifact(tmp_path, "token-classification"))
    with pytest.raises(ValueError, match="gives no row of numbers"):
        light.logits(["good"])


def test_an_artifact_without_tokenizer_json_is_refused(tmp_path: Path):
    folder = write_small_artifact(tmp_path, "text-classification")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(EnvironmentMismatch, match=r"tokenizer\.json: does not exist, so there is"):
        load_artifact(folder, verify=False)


def test_an_artifact_that_needs_transformers_is_refused(tmp_path: Path):
    facts = {NEEDS_TRANSFORMERS: "OddTokenizer reads texts otherwise than its tokenizer.json alone"}
    folder = write_small_artifact(tmp_path, "text-classification", facts=facts)
    with pytest.raises(EnvironmentMismatch, match=r"OddTokenizer reads .* the package compressor"):
        load_artifact(folder)


def test_a_changed_file_is_refused(tmp_path: Path):
    folder = write_small_artifact(tmp_path, "text-classification")
    (folder / "config.json").write_text("{ }")
    with pytest.raises(EnvironmentMismatch, match=r"config\.json missing or changed"):
        load_artifact(folder)


def test_weights_in_a_file_that_is_not_listed_are_refused(tmp_path: Path):
    folder = write_small_artifact(tmp_path, "text-classification")
    model = onnx.load(folder / "model.onnx")
    table = max(model.graph.initializer, key=lambda item: len(item.raw_data))
    (folder / "weights.bin").write_bytes(table.raw_data)
    set_external_data(table, "weights.bin")
    table.ClearField("raw_data")
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest.pop("manifest_sha256")
    manifest["files"]["model.onnx"] = sha256(folder / "model.onnx")
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(EnvironmentMismatch, match=r"weights\.bin would be read with the artifact"):
        load_artifact(folder)


def test_a_licence_may_lie_beside_an_artifact(tmp_path: Path):
    folder = write_small_artifact(tmp_path, "text-classification")
    (folder / "LICENSE").write_text("free")
    assert load_artifact(folder)(["good"])


def test_every_task_has_a_reader():
    assert set(READERS) == set(task_names())


def test_both_packages_have_one_version():
    from compressor import runtime

    assert runtime.__version__ == compressor.__version__
