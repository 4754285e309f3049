"""What does not fit a checkpoint is told before anything is scored, exported or trained."""

from __future__ import annotations

import json
import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from compressor.data import Dataset
from compressor.errors import EnvironmentMismatch, RecipeError
from compressor.models.checkpoint import CheckpointFiles, find_checkpoint
from compressor.models.families.layers import find_encoder
from compressor.models.torch_model import TorchModel, load_checkpoint
from compressor.passes.prune_structured.unit_removal import prune_neurons
from compressor.pipeline.checkpoint_trial import first_rows, look_ahead
from compressor.pipeline.inputs import check_local_passes, check_text_inputs
from compressor.pipeline.preflight import check_inputs
from compressor.pipeline.run import run
from compressor.recipe.recipe import Recipe
from compressor.tasks import load_task

TASK = load_task("text-classification")


@pytest.fixture
def copy(tiny_bert_dir: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_bert_dir, tmp_path / "copy")


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def recipe_of(base: dict[str, Any], checkpoint: Path, *passes: dict[str, Any]) -> Recipe:
    data = {**base["data"], "train": base["data"]["search"]}
    model = {"checkpoint": str(checkpoint)}
    return Recipe.model_validate({**base, "model": model, "data": data, "passes": list(passes)})


def mistakes(recipe: Recipe) -> tuple[str, ...]:
    with pytest.raises(RecipeError) as caught:
        check_local_passes(recipe)
    return caught.value.mistakes


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"kind": "prune_structured", "layers": 2}, "passes.0.layers: the model has 2 layers"),
        (
            {"kind": "prune_structured", "drop_layers": [5]},
            "passes.0.drop_layers: the model has layers 0 to 1",
        ),
        ({"kind": "distill", "student_layers": 2}, "passes.0.student_layers: the model has 2"),
        (
            {"kind": "distill", "hidden_weight": 1.0, "layer_map": [[0, 7]]},
            "passes.0.layer_map: (0, 7) is out of range",
        ),
    ],
)
def test_layers_and_widths_that_are_not_there_are_told_by_config_json_alone(
    bert_recipe: dict[str, Any], tiny_bert_dir: Path, settings: dict[str, Any], told: str
):
    [mistake] = mistakes(recipe_of(bert_recipe, tiny_bert_dir, settings))
    assert mistake.startswith(told)


def test_layers_are_counted_as_the_pass_before_leaves_them(
    bert_recipe: dict[str, Any], tiny_bert_dir: Path
):
    passes = [{"kind": "prune_structured", "layers": 1}, {"kind": "distill", "student_layers": 1}]
    [mistake] = mistakes(recipe_of(bert_recipe, tiny_bert_dir, *passes))
    assert mistake.startswith("passes.1.student_layers: the model has 1 layer,")


@pytest.mark.parametrize(
    ("model_type", "settings", "told"),
    [
        (
            "squeezebert",
            {"kind": "prune_structured", "ratio": 0.5},
            "layers are convolutions in groups",
        ),
        ("nystromformer", {"kind": "quantize_aware_train"}, "int8 is not simulated"),
    ],
)
def test_a_model_type_that_a_pass_does_not_know_is_told_by_config_json_alone(
    bert_recipe: dict[str, Any], copy: Path, model_type: str, settings: dict[str, Any], told: str
):
    edit(copy / "config.json", model_type=model_type)
    after = [{"kind": "quantize_dynamic"}] if settings["kind"] == "quantize_aware_train" else []
    [mistake] = mistakes(recipe_of(bert_recipe, copy, settings, *after))
    assert mistake.startswith("passes.0.kind: ")
    assert told in mistake


@pytest.mark.parametrize("setting", ["sublayer_weight", "relation_weight"])
@pytest.mark.parametrize("whose", ["student", "teacher"])
def test_layers_that_are_not_known_cannot_be_compared_as_config_json_tells(
    bert_recipe: dict[str, Any], tiny_bert_dir: Path, copy: Path, setting: str, whose: str
):
    edit(copy / "config.json", model_type="albert")
    settings = {"kind": "distill", setting: 1.0, whose: str(copy)}
    [mistake] = mistakes(recipe_of(bert_recipe, tiny_bert_dir, settings))
    assert mistake == (
        f"passes.0.{setting}: where the attention of model type 'albert' lies is not known (its "
        f"layers share one set of weights); set {setting} to 0"
    )


