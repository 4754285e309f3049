"""What a starter recipe does and allows: passes, budget and limits that checkpoint and rows permit.

Every figure follows from the rows at hand, from what they can prove, and from how fast the
checkpoint predicts on this machine. What is not possible is said, with what would make it possible.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from compressor.errors import RecipeError, StepFailed
from compressor.models.families.layers import encoder_layers
from compressor.passes import Pass, settings_of
from compressor.passes.prune_structured.budget import Freedom, check_ratio, encoder_cost
from compressor.passes.prune_structured.reconstruct import most_unknowns
from compressor.report import units
from compressor.starter.provable import (
    HALF_COST,
    INT8_COST,
    PRUNED_COST,
    Judged,
    Prospect,
    UsualCost,
    look_forward,
    round_up,
)
from compressor.starter.questions import why_not
from compressor.starter.trial import Trial, distinct_tokens, metrics_to_try
from compressor.tasks import find_metric
from compressor.words import about, counted, points

_MOST_EXAMPLES = 5_000  # a bootstrap of numbers is made for; more only prove more
_ENOUGH_TOKENS = 1.2  # times the unknowns of least squares: rows drawn at random vary in length
_ROWS_TO_TRAIN = 1_000
_FEWEST_STEPS = 50
_ROWS_FOR_TWO_EPOCHS = 10_000  # below, each is read twice, and less is removed
_BATCH = 32
_MOST_TRAINING_S = 300.0
_MOST_FITTING_S = 300.0
# With 2,000 rows to fit and train by, 0.4 cost a MiniLM 3.5 points on SST-2, 0.2 a quarter of one.
_RATIO, _RATIO_OF_FEW = 0.4, 0.2
_BLOCK = 16  # neurons that least squares removes together on a CPU
_MOST_REPAIR = 30  # minutes that anybody waits
_LEAST_REPAIR = 5  # minutes: milder forms of int8 are many, and quick
_TRIES = 3  # three quarters, a half and a quarter of a ratio
# How often a row is computed, in forward passes of the float model.
_FORWARDS_TO_FIT = 16
_FORWARDS_TO_TRAIN = 6
_ROWS_TO_FIT = 2048
_SECONDS_AROUND = 20.0  # start, first load, report
_SECONDS_OF_EXPORT = 8.0  # and its comparison with PyTorch, of each layer about a second more


@dataclass(frozen=True)
class Rows:
    """How many rows each file has; 0 where there is none."""

    search: int
    train: int
    certification: int
    texts: int  # examples of a row: 2 where each text of a pair is one


@dataclass(frozen=True)
class Pruning:
    """Settings of `prune_structured` with method reconstruction."""

    ratio: float
    rows: int | None  # calibration rows that are read; None for as many as the pass reads itself
    epochs: float | None  # of the recovery; None without one
    seconds: float
    hidden: bool = True  # whether the recovery compares hidden states


@dataclass(frozen=True)
class Plan:
    """All that a starter recipe decides."""

    metric: str
    metric_why: str
    max_drop: float
    budget_why: tuple[str, ...]  # lines below the budget
    pruning: Pruning | None
    no_pruning: str  # why not, empty where it prunes
    certifies: bool
    certification_why: tuple[str, ...]  # what a certification split would take
    repairs: bool  # a calibration split can be cut for what milder forms read
    max_minutes: int
    minutes: float
    notes: tuple[str, ...]  # for the terminal

    @property
    def repair_minutes(self) -> float:
        """Return how much longer a run takes at most when passes are repaired."""
        return self.max_minutes if self.repairs else 0.0


@dataclass(frozen=True)
class _Choice:
    """A metric with what it says of the rows, pruned or not."""

    metric: str
    prunes: bool
    max_drop: float
    gate: Prospect
    proof: Prospect | None
    tells: bool  # a model that knows nothing would not pass


def make_plan(
    trial: Trial,
    rows: Rows,
    *,
    provider: str,
    cannot_prune: str,
    keeps_heads: bool,
    metric: str | None,
) -> Plan:
    """Decide; `cannot_prune` says what architecture or heads forbid, `metric` is the user's.

    Raises `RecipeError` where the rows do not allow the metric that was asked for.
    """
    pruning, no_pruning = None, cannot_prune
    if not cannot_prune:
        pruning, no_pruning = _pruning(trial, rows, keeps_heads=keeps_heads)
    plain = HALF_COST if provider == "cuda" else INT8_COST
    choice, notes = _choose(trial, rows, plain, metric, may_prune=pruning is not None)
    if pruning is not None and not choice.prunes:
        pruning = None
        no_pruning = _too_few_to_judge(trial, rows, choice.metric)
    cost = plain if pruning is None else PRUNED_COST
    certifies = choice.proof is not None
    why = tuple(_certification_words(trial, rows, choice, plain, cost))
    if rows.certification and not certifies:
        notes.append(f"the certification rows are left out: {why[0]}")
    if choice.proof is not None:
        notes.append(
            f"The {counted(rows.certification, 'certification row')} will be read once, at the "
            f"end, to prove {points(choice.max_drop)}"
        )
    run_s, pass_s = _seconds(trial, rows, pruning, certifies=certifies)
    # As long as the first try and the three of the ladder take, and half as much again: machines
    # are not equally fast at all times, and a repair that is cut short ends the run.
    wanted = math.ceil(1.5 * pass_s * (1 + _TRIES) / 60)
    max_minutes = min(max(_LEAST_REPAIR, wanted), _MOST_REPAIR)
    return Plan(
        metric=choice.metric,
        metric_why=_metric_words(trial, choice.metric),
        max_drop=choice.max_drop,
        budget_why=tuple(_budget_words(choice, cost)),
        pruning=pruning,
        no_pruning="" if pruning is not None else no_pruning,
        certifies=certifies,
        certification_why=why,
        repairs=trial.calibration is not None,
        max_minutes=max_minutes,
        minutes=run_s / 60,
        notes=tuple(notes),
    )


def _pruning(trial: Trial, rows: Rows, *, keeps_heads: bool) -> tuple[Pruning | None, str]:
    """Return how to prune, or None and why the rows do not allow it."""
    layers = encoder_layers(trial.model.module)
    found = distinct_tokens(trial)
    wanted = math.ceil(_ENOUGH_TOKENS * most_unknowns(layers))
    if found < wanted:
        donor = rows.train or rows.search
        needed = math.ceil(donor * wanted / max(1, found))
        return None, (
            f"least squares needs {wanted:,} tokens that differ and would read {found:,}; about "
            f"{counted(int(float(f'{needed:.2g}')), 'row')} are enough, here or in --train"
        )
    assert trial.calibration is not None, "its tokens were counted"
    available = min(_ROWS_TO_FIT, len(trial.calibration))
    affordable = int(_MOST_FITTING_S / (_FORWARDS_TO_FIT * trial.seconds_per_row))
    if affordable * found < available * wanted:
        return None, (
            f"at {trial.seconds_per_row:.2g} s a row least squares takes more than "
            f"{_MOST_FITTING_S / 60:g} minutes here"
        )
    fit_rows = min(available, affordable)
    fit_s = fit_rows * _FORWARDS_TO_FIT * trial.seconds_per_row
    limit = int(float(f"{fit_rows:.2g}")) if fit_rows < available else None
    ratio, epochs, train_s = _RATIO_OF_FEW, None, 0.0
    if rows.train >= _ROWS_TO_TRAIN:
        step_s = _BATCH * _FORWARDS_TO_TRAIN * trial.seconds_per_row
        usual = (2 if rows.train < _ROWS_FOR_TWO_EPOCHS else 0.5) * rows.train / _BATCH
        steps = min(usual, _MOST_TRAINING_S / step_s)
        if steps >= _FEWEST_STEPS:
            ratio = _RATIO if rows.train >= _ROWS_FOR_TWO_EPOCHS else ratio
            train_s = steps * step_s
            epochs = float(f"{steps * _BATCH / rows.train:.2g}")
    try:
        cost = encoder_cost(layers, "flops", 16.0)
        check_ratio(cost, ratio, Freedom(_BLOCK, heads=not keeps_heads))
    except StepFailed as error:
        return None, str(error)
    if epochs is None:
        return Pruning(ratio, limit, None, fit_s), ""
    rows_read = {"train": trial.searched}
    for hidden in (True, False):
        pruning = Pruning(ratio, limit, epochs, fit_s + train_s, hidden)
        step = step_of(pruning, keeps_heads=keeps_heads)
        if why_not(step, trial.model, trial.files, rows_read) is None:
            return pruning, ""
    return Pruning(_RATIO_OF_FEW, limit, None, fit_s), ""


def step_of(pruning: Pruning, *, keeps_heads: bool = False) -> Pass:
    """Return the pass that is written for a pruning, as far as a checkpoint may forbid it."""
    recovery = {
        "kind": "distill",
        "epochs": pruning.epochs,
        "hidden_weight": 1.0 if pruning.hidden else 0.0,
    }
    settings = {"kind": "prune_structured", "method": "reconstruction", "ratio": pruning.ratio}
    heads = {"head_ratio": 0} if keeps_heads else {}
    trained = {} if pruning.epochs is None else {"recovery": recovery}
    return settings_of({**settings, **heads, **trained})


def _choose(
    trial: Trial, rows: Rows, plain: UsualCost, asked: str | None, *, may_prune: bool
) -> tuple[_Choice, list[str]]:
    """Return the first metric that tells a good model from a guess, and what was found wrong."""
    task, split = trial.model.task, trial.searched
    usual = metrics_to_try(
        task, has_labels=split.labels is not None, has_grades=split.grades is not None
    )
    notes: list[str] = []
    choices: list[_Choice] = []
    for metric in usual if asked is None else (asked,):
        why = trial.unscorable(metric)
        if why is not None:
            if asked is not None or metric == usual[-1]:
                raise RecipeError(f"{split.source}: {why}")
            notes.append(f"{units.metric_words(metric)} says nothing here: {why}")
            continue
        choices.append(_of_metric(trial, rows, metric, plain, may_prune=may_prune))
        if choices[-1].tells:
            break
        notes.append(_no_better(trial, choices[-1]))
    chosen = next((item for item in choices if item.tells), choices[-1])
    if len(choices) > 1 or (notes and asked is None):
        notes.append(f"the budget is of {units.metric_words(chosen.metric)}")
    return chosen, notes


def _of_metric(
    trial: Trial, rows: Rows, metric: str, plain: UsualCost, *, may_prune: bool
) -> _Choice:
    """Return what a metric allows: pruned if that can be told or proven, int8 or fp16 otherwise."""
    judged = trial.judged(metric)
    found: list[_Choice] = []
    for cost, prunes in (((PRUNED_COST, True),) if may_prune else ()) + ((plain, False),):
        gate = look_forward(judged, _units(trial, judged, trial.judged_units), cost)
        proof = None
        if rows.certification and _cannot_certify(trial, metric) is None:
            proof = look_forward(judged, _given(trial, rows, judged), cost)
        found_metric = find_metric(metric)
        floor = 0.0 if found_metric.is_fine else 1 / gate.num_examples
        least = round_up(max(found_metric.least_drop, gate.drop, floor))
        most = _most(metric, prunes=prunes)
        if proof is not None:
            both = max(least, proof.budget)
            # The proof is a forecast from the rows that judge: these too must tell it from a guess.
            if both <= most and proof.guess_drop > both and _tells(judged, gate, both):
                return _Choice(metric, prunes, both, gate, proof, tells=True)
        tells = _tells(judged, gate, least)
        found.append(_Choice(metric, prunes, least, gate, None, tells=tells))
        if rows.certification and prunes:
            continue  # int8 alone may be proven
        if least <= most:
            break
    # Nothing can be proven: the strongest that can be judged.
    for item in found:
        if item.max_drop <= _most(metric, prunes=item.prunes):
            return item
    return found[-1]


def _cannot_certify(trial: Trial, metric: str) -> str | None:
    split = trial.certification
    assert split is not None, "the draft has it"
    return trial.model.task.unscorable(metric, split.truth())


def _tells(judged: Judged, gate: Prospect, max_drop: float) -> bool:
    """Return whether a run would judge the checkpoint by these rows without a doubt."""
    lead = judged.score.value - judged.best_guess.score.value
    is_better = judged.score.metric != "accuracy" or gate.guess_drop > 0
    return is_better and lead > max_drop


def _too_few_to_judge(trial: Trial, rows: Rows, metric: str) -> str:
    """Say which rows tell too little of what a pruning costs, and how little."""
    judged, most = trial.judged(metric), _most(metric, prunes=True)
    if not most:
        return f"it moves more neighbours ({units.metric_words(metric)}) than anybody allows"
    gate = look_forward(judged, _units(trial, judged, trial.judged_units), PRUNED_COST)
    words, least = f"{_examples(gate)} of search tell", round_up(gate.drop)
    if rows.certification and least <= most:
        proof = look_forward(judged, _given(trial, rows, judged), PRUNED_COST)
        words, least = f"{_examples(proof)} of certification prove", proof.budget
    return f"{words} its usual loss only to within {points(least)}, too coarse to judge it by"


def _most(metric: str, *, prunes: bool) -> float:
    found = find_metric(metric)
    return found.most_pruned_drop if prunes else found.most_drop


def _units(trial: Trial, judged: Judged, num_examples: int) -> int:
    """Return how many units, such as pairs of texts, the metric counts in so many examples."""
    looked_at = trial.searched.num_judged or len(trial.searched)
    share = judged.score.num_examples / looked_at
    units = max(1, round(num_examples * share))
    return min(units, _MOST_EXAMPLES) if find_metric(judged.score.metric).is_fine else units


def _given(trial: Trial, rows: Rows, judged: Judged) -> int:
    """Return how many units the metric counts in the rows of certification."""
    return _units(trial, judged, rows.certification * rows.texts)


def _no_better(trial: Trial, choice: _Choice) -> str:
    judged = trial.judged(choice.metric)
    best = judged.best_guess
    words = units.metric_words(choice.metric)
    return (
        f"{words} tells a good model from none too badly here: "
        f"{units.score(choice.metric, judged.score.value)} of the checkpoint, "
        f"{units.score(choice.metric, best.score.value)} of {best.who}; look whether checkpoint "
        f"and {'labels' if not find_metric(choice.metric).label_free else 'rows'} belong together"
    )


def _metric_words(trial: Trial, metric: str) -> str:
    """Say what the checkpoint scores, and what a guess does."""
    judged, queries = trial.judged(metric), trial.searched.num_judged
    best = judged.best_guess
    value = units.score(metric, judged.score.value)
    now = (
        "nothing changes"
        if find_metric(metric).label_free
        else f"it is now, on {counted(judged.score.num_examples, 'row')}"
    )
    if queries is not None:
        now += f" and {counted(len(trial.searched) - queries, 'document')}, of more it is lower"
    return f"{value} as {now}; {units.score(metric, best.score.value)} by {best.who}"


def _budget_words(choice: _Choice, cost: UsualCost) -> Iterator[str]:
    """Say why the budget is what it is."""
    proof, gate = choice.proof, choice.gate
    usual = _usual(choice.metric, cost)
    if proof is not None:
        yield f"{_examples(proof)} of certification prove {points(proof.budget)} (95%) where"
        yield f"passes {usual}, as they usually do, with some bad luck."
        if proof.budget < choice.max_drop and not find_metric(choice.metric).is_fine:
            yield f"But one of {_examples(gate)} of search is {points(1 / gate.num_examples)}."
        return
    yield f"Passes usually {usual}."
    if not find_metric(choice.metric).is_fine:
        yield (
            f"One of {_examples(gate)} is {points(1 / gate.num_examples)}; nothing less can be "
            f"told."
        )


def _certification_words(
    trial: Trial, rows: Rows, choice: _Choice, plain: UsualCost, cost: UsualCost
) -> Iterator[str]:
    """Say what a certification split would take, where there is none that proves enough."""
    judged = trial.judged(choice.metric)
    if choice.proof is not None:
        yield from _more_rows(_needed(trial, choice, cost, choice.proof.num_examples))
        return
    if rows.certification:
        cannot = _cannot_certify(trial, choice.metric)
        if cannot is not None:
            yield f"{units.metric_words(choice.metric)} cannot be taken on them: {cannot}"
            return
        given = _given(trial, rows, judged)
        proof = look_forward(judged, given, plain)
        limit = _most(choice.metric, prunes=False)
        if proof.budget <= limit:
            yield (
                f"{_examples(proof)} tell no good model from one that knows nothing within "
                f"{points(proof.budget)}"
            )
            return
        wanted = _fewest(trial, choice.metric, plain, given, limit)
        yield (
            f"{_examples(proof)} prove {points(proof.budget)} at best; {about(wanted)} prove "
            f"{points(limit)}"
        )
        return
    yield from _more_rows(_needed(trial, choice, cost, choice.gate.num_examples))


def _needed(trial: Trial, choice: _Choice, cost: UsualCost, size: int) -> tuple[float, int] | None:
    """Return the finest round budget that some number of examples proves, and that number."""
    for max_drop in (0.01, 0.02, 0.05, 0.1):
        if max_drop >= choice.max_drop and choice.proof is not None:
            return None
        found = look_forward(trial.judged(choice.metric), size, cost, luck=0.5, max_drop=max_drop)
        if 2 * found.drop > max_drop:  # too near to what is usually lost
            continue
        if found.needed is not None:
            return max_drop, found.needed
    return None


def _more_rows(needed: tuple[float, int] | None) -> Iterator[str]:
    if needed is not None:
        yield f"{about(needed[1])} rows prove {points(needed[0])}"


def _fewest(trial: Trial, metric: str, cost: UsualCost, size: int, limit: float) -> int:
    """Return about how many examples prove `limit`."""
    judged = trial.judged(metric)
    while size < _MOST_EXAMPLES and look_forward(judged, size, cost).upper_bound > limit:
        size = math.ceil(size * 1.25)
    return size


def _usual(name: str, cost: UsualCost) -> str:
    metric = find_metric(name)
    if metric.is_fine:
        return f"cost {points(cost.moved(metric))} of {metric.words}"
    changed = f"change {cost.changed:.1%} of the predictions".replace(".0%", "%")
    return changed if metric.bound == "flips" else f"{changed} and lose {points(cost.lost)}"


def _examples(prospect: Prospect) -> str:
    return counted(prospect.num_examples, "row")


def _seconds(
    trial: Trial, rows: Rows, pruning: Pruning | None, *, certifies: bool
) -> tuple[float, float]:
    """Return about how long a run takes, and its longest pass."""
    row_s = trial.seconds_per_row
    layers = getattr(trial.model.module.config, "num_hidden_layers", 12)
    export_s = _SECONDS_OF_EXPORT + layers
    judged_s = trial.judged_rows * row_s
    pass_s = export_s if pruning is None else pruning.seconds + judged_s
    proof_s = 2 * rows.certification * row_s if certifies else 0.0
    timed_s = 2 * 55 * (1 + _BATCH) * row_s * 2  # two models, rounds, two batch sizes, two lengths
    run_s = _SECONDS_AROUND + 2 * export_s + 4 * judged_s + proof_s + timed_s
    return run_s + (pass_s if pruning is not None else 0.0), pass_s
