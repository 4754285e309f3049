"""The vocabulary that stands for a multilingual one."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from types import ModuleType

from compressor.models.scripts import scripts_of


def test_other_pieces_are_new_less_frequent_and_of_many_scripts(
    load_script: Callable[[str], ModuleType],
):
    own = [("▁the", -3.0), ("a", -5.0)]
    made = load_script("trim_multilingual").other_pieces(own, 40_000)
    found = list(islice(made, 50_000))
    pieces = [piece for piece, _ in found]
    assert len(found) == len(set(pieces) - {"▁the", "a"}) == 40_000
    assert max(score for _, score in found) < -5.0
    counts = scripts_of(pieces)
    assert counts["Latin"] > 1000
    assert {"Cyrillic", "Greek", "Arabic", "Han", "Hangul", "Thai"} <= set(counts)
