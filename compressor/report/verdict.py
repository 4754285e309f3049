"""The first words of a report: is it good enough, how sure is that, and what to do next.

One sentence, `headline`, stands at the top of the page, the Markdown, the terminal's summary, the
model card and in comparisons, so that all of them say the same.
"""

from __future__ import annotations

from compressor.measurements import RunReport
from compressor.report import attributions, certificates, fairness, recalls, scores, target, units
from compressor.words import about, points

TITLES = {
    "passed": "Passed",
    "budget_exceeded": "Over budget",
    "not_certified": "Not certified",
    "failed": "Failed",
    "stopped": "Stopped",
    "internal_error": "Internal error",
}
# The reason of a run that passed and is a trial of a sweep.
COMPARED = "every gate held; a trial of a sweep, whose artifact is not completed"
UNFINISHED = frozenset({"failed", "stopped", "internal_error"})  # nothing was judged in the end

# Where the pipeline's steps end, for a sentence.
_PLACES = {
    "load": "while checkpoint and data were loaded",
    "baseline": "while the baseline was measured",
    "export": "in the export to ONNX",
    "artifact": "in the exported model",
    "slices": "in a slice of the data",
    "gaps": "between groups of the data",
    "certification": "on the rows kept apart",
    "benchmark": "in the benchmark",
    "seal": "while the artifact was completed",
}
_RESUME = "run the same command again to resume"


def title(report: RunReport) -> str:
    """Return how the run ended in a few words."""
    if target.is_missed(report):
        return target.MISSED_TITLE
    if report.verdict != "passed":
        return TITLES[report.verdict]
    if report.inconclusive_allowed:
        return "Passed without proof"
    if report.doubts:
        return f"Passed, with {'a doubt' if len(report.doubts) == 1 else 'doubts'}"
    return TITLES["passed"]


def tone(report: RunReport) -> str:
    """Return the verdict, or `doubtful` for a run that passed what proves little."""
    weak = report.inconclusive_allowed or report.doubts or certificates.reading_number(report) > 1
    return "doubtful" if report.verdict == "passed" and weak else str(report.verdict)


def headline(report: RunReport) -> str:
    """Say in one sentence how the run of a `report.json` ended and how sure that is.

    For example `Passed: at most 0.87 points of accuracy lost, with 95% confidence, on 900 rows kept
    apart (budget 1 point)`. It has no full stop.
    """
    start = title(report)
    if target.is_missed(report):
        return f"{start}: {target.missed_words(report)}"
    if report.verdict == "passed":
        return f"{start}: {_passed_words(report)}"
    if report.verdict == "budget_exceeded":
        return _exceeded_words(report)
    if report.verdict == "not_certified":
        return f"{start}: {_unproven_words(report)}"
    if report.verdict == "stopped":
        return _stopped_words(report)
    nothing = "" if report.baseline else ", before anything was measured"
    if report.verdict == "internal_error":
        return f"{start} {_place(report)}{nothing}: a bug in compressor, not a mistake of yours"
    return f"{start} {_place(report)}{nothing}"


def next_step(report: RunReport) -> str:
    """Say what to do next, in a sentence or two."""
    if report.verdict == "passed":
        return _after_success(report)
    if report.verdict == "failed":
        return "Correct what the reason names, then run the same command again."
    if report.verdict == "stopped":
        return f"{_how_to_resume(report)}. Finished steps are not done again."
    if report.verdict == "internal_error":
        return (
            "Report the bug with the traceback, which lies beside this report. Until it is fixed, "
            "other settings for this step, or leaving it out, may avoid it."
        )
    if report.verdict == "not_certified":
        return _towards_proof(report)
    if target.is_missed(report):
        return target.advice(report)
    if report.guilty_step == "slices":
        return (
            "Use milder settings, train on more examples like these, or raise "
            "budget.max_slice_drop if that loss is acceptable."
        )
    if report.guilty_step == "gaps":
        return (
            "Use milder settings, train on more examples of the group that lost more, or raise "
            "budget.max_slice_gap if that difference is acceptable."
        )
    if report.guilty_step == "certification":
        return (
            "The gates held on the search split, so it is too small or too unlike these rows: give "
            "data.search more rows or use milder settings. Then prove the next model with other "
            "rows, because these have been read. Or raise budget.max_drop if that loss is "
            "acceptable."
        )
    good = sum(record.verdict == "passed" for record in report.passes)
    if good == len(report.passes):
        return (
            "Every pass stayed within the budget, so the loss came after them: look at the parity "
            "figure below, or raise budget.max_drop if that loss is acceptable."
        )
    # The settings that a repair could have tried are known only after one.
    looked = len(report.passes[good].tries) > 1 or report.target is not None
    look = "" if looked else " let the run look for them (on_failure: repair),"
    text = (
        f"Use milder settings for this pass,{look} or raise budget.max_drop if that loss is "
        f"acceptable."
    )
    if good > 0:
        kept = f"pass {good} ({report.passes[good - 1].kind})"
        text += f" Up to {kept} the run was within the budget: a recipe that ends there passes."
    return text


