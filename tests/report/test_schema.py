import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import compressor.report
from compressor.report.schema import problems

DOCUMENT = (Path(compressor.report.__file__).parent / "schema.md").read_text(encoding="utf-8")
FREE_FORM = {
    "recipe",
    "missing",
    "passes[].settings",
    "passes[].facts",
    "passes[].tries[].settings",
    "environment.packages",
    "environment.variables",
}


def key_paths(value: Any, place: str = "") -> set[str]:
    """Return the path of every key, such as `passes[].size.parameters`."""
    if place in FREE_FORM:
        return {place}
    if isinstance(value, dict):
        inner = [key_paths(item, f"{place}.{key}".lstrip(".")) for key, item in value.items()]
        return {place}.union(*inner) - {""}
    if isinstance(value, list):
        return set().union(*(key_paths(item, f"{place}[]") for item in value))
    return {place}


def test_the_description_names_every_key_and_no_other(
    passed: dict[str, Any], report_in_state: Callable[[str], dict[str, Any]]
):
    documented = set(re.findall(r"^\| `([^`]+)`", DOCUMENT, re.MULTILINE))
    documented -= {"certification.baseline", "certification.final"}
    written = key_paths(passed) | key_paths(report_in_state("embeddings")) | {"doubts[]"}
    groups = {"baseline.score", "baseline.size", "final.score", "final.size"}
    groups |= {"environment.cpu", "certification.baseline", "certification.final"}
    assert written - groups == documented


def test_a_full_report_has_no_problems(any_state: dict[str, Any]):
    assert problems(any_state) == []


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            {"verdict": "fine"},
            "verdict: expected 'passed' or 'budget_exceeded' or 'not_certified' or 'failed' or "
            "'stopped' or 'internal_error', got 'fine'",
        ),
        ({"seconds": "long"}, "seconds: expected a number, got 'long'"),
        ({"seconds": True}, "seconds: expected a number, got True"),
        ({"seconds": -1.0}, "seconds: expected a number, 0 or more, got -1.0"),
        ({"seconds": float("inf")}, "seconds: expected a number, got inf"),
        ({"seconds": None}, "seconds: expected a number, got None"),
        ({"passes": {}}, "passes: expected a list, got {}"),
        ({"recipe": []}, "recipe: expected an object, got []"),
        ({"labels": [1]}, "labels[0]: expected text, got 1"),
        ({"missing": {"final": 3}}, "missing.final: expected text, got 3"),
        ({"baseline": "big"}, "baseline: expected an object, got 'big'"),
        ({"parity": {}}, "parity.max_abs_diff: missing"),
    ],
)  # fmt: skip
def test_a_wrong_type_is_named_with_its_place(passed: dict[str, Any], change: Any, problem: str):
    assert problem in problems(passed | change)


def test_a_long_value_is_cut_in_the_message(passed: dict[str, Any]):
    [problem] = problems(passed | {"seconds": "x" * 500})
    assert len(problem) < 90


def test_null_is_allowed_for_a_measurement_whose_reason_is_given(passed: dict[str, Any]):
    passed["baseline"]["score"]["value"] = None
    assert problems(passed) == ["baseline.score.value: expected a number, got None"]
    passed["missing"] = {"baseline.score.value": "it came out as nan"}
    assert problems(passed) == []


def test_a_key_with_a_default_may_be_absent(passed: dict[str, Any]):
    first = passed["passes"][0]
    del passed["labels"], first["notes"], first["facts"]
    assert problems(passed) == []
    assert (passed["labels"], first["notes"], first["facts"]) == ([], [], {})


def test_a_negative_score_is_allowed(passed: dict[str, Any]):
    passed["baseline"]["score"]["value"] = -0.2
    assert problems(passed) == []
