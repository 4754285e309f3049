"""The starter recipe as text: YAML with a comment for everything that was guessed or measured."""

from __future__ import annotations

import json
import math
import os.path
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from compressor.data import calibration_cut
from compressor.data.settings import Quoting
from compressor.models.text_files import MOST_UNASKED
from compressor.passes.prune_structured import PruneStructured
from compressor.starter.columns import Guess
from compressor.starter.decide import (
    CHANGED,
    UNCHANGED,
    Lengths,
    certified_by,
    certified_without_change,
    rows_to_certify,
    smallest_budget,
)
from compressor.tasks import NO_LIMIT

# Words that YAML may read as they are, such as no number; anything else is quoted.
_PLAIN = re.compile(r"[A-Za-z_./][\w./-]*")
_COMMENT_COLUMN = 38

_USUAL_LENGTH = 512  # tokens
_MAX_TRAIN_ROWS = 20_000
_RATIO_WITHOUT_TRAINING = "0.2"
_VECTORS_DROP = 0.02  # of a similarity or a correlation
_ROWS_FOR_TWO_EPOCHS = 10_000  # fewer than this and the recovery sees each of them twice


@dataclass(frozen=True)
class SourceFacts:
    """One data file: its path, number of rows and columns."""

    path: Path
    num_rows: int
    guess: Guess
    quoting: Quoting | None = None  # as the user gave it


@dataclass(frozen=True)
class StarterFacts:
    """Everything a starter recipe says."""

    checkpoint: str  # as the user gave it
    is_local: bool
    model_type: str
    task: str
    metric: str
    labels: tuple[str, ...]
    input_column: str  # text or image
    search: SourceFacts
    train: SourceFacts | None
    certification: SourceFacts | None
    lengths: Lengths | None  # None for images
    provider: str  # cpu or cuda
    machine: str  # one line: processor, features, providers
    prunable_reason: str  # why heads and neurons cannot be pruned, empty when they can
    keeps_heads: bool  # heads cannot be pruned, neurons can
    vectors: str = ""  # how a sentence encoder makes them, empty for a classifier


def render(facts: StarterFacts, output: Path) -> str:
    """Return the recipe; its paths are relative to the directory of `output`."""
    sections = [_head(facts, output), _model(facts, output), _data(facts, output)]
    sections += [_budget(facts), _passes(facts), _rest(facts, output)]
    return "\n".join("\n".join(section) + "\n" for section in sections)


def _head(facts: StarterFacts, output: Path) -> Iterator[str]:
    yield f"# A starter recipe for {facts.model_type}, {facts.task}; change what you like."
    yield f"#   compress validate {output.name}: every mistake at once, without running"
    yield f"#   compress run {output.name}: compress, measure, report"
    yield "#   compress passes: every pass and setting"
    yield f"# Machine: {facts.machine}."


def _model(facts: StarterFacts, output: Path) -> Iterator[str]:
    name = _relative(Path(facts.checkpoint), output) if facts.is_local else facts.checkpoint
    yield "model:"
    yield f"  checkpoint: {_scalar(name)}"
    yield _line(f"  task: {facts.task}", facts.vectors or f"labels: {_short(facts.labels)}")


def _data(facts: StarterFacts, output: Path) -> Iterator[str]:
    guess = facts.search.guess
    yield "data:"
    yield _line(f"  {facts.input_column}: {_columns(guess.inputs)}", "column of the input")
    if guess.label is not None:
        told = "class ids, or names of the labels"
        if facts.vectors:
            told = "grades of the pairs: the more similar, the higher"
        yield _line(f"  label: {_scalar(guess.label)}", told)
    if guess.label_names is not None:
        names = ", ".join(map(_scalar, guess.label_names))
        yield _line(f"  label_names: [{names}]", "the data's names in the checkpoint's order")
    if facts.lengths is not None:
        yield from _lengths(facts.lengths)
    if facts.train is not None:
        yield _source("train", facts.train, facts, output, limit=_MAX_TRAIN_ROWS)
    yield _source("search", facts.search, facts, output)
    yield "  # search judges every pass. Rows that the checkpoint was trained on would flatter it."
    yield from _certification(facts, output)


