"""A run goes on in its own directory, and never touches what is not its own."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from compressor.errors import EnvironmentMismatch, RecipeError
from compressor.pipeline.output import claim_output


def test_a_new_directory_is_made_with_its_parents(tmp_path: Path):
    directory = claim_output(tmp_path / "a" / "b", force=False)
    assert directory.work.is_dir()


def test_a_directory_with_files_of_someone_else_is_refused(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RecipeError, match="not empty and holds no run of compressor"):
        claim_output(tmp_path, force=False)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_lock_file_alone_does_not_make_a_directory_ours(tmp_path: Path):
    (tmp_path / ".lock").write_text("")
    (tmp_path / "checkpoint").mkdir()
    with pytest.raises(RecipeError, match="holds no run of compressor"):
        claim_output(tmp_path, force=False)
    assert (tmp_path / "checkpoint").is_dir()


def test_a_run_that_goes_on_keeps_the_steps_and_drops_the_results(tmp_path: Path):
    with claim_output(tmp_path, force=False) as first:
        (first.steps / "kept").mkdir()
        (first.work / "kept").mkdir()
        first.artifact.mkdir()
        (first.path / "report.json").write_text("{}")
        (first.path / "readings.json").write_text("[]")
        (first.path / "notes.txt").write_text("mine")
    claim_output(tmp_path, force=False)
    assert contents(tmp_path) == [
        ".lock", "notes.txt", "readings.json", "steps", "steps/kept", "work", "work/kept",
    ]  # fmt: skip


def test_force_drops_the_steps_too_and_keeps_other_files_and_readings(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "readings.json").write_text("[]")
    (tmp_path / "report.json").write_text("{}")
    (tmp_path / "artifact").mkdir()
    (tmp_path / "steps" / "old").mkdir(parents=True)
    claim_output(tmp_path, force=True)
    assert contents(tmp_path) == [".lock", "notes.txt", "readings.json", "steps", "work"]


def contents(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_a_second_run_into_a_claimed_directory_is_refused(tmp_path: Path):
    held = claim_output(tmp_path / "run", force=False)
    with pytest.raises(EnvironmentMismatch, match="another run is writing"):
        claim_output(tmp_path / "run", force=False)
    held.lock.release()


@pytest.mark.parametrize("force", [False, True])
def test_a_directory_that_a_live_run_holds_is_refused(tmp_path: Path, force: bool):
    with claim_output(tmp_path / "run", force=False) as held:
        with pytest.raises(EnvironmentMismatch, match="another run is writing"):
            claim_output(tmp_path / "run", force=force)
        assert held.work.is_dir()


def test_a_directory_is_free_again_when_its_run_ends(tmp_path: Path):
    with claim_output(tmp_path / "run", force=False):
        pass
    assert claim_output(tmp_path / "run", force=False).work.is_dir()


def test_a_killed_run_leaves_no_lock(tmp_path: Path):
    script = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from compressor.pipeline.output import claim_output\n"
        "held = claim_output(Path(sys.argv[1]), force=False)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    place = tmp_path / "run"
    killed = subprocess.run([sys.executable, "-c", script, place], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert claim_output(place, force=False).work.is_dir()


def test_a_directory_of_someone_else_gets_no_lock_file(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RecipeError, match="not empty and holds no run"):
        claim_output(tmp_path, force=False)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_file_is_not_a_directory(tmp_path: Path):
    (tmp_path / "run").write_text("")
    with pytest.raises(RecipeError, match="is a file"):
        claim_output(tmp_path / "run", force=False)


def test_a_directory_that_cannot_be_made_is_an_environment_mismatch(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentMismatch, match="cannot be written"):
        claim_output(tmp_path / "file" / "run", force=False)


def test_a_read_only_directory_is_an_environment_mismatch_that_frees_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    make = Path.mkdir

    def fail(self: Path, *arguments: Any, **settings: Any) -> None:
        if self.name == "steps":
            raise OSError(errno.EROFS, "Read-only file system", str(self))
        make(self, *arguments, **settings)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", fail)
        with pytest.raises(EnvironmentMismatch, match="Read-only file system"):
            claim_output(tmp_path / "run", force=False)
    assert claim_output(tmp_path / "run", force=False).steps.is_dir()


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path):
    directory = claim_output(tmp_path / "run", force=False)
    directory.write_text("splits.json", "{}\n")
    assert (directory.path / "splits.json").read_text() == "{}\n"
    assert not list(directory.path.glob("*.partial"))


def test_force_takes_no_folder_for_ours_that_only_has_such_a_name(tmp_path: Path):
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "model.safetensors").write_text("mine")
    with pytest.raises(RecipeError, match="holds checkpoint, which a run would replace"):
        claim_output(tmp_path, force=True)
    assert contents(tmp_path) == ["checkpoint", "checkpoint/model.safetensors"]


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("name", ["checkpoint", "steps/abc/checkpoint"])
def test_a_run_does_not_remove_what_it_reads(tmp_path: Path, name: str, *, force: bool):
    with claim_output(tmp_path, force=False) as first:
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "model.safetensors").write_text("the result of a run")
        first.write_text("report.json", "{}")
    before = contents(tmp_path)
    inputs = {"model.checkpoint": tmp_path / name}
    with pytest.raises(RecipeError, match=r"model\.checkpoint: .* which this run would replace"):
        claim_output(tmp_path, force=force, inputs=inputs)
    assert contents(tmp_path) == before


def test_an_output_that_is_a_pipe_or_a_circle_of_links_is_refused(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(RecipeError, match="pipe is a named pipe, not a directory"):
        claim_output(tmp_path / "pipe", force=False)
    with pytest.raises(EnvironmentMismatch, match="is a symbolic link that leads back to itself"):
        claim_output(tmp_path / "loop", force=False)


@pytest.mark.parametrize("name", ["x" * 300, "a\0b"])
def test_an_output_of_an_impossible_name_is_refused(tmp_path: Path, name: str):
    with pytest.raises(EnvironmentMismatch, match=r"longer path|NUL character"):
        claim_output(tmp_path / name, force=False)


def test_a_text_with_half_a_character_is_written_all_the_same(tmp_path: Path):
    with claim_output(tmp_path / "run", force=False) as directory:
        directory.write_text("traceback.txt", "no class '\ud800'")
    assert (tmp_path / "run" / "traceback.txt").read_text() == "no class '\\ud800'"