def why_missing(report: RunReport, key: str) -> str:
    """Return why `key` of the report is null or empty."""
    reason = report.missing.get(key)
    if reason is None and report.guilty_step is not None:
        reason = f"the run stopped at {report.guilty_step}"
    return "no reason was recorded" if reason is None else str(reason)


def _passed_words(report: RunReport) -> str:
    proof, budget = report.certificate, scores.budget_words(report)
    if recalls.unproven_words(report) or attributions.unproven_agreement_words(report):
        return _unproven_words(report)
    if proof is not None and proof.verdict == "certified":
        rows = f"on {scores.rows_words(report, proof.num_examples)} kept apart"
        sure = certificates.confidence_words(proof)
        words = f"{certificates.lost_at_most(proof)}, with {sure}, {rows}"
        number = certificates.reading_number(report)
        if number > 1:
            return (
                f"{words} (budget {budget}), if this were their first reading: it is number "
                f"{number}"
            )
        return f"{words} (budget {budget})"
    if report.certification is not None:
        return _unproven_words(report)
    before, after = (scores.value_of(report, end) for end in ("baseline", "final"))
    if after is None:
        return "the score was not measured"
    change, budget = scores.change_and_budget(report, before, after, scores.final_drop(report))
    return (
        f"{change} on {scores.search_rows(report)} (budget {budget}); not certified: that takes "
        f"{_rows_to_certify(report)} in data.certification"
    )


def _rows_to_certify(report: RunReport) -> str:
    """Say how many rows would certify the budget, such as `about 1,300 rows of their own`."""
    wanted = report.rows_to_certify
    noun = scores.rows_words(report, wanted or 2).partition(" ")[2]
    return f"{noun} kept apart" if wanted is None else f"{about(wanted)} {noun} kept apart"


def _unproven_words(report: RunReport) -> str:
    """Say what the rows kept apart show, and that they do not prove the budget."""
    observed, proof = report.certification, report.certificate
    if observed is None:
        return "the rows kept apart were not read"
    ends = observed.baseline.value, observed.final.value
    change, budget = scores.change_and_budget(report, *ends, observed.drop)
    rows = scores.rows_words(report, observed.final.num_examples)
    words = f"{change} on {rows} kept apart, within the budget of {budget}, but "
    unproven = recalls.unproven_words(report) or attributions.unproven_agreement_words(report)
    if proof is not None and proof.verdict == "certified" and unproven is not None:
        return f"{words}{unproven}"
    if proof is None:
        return f"{words}nothing is proven: {why_missing(report, 'certificate')}"
    if (guess := certificates.guess_words(report)) is not None:
        return f"{words}{guess}"
    return (
        f"{words}all that is proven is {certificates.lost_at_most(proof)}, with "
        f"{certificates.confidence_words(proof)}"
    )


def _exceeded_words(report: RunReport) -> str:
    if report.guilty_step == "slices" and report.slices:
        return f"{title(report)} in a slice: {_slice_words(report)}"
    if report.guilty_step == "gaps" and (found := fairness.worst_words(report)) is not None:
        return f"{title(report)} {_place(report)}: {found}"
    guilty = next((item for item in report.passes if item.verdict != "passed"), None)
    observed, proof = report.certification, report.certificate
    ends = scores.value_of(report, "baseline"), scores.value_of(report, "final")
    drop, place, proven = scores.final_drop(report), _place(report), ""
    if guilty is not None:
        ends, drop, place = (ends[0], guilty.score_after), guilty.drop, f"after{place[2:]}"
    elif observed is not None and report.guilty_step == "certification":
        ends, drop = (observed.baseline.value, observed.final.value), observed.drop
        place = f"on {scores.rows_words(report, observed.final.num_examples)} kept apart"
        if proof is not None and proof.verdict == "refuted":
            least, sure = certificates.lost_at_least(proof), certificates.confidence_words(proof)
            proven = f"; proven: {least}, with {sure}"
    missed = recalls.missed_words(report) or attributions.lost_agreement_words(report)
    if missed is not None and drop is not None and drop <= report.max_drop:
        return f"{title(report)} {place}: {missed}"
    change, budget = scores.change_and_budget(report, *ends, drop)
    return f"{title(report)} {place}: {change}, the budget allows {budget}{proven}"


