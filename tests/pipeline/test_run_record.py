"""What of a run's facts goes into a manifest."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from compressor.pipeline.run_record import RunLog


@pytest.mark.parametrize("folder", ["", "there", "not/there/yet"])
def test_a_manifest_names_no_folder_of_the_machine(tmp_path: Path, folder: str):
    (tmp_path / "there").mkdir()
    place = tmp_path / folder / "name"
    recipe = {"output": str(place), "data": {"train": {"path": str(place)}}, "keep": "/m/0k4j"}
    log = RunLog(recipe, "recipe.yaml", 0.01, {}, str(place))
    measured: Any = SimpleNamespace(score=SimpleNamespace(value=0.9, num_examples=10))
    log.baseline = log.final = measured
    found = log.provenance()
    assert found["recipe"] == {
        "output": "name",
        "data": {"train": {"path": "name"}},
        "keep": "/m/0k4j",  # a label, which no folder of this machine begins
    }
    assert found["source"]["checkpoint"] == "name"
    assert str(tmp_path) not in str(found)
