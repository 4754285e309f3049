"""Measures what sub-layers of each size take in ONNX Runtime on this machine, once.

The table is kept in the cache, under what it depends on: processor, library versions, sizes,
length, batch, precision and threads. A file appears there whole or not at all; one that cannot be
read, or is about something else, is measured again and replaced, and the caller is told.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper

from compressor.environment import describe_environment
from compressor.errors import EnvironmentMismatch
from compressor.export.sub_layers import (
    MASK,
    STATES,
    Precision,
    SubLayerKind,
    attention_graph,
    feed_forward_graph,
)
from compressor.models.onnx_file import save_graph
from compressor.models.onnx_model import OUTPUT, OnnxModel
from compressor.paths import cache_directory
from compressor.progress import Progress
from compressor.pruning.latency import LatencyTable, latency_table, measured_sizes

_FORMAT = 2  # of the cached file
_LIBRARIES = ("onnxruntime", "onnxruntime-gpu", "compressor")
_COPIES = 2  # sub-layers in a timed graph, so that starting it weighs less
_WARMUP_RUNS, _ROUNDS = 3, 40
_MAX_WIDTHS = 17  # feed-forward widths that are measured
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


@dataclass(frozen=True)
class MeasuredTimes:
    """Milliseconds of one layer's sub-layers, by numbers of heads and of neurons."""

    attention_ms: dict[int, float]
    feed_forward_ms: dict[int, float]

    @property
    def table(self) -> LatencyTable:
        """Return the table through these points."""
        return latency_table(self.attention_ms, self.feed_forward_ms)


@dataclass(frozen=True)
class MeasuredTable:
    """The times of the `last` layer and of the `others`, and where they came from.

    `replaced` is why a cached file was not used although it was there.
    """

    others: MeasuredTimes
    last: MeasuredTimes
    path: Path
    is_cached: bool
    replaced: str | None = None


def latency_of_sub_layers(situation: Situation, progress: Progress) -> MeasuredTable:
    """Return the table of `situation` on the CPU, from the cache or measured now.

    Every size takes its turn in each of 40 rounds, in shuffled order; of each the fastest run
    counts, less that of a graph that does nothing. Neighbours on a machine only ever add time: on a
    busy one, three medians of one size were 0.84, 4.04 and 4.88 ms, its fastest runs 0.71 to 0.75.

    Raises `EnvironmentMismatch`, before anything is measured, when no table can be stored.
    Ref: Chen & Revels 2016, arXiv:1608.04295 (the minimum as an estimator).
    """
    key = _key(situation)
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    path = cache_directory() / "latency" / f"{digest[:24]}.json"
    replaced = None
    if path.is_file():
        try:
            return _read(path, key)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            replaced = f"{path} could not be used ({type(error).__name__}: {error})"
    _require_room(path)
    others, last = _measure(situation, progress)
    _write(path, {"key": key, "others": asdict(others), "last": asdict(last)})
    return MeasuredTable(others, last, path, False, replaced)


def _key(situation: Situation) -> dict[str, Any]:
    device = torch.device("cpu")
    facts = describe_environment(seed=0, device=device, threads=situation.threads)
    versions = {name: facts["packages"].get(name) for name in _LIBRARIES}
    return {
        "format": _FORMAT,
        "cpu": facts["cpu"],
        "versions": versions,
        "copies": _COPIES,
        **asdict(situation),
    }


def _read(path: Path, key: Mapping[str, Any]) -> MeasuredTable:
    content = json.loads(path.read_text(encoding="utf-8"))
    if content["key"] != key:
        raise ValueError("it is about something else")
    others, last = (_times(content[name], key) for name in ("others", "last"))
    return MeasuredTable(others, last, path, True)


def _times(content: Mapping[str, Any], key: Mapping[str, Any]) -> MeasuredTimes:
    attention_ms, feed_forward_ms = (
        {int(count): float(value) for count, value in content[name].items()}
        for name in ("attention_ms", "feed_forward_ms")
    )
    if max(attention_ms) != key["max_heads"] or max(feed_forward_ms) != key["max_neurons"]:
        raise ValueError("it does not reach the largest sizes")
    times = MeasuredTimes(attention_ms, feed_forward_ms)
    latency_table(attention_ms, feed_forward_ms)  # raises where they are not times
    return times


