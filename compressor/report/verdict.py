"""What a run came to, in one plain sentence, and what to do when it stopped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from compressor.errors import about
from compressor.measurements import AGREEMENT, SPEARMAN
from compressor.report import target, units
from compressor.report.table import deciding_ms, is_by_cpu_time, reference_setting, speed_words


@dataclass(frozen=True)
class Card:
    """One figure before and after; without a final artifact `before` is empty."""

    title: str
    before: str
    after: str
    unit: str
    ratio: str
    detail: str
    budget_used: float | None = None  # share of the accuracy budget that is spent, 0..1


TITLES = {
    "passed": "Passed",
    "budget_exceeded": "Accuracy budget exceeded",
    "not_certified": "Accuracy budget not proven",
    "failed": "Failed",
    "stopped": "Stopped",
    "internal_error": "Internal error",
}
UNFINISHED = frozenset({"failed", "stopped", "internal_error"})  # nothing was judged in the end


_ALIKE = 0.1  # up to here a file given in float32 and its export are taken for one size


# What the pipeline calls its steps, for a sentence.
_STEPS = {
    "load": "Loading the checkpoint and the data",
    "baseline": "Measuring the baseline",
    "export": "The export to ONNX",
    "artifact": "The exported model",
    "slices": "A slice of the data",
    "certification": "The final model, on the certification split,",
    "benchmark": "The benchmark",
    "seal": "Completing the artifact",
}


def title(data: dict[str, Any]) -> str:
    """Return how the run ended in a few words."""
    return target.MISSED_TITLE if target.is_missed(data) else TITLES[data["verdict"]]


def headline(data: dict[str, Any]) -> str:
    """Say in one sentence how the run of a `report.json` ended.

    For example `3.9× smaller, 2.1× faster at batch 1, 32 tokens on cpu, accuracy 89.68% → 89.33%
    (−0.34 points; budget 1.00)`.
    """
    if data["verdict"] == "passed":
        parts = [size_words(data), _speed_words(data), score_words(data)]
        text = ", ".join(part for part in parts if part)
        return text[:1].upper() + text[1:] if text else "Finished, but nothing was measured"
    if target.is_missed(data):
        return target.missed_words(data)
    if data["verdict"] == "budget_exceeded":
        return f"{_guilty(data)} lost too much: {_loss_words(data)}"
    if data["verdict"] == "not_certified":
        unproven = "The final model is within the budget, but the data cannot prove it"
        return f"{unproven}: {_loss_words(data)}"
    ended = {
        "stopped": "was under way when the run was stopped",
        "internal_error": "met a bug in compressor",
    }.get(data["verdict"], "failed")
    return f"{_guilty(data)} {ended}{'' if data['baseline'] else ', so nothing was measured'}"


def advice(data: dict[str, Any]) -> str | None:
    """Say what to do about a run that did not pass; None for one that did."""
    if data["verdict"] == "passed":
        return None
    if data["verdict"] == "failed":
        return "Put right what the sentence above names, then run the same recipe again."
    if data["verdict"] == "stopped":
        return (
            "Run the same command again, without --force: it goes on after the last finished step."
        )
    if data["verdict"] == "internal_error":
        return (
            "Report the bug with the traceback, which lies beside this report. Until it is mended, "
            "other settings for this step, or leaving it out, may lead around it."
        )
    if data["verdict"] == "not_certified":
        proof = data["certificate"]
        if proof is not None and _guess_words(proof) is not None:
            return (
                "Lower budget.max_drop, take another metric or rows that are harder to guess, or "
                "accept the missing proof with --allow-inconclusive."
            )
        return (
            "Give data.certification more rows, raise budget.max_drop, or accept the missing proof "
            "with --allow-inconclusive."
        )
    if target.is_missed(data):
        return target.advice(data)
    if data["guilty_step"] == "slices":
        return (
            "Use milder settings, train on more examples like these, or raise "
            "budget.max_slice_drop if that loss is acceptable."
        )
    if data["guilty_step"] == "certification":
        return (
            "The gates held on the search split, so it is too small or too unlike these rows: give "
            "data.search more rows or use milder settings. These rows have spoken now: prove the "
            "next model with others. Or raise budget.max_drop if that loss is acceptable."
        )
    good = sum(record["verdict"] == "passed" for record in data["passes"])
    if good == len(data["passes"]):
        return (
            "Every pass stayed within the budget, so the loss came after them: look at the parity "
            "figure below, or raise budget.max_drop if that loss is acceptable."
        )
    text = "Use milder settings for this step, or raise budget.max_drop if that loss is acceptable."
    if good > 0:
        kept = f"pass {good} ({data['passes'][good - 1]['kind']})"
        text += f" Up to {kept} the run was within the budget: a recipe that ends there passes."
    return text


def cards(data: dict[str, Any]) -> list[Card]:
    """Return size, latency, score and parameters before and after; none without a baseline."""
    if data["baseline"] is None:
        return []
    if data["final"] is None:
        return _baseline_cards(data)
    return [_size_card(data), _latency_card(data), _score_card(data), _parameter_card(data)]


def final_drop(data: dict[str, Any]) -> float | None:
    """Return how far the final score lies below the baseline, as a fraction."""
    before, after = _value(data, "baseline"), _value(data, "final")
    return None if before is None or after is None else before - after


def certification_words(data: dict[str, Any]) -> str | None:
    """Say what the certification split showed; None when there was none or it was not reached."""
    proof = data["certification"]
    if proof is None:
        return None
    values = proof["baseline"]["value"], proof["final"]["value"]
    words = _score_change_words(data, *values, proof["drop"])
    examples = proof["final"]["num_examples"]
    return f"On {examples:,} examples that no step of the run had seen: {words}"


def certificate_words(data: dict[str, Any]) -> str | None:
    """Say what the certification split proves about the drop; None when none was read."""
    proof = data["certificate"]
    accepted = ". The run was told to go on without proof" if data["inconclusive_allowed"] else ""
    if proof is None:
        if data["certification"] is None:
            return None
        return f"Nothing is proven about the drop: {why_missing(data, 'certificate')}{accepted}"
    sure = f"{100 * proof['confidence']:g}% confidence"
    bound, budget = units.bound_and_budget(proof["upper_bound"], proof["max_drop"], upwards=True)
    least, _ = units.bound_and_budget(proof["lower_bound"], proof["max_drop"], upwards=False)
    what, unit = "the drop is", " points"
    if proof["metric"] == AGREEMENT:
        what, unit, budget = "the share of changed answers is", "%", f"{budget}%"
    if proof["verdict"] == "certified":
        return f"Certified: with {sure}, {what} at most {bound}{unit}; the budget is {budget}"
    if proof["verdict"] == "refuted":
        return (
            f"Refuted: with {sure}, {what} at least {least}{unit}, more than the budget of {budget}"
        )
    if (guess := _guess_words(proof)) is not None:
        return f"Inconclusive: with {sure}, {what} at most {bound}{unit}, but {guess}{accepted}"
    words = (
        f"Inconclusive: with {sure}, all that is proven is that {what} at most {bound}{unit}, and "
        f"the budget is {budget}"
    )
    if proof["needed_examples"] is None:
        return words + accepted
    return f"{words}; {about(proof['needed_examples'])} examples would settle it{accepted}"


def _guess_words(proof: dict[str, Any]) -> str | None:
    """Say which model that knows nothing would pass on the same rows; None where none would."""
    known = proof["uninformed"]
    if known is None or known["least_drop"] is None or known["least_drop"] > proof["max_drop"]:
        return None
    value = units.score(proof["metric"], known["score"])
    name = units.metric_words(proof["metric"])
    budget = units.points(proof["max_drop"])
    return (
        f"a budget of {budget} points proves nothing on these rows: the {name} of {known['who']} "
        f"is {value}, and that would pass too"
    )


def doubts(data: dict[str, Any]) -> list[str]:
    """Return what speaks against taking the scores of a run for proof, each a sentence."""
    return [f"{text}." for text in data["doubts"]]


def readings_words(data: dict[str, Any]) -> str | None:
    """Warn when the certification rows had been read before; None for a first reading."""
    found = data["certificate_readings"]
    number = next((item["number"] for item in found if item["is_this_run"]), 1)
    if number < 2:
        return None
    return (
        f"These rows had been read before in this directory, with another result: this is reading "
        f"{number}, and a certificate only holds for rows that no choice was made on"
    )


def certificate_counts(data: dict[str, Any]) -> str | None:
    """Say what the certificate was computed from, and how."""
    proof = data["certificate"]
    if proof is None:
        return None
    counts = f"{proof['losses']:,} answers turned wrong and {proof['wins']:,} turned right"
    if proof["metric"] == AGREEMENT:
        counts = f"{proof['losses']:,} of {proof['num_examples']:,} answers changed"
    elif data["embedding"] is not None:
        what = "pairs" if proof["metric"] == SPEARMAN else "texts"
        counts = f"{proof['losses']:,} of {proof['num_examples']:,} {what} lost"
    return f"{counts} ({proof['method']})"


def why_missing(data: dict[str, Any], key: str) -> str:
    """Return why `key` of the report is null or empty."""
    reason = data["missing"].get(key)
    if reason is None and data["guilty_step"] is not None:
        reason = f"the run stopped at {data['guilty_step']}"
    return "no reason was recorded" if reason is None else str(reason)


def _guilty(data: dict[str, Any]) -> str:
    for index, record in enumerate(data["passes"]):
        if record["verdict"] != "passed":
            wanted = data["recipe"].get("passes")
            total = max(len(data["passes"]), len(wanted) if isinstance(wanted, list) else 0)
            return f"Pass {index + 1} of {total} ({record['kind']})"
    step = data["guilty_step"]
    return _STEPS.get(step, f"Step '{step}'") if step else "The run"


def _loss_words(data: dict[str, Any]) -> str:
    for record in data["passes"]:
        if record["verdict"] == "budget_exceeded":
            before, after, drop = _value(data, "baseline"), record["score_after"], record["drop"]
            return _score_change_words(data, before, after, drop)
    if data["guilty_step"] == "slices" and data["slices"]:
        worst = data["slices"][0]
        lost, allowed = units.change_and_budget(worst["drop"], worst["max_drop"])
        if data["metric"] == AGREEMENT:
            return (
                f"{units.points(worst['drop'])}% of the answers to the {worst['num_examples']:,} "
                f"examples of {worst['name']} changed (in a slice {allowed}% may)"
            )
        return (
            f"the {worst['num_examples']:,} examples of {worst['name']} changed by {lost} points "
            f"(a slice may lose {allowed})"
        )
    proof = data["certification"]
    if proof is not None and data["guilty_step"] == "certification":
        values = proof["baseline"]["value"], proof["final"]["value"]
        return _score_change_words(data, *values, proof["drop"])
    return score_words(data)


def score_words(data: dict[str, Any]) -> str:
    """Say how the score on the search split changed, against the budget."""
    before, after = _value(data, "baseline"), _value(data, "final")
    return _score_change_words(data, before, after, final_drop(data))


def _score_change_words(
    data: dict[str, Any], before: float | None, after: float | None, drop: float | None
) -> str:
    name = units.metric_words(data["metric"])
    if after is None or drop is None:
        return f"{name} not measured (budget {units.points(data['max_drop'])} points)"
    lost, allowed = units.change_and_budget(drop, data["max_drop"])
    old, new = (units.score(data["metric"], value) for value in (before, after))
    return f"{name} {old} → {new} ({lost} points; budget {allowed})"


def size_words(data: dict[str, Any]) -> str | None:
    """Say how much smaller the model file is than the weights that were given."""
    factor = units.ratio(given_bytes(data), _bytes(data, "final"))
    return units.compared(factor, "smaller", "larger", "same size", counted=True)


def given_bytes(data: dict[str, Any]) -> int | None:
    """Return what the weights that were given take; of older reports the baseline's ONNX file."""
    given: int | None = data["source_bytes"]
    return _bytes(data, "baseline") if given is None else given


