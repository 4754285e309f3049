"""The first words of a report: is it good enough, how sure is that, and what to do next.

One sentence, `headline`, stands at the top of the page, the Markdown, the terminal's summary, the
model card and in comparisons, so that all of them say the same.
"""

from __future__ import annotations

from typing import Any

from compressor.measurements import AGREEMENT
from compressor.report import certainty, scores, target
from compressor.words import about, points

TITLES = {
    "passed": "Passed",
    "budget_exceeded": "Over budget",
    "not_certified": "Not certified",
    "failed": "Failed",
    "stopped": "Stopped",
    "internal_error": "Internal error",
}
UNFINISHED = frozenset({"failed", "stopped", "internal_error"})  # nothing was judged in the end

# Where the pipeline's steps end, for a sentence.
_PLACES = {
    "load": "while checkpoint and data were loaded",
    "baseline": "while the baseline was measured",
    "export": "in the export to ONNX",
    "artifact": "in the exported model",
    "slices": "in a slice of the data",
    "certification": "on the rows kept apart",
    "benchmark": "in the benchmark",
    "seal": "while the artifact was completed",
}
_RESUME = "run the same command again to resume"


def title(data: dict[str, Any]) -> str:
    """Return how the run ended in a few words."""
    if target.is_missed(data):
        return target.MISSED_TITLE
    if data["verdict"] != "passed":
        return TITLES[data["verdict"]]
    if data["inconclusive_allowed"]:
        return "Passed without proof"
    if data["doubts"]:
        return f"Passed, with {'a doubt' if len(data['doubts']) == 1 else 'doubts'}"
    return TITLES["passed"]


def tone(data: dict[str, Any]) -> str:
    """Return the verdict, or `doubtful` for a run that passed what proves little."""
    weak = data["inconclusive_allowed"] or data["doubts"] or certainty.reading_number(data) > 1
    return "doubtful" if data["verdict"] == "passed" and weak else str(data["verdict"])


def headline(data: dict[str, Any]) -> str:
    """Say in one sentence how the run of a `report.json` ended and how sure that is.

    For example `Passed: at most 0.87 points of accuracy lost, with 95% confidence, on 900 rows kept
    apart (budget 1 point)`. It has no full stop.
    """
    start = title(data)
    if target.is_missed(data):
        return f"{start}: {target.missed_words(data)}"
    if data["verdict"] == "passed":
        return f"{start}: {_passed_words(data)}"
    if data["verdict"] == "budget_exceeded":
        return _exceeded_words(data)
    if data["verdict"] == "not_certified":
        return f"{start}: {_unproven_words(data)}"
    if data["verdict"] == "stopped":
        return _stopped_words(data)
    nothing = "" if data["baseline"] else ", before anything was measured"
    if data["verdict"] == "internal_error":
        return f"{start} {_place(data)}{nothing}: a bug in compressor, not a mistake of yours"
    return f"{start} {_place(data)}{nothing}"


def next_step(data: dict[str, Any]) -> str:
    """Say what to do next, in a sentence or two."""
    if data["verdict"] == "passed":
        return _after_success(data)
    if data["verdict"] == "failed":
        return "Correct what the reason names, then run the same command again."
    if data["verdict"] == "stopped":
        return f"{_how_to_resume(data)}. Finished steps are not done again."
    if data["verdict"] == "internal_error":
        return (
            "Report the bug with the traceback, which lies beside this report. Until it is fixed, "
            "other settings for this step, or leaving it out, may avoid it."
        )
    if data["verdict"] == "not_certified":
        return _towards_proof(data)
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
            "data.search more rows or use milder settings. Then prove the next model with other "
            "rows, because these have been read. Or raise budget.max_drop if that loss is "
            "acceptable."
        )
    good = sum(record["verdict"] == "passed" for record in data["passes"])
    if good == len(data["passes"]):
        return (
            "Every pass stayed within the budget, so the loss came after them: look at the parity "
            "figure below, or raise budget.max_drop if that loss is acceptable."
        )
    # The settings that a repair could have tried are known only after one.
    looked = len(data["passes"][good]["tries"]) > 1 or data["target"] is not None
    look = "" if looked else " let the run look for them (on_failure: repair),"
    text = (
        f"Use milder settings for this pass,{look} or raise budget.max_drop if that loss is "
        f"acceptable."
    )
    if good > 0:
        kept = f"pass {good} ({data['passes'][good - 1]['kind']})"
        text += f" Up to {kept} the run was within the budget: a recipe that ends there passes."
    return text