def _lengths(lengths: Lengths) -> Iterator[str]:
    """Say how long the rows are; nothing is cut, because the artifact would read more."""
    yield f"  # The longest row has {lengths.longest:,} tokens."
    if lengths.covered < min(lengths.longest, lengths.limit):
        told = "99.5% of the rows have no more: runs faster, and measures no longer ones"
        yield _line(f"  # max_length: {lengths.covered}", told)


def _certification(facts: StarterFacts, output: Path) -> Iterator[str]:
    budget = smallest_budget(_judged_rows(facts))
    needed = (
        f"about {rows_to_certify(budget):,} rows certify {budget:.2%} at 95% confidence when "
        f"{CHANGED:.0%} of the answers change"
    )
    certify = certified_by
    if facts.search.guess.label is None:
        # Without labels every changed answer counts as lost.
        needed = (
            f"about {math.ceil(UNCHANGED / budget):,} rows certify {budget:.2%} at 95% confidence "
            f"when no answer changes"
        )
        certify = certified_without_change
    if facts.vectors:
        yield from _certification_of_vectors(facts, output)
        return
    if facts.certification is not None:
        yield _source("certification", facts.certification, facts, output)
        bound = certify(facts.certification.num_rows)
        yield f"  # {needed}; these rows can certify about {bound:.2%}."
        return
    yield "  # certification: {path: unseen.csv}"
    yield "  # Rows that nothing else reads, to prove the budget at the end:"
    yield f"  # {needed}."


def _certification_of_vectors(facts: StarterFacts, output: Path) -> Iterator[str]:
    if facts.certification is not None:
        yield _source("certification", facts.certification, facts, output)
    else:
        yield "  # certification: {path: unseen.csv}"
        yield "  # Rows that nothing else reads, to prove the budget at the end."
    yield "  # n rows prove what was lost and about 4 / n more, so 1,000 rows prove 0.004 more."


def _judged_rows(facts: StarterFacts) -> int:
    """Return how many rows of search are left where the calibration rows are cut from it."""
    rows = facts.search.num_rows
    if facts.train is not None:
        return rows
    # The milder forms of int8 and fp16, which a repair tries, read some as well.
    cut = calibration_cut(rows, 0) if facts.prunable_reason else calibration_rows_cut(rows)
    return max(2, rows - cut)


def calibration_rows_cut(rows: int) -> int:
    """Return how many of `rows` become those that reconstruction reads."""
    step = PruneStructured.model_validate(
        {"method": "reconstruction", "ratio": float(_RATIO_WITHOUT_TRAINING)}
    )
    return calibration_cut(rows, step.calibration_rows_wanted())


def _budget(facts: StarterFacts) -> Iterator[str]:
    rows = _judged_rows(facts)
    unlabelled = facts.search.guess.label is None
    yield "budget:"
    if facts.vectors:
        why = "mean cosine similarity to the untouched checkpoint's vectors; or rank_agreement"
        yield _line(f"  metric: {facts.metric}", why if unlabelled else "with the grades")
        yield _line(
            f"  max_drop: {_VECTORS_DROP:g}", "below the untouched checkpoint, all passes together"
        )
        return
    why = "the rows have no labels: answers that stay the same" if unlabelled else ""
    yield _line(f"  metric: {facts.metric}", why)
    yield _line(
        f"  max_drop: {smallest_budget(rows):g}",
        f"below the untouched checkpoint, all passes together; no finer than 1/{rows:,}",
    )


def _passes(facts: StarterFacts) -> Iterator[str]:
    yield _line(
        "on_failure: repair", "a pass that loses too much is tried in milder forms; or stop"
    )
    yield "passes:"
    if facts.prunable_reason:
        yield f"  # No structured pruning for {facts.model_type}: {facts.prunable_reason}."
    else:
        yield from _pruning(facts)
    if facts.provider == "cuda":
        yield _line("  - kind: convert_fp16", "half of the bytes; int8 has no kernels on CUDA")
    else:
        yield _line("  - kind: quantize_dynamic", "int8 with products that are exact on every CPU")


