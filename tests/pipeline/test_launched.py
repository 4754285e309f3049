"""What accelerate was told is the recipe's, or refused before anything is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import compressor
from compressor.cli import app
from compressor.errors import EnvironmentMismatch


def with_training(recipe: dict[str, Any], **settings: Any) -> dict[str, Any]:
    return {**recipe, "passes": [{"kind": "finetune", **settings}]}


def test_another_precision_than_the_recipes_is_refused_by_name(
    bert_recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    recipe = with_training(bert_recipe)
    with pytest.raises(EnvironmentMismatch, match=r"told to train in bfloat16 .* float32"):
        compressor.run(recipe, output=tmp_path / "run", device="cpu", progress=None)


def test_quickstart_is_not_started_several_times(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    for name, value in {
        "WORLD_SIZE": "2",
        "RANK": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "29500",
    }.items():
        monkeypatch.setenv(name, value)

    done = CliRunner().invoke(app, ["quickstart", "--output", str(tmp_path)])

    assert isinstance(done.exception, EnvironmentMismatch)
    assert "2 processes were started" in str(done.exception)
    assert list(tmp_path.iterdir()) == []
