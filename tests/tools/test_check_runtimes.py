"""The search for the oldest runtime, and what counts as another answer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from compressor.models.onnx_model import open_session


@pytest.fixture(scope="module")
def checking(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("check_runtimes")


@pytest.mark.parametrize(("first", "expected"), [(0, "1.1.0"), (2, "1.3.0"), (3, None)])
def test_halving_finds_the_first_release_that_works(
    checking: ModuleType, first: int, expected: str | None
):
    releases = ("1.1.0", "1.2.0", "1.3.0")
    works = releases[first:]
    assert checking.oldest_that(lambda release: release in works, releases) == expected


def test_a_difference_is_told_in_units_of_the_largest_output(checking: ModuleType):
    before = [np.array([[10.0, 0.0]], dtype=np.float32), np.array([[1.0, 2.0]], dtype=np.float32)]
    after = [np.array([[9.0, 0.0]], dtype=np.float32), np.array([[1.0, 2.5]], dtype=np.float32)]
    median, largest = checking._differences(before, after)
    assert (median, largest) == (pytest.approx(0.075), pytest.approx(0.1))


def test_the_tiny_graph_of_the_tables_runs_here(checking: ModuleType, tmp_path: Path):
    path = tmp_path / "model.onnx"
    path.write_bytes(checking.tiny_graph(21, 10).SerializeToString())
    values = np.ones((2, 4), dtype=np.float32)
    assert open_session(path, "cpu").run(None, {"x": values})[0].tolist() == values.tolist()


def test_releases_are_known_in_their_order_and_reach_what_is_supported(checking: ModuleType):
    versions = [checking._version(release) for release in checking.RELEASES]
    assert versions == sorted(versions)
    assert versions[0] == checking.OLDEST
    assert set(checking.OPSETS.values()) <= set(versions)


def test_a_release_that_answers_otherwise_is_told(
    checking: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    class Changed:
        def answers(self, release: str, model: Path, feeds: Path) -> object:
            outputs = (np.zeros((1, 2), dtype=np.float32),)
            return checking.Answers("no kernel" if release == "1.1.0" else None, outputs)

    class Loaded:
        manifest = {"min_onnxruntime": "1.1.0"}  # noqa: RUF012 - a stand-in

    monkeypatch.setattr(checking, "load_artifact", lambda *_, **__: Loaded())
    monkeypatch.setattr(checking, "_feeds", lambda *_: [np.ones((1, 2), dtype=np.float32)])
    wrong = checking.check_artifact(tmp_path, Changed(), ("1.1.0", "1.2.0"))
    assert "onnxruntime 1.1.0 does not run it (no kernel)" in wrong[0]
    assert "onnxruntime 1.2.0 gives other outputs (the median row by 1, one by 1)" in wrong[1]
