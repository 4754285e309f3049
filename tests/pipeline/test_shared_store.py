"""Runs that share a store do what they have in common once, whoever of them dies."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from compressor.errors import RecipeError
from compressor.pipeline.shared_store import SharedStepStore, content_of, prune
from compressor.pipeline.step_store import Step, key_of

KEY = key_of({"step": "pass", "ratio": 0.5})
OTHER = key_of({"step": "pass", "ratio": 0.6})
# Does a step that takes for ever, as another process.
FOR_EVER = (
    "import sys, time\n"
    "from pathlib import Path\n"
    "from compressor.pipeline.shared_store import SharedStepStore\n"
    "def work(scratch, result):\n"
    "    (scratch / 'half').write_text('of a training')\n"
    "    result.mkdir()\n"
    "    (result / 'half').write_text('of a result')\n"
    "    print('working', flush=True)\n"
    "    time.sleep(600)\n"
    "folder, key = Path(sys.argv[1]), sys.argv[2]\n"
    "SharedStepStore(folder, folder.parent / 'own', print).make('a pass', key, {}, work)\n"
)


class Run:
    """A run with its own view of the store; it counts what it does itself."""

    def __init__(self, folder: Path) -> None:
        self.told: list[str] = []
        self.done = 0
        self.found: list[Path] = []
        self.store = SharedStepStore(folder / "store", folder / "own", self.told.append)

    def work(self, scratch: Path, result: Path) -> dict[str, Any]:
        self.done += 1
        self.found = list(scratch.iterdir())
        result.mkdir()
        (result / "model.onnx").write_bytes(b"weights" * 100)
        return {"size": 7}

    def step(self, key: str = KEY) -> Step:
        return self.store.find("a pass", key) or self.store.make("a pass", key, {}, self.work)


@pytest.fixture
def killed(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Give a process that does a step, to be killed."""
    with subprocess.Popen(
        [sys.executable, "-c", FOR_EVER, tmp_path / "store", KEY], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "working\n"
        yield process
        process.kill()


def test_a_step_is_done_by_one_run_and_read_by_the_others(tmp_path: Path):
    first, second = Run(tmp_path), Run(tmp_path)
    made, found = first.step(), second.step()
    assert (first.done, second.done) == (1, 0)
    assert (made.reused, found.reused) == (False, True)
    assert (made.folder, made.files, made.facts) == (found.folder, found.files, found.facts)


def test_who_comes_second_waits_and_says_so(tmp_path: Path):
    first, second = Run(tmp_path), Run(tmp_path)
    plain, begun = first.work, threading.Event()

    def slow(scratch: Path, result: Path) -> dict[str, Any]:
        begun.set()
        while not second.told:  # until the other run has come and waits
            pass
        return plain(scratch, result)

    first.work = slow  # type: ignore[method-assign]
    thread = threading.Thread(target=first.step, daemon=True)
    thread.start()
    begun.wait(20)
    assert second.step().reused
    thread.join(20)
    assert (first.done, second.done) == (1, 0)
    assert second.told == ["a pass: another run is doing it; waiting for that one"]


def test_a_killed_run_leaves_its_scratch_space_to_the_next(
    tmp_path: Path, killed: subprocess.Popen[str]
):
    killed.kill()
    killed.wait()
    run = Run(tmp_path)
    step = run.step()
    assert run.told == []
    assert [path.name for path in run.found] == ["half"]
    assert list(step.files) == ["model.onnx"]


def test_what_a_killed_run_wrote_under_another_name_is_no_step(tmp_path: Path):
    run = Run(tmp_path)
    half = run.store.path / f".partial-{KEY}"
    half.mkdir()
    (half / "half").write_text("of a step")
    assert run.store.find("a pass", KEY) is None
    assert list(run.step().files) == ["model.onnx"]
    assert not half.exists()


def test_a_damaged_step_is_done_again_and_said_once(tmp_path: Path):
    (Run(tmp_path).step().folder / "model.onnx").write_bytes(b"x")
    run = Run(tmp_path)
    assert run.store.find("a pass", KEY) is None
    assert not run.step().reused
    [told] = run.store.damaged
    assert told.startswith("the stored step 'a pass' was damaged (model.onnx is not what was")
    assert Run(tmp_path).step().reused


def test_a_run_that_ends_leaves_the_store_as_it_is(tmp_path: Path):
    run = Run(tmp_path)
    run.step()
    run.store.private.mkdir()
    run.store.remove_unused()
    assert not run.store.private.exists()
    assert Run(tmp_path).step().reused


def test_a_folder_of_other_things_is_no_store(tmp_path: Path):
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "notes.txt").write_text("mine")
    with pytest.raises(RecipeError, match="is not empty and holds no store"):
        Run(tmp_path)
    with pytest.raises(RecipeError, match="holds no store of compressor; give the directory"):
        prune(tmp_path / "store", 0)
    assert (tmp_path / "store" / "notes.txt").read_text() == "mine"


def used_at(run: Run, key: str, seconds: float) -> None:
    os.utime(run.store.path.parent / "locks" / f"{key}.using", (seconds, seconds))


def test_pruning_takes_what_was_used_longest_ago(tmp_path: Path):
    run = Run(tmp_path)
    size = sum(path.stat().st_size for path in run.step().folder.iterdir())
    run.step(OTHER)
    run.store.close()
    used_at(run, KEY, 2000.0)
    used_at(run, OTHER, 1000.0)
    removed = prune(tmp_path / "store", size)
    assert (removed.num_steps, removed.num_unfinished, removed.num_in_use) == (1, 0, 0)
    again = Run(tmp_path)
    assert again.store.find("a pass", KEY) is not None
    assert again.store.find("a pass", OTHER) is None


def test_pruning_leaves_what_a_living_run_uses(tmp_path: Path):
    run = Run(tmp_path)
    folder = run.step().folder
    assert prune(tmp_path / "store", 0).num_in_use == 1
    assert folder.is_dir()
    run.store.close()
    assert prune(tmp_path / "store", 0).num_steps == 1
    assert [path.name for path in (tmp_path / "store" / "steps").iterdir()] == []
    assert list((tmp_path / "store" / "locks").iterdir()) == []


def test_pruning_leaves_what_is_being_done_and_takes_what_a_killed_run_left(
    tmp_path: Path, killed: subprocess.Popen[str]
):
    scratch = tmp_path / "store" / "work" / KEY
    assert content_of(tmp_path / "store").num_unfinished == 1
    assert prune(tmp_path / "store", 0).num_in_use == 1
    assert (scratch / "half").is_file()
    killed.kill()
    killed.wait()
    assert prune(tmp_path / "store", 0).num_unfinished == 1
    assert not scratch.exists()


def test_the_content_of_a_store_is_said_in_words(tmp_path: Path):
    run = Run(tmp_path)
    run.step()
    (run.store.scratch / OTHER).mkdir(parents=True)
    assert (
        str(content_of(tmp_path / "store")) == "1 step and 1 unfinished, 1 of them in use, 0.0 MB"
    )
