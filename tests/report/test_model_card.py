import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml
from huggingface_hub import InferenceClient, ModelCard, ModelCardData
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from compressor.report.render import render_model_card
from compressor.report.report_json import from_plain


def front_matter(card: str) -> dict[str, Any]:
    _, block, _ = card.split("---\n", 2)
    fields: dict[str, Any] = yaml.safe_load(block)
    return fields


def code_of(card: str) -> str:
    found = re.search(r"```python\n(.*?)\n```", card, re.DOTALL)
    assert found is not None
    return found[1]


def run_without_torch(code: str, directory: Path) -> str:
    blocked = f"import sys\nsys.modules['torch'] = None\n{code}"
    done = subprocess.run(
        [sys.executable, "-c", blocked], capture_output=True, text=True, check=True, cwd=directory
    )
    return done.stdout.strip()


def save_graph(file: Path, inputs: list[Any], nodes: list[Any], constants: list[Any]) -> None:
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 2])
    graph = helper.make_graph(nodes, "graph", inputs, [logits], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, file)


def test_the_front_matter_is_what_the_hub_expects(passed: dict[str, Any]):
    assert front_matter(render_model_card(from_plain(passed))) == {
        "library_name": "onnx",
        "pipeline_tag": "text-classification",
        "tags": ["onnx", "onnxruntime", "compressor", "int8", "pruned"],
        "base_model": "example-org/minilm-sst2",
        "metrics": ["accuracy"],
        "model-index": [
            {
                "name": "example-org/minilm-sst2, compressed",
                "results": [
                    result(passed["final"]["score"], "search", "search"),
                    result(passed["certification"]["final"], "certification", "certification"),
                ],
            }
        ],
    }


def test_a_range_for_a_whole_batch_is_told_as_a_limit(passed: dict[str, Any]):
    def told() -> bool:
        return "with one range for a whole batch" in render_model_card(from_plain(passed))

    forms = ("per_token", "per_tensor")
    last = passed["passes"][-1]
    assert not told()
    for winner in forms:
        race = [{"form": form, "chosen": form == winner} for form in forms]
        last["facts"] = {**last["facts"], "race": race}
        assert told() == (winner == "per_tensor")
    last["facts"].pop("race")
    last["settings"] = {**last["settings"], "activations": "per_tensor"}
    assert told()


def result(score: dict[str, Any], name: str, split: str) -> dict[str, Any]:
    return {
        "task": {"type": "text-classification"},
        "dataset": {"name": name, "type": "custom", "split": split},
        "metrics": [{"type": "accuracy", "value": score["value"], "name": "Accuracy"}],
    }


def test_the_hub_finds_what_was_measured(passed: dict[str, Any]):
    [result, *_] = ModelCard(render_model_card(from_plain(passed))).data.eval_results
    assert result.task_type == "text-classification"
    assert result.metric_type == "accuracy"
    assert result.metric_value == passed["final"]["score"]["value"]


def test_data_of_the_hub_are_named_as_there(passed: dict[str, Any]):
    passed["recipe"]["data"]["search"] = {"hub": "glue", "subset": "sst2", "split": "validation"}
    [entry] = front_matter(render_model_card(from_plain(passed)))["model-index"]
    assert entry["results"][0]["dataset"] == {
        "name": "glue",
        "type": "glue",
        "config": "sst2",
        "split": "validation",
    }


def test_a_file_of_rows_is_named_without_its_folders(passed: dict[str, Any]):
    passed["recipe"]["data"]["search"] = {"path": "/home/me/data/dev.csv", "hub": None}
    [entry] = front_matter(render_model_card(from_plain(passed)))["model-index"]
    assert entry["results"][0]["dataset"]["name"] == "dev.csv"


def test_the_hubs_own_reader_takes_the_card_as_it_is(any_state: dict[str, Any]):
    card = render_model_card(from_plain(any_state))
    read = ModelCard(card)
    assert read.data.to_dict() == front_matter(card)
    assert isinstance(read.data, ModelCardData)
    # The Hub's client has a method for each kind of task.
    task = read.data.pipeline_tag
    assert task is None or hasattr(InferenceClient, task.replace("-", "_"))
    assert all(re.fullmatch(r"[a-z0-9_-]+", tag) for tag in read.data.tags)
    # Written back, it is the same card: nothing was dropped or understood as something else.
    assert front_matter(str(read)) == front_matter(card)


@pytest.mark.parametrize(
    "source", ["/home/someone/models/minilm", "./minilm", "minilm", "builtin:digits-vit", ""]
)
def test_a_checkpoint_that_is_not_on_the_hub_is_no_base_model(passed: dict[str, Any], source: str):
    assert "base_model" not in front_matter(
        render_model_card(from_plain(passed | {"source_checkpoint": source}))
    )


