"""Which runtime is the fastest for the artifact, at each batch size and length."""

from __future__ import annotations

from dataclasses import dataclass

from compressor.measurements import RunReport, Runtime, RuntimeLatency
from compressor.report import units
from compressor.report.table import Setting

_ALIKE = "alike"
_SAME = 1.02  # times nearer than this are alike
WORDS: dict[Runtime, str] = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}


@dataclass(frozen=True)
class RuntimeRow:
    """One shape: the time in each runtime, ready to print, in the order of `runtime_names`."""

    shape: str
    times_ms: tuple[str, ...]
    fastest: str  # in words; "alike" where times are the same
    factor: str  # of the slowest over the fastest


def runtime_names(report: RunReport) -> list[str]:
    """Return the runtimes that were timed, with their versions."""
    found = {item.runtime: item.version for item in report.runtimes}
    return [f"{WORDS[name]} {version}" for name, version in found.items()]


def runtime_rows(report: RunReport) -> list[RuntimeRow]:
    """Return one row for each shape, in the order that they were timed."""
    shapes: dict[str, list[RuntimeLatency]] = {}
    for item in report.runtimes:
        shape = Setting("cpu", item.batch_size, item.sequence_length or 0).shape
        shapes.setdefault(shape, []).append(item)
    return [_row(shape, items) for shape, items in shapes.items()]


def runtime_words(report: RunReport) -> str | None:
    """Say which runtime is the fastest at which shape; None where nothing was timed."""
    rows = runtime_rows(report)
    if not rows:
        return None
    told = (
        f"{row.fastest} at {row.shape}"
        + ("" if row.fastest == _ALIKE else f" ({row.factor} as fast)")
        for row in rows
    )
    return f"{'; '.join(told)}, of {_clock(report)}"


def runtimes_lead(report: RunReport) -> str:
    """Say how the runtimes were timed."""
    return (
        f"The artifact's own file in each runtime, which took turns: median of {_clock(report)} "
        f"for one batch, ms. Each input was timed again and again; OpenVINO takes longer for one "
        f"whose shape is not that of the one before."
    )


def _clock(report: RunReport) -> str:
    by_cpu = all(item.cpu_p50_ms is not None for item in report.runtimes)
    return "CPU time of one thread" if by_cpu else "wall time"


def _row(shape: str, items: list[RuntimeLatency]) -> RuntimeRow:
    times = {item.runtime: item.deciding_ms for item in items}
    fastest = min(times, key=times.__getitem__)
    factor = max(times.values()) / times[fastest]
    return RuntimeRow(
        shape=shape,
        times_ms=tuple(units.number(value) for value in times.values()),
        fastest=_ALIKE if factor < _SAME else WORDS[fastest],
        factor=units.times(factor),
    )
