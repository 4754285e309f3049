"""Size, speed and what changed: the three figures of the first screen."""

from __future__ import annotations

from typing import Any

import pytest

from compressor.report import gains
from compressor.report.report_json import from_plain


def test_what_was_gained_is_one_line(passed: dict[str, Any]):
    assert gains.gained_words(from_plain(passed)) == (
        "5.2× smaller (90.8 → 17.4 MB), 2.5× faster (12.0 → 4.80 ms at batch 1, 32 tokens on cpu)"
    )


def test_what_was_not_timed_is_not_called_faster(report_in_state: Any):
    assert gains.gained_words(from_plain(report_in_state("without-latencies"))) == (
        "5.2× smaller (90.8 → 17.4 MB), latency not measured"
    )


def test_a_model_card_speaks_of_no_time_of_this_machine(passed: dict[str, Any]):
    assert (
        gains.gained_words(from_plain(passed), with_speed=False) == "5.2× smaller (90.8 → 17.4 MB)"
    )


def test_a_noisy_time_is_called_so(passed: dict[str, Any]):
    passed["latencies"][0]["noisy"] = True
    assert "on cpu, noisy)" in str(gains.gained_words(from_plain(passed)))
    assert (
        gains.cards(from_plain(passed))[1].detail
        == "batch 1, 32 tokens, cpu; noisy: the machine was busy"
    )


def test_noise_at_another_setting_does_not_spoil_the_one_shown(passed: dict[str, Any]):
    passed["latencies"][3]["noisy"] = True
    assert "noisy" not in str(gains.gained_words(from_plain(passed)))


def test_the_three_figures_are_size_speed_and_change(report_in_state: Any):
    cards = gains.cards(from_plain(report_in_state("certified")))
    assert [(card.figure, card.unit, card.values) for card in cards] == [
        ("5.2×", "smaller", "90.8 → 17.4 MB"),
        ("2.5×", "faster", "12.0 → 4.80 ms"),
        ("−0.50", "points", "91.00% → 90.50%"),
    ]


def test_the_change_is_that_of_the_rows_kept_apart_with_its_bound(report_in_state: Any):
    card = gains.cards(from_plain(report_in_state("certified")))[2]
    assert card.detail == (
        "proven: at most 0.87 points of accuracy lost; 900 rows kept apart; budget 1 point"
    )
    assert (card.budget_used, card.bound) == (pytest.approx(0.5), pytest.approx(0.87))


def test_without_rows_kept_apart_the_change_is_that_of_the_search_rows(report_in_state: Any):
    card = gains.cards(from_plain(report_in_state("uncertified")))[2]
    assert (card.figure, card.values) == ("−0.60", "90.00% → 89.40%")
    assert (card.detail, card.bound) == ("872 search rows; budget 1 point", None)
    assert card.budget_used == pytest.approx(0.6)


def test_a_budget_of_zero_has_no_meter(passed: dict[str, Any]):
    passed["max_drop"] = 0.0
    assert gains.cards(from_plain(passed))[2].budget_used is None


def test_without_labels_the_third_figure_is_the_share_of_changed_predictions(report_in_state: Any):
    data = report_in_state("uncertified") | {"metric": "agreement"}
    data["baseline"]["score"]["value"], data["final"]["score"]["value"] = 1.0, 0.992
    card = gains.cards(from_plain(data))[2]
    assert (card.title, card.figure, card.unit) == ("Predictions", "0.8%", "changed")


def test_what_stayed_the_same_needs_no_figure(report_in_state: Any):
    card = gains.cards(from_plain(report_in_state("without-passes")))[0]
    assert (card.figure, card.unit) == ("Same size", "")
    assert card.detail == "22.7 M parameters, as before"


def test_cards_show_the_baseline_alone_when_there_is_no_artifact(report_in_state: Any):
    cards = gains.cards(from_plain(report_in_state("over-budget")))
    assert [(card.figure, card.unit) for card in cards] == [
        ("90.8", "MB"),
        ("90.00%", ""),
        ("22.7 M", ""),
    ]


def test_there_are_no_cards_when_nothing_was_measured(report_in_state: Any):
    assert gains.cards(from_plain(report_in_state("failed-before-baseline"))) == []


def half(data: dict[str, Any], after: int) -> dict[str, Any]:
    """Return a run on 45.4 MB of float16, whose export in float32 takes 90.8 MB."""
    final = {**data["final"], "size": {**data["final"]["size"], "bytes_on_disk": after}}
    return {**data, "source_bytes": 45_400_000, "final": final}


def test_an_artifact_larger_than_the_file_that_was_given_is_not_smaller(passed: dict[str, Any]):
    # 51.9 MB are 1.143 times 45.4 MB, and 90.8 MB are 1.75 times 51.9 MB.
    data = half(passed, 51_900_000)
    assert str(gains.gained_words(from_plain(data))).startswith("1.1× larger (45.4 → 51.9 MB), ")
    card = gains.cards(from_plain(data))[0]
    assert (card.figure, card.unit, card.values) == ("1.1×", "larger", "45.4 → 51.9 MB")
    assert card.detail == (
        "parameters 22.7 M → 17.0 M; in float32, as ONNX, the original takes 90.8 MB; the artifact "
        "is 1.7× smaller than that"
    )


def test_a_file_given_in_float32_needs_no_word_about_its_export(passed: dict[str, Any]):
    card = gains.cards(from_plain({**passed, "source_bytes": 90_100_000}))[0]
    assert card.detail == "parameters 22.7 M → 17.0 M"


def test_a_report_that_does_not_know_the_given_file_compares_with_the_export(
    passed: dict[str, Any],
):
    assert gains.size_words(from_plain({**passed, "source_bytes": None})) == "5.2× smaller"


def test_times_are_given_on_the_clock_of_their_ratio(passed: dict[str, Any]):
    """Beside other work the wall clock says 30 times, the CPU clock of the thread 1.6 times."""
    one = passed["latencies"][0]
    before = one | {"model": "baseline", "p50_ms": 60.0, "cpu_p50_ms": 3.2}
    after = one | {"model": "final", "p50_ms": 2.0, "cpu_p50_ms": 2.0}
    words = str(gains.gained_words(from_plain(passed | {"latencies": [before, after]})))
    assert words.endswith("1.6× faster (3.20 → 2.00 ms of CPU time at batch 1, 32 tokens on cpu)")
