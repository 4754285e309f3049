"""The certification step: what the rows that nothing was tuned on prove about the drop.

The split is read once, for the untouched checkpoint and for the artifact that ships. A recipe that
gives such a split asks for proof, so a run whose proof fails does not end well by silence: a drop
above the budget is `BudgetExceeded` (exit 5), a drop that only looks small enough is
`NotCertified` (exit 6). The second is raised by `require_proof`, at the end of the run, because the
report with every measurement is what tells whether more examples are worth collecting.
"""

from __future__ import annotations

from compressor.certificate import rows_to_certify
from compressor.data import Dataset, fingerprint
from compressor.errors import BudgetExceeded, NotCertified, StepFailed
from compressor.measurements import Certification, Score
from compressor.pipeline.attributions import KEY, WORDS, proof_of_agreement
from compressor.pipeline.fairness import judge_gaps
from compressor.pipeline.flips import find_flips
from compressor.pipeline.judge import Judge
from compressor.pipeline.run_record import RunLog
from compressor.pipeline.slices import judge_slices, slice_masks
from compressor.recipe.budget import AccuracyBudget
from compressor.recipe.recipe import Recipe
from compressor.report import recalls
from compressor.report.attributions import passing_attributions
from compressor.report.certificates import passing_guess
from compressor.report.units import units_of
from compressor.tasks import Guess, Task, find_metric


def compare_predictions(
    log: RunLog, recipe: Recipe, task: Task, split: Dataset, score: Score
) -> None:
    """Record in `log` which predictions on `split` differ from the untouched checkpoint's.

    The last comparison of a run is the one in its report: that of the model that ships, or of the
    one that a gate refused. Call it when the untouched checkpoint was scored on `split`.
    """
    known = log.certification if split.name == "certification" else log.baseline
    assert known is not None
    untouched = known.baseline if isinstance(known, Certification) else known.score
    budget = recipe.budget
    log.compared_split = split.name
    if split.name == recipe.judged_split:
        masks = slice_masks(split, budget.slices, log.labels, score.metric)
        guesses: tuple[Guess, ...] = ()
        if masks and (find_metric(score.metric).is_fine or score.shares is not None):
            guesses = task.guesses(untouched, split.truth(), log.labels)
        log.slices = judge_slices(
            split,
            masks,
            untouched,
            score,
            max_drop=budget.max_drop if budget.max_slice_drop is None else budget.max_slice_drop,
            confidence=budget.confidence,
            seed=recipe.seed,
            guesses=guesses,
        )
        log.gaps = judge_gaps(
            split,
            {name: slice_masks(split, (name,), log.labels, score.metric) for name in budget.slices},
            untouched,
            score,
            max_gap=budget.max_slice_gap,
            confidence=budget.confidence,
            seed=recipe.seed,
        )
    judge = Judge(budget, task, split, log.labels)
    log.recalls = judge.recalls(untouched, score, seed=recipe.seed)
    log.attributions = proof_of_agreement(budget, task, score, seed=recipe.seed)
    log.flips = find_flips(
        task, split, untouched, score, log.labels, with_examples=recipe.report.examples
    )


def certify(
    log: RunLog, recipe: Recipe, task: Task, split: Dataset, *, baseline: Score, final: Score
) -> None:
    """Record both scores on `split` and their certificate in `log`, then gate the observed drop.

    The certificate holds only against models that know nothing: it is not given where one of them
    would earn it on the same rows.

    Raises `BudgetExceeded` when the drop on these rows is above the budget; the certificate is in
    `log` in that case too.
    """
    budget = recipe.budget
    log.certification = Certification(baseline, final, budget.drop(baseline, final))
    truth = split.labels if split.grades is None else split.grades
    guesses = task.guesses(baseline, split.truth(), log.labels)
    log.certify(truth, guesses, fingerprint(split), budget.confidence, recipe.seed)
    compare_predictions(log, recipe, task, split, final)
    Judge(budget, task, split, log.labels).require("certification", baseline, final)