@pytest.mark.parametrize("source", ["/home/someone/models/minilm", "C:\\someone\\minilm\\"])
def test_a_card_does_not_tell_the_folders_of_the_machine(passed: dict[str, Any], source: str):
    card = render_model_card(from_plain(passed | {"source_checkpoint": source}))
    assert "# minilm, compressed" in card
    assert "someone" not in card


def test_hostile_names_cannot_add_fields_to_the_front_matter(passed: dict[str, Any]):
    passed["task"] = "x\nlicense: mit\n---"
    card = render_model_card(from_plain(passed))
    assert "license" not in front_matter(card)


def test_a_card_tells_size_score_and_labels(passed: dict[str, Any]):
    card = render_model_card(from_plain(passed))
    assert "| Accuracy on 900 rows kept apart | 91.00% | 90.50% |" in card
    assert "| Accuracy on 872 search rows | 90.00% | 89.40% |" in card
    assert "| Model file, MB | 90.8 | 17.4 |" in card
    assert "atency p50" not in card  # it would differ from run to run
    assert "negative, positive" in card
    assert "1. prune\\_structured" in card or "1. prune_structured: ratio = 0.25" in card


def test_a_card_names_the_oldest_onnx_runtime_that_will_do(passed: dict[str, Any]):
    card = render_model_card(from_plain(passed), min_onnxruntime="1.24.1")
    assert '`pip install numpy "onnxruntime>=1.24.1" transformers`' in card


def test_a_card_without_passes_says_so(report_in_state):
    card = render_model_card(from_plain(report_in_state("without-passes")))
    assert "exported without a compression pass" in card


def test_a_card_can_be_made_of_any_run(any_state: dict[str, Any]):
    assert front_matter(render_model_card(from_plain(any_state)))["library_name"] == "onnx"


def test_a_card_names_the_inputs_of_its_task(passed: dict[str, Any]):
    card = render_model_card(from_plain(passed | {"task": "audio-classification"}))
    assert "the feature extractor names them (`input_values` or `input_features`)" in card


def test_labels_cannot_break_out_of_the_code(passed: dict[str, Any]):
    passed["labels"] = ["'] + [print('x')", "```\nimport os"]
    code = code_of(render_model_card(from_plain(passed)).replace("````", "```"))
    compile(code, "card", "exec")
    assert f"labels = {passed['labels']!r}" in code


def test_the_code_for_texts_runs_without_torch(tmp_path: Path, tiny_bert_dir: Path, passed):
    for name in ("tokenizer.json", "tokenizer_config.json", "config.json"):
        (tmp_path / name).write_bytes((tiny_bert_dir / name).read_bytes())
    ids, mask = (
        helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "sequence"])
        for name in ("input_ids", "attention_mask")
    )
    # The longer of two texts has the larger sum of its mask, 7 against 4.
    nodes = [
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["mask", "axis"], ["length"], keepdims=1),
        helper.make_node("Sub", ["length", "five"], ["positive"]),
        helper.make_node("Neg", ["positive"], ["negative"]),
        helper.make_node("Concat", ["negative", "positive"], ["logits"], axis=1),
        helper.make_node("Identity", ["input_ids"], ["unused"]),
    ]
    constants = [
        numpy_helper.from_array(np.array([1]), "axis"),
        numpy_helper.from_array(np.array(5.0, dtype=np.float32), "five"),
    ]
    save_graph(tmp_path / "model.onnx", [ids, mask], nodes, constants)
    code = code_of(render_model_card(from_plain(passed)))
    assert run_without_torch(code, tmp_path) == "['negative', 'positive']"


@pytest.mark.parametrize(("channels", "label"), [(1, "dark"), (3, "dark")])
def test_the_code_for_images_runs_without_torch(
    tmp_path: Path, report_in_state, channels: int, label: str
):
    settings = {
        "image_processor_type": "ViTImageProcessor", "do_resize": True,
        "size": {"height": 8, "width": 8}, "do_rescale": True, "rescale_factor": 1 / 255,
        "do_normalize": True, "image_mean": [0.5] * channels, "image_std": [0.5] * channels,
    }  # fmt: skip
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings), encoding="utf-8")
    Image.fromarray(np.full((20, 10, 3), 10, dtype=np.uint8)).save(tmp_path / "image.png")
    shape = ["batch", channels, 8, 8]
    pixels = helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, shape)
    nodes = [
        helper.make_node("ReduceMean", ["pixel_values"], ["mean"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Unsqueeze", ["mean", "axis"], ["bright"]),
        helper.make_node("Neg", ["bright"], ["dark"]),
        helper.make_node("Concat", ["dark", "bright"], ["logits"], axis=1),
    ]
    constants = [numpy_helper.from_array(np.array([1]), "axis")]
    save_graph(tmp_path / "model.onnx", [pixels], nodes, constants)
    data = report_in_state("images") | {"labels": ["dark", "bright"]}
    assert (
        run_without_torch(code_of(render_model_card(from_plain(data))), tmp_path) == f"['{label}']"
    )
