"""Repeats the proof on fresh rows: what an artifact predicts otherwise than its original.

The certificate of a run holds for rows like those it was drawn from. Traffic moves on, so the same
question is asked again of rows of today, which need no labels: of how many does the prediction
differ, and how many at most, with what confidence.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from compressor.artifact import Artifact, load_artifact
from compressor.certificate import certify_scores
from compressor.data import Dataset, fingerprint, load_splits
from compressor.data.settings import DataSettings
from compressor.errors import (
    BudgetExceeded,
    EnvironmentMismatch,
    NotCertified,
    RecipeError,
    StepFailed,
)
from compressor.files import write_whole
from compressor.measurements import Score
from compressor.models.checkpoint import find_checkpoint
from compressor.models.torch_model import load_foreign
from compressor.progress import Progress
from compressor.proof import Certificate
from compressor.report.certificates import bound_words, confidence_words, passing_guess
from compressor.tasks import Task, find_metric, load_task
from compressor.verify.evaluation import evaluate
from compressor.words import bound_points, counted, points

_SPLIT = "search"  # what the rows are called, of which nothing is chosen here
_ANY_DROP = 1.0 - 1e-9  # where no budget is given
_CONFIDENCE = 0.95  # where nothing says another


@dataclass(frozen=True)
class Shadow:
    """What fresh rows say; `certificate` is of the metric without labels, on `num_rows` of them.

    `max_drop` is None where no budget was given: the bounds then inform.
    """

    task: Task
    metric: str
    before: Score
    after: Score
    certificate: Certificate
    max_drop: float | None
    num_rows: int
    changed: tuple[Mapping[str, Any], ...]

    @property
    def verdict(self) -> str | None:
        """Return `certified`, `refuted` or `inconclusive`, None without a budget."""
        return None if self.max_drop is None else self.certificate.verdict

    def facts(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        proof = self.certificate
        return {
            "task": self.task.name,
            "metric": self.metric,
            "rows": self.num_rows,
            "value": self.after.value,
            "changed": len(self.changed),
            "drop": proof.drop,
            "upper_bound": proof.upper_bound,
            "lower_bound": proof.lower_bound,
            "confidence": proof.confidence,
            "max_drop": self.max_drop,
            "verdict": self.verdict,
            "needed_examples": None if self.max_drop is None else proof.needed_examples,
            "data_fingerprint": proof.data_fingerprint,
        }

    def text(self) -> str:
        """Return it for people, a few lines."""
        proof, metric = self.certificate, find_metric(self.metric)
        least = max(0.0, proof.lower_bound)
        lines = [
            f"{counted(self.num_rows, self.task.words.row)}, {metric.name} "
            f"{self.after.value:.4f} with the original",
            f"{len(self.changed)} predictions changed ({len(self.changed) / self.num_rows:.2%})",
            f"with {confidence_words(proof)} {metric.name} is lower by at most "
            f"{bound_words(proof)}, and by at least "
            f"{bound_points(least, proof.max_drop, upwards=False)}",
        ]
        if self.max_drop is not None:
            more = ""
            if proof.verdict == "inconclusive" and proof.needed_examples is not None:
                more = f"; about {proof.needed_examples} rows in all would settle it"
            lines.append(f"{proof.verdict}: {points(self.max_drop)} allowed{more}")
        return "\n".join(lines)


def shadow(
    directory: Path,
    *,
    against: str,
    data: Path,
    text: tuple[str, ...] = (),
    group: str | None = None,
    revision: str | None = None,
    max_drop: float | None = None,
    confidence: float | None = None,
    max_rows: int | None = None,
    seed: int = 0,
    threads: int | None = None,
    progress: Progress,
) -> Shadow:
    """Compare the artifact in `directory` with the checkpoint `against` on the rows of `data`.

    `text` are the columns of the input, `group` the one that tells queries apart: those that the
    artifact was judged on where they are left out.
    `max_drop` is what the metric without labels may lose; left out, the artifact's own budget where
    that is of this metric, with its own `confidence`. Else that is 0.95 where it is left out.

    Raises `RecipeError` for rows that cannot be read so, `EnvironmentMismatch` where artifact and
    checkpoint do not go together or one cannot be read.
    """
    artifact = load_artifact(directory, threads=threads)
    task = artifact.task
    metric = task.metric_of_any_rows(labelled=False)
    own = (artifact.manifest.get("recipe") or {}).get("budget") or {}
    if max_drop is None and own.get("metric") == metric:
        max_drop = own["max_drop"]
        confidence = confidence or own.get("confidence")
    rows = _rows(artifact, data, text, group, metric, max_rows, seed)
    original = load_foreign(find_checkpoint(against, revision=revision), _same_task(artifact))
    if list(original.labels) != list(artifact.manifest["labels"]):
        raise EnvironmentMismatch(
            f"{against}: has the labels {list(original.labels)}, the artifact "
            f"{artifact.manifest['labels']}; give the checkpoint that it was made of"
        )
    before = evaluate(
        original, original.task, original.preprocessor, rows, metric, progress=progress
    )
    after = evaluate(
        artifact.model,
        task,
        artifact.preprocessor,
        rows,
        metric,
        reference=before,
        progress=progress,
    )
    try:
        proof = certify_scores(
            before,
            after,
            None,
            guesses=task.guesses(before, rows.truth(), original.labels),
            max_drop=_ANY_DROP if max_drop is None else max_drop,
            confidence=confidence or _CONFIDENCE,
            seed=seed,
        )
    except (StepFailed, ValueError) as error:
        raise RecipeError([f"{data}: these rows prove nothing: {error}; give more rows"]) from error
    changed = tuple(
        {"row": int(rows.rows[item.position]), "before": item.before, "after": item.after}
        for item in task.flips(before, after, rows.truth(), original.labels)
    )
    return Shadow(
        task,
        metric,
        before,
        after,
        replace(proof, data_fingerprint=fingerprint(rows)),
        max_drop,
        len(rows),
        changed,
    )


def require_kept(found: Shadow) -> None:
    """Raise `BudgetExceeded` where more changed than may, `NotCertified` where rows cannot tell."""
    proof = found.certificate
    if found.max_drop is None or proof.verdict == "certified":
        return
    if proof.verdict == "refuted":
        raise BudgetExceeded(
            "shadow",
            metric=found.metric,
            drop=proof.drop,
            max_drop=found.max_drop,
            key="--max-drop, or compress again with rows like these",
        )
    raise NotCertified(
        metric=found.metric,
        drop=proof.drop,
        max_drop=found.max_drop,
        upper_bound=proof.upper_bound,
        needed_examples=proof.needed_examples,
        uninformed=passing_guess(proof),
        key="--max-drop",
        step="shadow",
    )


def write_changed(path: Path, found: Shadow) -> None:
    """Write a line of JSON for each changed prediction: its row in the file, before and after.

    Raises `EnvironmentMismatch` where `path` cannot be written.
    """
    lines = [json.dumps(item, ensure_ascii=False, allow_nan=False) for item in found.changed]
    try:
        write_whole(path, "".join(f"{line}\n" for line in lines))
    except OSError as error:
        raise EnvironmentMismatch(
            f"--changed {path}: cannot be written ({error.strerror or error}); give a file in a "
            f"directory that exists and can be written"
        ) from error


def _same_task(artifact: Artifact) -> Task:
    """Return the artifact's task as a checkpoint is loaded for it: with the same settings."""
    manifest = artifact.manifest
    thresholds = manifest.get("thresholds")
    return load_task(
        manifest["task"],
        max_length=manifest["max_length"],
        thresholds=None if thresholds is None else tuple(thresholds),
    )