def test_a_model_reads_as_many_tokens_as_config_json_says_less_those_before_the_first(
    bert_recipe: dict[str, Any], copy: Path
):
    edit(copy / "config.json", model_type="roberta", max_position_embeddings=34, pad_token_id=1)
    wished = recipe_of({**bert_recipe, "export": {"max_length": 33}}, copy)
    with pytest.raises(RecipeError) as caught:
        check_text_inputs(wished)
    told = "export.max_length: 33 tokens are more than model.checkpoint reads; set 32 or less"
    assert told in caught.value.mistakes


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"ratio": 0.001}, "head_ratio: 0.001 rounds to 0 heads"),
        ({"ratio": 0.99, "scope": "layer"}, "head_ratio: ratio 0.99 would leave 0 of 4 units"),
        ({"neuron_ratio": 0.5, "round_to": 256}, "neuron_ratio: 0.5 rounds to 0 neurons"),
        ({"head_ratio": 0.1, "layers": 1}, ""),  # whole layers go, so something does
    ],
)
def test_units_that_cannot_go_are_told_before_the_baseline(
    bert_recipe: dict[str, Any],
    tiny_bert_dir: Path,
    text_dataset: Dataset,
    settings: dict[str, Any],
    told: str,
):
    given = {"kind": "prune_structured", "importance": "magnitude", **settings}
    wished, files = recipe_of(bert_recipe, tiny_bert_dir, given), load_files(tiny_bert_dir)
    splits = {"search": text_dataset, "train": text_dataset}
    expected = pytest.raises(RecipeError, match=told) if told else nullcontext()
    with expected:
        look_ahead(wished, files, TASK, splits)


def test_layers_that_differ_already_are_told_before_the_baseline(
    bert_recipe: dict[str, Any], tiny_bert: TorchModel, text_dataset: Dataset, tmp_path: Path
):
    prune_neurons(find_encoder(tiny_bert.module), {0: [0, 1, 2]})
    tiny_bert.save(tmp_path / "pruned")
    given = {"kind": "prune_structured", "ratio": 0.5, "uniform": True}
    wished = recipe_of(bert_recipe, tmp_path / "pruned", given)
    with pytest.raises(RecipeError, match="uniform: the layers of this model differ already"):
        look_ahead(wished, load_files(tmp_path / "pruned"), TASK, {"search": text_dataset})


@pytest.mark.parametrize(
    "first",
    [
        [{"kind": "prune_structured", "drop_layers": [0]}],
        [{"kind": "distill", "student_layers": [1]}],
        [],
    ],
)
def test_layers_that_differ_may_be_those_that_go(
    bert_recipe: dict[str, Any],
    tiny_bert: TorchModel,
    text_dataset: Dataset,
    tmp_path: Path,
    first: list[dict[str, Any]],
):
    prune_neurons(find_encoder(tiny_bert.module), {0: [0, 1, 2]})
    tiny_bert.save(tmp_path / "pruned")
    given = {"kind": "prune_structured", "ratio": 0.5, "uniform": True}
    own = {} if first else {"layers": 1, "layer_choice": "last"}
    wished = recipe_of(bert_recipe, tmp_path / "pruned", *first, {**given, **own})
    splits = {"search": text_dataset, "train": text_dataset}
    look_ahead(wished, load_files(tmp_path / "pruned"), TASK, splits)


