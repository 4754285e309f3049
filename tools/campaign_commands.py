"""The commands that the campaign gives, each as a function for a forked process."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import campaign_subjects as subjects_of
import numpy as np
from campaign_subjects import Reference, Subjects
from numpy.typing import NDArray

import compressor.cli
import compressor.inspection.checkpoint
import compressor.pipeline.run
import compressor.report.compare
import compressor.starter.write  # loaded once here, and not in each trial
from compressor.artifact import load_artifact
from compressor.errors import CompressorError
from compressor.models.torch_model import load_checkpoint
from compressor.pipeline.cached_work import Stages

TOLERANCE = 1e-3  # of outputs near 1, between PyTorch and ONNX Runtime
SCORED = "scored.json"
ANSWERS = "answers.json"


@dataclass(frozen=True)
class Workshop:
    """What every kind of case is made from: the subjects, and one source of chance a case."""

    subjects: Subjects
    folder: Path
    draw: Random
    to_the_end: bool  # whether this case is also run from top to bottom
    base_outputs: NDArray[np.float32]  # of the untouched classifier of texts, by transformers


def cli(*arguments: str) -> Callable[[], None]:
    """Return the command line with these arguments."""

    def work() -> None:
        sys.argv = ["compress", *arguments]
        compressor.cli.main()

    return work


def score(recipe: str, *more: str) -> Callable[[], None]:
    """Return a run that stops after it scored the untouched checkpoint, before the export.

    It writes how many rows it read and what they scored.
    """

    def work() -> None:
        scored = Stages.score

        def first(stages: Stages, *arguments: Any, **options: Any) -> Any:
            found = scored(stages, *arguments, **options)
            told = {"rows": found.num_examples, "value": found.value}
            Path(SCORED).write_text(json.dumps(told), encoding="utf-8")
            raise SystemExit(0)

        setattr(Stages, "score", first)  # noqa: B010 - in this process alone
        cli("run", recipe, *more)()

    return work


def load_and_answer(artifact: str, texts: Sequence[str]) -> Callable[[], None]:
    """Return what a user of an artifact does: load it and ask; the answers are written."""

    def work() -> None:
        try:
            loaded = load_artifact(artifact)
            answers = loaded(list(texts))
        except CompressorError as error:
            print(f"{type(error).__name__}\n{error}", file=sys.stderr)
            raise SystemExit(error.exit_code) from error
        Path(ANSWERS).write_text(json.dumps(answers), encoding="utf-8")

    return work


def same_answers(logits: NDArray[np.float32], labels: Sequence[str]) -> Callable[[], str | None]:
    """Return a check that the answers which were written are those of `logits`."""
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    expected = raised / raised.sum(axis=1, keepdims=True)

    def check() -> str | None:
        answers = json.loads(Path(ANSWERS).read_text(encoding="utf-8"))
        if len(answers) != len(expected):
            return f"{len(answers)} answers for {len(expected)} texts"
        for index, (answer, row) in enumerate(zip(answers, expected, strict=True)):
            winner = int(row.argmax())
            if answer["label"] != labels[winner]:
                return (
                    f"answers differ from the original's (text {index}: {answer['label']!r} in "
                    f"place of {labels[winner]!r})"
                )
            if abs(answer["score"] - float(row[winner])) > TOLERANCE:
                return (
                    f"scores differ from the original's (text {index}: {answer['score']:.4f} in "
                    f"place of {float(row[winner]):.4f})"
                )
        return None

    return check


def reads_all(rows: int) -> Callable[[], str | None]:
    """Return a check that a scored run read `rows` rows, each as it was written."""

    def check() -> str | None:
        told = json.loads(Path(SCORED).read_text(encoding="utf-8"))
        if told["rows"] != rows:
            return f"rows went missing or came twice ({told['rows']} of {rows})"
        if told["value"] != 1.0:
            return f"rows were read otherwise than written (accuracy {told['value']:.3f}, not 1)"
        return None

    return check


def outputs_of(folder: str, examples: Sequence[Any]) -> NDArray[np.float32]:
    """Return what the product gives for each example alone."""
    model = load_checkpoint(folder)
    found = [
        model.predict(model.task.encode(model.preprocessor, [example])) for example in examples
    ]
    return np.concatenate(found)


def like_transformers(
    folder: str,
    examples: Sequence[Any],
    *,
    base: NDArray[np.float32] | None = None,
) -> Callable[[], str | None]:
    """Return a check that what was loaded is what transformers has loaded, nothing left over.

    With `base`, the answers of the unchanged model are right too: the mutation is one of names.
    """

    def check() -> str | None:
        ours = outputs_of(folder, examples)
        if base is not None and ours.shape == base.shape and _close(ours, base):
            return None
        is_text = isinstance(examples[0], str)
        kind: Any = subjects_of.text_reference if is_text else subjects_of.image_reference
        try:
            theirs: Reference = kind(Path(folder), examples)
        except Exception as error:  # noqa: BLE001 - transformers raises of every type
            return f"transformers itself cannot use it ({type(error).__name__}: {error})"
        if unlike := [name for name in theirs.unlike if not _is_harmless(name)]:
            return f"weights missing or left over ({', '.join(unlike[:3])})"
        if ours.shape != theirs.outputs.shape:
            return f"outputs of another shape ({ours.shape} in place of {theirs.outputs.shape})"
        if not _close(ours, theirs.outputs):
            most = float(np.abs(ours - theirs.outputs).max())
            return f"outputs differ from those of transformers (by up to {most:.3g})"
        return None

    return check


def _is_harmless(name: str) -> bool:
    return name.endswith("position_ids")


def _close(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> bool:
    return bool(np.allclose(ours, theirs, rtol=1e-3, atol=1e-3, equal_nan=True))
