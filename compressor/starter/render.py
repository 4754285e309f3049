"""The starter recipe as text: YAML with one comment for everything that was guessed or measured."""

from __future__ import annotations

import json
import os.path
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from compressor.data.media_folder import MEDIA
from compressor.data.settings import Quoting, SplitSource
from compressor.paths import is_folder
from compressor.report import units
from compressor.starter.columns import Guess
from compressor.starter.lengths import Lengths
from compressor.starter.plan import Plan, Pruning
from compressor.words import counted, few_of, points

# Words that YAML may read as they are, such as no number; anything else is quoted.
_PLAIN = re.compile(r"[A-Za-z_./][\w./-]*")
_COMMENT_COLUMN = 38
_WIDTH = 98

MAX_TRAIN_ROWS = 20_000
MAX_DOCUMENTS = 10_000  # that are searched in each split, beside those that are relevant


@dataclass(frozen=True)
class SourceFacts:
    """One data file: its path, number of rows and columns."""

    path: Path
    num_rows: int
    guess: Guess
    quoting: Quoting | None = None  # as the user gave it
    source: SplitSource | None = None  # of queries, documents and relevance, whose rows are queries


@dataclass(frozen=True)
class StarterFacts:
    """What a starter recipe says of checkpoint, data and machine."""

    checkpoint: str  # as the user gave it
    is_local: bool
    base: str | None  # that an adapter was merged into, as the user or the adapter gave it
    model_type: str
    task: str
    labels: tuple[str, ...]
    input_column: str  # text, image or audio
    search: SourceFacts
    train: SourceFacts | None
    certification: SourceFacts | None
    calibrates_on_train: bool  # the calibration rows are those of train, and not cut from them
    lengths: Lengths | None  # None for images
    provider: str  # cpu or cuda
    machine: str  # one line: processor, features, providers
    keeps_heads: bool  # heads cannot be pruned, neurons can
    convolves: bool = False  # most of its weights are filters of convolutions
    vectors: str = ""  # how a sentence encoder makes them, empty for a classifier
    about_label: str = "class ids, or names of the labels"
    length: int | None = None  # to which every input is cut or padded


def render(facts: StarterFacts, plan: Plan, output: Path) -> str:
    """Return the recipe; its paths are relative to the directory of `output`."""
    sections = [_head(facts, plan, output), _model(facts, output), _data(facts, plan, output)]
    sections += [_budget(plan), _passes(facts, plan), _rest(facts, output)]
    return "\n".join("\n".join(section) + "\n" for section in sections)


