"""Measures what sub-layers of each size take in ONNX Runtime on this machine's CPU, once.

The table is kept in the cache, under what it depends on: processor, library versions, sizes,
length, batch, precision and threads. A file appears there whole or not at all; one that cannot be
read, or is about something else, is measured again and replaced, and the caller is told.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper
from sklearn.isotonic import isotonic_regression

from compressor.errors import EnvironmentMismatch, StepFailed
from compressor.files import facts_sha256
from compressor.machine.environment import describe_environment
from compressor.models.onnx_model import OUTPUT, OnnxModel
from compressor.onnx_graph.onnx_file import save_graph
from compressor.passes.prune_structured.latency_file import FORMAT, LatencyFile, read_latency_file
from compressor.passes.prune_structured.latency_profile import (
    LatencyProfile,
    LayerPoints,
    LayerWork,
    fit_profile,
    median_profile,
    profile_points,
    rounding_error,
    standard_errors,
)
from compressor.passes.prune_structured.sub_layer_graphs import (
    MASK,
    STATES,
    Precision,
    SubLayerKind,
    attention_graph,
    feed_forward_graph,
)
from compressor.paths import cache_directory
from compressor.progress import Progress
from compressor.tasks import Batch
from compressor.verify.timing import Run, Steady, clock_for, measure_until_steady

_LIBRARIES = ("onnxruntime", "onnxruntime-gpu", "compressor")
_COPIES = 2  # sub-layers in a timed graph, so that starting it weighs less
_SIZES = 5  # numbers of heads, and of neurons, that are measured; the first is 0
_ROUNDS, _FEWEST_BLOCKS, _MOST_BLOCKS = 20, 6, 40
_LARGEST_ERROR = 0.25  # of a step that the table is rounded to
# What a FLOP of attention takes beside one of the feed-forward network, of which int8 makes all
# faster, and what norm and residual are of all that a sub-layer does beside its matmuls.
_USUALLY: dict[Precision, tuple[float, float]] = {"float32": (1.05, 0.45), "int8": (1.25, 0.22)}
_NOTHING = "nothing"
_TABLE_BYTES = 1 << 16  # more than any table takes
_Graphs = dict[str, onnx.ModelProto]


@dataclass(frozen=True)
class Situation:
    """What a table is for: sub-layers up to a size, and how they are run.

    With `one_token_last` the last layer computes only what is read of one token.
    """

    kind: SubLayerKind
    max_heads: int
    max_neurons: int
    round_to: int
    batch_size: int
    num_tokens: int
    precision: Precision
    threads: int
    one_token_last: bool

    @property
    def work(self) -> LayerWork:
        """Return the FLOPs of a head and of a neuron, weighted as they usually take time."""
        hidden_size, head_dim = self.kind.hidden_size, self.kind.head_dim
        weight, empty = _USUALLY[self.precision]
        head = weight * 2 * head_dim * (4 * hidden_size + 2 * self.num_tokens)
        matrices = 3 if self.kind.is_gated else 2
        return LayerWork(head, 2.0 * matrices * hidden_size, empty, self.num_tokens)

    def facts(self) -> dict[str, object]:
        """Return plain values that tell this situation from others."""
        return {**asdict(self), "kind": self.kind.facts()}


@dataclass(frozen=True)
class MeasuredTimes:
    """What one layer's sub-layers take, by numbers of heads and of neurons; a whole layer: 1."""

    attention: dict[int, float]
    feed_forward: dict[int, float]

    @property
    def table(self) -> LatencyTable:
        """Return the table through these points."""
        return latency_table(self.attention, self.feed_forward)


@dataclass(frozen=True)
class MeasuredTable:
    """The times of the `last` layer and of the `others`, and where they came from.

    `replaced` is why a cached file was not used although it was there. `content` is the table as
    plain JSON, which a recipe can give back; `elsewhere` says on what other machine it was made.
    """

    others: MeasuredTimes
    last: MeasuredTimes
    path: Path
    is_cached: bool
    replaced: str | None = None
    content: Mapping[str, object] | None = None
    elsewhere: str | None = None