def test_what_is_normalised_before_it_is_added_is_not_fitted(
    bert_recipe: dict[str, Any], copy: Path
):
    settings = {"kind": "prune_structured", "ratio": 0.5}
    for model_type in ("albert", "gemma2"):
        edit(copy / "config.json", model_type=model_type)
        check_local_passes(recipe_of(bert_recipe, copy, settings))
    [mistake] = mistakes(recipe_of(bert_recipe, copy, {**settings, "method": "reconstruction"}))
    assert mistake == (
        "passes.0.method: reconstruction fits what a sub-layer adds, and of model type 'gemma2' "
        "that is normalised once more before it is added; set method to scores"
    )
    edit(copy / "config.json", model_type="albert")
    settings["method"] = "reconstruction"
    check_local_passes(recipe_of(bert_recipe, copy, settings))
    [mistake] = mistakes(recipe_of(bert_recipe, copy, {**settings, "refit_inputs": True}))
    assert mistake == (
        "passes.0.refit_inputs: its layers share one set of weights, and one fit suits no two of "
        "their runs; remove it"
    )


def test_albert_can_be_trained_for_int8_though_its_layers_are_one(
    bert_recipe: dict[str, Any], copy: Path
):
    edit(copy / "config.json", model_type="albert")
    passes = [{"kind": "quantize_aware_train"}, {"kind": "quantize_dynamic"}]
    check_local_passes(recipe_of(bert_recipe, copy, *passes))


def test_a_tokenizer_that_cannot_be_trimmed_is_told_by_its_file_alone(
    bert_recipe: dict[str, Any], copy: Path
):
    path = copy / "tokenizer.json"
    content = json.loads(path.read_text())
    edit(path, model={**content["model"], "type": "WordLevel"})
    [mistake] = mistakes(recipe_of(bert_recipe, copy, {"kind": "trim_vocabulary"}))
    assert mistake.startswith("passes.0.kind: the vocabulary of this tokenizer cannot be trimmed")


def test_a_teacher_with_other_labels_is_told_by_config_json_alone(
    bert_recipe: dict[str, Any], tiny_bert_dir: Path, copy: Path
):
    edit(copy / "config.json", id2label={"0": "no", "1": "yes"})
    settings = {"kind": "distill", "teacher": str(copy)}
    [mistake] = mistakes(recipe_of(bert_recipe, tiny_bert_dir, settings))
    assert mistake.startswith("passes.0.teacher: its labels are ['no', 'yes']")


def test_a_run_ends_before_the_baseline_where_a_pass_does_not_fit(
    bert_recipe: dict[str, Any], tiny_bert_dir: Path, tmp_path: Path
):
    wished = recipe_of(bert_recipe, tiny_bert_dir, {"kind": "prune_structured", "layers": 5})
    with pytest.raises(RecipeError) as caught:
        run(wished, output=tmp_path / "out", device="cpu")
    assert caught.value.report.baseline is None


def test_a_teacher_that_does_not_load_is_told_before_the_baseline(
    bert_recipe: dict[str, Any], tiny_bert_dir: Path, copy: Path, text_dataset: Dataset
):
    edit(copy / "config.json", intermediate_size=None)
    wished = recipe_of(bert_recipe, tiny_bert_dir, {"kind": "distill", "teacher": str(copy)})
    files = load_files(tiny_bert_dir)
    with pytest.raises(EnvironmentMismatch, match=r"copy/config\.json: .*'intermediate_size'"):
        look_ahead(wished, files, TASK, {"search": text_dataset, "train": text_dataset})


def load_files(directory: Path) -> CheckpointFiles:
    return find_checkpoint(str(directory))


def test_the_first_batch_holds_the_shortest_and_the_longest_row():
    rows = ["one two", "a", *["four words are here"] * 9, "this one is the longest of them all"]
    assert first_rows(rows) == [*rows[:4], rows[-1]]


@pytest.mark.parametrize("setting", ["output_attentions", "output_hidden_states", "return_dict"])
def test_what_a_config_says_of_outputs_changes_no_logit(
    copy: Path, tiny_bert_dir: Path, setting: str
):
    edit(copy / "config.json", **{setting: setting != "return_dict"})
    model, plain = load_checkpoint(copy), load_checkpoint(tiny_bert_dir)
    batch = plain.task.encode(plain.preprocessor, ["a good film", "bad"])
    np.testing.assert_array_equal(model.predict(batch), plain.predict(batch))


