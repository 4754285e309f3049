"""All that is wrong with a recipe is told at once, in the order of its lines."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from compressor.errors import EnvironmentMismatch, RecipeError
from compressor.pipeline.preflight import (
    check_inputs,
    check_machine,
    check_runtime,
    load_whole,
)
from compressor.recipe.recipe import Recipe, load_recipe

GOOD_ROWS = "text,label\n" + "".join(f"fine {row},1\nbad {row},0\n" for row in range(60))
OF_A_COPY = (
    "model: {checkpoint: copy}\n"
    "data: {search: {path: rows.csv}}\n"
    "budget: {max_drop: 0.1}\n"
    "passes: []\n"
)


@pytest.fixture
def folder(tmp_path: Path, tiny_bert_dir: Path) -> Path:
    """Return a folder with a checkpoint and rows that fit it."""
    (tmp_path / "model").symlink_to(tiny_bert_dir)
    (tmp_path / "rows.csv").write_text(GOOD_ROWS)
    return tmp_path


def write(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text)
    return path


def told(path: Path) -> list[str]:
    """Return what is told, without the recipe's path."""
    with pytest.raises(RecipeError) as caught:
        check_inputs(load_whole(path))
    return [line.removeprefix(f"{path}:") for line in caught.value.mistakes]


def test_mistakes_of_every_kind_come_in_one_output_in_the_order_of_lines(folder: Path):
    (folder / "names.csv").write_text("text,label\n" + "fine,good\nbad,bad\n" * 60)
    (folder / "empty").mkdir()
    path = write(
        folder,
        "model: {checkpoint: model}\n"
        "data:\n"
        "  text: text\n"
        "  lable: label\n"
        "  train: {path: nowhere.csv}\n"
        "  search: {path: names.csv}\n"
        "  calibration: {path: rows.csv, text: sentence}\n"
        "budget:\n"
        "  metric: f1\n"
        "  max_drop: 0.1\n"
        "passes:\n"
        "  - kind: distill\n"
        "    teacher: ./empty\n"
        "    temprature: 3\n"
        "  - kind: prune_structured\n"
        "    ratio: 1.5\n"
        "  - kind: quantize_dynamic\n"
        "export: {provider: gpu}\n",
    )
    found = told(path)
    assert [line.split(": ")[:2] for line in found] == [
        ["4", "data.lable"],
        ["5", "data.train.path"],
        ["6", "data.search"],
        ["7", "data.calibration"],
        ["9", "budget.metric"],
        ["13", "passes[0].teacher"],
        ["14", "passes[0].temprature"],
        ["16", "passes[1].ratio"],
        ["18", "export.provider"],
    ]
    assert "label 'good' is not a label of the checkpoint" in found[2]
    assert "no column 'sentence' (columns: text, label)" in found[3]
    assert "did you mean 'temperature'?" in found[6]


@pytest.mark.parametrize("kind", ["prune_magnitude", "prune_structured"])
def test_an_importance_that_compares_with_labels_says_that_there_are_none(folder: Path, kind: str):
    (folder / "texts.csv").write_text("text\n" + "fine\nbad\n" * 20)
    (folder / "few.csv").write_text("text,label\n" + "fine,1\nbad,0\n" * 5)
    amount = "sparsity" if kind == "prune_magnitude" else "ratio"
    path = write(
        folder,
        "model: {checkpoint: model}\n"
        "data:\n"
        "  calibration: {path: texts.csv}\n"
        "  search: {path: rows.csv}\n"
        "budget: {max_drop: 0.1}\n"
        "passes:\n"
        f"  - kind: {kind}\n"
        f"    {amount}: 0.5\n"
        "    importance: mutual_information\n",
    )
    assert told(path) == [
        "9: passes[0].importance: mutual_information reads labels, and the calibration split "
        f"({folder / 'texts.csv'}) has none; name the column in data.label, or use importance "
        "entropy"
    ]
    path.write_text(path.read_text().replace("texts.csv", "few.csv"))
    assert told(path) == [
        "9: passes[0].importance: mutual_information counts how often activations have which "
        "size, and 10 calibration rows are too few; give it at least 16, or use magnitude"
    ]


