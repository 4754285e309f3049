"""Which facts must be the same in several runs before their figures can be compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from compressor.report import provenance, units


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


_Fact = Callable[[dict[str, Any]], Any]


def incomparable(reports: Sequence[tuple[str, dict[str, Any]]]) -> list[Incomparable]:
    """Return what must not be compared between these runs, with exactly what differs."""
    found = []
    for consequence, facts in _COMPARABLE.items():
        differences = [
            Difference(fact, tuple(_text(value) for value in values))
            for fact, read in facts.items()
            if _differ(values := [read(data) for _, data in reports])
        ]
        if differences:
            found.append(Incomparable(consequence, tuple(differences)))
    return found


def _text(value: Any) -> str:
    return units.DASH if value is None else provenance.plain_text(value)


def _gpu(data: dict[str, Any]) -> Any:
    # A null here says that there is no GPU, not that nobody looked.
    environment = data["environment"]
    return (environment["gpu"] or "none") if "gpu" in environment else None


def _differ(values: Sequence[Any]) -> bool:
    """Tell whether two runs that recorded the fact recorded different values."""
    known = [value for value in values if value is not None]
    return any(value != known[0] for value in known)


def _environment(*keys: str) -> _Fact:
    def read(data: dict[str, Any]) -> Any:
        value: Any = data["environment"]
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        return value

    return read


def _split(name: str, key: str) -> _Fact:
    def read(data: dict[str, Any]) -> Any:
        found = [split[key] for split in data["splits"] if split["name"] == name]
        return found[0] if found else None

    return read


def _baseline_score(data: dict[str, Any]) -> Any:
    return None if data["baseline"] is None else data["baseline"]["score"]["value"]


_COMPARABLE: dict[str, dict[str, _Fact]] = {
    "The runs start from different baselines: compare neither their ratios nor their scores.": {
        # Of a run that stopped before its weights were read nothing is known but a name.
        "checkpoint": lambda data: data["source_sha256"] or None,
        "task": lambda data: data["task"],
        "metric": lambda data: data["metric"],
        "baseline score": _baseline_score,
    },
    "The scores were taken on different examples: do not compare them.": {
        "search split, fingerprint": _split("search", "fingerprint"),
        "search split, examples": _split("search", "num_examples"),
        "certification split, fingerprint": _split("certification", "fingerprint"),
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
