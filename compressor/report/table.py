"""The rows of the main table and of the latency grid, for every state that a run can end in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from compressor.measurements import End, Latency, PassRecord, RunReport, Size
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
    vector_bytes: str = units.DASH
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


def latency_settings(report: RunReport) -> list[Setting]:
    """Return where latency was measured: providers in the report's order, then small to large."""
    found = {_setting(item) for item in report.latencies}
    providers = list(dict.fromkeys(item.provider for item in report.latencies))
    return sorted(
        found,
        key=lambda item: (providers.index(item.provider), item.batch_size, item.sequence_length),
    )


def p50_ms(report: RunReport, model: End, setting: Setting) -> float | None:
    """Return the median latency of the `baseline` or `final` model at `setting`, in ms."""
    entry = _latency(report, model, setting)
    return None if entry is None else units.known(entry.p50_ms)


def deciding_ms(report: RunReport, model: End, setting: Setting) -> float | None:
    """Return the median time of which `speedup` is a ratio, in ms."""
    entry = _latency(report, model, setting)
    if entry is None:
        return None
    return entry.cpu_p50_ms if is_by_cpu_time(report, setting) else units.known(entry.p50_ms)


def speedup(report: RunReport, setting: Setting) -> float | None:
    """Return how many times as fast the final model is: by CPU time where it was measured."""
    by_cpu = _cpu_ratio(report, setting)
    return _wall_ratio(report, setting) if by_cpu is None else by_cpu


def is_by_cpu_time(report: RunReport, setting: Setting) -> bool:
    """Tell whether the CPU time of one thread was measured for both models at `setting`."""
    return _cpu_ratio(report, setting) is not None


def is_noisy(report: RunReport, setting: Setting) -> bool:
    """Tell whether a busy machine spoilt the wall time of a model at `setting`."""
    ends = [_latency(report, "baseline", setting), _latency(report, "final", setting)]
    return any(entry is not None and entry.noisy for entry in ends)


def speed_words(report: RunReport, setting: Setting) -> str | None:
    """Say how much faster the final model is at `setting`; None where it was not measured."""
    return units.compared(speedup(report, setting), "faster", "slower", "same speed")


def reference_setting(report: RunReport) -> Setting | None:
    """Return the setting that headlines use: the first one that both models have.

    Without such a setting it is the first one at all, or None when nothing was timed.
    """
    settings = latency_settings(report)
    both = [
        item
        for item in settings
        if p50_ms(report, "baseline", item) is not None
        and p50_ms(report, "final", item) is not None
    ]
    return next(iter(both or settings), None)


def table_rows(report: RunReport) -> list[Row]:
    """Return the baseline, every pass of the recipe (reached or not), and the final artifact."""
    settings = latency_settings(report)
    return [
        model_row(report, "baseline", "Baseline", settings),
        *(_pass_row(report, index, item) for index, item in enumerate(report.passes)),
        *(
            Row(
                f"{number} · {kind}",
                "pass",
                "unreached",
                "not reached",
                timings=_no_timings(report),
            )
            for number, kind in unreached_passes(report)
        ),
        model_row(report, "final", "Final artifact", settings),
    ]


def model_row(report: RunReport, end: End, name: str, settings: Sequence[Setting]) -> Row:
    """Return the line of the `baseline` or `final` model, with a timing for each setting."""
    record = report.model(end)
    if record is None:
        return Row(name, end, "unreached", "not measured", timings=(None,) * len(settings))
    value, baseline = record.score.value, report.baseline
    state, verdict, drop = "reference", "reference", None
    if end == "final":
        state, verdict = report.verdict, VERDICTS[report.verdict]
        drop = None if baseline is None else _difference(baseline.score.value, value)
    return Row(
        name=name,
        role=end,
        state=state,
        verdict=verdict,
        score=units.score(record.score.metric, value),
        change=units.change(drop),
        timings=tuple(_timing(report, end, setting) for setting in settings),
        **_size(record.size),
        **_vector_bytes(final_output(report), "bytes" if end == "final" else "baseline_bytes"),
    )


