"""Everything a template shows about one run, so that HTML and Markdown say the same.

To add a section (such as a certificate or a sensitivity profile), add what it shows here and one
block to each template.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby

from compressor.measurements import End, PassRecord, PassTry, RunReport
from compressor.report import (
    certificates,
    gains,
    provenance,
    runtimes,
    scores,
    table,
    target,
    units,
    verdict,
)
from compressor.report.attempts import size_points, was_repaired
from compressor.report.attributions import AgreementView, agreement_view
from compressor.report.charts import Chart, Point, score_chart
from compressor.report.component_bytes import Components, components_view
from compressor.report.fairness import GapView, gap_views
from compressor.report.path_chart import PathChart, path_chart
from compressor.report.predictions import Predictions, predictions_view
from compressor.report.questions import Answer, answers
from compressor.report.recalls import RecallRow, recall_rows, recalls_summary
from compressor.report.runtimes import RuntimeRow
from compressor.report.sensitivity import Sensitivity, sensitivity_views
from compressor.report.slices_and_flips import (
    Flips,
    SliceRow,
    flips_view,
    slice_rows,
    slices_summary,
)
from compressor.report.table import LatencyRow, Row, Setting
from compressor.report.task_words import about_labels, output_words
from compressor.words import points


@dataclass(frozen=True)
class TryRow:
    """One attempt at a pass as text."""

    number: int
    change: str
    score: str
    points: str
    megabytes: str
    seconds: str
    state: str
    verdict: str
    kept: bool


@dataclass(frozen=True)
class Step:
    """What one pass says about itself."""

    number: int
    kind: str
    notes: tuple[str, ...]
    settings: tuple[tuple[str, str], ...]
    tries: tuple[TryRow, ...]  # empty where the first attempt was the only one


@dataclass(frozen=True)
class View:
    """One run, in words and formatted figures."""

    status: str
    tone: str
    headline: str
    answers: tuple[Answer, ...]
    reason: str
    doubts: tuple[str, ...]
    target: str | None
    lengths: str | None
    own_code: str | None
    started: str
    duration: str
    budget: str
    metric_title: str
    cards: tuple[gains.Card, ...]
    rows: tuple[Row, ...]
    steps: tuple[Step, ...]
    settings: tuple[Setting, ...]
    providers: tuple[tuple[str, tuple[Setting, ...]], ...]
    group_starts: frozenset[int]  # the positions in `settings` where another provider begins
    has_compressed: bool
    has_vector_bytes: bool
    has_sequences: bool
    missing: tuple[tuple[str, str], ...]
    path: PathChart | None
    was_repaired: bool
    chart: Chart | None
    size_chart: Chart | None
    components: Components | None
    sensitivities: tuple[Sensitivity, ...]
    latency_rows: tuple[LatencyRow, ...]
    runtime_names: tuple[str, ...]
    runtime_rows: tuple[RuntimeRow, ...]
    runtimes_lead: str
    has_gpu_memory: bool
    has_cpu_times: bool
    noise: str  # empty when no latency was noisy
    cuda_graph_providers: str
    embedding: str | None
    about_labels: str | None
    parity: str | None
    certification: str | None
    certificate: str | None
    readings: str | None
    certificate_counts: str | None
    slices: tuple[SliceRow, ...]
    slices_summary: str
    gaps: tuple[GapView, ...]
    recalls: tuple[RecallRow, ...]
    recalls_summary: str
    attributions: AgreementView | None
    flips: Flips | None
    predictions: Predictions | None
    methods: tuple[tuple[str, str], ...]
    recipe_yaml: str
    environment: tuple[tuple[str, str], ...]


def view_of(report: RunReport) -> View:
    """Prepare the content of a `report.json` for the templates."""
    settings = table.latency_settings(report)
    providers = tuple(
        (name, tuple(group)) for name, group in groupby(settings, lambda item: item.provider)
    )
    return View(
        status=verdict.title(report),
        tone=verdict.tone(report),
        headline=verdict.headline(report),
        answers=tuple(answers(report)),
        reason=_sentence(report.reason) if report.verdict == "passed" else report.reason,
        doubts=tuple(certificates.doubts(report)),
        target=target.met_words(report),
        lengths=provenance.length_words(report),
        own_code=provenance.own_code_words(report),
        started=moment(report.started_at),
        duration=provenance.duration_words(report),
        budget=points(report.max_drop),
        metric_title=units.title(report.metric),
        cards=tuple(gains.cards(report)),
        rows=tuple(table.table_rows(report)),
        steps=tuple(
            _step(report, index, item) for index, item in enumerate(report.passes, start=1)
        ),
        settings=tuple(settings),
        providers=providers,
        group_starts=frozenset(settings.index(group[0]) for _, group in providers),
        has_compressed=table.has_compressed_sizes(report),
        has_vector_bytes=table.final_output(report) is not None,
        has_sequences=any(item.sequence_length for item in settings),
        missing=tuple(_missing_by_reason(report)),
        path=path_chart(report),
        was_repaired=was_repaired(report),
        chart=_chart(report),
        size_chart=_size_chart(report),
        components=components_view(report),
        sensitivities=tuple(sensitivity_views(report)),
        latency_rows=tuple(table.latency_grid(report)),
        runtime_names=tuple(runtimes.runtime_names(report)),
        runtime_rows=tuple(runtimes.runtime_rows(report)),
        runtimes_lead=runtimes.runtimes_lead(report),
        has_gpu_memory=any(item.peak_memory_bytes is not None for item in report.latencies),
        has_cpu_times=any(item.cpu_p50_ms is not None for item in report.latencies),
        noise=provenance.noise_words(report),
        cuda_graph_providers=" and ".join(
            dict.fromkeys(item.provider for item in report.latencies if item.cuda_graph)
        ),
        embedding=provenance.embedding_words(report.embedding),
        about_labels=about_labels(report),
        parity=_parity(report),
        certification=certificates.certification_words(report),
        certificate=certificates.certificate_words(report),
        readings=certificates.readings_words(report),
        certificate_counts=certificates.certificate_counts(report),
        slices=tuple(slice_rows(report)),
        slices_summary=slices_summary(report) if report.slices else "",
        gaps=tuple(gap_views(report)),
        recalls=tuple(recall_rows(report)),
        recalls_summary=recalls_summary(report) if report.recalls else "",
        attributions=agreement_view(report),
        flips=flips_view(report),
        predictions=predictions_view(report),
        methods=tuple(provenance.methods(report)),
        recipe_yaml=provenance.recipe_yaml(report),
        environment=tuple(provenance.environment_rows(report)),
    )


def _parity(report: RunReport) -> str | None:
    if not report.parity:
        return None
    return provenance.parity_words(report.parity, output_words(report))


def model_points(report: RunReport, setting: Setting, run: int | None) -> list[Point]:
    """Return the baseline and the final artifact as chart points, without those not measured.

    `run` is the number of the run in a comparison, None in the report of a single one.
    """
    points = []
    ends: tuple[End, ...] = ("baseline", "final")
    for end in ends:
        latency_ms, value = table.p50_ms(report, end, setting), scores.value_of(report, end)
        record = report.model(end)
        if latency_ms is None or record is None or value is None:
            continue
        size = record.size.bytes_on_disk
        points.append(Point(end, run, latency_ms, value, size, end))
    return points


def moment(started_at: str) -> str:
    """Return an ISO 8601 moment as `3 May 2026, 14:05 UTC`; other text stays as it is."""
    try:
        parsed = datetime.fromisoformat(started_at)
    except ValueError:
        return started_at
    if parsed.tzinfo is not None:
        parsed = parsed.astimezone(UTC)
    return f"{parsed.day} {parsed:%B %Y, %H:%M} UTC"


_PARTS = {
    "baseline": "the baseline",
    "final": "the final artifact",
    "parity": "agreement of the export with PyTorch",
    "latencies": "latency",
    "certification": "the check on unseen data",
    "splits": "the data",
}


def _missing_by_reason(report: RunReport) -> list[tuple[str, str]]:
    """Return (what, reason) for all that is absent; parts with one reason stand together."""
    reasons = {key: verdict.why_missing(report, key) for key in _PARTS if not getattr(report, key)}
    reasons |= {key: str(reason) for key, reason in report.missing.items()}
    parts: dict[str, list[str]] = {}
    for key, reason in reasons.items():
        parts.setdefault(reason, []).append(_PARTS.get(key, key))
    return [(", ".join(names), reason) for reason, names in parts.items()]


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _step(report: RunReport, number: int, record: PassRecord) -> Step:
    settings = tuple(provenance.own_settings(record.settings))
    tries = record.tries if len(record.tries) > 1 else ()
    return Step(
        number=number,
        kind=record.kind,
        notes=tuple(record.notes),
        settings=settings,
        tries=tuple(_try(report, index, item) for index, item in enumerate(tries, start=1)),
    )


def _try(report: RunReport, number: int, item: PassTry) -> TryRow:
    size = item.size
    return TryRow(
        number=number,
        change=item.change,
        score=units.score(report.metric, item.score_after),
        points=units.change(item.drop),
        megabytes=units.megabytes(None if size is None else size.bytes_on_disk),
        seconds=units.duration(item.seconds),
        state=item.verdict,
        verdict=table.VERDICTS[item.verdict],
        kept=item.kept,
    )


def _chart(report: RunReport) -> Chart | None:
    setting = table.reference_setting(report)
    points = [] if setting is None else model_points(report, setting, None)
    if setting is None or not points:
        return None
    return score_chart(
        points,
        metric=report.metric,
        cost=f"latency p50, ms ({setting.shape}, {setting.provider})",
        unit="ms",
        lowest_allowed=lowest_allowed(report),
    )


def _size_chart(report: RunReport) -> Chart | None:
    points = size_points(report)
    if len(points) < 2:
        return None
    return score_chart(
        points,
        metric=report.metric,
        cost="size on disk, MB",
        unit="MB",
        lowest_allowed=lowest_allowed(report),
        sized=False,
    )


def lowest_allowed(report: RunReport) -> float | None:
    """Return the lowest score within the budget."""
    value = scores.value_of(report, "baseline")
    return None if value is None else value - report.max_drop
