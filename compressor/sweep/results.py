"""What a sweep leaves: the front as page, table and data, and the chosen recipe as a file."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compressor.errors import EnvironmentMismatch
from compressor.files import write_whole
from compressor.measurements import RunReport
from compressor.recipe.recipe import Recipe
from compressor.recipe.yaml_source import dump_document
from compressor.report import units
from compressor.report.front import FrontPage, Measured, Standing, TrialRow, render_front_html
from compressor.stored_types import to_plain
from compressor.sweep.outcome import Ends, Judged, best_of, is_feasible, pareto_front
from compressor.sweep.settings import Sweep
from compressor.sweep.space import dimension_words
from compressor.words import counted, points

HTML, CSV, JSON, BEST = "front.html", "front.csv", "front.json", "best.yaml"
BEST_RUN = "best"  # the folder of the run of the chosen recipe
_FIGURES = ("score", "drop", "bytes", "latency_ms", "speedup")
_VERSION = 1


@dataclass(frozen=True)
class Front:
    """The trials of a sweep, which of them are on the front, and which one is chosen."""

    trials: tuple[Judged, ...]
    on_front: tuple[int, ...]
    best: Judged | None
    num_trials: int  # with those that have not ended

    @classmethod
    def of(cls, sweep: Sweep, trials: Sequence[Judged]) -> Front:
        """Return the front of the trials that have ended."""
        front = tuple(pareto_front(sweep, trials))
        return cls(tuple(trials), front, best_of(sweep, trials), sweep.num_trials)

    @property
    def headline(self) -> str:
        """Say how many trials there are and which one is chosen."""
        of_all = f"{len(self.trials)} of {counted(self.num_trials, 'trial')}"
        if self.best is None:
            return f"{of_all}, none keeps all constraints"
        return f"{of_all}, {len(self.on_front)} on the front, trial {self.best.number} chosen"


def write_front(
    folder: Path,
    sweep: Sweep,
    recipe: Recipe,
    front: Front,
    reports: Sequence[tuple[str, RunReport]],
) -> None:
    """Write the front into `folder`, and the recipe of the best trial, where there is one.

    Raises `EnvironmentMismatch` where it cannot be written.
    """
    best_text = None
    if front.best is not None:
        best_text = best_recipe_text(sweep, front.best)
    try:
        write_whole(folder / JSON, json.dumps(_as_data(sweep, front), indent=1) + "\n")
        write_whole(folder / CSV, _as_table(sweep, front))
        page = _page(sweep, recipe, front, best_text)
        write_whole(folder / HTML, render_front_html(page, reports))
        if best_text is None:
            (folder / BEST).unlink(missing_ok=True)
        else:
            write_whole(folder / BEST, best_text)
    except OSError as error:
        raise EnvironmentMismatch(
            f"{folder}: the front cannot be written ({error.strerror}); give an --output that can "
            f"be written and has room"
        ) from error


def best_recipe_text(sweep: Sweep, best: Judged) -> str:
    """Return the recipe of a trial as a file of its own: paths from the root, no defaults."""
    recipe = sweep.recipe_at(best.point)
    data = recipe.model_dump(mode="json", exclude_unset=True)
    data["output"] = BEST_RUN
    name = "a sweep" if sweep.path is None else sweep.path.name
    head = [
        f"# Trial {best.number} of {name}, chosen by {sweep.chooses_by}: the recipe",
        f"# {sweep.recipe.name} with",
        *(f"#   {setting}" for setting in best.settings),
    ]
    return "\n".join(head) + "\n" + dump_document(data)


def _as_data(sweep: Sweep, front: Front) -> dict[str, Any]:
    return {
        "version": _VERSION,
        "objectives": dict(sweep.objectives),
        "constraints": sweep.constraints.given,
        "chosen_by": sweep.chooses_by,
        "sampler": sweep.sampler,
        "seed": sweep.seed,
        "num_trials": sweep.num_trials,
        "trials": [
            {
                "number": item.number,
                "settings": list(item.settings),
                "feasible": is_feasible(sweep, item.outcome),
                "on_front": item.number in front.on_front,
                **to_plain(item.outcome, {}),
            }
            for item in front.trials
        ],
        "front": list(front.on_front),
        "best": None if front.best is None else front.best.number,
    }


def _as_table(sweep: Sweep, front: Front) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = ("trial", "state", "feasible", "on_front", "chosen")
    writer.writerow([*names, *_FIGURES, *sweep.space, "seconds", "reason"])
    for item in front.trials:
        values = [setting.partition("=")[2] for setting in item.settings]
        figures = ["" if item.figures is None else getattr(item.figures, name) for name in _FIGURES]
        marks = [
            is_feasible(sweep, item.outcome),
            item.number in front.on_front,
            item == front.best,
        ]
        told = [f"{item.outcome.seconds:.1f}", " ".join(item.outcome.reason.split())]
        words = [str(mark).lower() for mark in marks]
        writer.writerow([item.number, item.outcome.state, *words, *figures, *values, *told])
    return text.getvalue()


def _page(sweep: Sweep, recipe: Recipe, front: Front, best_text: str | None) -> FrontPage:
    done = [item for item in front.trials if item.figures is not None]
    metric = None if not done or done[0].figures is None else done[0].figures.metric
    baseline = done[0].outcome.baseline if done else None
    limits = [f"{name} {_limit(name, limit)}" for name, limit in sweep.constraints.given.items()]
    facts = {
        "recipe": str(sweep.recipe),
        **({} if baseline is None else {"baseline": _baseline_words(baseline, metric)}),
        "objectives": ", ".join(f"{name} ({way})" for name, way in sweep.objectives.items()),
        "constraints": "; ".join(limits) or "those of the recipe's budget",
        "chosen by": f"{sweep.chooses_by}, among the trials that keep all constraints",
        "sampler": f"{sweep.sampler}, seed {sweep.seed}",
        **{f"space: {key}": dimension_words(item) for key, item in sweep.space.items()},
    }
    return FrontPage(
        name="sweep" if sweep.path is None else sweep.path.name,
        headline=front.headline,
        metric=metric,
        facts=tuple(facts.items()),
        baseline=None if baseline is None else _measured(baseline),
        max_drop=recipe.budget.max_drop,
        trials=tuple(_trial_row(sweep, front, item) for item in front.trials),
        best_recipe=best_text,
    )


def _own(sweep: Sweep, item: Judged) -> tuple[str, ...]:
    """Return the settings of a trial without those that all trials have alike."""
    pairs = zip(sweep.space.values(), item.settings, strict=True)
    found = tuple(setting for dimension, setting in pairs if len(set(dimension.ends)) > 1)
    return found or item.settings


def _limit(name: str, limit: float) -> str:
    if name == "drop":
        return f"at most {points(limit)}"
    if name == "bytes":
        return f"at most {limit / 1e6:g} MB"
    return f"at {'least' if name in ('score', 'speedup') else 'most'} {limit:g}"


def _baseline_words(end: Ends, metric: str | None) -> str:
    time = "" if end.latency_ms is None else f", {units.number(end.latency_ms)} ms"
    score = f"{units.metric_words(metric)} {units.score(metric, end.score)}"
    return f"{score}, {units.megabytes(end.bytes)} MB{time}"


def _measured(end: Ends) -> Measured:
    return Measured(end.score, end.bytes, end.latency_ms)


def _trial_row(sweep: Sweep, front: Front, item: Judged) -> TrialRow:
    figures = item.figures
    standing: Standing = "none"
    if figures is not None:
        standing = "feasible" if is_feasible(sweep, item.outcome) else "over"
    found = None if figures is None else Measured(figures.score, figures.bytes, figures.latency_ms)
    return TrialRow(
        number=item.number,
        settings=_own(sweep, item),
        standing="best" if item == front.best else standing,
        on_front=item.number in front.on_front,
        measured=found,
        said=item.outcome.reason,
    )