def latency_of_sub_layers(situation: Situation, progress: Progress) -> MeasuredTable:
    """Return the table of `situation` on the CPU, from the cache or measured now.

    Sizes take turns with a reference kernel (`verify/timing.py`): with one thread on its CPU
    clock, with several on the wall clock. Through all points go five figures, rounded to steps
    wider than they wander (`latency_profile.py`), measured until their rounding is
    known. So two measurements give the same table, busy or not, unless a figure lies at the very
    edge of its step.

    Raises `EnvironmentMismatch`, before anything is measured, when no table can be stored, and when
    times vary too much to say anything.
    Ref: Chen & Revels 2016, arXiv:1608.04295 (why fast runs count).
    """
    made_on = _made_on(situation)
    key = {"format": FORMAT, "situation": situation.facts(), "made_on": made_on}
    path = cache_directory() / "latency" / f"{facts_sha256(key)[:24]}.json"
    replaced = None
    if path.is_file():
        try:
            found = read_latency_file(path)
            if (found.situation, found.made_on) != (_plain(situation.facts()), _plain(made_on)):
                raise ValueError("it is about something else")
            return _table(found, path, is_cached=True)
        except ValueError as error:
            replaced = f"{path} could not be used ({error})"
    _require_room(path)
    others, last, measured = _measure(situation, progress)
    file = LatencyFile(
        _plain(situation.facts()), _plain(made_on), asdict(others), asdict(last), _plain(measured)
    )
    _write(path, file.content())
    return _table(file, path, is_cached=False, replaced=replaced)


def given_table(path: Path, situation: Situation) -> MeasuredTable:
    """Return the table that a recipe gives, whatever machine it was made on.

    Raises `StepFailed` when it is damaged or for another situation.
    """
    try:
        found = read_latency_file(path)
    except ValueError as error:  # changed since the recipe was read
        raise StepFailed(f"latency_table: {error}") from error
    own = _plain(situation.facts())
    differing = [
        f"{name} {found.situation.get(name)!r} and not {own[name]!r}"
        for name in own
        if found.situation.get(name) != own[name]
    ]
    if differing:
        raise StepFailed(
            f"latency_table: {path} is for another situation: {'; '.join(differing)}; give a table "
            f"for this one, or leave latency_table out to measure it"
        )
    here = _plain(_made_on(situation))
    there = found.made_on
    elsewhere = "; ".join(
        f"{name} {there.get(name)}" for name in here if there.get(name) != here[name]
    )
    table = _table(found, path, is_cached=True)
    return MeasuredTable(
        table.others, table.last, path, True, None, table.content, elsewhere or None
    )


def _made_on(situation: Situation) -> dict[str, object]:
    device = torch.device("cpu")
    facts = describe_environment(seed=0, device=device, threads=situation.threads)
    versions = {name: facts["packages"].get(name) for name in _LIBRARIES}
    return {"cpu": facts["cpu"], "versions": versions}


def _plain(value: Mapping[str, object]) -> dict[str, object]:
    plain: dict[str, object] = json.loads(json.dumps(value))
    return plain


def _table(
    found: LatencyFile, path: Path, *, is_cached: bool, replaced: str | None = None
) -> MeasuredTable:
    others, last = (
        MeasuredTimes(layers["attention"], layers["feed_forward"])
        for layers in (found.others, found.last)
    )
    return MeasuredTable(others, last, path, is_cached, replaced, found.content())


def _require_room(path: Path) -> None:
    """Raise `EnvironmentMismatch` when a table cannot be written to `path`."""
    with _scratch_for(path) as scratch:
        scratch.write_bytes(bytes(_TABLE_BYTES))


def _write(path: Path, content: Mapping[str, object]) -> None:
    with _scratch_for(path) as scratch:
        scratch.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        scratch.replace(path)