def test_a_pass_says_what_too_few_rows_are(folder: Path):
    (folder / "one.csv").write_text("text,label\nfine,1\n")
    path = write(
        folder,
        "model: {checkpoint: model}\n"
        "data:\n"
        "  train: {path: one.csv}\n"
        "  search: {path: rows.csv}\n"
        "budget: {max_drop: 0.1}\n"
        "passes:\n"
        "  - kind: trim_vocabulary\n"
        "    count_in: [train]\n",
    )
    assert told(path) == [
        "8: passes[0].count_in: train has 1 text to count, and it takes two at least, one of them "
        "held out; give more rows, or remove this pass"
    ]


def test_run_tells_the_same_before_torch_is_loaded(folder: Path):
    path = write(
        folder,
        "model: {checkpoint: ./nowhere}\n"
        "data: {search: {path: absent.csv}}\n"
        "budget: {max_drop: 2}\n"
        "passes: []\n",
    )
    script = (
        "import sys\n"
        "from compressor import cli\n"
        "try:\n"
        "    cli.main()\n"
        "except SystemExit as stop:\n"
        "    print(stop.code, 'torch' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "run", str(path), "--output", str(folder / "out")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "2 False\n"
    lines = [line.split(":")[1] for line in done.stderr.splitlines()[1:]]
    assert lines == ["1", "2", "3"]


def test_what_is_only_missing_exits_with_3_and_is_told_whole(folder: Path):
    path = write(
        folder,
        "model: {checkpoint: ./nowhere, task: text-classification}\n"
        "data:\n"
        "  train: {path: a.csv}\n"
        "  search: {path: b.csv}\n"
        "budget: {max_drop: 0.1}\n"
        "passes: []\n",
    )
    with pytest.raises(EnvironmentMismatch) as caught:
        check_inputs(load_whole(path))
    keys = [line.split(": ")[:2] for line in caught.value.problems]
    assert keys == [
        [f"{path}:1", "model.checkpoint"],
        [f"{path}:3", "data.train.path"],
        [f"{path}:4", "data.search.path"],
    ]


@pytest.mark.parametrize(
    ("passes", "keys"),
    [
        # A required setting is missing in one pass, and the file of the next one too.
        (
            "[{kind: prune_magnitude}, {kind: distill, student: ./x}]",
            ["passes[0]", "passes[1].student"],
        ),
        (
            "[{kind: wizardry}, {kind: distill, student: ./x}]",
            ["passes[0].kind", "passes[1].studen"],
        ),
        ("[{kind: {}}, {kind: distill, student: ./x}]", ["passes[0].kind", "passes[1].student"]),
        ("[3, {kind: distill, student: ./x}]", ["passes[0]", "passes[1].student"]),
        ("seven", ["passes"]),
    ],
)
def test_a_pass_that_cannot_be_read_leaves_the_others_in_their_places(
    folder: Path, passes: str, keys: list[str]
):
    path = write(
        folder,
        "model: {checkpoint: model}\ndata: {search: {path: rows.csv}}\n"
        f"budget: {{max_drop: 0.1}}\npasses: {passes}\n",
    )
    assert [
        line.split(": ")[1][: len(key)] for line, key in zip(told(path), keys, strict=True)
    ] == (keys)


@pytest.mark.parametrize("section", ["model", "data", "budget"])
def test_a_section_that_is_missing_does_not_hide_the_mistakes_of_the_others(
    folder: Path, section: str
):
    sections = {
        "model": "model: {checkpoint: ./nowhere}\n",
        "data": "data: {search: {path: absent.csv}}\n",
        "budget": "budget: {max_drop: 3}\n",
    }
    rest = "".join(text for name, text in sections.items() if name != section)
    found = told(write(folder, f"{rest}passes: []\n"))
    assert len(found) == 3
    assert any(f"required key '{section}' is missing" in line for line in found)


def test_what_was_left_out_because_it_is_wrong_breaks_no_rule(folder: Path):
    path = write(
        folder,
        "model: {checkpoint: model}\n"
        "data: {search: {path: rows.csv, max_rows: none}}\n"
        "budget: {max_drop: 0.1, target: {max_megabytes: -1}}\n"
        "passes: [{kind: prune_structured, ratio: 0}]\n",
    )
    assert [line.split(": ")[1] for line in told(path)] == [
        "data.search.max_rows",
        "budget.target.max_megabytes",
        "passes[0].ratio",
    ]


def test_rules_within_a_section_are_checked_beside_its_other_mistakes(folder: Path):
    path = write(
        folder,
        "model: {checkpoint: model}\n"
        "data:\n"
        "  lable: label\n"
        "  search: {path: rows.csv}\n"
        "  certification: {path: rows.csv}\n"
        "budget: {max_drop: 0.1}\n"
        "passes: []\n",
    )
    assert [line.split(": ")[:2] for line in told(path)] == [
        ["3", "data.lable"],
        ["5", "data.certification"],
    ]


def test_label_names_are_read_from_a_checkpoint_whose_weights_are_missing(
    folder: Path, tiny_bert_dir: Path
):
    copy = shutil.copytree(tiny_bert_dir, folder / "copy")
    (copy / "model.safetensors").unlink()
    (folder / "names.csv").write_text("text,label\n" + "fine,good\nbad,bad\n" * 60)
    path = write(
        folder,
        "model: {checkpoint: copy}\n"
        "data: {search: {path: names.csv}}\n"
        "budget: {max_drop: 0.1}\n"
        "passes: []\n",
    )
    found = told(path)
    assert found[0].startswith("1: model.checkpoint: ")
    assert "label 'good' is not a label of the checkpoint" in found[1]
    assert len(found) == 2


def test_a_checkpoint_without_a_tokenizer_is_told_before_it_is_loaded(
    folder: Path, tiny_bert_dir: Path
):
    copy = shutil.copytree(tiny_bert_dir, folder / "copy")
    (copy / "tokenizer.json").unlink()
    (copy / "vocab.txt").unlink(missing_ok=True)
    path = write(folder, OF_A_COPY)
    with pytest.raises(EnvironmentMismatch, match="its tokenizer cannot be loaded"):
        check_inputs(load_recipe(path))


def test_a_tokenizer_of_another_checkpoint_is_told_before_it_is_loaded(
    folder: Path, tiny_bert_dir: Path
):
    copy = shutil.copytree(tiny_bert_dir, folder / "copy")
    words = json.loads((copy / "tokenizer.json").read_text())
    largest = max(words["model"]["vocab"].values())
    words["model"]["vocab"]["another"] = largest + 1
    (copy / "tokenizer.json").write_text(json.dumps(words))
    path = write(folder, OF_A_COPY)
    reason = f"largest id is {largest + 1}, the embedding table has {largest + 1} rows"
    with pytest.raises(EnvironmentMismatch, match=reason):
        check_inputs(load_recipe(path))


@pytest.mark.parametrize(
    ("rows", "mistake"),
    [
        ("text,label\n" + "fine,1\n" * 60, "every label is class 1"),
        ("text,label\nfine,1\n,0\n" + "bad,0\n" * 60, "rows.csv:3: text is empty"),
        ("text,label\nfine,1,2\n" + "bad,0\n" * 60, "rows.csv:2: has 3 fields"),
        ("words,label\nfine,1\n" + "bad,0\n" * 60, "no column 'text'"),
    ],
)
def test_rows_that_a_run_would_refuse_are_refused_without_one(
    folder: Path, rows: str, mistake: str
):
    (folder / "rows.csv").write_text(rows)
    path = write(
        folder,
        "model: {checkpoint: model}\n"
        "data: {search: {path: rows.csv}}\n"
        "budget: {max_drop: 0.1}\n"
        "passes: []\n",
    )
    [found] = told(path)
    assert found.startswith("2: data.search: ")
    assert mistake in found


def test_the_rows_of_every_split_are_known_afterwards(folder: Path):
    path = write(
        folder,
        "model: {checkpoint: model}\n"
        "data: {certification: {path: rows.csv}}\n"
        "budget: {max_drop: 0.1}\n"
        "passes: [{kind: finetune}]\n",
    )
    seen = check_inputs(load_recipe(path))
    assert (seen.task, seen.metric, seen.labels) == (
        "text-classification",
        "accuracy",
        ("negative", "positive"),
    )
    # 120 rows in equal shares for those that judge and the one that trains.
    assert {name: len(split) for name, split in seen.splits.items()} == {
        "train": 40,
        "search": 40,
        "certification": 40,
    }


def test_an_output_directory_that_a_run_would_refuse_is_told(folder: Path):
    (folder / "out").mkdir()
    (folder / "out" / "thesis.txt").write_text("mine")
    path = write(
        folder,
        "model: {checkpoint: model}\n"
        "data: {search: {path: rows.csv}}\n"
        "budget: {max_drop: 0.1}\n"
        "passes: []\n"
        "output: out\n",
    )
    with pytest.raises(RecipeError) as caught:
        check_machine(load_recipe(path))
    [line] = caught.value.mistakes
    assert line.startswith(f"{path}:5: output: ")
    assert sorted(item.name for item in (folder / "out").iterdir()) == ["thesis.txt"]


@pytest.mark.parametrize("check", [check_machine, check_runtime])
def test_a_provider_that_this_machine_lacks_comes_with_the_other_mistakes(
    folder: Path, check: Callable[[Recipe], object]
):
    path = write(
        folder,
        "model: {checkpoint: model}\n"
        "data: {search: {path: absent.csv}}\n"
        "budget: {max_drop: 0.1}\n"
        "passes: []\n"
        "export: {opset: 25}\n"
        "benchmark: {providers: [tensorrt]}\n",
    )
    with pytest.raises(EnvironmentMismatch) as caught:
        check(load_recipe(path))
    lines = [line.removeprefix(f"{path}:").split(": ")[:2] for line in caught.value.problems]
    assert lines[0] == ["2", "data.search.path"]
    assert ["6", "benchmark.providers"] in lines


def test_a_local_checkpoint_has_no_revision(folder: Path):
    path = write(
        folder,
        "model: {checkpoint: model, revision: main}\n"
        "data: {search: {path: rows.csv}}\n"
        "budget: {max_drop: 0.1}\n"
        "passes: []\n",
    )
    with pytest.raises(EnvironmentMismatch, match=r"a local directory has no revision 'main'"):
        check_inputs(load_recipe(path))


def test_a_problem_of_a_teacher_is_told_once(folder: Path):
    (folder / "empty").mkdir()
    path = write(
        folder,
        "model: {checkpoint: model}\n"
        "data: {search: {path: rows.csv}}\n"
        "budget: {max_drop: 0.1}\n"
        "passes: [{kind: distill, teacher: ./empty}]\n",
    )
    with pytest.raises(EnvironmentMismatch) as caught:
        check_inputs(load_recipe(path))
    assert len(caught.value.problems) == 1
    assert caught.value.problems[0].startswith(f"{path}:4: passes[0].teacher: ")


def test_a_broken_config_is_told_once_and_hides_no_missing_file(folder: Path, tiny_bert_dir: Path):
    copy = shutil.copytree(tiny_bert_dir, folder / "copy")
    (copy / "config.json").write_text(json.dumps({"architectures": 3}))
    path = write(
        folder,
        "model: {checkpoint: copy}\n"
        "data: {search: {path: absent.csv}}\n"
        "budget: {max_drop: 0.1}\n"
        "passes: []\n",
    )
    with pytest.raises(EnvironmentMismatch) as caught:
        check_inputs(load_recipe(path))
    assert [line.removeprefix(f"{path}:").split(": ")[0] for line in caught.value.problems] == [
        "1",
        "2",
    ]


def test_digits_for_a_model_of_texts_are_refused_without_reading_them(folder: Path):
    path = write(
        folder,
        "model: {checkpoint: model}\ndata:\n  search: {sklearn: digits}\n"
        "budget: {metric: agreement, max_drop: 0.1}\npasses: []\n",
    )
    assert told(path) == [
        "3: data.search: sklearn:digits: no column 'text' (columns: image, label)"
    ]
