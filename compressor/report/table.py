"""The rows of the main table and of the latency grid, for every state that a run can end in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from compressor.report import units
from compressor.words import counted


@dataclass(frozen=True, order=True)
class Setting:
    """One place where latency was measured; `sequence_length` is 0 where there is no sequence."""

    provider: str
    batch_size: int
    sequence_length: int

    @property
    def shape(self) -> str:
        """Return the input's shape in words, such as `batch 1, 32 tokens`."""
        return f"batch {self.batch_size}" + (f", {self.tokens}" if self.sequence_length else "")

    @property
    def tokens(self) -> str:
        """Return the sequence length in words, empty without a sequence."""
        if not self.sequence_length:
            return ""
        return counted(self.sequence_length, "token")


@dataclass(frozen=True)
class Timing:
    """Percentiles of the time of one batch in ms, and the GPU's memory in MB, as text."""

    p50: str
    p95: str
    p99: str = units.DASH
    memory: str = units.DASH


@dataclass(frozen=True)
class Row:
    """One line of the main table, ready to print; a dash stands for what was not measured."""

    name: str
    role: str  # baseline, pass or final
    state: str  # a verdict, reference or unreached
    verdict: str
    megabytes: str = units.DASH
    parameters: str = units.DASH
    nonzero: str = units.DASH
    zeros: str = units.DASH
    compressed_megabytes: str = units.DASH
    score: str = units.DASH
    change: str = units.DASH
    seconds: str = units.DASH
    timings: tuple[Timing | None, ...] = ()


@dataclass(frozen=True)
class LatencyRow:
    """Baseline against final at one setting."""

    setting: Setting
    baseline: Timing | None
    final: Timing | None
    speedup: str  # of wall times
    cpu_speedup: str  # of CPU times, where one thread ran
    relative: float | None  # p50 of the final model over p50 of the baseline


VERDICTS = {
    "passed": "within budget",
    "budget_exceeded": "over budget",
    "not_certified": "not certified",
    "failed": "failed",
    "stopped": "stopped",
    "internal_error": "internal error",
}


def latency_settings(data: dict[str, Any]) -> list[Setting]:
    """Return where latency was measured: providers in the report's order, then small to large."""
    found = {_setting(item) for item in data["latencies"]}
    providers = list(dict.fromkeys(item["provider"] for item in data["latencies"]))
    return sorted(
        found,
        key=lambda item: (providers.index(item.provider), item.batch_size, item.sequence_length),
    )


def p50_ms(data: dict[str, Any], model: str, setting: Setting) -> float | None:
    """Return the median latency of the `baseline` or `final` model at `setting`, in ms."""
    entry = _latency(data, model, setting)
    return None if entry is None else entry["p50_ms"]


def deciding_ms(data: dict[str, Any], model: str, setting: Setting) -> float | None:
    """Return the median time of which `speedup` is a ratio, in ms."""
    entry = _latency(data, model, setting)
    return None if entry is None else entry[_deciding_key(data, setting)]


def speedup(data: dict[str, Any], setting: Setting) -> float | None:
    """Return how many times as fast the final model is: by CPU time where it was measured."""
    return _ratio(data, setting, _deciding_key(data, setting))


def is_by_cpu_time(data: dict[str, Any], setting: Setting) -> bool:
    """Tell whether the CPU time of one thread was measured for both models at `setting`."""
    return _ratio(data, setting, "cpu_p50_ms") is not None


def is_noisy(data: dict[str, Any], setting: Setting) -> bool:
    """Tell whether a busy machine spoilt the wall time of a model at `setting`."""
    ends = [_latency(data, model, setting) for model in ("baseline", "final")]
    return any(entry is not None and entry["noisy"] for entry in ends)


def speed_words(data: dict[str, Any], setting: Setting) -> str | None:
    """Say how much faster the final model is at `setting`; None where it was not measured."""
    return units.compared(speedup(data, setting), "faster", "slower", "same speed")


def reference_setting(data: dict[str, Any]) -> Setting | None:
    """Return the setting that headlines use: the first one that both models have.

    Without such a setting it is the first one at all, or None when nothing was timed.
    """
    settings = latency_settings(data)
    both = [
        item
        for item in settings
        if p50_ms(data, "baseline", item) is not None and p50_ms(data, "final", item) is not None
    ]
    return next(iter(both or settings), None)


def table_rows(data: dict[str, Any]) -> list[Row]:
    """Return the baseline, every pass of the recipe (reached or not), and the final artifact."""
    settings = latency_settings(data)
    return [
        model_row(data, "baseline", "Baseline", settings),
        *(_pass_row(data, index, item) for index, item in enumerate(data["passes"])),
        *(
            Row(f"{number} · {kind}", "pass", "unreached", "not reached", timings=_no_timings(data))
            for number, kind in unreached_passes(data)
        ),
        model_row(data, "final", "Final artifact", settings),
    ]


