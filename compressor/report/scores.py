"""How scores of a run changed, and on how many rows, as sentences say it."""

from __future__ import annotations

from typing import Any

from compressor.measurements import AGREEMENT, SPEARMAN
from compressor.report import units
from compressor.words import counted, moved_and_budget, points


def value_of(data: dict[str, Any], end: str) -> float | None:
    """Return the score of the `baseline` or `final` model on the search split."""
    return None if data[end] is None else data[end]["score"]["value"]


def final_drop(data: dict[str, Any]) -> float | None:
    """Return how far the final score lies below the baseline, as a fraction."""
    before, after = value_of(data, "baseline"), value_of(data, "final")
    return None if before is None or after is None else before - after


def rows_words(data: dict[str, Any], amount: int) -> str:
    """Return a number of examples with what they are, such as `872 rows` or `1 text`."""
    if data["metric"] == SPEARMAN:
        return counted(amount, "pair of texts", "pairs of texts")
    return counted(amount, "row" if data["embedding"] is None else "text")


def search_rows(data: dict[str, Any]) -> str:
    """Return how many examples the gates looked at, such as `872 search rows`."""
    amount = data["baseline"]["score"]["num_examples"]
    return rows_words(data, amount).replace(" ", " search ", 1)


def change_words(
    data: dict[str, Any], before: float | None, after: float | None, drop: float | None
) -> str:
    """Say how a score changed, such as `accuracy fell by 0.6 points (90.00% → 89.40%)`."""
    return change_and_budget(data, before, after, drop)[0]


def change_and_budget(
    data: dict[str, Any], before: float | None, after: float | None, drop: float | None
) -> tuple[str, str]:
    """Return `change_words` and the budget, with digits that tell the two apart."""
    name = units.metric_words(data["metric"])
    if after is None or drop is None:
        return f"{name} was not measured", budget_words(data)
    if data["metric"] == AGREEMENT:
        changed = f"{100 * drop:.4g}%" if drop > 0 else "none"
        return f"{changed} of the answers changed", budget_words(data)
    change, allowed = moved_and_budget(drop, data["max_drop"])
    old, new = (units.score(data["metric"], value) for value in (before, after))
    values = old if old == new else f"{old} → {new}"
    return f"{name} {change} ({values})", allowed


def budget_words(data: dict[str, Any]) -> str:
    """Return the budget, such as `1 point`; without labels a share of answers, such as `1%`."""
    limit = data["max_drop"]
    return f"{100 * limit:.4g}%" if data["metric"] == AGREEMENT else points(limit)


def measured_words(data: dict[str, Any]) -> str | None:
    """Say how the score changed: first on the rows kept apart, then on those of the gates."""
    proof = data["certification"]
    drop = final_drop(data)
    if drop is None:
        return None
    words = change_words(data, value_of(data, "baseline"), value_of(data, "final"), drop)
    if proof is None:
        return f"{words} on {search_rows(data)}"
    ends = proof["baseline"]["value"], proof["final"]["value"]
    apart = change_words(data, *ends, proof["drop"])
    kept = rows_words(data, proof["final"]["num_examples"])
    return f"{apart} on {kept} kept apart; {words} on {search_rows(data)}"
