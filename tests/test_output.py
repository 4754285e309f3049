"""An output directory is never overwritten silently, and --force removes a run and nothing else."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from compressor.errors import EnvironmentMismatch, RecipeError
from compressor.output import claim_output


def test_a_new_directory_is_made_with_its_parents(tmp_path: Path):
    directory = claim_output(tmp_path / "a" / "b", force=False)
    assert directory.work.is_dir()


def test_a_directory_that_is_not_empty_is_refused(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RecipeError, match="not empty; use --force"):
        claim_output(tmp_path, force=False)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_force_removes_the_earlier_run_and_keeps_other_files(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "report.json").write_text("{}")
    (tmp_path / "artifact").mkdir()
    claim_output(tmp_path, force=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "notes.txt", "work"]


def test_a_second_run_into_a_claimed_directory_is_refused(tmp_path: Path):
    claim_output(tmp_path / "run", force=False)
    with pytest.raises(RecipeError, match="not empty"):
        claim_output(tmp_path / "run", force=False)


@pytest.mark.parametrize("force", [False, True])
def test_a_directory_that_a_live_run_holds_is_refused(tmp_path: Path, force: bool):
    with claim_output(tmp_path / "run", force=False) as held:
        with pytest.raises(EnvironmentMismatch, match="another run is writing"):
            claim_output(tmp_path / "run", force=force)
        assert held.work.is_dir()


def test_a_directory_is_free_again_when_its_run_ends(tmp_path: Path):
    with claim_output(tmp_path / "run", force=False):
        pass
    assert claim_output(tmp_path / "run", force=True).work.is_dir()


def test_a_killed_run_leaves_no_lock(tmp_path: Path):
    script = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from compressor.output import claim_output\n"
        "held = claim_output(Path(sys.argv[1]), force=False)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    place = tmp_path / "run"
    killed = subprocess.run([sys.executable, "-c", script, place], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert claim_output(place, force=True).work.is_dir()


def test_a_directory_of_someone_else_gets_no_lock_file(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RecipeError, match="not empty"):
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


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path):
    directory = claim_output(tmp_path / "run", force=False)
    directory.write_text("splits.json", "{}\n")
    assert (directory.path / "splits.json").read_text() == "{}\n"
    assert not list(directory.path.glob("*.partial"))
