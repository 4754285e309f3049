"""Turns columns of lists into documents, word by word, and the class ids of their tags.

Everything that would silently shift or swap tags is refused here with the row it stands in: another
number of tags than words, tags that are not the checkpoint's, ids that no names belong to.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from compressor.errors import RecipeError
from compressor.runtime.tags import OUTSIDE, Scheme, SchemeProblem, Tags, read_tags
from compressor.setting_errors import did_you_mean, show
from compressor.tasks.columns import Columns, Labels, RowKind, cells_of, made_of
from compressor.tasks.examples import Example, Words
from compressor.tasks.label_lists import LabelLists
from compressor.tasks.outputs import LabelArray
from compressor.tasks.stored_rows import are_stored
from compressor.tasks.table import BadRows, Table
from compressor.words import counted, few_of, verb_for

_LISTS = "a CoNLL file (.conll), JSON lines or parquet hold such lists"


class WordColumns(Columns):
    """A list of words and a list of tags, one for each of them."""

    input_column: ClassVar[str] = "text"
    holds: ClassVar[RowKind] = "words"
    about_label: ClassVar[str] = "lists of tags: names, or ids with names"

    def examples(
        self, table: Table, columns: Sequence[str], rows: Sequence[int]
    ) -> Sequence[Example]:
        """Return the documents in `rows`; raises `RecipeError` for a cell that is none."""
        values, bad = table.columns[columns[0]], BadRows()
        for row, (cell,) in zip(rows, cells_of((values,), rows), strict=True):
            if (problem := _words_problem(cell)) is not None:
                bad.add(f"{table.place(row)}: {columns[0]} {problem}")
        bad.check()
        return made_of(values, rows, _document)

    def labels(
        self,
        table: Table,
        column: str,
        names: Sequence[str],
        data_names: Sequence[str] | None,
    ) -> Labels:
        """Return the class ids of each document's tags, an int64 array for each, read by row.

        Tags are matched to the checkpoint's `names` by name. `data_names` are the names of the
        data's class ids, in their order, where all of them are the checkpoint's; otherwise what the
        data calls the checkpoint's tags, in the checkpoint's order.

        Raises `RecipeError` for a tag that is missing or not the checkpoint's, for ids without
        names, and for tags of the scheme IOB1.
        """
        known = _known_tags(names, data_names)
        cells, bad = table.columns[column], BadRows()

        def class_ids() -> Iterator[NDArray[np.int64]]:
            for row, cell in enumerate(cells):
                try:
                    yield known.class_ids(cell)
                except ValueError as problem:
                    bad.add(f"{table.place(row)}: {column} {problem}")

        fits = np.min_scalar_type(max(0, len(names) - 1))
        found = LabelLists.of(class_ids(), kept_as=fits, dtype=np.int64, in_file=are_stored(cells))
        bad.check()
        _require_beginnings(table, column, read_tags(names), found)
        return Labels(found)

    def require_columns(self, columns: Sequence[str], *, labelled: bool) -> None:  # noqa: ARG002
        """Raise `RecipeError` for more than one column."""
        if len(columns) != 1:
            raise RecipeError(
                f"text: {' and '.join(columns)} are two columns, and a document is one list of "
                f"words; name one column"
            )

    def require_fit(
        self,
        table: Table,
        rows: Sequence[int],
        examples: Sequence[Example],
        labels: LabelArray,
        column: str,
    ) -> None:
        """Raise `RecipeError` where a document has more or fewer tags than words."""
        bad = BadRows()
        for row, example, tags in zip(rows, examples, labels, strict=True):
            assert isinstance(example, Words), "these columns give nothing else"
            count = len(example.words)
            if count != len(tags):
                bad.add(
                    f"{table.place(row)}: {column} has {counted(len(tags), 'tag')}, and there "
                    f"{verb_for(count, 'is', 'are')} {counted(count, 'word')}; give one tag a word"
                )
        bad.check()


def _document(row: int, cell: Sequence[str]) -> Words:  # noqa: ARG001 - of `made_of`
    return Words(tuple(cell))


def words_problem(words: Sequence[Any]) -> str | None:
    """Return why these are no words of a document, behind a name for them; None where they are."""
    if not words:
        return "is an empty list; remove the row"
    for place, word in enumerate(words, start=1):
        if not isinstance(word, str):
            return f"must be a list of words, and word {place} is {show(word)}"
        try:
            word.encode("utf-8")
        except UnicodeEncodeError:
            return f"holds half of a surrogate pair in word {place}, which is no character"
    return None


def _words_problem(cell: Any) -> str | None:
    if cell is None or cell != cell:  # NaN, as pandas writes a missing cell
        return "is missing; remove the row or fill it in"
    if not isinstance(cell, list):
        return f"must be a list of words, got {show(cell)}; {_LISTS}"
    return words_problem(cell)


@dataclass(frozen=True)
class _KnownTags:
    """The class id of each tag by its name in the data, and of each id of the data.

    The latter is None where nothing names the ids; `owner` is who gives the names, whose `scheme`
    is known where it is the checkpoint.
    """

    by_name: Mapping[str, int]
    by_id: Sequence[int] | None
    owner: str
    scheme: Scheme = "plain"

    def class_ids(self, cell: Any) -> NDArray[np.int64]:
        """Return the class ids of a list of tags; raises `ValueError` for anything else."""
        if cell is None or cell != cell:
            raise ValueError("is missing; remove the row, or give one tag a word")
        if not isinstance(cell, list):
            raise ValueError(f"must be a list of tags, got {show(cell)}; {_LISTS}")
        found = [self._class_id(tag, place) for place, tag in enumerate(cell, start=1)]
        return np.array(found, dtype=np.int64)

    def _class_id(self, tag: Any, place: int) -> int:
        if isinstance(tag, str):
            if tag in self.by_name:
                return self.by_name[tag]
            if self.scheme == "IOB1" and tag.startswith("B-") and f"I-{tag[2:]}" in self.by_name:
                raise ValueError(
                    f"of word {place} is '{tag}', and the checkpoint's tags are those of the "
                    f"scheme IOB1; write the first word of an entity as I-, and as B- only right "
                    f"after another one of its kind"
                )
            close = did_you_mean(tag, self.by_name, noun="its tags are")
            raise ValueError(
                f"of word {place} is '{tag}', which is no tag of {self.owner}{close}; correct it, "
                f"or list the data's names for the checkpoint's tags in data.label_names"
            )
        if not isinstance(tag, int) or isinstance(tag, bool):
            raise ValueError(f"of word {place} must be a tag, got {show(tag)}")
        if self.by_id is None:
            raise ValueError(
                f"of word {place} is the class id {tag}, and nothing says which tag that is; list "
                f"the data's tags in data.label_names, in the order of their ids"
            )
        if not 0 <= tag < len(self.by_id):
            raise ValueError(f"of word {place} is {tag}, outside 0..{len(self.by_id) - 1}")
        return self.by_id[tag]


def _known_tags(names: Sequence[str], data_names: Sequence[str] | None) -> _KnownTags:
    own = {name: index for index, name in enumerate(names)}
    if data_names is None:
        return _KnownTags(own, None, "the checkpoint", read_tags(names).scheme)
    if set(data_names) <= set(own):
        return _KnownTags(own, [own[name] for name in data_names], "the checkpoint")
    if len(data_names) != len(names):
        strangers = [name for name in data_names if name not in own]
        raise RecipeError(
            f"data.label_names: the checkpoint ({few_of(names)}) has no {few_of(strangers)}; give "
            f"the checkpoint's tags in the order of the data's ids, or a name of the data for each "
            f"of the checkpoint's {len(names)} tags, in the checkpoint's order"
        )
    _require_same_meaning(names, data_names)
    theirs = {name: index for index, name in enumerate(data_names)}
    return _KnownTags(theirs, range(len(names)), "data.label_names")


def _require_same_meaning(names: Sequence[str], data_names: Sequence[str]) -> None:
    """Refuse names of the data that say more of entities than the checkpoint's do.

    Entities are read off the checkpoint's names: called LABEL_0 and so on, each word would be one,
    those outside of entities too, and the score little more than a share of words.
    """
    own = dict(zip(data_names, names, strict=True))
    outside = own.get(OUTSIDE, OUTSIDE)
    plain = read_tags(names).scheme == "plain"
    if outside == OUTSIDE and not (plain and _begins_entities(data_names)):
        return
    told = f"calls {OUTSIDE} {outside}" if outside != OUTSIDE else f"has {few_of(names)}"
    raise RecipeError(
        f"data.label_names: entities are read off the names in the checkpoint's config.json, which "
        f"{told}, so that every such word would count as an entity; write the tags into "
        f"config.json, as id2label: {{{_as_json(data_names)}}} and label2id the other way round, "
        f"and remove data.label_names"
    )


def _begins_entities(data_names: Sequence[str]) -> bool:
    try:
        return read_tags(data_names).scheme != "plain"
    except SchemeProblem:  # the data may call its tags as it likes
        return False


def _as_json(names: Sequence[str]) -> str:
    return ", ".join(f'"{place}": {json.dumps(name)}' for place, name in enumerate(names))


def _require_beginnings(
    table: Table, column: str, tags: Tags, found: Iterable[NDArray[np.int64]]
) -> None:
    """Refuse tags of IOB1, most of whose entities begin with I-, for a checkpoint of IOB2.

    Strictly they would be no entities, and what a model does to them would not count.
    """
    if tags.scheme != "IOB2":
        return
    proper = improper = 0
    for document in found:
        starts = tags.starts(document.tolist())
        proper, improper = proper + starts[0], improper + starts[1]
    if improper > proper:
        raise RecipeError(
            f"{table.name}: {column}: {improper:,} of {proper + improper:,} entities begin with "
            f"I-, as in the scheme IOB1, and the checkpoint's tags are those of IOB2, where all "
            f"begin with B-; write the first word of each entity as B-"
        )
