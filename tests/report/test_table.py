from typing import Any

from compressor.report import table
from compressor.report.report_json import from_plain
from compressor.report.table import Setting, Timing


def test_the_table_has_the_baseline_every_pass_and_the_final_artifact(passed: dict[str, Any]):
    assert [row.name for row in table.table_rows(from_plain(passed))] == [
        "Baseline",
        "1 · prune_structured",
        "2 · quantize_dynamic",
        "Final artifact",
    ]


def test_a_pass_row_shows_its_own_measurements(passed: dict[str, Any]):
    row = table.table_rows(from_plain(passed))[2]
    assert (row.megabytes, row.compressed_megabytes, row.parameters) == ("17.4", "13.2", "17.0 M")
    assert (row.nonzero, row.zeros) == ("16.1 M", "5.0%")  # 1 - 16.15 / 17
    assert (row.score, row.change, row.seconds) == ("89.40%", "−0.60", "2.3 s")
    assert (row.state, row.verdict) == ("passed", "within budget")


def test_only_the_ends_of_a_run_have_latencies(passed: dict[str, Any]):
    rows = table.table_rows(from_plain(passed))
    assert rows[0].timings[0] == Timing("12.0", "13.2")
    assert rows[1].timings == (None, None, None, None)
    assert rows[3].timings[0] == Timing("4.80", "5.28")


def test_passes_that_the_run_never_began_are_listed(report_in_state):
    row = table.table_rows(from_plain(report_in_state("over-budget")))[2]
    assert (row.name, row.state, row.score) == ("2 · quantize_dynamic", "unreached", "—")


def test_a_pass_that_failed_shows_dashes_and_its_verdict(report_in_state):
    row = table.table_rows(from_plain(report_in_state("failed-at-second-pass")))[2]
    assert (row.verdict, row.megabytes, row.score, row.change) == ("failed", "—", "—", "—")


def test_settings_go_from_small_to_large_within_each_provider(report_in_state):
    settings = table.latency_settings(from_plain(report_in_state("several-providers")))
    assert settings == [
        Setting(provider, batch, tokens)
        for provider in ("cpu", "cuda")
        for batch in (1, 8)
        for tokens in (32, 128)
    ]


def test_the_reference_setting_is_the_first_that_both_models_have(passed: dict[str, Any]):
    passed["latencies"] = [
        entry
        for entry in passed["latencies"]
        if not (entry["model"] == "final" and entry["batch_size"] == 1)
    ]
    assert table.reference_setting(from_plain(passed)) == Setting("cpu", 8, 32)


def test_a_speed_up_needs_both_models(passed: dict[str, Any]):
    passed["latencies"] = [e for e in passed["latencies"] if e["model"] == "final"]
    row = table.latency_grid(from_plain(passed))[0]
    assert (row.baseline, row.final, row.speedup) == (None, Timing("4.80", "5.28"), "—")
    assert row.relative is None


def test_the_grid_says_how_much_slower_a_model_became(report_in_state):
    row = table.latency_grid(from_plain(report_in_state("images")))[1]
    assert row.setting == Setting("cpu", 8, 0)
    assert row.speedup == "1.2× slower"  # 2.2 / 1.9 = 1.16


def test_a_setting_without_a_sequence_does_not_mention_tokens():
    assert (Setting("cpu", 4, 0).shape, Setting("cpu", 4, 1).shape) == (
        "batch 4",
        "batch 4, 1 token",
    )


def test_the_compressed_column_is_there_only_when_something_was_compressed(
    passed: dict[str, Any], report_in_state
):
    assert table.has_compressed_sizes(from_plain(passed))
    assert not table.has_compressed_sizes(from_plain(report_in_state("failed-before-baseline")))