def model_row(data: dict[str, Any], end: str, name: str, settings: Sequence[Setting]) -> Row:
    """Return the line of the `baseline` or `final` model, with a timing for each setting."""
    record = data[end]
    if record is None:
        return Row(name, end, "unreached", "not measured", timings=(None,) * len(settings))
    value, baseline = record["score"]["value"], data["baseline"]
    state, verdict, drop = "reference", "reference", None
    if end == "final":
        state, verdict = data["verdict"], VERDICTS[data["verdict"]]
        drop = None if baseline is None else _difference(baseline["score"]["value"], value)
    return Row(
        name=name,
        role=end,
        state=state,
        verdict=verdict,
        score=units.score(record["score"]["metric"], value),
        change=units.change(drop),
        timings=tuple(_timing(data, end, setting) for setting in settings),
        **_size(record["size"]),
    )


def unreached_passes(data: dict[str, Any]) -> list[tuple[int, str]]:
    """Return number and kind of the passes that the recipe asks for and the run never began."""
    wanted = data["recipe"].get("passes")
    kinds = [
        str(item["kind"]) if isinstance(item, dict) and "kind" in item else "pass"
        for item in (wanted if isinstance(wanted, list) else [])
    ]
    done = len(data["passes"])
    return list(enumerate(kinds[done:], start=done + 1))


def latency_grid(data: dict[str, Any]) -> list[LatencyRow]:
    """Return one row for each setting."""
    return [_latency_row(data, setting) for setting in latency_settings(data)]


def has_compressed_sizes(data: dict[str, Any]) -> bool:
    """Tell whether any model was measured after gzip, so that the column is worth its place."""
    sizes = [data[end]["size"] for end in ("baseline", "final") if data[end] is not None]
    sizes += [item["size"] for item in data["passes"] if item["size"] is not None]
    return any(size["compressed_bytes"] is not None for size in sizes)


def _setting(entry: dict[str, Any]) -> Setting:
    return Setting(entry["provider"], entry["batch_size"], entry["sequence_length"] or 0)


def _latency(data: dict[str, Any], model: str, setting: Setting) -> dict[str, Any] | None:
    for entry in data["latencies"]:
        if entry["model"] == model and _setting(entry) == setting:
            found: dict[str, Any] = entry
            return found
    return None


def _deciding_key(data: dict[str, Any], setting: Setting) -> str:
    return "cpu_p50_ms" if is_by_cpu_time(data, setting) else "p50_ms"


def _ratio(data: dict[str, Any], setting: Setting, key: str) -> float | None:
    """Return a time of the baseline over that of the final model."""
    ends = [_latency(data, model, setting) for model in ("baseline", "final")]
    return units.ratio(*(None if entry is None else entry[key] for entry in ends))


def _timing(data: dict[str, Any], model: str, setting: Setting) -> Timing | None:
    entry = _latency(data, model, setting)
    if entry is None:
        return None
    return Timing(
        p50=units.number(entry["p50_ms"]),
        p95=units.number(entry["p95_ms"]),
        p99=units.number(entry["p99_ms"]),
        memory=units.megabytes(entry["peak_memory_bytes"]),
    )


def _latency_row(data: dict[str, Any], setting: Setting) -> LatencyRow:
    by_wall, by_cpu = (_ratio(data, setting, key) for key in ("p50_ms", "cpu_p50_ms"))
    return LatencyRow(
        setting=setting,
        baseline=_timing(data, "baseline", setting),
        final=_timing(data, "final", setting),
        speedup=units.compared(by_wall, "faster", "slower", "same speed") or units.DASH,
        cpu_speedup=units.compared(by_cpu, "faster", "slower", "same speed") or units.DASH,
        relative=None if by_wall is None else 1 / by_wall,
    )


def _no_timings(data: dict[str, Any]) -> tuple[None, ...]:
    return (None,) * len(latency_settings(data))


def _pass_row(data: dict[str, Any], index: int, record: dict[str, Any]) -> Row:
    return Row(
        name=f"{index + 1} · {record['kind']}",
        role="pass",
        state=record["verdict"],
        verdict=VERDICTS[record["verdict"]],
        score=units.score(data["metric"], record["score_after"]),
        change=units.change(record["drop"]),
        seconds=units.duration(record["seconds"]),
        timings=_no_timings(data),
        **_size(record["size"]),
    )


def _size(size: dict[str, Any] | None) -> dict[str, str]:
    if size is None:
        return {}
    return {
        "megabytes": units.megabytes(size["bytes_on_disk"]),
        "parameters": units.count(size["parameters"]),
        "nonzero": units.count(size["nonzero_parameters"]),
        "zeros": units.zeros(size["parameters"], size["nonzero_parameters"]),
        "compressed_megabytes": units.megabytes(size["compressed_bytes"]),
    }


def _difference(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else before - after
