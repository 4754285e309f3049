"""The demonstration without any download, from a cold cache to a report, and a check of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import compressor
from compressor.measurements import RunReport

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunReport, Path]:
    folder = tmp_path_factory.mktemp("digits")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COMPRESSOR_CACHE", str(folder / "cache"))
        recipe = compressor.load_recipe(ROOT / "recipes" / "digits.yaml")
        return compressor.run(recipe, output=folder / "run", device="cpu"), folder / "run"


def test_the_built_in_model_is_good_and_loses_little(
    digits: tuple[RunReport, Path],
):
    report, _ = digits
    assert report.baseline is not None
    assert report.final is not None
    assert report.baseline.score.value >= 0.97
    assert report.final.score.value >= report.baseline.score.value - 0.02


def test_the_budget_is_proven_on_images_that_no_step_had_seen(digits: tuple[RunReport, Path]):
    report, _ = digits
    assert report.certificate is not None
    assert report.certificate.verdict == "certified"
    assert report.certificate.num_examples == 250


def test_the_report_shows_images_with_both_predictions(digits: tuple[RunReport, Path]):
    report, _ = digits
    assert len(report.predictions) == 3
    assert all(item.image is not None for item in report.predictions)


def test_the_artifact_is_at_least_six_times_smaller(digits: tuple[RunReport, Path]):
    report, _ = digits
    assert report.baseline is not None
    assert report.final is not None
    assert 6 * report.final.size.bytes_on_disk <= report.baseline.size.bytes_on_disk


def test_the_test_images_were_not_trained_on(digits: tuple[RunReport, Path]):
    splits = {split.name: split for split in digits[0].splits}
    assert splits["search"].shared_with == {}


def test_an_independent_script_finds_the_reported_figures(digits: tuple[RunReport, Path]):
    result = subprocess.run(
        [sys.executable, ROOT / "tools" / "verify_run.py", digits[1]],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_independent_script_notices_a_wrong_report(
    digits: tuple[RunReport, Path], tmp_path: Path
):
    for name in ("splits.json", "artifact"):
        (tmp_path / name).symlink_to(digits[1] / name)
    report = json.loads((digits[1] / "report.json").read_text())
    report["final"]["score"]["value"] -= 0.002
    (tmp_path / "report.json").write_text(json.dumps(report))
    result = subprocess.run(
        [sys.executable, ROOT / "tools" / "verify_run.py", tmp_path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert "DOES NOT AGREE" in result.stdout