def float32_words(data: dict[str, Any]) -> str:
    """Say what the original takes in float32, as ONNX, where what was given is of another size.

    Empty where they are alike: a checkpoint in float32 is within a few per cent of its export.
    """
    given, exported = given_bytes(data), _bytes(data, "baseline")
    if not given or not exported or abs(exported / given - 1) < _ALIKE:
        return ""
    words = f"in float32, as ONNX, the original takes {units.megabytes(exported)} MB"
    factor = units.ratio(exported, _bytes(data, "final"))
    against = units.compared(factor, "smaller", "larger", "same size", counted=True)
    if not against or not against[0].isdigit():
        return words
    return f"{words}; the artifact is {against} than that"


def _speed_words(data: dict[str, Any]) -> str:
    setting = reference_setting(data)
    if setting is None:
        return "latency not measured"
    words = speed_words(data, setting) or "speed-up not measured"
    clock = " by CPU time" if is_by_cpu_time(data, setting) else ""
    return f"{words}{clock} at {setting.shape} on {setting.provider}"


def _baseline_cards(data: dict[str, Any]) -> list[Card]:
    score, size = data["baseline"]["score"], data["baseline"]["size"]
    value = units.score(data["metric"], score["value"])
    examples = f"{score['num_examples']:,} examples"
    alone = "baseline alone"
    return [
        Card("Size on disk", "", units.megabytes(size["bytes_on_disk"]), "MB", alone, "model file"),
        Card(units.title(data["metric"]), "", value, "", alone, examples),
        Card("Parameters", "", units.count(size["parameters"]), "", alone, ""),
    ]