def _rows(
    artifact: Artifact,
    data: Path,
    text: tuple[str, ...],
    group: str | None,
    metric: str,
    max_rows: int | None,
    seed: int,
) -> Dataset:
    task, key = artifact.task, artifact.task.input_column
    columns: Any = text[0] if len(text) == 1 else list(text)
    judged = (artifact.manifest.get("recipe") or {}).get("data") or {}
    if not text:
        if (own := judged.get("preprocess")) is not None:
            raise RecipeError(
                [
                    f"{data}: the artifact was judged on rows that went through {own}, which is "
                    f"not run here; give rows that went through it, and name their column: --text "
                    f"{key}"
                ]
            )
        search = judged.get("search") or {}
        columns = search.get(key) or judged.get(key) or key
    settings = {
        key: columns,
        "group": group or judged.get("group"),
        "search": {"path": str(data.absolute()), "max_rows": max_rows},
    }
    try:
        read = DataSettings.model_validate(settings)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise RecipeError([f"{data}: {place}: {first['msg']}"]) from error
    try:
        return load_splits(
            read,
            label_names=artifact.manifest["labels"],
            columns=task.columns(metric),
            needed=(_SPLIT,),
            seed=seed,
            labelled=False,
        )[_SPLIT]
    except RecipeError as error:
        raise RecipeError([_of_command(item, key) for item in error.mistakes]) from error
    except EnvironmentMismatch as error:
        raise EnvironmentMismatch([_of_command(item, key) for item in error.problems]) from error


def _of_command(problem: str, input_column: str) -> str:
    """Return what is wrong with rows in the words of the command, which has no recipe."""
    flags = {f"data.{_SPLIT}.path": "ROWS", f"data.{_SPLIT}": "ROWS", "data.group": "--group"}
    flags |= {f"data.{input_column}": "--text"}
    for key, flag in flags.items():
        problem = problem.replace(key, flag)
    return problem
