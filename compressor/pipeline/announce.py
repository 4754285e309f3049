"""What a run says on its way: the plan, each gate, the tries that remain, and what comes next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from compressor.measurements import (
    Certificate,
    Certification,
    Latency,
    LengthRecord,
    ModelRecord,
    Score,
    Size,
)
from compressor.passes import OnnxPass, Pass, TorchPass
from compressor.pipeline.estimate import pass_name
from compressor.pipeline.judge import MAX_DROP, Judge
from compressor.progress import duration, rough
from compressor.recipe.recipe import Recipe, RepairSettings
from compressor.report import certificates, units
from compressor.tasks import find_metric
from compressor.words import counted, moved, moved_and_budget, points, verb_for

# The steps that are no passes, as people read them; the keys are their names in a report.
TITLES: Mapping[str, str] = {
    "baseline": "baseline: score and export the untouched checkpoint",
    "export": "export to ONNX",
    "artifact": "artifact: write the files that ship, and score them",
    "certification": "certification: read the rows that were kept apart, once",
    "benchmark": "benchmark: time baseline and artifact in turns",
    "seal": "seal: load the artifact once more and complete it",
}


def gate_line(judge: Judge, baseline: Score, score: Score, size: Size | None) -> str:
    """Say what a gate found: the score, how it moved, and what is left of the budget."""
    budget = judge.budget
    drop = budget.drop(baseline, score)
    change, allowed = moved_and_budget(drop, budget.max_drop)
    found = f"{change}, {allowed} allowed"
    if budget.holds(baseline, score):
        found += f", {points(max(0.0, budget.max_drop - drop))} left"
    else:
        found += f", {points(drop - budget.max_drop)} too many"
    megabytes = "" if size is None else f", {units.megabytes(size.bytes_on_disk)} MB"
    missed = [item for item in judge.shortfalls(baseline, score) if item.key != MAX_DROP]
    told = "".join(
        f"; {item.words} fell by {points(item.drop)}, {points(item.max_drop)} allowed"
        for item in missed[:3]
    )
    return f"{score_words(score)}{megabytes}: {found}{told}"


def score_words(score: Score) -> str:
    """Return a score with what it was taken on, such as `accuracy 89.75% on 400 rows`."""
    metric, shown = find_metric(score.metric), units.score(score.metric, score.value)
    return f"{metric.words} {shown} on {counted(score.num_examples, metric.unit, metric.units)}"


def record_line(record: ModelRecord) -> str:
    """Return score and size of one end of a run."""
    return f"{score_words(record.score)}, {units.megabytes(record.size.bytes_on_disk)} MB"


def next_step(recipe: Recipe, position: int | None) -> str:
    """Say which step follows the pass at `position`, or the baseline where that is None."""
    steps = list(enumerate(recipe.passes))
    begin = -1 if position is None else position
    is_torch = position is None or isinstance(recipe.passes[position], TorchPass)
    for kind in (TorchPass, OnnxPass):
        if kind is OnnxPass and is_torch:
            return "export"
        for place, step in steps:
            if place > begin and isinstance(step, kind) and (is_torch or kind is OnnxPass):
                return pass_name(place, step)
    return "artifact"


RUNTIMES = "runtimes"  # the step that times the artifact in several of them


def last_steps(recipe: Recipe) -> list[str]:
    """Return the steps from the artifact on, in their order."""
    found = ["artifact"]
    found += ["certification"] if recipe.data.certification is not None else []
    found += ["benchmark"] if recipe.benchmark.measures else []
    return [*found, "seal"]


def most_tries(step: Pass, limits: RepairSettings) -> int:
    """Return how many settings of a pass are tried at most, the recipe's own counted."""
    milder = list(step.milder())
    if milder and step.halfway(milder[0]) is not None:
        return 1 + limits.max_tries  # between two settings there is always one more
    return 1 + min(limits.max_tries, len(milder))