def test_a_feed_forward_network_in_chunks_reads_texts_of_any_length(
    copy: Path, tiny_bert_dir: Path
):
    edit(copy / "config.json", chunk_size_feed_forward=4)
    model, plain = load_checkpoint(copy), load_checkpoint(tiny_bert_dir)
    batch = plain.task.encode(plain.preprocessor, ["a good film", "bad"])
    assert batch["input_ids"].shape[1] % 4, "or chunks would do"
    np.testing.assert_array_equal(model.predict(batch), plain.predict(batch))


def test_code_from_the_hub_for_attention_is_not_asked_for(copy: Path):
    edit(copy / "config.json", attn_implementation="kernels-community/flash-attn")
    assert load_checkpoint(copy).module.config._attn_implementation == "sdpa"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"model_type": "evil"}, "cannot read it"),
        ({"hidden_size": "wide"}, "cannot read it"),
        ({"hidden_act": "gelo"}, r"do not fit config\.json"),
        ({"architectures": "BertForSequenceClassification"}, "must be a list of class names"),
        ({"model_type": 3}, "model_type must be text"),
        ({"id2label": {"0": "\ud800", "1": "b"}}, "half of a character"),
        ({"id2label": [1]}, "must give each class a name"),
        ({"id2label": None, "num_labels": "two"}, "must be a whole number"),
        ({"transformers_weights": "other.safetensors"}, "names weights of its own"),
    ],
)
def test_a_config_that_cannot_be_used_names_itself(copy: Path, changes: dict[str, Any], told: str):
    edit(copy / "config.json", **changes)
    with pytest.raises(EnvironmentMismatch, match=rf"copy(/config\.json)?: .*{told}"):
        load_checkpoint(copy)


@pytest.mark.parametrize(
    ("file", "changes", "told"),
    [
        ("config.json", {"id2label": {"0": "\ud800", "1": "b"}}, "half of a character"),
        ("config.json", {"num_hidden_layers": None}, "num_hidden_layers .* is null"),
        ("tokenizer.json", {"model": {"type": "WordPiece2"}}, "its tokenizer cannot be loaded"),
    ],
)
def test_what_no_run_could_load_is_told_before_one(
    bert_recipe: dict[str, Any], copy: Path, file: str, changes: dict[str, Any], told: str
):
    check_inputs(recipe_of(bert_recipe, copy))
    edit(copy / file, **changes)
    with pytest.raises(EnvironmentMismatch, match=rf"model\.checkpoint: .*{told}"):
        check_inputs(recipe_of(bert_recipe, copy))


def test_a_tokenizer_of_a_later_format_names_itself(copy: Path):
    path = copy / "tokenizer.json"
    content = json.loads(path.read_text())
    edit(path, model={**content["model"], "type": "WordPiece2"})
    with pytest.raises(EnvironmentMismatch, match="its tokenizer cannot be loaded"):
        load_checkpoint(copy)


def test_a_model_without_an_attention_mask_is_refused(copy: Path):
    config = transformers.FNetConfig(
        vocab_size=36, hidden_size=32, num_hidden_layers=1, intermediate_size=64
    )
    torch.manual_seed(0)
    transformers.FNetForSequenceClassification(config).save_pretrained(copy)
    with pytest.raises(EnvironmentMismatch, match="takes no attention mask"):
        load_checkpoint(copy)


def test_a_model_of_texts_and_images_is_no_encoder_of_texts(copy: Path):
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.CLIPConfig(
        text_config={**sizes, "vocab_size": 36, "intermediate_size": 64},
        vision_config={**sizes, "image_size": 8, "patch_size": 4, "intermediate_size": 64},
    )
    torch.manual_seed(0)
    transformers.CLIPModel(config).save_pretrained(copy)
    with pytest.raises(EnvironmentMismatch, match="is a pair of encoders"):
        load_checkpoint(copy, task="sentence-embedding")
