"""The figures of the documentation and the results files that commands wrote."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def quote(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("quote_results")


def test_every_table_is_what_its_results_file_says(quote: ModuleType):
    texts = [path.read_text(encoding="utf-8") for path in quote.DOCUMENTS]
    assert [quote.with_tables(text) for text in texts] == texts


def test_no_figure_stands_outside_the_tables(quote: ModuleType):
    texts = [path.read_text(encoding="utf-8") for path in quote.DOCUMENTS]
    assert [quote.figures_outside_tables(text) for text in texts] == [[] for _ in texts]


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
