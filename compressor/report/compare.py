"""Several runs in one table and one chart, with a plain warning where they do not compare."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from compressor.errors import ReportError
from compressor.measurements import PassRecord, RunReport, SplitRecord
from compressor.report import certificates, gains, provenance, scores, table, units, verdict
from compressor.report.chart_parts import SHAPES, marker_path
from compressor.report.charts import Chart, score_chart
from compressor.report.table import Row, Setting
from compressor.report.templating import fill_html
from compressor.report.terminal import STYLES, plain
from compressor.report.view import lowest_allowed, model_points, moment
from compressor.words import counted


@dataclass(frozen=True)
class RunView:
    """One run of a comparison; `baseline` and `final` have a timing for each common setting."""

    number: int
    name: str
    recipe_name: str
    steps: str
    started: str
    verdict: str
    state: str
    proof: str  # what the certification split says, empty without one
    headline: str
    baseline: Row
    final: Row
    smaller: str
    speedups: tuple[str, ...]
    key_path: str


def render_comparison_text(reports: Sequence[tuple[str, RunReport]]) -> RenderableType:
    """Return a table for the terminal; `reports` holds each run's name and `report.json`.

    Raises `ReportError` when there is no run.
    """
    settings, runs = _views(reports)
    shared = next(iter(_common(reports, settings)), None)
    position = None if shared is None else settings.index(shared)
    # The table holds figures alone, so that it fits a narrow terminal; the words below it wrap.
    grid = Table(box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False, header_style="bold")
    grid.add_column("run", no_wrap=True)
    for heading in ("MB", "parameters", "score", "points", "p50 ms"):
        grid.add_column(heading, justify="right", no_wrap=True)
    for run in runs:
        _add_run(grid, run, position)
    parts: list[RenderableType] = [grid]
    if shared is None:
        parts.append(Text("p50 ms: no setting was timed in all runs", style="dim"))
    else:
        parts.append(Text("p50 ms: ").append_text(plain(f"{shared.shape}, {shared.provider}")))
    for run in runs:
        parts += [Text(), *_run_text(run, position)]
    chart = _chart(reports, settings)
    if chart is not None:
        best = [item.name for item in chart.figures if item.on_front]
        parts += [Text(), plain(f"Pareto front, {chart.title}: {'; '.join(best)}")]
    for warning in incomparable(reports):
        parts += [Text(), *_warning_text(warning)]
    return Group(*parts)


def render_comparison_html(reports: Sequence[tuple[str, RunReport]]) -> str:
    """Return a self-contained page like `render_html`, with the runs in one table and chart.

    Raises `ReportError` when there is no run.
    """
    settings, runs = _views(reports)
    providers = {
        name: [item for item in settings if item.provider == name]
        for name in dict.fromkeys(item.provider for item in settings)
    }
    chart = _chart(reports, settings)
    return fill_html(
        "compare.html.j2",
        runs=runs,
        providers=list(providers.items()),
        group_starts={settings.index(group[0]) for group in providers.values()},
        chart=chart,
        warnings=incomparable(reports),
    )


def _views(
    reports: Sequence[tuple[str, RunReport]],
) -> tuple[list[Setting], list[RunView]]:
    if not reports:
        raise ReportError("compare: no run was given; give at least one run's output directory")
    # The first run's order, then what only later runs have.
    settings = list(
        dict.fromkeys(item for _, report in reports for item in table.latency_settings(report))
    )
    return settings, [
        _view(number, name, report, settings)
        for number, (name, report) in enumerate(reports, start=1)
    ]


def _view(number: int, name: str, report: RunReport, settings: Sequence[Setting]) -> RunView:
    return RunView(
        number=number,
        name=name,
        recipe_name=report.recipe_name,
        steps=" → ".join(map(_step_words, report.passes)) or "export only",
        started=moment(report.started_at),
        verdict=verdict.title(report),
        state=verdict.tone(report),
        proof=_proof_words(report),
        headline=verdict.headline(report),
        baseline=table.model_row(report, "baseline", "Baseline", settings),
        final=table.model_row(report, "final", "Final", settings),
        smaller=gains.size_words(report) or "",
        speedups=tuple(table.speed_words(report, item) or "" for item in settings),
        key_path=marker_path(SHAPES[(number - 1) % len(SHAPES)], 8, 8, 5.5),
    )


def _step_words(record: PassRecord) -> str:
    tries = len(record.tries)
    return f"{record.kind} ({counted(tries, 'try', 'tries')})" if tries > 1 else str(record.kind)


def _proof_words(report: RunReport) -> str:
    proof = report.certificate
    if proof is None:
        return ""
    return f"{proof.verdict}: {certificates.lost_at_most(proof)}"


def _common(reports: Sequence[tuple[str, RunReport]], settings: Sequence[Setting]) -> list[Setting]:
    """Return the settings at which the final model of every run that has one was timed."""
    timed = [report for _, report in reports if report.final is not None and report.latencies]
    return [
        item
        for item in settings
        if timed and all(table.p50_ms(report, "final", item) is not None for report in timed)
    ]


def _chart(reports: Sequence[tuple[str, RunReport]], settings: Sequence[Setting]) -> Chart | None:
    metrics = {report.metric for _, report in reports if report.baseline is not None}
    setting = next(iter(_common(reports, settings)), None)
    if setting is None or len(metrics) != 1:
        return None
    points = [
        point
        for number, (_, report) in enumerate(reports, start=1)
        for point in model_points(report, setting, number)
    ]
    limits = {lowest_allowed(report) for _, report in reports if report.baseline is not None}
    if not points:
        return None
    return score_chart(
        points,
        metric=metrics.pop(),
        cost=f"latency p50, ms ({setting.shape}, {setting.provider})",
        unit="ms",
        lowest_allowed=limits.pop() if len(limits) == 1 else None,
    )


def _add_run(grid: Table, run: RunView, position: int | None) -> None:
    for end, name in ((run.baseline, "baseline"), (run.final, "final")):
        timing = None if position is None else end.timings[position]
        is_final = end is run.final
        grid.add_row(
            f"{run.number} {name}",
            end.megabytes,
            end.parameters,
            end.score,
            end.change,
            units.DASH if timing is None else timing.p50,
            style=STYLES[run.state] if is_final else "dim",
        )


def _run_text(run: RunView, position: int | None) -> list[RenderableType]:
    """Say which run a number is, what it did, how it ended and what it gained."""
    outcome = plain(f"{run.headline}.")
    outcome.stylize(STYLES[run.state], 0, len(plain(run.verdict)))
    lines = [plain(f"{run.number} {run.name}: {run.steps}"), outcome]
    gained = [run.smaller, "" if position is None else run.speedups[position]]
    if any(gained):
        lines.append(plain(", ".join(part for part in gained if part)))
    return [lines[0], *(Padding(line, (0, 0, 0, 2)) for line in lines[1:])]


def _warning_text(warning: Incomparable) -> list[RenderableType]:
    lines: list[RenderableType] = [Text(warning.consequence, style="yellow")]
    for difference in warning.differences:
        values = "; ".join(
            f"{number}: {value}" for number, value in enumerate(difference.values, start=1)
        )
        lines.append(plain(f"{difference.fact}: {values}"))
    return lines


# Which facts must be the same in several runs before their figures can be compared.


@dataclass(frozen=True)
class Difference:
    """A fact that is not the same in all runs; `values` has one text for each run."""

    fact: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class Incomparable:
    """Why some figures of the runs must not be compared."""

    consequence: str
    differences: tuple[Difference, ...]


_Fact = Callable[[RunReport], object]


def incomparable(reports: Sequence[tuple[str, RunReport]]) -> list[Incomparable]:
    """Return what must not be compared between these runs, with exactly what differs."""
    found = []
    for consequence, facts in _COMPARABLE.items():
        differences = [
            Difference(fact, tuple(_text(value) for value in values))
            for fact, read in facts.items()
            if _differ(values := [read(report) for _, report in reports])
        ]
        if differences:
            found.append(Incomparable(consequence, tuple(differences)))
    return found


def _text(value: object) -> str:
    return units.DASH if value is None else provenance.plain_text(value)


def _gpu(report: RunReport) -> object:
    # A null here says that there is no GPU, not that nobody looked.
    environment = report.environment
    return (environment["gpu"] or "none") if "gpu" in environment else None


def _differ(values: Sequence[object]) -> bool:
    """Tell whether two runs that recorded the fact recorded different values."""
    known = [value for value in values if value is not None]
    return any(value != known[0] for value in known)


def _environment(*keys: str) -> _Fact:
    return lambda report: provenance.value_at(report.environment, *keys)


def _split(report: RunReport, name: str) -> SplitRecord | None:
    return next((split for split in report.splits if split.name == name), None)


def _fingerprint(name: str) -> _Fact:
    return lambda report: None if (split := _split(report, name)) is None else split.fingerprint


def _num_search_examples(report: RunReport) -> int | None:
    split = _split(report, "search")
    return None if split is None else split.num_examples


_COMPARABLE: dict[str, dict[str, _Fact]] = {
    "The runs start from different baselines: compare neither their ratios nor their scores.": {
        # Of a run that stopped before its weights were read nothing is known but a name.
        "checkpoint": lambda report: report.source_sha256 or None,
        "task": lambda report: report.task,
        "metric": lambda report: report.metric,
        "baseline score": lambda report: scores.value_of(report, "baseline"),
    },
    "The scores were taken on different examples: do not compare them.": {
        "search split, fingerprint": _fingerprint("search"),
        "search split, examples": _num_search_examples,
        "certification split, fingerprint": _fingerprint("certification"),
    },
    "The latencies were taken on different machines or software: compare speed-ups at most.": {
        "CPU": _environment("cpu", "model"),
        "logical cores": _environment("cpu", "logical_cores"),
        "CPU features": _environment("cpu", "features"),
        "GPU": _gpu,
        "platform": _environment("platform"),
        "threads": _environment("threads"),
        "onnxruntime": _environment("packages", "onnxruntime"),
        "onnxruntime-gpu": _environment("packages", "onnxruntime-gpu"),
    },
}
