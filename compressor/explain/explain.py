"""Explains a finished run: a few rows before and after, and how far attributions agree."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from compressor.attribution.agreement import sampled_rows
from compressor.attribution.attentions import AttentionMaps, attention_maps
from compressor.attribution.explanations import (
    Attributed,
    ExplainedExample,
    Explanations,
    Method,
)
from compressor.attribution.gradients import integrate, require_captum, require_gradients
from compressor.attribution.occlusion import Question, ask, hiding_for, occlude
from compressor.errors import EnvironmentMismatch
from compressor.explain.finished_run import FinishedRun, open_run
from compressor.files import write_whole
from compressor.pipeline.flips import thumbnail
from compressor.pipeline.output import EXPLANATIONS
from compressor.progress import Progress
from compressor.report.explanations import render_explanations
from compressor.tasks import image_of, texts_of
from compressor.tasks.hiding import Hiding
from compressor.words import counted

MOST_PIECES = 128  # of an example
_NO_MAPS = "no drawn row has few enough tokens, or the model gives no attention maps"


def explain(
    directory: Path,
    *,
    methods: Sequence[Method] = ("occlusion",),
    rows: int = 50,
    changed: int = 10,
    attentions: int = 2,
    most_pieces: int = MOST_PIECES,
    seed: int = 0,
    allow_code: bool = False,
    progress: Progress,
) -> Explanations:
    """Explain the predictions of both ends of the run in `directory`.

    `rows` of the split that its report compares are drawn with `seed`, and agreements are taken
    over them; up to `changed` others are those whose prediction changed most. `attentions` maps are
    taken of drawn rows of at most 32 tokens, in PyTorch. An example of more than `most_pieces`
    tokens has neighbours hidden together.

    Raises as `open_run` does; `RecipeError` for a task or method without attributions, and
    `EnvironmentMismatch` where Captum is asked for and not installed.
    """
    if "integrated-gradients" in methods:
        require_captum()
    run = open_run(directory, allow_code=allow_code, progress=progress)
    task, split = run.task, run.split
    hiding = hiding_for(task, run.before.preprocessor, run.after.preprocessor)
    if "integrated-gradients" in methods:
        require_gradients(task, hiding)
    drawn = sampled_rows(len(split), rows, seed=seed, units=split.groups).tolist()
    flipped = _flipped(run, changed)
    chosen = [*drawn, *(place for place in flipped if place not in drawn)]
    asked = ask(run.before, task, [split.examples[place] for place in chosen], most=most_pieces)
    found = dict(
        zip(chosen, _explained(run, asked, chosen, methods, hiding, progress), strict=True)
    )
    maps, why = (
        _attentions(run, drawn, attentions) if attentions and task.reads_tokens else ({}, "")
    )
    joined = sum(
        len(item.pieces) < len(task.pieces(run.before.preprocessor, item.example, 10**9))
        for item in asked
    )
    return Explanations(
        run=str(directory),
        task=task.name,
        split=split.name,
        explained=task.explains,
        hiding=hiding,
        seed=seed,
        drawn=tuple(found[place] for place in drawn),
        changed=tuple(found[place] for place in flipped),
        attentions=maps,
        no_attentions=why,
        note=""
        if not joined
        else f"{counted(joined, 'row')} of more than {most_pieces} tokens had neighbours hidden "
        f"together",
    )


def _flipped(run: FinishedRun, most: int) -> list[int]:
    """Return the positions of rows whose prediction changed, those first that changed most."""
    places = {int(row): place for place, row in enumerate(run.split.rows.tolist())}
    found = [places[item.row] for item in run.report.flips if item.row in places]
    return list(dict.fromkeys(found))[:most]


def _explained(
    run: FinishedRun,
    asked: Sequence[Question],
    places: Sequence[int],
    methods: Sequence[Method],
    hiding: Hiding,
    progress: Progress,
) -> list[ExplainedExample]:
    task, readers = run.task, (run.before, run.after)
    by_method: dict[Method, list[Attributed]] = {}
    if "occlusion" in methods:
        pairs = (occlude(reader, task, asked, hiding, progress=progress) for reader in readers)
        by_method["occlusion"] = [Attributed(*both) for both in zip(*pairs, strict=True)]
    if "integrated-gradients" in methods:
        models = run.checkpoints
        by_method["integrated-gradients"] = []
        with progress.bar("integrated gradients", len(asked)) as advance:
            for item in asked:
                both = [integrate(model, task, item, hiding).values for model in models]
                by_method["integrated-gradients"].append(Attributed(*both))
                advance(1, "")
    found = []
    for number, (place, item) in enumerate(zip(places, asked, strict=True)):
        outputs = [
            reader.outputs(task, iter([task.encode(reader.preprocessor, [item.example])]))
            for reader in readers
        ]
        image = image_of(item.example)
        changed = any(flip.row == run.split.rows[place] for flip in run.report.flips)
        numbers = [float(task.explained(item.original, one)[0]) for one in outputs]
        words = [task.in_words(one, run.report.labels) for one in outputs]
        found.append(
            ExplainedExample(
                row=int(run.split.rows[place]),
                is_changed=changed,
                texts=texts_of(item.example),
                image=(thumbnail(item.example) or "") if image is not None else "",
                image_size=(0, 0) if image is None else (image.shape[0], image.shape[1]),
                pieces=item.pieces,
                predicted=(words[0], words[1]),
                numbers=(numbers[0], numbers[1]),
                methods={name: values[number] for name, values in by_method.items()},
            )
        )
    return found


def _attentions(
    run: FinishedRun, drawn: Sequence[int], most: int
) -> tuple[dict[int, tuple[AttentionMaps, AttentionMaps]], str]:
    before, after = run.checkpoints
    found: dict[int, tuple[AttentionMaps, AttentionMaps]] = {}
    for place in drawn:
        if len(found) == most:
            break
        example = run.split.examples[place]
        maps = [attention_maps(model, example) for model in (before, after)]
        if maps[0] is not None and maps[1] is not None:
            found[int(run.split.rows[place])] = (maps[0], maps[1])
    return found, "" if found else _NO_MAPS


def write_explanations(found: Explanations, directory: Path) -> tuple[Path, Path]:
    """Write the values as JSON and a page for people into `directory`; return both files.

    Raises `EnvironmentMismatch` where they cannot be written.
    """
    values, page = (directory / name for name in EXPLANATIONS)
    text = json.dumps(found.facts(), indent=1, ensure_ascii=False, allow_nan=False)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        write_whole(values, text + "\n")
        write_whole(page, render_explanations(found))
    except OSError as error:
        raise EnvironmentMismatch(
            f"--output {directory}: cannot be written ({error.strerror or error}); give a "
            f"directory that can be written"
        ) from error
    return values, page
