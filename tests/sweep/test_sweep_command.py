"""`compress sweep` and `compress store`: arguments in, exit code out."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from compressor import cli
from compressor.pipeline.shared_store import open_store

Compress = Callable[..., int]


@pytest.fixture
def compress(monkeypatch: pytest.MonkeyPatch) -> Compress:
    """Return a function that runs the command line and gives the exit code."""

    def call(*arguments: object) -> int:
        monkeypatch.setattr(sys, "argv", ["compress", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        return int(caught.value.code or 0)

    return call


def test_a_sweep_says_what_it_chose_and_where_it_lies(
    compress: Compress, make_sweep, stand_in, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    make_sweep()
    assert compress("sweep", tmp_path / "sweep.yaml") == 0
    said = capsys.readouterr().out
    assert "trial 3 of 3: passes.0.sparsity=0.3" in said
    assert "breaks the score fell by 3 points, 2.5 points allowed" in said
    assert "3 of 3 trials, 2 on the front, trial 2 chosen" in said
    assert f"front: {tmp_path}/out/front.html" in said
    assert f"recipe: {tmp_path}/out/best.yaml" in said


def test_settings_of_the_recipe_may_be_overridden(
    compress: Compress, make_sweep, stand_in, tmp_path: Path
):
    make_sweep()
    assert compress("sweep", tmp_path / "sweep.yaml", "--set", "seed=7") == 0
    [chosen] = stand_in.chosen
    assert chosen.seed == 7


def test_a_sweep_without_a_feasible_trial_ends_with_5(
    compress: Compress, make_sweep, stand_in, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    make_sweep(constraints={"bytes": "1 MB"})
    assert compress("sweep", tmp_path / "sweep.yaml") == 5
    assert "trial 3 came closest" in " ".join(capsys.readouterr().err.split())


def test_a_mistake_in_the_sweep_ends_with_2(
    compress: Compress, make_sweep, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    make_sweep()
    data = json.loads((tmp_path / "sweep.yaml").read_text())
    (tmp_path / "sweep.yaml").write_text(json.dumps({**data, "sampler": "bayes"}))
    assert compress("sweep", tmp_path / "sweep.yaml") == 2
    assert "sampler: must be 'grid', 'random', 'tpe' or 'nsga2'" in capsys.readouterr().err


def test_without_optuna_its_extra_is_named(
    compress: Compress,
    make_sweep,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
):
    make_sweep()
    monkeypatch.setattr(cli, "find_spec", lambda name: None)
    assert compress("sweep", tmp_path / "sweep.yaml") == 3
    assert "install compressor with its extra 'sweep'" in " ".join(capsys.readouterr().err.split())


def test_without_ray_its_extra_is_named(
    compress: Compress,
    make_sweep,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
):
    make_sweep()
    monkeypatch.setattr(cli, "find_spec", lambda name: None if name == "ray" else object())
    assert compress("sweep", tmp_path / "sweep.yaml", "--ray", "local", "--workers", "2") == 3
    assert "install compressor with its extra 'ray'" in " ".join(capsys.readouterr().err.split())


def test_a_cluster_needs_a_number_of_workers(
    compress: Compress, make_sweep, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    make_sweep()
    assert compress("sweep", tmp_path / "sweep.yaml", "--ray", "local") == 2
    assert "--ray and --workers belong together" in capsys.readouterr().err


def test_a_store_is_shown_and_pruned(
    compress: Compress, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    open_store(tmp_path / "store")
    (tmp_path / "store" / "steps" / "a").mkdir(parents=True)
    (tmp_path / "store" / "steps" / "a" / "model").write_bytes(b"x" * 2_000_000)
    assert compress("store", tmp_path / "store") == 0
    assert capsys.readouterr().out == f"{tmp_path}/store: 1 step, 2.0 MB\n"
    assert compress("store", tmp_path / "store", "--keep", "1 MB") == 0
    assert capsys.readouterr().out == (
        f"removed: 1 step, 2.0 MB\n{tmp_path}/store: 0 steps, 0.0 MB\n"
    )


def test_a_size_that_is_none_is_refused(
    compress: Compress, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    open_store(tmp_path / "store")
    assert compress("store", tmp_path / "store", "--keep", "lots") == 2
    assert "--keep lots: must be a size such as 20 MB" in capsys.readouterr().err