def why_missing(data: dict[str, Any], key: str) -> str:
    """Return why `key` of the report is null or empty."""
    reason = data["missing"].get(key)
    if reason is None and data["guilty_step"] is not None:
        reason = f"the run stopped at {data['guilty_step']}"
    return "no reason was recorded" if reason is None else str(reason)


def _passed_words(data: dict[str, Any]) -> str:
    proof, budget = data["certificate"], scores.budget_words(data)
    if proof is not None and proof["verdict"] == "certified":
        rows = f"on {scores.rows_words(data, proof['num_examples'])} kept apart"
        words = f"{certainty.lost_at_most(proof)}, with {certainty.confidence_words(proof)}, {rows}"
        number = certainty.reading_number(data)
        if number > 1:
            return (
                f"{words} (budget {budget}), if this were their first reading: it is number "
                f"{number}"
            )
        return f"{words} (budget {budget})"
    if data["certification"] is not None:
        return _unproven_words(data)
    before, after = (scores.value_of(data, end) for end in ("baseline", "final"))
    if after is None:
        return "the score was not measured"
    change, budget = scores.change_and_budget(data, before, after, scores.final_drop(data))
    return (
        f"{change} on {scores.search_rows(data)} (budget {budget}); not certified: that takes "
        f"{_rows_to_certify(data)} in data.certification"
    )


def _rows_to_certify(data: dict[str, Any]) -> str:
    """Say how many rows would certify the budget, such as `about 1,300 rows of their own`."""
    wanted = data["rows_to_certify"]
    noun = scores.rows_words(data, wanted or 2).partition(" ")[2]
    return f"{noun} kept apart" if wanted is None else f"{about(wanted)} {noun} kept apart"


def _unproven_words(data: dict[str, Any]) -> str:
    """Say what the rows kept apart show, and that they do not prove the budget."""
    observed, proof = data["certification"], data["certificate"]
    if observed is None:
        return "the rows kept apart were not read"
    ends = observed["baseline"]["value"], observed["final"]["value"]
    change, budget = scores.change_and_budget(data, *ends, observed["drop"])
    rows = scores.rows_words(data, observed["final"]["num_examples"])
    words = f"{change} on {rows} kept apart, within the budget of {budget}, but "
    if proof is None:
        return f"{words}nothing is proven: {why_missing(data, 'certificate')}"
    if (guess := certainty.guess_words(data)) is not None:
        return f"{words}{guess}"
    return (
        f"{words}all that is proven is {certainty.lost_at_most(proof)}, with "
        f"{certainty.confidence_words(proof)}"
    )


def _exceeded_words(data: dict[str, Any]) -> str:
    if data["guilty_step"] == "slices" and data["slices"]:
        return f"{title(data)} in a slice: {_slice_words(data)}"
    guilty = next((item for item in data["passes"] if item["verdict"] != "passed"), None)
    observed, proof = data["certification"], data["certificate"]
    ends = scores.value_of(data, "baseline"), scores.value_of(data, "final")
    drop, place, proven = scores.final_drop(data), _place(data), ""
    if guilty is not None:
        ends, drop, place = (ends[0], guilty["score_after"]), guilty["drop"], f"after{place[2:]}"
    elif observed is not None and data["guilty_step"] == "certification":
        ends, drop = (observed["baseline"]["value"], observed["final"]["value"]), observed["drop"]
        place = f"on {scores.rows_words(data, observed['final']['num_examples'])} kept apart"
        if proof is not None and proof["verdict"] == "refuted":
            least, sure = certainty.lost_at_least(proof), certainty.confidence_words(proof)
            proven = f"; proven: {least}, with {sure}"
    change, budget = scores.change_and_budget(data, *ends, drop)
    return f"{title(data)} {place}: {change}, the budget allows {budget}{proven}"