def _size_card(data: dict[str, Any]) -> Card:
    before, after = given_bytes(data), _bytes(data, "final")
    against = float32_words(data)
    return Card(
        title="Size on disk",
        before=units.megabytes(before),
        after=units.megabytes(after),
        unit="MB",
        ratio=size_words(data) or "not measured",
        detail="model file alone" + (f"; {against}" if against else ""),
    )


def _latency_card(data: dict[str, Any]) -> Card:
    setting = reference_setting(data)
    if setting is None:
        reason = why_missing(data, "latencies")
        return Card("Latency p50", "", units.DASH, "ms", "not measured", reason)
    before, after = (deciding_ms(data, end, setting) for end in ("baseline", "final"))
    return Card(
        title="CPU time p50" if is_by_cpu_time(data, setting) else "Latency p50",
        before=units.number(before),
        after=units.number(after),
        unit="ms",
        ratio=speed_words(data, setting) or "not measured",
        detail=f"{setting.shape}, {setting.provider}",
    )


def _score_card(data: dict[str, Any]) -> Card:
    drop, max_drop = final_drop(data), data["max_drop"]
    examples = data["baseline"]["score"]["num_examples"]
    used, ratio = None, "not measured"
    detail = f"{examples:,} examples"
    if drop is not None:
        lost, allowed = units.change_and_budget(drop, max_drop)
        where = " search" if data["certification"] else ""
        ratio, detail = f"{lost} points", f"budget {allowed} points, {examples:,}{where} examples"
        used = min(max(drop / max_drop, 0.0), 1.0) if max_drop > 0 else None
    export = data["recipe"].get("export")
    if isinstance(export, dict) and export.get("evaluate_on") not in (None, export["provider"]):
        detail += f", judged on {export['evaluate_on']}, not on {export['provider']}"
    return Card(
        title=units.title(data["metric"]),
        before=units.score(data["metric"], _value(data, "baseline")),
        after=units.score(data["metric"], _value(data, "final")),
        unit="",
        ratio=ratio,
        detail=detail,
        budget_used=used,
    )


def _parameter_card(data: dict[str, Any]) -> Card:
    sizes = [data[end]["size"] if data[end] else None for end in ("baseline", "final")]
    before, after = (None if size is None else size["parameters"] for size in sizes)
    words = units.compared(units.ratio(before, after), "fewer", "more", "same number", counted=True)
    detail = ""
    if sizes[1] is not None:
        zeros = units.zeros(sizes[1]["parameters"], sizes[1]["nonzero_parameters"])
        detail = f"{zeros} of them zero"
    ratio = words or "not measured"
    return Card("Parameters", units.count(before), units.count(after), "", ratio, detail)


def _value(data: dict[str, Any], end: str) -> float | None:
    return None if data[end] is None else data[end]["score"]["value"]


def _bytes(data: dict[str, Any], end: str) -> int | None:
    return None if data[end] is None else data[end]["size"]["bytes_on_disk"]