@contextmanager
def _scratch_for(path: Path) -> Iterator[Path]:
    """Yield a path on the same disk as `path`; what is left there in the end goes.

    Several runs share the cache and may write one table at once, each in a folder of its own.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".writing-") as scratch:
            yield Path(scratch) / path.name
    except OSError as error:
        raise EnvironmentMismatch(
            f"{path}: the latency table cannot be stored ({error}); free some space or set "
            f"COMPRESSOR_CACHE to a directory that can be written"
        ) from error


def _measure(
    situation: Situation, progress: Progress
) -> tuple[MeasuredTimes, MeasuredTimes, dict[str, object]]:
    """Return the times of all layers but the last, those of the last, and how they were taken."""
    kind = situation.kind
    graphs = {_NOTHING: _nothing(kind), **_sub_layers(situation, one_token=False)}
    if situation.one_token_last:
        graphs.update(_sub_layers(situation, one_token=True))
    with tempfile.TemporaryDirectory(prefix="compressor-latency-") as folder:
        steady = _steady(graphs, situation, Path(folder), progress)
    profiles = [_profile(block, situation) for block in steady.blocks]
    _require_steady(profiles, steady)
    rounded = median_profile(profiles).rounded()
    points = profile_points(rounded, situation.max_heads, situation.max_neurons, situation.work)
    others, last = (MeasuredTimes(dict(item.attention), dict(item.feed_forward)) for item in points)
    return others, last, _told(steady, profiles, rounded, situation)


def _told(
    steady: Steady,
    profiles: Sequence[LatencyProfile],
    rounded: LatencyProfile,
    situation: Situation,
) -> dict[str, object]:
    """Return what the table was rounded from, as plain JSON."""
    milliseconds = _layers(steady.fast_ms, situation)
    return {
        "clock": steady.clock,
        "rounds": steady.num_rounds,
        "reference_ms": steady.reference_ms,
        **{
            name: {
                "attention_ms": sorted(points.attention.items()),
                "feed_forward_ms": sorted(points.feed_forward.items()),
            }
            for name, points in zip(("others", "last"), milliseconds, strict=True)
            if points is not None
        },
        "profile": asdict(median_profile(profiles)),
        "standard_errors": standard_errors(profiles),
        "rounded_profile": asdict(rounded),
    }


def _require_steady(profiles: Sequence[LatencyProfile], steady: Steady) -> None:
    error = max(standard_errors(profiles).values())
    if error > _LARGEST_ERROR:
        on = "the CPU clock" if steady.clock == "cpu" else "the wall clock, which load changes"
        raise EnvironmentMismatch(
            f"the times of sub-layers varied too much to choose by them: after {steady.num_rounds} "
            f"rounds on {on} a figure is known to {error:.2f} of the step that it is rounded to "
            f"(allowed: {_LARGEST_ERROR}); run again when the machine is quieter, give a "
            f"table that was measured before (latency_table: FILE), or use latency_threads: 1"
        )


def _profile(relative: Mapping[str, float], situation: Situation) -> LatencyProfile:
    return fit_profile(*_layers(relative, situation), situation.work)


def _layers(
    times: Mapping[str, float], situation: Situation
) -> tuple[LayerPoints, LayerPoints | None]:
    """Return the points of all layers but the last, and of the last where it has its own."""
    others = _of_one(times, situation, one_token=False)
    return others, _of_one(times, situation, one_token=True) if situation.one_token_last else None


def _counts(situation: Situation) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the numbers of heads and of neurons that are measured."""
    heads = measured_sizes(situation.max_heads, 1, _SIZES)
    return heads, measured_sizes(situation.max_neurons, situation.round_to, _SIZES)


def _name(unit: str, count: int, *, one_token: bool) -> str:
    return f"{unit}-{count}{'-one' if one_token else ''}"


def _copies(*, one_token: bool) -> int:
    # What computes one token has no second sub-layer to feed.
    return 1 if one_token else _COPIES


def _sub_layers(situation: Situation, *, one_token: bool) -> _Graphs:
    kind, precision, copies = situation.kind, situation.precision, _copies(one_token=one_token)
    heads, widths = _counts(situation)
    graphs = {}
    for count in heads:
        graph = attention_graph(kind, count, copies, precision, one_token=one_token)
        graphs[_name("heads", count, one_token=one_token)] = graph
    for count in widths:
        graph = feed_forward_graph(kind, count, copies, precision, one_token=one_token)
        graphs[_name("neurons", count, one_token=one_token)] = graph
    return graphs


def _of_one(times: Mapping[str, float], situation: Situation, *, one_token: bool) -> LayerPoints:
    """Return what one sub-layer of each size takes, without what starting a run takes."""

    def of(unit: str, count: int) -> float:
        added = times[_name(unit, count, one_token=one_token)] - times[_NOTHING]
        return max(0.0, added) / _copies(one_token=one_token)

    heads, widths = _counts(situation)
    return LayerPoints(
        {count: of("heads", count) for count in heads},
        {count: of("neurons", count) for count in widths},
    )