def _require_room(path: Path) -> None:
    """Raise `EnvironmentMismatch` when a table cannot be written to `path`."""
    with _scratch_for(path) as scratch:
        scratch.write_bytes(bytes(_TABLE_BYTES))


def _write(path: Path, content: Mapping[str, Any]) -> None:
    with _scratch_for(path) as scratch:
        scratch.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        scratch.replace(path)


@contextmanager
def _scratch_for(path: Path) -> Iterator[Path]:
    """Yield a path on the same disk as `path`; what is left there in the end goes."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".writing-") as scratch:
            yield Path(scratch) / path.name
    except OSError as error:
        raise EnvironmentMismatch(
            f"{path}: the latency table cannot be stored ({error}); free some space or set "
            f"COMPRESSOR_CACHE to a directory that can be written"
        ) from error


def _measure(situation: Situation, progress: Progress) -> tuple[MeasuredTimes, MeasuredTimes]:
    """Return the times of all layers but the last, and of the last."""
    kind = situation.kind
    graphs = {_NOTHING: _nothing(kind), **_sub_layers(situation, one_token=False)}
    if situation.one_token_last:
        graphs.update(_sub_layers(situation, one_token=True))
    with tempfile.TemporaryDirectory(prefix="compressor-latency-") as folder:
        fastest_ms = _fastest(graphs, situation, Path(folder), progress)
    others = _of_one(fastest_ms, situation, one_token=False)
    last = _of_one(fastest_ms, situation, one_token=True) if situation.one_token_last else others
    return others, last


def _counts(situation: Situation) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the numbers of heads and of neurons that are measured."""
    widths = measured_sizes(situation.max_neurons, situation.round_to, _MAX_WIDTHS)
    return tuple(range(situation.max_heads + 1)), widths


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


def _of_one(
    fastest_ms: Mapping[str, float], situation: Situation, *, one_token: bool
) -> MeasuredTimes:
    """Return the times of one sub-layer of each size, without what starting a run takes."""

    def of(unit: str, count: int) -> float:
        added = fastest_ms[_name(unit, count, one_token=one_token)] - fastest_ms[_NOTHING]
        return max(0.0, added) / _copies(one_token=one_token)

    heads, widths = _counts(situation)
    return MeasuredTimes(
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


def _fastest(
    graphs: dict[str, onnx.ModelProto], situation: Situation, folder: Path, progress: Progress
) -> dict[str, float]:
    runs = {}
    for name in list(graphs):
        path = folder / f"{name}.onnx"
        save_graph(graphs.pop(name), path)  # the session has weights of its own
        model = OnnxModel(path, provider="cpu", threads=situation.threads)
        runs[name] = (model.session, model.feed(_inputs(situation)))
        path.unlink()  # the session has read it
    elapsed_ms: dict[str, list[float]] = {name: [] for name in runs}
    names, random = list(runs), np.random.default_rng(0)
    with progress.bar("measuring latencies", _WARMUP_RUNS + _ROUNDS) as advance:
        for _ in range(_WARMUP_RUNS + _ROUNDS):
            for index in random.permutation(len(names)):
                session, feed = runs[names[index]]
                start = time.perf_counter_ns()
                session.run([OUTPUT], feed)
                elapsed_ms[names[index]].append((time.perf_counter_ns() - start) / 1e6)
            advance()
    return {name: min(times[_WARMUP_RUNS:]) for name, times in elapsed_ms.items()}


def _inputs(situation: Situation) -> dict[str, Any]:
    shape = (situation.batch_size, situation.num_tokens, situation.kind.hidden_size)
    states = np.random.default_rng(1).standard_normal(shape, dtype=np.float32)
    mask = np.zeros((shape[0], 1, shape[1], shape[1]), np.float32)
    return {STATES: states, MASK: mask}