def minutes(number: float) -> str:
    """Say a number of minutes, rounded as estimates are.

    >>> minutes(0.4), minutes(1.2), minutes(6.6)
    ('1 minute', '2 minutes', '7 minutes')
    """
    whole = max(1, -int(-number // 1))
    return counted(whole, "minute")


def estimate(plan: Plan) -> str:
    """Say how long a run takes, and a repair besides."""
    words = f"about {minutes(plan.minutes)}"
    if plan.repairs:
        words += f"; repairing a pass at most {minutes(plan.repair_minutes)} more"
    return words


def _head(facts: StarterFacts, plan: Plan, output: Path) -> Iterator[str]:
    yield f"# A starter recipe for {facts.model_type}, {facts.task}; change what you like."
    yield f"#   compress run {output.name}: {estimate(plan)}"
    yield "#   compress passes: what else there is"
    yield f"# Machine: {facts.machine}."


def _model(facts: StarterFacts, output: Path) -> Iterator[str]:
    name = _relative(Path(facts.checkpoint), output) if facts.is_local else facts.checkpoint
    yield "model:"
    yield f"  checkpoint: {_scalar(name)}"
    if (base := facts.base) is not None:
        base = _relative(Path(base), output) if is_folder(Path(base)) else base
        yield _line(f"  base: {_scalar(base)}", "the model that the adapter is merged into")
    named = f"labels: {_short(facts.labels)}" if facts.labels else ""
    yield _line(f"  task: {facts.task}", facts.vectors or named)


def _data(facts: StarterFacts, plan: Plan, output: Path) -> Iterator[str]:
    guess = facts.search.guess
    yield "data:"
    if facts.search.source is None:
        told = "query and what it looks for" if guess.searches else "column of the input"
        yield _line(f"  {facts.input_column}: {_columns(guess.inputs)}", told)
    if guess.label is not None:
        told = "how relevant, 0 for not" if guess.searches else facts.about_label
        yield _line(f"  label: {_label(guess.label)}", told)
    if guess.group is not None:
        yield _line(f"  group: {_scalar(guess.group)}", "the same in all rows of one query")
    if guess.label_names is not None:
        names = ", ".join(map(_scalar, guess.label_names))
        yield _line(f"  label_names: [{names}]", "the data's names in the checkpoint's order")
    if facts.lengths is not None:
        yield from _lengths(facts.lengths)
    if facts.train is not None:
        yield _source("train", facts.train, facts, output, "", limit=MAX_TRAIN_ROWS)
        if facts.calibrates_on_train:
            yield _source("calibration", facts.train, facts, output, "read without labels")
    yield _source("search", facts.search, facts, output, "that judge every pass")
    if facts.certification is None:
        told = "; ".join(plan.certification_why)
        yield "  # certification: {path: unseen.csv}"
        yield from _comment(f"rows that nothing else reads prove the budget{told and '; '}{told}.")
    elif plan.certifies:
        told = "read once, to prove the budget"
        yield _source("certification", facts.certification, facts, output, told)
    else:
        lines = _source("certification", facts.certification, facts, output, "").splitlines()
        yield from (f"  # {line[2:]}" for line in lines)
        yield from _comment(f"left out: {'; '.join(plan.certification_why)}.")


def _lengths(lengths: Lengths) -> Iterator[str]:
    """Say how long the rows are; nothing is cut, because the artifact would read more."""
    told = f"  # The longest row has {lengths.longest:,} tokens"
    if lengths.covered < min(lengths.longest, lengths.limit):
        told += f"; max_length: {lengths.covered} covers 99.5% of the rows and runs faster"
    yield f"{told}."


def _budget(plan: Plan) -> Iterator[str]:
    yield "budget:"
    yield _line(f"  metric: {plan.metric}", "")
    yield from _comment(plan.metric_why + ".")
    what = f"{points(plan.max_drop)} below the untouched checkpoint, all passes together"
    if units.counts_changes(plan.metric):
        what = f"{100 * plan.max_drop:g}% of the predictions may change, by all passes together"
    yield _line(f"  max_drop: {plan.max_drop:g}", what)
    more = "; ".join(plan.certification_why) if plan.certifies else ""
    yield from _comment(
        " ".join(plan.budget_why) + (f" {more[:1].upper()}{more[1:]}." if more else "")
    )


def _passes(facts: StarterFacts, plan: Plan) -> Iterator[str]:
    if plan.repairs:
        yield _line("on_failure: repair", "a pass that loses too much is tried in milder forms")
        told = "enough for all milder forms at the speed that was measured"
        yield _line(f"repair: {{max_minutes: {plan.max_minutes}}}", told)
    yield "passes:"
    if plan.pruning is None:
        yield from _comment(f"No structured pruning: {plan.no_pruning}.")
    else:
        yield from _prune(facts, plan.pruning)
    if facts.provider == "cuda":
        yield _line("  - kind: convert_fp16", "half of the bytes; int8 has no kernels on CUDA")
    elif not facts.convolves:
        yield _line("  - kind: quantize_dynamic", "int8 with matmuls that are exact on every CPU")
    else:
        yield _line("  - kind: quantize_static", "int8 with ranges of the rows for calibration")
        yield _line("    convolutions: int8", "most of its weights are filters")


def _prune(facts: StarterFacts, pruning: Pruning) -> Iterator[str]:
    yield _line("  - kind: prune_structured", f"about {minutes(pruning.seconds / 60)}")
    yield _line("    method: reconstruction", "by least squares on unlabelled rows")
    told = "of the encoder's FLOPs; raise it until the gate fails"
    yield _line(f"    ratio: {pruning.ratio:g}", told)
    if pruning.rows is not None:
        yield _line(f"    calibration_rows: {pruning.rows}", "more take longer, and lose less")
    if facts.keeps_heads:
        yield _line("    head_ratio: 0", f"the heads of {facts.model_type} have to stay")
    if pruning.epochs is None:
        return
    yield _line("    recovery:", "towards the untouched checkpoint's outputs, no labels needed")
    yield "      kind: distill"
    yield f"      epochs: {pruning.epochs:g}"
    yield "      learning_rate: 1.0e-4"
    if pruning.hidden:
        yield "      hidden_weight: 1.0"
    yield "      dropout: false"
    if facts.lengths is not None:
        yield "      freeze_embeddings: true"


def _rest(facts: StarterFacts, output: Path) -> Iterator[str]:
    yield "export:"
    yield _line(f"  provider: {facts.provider}", "where the model will run")
    if facts.lengths is not None and facts.lengths.most is not None:
        yield _line(f"  max_length: {facts.lengths.most}", facts.lengths.most_why)
    if facts.length is not None:
        told = "samples that every sound is cut or padded to; the longest has as many"
        yield _line(f"  max_length: {facts.length}", told)
    yield "benchmark:"
    yield f"  providers: [{facts.provider}]"
    yield _line("  batch_sizes: [1, 32]", "one request at a time, and many")
    yield _line(
        "  threads: 1", "timed by the CPU time of one thread, which other work hardly moves"
    )
    if facts.lengths is not None:
        lengths = ", ".join(map(str, sorted({facts.lengths.typical, facts.lengths.long})))
        yield _line(f"  sequence_lengths: [{lengths}]", "tokens of a typical and of a long row")
    yield f"output: {_scalar('./' + output.stem + '-run')}"


def _source(
    name: str,
    source: SourceFacts,
    facts: StarterFacts,
    output: Path,
    told: str,
    limit: int | None = None,
) -> str:
    """Return the lines of one split, with the columns that differ from those of search."""
    if source.source is not None:
        return _judged(name, source.source, source.num_rows, output, told, limit)
    key = "path"
    if is_folder(source.path):
        key = next(media.nouns for media in MEDIA.values() if media.column == facts.input_column)
    parts = [f"{key}: {_scalar(_relative(source.path, output))}"]
    if source.quoting is not None:
        parts.append(f"quoting: {source.quoting}")
    if source.guess.inputs != facts.search.guess.inputs:
        parts.append(f"{facts.input_column}: {_columns(source.guess.inputs)}")
    if source.guess.label is not None and source.guess.label != facts.search.guess.label:
        parts.append(f"label: {_label(source.guess.label)}")
    if limit is not None and source.num_rows > limit:
        parts.append(f"max_rows: {limit}")
    rows = f"{source.num_rows:,} rows{told and ', '}{told}"
    return _line(f"  {name}: {{{', '.join(parts)}}}", rows)


def _judged(
    name: str, source: SplitSource, num_rows: int, output: Path, told: str, limit: int | None
) -> str:
    """Return the lines of a split of queries, whose documents are searched."""
    lines = [_line(f"  {name}:", f"{num_rows:,} queries{told and ', '}{told}")]
    files = {"queries": source.queries, "corpus": source.corpus, "qrels": source.qrels}
    lines += [
        f"    {key}: {_scalar(_relative(path, output))}" for key, path in files.items() if path
    ]
    if limit is None:
        lines.append(
            _line(f"    max_documents: {MAX_DOCUMENTS}", "that are searched; more take longer")
        )
    elif num_rows > limit:
        lines.append(f"    max_rows: {limit}")
    return "\n".join(lines)


def _relative(path: Path, output: Path) -> str:
    """Return `path` from the recipe's directory; it never looks like a Hub id."""
    # A link keeps its name, which tells the format; what it points to may have another.
    place = path.parent.resolve() / path.name
    text = Path(os.path.relpath(place, output.resolve().parent)).as_posix()
    return text if text.startswith(".") else f"./{text}"


def _columns(names: tuple[str, ...]) -> str:
    return _scalar(names[0]) if len(names) == 1 else f"[{', '.join(map(_scalar, names))}]"


def _label(named: str | tuple[str, ...]) -> str:
    return _scalar(named) if isinstance(named, str) else f"[{', '.join(map(_scalar, named))}]"


def _scalar(text: str) -> str:
    if _PLAIN.fullmatch(text) and yaml.safe_load(text) == text:
        return text
    return json.dumps(text, ensure_ascii=False)


def _short(names: tuple[str, ...]) -> str:
    return few_of([" ".join(name.split()) for name in names])


def _line(text: str, comment: str) -> str:
    return f"{text:<{_COMMENT_COLUMN}} # {comment}" if comment else text


def _comment(text: str, indent: str = "  ") -> Iterator[str]:
    """Yield a sentence as lines of comment."""
    for line in textwrap.wrap(text, _WIDTH - len(indent), break_on_hyphens=False):
        yield f"{indent}# {line}"
