"""Which facts must be the same in several runs before their figures can be compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from compressor.measurements import RunReport, SplitRecord
from compressor.report import provenance, scores, units


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
