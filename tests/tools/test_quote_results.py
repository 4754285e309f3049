"""The figures of the documentation and the results files that commands wrote."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def quote(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("quote_results")


def test_every_table_is_what_its_results_file_says(quote: ModuleType):
    texts = {path: path.read_text(encoding="utf-8") for path in quote.DOCUMENTS}
    fresh = {path: quote.with_tables(text, path.parent) for path, text in texts.items()}
    assert fresh == texts


def test_no_figure_stands_outside_the_tables(quote: ModuleType):
    texts = {path: path.read_text(encoding="utf-8") for path in quote.DOCUMENTS}
    found = {path: quote.figures_outside_tables(text) for path, text in texts.items()}
    assert found == {path: [] for path in texts}


def test_every_page_but_the_generated_ones_is_looked_through(quote: ModuleType):
    pages = {path.relative_to(quote.ROOT).as_posix() for path in quote.DOCUMENTS}
    assert {"README.md", "docs/getting-started.md", "docs/guides/very-few-rows.md"} <= pages
    assert not [page for page in pages if page.startswith("docs/reference/")]


def test_a_link_to_a_results_file_leads_there_from_the_page(quote: ModuleType):
    block = "<!-- results: int8 -->\n\n<!-- end of results -->"
    page = quote.with_tables(block, quote.ROOT / "docs" / "understanding")
    assert "(../results/int8.json)" in page
    assert "(docs/results/int8.json)" in quote.with_tables(block, quote.ROOT)


def test_rows_without_a_change_prove_what_the_binomial_leaves_possible(quote: ModuleType):
    # Nothing changed in 500 rows: a rate of r would show that with a chance of (1 - r)^500, which
    # is 5% at r = 1 - 0.05^(1/500) = 0.5974%.
    assert "| 500 | 0.63 points lost | 0.60% of predictions changed |" in quote.rows_prove()


def test_rows_that_prove_a_budget_are_those_that_a_certificate_asks_for(quote: ModuleType):
    # Of agreement: 93 rows allow one change at a bound of 5%, 124 two and 153 three; at 1% changed
    # P(at most 1 of 93) = 0.76 and P(at most 2 of 124) = 0.87.
    assert "| `0.05` (5%) | 59 | 130 |" in quote.rows_for_agreement()
    # Of accuracy: a rate without a change shows none with a chance of 5% on 299 rows at 1 point,
    # and Tango's bound asks for some more.
    assert "| `0.01` (1 point) | 310 |" in quote.rows_for_accuracy()


def test_a_figure_that_somebody_writes_by_hand_is_found(quote: ModuleType):
    lines = "It is 6.8× smaller.\n```\nratio: 0.5\n```\nAnd takes 17 MB (89.5%).\nOf 12 heads.\n"
    assert quote.figures_outside_tables(lines) == [
        "It is 6.8× smaller.",
        "And takes 17 MB (89.5%).",
    ]


def test_a_spread_is_the_mean_with_the_lowest_and_the_highest(quote: ModuleType):
    assert quote.spread([1.0, 2.0, 6.0], ".1f") == "3.0 (1.0 to 6.0)"


def test_speeds_give_the_mean_of_medians_and_the_whole_range(quote: ModuleType):
    runs = [{"median": 2.0, "low": 1.5, "high": 2.5}, {"median": 4.0, "low": 3.0, "high": 5.0}]
    assert quote.speeds(runs) == "3.0× (1.5 to 5.0)"


def test_a_command_is_told_without_the_folders_of_a_machine(
    load_script: Callable[[str], ModuleType],
):
    typed = ["/home/me/tools/measure.py", "/data/dev.tsv", "--others", "a=/tmp/b/c.onnx"]
    told = load_script("results").command_line(typed)
    assert told == "tools/measure.py dev.tsv --others a=c.onnx"


def test_the_quickstart_is_quoted_with_what_all_its_runs_prove(
    quote: ModuleType, monkeypatch: pytest.MonkeyPatch
):
    row = {
        "megabytes": {"baseline": 90.0, "final": 18.0}, "times_smaller": 5.0,
        "speed": {"batch 1 x 32": 2.5}, "certification_rows": 1200, "certification_score": 0.994,
        "confidence": 0.95, "points_lost_at_most": 1.0, "seconds": 41.0, "cpu_seconds": 48.0,
    }  # fmt: skip
    worst = {**row, "points_lost_at_most": 1.23}  # 0.9877, which is not yet 0.988
    results = {
        "rows": [row, worst], "about": {"cores": 2}, "command": "tools/x", "commit": "c",
        "date": "d", "machine": {"cpu": "e", "instructions": []},
        "versions": {"torch": "1", "onnxruntime": "2"},
    }  # fmt: skip
    monkeypatch.setattr(quote, "read_results", lambda name: results)
    table = quote.quickstart()
    assert "| size | 90.0 → 18.0 (18.0 to 18.0) MB, 5.0 (5.0 to 5.0)× smaller |" in table
    assert "| speed, batch 1 x 32 tokens | 2.5 (2.5 to 2.5)× |" in table
    assert "| proven with 95% confidence | at least 0.987 |" in table
    assert "1,200 unseen texts | 0.9940" in table
    assert "| time on 2 cores | 41 (41 to 41) s, of the CPU 48 (48 to 48) s |" in table
