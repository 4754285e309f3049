"""The three questions that everybody asks about a compressed model, and short answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from compressor.measurements import AGREEMENT
from compressor.report import target, units, verdict
from compressor.report.table import deciding_ms, is_by_cpu_time, reference_setting, speed_words


@dataclass(frozen=True)
class Answer:
    """A question, the answer in a few words, and what it rests on."""

    question: str
    answer: str
    detail: str


def conclusion(data: dict[str, Any]) -> str:
    """Say in one sentence how the run ended and how sure that is.

    For example `Passed: good enough, with 95% confidence`.
    """
    status = verdict.title(data)
    if data["verdict"] in verdict.UNFINISHED:
        return verdict.headline(data)
    if data["verdict"] == "not_certified":
        return f"{status}: good enough as measured, but the data cannot prove it"
    if target.is_missed(data):
        return f"{status} within the budget"
    proof, good = data["certificate"], data["verdict"] == "passed"
    if _lost_a_slice(data):
        return f"{status}: not good enough, with {_slice_confidence(data)} confidence"
    words = "good enough" if good else "not good enough"
    if proof is not None and proof["verdict"] == ("certified" if good else "refuted"):
        return f"{status}: {words}, with {_confidence(proof)}"
    tail = ", but nothing is proven" if good else ""
    return f"{status}: {words} as measured{tail}"


def answers(data: dict[str, Any]) -> list[Answer]:
    """Return whether it is good enough, how sure that is, and what was gained."""
    return [_good_enough(data), _how_sure(data), _gain(data)]


def _confidence(proof: dict[str, Any]) -> str:
    return f"{100 * proof['confidence']:g}% confidence"


def _good_enough(data: dict[str, Any]) -> Answer:
    question = "Is it good enough?"
    if data["verdict"] in verdict.UNFINISHED and data["final"] is None:
        return Answer(question, "Unknown", "The run stopped before there was a model to judge.")
    if data["verdict"] in verdict.UNFINISHED:
        words = f"{_capital(verdict.score_words(data))}. The run stopped after that, and there is "
        return Answer(question, "Not finished", f"{words}no artifact to use.")
    if data["verdict"] == "budget_exceeded":
        return Answer(question, "No", f"{verdict.headline(data)}.")
    is_open = data["certification"] is not None and data["inconclusive_allowed"]
    is_plain = data["verdict"] == "passed" and not is_open and not data["doubts"]
    answer = "Yes" if is_plain else "As measured, yes"
    return Answer(question, answer, f"{_capital(verdict.score_words(data))}.{_refuted(data)}")


def _refuted(data: dict[str, Any]) -> str:
    """Say which slices are proven to lose too much, because an average can hide them."""
    names = [item["name"] for item in data["slices"] if item["verdict"] == "refuted"]
    if not names:
        return ""
    allowed = units.points(data["slices"][0]["max_drop"])
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    if data["metric"] == AGREEMENT:
        return f" But {names[0]}{more} changed more than {allowed}% of the answers, as is proven."
    return f" But {names[0]}{more} lost more than {allowed} points, and that is proven."


def _how_sure(data: dict[str, Any]) -> Answer:
    question = "How sure are we?"
    proof, words = data["certificate"], verdict.certificate_words(data)
    if _lost_a_slice(data):
        worst = data["slices"][0]
        least, allowed = units.bound_and_budget(
            worst["lower_bound"], worst["max_drop"], upwards=False
        )
        did = "changed" if data["metric"] == AGREEMENT else "lost"
        detail = (
            f"With {_slice_confidence(data)} confidence for all slices together, {worst['name']} "
            f"{did} at least {least}, more than the {allowed} that a "
            f"slice may."
        )
        return Answer(question, f"{_slice_confidence(data)} sure that it is not", detail)
    if proof is None or words is None:
        return Answer(question, "Not proven" if data["final"] else units.DASH, _unproven(data))
    _, _, rest = words.partition(": ")
    answer = {
        "certified": f"{100 * proof['confidence']:g}% sure",
        "refuted": f"{100 * proof['confidence']:g}% sure that it is not",
        "inconclusive": "Not sure enough",
    }[proof["verdict"]]
    examples = f"Taken on {proof['num_examples']:,} examples that no step of the run had seen"
    examples += "." if proof["metric"] == AGREEMENT else f": {units.change(proof['drop'])} points."
    warning = verdict.readings_words(data)
    if warning is not None:
        examples = f"{warning}."
        if proof["verdict"] == "certified":
            answer += ", if it were the first reading"
    return Answer(question, answer, f"{_capital(rest)}. {examples}")


def _lost_a_slice(data: dict[str, Any]) -> bool:
    """Return whether the run ended because a slice is proven to lose too much."""
    return bool(data["guilty_step"] == "slices" and data["slices"])


def _slice_confidence(data: dict[str, Any]) -> str:
    return f"{100 * data['recipe']['budget']['confidence']:g}%"


def _unproven(data: dict[str, Any]) -> str:
    words = verdict.certificate_words(data)
    if words is not None:
        return f"{words}."
    if data["baseline"] is None or data["final"] is None:
        return "The run stopped before there was anything to prove."
    reason = verdict.why_missing(data, "certification")
    examples = data["baseline"]["score"]["num_examples"]
    return (
        f"{_capital(reason)}: this is one measurement, on the {examples:,} search examples that "
        f"the gates looked at."
    )


def _gain(data: dict[str, Any]) -> Answer:
    question = "What was gained?"
    before, after = data["baseline"], data["final"]
    if before is None or after is None:
        return Answer(question, "Nothing yet", "The run stopped before there was an artifact.")
    sizes = [verdict.given_bytes(data), after["size"]["bytes_on_disk"]]
    parts = [verdict.size_words(data)]
    detail = f"{units.megabytes(sizes[0])} → {units.megabytes(sizes[1])} MB"
    if against := verdict.float32_words(data):
        detail += f" ({against})"
    setting = reference_setting(data)
    if setting is not None:
        clock = " of CPU time" if is_by_cpu_time(data, setting) else ""
        times = [deciding_ms(data, end, setting) for end in ("baseline", "final")]
        parts.append(speed_words(data, setting))
        detail += (
            f", {units.number(times[0])} → {units.number(times[1])} ms{clock} at "
            f"{setting.shape} on {setting.provider}"
        )
    answer = ", ".join(part for part in parts if part)
    return Answer(question, _capital(answer) if answer else units.DASH, f"{detail}.")


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
