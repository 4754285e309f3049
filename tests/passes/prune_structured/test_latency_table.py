from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from compressor.errors import EnvironmentMismatch
from compressor.passes.prune_structured import latency_table as latency
from compressor.passes.prune_structured.latency_table import (
    MeasuredTimes,
    Situation,
    TableCost,
    given_table,
    latency_of_sub_layers,
    latency_table,
    measured_sizes,
)
from compressor.passes.prune_structured.sub_layer_graphs import SubLayerKind
from compressor.progress import SILENT
from compressor.verify.timing import Steady

KIND = SubLayerKind(hidden_size=32, head_dim=8, activation="gelu", norms_first=False, has_mask=True)
SITUATION = Situation(
    kind=KIND,
    max_heads=2,
    max_neurons=40,
    round_to=16,
    batch_size=1,
    num_tokens=5,
    precision="float32",
    threads=1,
    one_token_last=False,
)
TIMES = MeasuredTimes({0: 0.1, 2: 0.5}, {0: 0.1, 40: 0.5})


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COMPRESSOR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(latency, "_ROUNDS", 3)
    monkeypatch.setattr(latency, "_FEWEST_BLOCKS", 2)
    monkeypatch.setattr(latency, "_MOST_BLOCKS", 2)
    monkeypatch.setattr(latency, "_LARGEST_ERROR", 1e9)  # two blocks of these sizes tell nothing
    return tmp_path / "cache" / "latency"


def test_a_table_is_measured_once_and_then_read(cache: Path):
    first = latency_of_sub_layers(SITUATION, SILENT)
    again = latency_of_sub_layers(SITUATION, SILENT)

    assert list(first.others.attention) == [0, 1, 2]
    assert list(first.others.feed_forward) == [0, 1, 40]
    assert len(first.others.table.attention) == 3
    assert len(first.others.table.feed_forward) == 41
    assert first.last == first.others
    assert (first.is_cached, again.is_cached) == (False, True)
    assert again == replace(first, is_cached=True)
    assert [path.name for path in cache.iterdir()] == [first.path.name]


def test_a_last_layer_of_which_one_token_is_read_has_times_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
):
    # A machine on which a whole layer takes 20 and its units 16; in the last layer heads take half
    # of that and neurons two fifths.
    asked: list[str] = []

    def steady(graphs: Mapping[str, Any], *_: Any) -> Steady:
        asked.extend(graphs)
        block = {name: time_of(name) for name in graphs}
        return Steady("cpu", (block, block), 1.0, 0.0, 6)

    monkeypatch.setattr(latency, "_steady", steady)
    found = latency_of_sub_layers(replace(SITUATION, one_token_last=True), SILENT)

    assert len(asked) == 1 + 2 * (3 + 4)
    units = {part: getattr(found.others, part)[largest] - 0.1 for part, largest in PARTS}
    assert sum(units.values()) == pytest.approx(0.8)
    assert found.others.attention[0] == found.others.feed_forward[0] == pytest.approx(0.045)
    assert found.last.attention[2] == pytest.approx(0.1 + 0.5 * units["attention"])
    assert found.last.feed_forward[40] == pytest.approx(0.1 + 0.5 * units["feed_forward"])
    assert found.content is not None
    assert found.content["measured"]["others"]["attention_ms"] == [[0, 1.0], [1, 6.0], [2, 10.0]]


PARTS = (("attention", 2), ("feed_forward", 40))


def time_of(name: str) -> float:
    """Return what a graph takes: of two sub-layers, or of one where one token is read."""
    if name == "nothing":
        return 3.0
    unit, count, *one = name.split("-")
    share = int(count) / (2 if unit == "heads" else 40)
    units = 8.0 * share * ((0.5 if unit == "heads" else 0.4) if one else 1.0)
    alone = 2.0 + units if share else 1.0
    return 3.0 + alone * (1 if one else 2)