def _pruning(facts: StarterFacts) -> Iterator[str]:
    trains = facts.train is not None
    yield "  - kind: prune_structured"
    yield _line("    method: reconstruction", "reads unlabelled rows, a minute on a CPU")
    ratio = "0.4" if trains else _RATIO_WITHOUT_TRAINING
    yield _line(f"    ratio: {ratio}", "of the encoder's FLOPs; raise it until the gate fails")
    if facts.keeps_heads:
        yield _line("    head_ratio: 0", f"the heads of {facts.model_type} have to stay")
    if facts.train is None:
        yield "    # With data.train a recovery can follow: {kind: distill, epochs: 1}"
        return
    few = facts.train.num_rows < _ROWS_FOR_TWO_EPOCHS
    yield _line("    recovery:", "towards the untouched checkpoint's answers, no labels needed")
    yield "      kind: distill"
    yield f"      epochs: {2 if few else 0.5}"
    yield "      learning_rate: 1.0e-4"
    yield "      batch_size: 32"
    yield "      hidden_weight: 1.0"
    yield "      dropout: false"
    yield "      freeze_embeddings: true"


def _rest(facts: StarterFacts, output: Path) -> Iterator[str]:
    yield _line("export:", "")
    yield _line(f"  provider: {facts.provider}", "where the model will run")
    if facts.lengths is not None and facts.lengths.limit > MOST_UNASKED:
        most = max(_USUAL_LENGTH, facts.lengths.longest)
        told = "tokens that the artifact reads at most; the checkpoint has no such limit"
        if facts.lengths.limit < NO_LIMIT:
            told = f"tokens that the artifact reads at most; the checkpoint {facts.lengths.limit:,}"
        yield _line(f"  max_length: {most}", told)
    yield ""
    yield "benchmark:"
    yield f"  providers: [{facts.provider}]"
    yield _line("  batch_sizes: [1, 32]", "one request at a time, and many")
    if facts.lengths is not None:
        lengths = ", ".join(map(str, sorted({facts.lengths.typical, facts.lengths.long})))
        yield _line(f"  sequence_lengths: [{lengths}]", "tokens of a typical and of a long row")
    yield ""
    yield "seed: 0"
    yield f"output: {_scalar('./' + output.stem + '-run')}"


def _source(
    name: str, source: SourceFacts, facts: StarterFacts, output: Path, limit: int | None = None
) -> str:
    """Return the line of one split, with the columns that differ from those of search."""
    parts = [f"path: {_scalar(_relative(source.path, output))}"]
    if source.quoting is not None:
        parts.append(f"quoting: {source.quoting}")
    if source.guess.inputs != facts.search.guess.inputs:
        parts.append(f"{facts.input_column}: {_columns(source.guess.inputs)}")
    if source.guess.label not in (None, facts.search.guess.label):
        parts.append(f"label: {_scalar(str(source.guess.label))}")
    if limit is not None and source.num_rows > limit:
        parts.append(f"max_rows: {limit}")
    return _line(f"  {name}: {{{', '.join(parts)}}}", f"{source.num_rows:,} rows")


def _relative(path: Path, output: Path) -> str:
    """Return `path` from the recipe's directory; it never looks like a Hub id."""
    # A link keeps its name, which tells the format; what it points to may have another.
    place = path.parent.resolve() / path.name
    text = Path(os.path.relpath(place, output.resolve().parent)).as_posix()
    return text if text.startswith(".") else f"./{text}"


def _columns(names: tuple[str, ...]) -> str:
    return _scalar(names[0]) if len(names) == 1 else f"[{', '.join(map(_scalar, names))}]"


def _scalar(text: str) -> str:
    if _PLAIN.fullmatch(text) and yaml.safe_load(text) == text:
        return text
    return json.dumps(text, ensure_ascii=False)


def _short(names: tuple[str, ...]) -> str:
    shown = ", ".join(" ".join(name.split()) for name in names[:6])
    return shown + (f", ... ({len(names)} in all)" if len(names) > 6 else "")


def _line(text: str, comment: str) -> str:
    return f"{text:<{_COMMENT_COLUMN}} # {comment}" if comment else text
