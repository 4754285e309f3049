"""Whatever is mutated, a command ends as it may; and what does not is noticed."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from types import ModuleType

import pytest

from compressor import cli

TOOLS = Path(__file__).parents[2] / "tools"


@pytest.fixture(scope="module")
def trials(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("campaign_trials")


@pytest.fixture(scope="module")
def mutations(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("mutations")


def causes(trials: ModuleType, trial: object, folder: Path) -> list[str]:
    """Return why a case of this one trial fails."""
    tally = trials.Tally()
    trials.run_case(trials.Case("planted", 0, "nothing", (trial,)), folder, tally)
    return [failure.cause for failure in tally.failures]


def test_of_100_mutated_things_none_ends_as_it_must_not(tmp_path: Path):
    # A process of its own, from which the trials are forked: this one has threads.
    kinds = "recipe,arguments,checkpoint,processor,data,artifact,onnx,report"
    command = [sys.executable, str(TOOLS / "campaign.py"), "--cases", "100", "--runs", "0"]
    more = ["--seed", "2026", "--kinds", kinds, "--json", str(tmp_path / "failures.json")]
    done = subprocess.run([*command, *more], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((tmp_path / "failures.json").read_text())["failures"] == []


def test_a_planted_traceback_is_found(
    trials: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def broken(*_: object, **__: object) -> None:
        raise KeyError("planted")

    monkeypatch.setattr("compressor.pipeline.preflight.load_whole", broken)
    monkeypatch.setattr(sys, "argv", ["compress", "validate", "recipe.yaml"])
    tally = trials.Tally()
    case = trials.Case("planted", 0, "nothing", (trials.Trial("validate", cli.main),))
    trials.run_case(case, tmp_path, tally)
    [failure] = tally.failures
    assert failure.cause == trials.TRACEBACK
    assert failure.group.startswith("traceback: KeyError at compressor/cli.py")


def test_a_planted_endless_loop_is_found(trials: ModuleType, tmp_path: Path):
    def endless() -> None:
        while True:
            pass

    trial = trials.Trial("validate", endless, limit_s=0.2)
    assert causes(trials, trial, tmp_path) == [trials.HANG]


def test_a_planted_wait_for_what_never_comes_is_found(trials: ModuleType, tmp_path: Path):
    trial = trials.Trial("validate", lambda: time.sleep(3_600), limit_s=0.2)
    assert causes(trials, trial, tmp_path) == [trials.HANG]


def test_a_planted_pass_of_what_must_be_refused_is_found(trials: ModuleType, tmp_path: Path):
    trial = trials.Trial("validate", lambda: None, trials.REFUSED)
    assert causes(trials, trial, tmp_path) == [trials.SILENT_PASS]


def test_a_planted_wrong_answer_after_a_pass_is_found(trials: ModuleType, tmp_path: Path):
    trial = trials.Trial("run", lambda: None, check=lambda: "outputs differ")
    assert causes(trials, trial, tmp_path) == [trials.SILENT_PASS]


def test_a_right_pass_is_no_failure(trials: ModuleType, tmp_path: Path):
    trial = trials.Trial("run", lambda: None, check=lambda: None)
    assert causes(trials, trial, tmp_path) == []


def refuse(message: str, code: int = 3) -> Callable[[], None]:
    def work() -> None:
        print(message, file=sys.stderr)
        raise SystemExit(code)

    return work


@pytest.mark.parametrize(
    ("message", "code", "expected"),
    [
        ("data.csv:3: label is missing", 3, []),
        ("something is wrong", 3, ["a message without its place"]),
        ("data.csv:3: label is missing", 5, ["another exit code"]),
        ("data.csv: " + "x" * 50_000, 3, ["a message too long to read"]),
    ],
)
def test_a_refusal_has_its_code_and_a_short_message_with_its_place(
    trials: ModuleType, tmp_path: Path, message: str, code: int, expected: list[str]
):
    trial = trials.Trial("run", refuse(message, code), trials.EITHER, places=("data.csv",))
    assert causes(trials, trial, tmp_path) == expected


def test_memory_without_end_is_refused_to_a_trial(trials: ModuleType, tmp_path: Path):
    trial = trials.Trial("run", lambda: bytearray(64 << 30) and None)
    assert causes(trials, trial, tmp_path) == [trials.TRACEBACK]


def test_a_failure_is_kept_with_its_files(trials: ModuleType, tmp_path: Path):
    folder, kept = tmp_path / "case", tmp_path / "kept"
    folder.mkdir()
    (folder / "recipe.yaml").write_text("odd")
    case = trials.Case("recipe", 7, "odd", (trials.Trial("validate", refuse("", 1)),))
    trials.run_case(case, folder, trials.Tally(), keep=kept)
    assert (kept / "recipe-7" / "recipe.yaml").read_text() == "odd"


def draws() -> list[Random]:
    """Return a hundred sources of chance, the same each time."""
    return [Random(seed) for seed in range(100)]  # noqa: S311 - no secret


def test_a_mutation_is_the_same_for_the_same_seed_and_leaves_its_source_alone(
    mutations: ModuleType,
):
    tree = {"a": [1, {"b": "c"}], "d": 2.5}
    first = [mutations.mutate_tree(tree, draw)[1] for draw in draws()]
    again = [mutations.mutate_tree(tree, draw)[1] for draw in draws()]
    assert list(map(str, first)) == list(map(str, again))
    assert tree == {"a": [1, {"b": "c"}], "d": 2.5}


def test_a_mutated_tree_is_another_one_most_of_the_time(mutations: ModuleType):
    tree = {"a": [1, {"b": "c"}], "d": 2.5}
    made = [mutations.mutate_tree(tree, draw)[0] for draw in draws()]
    assert sum(item != tree for item in made) > 90
