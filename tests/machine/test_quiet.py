"""What other libraries say does not reach the reader of a run, and their settings stay the user's.

The runs are made in processes of their own, where nothing has set anything up.
"""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import compressor
from compressor.machine.quiet import bars_loaded, loud_libraries, quiet_libraries

LONG = "a quite good film and a very dull plot " * 12  # more tokens than the tokenizer allows
TIMED = {"batch_sizes": [1], "num_runs": 2, "warmup_runs": 1, "threads": 1}
PRUNED = {"kind": "prune_structured", "ratio": 0.5, "importance": "magnitude"}
TRAINED = {"kind": "distill", "max_steps": 2, "batch_size": 4}
INT8 = {"kind": "quantize_dynamic", "min_elements": 64}


@pytest.fixture(scope="module")
def pretrained_head_dir(tiny_encoder_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the tiny encoder with the head of its pretraining in the same file."""
    directory = tmp_path_factory.mktemp("pretrained") / "model"
    directory.mkdir()
    for path in tiny_encoder_dir.rglob("*"):
        if path.is_file():
            target = directory / path.relative_to(tiny_encoder_dir)
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(path.read_bytes())
    weights = load_file(directory / "model.safetensors")
    weights = {f"bert.{name}": value for name, value in weights.items()}
    weights["cls.predictions.bias"] = torch.zeros(36)
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


@pytest.fixture(scope="module")
def digits_vit_dir(tiny_vit_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a saved random ViT of 8x8 grey images with a label for each digit."""
    directory = tmp_path_factory.mktemp("digits-vit")
    config = transformers.ViTConfig.from_pretrained(tiny_vit_dir, num_labels=10)
    config.id2label = {index: str(index) for index in range(10)}
    config.label2id = {str(index): index for index in range(10)}
    transformers.ViTForImageClassification(config).save_pretrained(directory)
    transformers.ViTImageProcessorPil.from_pretrained(tiny_vit_dir).save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def recipes(
    bert_recipe: dict[str, Any],
    digits_vit_dir: Path,
    pretrained_head_dir: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Return a folder with recipes of a text classifier, a sentence encoder and a ViT."""
    folder = tmp_path_factory.mktemp("recipes")
    rows = Path(bert_recipe["data"]["search"]["path"]).read_text()
    texts = folder / "texts.csv"
    texts.write_text(rows + f"{LONG},1\n")
    source = {"path": str(texts)}
    data = {"text": "text", "label": "label", "train": source, "search": source}
    timed = {**TIMED, "sequence_lengths": [8]}
    text = {**bert_recipe, "data": data, "passes": [{**PRUNED, "recovery": TRAINED}, INT8]}
    encoder = {
        "model": {"checkpoint": str(pretrained_head_dir), "task": "sentence-embedding"},
        "data": {"text": "text", "search": source},
        "budget": {"max_drop": 0.9},
        "passes": [{**INT8, "smooth": True}],
        "benchmark": timed,
    }
    digits = {"sklearn": "digits", "split": "test", "max_rows": 60}
    vit = {
        "model": {"checkpoint": str(digits_vit_dir)},
        "data": {"image": "image", "search": digits},
        "budget": {"metric": "agreement", "max_drop": 0.9},
        "passes": [{"kind": "quantize_static", "min_elements": 64, "rows": 8}],
        "benchmark": TIMED,
    }
    for name, recipe in {"text": text, "encoder": encoder, "vit": vit}.items():
        (folder / f"{name}.yaml").write_text(json.dumps({**recipe, "output": f"run-{name}"}))
    return folder


def in_a_process(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
    )


@pytest.fixture(scope="module")
def in_python(recipes: Path) -> subprocess.CompletedProcess[str]:
    """Return what three runs of one Python process wrote."""
    script = (
        "import compressor\n"
        "for name in ('text', 'encoder', 'vit'):\n"
        "    print(compressor.run(f'{name}.yaml', device='cpu').verdict)\n"
    )
    return in_a_process(recipes, "-c", script)


def test_runs_in_python_write_nothing_of_their_own(in_python: subprocess.CompletedProcess[str]):
    assert in_python.stderr == ""
    assert in_python.stdout == "passed\n" * 3


@pytest.fixture(scope="module")
def on_the_command_line(
    recipes: Path, in_python: subprocess.CompletedProcess[str]
) -> subprocess.CompletedProcess[str]:
    """Return what the command wrote about a run that is resumed with other rounds to time."""
    assert in_python.returncode == 0
    changed = ("--set", "benchmark.num_runs=3", "--device", "cpu")
    return in_a_process(recipes, "-m", "compressor", "run", "text.yaml", *changed)


def test_the_command_writes_only_its_own_lines(
    on_the_command_line: subprocess.CompletedProcess[str],
):
    assert on_the_command_line.stderr == ""
    told = on_the_command_line.stdout.partition("Passed")[0].splitlines()
    others = [line for line in told if not re.match(r"( +[\d.]+ s  | {11})\S", line)]
    assert others == []


def test_the_first_line_states_the_plan_and_what_is_stored(
    on_the_command_line: subprocess.CompletedProcess[str],
):
    told = on_the_command_line.stdout.splitlines()
    assert told[0].endswith("plan: prune_structured > export > quantize_dynamic > benchmark")
    assert told[1].strip().startswith("rows: 37 train, 37 search; none for certification")
    assert told[2].strip() == "budget: accuracy may fall by 90 points"
    assert re.fullmatch(r"time: (a few seconds|about \d+ s)", told[3].strip())
    # All but the benchmark: five of the baseline, two of each pass, the export and its parity, and
    # three of the artifact.
    assert told[4].strip().startswith("output: ")
    assert told[4].endswith("run-text (resumes, 14 of 15 steps are stored)")


def test_a_stored_step_is_said_to_be_one(on_the_command_line: subprocess.CompletedProcess[str]):
    pattern = r"passes\[0\] \(prune_structured\): taken from an earlier run, took [\d.]+ s then"
    assert re.search(pattern, on_the_command_line.stdout)


def test_texts_that_are_cut_are_told_once(on_the_command_line: subprocess.CompletedProcess[str]):
    told = "1 of 37 texts are longer than 64 tokens"
    assert on_the_command_line.stdout.count(told) == 1


def test_settings_of_other_libraries_are_as_before_afterwards():
    logger = logging.getLogger("transformers")
    before = (logger.level, transformers.logging.is_progress_bar_enabled(), warnings.filters[:])
    with quiet_libraries():
        assert not logger.isEnabledFor(logging.WARNING)
        assert not transformers.logging.is_progress_bar_enabled()
    after = (logger.level, transformers.logging.is_progress_bar_enabled(), warnings.filters[:])
    assert after == before


def test_of_two_runs_in_threads_the_last_one_puts_settings_back():
    logger = logging.getLogger("transformers")
    before = (logger.level, transformers.logging.is_progress_bar_enabled(), warnings.filters[:])
    first, second = quiet_libraries(), quiet_libraries()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert not logger.isEnabledFor(logging.WARNING)
    assert not transformers.logging.is_progress_bar_enabled()
    second.__exit__(None, None, None)
    after = (logger.level, transformers.logging.is_progress_bar_enabled(), warnings.filters[:])
    assert after == before


def test_bars_of_what_a_run_loads_itself_are_off_until_it_ends(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delitem(sys.modules, "datasets.utils")
    with quiet_libraries():
        assert not datasets.are_progress_bars_disabled()  # nobody has loaded it yet
        bars_loaded(datasets.utils)
        assert datasets.are_progress_bars_disabled()
    assert not datasets.are_progress_bars_disabled()
    bars_loaded(datasets.utils)
    assert not datasets.are_progress_bars_disabled()


def test_settings_are_put_back_after_an_error():
    logger = logging.getLogger("transformers")
    before = (logger.level, transformers.logging.is_progress_bar_enabled(), warnings.filters[:])
    with pytest.raises(KeyError), quiet_libraries():
        raise KeyError
    after = (logger.level, transformers.logging.is_progress_bar_enabled(), warnings.filters[:])
    assert after == before


def test_a_warning_of_the_users_own_code_is_still_shown():
    with pytest.warns(UserWarning, match="mine"), quiet_libraries():
        warnings.warn("mine", UserWarning, stacklevel=1)


def test_errors_of_other_libraries_are_still_logged(caplog: pytest.LogCaptureFixture):
    with quiet_libraries():
        logging.getLogger("datasets.load").warning("chatter")
        logging.getLogger("datasets.load").error("broken")
    assert [record.message for record in caplog.records] == ["broken"]


def test_who_asks_for_everything_is_shown_it():
    logger = logging.getLogger("transformers")
    before = logger.level
    with loud_libraries(), quiet_libraries():
        assert logger.level == before


def test_loading_a_checkpoint_shows_no_bar(tiny_bert_dir: Path, capsys: pytest.CaptureFixture[str]):
    compressor.load_checkpoint(tiny_bert_dir)
    assert capsys.readouterr() == ("", "")