def _slice_words(data: dict[str, Any]) -> str:
    worst = data["slices"][0]
    rows = f"the {scores.rows_words(data, worst['num_examples'])} of {worst['name']}"
    if data["metric"] == AGREEMENT:
        return (
            f"{100 * worst['drop']:.4g}% of the answers to {rows} changed, a slice may change "
            f"{100 * worst['max_drop']:.4g}% (proven: at least "
            f"{certainty.bound_percent(worst, upwards=False)})"
        )
    return (
        f"{rows} lost {points(worst['drop'])}, a slice may lose {points(worst['max_drop'])} "
        f"(proven: at least "
        f"{certainty.bound_words(worst, upwards=False)})"
    )


def _stopped_words(data: dict[str, Any]) -> str:
    """Say who stopped the run, how far it came, and how it resumes."""
    who = data["reason"].partition(";")[0] if data["reason"].startswith("stopped ") else "stopped"
    who = who.replace(" (Ctrl-C)", "").replace(" (SIGTERM)", "")
    done = sum(record["verdict"] == "passed" for record in data["passes"])
    total = len(data["passes"]) + len(_unreached(data))
    if done:
        where = f"after pass {done} of {total}"
        if done == total and data["guilty_step"]:
            where += f", {_place(data)}"
    else:
        where = "after the baseline" if data["baseline"] else "before anything was measured"
    how = _how_to_resume(data)
    return f"{who[:1].upper()}{who[1:]} {where}; {how[:1].lower()}{how[1:]}"


def _how_to_resume(data: dict[str, Any]) -> str:
    """Return how the run says that it resumes; a forced one does so without --force."""
    _, _, how = data["reason"].partition("; ")
    how = how if how.startswith("run ") else _RESUME
    return how[:1].upper() + how[1:]


def _after_success(data: dict[str, Any]) -> str:
    use = "Use the model in artifact/: its README.md shows how to load it."
    if data["inconclusive_allowed"]:
        return f"{_towards_proof(data, accept=False)} {use}"
    if data["doubts"]:
        return f"Clear the doubt first: until then the score proves little. {use}"
    if data["certification"] is None:
        return (
            f"To certify the drop, give data.certification {_rows_to_certify(data)} from the other "
            f"splits, and run again. {use}"
        )
    if certainty.reading_number(data) > 1:
        return f"For a certificate that holds, read rows that no run has read. {use}"
    return use


def _towards_proof(data: dict[str, Any], *, accept: bool = True) -> str:
    proof = data["certificate"]
    last = ", or accept the missing proof with --allow-inconclusive" if accept else ""
    if proof is not None and certainty.guess_words(data) is not None:
        return (
            f"To prove it, lower budget.max_drop or take another metric or rows that are harder to "
            f"guess{last}."
        )
    rows = "more rows"
    if proof is not None and proof["needed_examples"] is not None:
        noun = scores.rows_words(data, proof["needed_examples"]).partition(" ")[2]
        rows = f"{about(proof['needed_examples'])} {noun} in all"
    return f"To prove it, give data.certification {rows} or raise budget.max_drop{last}."


def _place(data: dict[str, Any]) -> str:
    """Return where the run ended, such as `in pass 2 of 3 (quantize_dynamic)`."""
    for index, record in enumerate(data["passes"]):
        if record["verdict"] != "passed":
            total = len(data["passes"]) + len(_unreached(data))
            return f"in pass {index + 1} of {total} ({record['kind']})"
    step = data["guilty_step"]
    return _PLACES.get(step, f"in step '{step}'") if step else "somewhere"


def _unreached(data: dict[str, Any]) -> list[Any]:
    wanted = data["recipe"].get("passes")
    return list(wanted[len(data["passes"]) :]) if isinstance(wanted, list) else []
