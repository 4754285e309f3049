"""Times runs that take turns, on the clock that other work on the machine disturbs least.

Every choice that is made by time comes from here. Where one thread of the CPU does all the work, it
is the calling thread, and the system counts what that thread really computed: waiting for a core
that others use is not in it. Of eight busy processes beside it the wall clock doubles, the CPU
clock of the thread gains a tenth. With several threads the CPU clock would be their summed work, so
there, and on a GPU, only the wall clock tells how long a run takes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Generic, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from compressor.machine.turns import measuring
from compressor.models.onnx_model import OUTPUT, OnnxModel
from compressor.onnx_graph.onnx_file import save_graph
from compressor.runtime.openvino_session import OPENVINO

Run = Callable[[], object]
Clock = Literal["cpu", "wall"]
Times = NDArray[np.float64]
Name = TypeVar("Name", bound=str)

REFERENCE = "reference"
_OF_MEDIAN = 1.25  # its standard error over that of a mean
_REFERENCE_SIZE = 192  # rows and columns of both factors: about what a sub-layer takes
_FAST = 10  # percentile of the runs of a block that counts: neighbours only ever add time
_WIDEST_SPREAD = 1.5  # 95th percentile over the median
_LARGEST_DRIFT = 1.15  # median of one half of the runs over that of the other
_FEWEST_TO_SEE_DRIFT = 10  # runs; medians of fewer differ by chance


@dataclass(frozen=True)
class TimingPlan:
    """How a batch is timed: untimed runs of each contestant, then rounds in which each runs once.

    The order within a round is drawn from `seed`. `threads` are those within one operator,
    operators run one after the other.
    """

    warmup_runs: int
    num_runs: int
    threads: int
    seed: int = 0


@dataclass(frozen=True)
class RunTimes:
    """Times of one run in ms, in the order they were made; each has shape `(rounds,)`."""

    wall_ms: Times
    cpu_ms: Times | None  # None where the work was not one thread's

    @property
    def num_runs(self) -> int:
        """Return how often it was timed."""
        return len(self.wall_ms)

    @property
    def is_noisy(self) -> bool:
        """Return whether the wall times tell of a busy machine."""
        return is_noisy(self.wall_ms)

    def percentile(self, share: int) -> float:
        """Return a percentile of the wall time."""
        return float(np.percentile(self.wall_ms, share))

    def cpu_percentile(self, share: int) -> float | None:
        """Return a percentile of the CPU time, None where there is none."""
        return None if self.cpu_ms is None else float(np.percentile(self.cpu_ms, share))


@dataclass(frozen=True)
class Turns(Generic[Name]):
    """Times of runs that took turns, in ms, by name; each has shape `(rounds,)`, in order."""

    clock: Clock
    wall_ms: dict[Name, Times]
    cpu_ms: dict[Name, Times] | None  # None where the work was not one thread's

    @property
    def deciding_ms(self) -> dict[Name, Times]:
        """Return the times on `clock`."""
        return self.wall_ms if self.cpu_ms is None else self.cpu_ms

    def of(self, name: Name) -> RunTimes:
        """Return the times of one run."""
        return RunTimes(self.wall_ms[name], None if self.cpu_ms is None else self.cpu_ms[name])

    def followed_by(self, later: Turns[Name]) -> Turns[Name]:
        """Return these turns and `later` ones of the same runs on the same clock."""
        cpu_ms = None
        if self.cpu_ms is not None and later.cpu_ms is not None:
            cpu_ms = _joined(self.cpu_ms, later.cpu_ms)
        return Turns(self.clock, _joined(self.wall_ms, later.wall_ms), cpu_ms)


@dataclass(frozen=True)
class Steady:
    """What runs take relative to the reference kernel, and how steady that was.

    Each of `blocks` is what some rounds in a row say, by name. `error` is the largest standard
    error of what was asked for, in units of what is good enough.
    """

    clock: Clock
    blocks: tuple[Mapping[str, float], ...]
    reference_ms: float
    error: float
    num_rounds: int

    @property
    def relative(self) -> dict[str, float]:
        """Return the median over the blocks."""
        return {name: _median([block[name] for block in self.blocks]) for name in self.blocks[0]}

    @property
    def fast_ms(self) -> dict[str, float]:
        """Return milliseconds, at the usual speed of the reference."""
        return {name: value * self.reference_ms for name, value in self.relative.items()}


def clock_for(provider: str, threads: int | None) -> Clock:
    """Return the clock that choices go by on `provider` with as many threads in an operator."""
    return "cpu" if provider in ("cpu", OPENVINO) and threads == 1 else "wall"


def take_turns(
    runs: Mapping[Name, Run],
    num_rounds: int,
    *,
    clock: Clock,
    random: np.random.Generator,
    after_round: Callable[[Mapping[Name, Sequence[float]]], object] = lambda _: None,
) -> Turns[Name]:
    """Time every run once in each round, in shuffled order; `after_round` gets the wall times.

    Of processes that share the host (`on_shared_host`) one does so at a time.
    """
    wall_ms: dict[Name, list[float]] = {name: [] for name in runs}
    cpu_ms: dict[Name, list[float]] = {name: [] for name in runs}
    names = list(runs)
    with measuring(clock):
        for _ in range(num_rounds):
            for index in random.permutation(len(names)):
                name = names[index]
                run = runs[name]
                start, start_cpu = time.perf_counter_ns(), time.thread_time_ns()
                run()
                end_cpu, end = time.thread_time_ns(), time.perf_counter_ns()
                wall_ms[name].append((end - start) / 1e6)
                cpu_ms[name].append((end_cpu - start_cpu) / 1e6)
            after_round(wall_ms)
    own = {name: np.asarray(times) for name, times in cpu_ms.items()}
    return Turns(
        clock,
        {name: np.asarray(times) for name, times in wall_ms.items()},
        own if clock == "cpu" else None,
    )


def measure_until_steady(
    runs: Mapping[str, Run],
    *,
    clock: Clock,
    threads: int,
    error_of: Callable[[Sequence[Mapping[str, float]]], float],
    rounds_in_block: int,
    fewest_blocks: int,
    most_blocks: int,
    random: np.random.Generator,
    advance: Callable[[], object] = lambda: None,
) -> Steady:
    """Time `runs` and a reference kernel in turns, until `error_of` the blocks is at most 1.

    In each block of rounds the fast runs of each name (their 10th percentile) are divided by those
    of a fixed float32 matmul that takes its turn with them: clocks that change and neighbours on a
    core or in a cache slow both. `error_of` gets such times by name, block by block, and returns a
    standard error in units of what is good enough. It is asked after `fewest_blocks`, and after
    each further one up to `most_blocks`; what is not settled then is too noisy to choose by.
    """
    timed = {**runs, REFERENCE: reference_kernel(threads)}
    for run in timed.values():
        run()
        run()
    blocks: list[Mapping[str, float]] = []
    reference_ms: list[float] = []
    while True:
        times = take_turns(timed, rounds_in_block, clock=clock, random=random).deciding_ms
        fast = {name: float(np.percentile(own, _FAST)) for name, own in times.items()}
        blocks.append({name: fast[name] / fast[REFERENCE] for name in runs})
        reference_ms.append(fast[REFERENCE])
        advance()
        if len(blocks) < fewest_blocks:
            continue
        error = error_of(blocks)
        if error <= 1 or len(blocks) >= most_blocks:
            rounds = len(blocks) * rounds_in_block
            return Steady(clock, tuple(blocks), _median(reference_ms), error, rounds)


def standard_error(values: Sequence[float]) -> float:
    """Return the standard error of the median of independent `values`."""
    if len(values) < 2:
        return 0.0
    return _OF_MEDIAN * float(np.std(values, ddof=1)) / float(np.sqrt(len(values)))


def is_noisy(elapsed_ms: Sequence[float] | Times) -> bool:
    """Return whether runs of one model, in the order they were made, tell of a busy machine.

    They do when one in twenty took half as long again as the median, or when the median of the
    later half is more than 15% off that of the earlier one. Turns keep a ratio of two models from
    being wrong by as much, and nothing keeps it right.
    """
    times = np.asarray(elapsed_ms)
    spread = np.percentile(times, 95) > _WIDEST_SPREAD * np.median(times)
    if len(times) < _FEWEST_TO_SEE_DRIFT:
        return bool(spread)
    earlier, later = np.median(times[: len(times) // 2]), np.median(times[len(times) // 2 :])
    drift = max(earlier, later) > _LARGEST_DRIFT * min(earlier, later)
    return bool(spread or drift)


def warm_up(runs: Iterable[Run], num_runs: int) -> None:
    """Run each so often, untimed."""
    for run in runs:
        for _ in range(num_runs):
            run()


def reference_kernel(threads: int) -> Run:
    """Return a run of a float32 matmul of fixed size in ONNX Runtime on the CPU."""
    size = _REFERENCE_SIZE
    values = np.random.default_rng(0).standard_normal((size, size), dtype=np.float32)
    inputs, outputs = (
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [size, size])]
        for name in ("x", OUTPUT)
    )
    node = helper.make_node("MatMul", ["x", "w"], [OUTPUT])
    weight = numpy_helper.from_array(values, "w")
    graph = helper.make_graph([node], "reference", inputs, outputs, [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    with TemporaryDirectory(prefix="compressor-timing-") as folder:
        path = Path(folder) / "reference.onnx"
        save_graph(model, path)
        session = OnnxModel(path, provider="cpu", threads=threads).session
    return lambda: session.run([OUTPUT], {"x": values})


def _joined(earlier: Mapping[Name, Times], later: Mapping[Name, Times]) -> dict[Name, Times]:
    return {name: np.concatenate([times, later[name]]) for name, times in earlier.items()}


def _median(values: Sequence[float]) -> float:
    return float(np.median(values))