def test_the_graphs_of_one_token_run(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(latency, "_ROUNDS", 1)
    for precision in ("float32", "int8"):
        situation = replace(
            SITUATION,
            precision=precision,
            kind=replace(KIND, norms_first=True),
            one_token_last=True,
        )
        found = latency_of_sub_layers(situation, SILENT)
        assert list(found.last.attention) == [0, 1, 2]


def test_whatever_a_time_depends_on_has_a_table_of_its_own(
    cache: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(latency, "_measure", lambda *_: (TIMES, TIMES, {}))
    others = [
        SITUATION,
        replace(SITUATION, precision="int8"),
        replace(SITUATION, num_tokens=6),
        replace(SITUATION, batch_size=2),
        replace(SITUATION, threads=2),
        replace(SITUATION, one_token_last=True),
        replace(SITUATION, kind=replace(KIND, hidden_size=64)),
    ]
    assert len({latency_of_sub_layers(each, SILENT).path for each in others}) == len(others)
    facts = latency.describe_environment
    monkeypatch.setattr(
        latency, "describe_environment", lambda **known: {**facts(**known), "cpu": "another"}
    )
    assert not latency_of_sub_layers(SITUATION, SILENT).is_cached
    assert len(list(cache.iterdir())) == len(others) + 1


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"key": {}}', "truncated"])
def test_a_damaged_file_is_measured_again_and_told(cache: Path, content: str):
    first = latency_of_sub_layers(SITUATION, SILENT)
    whole = first.path.read_text(encoding="utf-8")
    first.path.write_text(whole[:-40] if content == "truncated" else content, encoding="utf-8")

    again = latency_of_sub_layers(SITUATION, SILENT)

    assert not again.is_cached
    assert again.replaced is not None
    assert again.replaced.startswith(f"{first.path} could not be used (")
    assert latency_of_sub_layers(SITUATION, SILENT).is_cached


def test_a_table_that_ends_too_early_is_measured_again(cache: Path):
    first = latency_of_sub_layers(SITUATION, SILENT)
    content = json.loads(first.path.read_text(encoding="utf-8"))
    del content["last"]["feed_forward"][-1]
    first.path.write_text(json.dumps(content), encoding="utf-8")
    again = latency_of_sub_layers(SITUATION, SILENT)
    assert again.replaced is not None
    assert "last.feed_forward must reach max_neurons, 40, and ends at 1" in again.replaced


def test_a_cache_that_cannot_be_written_is_an_error_that_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "file").write_text("", encoding="utf-8")
    monkeypatch.setenv("COMPRESSOR_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(latency, "_measure", lambda *_: (TIMES, TIMES, {}))
    with pytest.raises(EnvironmentMismatch, match="set COMPRESSOR_CACHE to a directory"):
        latency_of_sub_layers(SITUATION, SILENT)


def test_nothing_is_measured_for_a_cache_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def measure(*_: object) -> tuple[MeasuredTimes, MeasuredTimes, dict[str, Any]]:
        raise AssertionError("measured first")

    (tmp_path / "file").write_text("", encoding="utf-8")
    monkeypatch.setenv("COMPRESSOR_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(latency, "_measure", measure)
    with pytest.raises(EnvironmentMismatch, match="set COMPRESSOR_CACHE to a directory"):
        latency_of_sub_layers(SITUATION, SILENT)


def test_a_table_can_be_given_back_on_another_machine(monkeypatch: pytest.MonkeyPatch):
    first = latency_of_sub_layers(SITUATION, SILENT)
    again = given_table(first.path, SITUATION)
    monkeypatch.setattr(latency, "_made_on", lambda _: {"cpu": "another", "versions": {}})
    elsewhere = given_table(first.path, SITUATION)

    assert (again.others, again.last, again.elsewhere) == (first.others, first.last, None)
    assert elsewhere.others == first.others
    assert elsewhere.elsewhere is not None
    assert elsewhere.elsewhere.startswith("cpu {'model': ")


def test_a_given_table_of_another_situation_is_refused():
    first = latency_of_sub_layers(SITUATION, SILENT)
    asked = replace(SITUATION, num_tokens=6, precision="int8")
    with pytest.raises(
        ValueError, match="num_tokens 5 and not 6; precision 'float32' and not 'int8'"
    ):
        given_table(first.path, asked)


def test_times_that_vary_too_much_are_refused_with_the_way_out(monkeypatch: pytest.MonkeyPatch):
    def steady(graphs: Mapping[str, Any], *_: Any) -> Steady:
        blocks = [{name: time_of(name) for name in graphs} for _ in range(2)]
        blocks[1] |= {name: 9 * value for name, value in blocks[1].items() if "heads" in name}
        return Steady("cpu", tuple(blocks), 1.0, 9.0, 6)

    monkeypatch.setattr(latency, "_steady", steady)
    monkeypatch.setattr(latency, "_LARGEST_ERROR", 0.25)
    with pytest.raises(EnvironmentMismatch, match="latency_table: FILE"):
        latency_of_sub_layers(SITUATION, SILENT)


def test_lines_are_drawn_between_points_and_the_rest_is_left_alone():
    table = latency_table({0: 1.0, 1: 2.0, 2: 2.0}, {0: 0.0, 4: 2.0, 6: 6.0})
    assert table.attention == (1.0, 2.0, 2.0)
    assert table.feed_forward == (0.0, 0.5, 1.0, 1.5, 2.0, 4.0, 6.0)


def test_points_that_fall_are_replaced_by_the_closest_that_do_not():
    # 5 and 3 become their mean; that is still below 6.
    table = latency_table({0: 1.0, 1: 5.0, 2: 3.0, 3: 6.0}, {0: 0.0})
    assert table.attention == (1.0, 4.0, 4.0, 6.0)
    assert table.feed_forward == (0.0,)


def test_an_encoder_takes_the_sum_of_its_sub_layers():
    table = latency_table({0: 1.0, 2: 3.0}, {0: 0.5, 2: 4.5})
    last = latency_table({0: 0.5, 2: 1.0}, {0: 0.25, 2: 0.5})
    cost = TableCost((table, last), heads=(2, 0), neurons=(1, 2))
    assert cost.of_layer(0, 1, 0) == 2.0 + 0.5
    assert cost.of_layer(1, 2, 0) == 1.0 + 0.25
    assert cost.total == (3.0 + 2.5) + (0.5 + 0.5)


@pytest.mark.parametrize(
    ("largest", "block", "most", "sizes"),
    [
        (4, 1, 9, (0, 1, 2, 3, 4)),
        (70, 16, 9, (0, 16, 32, 48, 64, 70)),
        (160, 16, 5, (0, 48, 96, 144, 160)),
        (0, 16, 5, (0,)),
    ],
)
def test_measured_sizes_are_multiples_of_a_block_and_both_ends(
    largest: int, block: int, most: int, sizes: tuple[int, ...]
):
    assert measured_sizes(largest, block, most) == sizes


@pytest.mark.parametrize("points", [{}, {1: 1.0}, {0: math.nan}, {0: -1.0}, {0: 1.0, 2: math.inf}])
def test_points_that_are_no_times_are_refused(points: dict[int, float]):
    with pytest.raises(ValueError, match="needs times of 0 heads and more, finite"):
        latency_table(points, {0: 1.0})
    with pytest.raises(ValueError, match="needs times of 0 neurons and more, finite"):
        latency_table({0: 1.0}, points)
