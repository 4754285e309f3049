from typing import Any

from compressor.report.compare import Difference, incomparable
from compressor.report.report_json import from_plain


def test_equal_runs_have_nothing_to_warn_about(passed: dict[str, Any]):
    assert incomparable([("a", from_plain(passed)), ("b", from_plain(passed))]) == []


def test_another_checkpoint_makes_ratios_incomparable(passed: dict[str, Any]):
    other = passed | {"source_sha256": "ee" * 32}
    [warning] = incomparable([("a", from_plain(passed)), ("b", from_plain(other))])
    assert "different baselines" in warning.consequence
    assert warning.differences == (Difference("checkpoint", ("dd" * 32, "ee" * 32)),)


def test_the_same_weights_in_another_place_are_the_same_checkpoint(passed: dict[str, Any]):
    other = passed | {"source_checkpoint": "/elsewhere"}
    assert incomparable([("a", from_plain(passed)), ("b", from_plain(other))]) == []


def test_another_search_split_makes_scores_incomparable(passed: dict[str, Any]):
    splits = [split | {"fingerprint": "ff"} for split in passed["splits"]]
    [warning] = incomparable(
        [("a", from_plain(passed)), ("b", from_plain(passed | {"splits": splits}))]
    )
    assert "different examples" in warning.consequence
    assert [item.fact for item in warning.differences] == ["search split, fingerprint"]


def test_another_machine_makes_latencies_incomparable(passed: dict[str, Any]):
    environment = passed["environment"] | {
        "cpu": {"model": "Other CPU", "logical_cores": 2, "features": ["avx2", "avx512_vnni"]},
        "gpu": "Example GPU",
    }
    [warning] = incomparable(
        [("a", from_plain(passed)), ("b", from_plain(passed | {"environment": environment}))]
    )
    assert "different machines" in warning.consequence
    assert warning.differences == (
        Difference("CPU", ("Example CPU @ 2.50GHz", "Other CPU")),
        Difference("CPU features", ("avx2", "avx2, avx512_vnni")),
        Difference("GPU", ("none", "Example GPU")),
    )


def test_a_fact_that_only_one_run_recorded_is_no_difference(passed: dict[str, Any]):
    assert (
        incomparable([("a", from_plain(passed)), ("b", from_plain(passed | {"environment": {}}))])
        == []
    )


def test_a_fact_that_a_run_lacks_is_a_dash_beside_those_that_differ(passed: dict[str, Any]):
    faster = passed | {"environment": passed["environment"] | {"threads": 8}}
    bare = passed | {"environment": {}}
    [warning] = incomparable(
        [("a", from_plain(passed)), ("b", from_plain(faster)), ("c", from_plain(bare))]
    )
    assert warning.differences == (Difference("threads", ("2", "8", "—")),)