def minutes_left(limits: RepairSettings, seconds: float) -> str:
    """Say what is left of the time that a repair may take; nothing where it has no limit."""
    if limits.max_minutes is None:
        return ""
    left = max(0.0, 60 * limits.max_minutes - seconds)
    return f", {rough(left)} of {limits.max_minutes:g} min left for further tries"


def plan_lines(
    recipe: Recipe,
    metric: str,
    num_rows: Mapping[str, int],
    output: Path,
    *,
    seconds: float | None,
    stored: int,
    steps: int,
) -> list[str]:
    """Say what a run is about to do: passes, rows, budget, time, and where it writes.

    `num_rows` are those that a score is of: queries, where they look for documents. Of its
    `steps`, `stored` were done by an earlier run.
    """
    budget, certified = recipe.budget, num_rows.get("certification")
    rows = ", ".join(f"{count:,} {name}" for name, count in num_rows.items())
    proof = "" if certified else "; none for certification, so nothing will be proven"
    goal = (
        "" if budget.target is None else f", towards a goal (budget.target: {budget.target.kind})"
    )
    least = budget.min_attribution_agreement
    explained = "" if least is None else f", attributions must agree by {least:g}"
    resumes = "a new run"
    if stored:
        resumes = f"resumes, {stored} of {steps} steps {verb_for(stored, 'is', 'are')} stored"
    return [
        f"plan: {' > '.join(kinds_in_order(recipe))}{goal}",
        f"rows: {rows}{proof}",
        f"budget: {units.metric_words(metric)} may fall by {points(budget.max_drop)}{explained}",
        f"time: {'unknown' if seconds is None else rough(seconds)}",
        f"output: {output} ({resumes})",
    ]


def kinds_in_order(recipe: Recipe) -> list[str]:
    """Return the passes as they run, and the steps around them."""
    torch = [step.kind for step in recipe.passes if isinstance(step, TorchPass)]
    graph = [step.kind for step in recipe.passes if isinstance(step, OnnxPass)]
    ends = ["certify"] if recipe.data.certification is not None else []
    ends += ["benchmark"] if recipe.benchmark.measures else []
    return [*torch, "export", *graph, *ends]


def certified_line(observed: Certification, certificate: Certificate | None) -> str:
    """Say what the certification split shows, and what it proves."""
    before = units.score(observed.baseline.metric, observed.baseline.value)
    found = f"{score_words(observed.final)}: {moved(observed.drop)} from {before}"
    if certificate is None:
        return f"{found}; no bound on the drop can be given"
    most, sure = certificates.lost_at_most(certificate), certificates.confidence_words(certificate)
    return f"{found}; proven: {most}, with {sure} ({points(certificate.max_drop)} allowed)"


def timed_line(latencies: Sequence[Latency]) -> str:
    """Say how long baseline and artifact take, for the first shape that was timed."""
    first = latencies[0]
    shape = (first.provider, first.batch_size, first.sequence_length)
    own = {
        item.model: item.deciding_ms
        for item in latencies
        if (item.provider, item.batch_size, item.sequence_length) == shape
    }
    tokens = "" if first.sequence_length is None else f", {first.sequence_length} tokens"
    factor = units.ratio(own["baseline"], own["final"])
    faster = units.compared(factor, "faster", "slower", "as fast")
    return (
        f"{own['baseline']:.3g} ms -> {own['final']:.3g} ms, {faster}, at batch "
        f"{first.batch_size}{tokens} on {first.provider}"
    )


def reused_line(name: str, seconds: float) -> str:
    """Say that a step was not done again."""
    return f"{name}: taken from an earlier run, took {duration(seconds)} then"


def cut_line(lengths: LengthRecord) -> str:
    """Say how many texts or sounds were too long to be read whole."""
    noun = "sounds" if lengths.unit == "sample" else "texts"
    rows = f"{lengths.num_cut:,} of {lengths.num_examples:,} {noun}"
    limit = counted(lengths.measured, lengths.unit)
    return f"{rows} are longer than {limit}: the rest of them is not read"