def _nothing(kind: SubLayerKind) -> onnx.ModelProto:
    """Return a graph that gives its input back: what starting a run takes."""
    shape: list[str | int | None] = ["batch", "tokens", kind.hidden_size]
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in (STATES, OUTPUT)
    ]
    node = helper.make_node("Identity", [STATES], [OUTPUT])
    graph = helper.make_graph([node], "nothing", values[:1], values[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def _steady(graphs: _Graphs, situation: Situation, folder: Path, progress: Progress) -> Steady:
    runs: dict[str, Run] = {}
    for name in list(graphs):
        path = folder / f"{name}.onnx"
        save_graph(graphs.pop(name), path)  # the session has weights of its own
        model = OnnxModel(path, provider="cpu", threads=situation.threads)
        runs[name] = partial(model.session.run, [OUTPUT], model.feed(_inputs(situation)))
        path.unlink()  # the session has read it
    with progress.bar("measuring latencies", _MOST_BLOCKS) as advance:
        return measure_until_steady(
            runs,
            clock=clock_for("cpu", situation.threads),
            threads=situation.threads,
            error_of=lambda blocks: rounding_error([_profile(it, situation) for it in blocks]),
            rounds_in_block=_ROUNDS,
            fewest_blocks=_FEWEST_BLOCKS,
            most_blocks=_MOST_BLOCKS,
            random=np.random.default_rng(0),
            advance=advance,
        )


def _inputs(situation: Situation) -> Batch:
    shape = (situation.batch_size, situation.num_tokens, situation.kind.hidden_size)
    states = np.random.default_rng(1).standard_normal(shape, dtype=np.float32)
    mask = np.zeros((shape[0], 1, shape[1], shape[1]), np.float32)
    return {STATES: states, MASK: mask}


@dataclass(frozen=True)
class LatencyTable:
    """What a sub-layer takes by its number of units: `attention[heads]`, `feed_forward[neurons]`.

    In shares of a whole layer, which takes 1, or another unit of time. Both begin with what is left
    of a sub-layer without units, and never fall.
    """

    attention: tuple[float, ...]
    feed_forward: tuple[float, ...]


@dataclass(frozen=True)
class TableCost:
    """What an encoder takes by the table of each layer, which has so many `heads` and `neurons`."""

    tables: tuple[LatencyTable, ...]
    heads: tuple[int, ...]
    neurons: tuple[int, ...]

    @property
    def total(self) -> float:
        """Return what the whole encoder takes."""
        return sum(map(self.of_layer, range(len(self.tables)), self.heads, self.neurons))

    def of_layer(self, layer: int, heads: int, neurons: int) -> float:
        """Return what a layer, counted from 0, takes with as many units."""
        table = self.tables[layer]
        return table.attention[heads] + table.feed_forward[neurons]


def latency_table(
    attention: Mapping[int, float], feed_forward: Mapping[int, float]
) -> LatencyTable:
    """Return the table through measured points, each a number of units and what they take.

    More units never take less time, so a point that says otherwise is noise: points are replaced by
    the closest (in least squares) that never fall, and lines drawn between them. Each mapping
    begins with 0 units and ends with the largest number that the table is for.

    Raises `ValueError` when the points of a mapping do not begin with 0, or one is not a time.
    """
    return LatencyTable(
        _through(attention, "heads"),
        _through(feed_forward, "neurons"),
    )


def measured_sizes(largest: int, block: int, max_points: int) -> tuple[int, ...]:
    """Return numbers of units to measure: 0, `largest`, and multiples of `block` between them.

    All of them where they are at most `max_points`, otherwise evenly spread ones.

    >>> measured_sizes(64, 16, 9)
    (0, 16, 32, 48, 64)
    """
    blocks = list(range(0, largest, block))
    if len(blocks) >= max_points:
        spread = np.linspace(0, len(blocks) - 1, max_points - 1).round().astype(int)
        blocks = [blocks[index] for index in spread]
    return (*blocks, largest) if largest > 0 else (0,)


def _through(points: Mapping[int, float], unit: str) -> tuple[float, ...]:
    counts = sorted(points)
    times = [points[count] for count in counts]
    if not counts or counts[0] != 0 or not _are_times(times):
        raise ValueError(
            f"a latency table needs times of 0 {unit} and more, finite and not negative, got "
            f"{dict(points)}"
        )
    rising = isotonic_regression(np.array(times, dtype=np.float64))
    every: list[float] = np.interp(np.arange(counts[-1] + 1), counts, rising).tolist()
    return tuple(every)


def _are_times(times: Sequence[float]) -> bool:
    return bool(np.isfinite(times).all() and min(times) >= 0)
