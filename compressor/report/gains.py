"""What a run gained: size and speed in words, and the three figures of the first screen."""

from __future__ import annotations

from dataclasses import dataclass

from compressor.measurements import End, ModelRecord, RunReport
from compressor.report import certificates, provenance, scores, units
from compressor.report.table import (
    Setting,
    deciding_ms,
    is_by_cpu_time,
    is_noisy,
    reference_setting,
    speed_words,
)

_ALIKE = 0.1  # up to here a file given in float32 and its export are taken for one size


@dataclass(frozen=True)
class Card:
    """One big figure, what it was before and after, and how it was taken."""

    title: str
    figure: str  # such as 5.2×, or the baseline's own value where there is no artifact
    unit: str  # what the figure is, such as smaller
    values: str  # before and after; empty without an artifact
    detail: str
    budget_used: float | None = None  # share of the accuracy budget that is spent, 0..1
    bound: float | None = None  # share of it that may be spent, by the certificate's upper bound


def size_words(report: RunReport) -> str | None:
    """Say how much smaller the model file is than the weights that were given."""
    factor = units.ratio(given_bytes(report), _bytes(report, "final"))
    return units.compared(factor, "smaller", "larger", "same size", counted=True)


def given_bytes(report: RunReport) -> int | None:
    """Return what the weights that were given take; of older reports the baseline's ONNX file."""
    given: int | None = report.source_bytes
    return _bytes(report, "baseline") if given is None else given


def float32_words(report: RunReport) -> str:
    """Say what the original takes in float32, as ONNX, where what was given is of another size.

    Empty where they are alike: a checkpoint in float32 is within a few per cent of its export.
    """
    given, exported = given_bytes(report), _bytes(report, "baseline")
    if not given or not exported or abs(exported / given - 1) < _ALIKE:
        return ""
    words = f"in float32, as ONNX, the original takes {units.megabytes(exported)} MB"
    factor = units.ratio(exported, _bytes(report, "final"))
    against = units.compared(factor, "smaller", "larger", "same size", counted=True)
    if not against or not against[0].isdigit():
        return words
    return f"{words}; the artifact is {against} than that"


def gained_words(report: RunReport, *, with_speed: bool = True) -> str | None:
    """Say how much smaller and faster the artifact is; None where there is none.

    For example `5.2× smaller (90.8 → 17.4 MB), 2.5× faster (12.0 → 4.80 ms at batch 1 on cpu)`.
    """
    if report.baseline is None or report.final is None:
        return None
    parts = [f"{size_words(report) or 'size not compared'} ({_size_values(report)})"]
    if with_speed:
        setting = reference_setting(report)
        parts.append("latency not measured" if setting is None else _timed_words(report, setting))
    return ", ".join(parts)


def gained_shortly(report: RunReport) -> str:
    """Say the same in ratios alone, such as `5.2× smaller, 2.5× faster`."""
    setting = reference_setting(report)
    parts = [size_words(report), None if setting is None else speed_words(report, setting)]
    return ", ".join(part for part in parts if part)


def cards(report: RunReport) -> list[Card]:
    """Return size, speed and what changed; none without a baseline."""
    if report.baseline is None:
        return []
    if report.final is None:
        return _baseline_cards(report, report.baseline)
    return [_size_card(report), _speed_card(report), _change_card(report)]


def _timed_words(report: RunReport, setting: Setting) -> str:
    words = speed_words(report, setting) or "speed-up not measured"
    noisy = ", noisy" if is_noisy(report, setting) else ""
    values = _speed_values(report, setting)
    return f"{words} ({values} at {setting.shape} on {setting.provider}{noisy})"


def _size_values(report: RunReport) -> str:
    sizes = (given_bytes(report), _bytes(report, "final"))
    return " → ".join(units.megabytes(size) for size in sizes) + " MB"


def _speed_values(report: RunReport, setting: Setting) -> str:
    times = (deciding_ms(report, end, setting) for end in ("baseline", "final"))
    clock = " of CPU time" if is_by_cpu_time(report, setting) else ""
    return " → ".join(units.number(time) for time in times) + f" ms{clock}"


