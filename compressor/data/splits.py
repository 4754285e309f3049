"""Loads the splits a run needs, and cuts those that the recipe leaves out from others.

The cuts are seeded and stratified by label and never overlap, so that a run can be repeated and no
example is both trained on and judged by.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compressor.data.judged import read_judged
from compressor.data.own_rows import read_rows
from compressor.data.readers import read_header, read_table
from compressor.data.sampling import sample_groups, sample_rows
from compressor.data.settings import SPLIT_NAMES, DataSettings, SplitSource
from compressor.errors import OwnCodeError, RecipeError
from compressor.machine.memory import give_back
from compressor.measurements import Score
from compressor.own_code import OwnFunction
from compressor.runtime.prompts import Prompted
from compressor.tasks import Example, Truth
from compressor.tasks.columns import Columns, Labels, made_of
from compressor.tasks.outputs import LabelArray
from compressor.tasks.ranking import group_numbers
from compressor.tasks.stored_rows import are_stored
from compressor.tasks.table import Table
from compressor.words import counted

CALIBRATION_ROWS = 512  # enough for ranges and scores; who solves equations asks for more
_VERY_FEW_ROWS = 32  # of calibration: below it train is read for spare ones alone
_TRAIN_SHARE = 0.2  # of the donor, for a split cut from train and for calibration
_NEED_LABELS = ("search", "certification")

# Where a missing split is cut from: the first of these that the recipe gives.
_DONORS = {
    "train": ("search", "certification"),
    "calibration": ("train", "search", "certification"),
    "search": ("certification", "train"),
    "certification": ("search", "train"),
}


@dataclass(frozen=True)
class Dataset:
    """One split, whose examples are in memory or, of a large source, are read by row.

    `labels` has shape `(num_examples,)` and holds class ids in the checkpoint's order, or what the
    task's columns make of a cell (dtype object, or read by row); it is None for unlabelled rows.
    `rows` are the positions in the source, so that anyone can take the same rows again.
    """

    name: str
    examples: Sequence[Example] = field(repr=False)
    labels: LabelArray | None = field(repr=False)
    rows: NDArray[np.int64] = field(repr=False)
    source: str
    cut_from: str | None = None
    # Of texts that were read as pairs: how similar the texts 2i and 2i + 1 are, at position i.
    grades: NDArray[np.float64] | None = field(default=None, repr=False)
    # Of rows that belong together, such as the candidates of a query: the number of the group of
    # each example, from 0 on.
    groups: NDArray[np.int64] | None = field(default=None, repr=False)
    # The position of the text that a group is told by, where its columns say so.
    group_text: int | None = None
    # Further columns of the file by name, values as they stand in it, for `budget.slices`.
    columns: Mapping[str, tuple[Any, ...]] = field(default_factory=dict, repr=False)
    # The labels were numbers, and nothing says which number is which class of the checkpoint.
    has_bare_ids: bool = False
    # The first so many examples are what scores are of, such as queries; the others are what these
    # look for. None: all of them are.
    num_judged: int | None = None
    # Of a calibration split: rows of train, for a pass that finds these too few.
    spare: Dataset | None = field(default=None, repr=False)
    # What was found out about exactly these rows, such as their tokens, so that it is done once.
    known: dict[Any, Any] = field(init=False, default_factory=dict, repr=False, compare=False)

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self.examples)

    def place(self, position: int) -> str:
        """Return what names the row of the example at `position`, for errors."""
        return f"data.{self.name}: row {self.rows[position]:,} of {self.source} (the first is 0)"

    @property
    def class_ids(self) -> NDArray[np.int64] | None:
        """Return the labels where each example has one class, else None."""
        found = self.labels
        return found if isinstance(found, np.ndarray) and found.dtype.kind in "iu" else None

    def truth(self, reference: Score | None = None) -> Truth:
        """Return what outputs on this split are compared with."""
        return Truth(self.examples, self.labels, self.grades, reference, self.groups)

    def joined(self, max_spare: int) -> Dataset:
        """Return these examples and at most so many spare ones, without labels."""
        if self.spare is None:
            return self
        return replace(
            self,
            examples=(*self.examples, *self.spare.examples[:max_spare]),
            labels=None,
            rows=np.concatenate([self.rows, self.spare.rows[:max_spare]]),
            source=f"{self.source} and {self.spare.source}",
            grades=None,
            groups=None,
            columns={},
            spare=None,
        )


@dataclass(frozen=True)
class _Loaded:
    """A given split before its examples are decoded; `rows` are ascending positions in `table`."""

    table: Table
    columns: tuple[str, ...]  # that hold the input
    label_column: str
    labels: Labels  # of the whole table
    rows: NDArray[np.int64]
    source: str
    groups: NDArray[np.int64] | None = None  # of the whole table

    def draw(
        self, rows: NDArray[np.int64], count: int, *, seed: int, purpose: str
    ) -> NDArray[np.int64]:
        """Return `count` of `rows`, ascending, by label; of groups whole ones, and so about it."""
        if self.groups is not None:
            return sample_groups(rows, self.groups[rows], count, seed=seed, purpose=purpose)
        return sample_rows(rows, self.classes_of(rows), count, seed=seed, purpose=purpose)

    def classes_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64] | None:
        """Return what a sample of `rows` keeps the proportions of."""
        labels = self.labels.labels
        are_ids = isinstance(labels, np.ndarray) and labels.dtype.kind in "iu"
        return labels[rows] if isinstance(labels, np.ndarray) and are_ids else None


def load_splits(
    settings: DataSettings,
    *,
    label_names: Sequence[str],
    columns: Columns,
    needed: Container[str],
    seed: int,
    labelled: bool = True,
    keep: Mapping[str, Sequence[str]] | None = None,
    calibration_rows: int = CALIBRATION_ROWS,
    spare_rows: int = 0,
    preprocess: OwnFunction | None = None,
) -> dict[str, Dataset]:
    """Return the splits in `needed` by name; rows keep the order of their source.

    `label_names` are the checkpoint's, in the order of its logits; `columns` say what the task
    reads of a row and of its label. Search and certification must have labels unless `labelled` is
    false. `keep` names further columns that a split must have, which `Dataset.columns` then holds.
    `calibration_rows` is the size of a calibration split that is cut, at most. Where calibration
    has less than `spare_rows` and train is read anyway, `Dataset.spare` of calibration holds what
    is missing to that number from train, drawn by the seed, as far as there are any. Every row goes
    through `preprocess` before anything else, where it is given.

    A needed split without a source is cut from the first given split of this list, and
    `Dataset.cut_from` names it:

    - search and certification: from each other, in equal shares; else 20% of train each.
    - calibration: 20% of train, else of search, else of certification, at most
      `calibration_rows`.
    - train: an equal share of search, else of certification.

    Splits that are not needed are neither cut nor read, unless another one is cut from them. Equal
    shares means that the donor and all that is cut from it (calibration aside) get as many rows.

    Raises `RecipeError` for wrong rows, columns and labels, for an empty split, and when nothing is
    there to cut from; `EnvironmentMismatch` when a source is missing or damaged.
    """
    wanted = [name for name in SPLIT_NAMES if name in needed]
    plan = check_plan(settings.given, wanted)
    loaded = _load_all(
        settings,
        label_names,
        columns=columns,
        wanted=wanted,
        plan=plan,
        seed=seed,
        must_label=_NEED_LABELS if labelled else (),
        keep=(keep := keep or {}),
        preprocess=preprocess,
    )
    cuts = _take_cuts(loaded, plan, seed, calibration_rows)
    splits: dict[str, Dataset] = {}
    mistakes: list[str] = []
    for name in wanted:
        try:
            kept = keep.get(name, ())
            splits[name] = _decode(name, *cuts[name], loaded, kept, columns)
        except RecipeError as error:
            mistakes += [f"data.{plan.get(name, name)}: {item}" for item in error.mistakes]
    if mistakes:
        raise RecipeError(mistakes)
    own = len(splits["calibration"]) if "calibration" in splits else _VERY_FEW_ROWS
    if own < min(spare_rows, _VERY_FEW_ROWS) and "train" not in cuts and "train" in settings.given:
        # Read for nothing else, so it need not have labels.
        more = _load_all(
            settings,
            label_names,
            columns=columns,
            wanted=["train"],
            plan={},
            seed=seed,
            must_label=(),
            keep={},
            preprocess=preprocess,
            reads_labels=False,
        )
        loaded, cuts = {**loaded, **more}, {**cuts, "train": ("train", more["train"].rows)}
    if "calibration" in splits and "train" in cuts:
        missing = spare_rows - len(splits["calibration"])
        spare = _spare(*cuts["train"], loaded, missing, seed, columns)
        splits["calibration"] = replace(splits["calibration"], spare=spare)
    prompts = {name: settings.given[donor].prompt_name for name, (donor, _) in cuts.items()}
    found = {name: _each_text(split, columns, prompts) for name, split in splits.items()}
    if any(are_stored(split.examples) for split in found.values()):
        del loaded, cuts, splits
        give_back()
    return found


def _spare(
    donor: str,
    rows: NDArray[np.int64],
    loaded: Mapping[str, _Loaded],
    count: int,
    seed: int,
    columns: Columns,
) -> Dataset | None:
    if count <= 0 or len(rows) == 0:
        return None
    chosen = sample_rows(rows, None, count, seed=seed, purpose="calibration.spare")
    return _decode("train", donor, chosen, loaded, (), columns)


def _decode(
    name: str,
    donor: str,
    rows: NDArray[np.int64],
    loaded: Mapping[str, _Loaded],
    kept: Sequence[str],
    columns: Columns,
) -> Dataset:
    origin = loaded[donor]
    labels, grades = origin.labels.labels, origin.labels.grades
    chosen = np.ascontiguousarray(rows).data  # a list would take five times the memory
    examples = columns.examples(origin.table, origin.columns, chosen)
    own = None if labels is None else labels[rows]
    if own is not None:
        columns.require_fit(origin.table, chosen, examples, own, origin.label_column)
    return Dataset(
        name=name,
        examples=examples,
        labels=own,
        rows=origin.table.source_rows(rows),
        source=origin.source,
        cut_from=None if donor == name else donor,
        grades=None if grades is None else grades[rows],
        groups=None if origin.groups is None else group_numbers(origin.groups[rows]),
        group_text=columns.group_text,
        columns={
            column: tuple(origin.table.columns[column][row] for row in rows) for column in kept
        },
        has_bare_ids=origin.labels.has_bare_ids,
    )


def _each_text(split: Dataset, columns: Columns, prompts: Mapping[str, str | None]) -> Dataset:
    """Return the split with the texts of an input as examples of their own, where they are.

    `prompts` name for each split the one that stands before its texts. Raises `RecipeError` for
    inputs on which no model can be judged, and for those that are read after no such prompt.
    """
    try:
        found = columns.unfold(split.examples, split.grades, whole=split.name in _NEED_LABELS)
        if (prompt_name := prompts[split.name]) is not None:
            found = replace(found, examples=_after(prompt_name, found.examples, columns))
    except RecipeError as error:
        raise RecipeError([f"data.{split.name}: {item}" for item in error.mistakes]) from error
    if found.examples is split.examples:
        return split
    same = zip(found.examples, split.examples, strict=False)
    if len(found.examples) == len(split) and all(one is other for one, other in same):
        return split
    return replace(
        split,
        spare=None if split.spare is None else _each_text(split.spare, columns, prompts),
        examples=found.examples,
        labels=split.labels if found.labels is None else found.labels,
        grades=found.grades,
        num_judged=found.num_judged,
        groups=None,
        rows=split.rows[found.sources],
        columns={
            name: tuple(values[source] for source in found.sources.tolist())
            for name, values in split.columns.items()
        },
    )


def _after(prompt_name: str, examples: Sequence[Example], columns: Columns) -> Sequence[Prompted]:
    """Return texts that are read after a prompt; raises `RecipeError` for what has no such."""
    if not columns.reads_prompts:
        raise RecipeError("prompt_name: the task reads no prompts; remove it")
    if not all(isinstance(example, str) for example in examples):
        raise RecipeError("prompt_name: queries and documents have their own; remove it")

    def prompted(row: int, text: str) -> Prompted:  # noqa: ARG001 - of `made_of`
        return Prompted(text, prompt_name)

    return made_of(examples, range(len(examples)), prompted)


def plan_cuts(given: Container[str], needed: Sequence[str]) -> dict[str, str]:
    """Return which given split each missing one of `needed` is cut from.

    Raises `RecipeError` naming every split that cannot be had.
    """
    plan: dict[str, str] = {}
    mistakes = []
    for name in needed:
        if name in given:
            continue
        donor = next((donor for donor in _DONORS[name] if donor in given), None)
        if donor is None:
            mistakes.append(
                f"data.{name}: this run needs it; give it, or one of "
                f"{', '.join(_DONORS[name])}, from which it is then cut"
            )
        else:
            plan[name] = donor
    if mistakes:
        raise RecipeError(mistakes)
    return plan


def check_plan(given: Mapping[str, SplitSource], wanted: Sequence[str]) -> dict[str, str]:
    """Return what `plan_cuts` does; raises `RecipeError` too where a cut would not be unseen."""
    plan = plan_cuts(given, wanted)
    _check_overlap(given, wanted, plan)
    return plan


def _check_overlap(
    given: Mapping[str, SplitSource], wanted: Sequence[str], plan: Mapping[str, str]
) -> None:
    """Refuse to cut from rows that another split reads too: the cut would not be unseen."""
    mistakes = [
        f"data.{name}: cannot be cut from data.{donor}, whose rows data.{other} reads too; give "
        f"data.{name} a source of its own, or leave data.{other} out"
        for name, donor in plan.items()
        for other, source in given.items()
        if name != "calibration"  # it only measures ranges, so shared rows do no harm
        and other in wanted
        and other != donor
        and source.shares_rows_with(given[donor])
    ]
    if mistakes:
        raise RecipeError(mistakes)


def _load_all(
    settings: DataSettings,
    label_names: Sequence[str],
    *,
    columns: Columns,
    wanted: Sequence[str],
    plan: Mapping[str, str],
    seed: int,
    must_label: Sequence[str],
    keep: Mapping[str, Sequence[str]],
    preprocess: OwnFunction | None,
    reads_labels: bool = True,
) -> dict[str, _Loaded]:
    """Load the given splits that are wanted or cut from; report the mistakes of all together."""
    loaded: dict[str, _Loaded] = {}
    mistakes: list[str] = []
    for name, source in settings.given.items():
        uses = [split for split in wanted if plan.get(split, split) == name]
        if not uses:
            continue
        label, named = settings.label_column(source), settings.label_columns(source)
        try:
            columns.require_label_columns(named)
            must = bool(set(uses) & set(must_label))
            kept = [column for split in uses for column in keep.get(split, ())]
            own: tuple[str, ...] = ("text",)
            if source.qrels is not None:
                table = _judged(source, columns, kept, group=settings.group)
                if must and columns.needs_labels:
                    raise RecipeError(
                        "qrels: says what is relevant to queries, and grades of pairs are needed; "
                        "give path, or take recall@10, ndcg@10 or mrr@10"
                    )
            else:
                own = settings.input_columns(source, columns.input_column)
                columns.require_columns(own, labelled=must)
                required = [*own, *([] if settings.group is None else [settings.group]), *kept]
                if must and columns.needs_labels:
                    required += named
                table = read_rows(source, required, named, preprocess).with_sets(named)
            if len(table) == 0:
                raise RecipeError(f"{table.name}: has no rows")
            labels = Labels(columns.own_labels(len(table)))
            if reads_labels and label in table.columns:
                labels = columns.labels(table, label, label_names, settings.label_names)
        except RecipeError as error:
            # What is wrong with the user's own code has its own place.
            key = "" if isinstance(error, OwnCodeError) else f"data.{name}: "
            mistakes.extend(f"{key}{mistake}" for mistake in error.mistakes)
        else:
            everything = np.arange(len(table), dtype=np.int64)
            groups = columns.groups(table, own, settings.group)
            name_of = f"{table.name}{table.note}"
            found = _Loaded(table, own, label, labels, everything, name_of, groups)
            loaded[name] = _limit(name, source, found, seed)
    if mistakes:
        raise RecipeError(mistakes)
    return loaded


def _judged(
    source: SplitSource, columns: Columns, kept: Sequence[str], *, group: str | None
) -> Table:
    """Return queries with what is relevant; raises `RecipeError` where nothing reads that."""
    if not columns.reads_relevance:
        raise RecipeError(
            "qrels: says which documents are relevant to queries, which sentence-embedding reads "
            "alone; give path"
        )
    if group is not None:
        raise RecipeError(
            f"qrels: has no column '{group}', and each of its queries is a group by itself; remove "
            f"data.group"
        )
    if kept:
        raise RecipeError(
            f"qrels: has no column '{kept[0]}' for slices; remove it from budget.slices"
        )
    return read_judged(source, read_header, read_table)


def _limit(name: str, source: SplitSource, loaded: _Loaded, seed: int) -> _Loaded:
    """Draw `max_rows` of the table when it has more, and say so in its source."""
    rows = loaded.rows
    if source.max_rows is None or source.max_rows >= len(rows):
        return loaded
    chosen = loaded.draw(rows, source.max_rows, seed=seed, purpose=f"{name}.max_rows")
    by = "label" if loaded.groups is None else "query"
    note = f"{len(chosen)} of {counted(len(rows), 'row')}, sampled by {by} with seed {seed}"
    return replace(loaded, rows=chosen, source=f"{loaded.source} ({note})")


def _take_cuts(
    loaded: Mapping[str, _Loaded], plan: Mapping[str, str], seed: int, calibration_rows: int
) -> dict[str, tuple[str, NDArray[np.int64]]]:
    """Return for each split the donor and the rows of its table, which do not overlap."""
    result: dict[str, tuple[str, NDArray[np.int64]]] = {}
    for donor, data in loaded.items():
        counts = cut_sizes(donor, plan, len(data.rows), calibration_rows)
        if sum(counts.values()) >= len(data.rows):
            raise RecipeError(
                f"data.{donor}: {data.table.name} has {counted(len(data.rows), 'row')}, too few to "
                f"cut {' and '.join(counts)} from it; give those splits a source of their own"
            )
        left = data.rows
        for name, count in counts.items():
            rows = data.draw(left, count, seed=seed, purpose=f"{donor}.{name}")
            left = np.setdiff1d(left, rows, assume_unique=True)
            if len(left) == 0:
                raise RecipeError(
                    f"data.{donor}: all rows of {data.table.name} are of one query, so {name} "
                    f"cannot be cut from it; give it a source of its own"
                )
            result[name] = (donor, rows)
        result[donor] = (donor, left)
    return result


def cut_sizes(
    donor: str, plan: Mapping[str, str], num_rows: int, calibration_rows: int
) -> dict[str, int]:
    """Return how many of a donor's `num_rows` go to each split that is cut from it."""
    takers = [name for name in SPLIT_NAMES if plan.get(name) == donor]
    counts: dict[str, int] = {}
    if "calibration" in takers:
        counts["calibration"] = calibration_cut(num_rows, calibration_rows)
    rest = num_rows - counts.get("calibration", 0)
    for name in takers:
        if name != "calibration":
            whole = num_rows if donor == "train" else rest
            counts[name] = _cut_size(donor, takers, whole)
    return {name: counts[name] for name in takers}


def calibration_cut(num_rows: int, calibration_rows: int) -> int:
    """Return how many of `num_rows` become the calibration split that is cut from them."""
    return min(max(CALIBRATION_ROWS, calibration_rows), _share_of(num_rows))


def _share_of(num_rows: int) -> int:
    return max(1, round(_TRAIN_SHARE * num_rows))


def _cut_size(donor: str, takers: Sequence[str], num_rows: int) -> int:
    """Return how many of a donor's `num_rows` another split gets, calibration aside."""
    if donor == "train":
        return _share_of(num_rows)
    equals = 1 + sum(taker != "calibration" for taker in takers)
    return max(1, num_rows // equals)