def estimate_rows(log: RunLog, recipe: Recipe, task: Task, split: Dataset) -> None:
    """Record in `log` how many rows of their own would prove the budget, going by `split`."""
    assert log.baseline is not None
    assert log.final is not None
    before, after = log.baseline.score, log.final.score
    truth = split.labels if split.grades is None else split.grades
    try:
        log.rows_to_certify = rows_to_certify(
            before,
            after,
            truth,
            guesses=task.guesses(before, split.truth(), log.labels),
            max_drop=recipe.budget.max_drop,
            confidence=recipe.budget.confidence,
            seed=recipe.seed,
        )
    except StepFailed:  # one class only, or a score that never varies: no number would do
        log.rows_to_certify = None


def gate_slices(log: RunLog, budget: AccuracyBudget) -> None:
    """Raise `BudgetExceeded` for the worst slice that is proven to exceed `max_slice_drop`.

    A slice that is too small to prove anything fails no run, because rare classes always are. And
    without a budget of their own slices only inform.
    """
    worst = next(iter(log.slices), None)
    metric = find_metric(str(log.metric))
    if budget.max_slice_drop is not None and worst is not None and worst.verdict == "refuted":
        raise BudgetExceeded(
            f"slice {worst.name}",
            # Without labels what fell is the share of predictions that stayed.
            metric=metric.name if metric.label_free or metric.is_fine else "accuracy",
            drop=worst.drop,
            max_drop=budget.max_slice_drop,
            key="budget.max_slice_drop",
        )


def gate_gaps(log: RunLog) -> None:
    """Raise `BudgetExceeded` for the worst gap that is proven to exceed `max_slice_gap`.

    As of slices, groups that are too small to prove anything fail no run.
    """
    refuted = [item for item in log.gaps if item.verdict == "refuted"]
    worst = max(refuted, key=lambda item: item.gap, default=None)
    if worst is not None and worst.max_gap is not None:
        raise BudgetExceeded(
            f"{worst.groups[0].name} beside {worst.groups[-1].name}",
            metric="the score of one group, against that of the other,",
            drop=worst.gap,
            max_drop=worst.max_gap,
            key="budget.max_slice_gap",
        )


def require_proof(log: RunLog, *, allow_inconclusive: bool) -> None:
    """Raise `NotCertified` when a certification split was read and does not prove every budget.

    With `allow_inconclusive` the missing proof is recorded as accepted instead.
    """
    certificate, observed = log.certificate, log.certification
    if observed is None:
        return
    is_proven = certificate is not None and certificate.verdict == "certified"
    unproven = [item for item in log.recalls if item.verdict != "certified"]
    explained = log.attributions
    is_explained = explained is None or explained.verdict == "certified"
    if is_proven and not unproven and is_explained:
        return
    if allow_inconclusive:
        log.inconclusive_allowed = True
        return
    if is_proven and not unproven:
        assert explained is not None
        raise NotCertified(
            metric=WORDS,
            drop=1 - explained.agreement,
            max_drop=1 - explained.min_agreement,
            upper_bound=1 - explained.lower_bound,
            needed_examples=explained.needed_examples,
            uninformed=passing_attributions(explained),
            key=KEY,
        )
    if is_proven:
        worst = unproven[0]
        raise NotCertified(
            metric=f"recall of {worst.kind}",
            drop=worst.drop,
            max_drop=worst.max_drop,
            upper_bound=worst.upper_bound,
            needed_examples=worst.needed_units,
            units=recalls.holders(observed.final.metric, worst),
            there=worst.num_units,
            why=None if worst.there else f"the certification split holds no {worst.kind}",
            uninformed=None,
            key=f"budget.{worst.budget}",
        )
    raise NotCertified(
        metric=observed.final.metric,
        drop=observed.drop,
        max_drop=log.max_drop,
        upper_bound=None if certificate is None else certificate.upper_bound,
        needed_examples=None if certificate is None else certificate.needed_examples,
        units=units_of(observed.final.metric),
        why=log.missing.get("certificate"),
        uninformed=None if certificate is None else passing_guess(certificate),
    )