def _baseline_cards(report: RunReport, baseline: ModelRecord) -> list[Card]:
    score, size = baseline.score, baseline.size
    value = units.score(report.metric, score.value)
    alone = "of the untouched checkpoint"
    rows = scores.search_rows(report)
    return [
        Card("Size on disk", units.megabytes(size.bytes_on_disk), "MB", "", alone),
        Card(units.title(report.metric), value, "", "", f"{alone}, {rows}"),
        Card("Parameters", units.count(size.parameters), "", "", alone),
    ]


def _size_card(report: RunReport) -> Card:
    figure, unit = _split(size_words(report))
    detail = _parameters(report)
    if against := float32_words(report):
        detail = f"{detail}; {against}"
    return Card("Size on disk", figure, unit, _size_values(report), detail)


def _speed_card(report: RunReport) -> Card:
    setting = reference_setting(report)
    if setting is None:
        reason = report.missing.get("latencies", "not measured")
        return Card("Speed", units.DASH, "not measured", "", reason)
    figure, unit = _split(speed_words(report, setting))
    detail = f"{setting.shape}, {setting.provider}"
    if is_noisy(report, setting):
        detail += "; noisy: the machine was busy"
    return Card("Speed", figure, unit, _speed_values(report, setting), detail)


def _change_card(report: RunReport) -> Card:
    """Show the change on the rows kept apart where there are any, else on those of the gates."""
    proof, certificate = report.certification, report.certificate
    before, after = (scores.value_of(report, end) for end in ("baseline", "final"))
    drop, rows = scores.final_drop(report), scores.search_rows(report)
    if proof is not None:
        before, after, drop = proof.baseline.value, proof.final.value, proof.drop
        rows = f"{scores.rows_words(report, proof.final.num_examples)} kept apart"
    if drop is None:
        return Card(units.title(report.metric), units.DASH, "not measured", "", "")
    max_drop = report.max_drop
    figure, unit = units.change_and_budget(drop, max_drop)[0], "points"
    title, values = units.title(report.metric), [units.score(report.metric, before)]
    values.append(units.score(report.metric, after))
    if units.counts_changes(report.metric):
        title, figure, unit = "Predictions", f"{100 * max(drop, 0.0):.4g}%", "changed"
    detail = f"{rows}; budget {scores.budget_words(report)}"
    if certificate is not None:
        detail = f"proven: {certificates.lost_at_most(certificate)}; {detail}"
    where = _judged_elsewhere(report)
    return Card(
        title=title,
        figure=figure,
        unit=unit,
        values=" → ".join(values),
        detail=detail + where,
        budget_used=_share(drop, max_drop),
        bound=None if certificate is None else _share(certificate.upper_bound, max_drop),
    )


def _judged_elsewhere(report: RunReport) -> str:
    judged_on, made_for = provenance.judging_providers(report)
    return "" if judged_on in (None, made_for) else f"; judged on {judged_on}, not on {made_for}"


def _parameters(report: RunReport) -> str:
    before, after = (
        None if record is None else record.size.parameters
        for record in (report.baseline, report.final)
    )
    if before == after:
        return f"{units.count(before)} parameters, as before"
    return f"parameters {units.count(before)} → {units.count(after)}"


def _share(drop: float, max_drop: float) -> float | None:
    return min(max(drop / max_drop, 0.0), 1.0) if max_drop > 0 else None


def _split(words: str | None) -> tuple[str, str]:
    """Return `5.2× smaller` as its figure and the rest; words without a figure stand as one."""
    if words is None:
        return units.DASH, "not measured"
    figure, _, rest = words.partition(" ")
    return (figure, rest) if figure[0].isdigit() else (words[:1].upper() + words[1:], "")


def _bytes(report: RunReport, end: End) -> int | None:
    record = report.model(end)
    return None if record is None else record.size.bytes_on_disk