def unreached_passes(report: RunReport) -> list[tuple[int, str]]:
    """Return number and kind of the passes that the recipe asks for and the run never began."""
    wanted = report.recipe.get("passes")
    kinds = [
        str(item["kind"]) if isinstance(item, dict) and "kind" in item else "pass"
        for item in (wanted if isinstance(wanted, list) else [])
    ]
    done = len(report.passes)
    return list(enumerate(kinds[done:], start=done + 1))


def latency_grid(report: RunReport) -> list[LatencyRow]:
    """Return one row for each setting."""
    return [_latency_row(report, setting) for setting in latency_settings(report)]


def has_compressed_sizes(report: RunReport) -> bool:
    """Tell whether any model was measured after gzip, so that the column is worth its place."""
    sizes = [end.size for end in (report.baseline, report.final) if end is not None]
    sizes += [item.size for item in report.passes if item.size is not None]
    return any(size.compressed_bytes is not None for size in sizes)


def final_output(report: RunReport) -> Mapping[str, object] | None:
    """Return what the artifact gives where a pass made something else of it than floats."""
    found = [output for item in report.passes if (output := _output(item)) is not None]
    return found[-1] if found else None


def _output(record: PassRecord) -> Mapping[str, object] | None:
    """Return the fact `output` of a pass."""
    found = record.facts.get("output")
    return found if isinstance(found, Mapping) else None


def _vector_bytes(output: Mapping[str, object] | None, key: str) -> dict[str, str]:
    """Return what a vector takes, `bytes` after a pass or `baseline_bytes`."""
    value = None if output is None else output.get(key)
    return {"vector_bytes": units.count(value)} if isinstance(value, int) else {}


def _setting(entry: Latency) -> Setting:
    return Setting(entry.provider, entry.batch_size, entry.sequence_length or 0)


def _latency(report: RunReport, model: End, setting: Setting) -> Latency | None:
    for entry in report.latencies:
        if entry.model == model and _setting(entry) == setting:
            return entry
    return None


def _wall_ratio(report: RunReport, setting: Setting) -> float | None:
    """Return the median wall time of the baseline over that of the final model."""
    return units.ratio(p50_ms(report, "baseline", setting), p50_ms(report, "final", setting))


def _cpu_ratio(report: RunReport, setting: Setting) -> float | None:
    before, after = _latency(report, "baseline", setting), _latency(report, "final", setting)
    if before is None or after is None:
        return None
    return units.ratio(before.cpu_p50_ms, after.cpu_p50_ms)


def _timing(report: RunReport, model: End, setting: Setting) -> Timing | None:
    entry = _latency(report, model, setting)
    if entry is None:
        return None
    return Timing(
        p50=units.number(entry.p50_ms),
        p95=units.number(entry.p95_ms),
        p99=units.number(entry.p99_ms),
        memory=units.megabytes(entry.peak_memory_bytes),
    )


def _latency_row(report: RunReport, setting: Setting) -> LatencyRow:
    by_wall, by_cpu = _wall_ratio(report, setting), _cpu_ratio(report, setting)
    return LatencyRow(
        setting=setting,
        baseline=_timing(report, "baseline", setting),
        final=_timing(report, "final", setting),
        speedup=units.compared(by_wall, "faster", "slower", "same speed") or units.DASH,
        cpu_speedup=units.compared(by_cpu, "faster", "slower", "same speed") or units.DASH,
        relative=None if by_wall is None else 1 / by_wall,
    )


def _no_timings(report: RunReport) -> tuple[None, ...]:
    return (None,) * len(latency_settings(report))


def _pass_row(report: RunReport, index: int, record: PassRecord) -> Row:
    return Row(
        name=f"{index + 1} · {record.kind}",
        role="pass",
        state=record.verdict,
        verdict=VERDICTS[record.verdict],
        score=units.score(report.metric, record.score_after),
        change=units.change(record.drop),
        seconds=units.duration(record.seconds),
        timings=_no_timings(report),
        **_size(record.size),
        **_vector_bytes(_output(record), "bytes"),
    )


def _size(size: Size | None) -> dict[str, str]:
    if size is None:
        return {}
    return {
        "megabytes": units.megabytes(size.bytes_on_disk),
        "parameters": units.count(size.parameters),
        "nonzero": units.count(size.nonzero_parameters),
        "zeros": units.zeros(size.parameters, size.nonzero_parameters),
        "compressed_megabytes": units.megabytes(size.compressed_bytes),
    }


def _difference(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else before - after