def _slice_words(report: RunReport) -> str:
    worst = report.slices[0]
    rows = f"the {scores.rows_words(report, worst.num_examples)} of {worst.name}"
    if units.counts_changes(report.metric):
        return (
            f"{100 * worst.drop:.4g}% of the predictions for {rows} changed, a slice may change "
            f"{100 * worst.max_drop:.4g}% (proven: at least "
            f"{certificates.bound_percent(worst, upwards=False)})"
        )
    return (
        f"{rows} lost {points(worst.drop)}, a slice may lose {points(worst.max_drop)} "
        f"(proven: at least "
        f"{certificates.bound_words(worst, upwards=False)})"
    )


def _stopped_words(report: RunReport) -> str:
    """Say who stopped the run, how far it came, and how it resumes."""
    who = report.reason.partition(";")[0] if report.reason.startswith("stopped ") else "stopped"
    who = who.replace(" (Ctrl-C)", "").replace(" (SIGTERM)", "")
    done = sum(record.verdict == "passed" for record in report.passes)
    total = len(report.passes) + len(_unreached(report))
    if done:
        where = f"after pass {done} of {total}"
        if done == total and report.guilty_step:
            where += f", {_place(report)}"
    else:
        where = "after the baseline" if report.baseline else "before anything was measured"
    how = _how_to_resume(report)
    return f"{who[:1].upper()}{who[1:]} {where}; {how[:1].lower()}{how[1:]}"


def _how_to_resume(report: RunReport) -> str:
    """Return how the run says that it resumes; a forced one does so without --force."""
    _, _, how = report.reason.partition("; ")
    how = how if how.startswith("run ") else _RESUME
    return how[:1].upper() + how[1:]


def _after_success(report: RunReport) -> str:
    if report.reason == COMPARED:
        return (
            "Look at front.html of the sweep: it has all trials, and best/ beside it holds the run "
            "of the recipe that was chosen, with an artifact to use."
        )
    use = "Use the model in artifact/: its README.md shows how to load it."
    if report.inconclusive_allowed:
        return f"{_towards_proof(report, accept=False)} {use}"
    if report.doubts:
        return f"Clear the doubt first: until then the score proves little. {use}"
    if report.certification is None:
        return (
            f"To certify the drop, give data.certification {_rows_to_certify(report)} from the "
            f"other splits, and run again. {use}"
        )
    if certificates.reading_number(report) > 1:
        return f"For a certificate that holds, read rows that no run has read. {use}"
    return use


def _towards_proof(report: RunReport, *, accept: bool = True) -> str:
    proof, found = report.certificate, report.attributions
    last = ", or accept the missing proof with --allow-inconclusive" if accept else ""
    certified = proof is not None and proof.verdict == "certified"
    if certified and (wanted := recalls.towards_proof(report)) is not None:
        return f"To prove it, {wanted}{last}."
    if certified and found is not None and found.verdict != "certified":
        if attributions.passing_attributions(found) is not None:
            return (
                f"To prove it, raise budget.min_attribution_agreement or take longer texts{last}."
            )
        return (
            f"To prove it, give data.certification more rows or lower "
            f"budget.min_attribution_agreement{last}."
        )
    if proof is not None and certificates.guess_words(report) is not None:
        return (
            f"To prove it, lower budget.max_drop or take another metric or rows that are harder to "
            f"guess{last}."
        )
    rows = "more rows"
    if proof is not None and proof.needed_examples is not None:
        noun = scores.rows_words(report, proof.needed_examples).partition(" ")[2]
        rows = f"{about(proof.needed_examples)} {noun} in all"
    return f"To prove it, give data.certification {rows} or raise budget.max_drop{last}."


def _place(report: RunReport) -> str:
    """Return where the run ended, such as `in pass 2 of 3 (quantize_dynamic)`."""
    for index, record in enumerate(report.passes):
        if record.verdict != "passed":
            total = len(report.passes) + len(_unreached(report))
            return f"in pass {index + 1} of {total} ({record.kind})"
    step = report.guilty_step
    return _PLACES.get(step, f"in step '{step}'") if step else "somewhere"


def _unreached(report: RunReport) -> list[object]:
    wanted = report.recipe.get("passes")
    return list(wanted[len(report.passes) :]) if isinstance(wanted, list) else []
