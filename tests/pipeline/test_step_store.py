"""A stored step is whole or absent, and comes back only when every byte is as it was written."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from compressor.errors import EnvironmentMismatch
from compressor.measurements import Score, Size
from compressor.pipeline.step_store import Step, StepStore, key_of, link_or_copy, link_tree

KEY = key_of({"step": "pass", "ratio": 0.5})
SCORE = Score("accuracy", 0.75, 4, np.array([0, 1, 1, 0]))


@pytest.fixture
def store(tmp_path: Path) -> StepStore:
    return StepStore(tmp_path / "steps", tmp_path / "work")


def keep(store: StepStore, key: str = KEY) -> Step:
    result = store.work_dir(key) / "result"
    (result / "checkpoint").mkdir(parents=True)
    (result / "checkpoint" / "model.safetensors").write_bytes(b"weights")
    facts = {"score": SCORE, "size": Size(1, 2, 3), "notes": ["done"]}
    return store.keep("a pass", key, depends_on={}, facts=facts, seconds=2.5, files=result)


def reopened(store: StepStore) -> StepStore:
    return StepStore(store.path, store.scratch)


def test_the_key_depends_on_every_value_and_not_on_their_order():
    assert key_of({"a": 1, "b": [0.5]}) == key_of({"b": [0.5], "a": 1})
    assert key_of({"a": 1, "b": [0.5]}) != key_of({"a": 1, "b": [0.5000001]})


def test_a_step_that_was_never_done_is_not_found(store: StepStore):
    assert store.find("a pass", KEY) is None


def test_a_stored_step_comes_back_in_another_process_as_it_was(store: StepStore):
    kept = keep(store)
    found = reopened(store).find("a pass", KEY)
    assert found is not None
    assert (kept.reused, found.reused) == (False, True)
    assert (found.files, found.facts, found.seconds) == (kept.files, kept.facts, 2.5)
    assert found.digest == kept.digest
    assert found.fact("score", Score) == SCORE
    assert found.fact("score", Score).outcomes.tolist() == [0, 1, 1, 0]
    assert found.fact("size", Size) == Size(1, 2, 3)
    assert (found.folder / "checkpoint" / "model.safetensors").read_bytes() == b"weights"


def test_the_digest_follows_the_files_and_not_the_measurements(store: StepStore):
    first, second = keep(store), keep(store, key_of({"step": "another"}))
    assert first.digest == second.digest


def test_scratch_space_stays_until_the_step_is_stored(store: StepStore):
    (store.work_dir(KEY) / "half").write_text("of a training run")
    assert (reopened(store).work_dir(KEY) / "half").read_text() == "of a training run"
    keep(store)
    assert not (store.scratch / KEY).exists()


@pytest.mark.parametrize(
    "damaged", ["checkpoint/model.safetensors", "arrays.safetensors", "step.json"]
)
@pytest.mark.parametrize("damage", [b"", b"x"], ids=["emptied", "changed"])
def test_a_damaged_step_is_dropped_and_said_to_be(store: StepStore, damaged: str, damage: bytes):
    keep(store)
    (store.path / KEY / damaged).write_bytes(damage)
    again = reopened(store)
    assert again.find("a pass", KEY) is None
    assert not (store.path / KEY).exists()
    [sentence] = again.damaged
    assert sentence.startswith("the stored step 'a pass' was damaged")


def test_a_number_changed_in_the_record_is_noticed(store: StepStore):
    keep(store)
    record = store.path / KEY / "step.json"
    record.write_text(record.read_text().replace("0.75", "0.95"))
    assert reopened(store).find("a pass", KEY) is None


def test_a_missing_file_is_damage(store: StepStore):
    keep(store)
    (store.path / KEY / "checkpoint" / "model.safetensors").unlink()
    assert reopened(store).find("a pass", KEY) is None


@pytest.mark.parametrize("name", ["arrays.safetensors", "step.json"])
def test_a_pipe_in_place_of_a_stored_file_is_damage_and_is_never_opened(
    store: StepStore, name: str
):
    keep(store)
    (store.path / KEY / name).unlink()
    os.mkfifo(store.path / KEY / name)
    assert reopened(store).find("a pass", KEY) is None


def nested(folder: Path) -> None:
    (folder / "step.json").write_text('{"files": ' + "[" * 100_000)


def replaced_by_a_list(folder: Path) -> None:
    (folder / "step.json").write_text("[1, 2]")


def with_more_files(folder: Path) -> None:
    (folder / "checkpoint" / "added_tokens.json").write_text('{"good": 6}')


def with_a_link(folder: Path) -> None:
    weights = folder / "checkpoint" / "model.safetensors"
    weights.rename(folder.parent.parent / "elsewhere")
    weights.symlink_to(folder.parent.parent / "elsewhere")


def a_link_itself(folder: Path) -> None:
    folder.rename(folder.parent.parent / "elsewhere")
    folder.symlink_to(folder.parent.parent / "elsewhere")


def a_link_to_nothing(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.symlink_to(folder.parent / "nothing")


def a_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("")


def a_folder_in_place_of_a_file(folder: Path) -> None:
    (folder / "step.json").unlink()
    (folder / "step.json").mkdir()


@pytest.mark.parametrize(
    "damage",
    [
        nested,
        replaced_by_a_list,
        with_more_files,
        with_a_link,
        a_link_itself,
        a_link_to_nothing,
        a_file,
        a_folder_in_place_of_a_file,
    ],
)
def test_an_edited_entry_is_done_again_and_said_to_be(
    store: StepStore, damage: Callable[[Path], None]
):
    keep(store)
    damage(store.path / KEY)
    again = reopened(store)
    assert again.find("a pass", KEY) is None
    assert len(again.damaged) == 1
    assert not os.path.lexists(store.path / KEY)
    assert keep(again).key == KEY


@pytest.mark.parametrize(
    "changes",
    [
        {"files": ["model.safetensors"]},
        {"files": {}},
        {"files": {"../../secret": "0"}},
        {"facts": [1]},
        {"seconds": "2.5"},
        {"version": 99},
    ],
)
def test_an_entry_of_other_types_is_damage_though_its_hash_is_right(
    store: StepStore, changes: dict[str, object]
):
    keep(store)
    path = store.path / KEY / "step.json"
    record = json.loads(path.read_text())
    del record["sha256"]
    record |= changes
    path.write_text(json.dumps({**record, "sha256": key_of(record)}))
    assert reopened(store).find("a pass", KEY) is None


def test_a_fact_of_another_version_is_refused_with_its_folder(store: StepStore):
    step = keep(store)
    with pytest.raises(
        EnvironmentMismatch, match=rf"{KEY}: the stored step 'a pass' has no 'flops'"
    ):
        step.fact("flops", Size)


@pytest.mark.parametrize("name", ["steps", "work"])
def test_a_store_that_is_a_link_is_refused_before_anything_is_done(tmp_path: Path, name: str):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(EnvironmentMismatch, match=rf"{name}: is a link, and finished steps"):
        StepStore(tmp_path / "steps", tmp_path / "work")


def test_a_link_among_the_steps_does_not_stop_the_end_of_a_run(store: StepStore, tmp_path: Path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "kept").write_text("")
    (store.path / "0123").symlink_to(tmp_path / "elsewhere")
    store.remove_unused()
    assert list(store.path.iterdir()) == []
    assert (tmp_path / "elsewhere" / "kept").exists()


def test_half_a_step_of_a_killed_run_is_not_found_and_goes(
    store: StepStore, monkeypatch: pytest.MonkeyPatch
):
    def stop(folder: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("compressor.pipeline.step_store._force_to_disk", stop)
    with pytest.raises(KeyboardInterrupt):
        keep(store)
    assert [path.name for path in store.path.iterdir()] == [f".partial-{KEY}"]
    again = reopened(store)
    assert again.find("a pass", KEY) is None
    assert list(store.path.iterdir()) == []


def test_what_the_recipe_no_longer_uses_is_removed(store: StepStore):
    keep(store)
    keep(store, key_of({"step": "of an earlier recipe"}))
    again = reopened(store)
    again.work_dir("unfinished")
    again.find("a pass", KEY)
    again.remove_unused()
    assert [path.name for path in store.path.iterdir()] == [KEY]
    assert not store.scratch.exists()


def test_the_files_of_a_step_are_shown_without_its_records(store: StepStore, tmp_path: Path):
    step = keep(store)
    link_tree(step.folder, tmp_path / "shown")
    shown = [path for path in (tmp_path / "shown").rglob("*") if path.is_file()]
    assert [path.name for path in shown] == ["model.safetensors"]
    assert shown[0].samefile(step.folder / "checkpoint" / "model.safetensors")


def test_a_file_is_copied_where_there_are_no_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*arguments: object, **settings: object) -> None:
        raise PermissionError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    (tmp_path / "a").write_text("content")
    link_or_copy(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_text() == "content"
    assert not (tmp_path / "b").samefile(tmp_path / "a")


def test_a_file_of_somebody_else_among_the_steps_stays(store: StepStore):
    (store.path / ".DS_Store").write_text("")
    (store.path / "0123").mkdir()
    store.remove_unused()
    assert [path.name for path in store.path.iterdir()] == [".DS_Store"]
