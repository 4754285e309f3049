"""Turns columns of plain values into what tasks take: texts, images, class ids and grades.

A task names its `Columns`; one that reads something else, such as lists of words with a tag each,
brings a subclass.

Everything a model would silently mistrain on is refused here with the row it stands in: empty
texts, labels that are not the checkpoint's, images that do not decode.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from compressor.errors import RecipeError
from compressor.setting_errors import show
from compressor.tasks.examples import Example, texts_of
from compressor.tasks.outputs import LabelArray
from compressor.tasks.pixels import checked_pixels
from compressor.tasks.ranking import groups_by_text
from compressor.tasks.retrieval import Corpus, Judged, Unfolded, relevance_of, unfold
from compressor.tasks.sound import StoredSound
from compressor.tasks.stored_image import StoredImage
from compressor.tasks.stored_rows import MadeByRow, PartsByRow, are_stored
from compressor.tasks.table import BadRows, Table
from compressor.words import counted, few_of

_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
_INTEGER = re.compile(r"[-+]?[0-9]{1,18}")
_FRACTION = re.compile(r"[-+]?[0-9]*\.[0-9]+(?:[eE][-+]?[0-9]+)?")
_LETTERS = re.compile(r"[\W_]+")  # what stands between letters and digits
Made = TypeVar("Made")


@dataclass(frozen=True)
class Labels:
    """What a label column says of each row; each is None where it says nothing.

    `labels` has shape `(num_rows,)`: class ids in the checkpoint's order, or any object that the
    task makes of a cell (dtype object). `grades`, shape `(num_rows,)`, are those of pairs of texts.
    """

    labels: LabelArray | None = None
    grades: NDArray[np.float64] | None = None
    # The labels were numbers, and nothing says which number is which class of the checkpoint.
    has_bare_ids: bool = False


# What rows hold, by which `compress init` tells their columns.
RowKind = Literal[
    "classes",
    "images",
    "unlabelled images",
    "sounds",
    "unlabelled sounds",
    "label sets",
    "words",
    "sentences",
    "scores",
    "answers",
    "texts",
]


class Columns(ABC):
    """Which columns of a table a task reads, and what becomes of them.

    `group_text` is the position of the text that every group is told by, whichever rows it has;
    None where rows have to tell.
    """

    group_text: ClassVar[int | None] = None
    input_column: ClassVar[str]  # the key under `data` that names the input's columns
    holds: ClassVar[RowKind] = "classes"
    names_labels: ClassVar[bool] = True  # a cell of the label column names classes
    about_label: ClassVar[str] = "class ids, or names of the labels"  # for people who edit recipes
    reads_relevance: ClassVar[bool] = False  # which documents are relevant to a query
    reads_prompts: ClassVar[bool] = False  # that stand before texts

    @property
    def needs_labels(self) -> bool:
        """Return whether rows to be scored need a label column, where the metric needs labels."""
        return True

    @abstractmethod
    def examples(
        self, table: Table, columns: Sequence[str], rows: Sequence[int]
    ) -> Sequence[Example]:
        """Return the inputs in `rows`, read by row where the columns lie in a file.

        Raises `RecipeError` for values that will not do, `EnvironmentMismatch` for files that are
        missing or damaged.
        """

    def labels(
        self,
        table: Table,
        column: str,
        names: Sequence[str],
        data_names: Sequence[str] | None,
    ) -> Labels:
        """Return what the label column says: class ids by default, as `read_class_ids`.

        `names` are the checkpoint's, `data_names` the recipe's for them.
        """
        ids = read_class_ids(table, column, labels=names, data_names=data_names)
        bare = are_bare_ids(table.columns[column], data_names or names)
        if data_names is None:
            bare = bare or are_reordered(names)
        return Labels(ids, has_bare_ids=bare)

    def own_labels(self, num_rows: int) -> LabelArray | None:  # noqa: ARG002 - most have none
        """Return labels that rows have without a column of them, shape `(num_rows,)`."""
        return None

    def groups(
        self,
        table: Table,  # noqa: ARG002 - for rows that belong together
        columns: Sequence[str],  # noqa: ARG002
        group: str | None,  # noqa: ARG002
    ) -> NDArray[np.int64] | None:
        """Return the number of the group of each row, shape `(num_rows,)`, None without groups.

        `columns` are the input's, `group` the one that the recipe names. Raises `RecipeError` for a
        row that lacks it.
        """
        return None

    def require_label_columns(self, columns: Sequence[str]) -> None:
        """Raise `RecipeError` for several columns of labels where one is read."""
        if len(columns) > 1:
            raise RecipeError(
                f"label: names {counted(len(columns), 'column')} ({few_of(columns)}), and only "
                f"multi-label-classification reads one for each label; name one column"
            )

    def require_columns(self, columns: Sequence[str], *, labelled: bool) -> None:  # noqa: B027
        """Raise `RecipeError` where these are not the input columns that labels would be of."""

    def require_fit(  # noqa: B027 - a class id fits any example
        self,
        table: Table,
        rows: Sequence[int],
        examples: Sequence[Example],
        labels: LabelArray,
        column: str,
    ) -> None:
        """Raise `RecipeError` where an example and its label cannot belong together.

        `examples` and `labels` are those in `rows` of the table; `column` is that of the labels.
        """

    def texts_apart(self, example: Example) -> tuple[Example, ...]:
        """Return the examples that an input is in the end; itself by default."""
        return (example,)

    def parts_texts(self, inputs: Sequence[Example]) -> bool:  # noqa: ARG002 - most do not
        """Return whether `texts_apart` may make something else of one of the inputs."""
        return type(self).texts_apart is not Columns.texts_apart

    def unfold(
        self,
        inputs: Sequence[Example],
        grades: NDArray[np.float64] | None,
        *,
        whole: bool,  # noqa: ARG002 - for what is searched
    ) -> Unfolded:
        """Return the examples that inputs are in the end, as `texts_apart` for each by default.

        `grades`, shape `(num_inputs,)`, are what labels say of inputs. `whole` says that a model is
        judged on the examples, not trained or measured. Raises `RecipeError` for inputs on which no
        model can be.
        """
        if not self.parts_texts(inputs):
            return Unfolded(inputs, np.arange(len(inputs)), grades=grades)
        if are_stored(inputs):  # columns, of which each row has as many
            width = len(self.texts_apart(inputs[0]))
            sources = np.repeat(np.arange(len(inputs)), width)
            return Unfolded(PartsByRow(inputs, self.texts_apart, width), sources, grades=grades)
        parts = [self.texts_apart(example) for example in inputs]
        sources = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
        return Unfolded(tuple(text for part in parts for text in part), sources, grades=grades)

    def examples_in(self, num_columns: int) -> int:  # noqa: ARG002 - one, however many
        """Return how many examples an input of so many columns is in the end."""
        return 1


class TextColumns(Columns):
    """Texts or pairs of texts, with class ids."""

    input_column: ClassVar[str] = "text"

    def examples(
        self, table: Table, columns: Sequence[str], rows: Sequence[int]
    ) -> Sequence[Example]:
        """Return texts or pairs of texts; raises `RecipeError` for an empty one."""
        cells = tuple(table.columns[column] for column in columns)
        bad = BadRows()
        for row, values in zip(rows, cells_of(cells, rows), strict=True):
            for column, value in zip(columns, values, strict=True):
                problem = text_problem(value)
                if problem:
                    bad.add(f"{table.place(row)}: {column} {problem}")
        bad.check()
        if are_stored(*cells):
            make = _text if len(columns) == 1 else _pair
            return MadeByRow(cells, np.asarray(rows, dtype=np.int64), make)
        if len(columns) == 1:
            return tuple(cells[0][row] for row in rows)
        first, second = cells
        return tuple((first[row], second[row]) for row in rows)


def cells_of(columns: tuple[Sequence[Any], ...], rows: Sequence[int]) -> Sequence[Any]:
    """Return what columns hold in `rows`, a tuple each, which is read when it is asked for."""
    return MadeByRow(columns, np.asarray(rows, dtype=np.int64), _cells)


def _cells(row: int, *values: Any) -> Any:  # noqa: ARG001 - of `MadeByRow`
    return values


def _text(row: int, text: str) -> Example:  # noqa: ARG001
    return text


def _pair(row: int, first: str, second: str) -> Example:  # noqa: ARG001
    return first, second


# What is read of rows beside texts: nothing, grades of pairs, or what is relevant to queries.
Beside = Literal["nothing", "grades", "relevance"]


@dataclass(frozen=True)
class SentenceColumns(TextColumns):
    """Texts that are read each by itself, with grades of pairs or relevance where it is asked for.

    Where relevance is, the first text of a pair is a query, and the second a document that is
    relevant to it, as much as the label says, where there is one. What stands in files of queries,
    documents and relevance is read as queries and documents whatever is asked for.
    """

    holds: ClassVar[RowKind] = "sentences"
    names_labels: ClassVar[bool] = False
    about_label: ClassVar[str] = "grades of the pairs: the more similar, the higher"

    beside: Beside = "nothing"

    reads_relevance: ClassVar[bool] = True
    reads_prompts: ClassVar[bool] = True

    @property
    def needs_labels(self) -> bool:
        """Return whether there have to be grades: what stands in a pair is relevant without."""
        return self.beside == "grades"

    def examples(
        self, table: Table, columns: Sequence[str], rows: Sequence[int]
    ) -> Sequence[Example]:
        """Return texts, pairs, or queries with what is relevant; raises `RecipeError`."""
        if table.judged is not None:
            return tuple(table.judged[row] for row in rows)
        found = super().examples(table, columns, rows)
        if self.beside != "relevance" or len(columns) != 2:
            return found
        names: dict[str, str] = {}
        for pair in found:
            names.setdefault(texts_of(pair)[1], f"document {len(names)}")
        corpus = Corpus({name: text for text, name in names.items()})
        return tuple(
            Judged(query, query, {names[document]: 1.0}, corpus)
            for query, document in map(texts_of, found)
        )

    def labels(
        self,
        table: Table,
        column: str,
        names: Sequence[str],  # noqa: ARG002 - grades are numbers
        data_names: Sequence[str] | None,  # noqa: ARG002
    ) -> Labels:
        """Return grades; nothing where none are asked for, whatever the column holds."""
        if self.beside == "relevance":
            return Labels(grades=read_relevance(table, column))
        return Labels(grades=read_grades(table, column)) if self.beside == "grades" else Labels()

    def require_columns(self, columns: Sequence[str], *, labelled: bool) -> None:
        """Raise `RecipeError` for grades or relevance of one text."""
        if labelled and self.beside != "nothing" and len(columns) != 2:
            what = "the grade is that of a pair"
            more = ""
            if self.beside == "relevance":
                what = "a document is relevant to a query"
                more = ", or give queries, corpus and qrels in place of path"
            raise RecipeError(
                f"text: {what}, and {columns[0]} is one text; list the columns of both texts{more}"
            )

    def groups(
        self,
        table: Table,
        columns: Sequence[str],
        group: str | None,  # noqa: ARG002 - a query is told by its text
    ) -> NDArray[np.int64] | None:
        """Return pairs of one query as a group, so that no cut has its documents on both sides."""
        if self.beside != "relevance" or table.judged is not None or len(columns) != 2:
            return None
        return groups_by_text(table.columns[columns[0]])

    def texts_apart(self, example: Example) -> tuple[Example, ...]:
        """Return each text of a pair."""
        return texts_of(example)

    def parts_texts(self, inputs: Sequence[Example]) -> bool:
        """Return whether inputs are pairs, which all of a split are or none is."""
        return len(inputs) > 0 and not isinstance(inputs[0], str)

    def unfold(
        self, inputs: Sequence[Example], grades: NDArray[np.float64] | None, *, whole: bool
    ) -> Unfolded:
        """Return queries and documents where there are any, else each text of a pair."""
        are_judged = len(inputs) > 0 and isinstance(inputs[0], Judged)
        judged = [item for item in inputs if isinstance(item, Judged)] if are_judged else []
        if judged:
            return unfold(judged, grades, whole=whole)
        return super().unfold(inputs, grades, whole=whole)

    def examples_in(self, num_columns: int) -> int:
        """Return one for each column."""
        return num_columns


class ScoredColumns(TextColumns):
    """Texts or pairs of texts, with numbers; rows of one query belong together."""

    holds: ClassVar[RowKind] = "scores"
    names_labels: ClassVar[bool] = False
    about_label: ClassVar[str] = "numbers, the higher the better"

    def labels(
        self,
        table: Table,
        column: str,
        names: Sequence[str],  # noqa: ARG002 - they are numbers
        data_names: Sequence[str] | None,
    ) -> Labels:
        """Return the numbers; raises `RecipeError` for names of them, and as `read_grades` does."""
        if data_names is not None:
            raise RecipeError(
                "data.label_names: labels are numbers here, and have no names; remove it"
            )
        return Labels(read_grades(table, column))

    def groups(
        self, table: Table, columns: Sequence[str], group: str | None
    ) -> NDArray[np.int64] | None:
        """Return groups by the column `group`, else by the first text of a pair."""
        if group is None:
            return groups_by_text(table.columns[columns[0]]) if len(columns) > 1 else None
        bad = BadRows()
        for row, value in enumerate(table.columns[group]):
            if value is None or value == "" or value != value:
                bad.add(f"{table.place(row)}: {group} is missing; every row must have a query")
        bad.check()
        return groups_by_text(table.columns[group])


class UnlabelledTextColumns(TextColumns):
    """Single texts, each of which says by itself what a model should have said."""

    holds: ClassVar[RowKind] = "texts"
    names_labels: ClassVar[bool] = False

    @property
    def needs_labels(self) -> bool:
        """Return that no column of labels is needed."""
        return False

    def own_labels(self, num_rows: int) -> NDArray[np.float64]:
        """Return a number for each row that says nothing, so that models can be trained on it."""
        return np.zeros(num_rows)

    def labels(
        self,
        table: Table,
        column: str,  # noqa: ARG002 - whatever stands there
        names: Sequence[str],  # noqa: ARG002
        data_names: Sequence[str] | None,
    ) -> Labels:
        """Return what rows say without a column of labels."""
        if data_names is not None:
            raise RecipeError("data.label_names: the task has no labels; remove it")
        return Labels(self.own_labels(len(table)))

    def require_columns(self, columns: Sequence[str], *, labelled: bool) -> None:  # noqa: ARG002
        """Raise `RecipeError` for pairs of texts."""
        if len(columns) > 1:
            raise RecipeError(
                f"text: the task reads single texts, and {' and '.join(columns)} are two; name one"
            )


class ImageColumns(Columns):
    """Images, with class ids."""

    input_column: ClassVar[str] = "image"
    holds: ClassVar[RowKind] = "images"

    def examples(
        self, table: Table, columns: Sequence[str], rows: Sequence[int]
    ) -> Sequence[Example]:
        """Return decoded images; raises `EnvironmentMismatch` for one that is damaged."""
        images = made_of(
            table.columns[columns[0]], rows, lambda row, cell: _image(cell, table, row)
        )
        for image in images:
            if isinstance(image, StoredImage):
                _ = image.identity  # decodes it, and raises here for one that cannot be
        return images


class Unlabelled(Columns):
    """Rows of inputs alone, of which a model gives vectors."""

    names_labels: ClassVar[bool] = False

    @property
    def needs_labels(self) -> bool:
        """Return that there need be none."""
        return False

    def labels(
        self,
        table: Table,  # noqa: ARG002 - whatever the column holds
        column: str,  # noqa: ARG002
        names: Sequence[str],  # noqa: ARG002
        data_names: Sequence[str] | None,  # noqa: ARG002
    ) -> Labels:
        """Return nothing: no vector is the right one."""
        return Labels()


class UnlabelledImageColumns(Unlabelled, ImageColumns):
    """Images alone."""

    holds: ClassVar[RowKind] = "unlabelled images"


class SoundColumns(Columns):
    """Sounds, with class ids."""

    input_column: ClassVar[str] = "audio"
    holds: ClassVar[RowKind] = "sounds"

    def examples(
        self, table: Table, columns: Sequence[str], rows: Sequence[int]
    ) -> Sequence[Example]:
        """Return sounds, each read once; raises `EnvironmentMismatch` for one that is damaged."""
        sounds = made_of(
            table.columns[columns[0]], rows, lambda row, cell: _sound(cell, table, row)
        )
        for sound in sounds:
            _ = sound.identity  # reads it, and raises here for one that cannot be
        return sounds


class UnlabelledSoundColumns(Unlabelled, SoundColumns):
    """Sounds alone."""

    holds: ClassVar[RowKind] = "unlabelled sounds"


def text_problem(value: Any) -> str | None:
    """Return why a cell is no text that a model can read, None where it is."""
    if value is None or value != value:  # NaN, as pandas writes a missing text
        return "is missing; remove the row or fill it in"
    if not isinstance(value, str):
        return f"must be text, got {show(value)}"
    if not value.strip():
        return "is empty; remove the row or fill it in"
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return "holds half of a surrogate pair, which is no character; repair the file"
    return None


def read_class_ids(
    table: Table, column: str, *, labels: Sequence[str], data_names: Sequence[str] | None
) -> NDArray[np.int64]:
    """Return the class id of every row, shape `(num_rows,)`, in the checkpoint's order.

    Labels are names, of `data_names` in the order of the ids, or the checkpoint's own `labels`.
    Where all are whole numbers, and not all of them names, they are ids.

    Raises `RecipeError` for a label that is missing, out of range or not a name.
    """
    check_data_names(data_names, labels)
    codes, found = _distinct(table.columns[column])
    _check_kinds(table, column, codes, found)
    return _ids(table, column, codes, found, labels, data_names)


def check_data_names(data_names: Sequence[str] | None, labels: Sequence[str]) -> None:
    """Raise `RecipeError` unless `data_names` can be the data's names for the checkpoint's labels.

    The checkpoint's own names in another order cannot: each would be read as another label. Numbers
    can, because they may be the data's class ids.
    """
    if data_names is None:
        return
    if len(data_names) != len(labels):
        raise RecipeError(
            f"data.label_names: {counted(len(data_names), 'name')} ({few_of(data_names)}), but the "
            f"checkpoint has {counted(len(labels), 'label')} ({few_of(labels)}); give one name a "
            f"label, in its order"
        )
    if list(data_names) == list(labels) or set(data_names) != set(labels):
        return
    if all(_INTEGER.fullmatch(name) for name in labels):
        return
    place = next(place for place, name in enumerate(labels) if data_names[place] != name)
    numbers = ", ".join(f'"{data_names.index(name)}"' for name in labels)
    raise RecipeError(
        f"data.label_names: these are the checkpoint's own labels in another order "
        f"({few_of(labels)}), so that '{data_names[place]}' in the data would be read as "
        f"'{labels[place]}'; labels that are names need no label_names, so remove it; if they are "
        f"numbers, and these their names in order, give the numbers in the checkpoint's order: "
        f"label_names: [{numbers}]"
    )


def are_bare_ids(values: Sequence[Any], names: Sequence[str]) -> bool:
    """Return whether labels are numbers whose order nothing says, because no class is called so.

    >>> are_bare_ids([0, 2], ("no", "maybe", "yes")), are_bare_ids(["2"], ("2", "1", "0"))
    (True, False)
    """
    return not {str(value) for value in _whole_numbers(values)} <= set(names)


def are_reordered(names: Sequence[str]) -> bool:
    """Return whether classes are called by the numbers of others, which ids cannot be told from.

    >>> are_reordered(("1", "0")), are_reordered(("0", "1")), are_reordered(("1", "2"))
    (True, False, False)
    """
    numbers = list(map(str, range(len(names))))
    return sorted(names) == sorted(numbers) and list(names) != numbers


def read_grades(table: Table, column: str) -> NDArray[np.float64]:
    """Return the grade of every row, shape `(num_rows,)`: numbers, the higher the more similar.

    Raises `RecipeError` for a grade that is missing or no finite number, and when all are equal.
    """
    bad = BadRows()
    grades = np.zeros(len(table))
    for row, value in enumerate(table.columns[column]):
        try:
            grades[row] = float(value)
        except (TypeError, ValueError):
            grades[row] = np.nan
        if isinstance(value, bool) or not np.isfinite(grades[row]):
            bad.add(f"{table.place(row)}: {column} must be a number, got {show(value)}")
    bad.check()
    if np.ptp(grades) == 0:
        raise RecipeError(
            f"{table.name}: {column} is {grades[0]:g} in every row, so nothing can rise with it"
        )
    return grades


def read_relevance(table: Table, column: str) -> NDArray[np.float64]:
    """Return how relevant the document of each pair is, shape `(num_rows,)`: 0 where it is not.

    Raises `RecipeError` for what is no number of 0 or more.
    """
    bad = BadRows()
    grades = np.zeros(len(table))
    for row, value in enumerate(table.columns[column]):
        found = relevance_of(value)
        if found is None:
            bad.add(
                f"{table.place(row)}: {column} must be a number of 0 or more, how relevant the "
                f"document is to the query, got {show(value)}; name another column in data.label"
            )
        grades[row] = found or 0.0
    bad.check()
    return grades


def _whole_numbers(values: Sequence[Any]) -> Sequence[Any]:
    """Return a column of whole numbers that were stored as floats as integers.

    pandas stores ids so where one is missing, which is a mistake of its own.
    """
    if not any(type(value) is float and value.is_integer() for value in values):
        return values
    return [
        int(value) if type(value) is float and value.is_integer() else value for value in values
    ]


def _distinct(column: Sequence[Any]) -> tuple[NDArray[np.int32], list[Any]]:
    """Return for each row which of the column's distinct values it holds, and these in order.

    Whole numbers are integers, however they were stored.
    """
    numbers: dict[tuple[type, Any], int] = {}
    found: list[Any] = []
    codes = np.zeros(len(column), dtype=np.int32)
    for row, value in enumerate(_whole_numbers(column)):
        key = (type(value), value if isinstance(value, str | int) else repr(value))
        if (number := numbers.get(key)) is None:
            number = numbers[key] = len(found)
            found.append(value)
        codes[row] = number
    return codes, found


def _check_kinds(table: Table, column: str, codes: NDArray[np.int32], found: Sequence[Any]) -> None:
    """Refuse missing labels and a column that mixes whole numbers and texts.

    `codes` and `found` are those of `_distinct`.
    """
    expected = next((type(value) for value in found if type(value) in (int, str)), str)
    why: dict[int, str] = {}
    for number, value in enumerate(found):
        if value is None or value == "" or value != value:
            why[number] = "is missing; remove the row or fill it in"
        elif type(value) is not expected:
            why[number] = (
                f"must be a whole number or text, the same in every row, got {show(value)} "
                f"({type(value).__name__})"
            )
    bad = BadRows()
    for row in np.flatnonzero(np.isin(codes, list(why))).tolist() if why else []:
        bad.add(f"{table.place(row)}: {column} {why[int(codes[row])]}")
    bad.check()


def _ids(
    table: Table,
    column: str,
    codes: NDArray[np.int32],
    found: Sequence[Any],
    labels: Sequence[str],
    data_names: Sequence[str] | None,
) -> NDArray[np.int64]:
    """Return class ids; `codes` and `found` are those of `_distinct`."""
    names = data_names or labels
    values = [str(value) for value in found]
    index = {name: position for position, name in enumerate(names)}
    unknown = next((number for number, value in enumerate(values) if value not in index), None)
    if unknown is None:
        return np.array([index[value] for value in values], dtype=np.int64)[codes]
    row = int(np.argmax(codes == unknown))
    numbers = [_INTEGER.fullmatch(value) is not None for value in values]
    if all(numbers):
        return _checked_ids(table, column, codes, [int(value) for value in values], labels)
    are_grades = all(_FRACTION.fullmatch(value) for value in values)
    if are_grades and any(not float(value).is_integer() for value in values):
        raise RecipeError(
            f"{table.place(row)}: {column} '{values[unknown]}' is a number with a fraction, as "
            f"in every row: a grade, and the checkpoint chooses between the classes "
            f"{few_of(labels)}; name the column of the class, or give a checkpoint that gives one "
            f"number"
        )
    owner = "data.label_names" if data_names is not None else "the checkpoint"
    shown = few_of(sorted(values))
    if 2 * int(np.sum(np.array(numbers)[codes])) > len(codes):
        # Ids, but for some rows: those are what is wrong.
        wrong = numbers.index(False)
        row = int(np.argmax(codes == wrong))
        raise RecipeError(
            f"{table.place(row)}: {column} '{values[wrong]}' is no class id, as most rows have, "
            f"and no label of {owner} ({few_of(names)}); correct the row, or remove it"
        )
    raise RecipeError(
        f"{table.place(row)}: {column} '{values[unknown]}' is not a label of {owner}; the data "
        f"has {shown}, {owner} has {few_of(names)}; list the data's names in data.label_names in "
        f"the order of the classes {few_of(labels)}{_spelled(values, labels)}"
    )


def _spelled(values: Sequence[str], labels: Sequence[str]) -> str:
    """Return the line to write where the names differ from the checkpoint's in spelling alone."""
    own = {_LETTERS.sub("", name.casefold()): name for name in dict.fromkeys(values)}
    wanted = [_LETTERS.sub("", label.casefold()) for label in labels]
    if len(own) != len(set(values)) or len(set(wanted)) != len(labels) or set(own) != set(wanted):
        return ""
    return f": label_names: [{', '.join(own[name] for name in wanted)}]"


def _checked_ids(
    table: Table,
    column: str,
    codes: NDArray[np.int32],
    values: Sequence[int],
    labels: Sequence[str],
) -> NDArray[np.int64]:
    bad = BadRows()
    ids = np.array(values, dtype=np.int64)[codes]
    for row in np.flatnonzero((ids < 0) | (ids >= len(labels))).tolist():
        bad.add(
            f"{table.place(row)}: {column} {ids[row]} is outside 0..{len(labels) - 1} "
            f"(the checkpoint's labels: {few_of(labels)})"
        )
    bad.check()
    return ids


def made_of(
    values: Sequence[Any], rows: Sequence[int], make: Callable[[int, Any], Made]
) -> Sequence[Made]:
    """Return what `make` makes of each row and its cell, again and again where cells are stored."""
    if are_stored(values):
        return MadeByRow((values,), np.asarray(rows, dtype=np.int64), make)
    return tuple(make(row, values[row]) for row in rows)


def _image(value: Any, table: Table, row: int) -> StoredImage | NDArray[np.uint8]:
    """Return an image that is decoded when it is read.

    Those that come decoded are uint8 of shape `(height, width)` or `(height, width, 3)`.
    """
    if isinstance(value, list):  # rows of pixels, as parquet stores arrays
        try:
            value = np.array(value)
        except ValueError as error:
            raise RecipeError(
                f"{table.place(row)}: the lists are no image ({error}); give rows of pixels that "
                f"are equally long"
            ) from error
    if isinstance(value, np.ndarray):
        try:
            return checked_pixels(value)
        except ValueError as error:
            raise RecipeError(f"{table.place(row)}: {error}") from error
    return StoredImage(_stored(value, table, row, "image"), table.place(row))


def _sound(value: Any, table: Table, row: int) -> StoredSound:
    """Return the sound of a WAV file, by its path or its bytes."""
    return StoredSound(_stored(value, table, row, "sound"), table.place(row))


def _stored(value: Any, table: Table, row: int, what: str) -> Path | bytes:
    """Return the path or the bytes of an image or a sound that a cell holds.

    Raises `RecipeError` for a cell that holds neither; `what` names what is missing then.
    """
    if isinstance(value, dict):  # how datasets stores both in parquet
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes):
        return value
    if isinstance(value, str) and _ADDRESS.match(value):
        raise RecipeError(
            f"{table.place(row)}: the {what} is an address, {show(value)}, and nothing is fetched "
            f"from there; download it, and give its path"
        )
    if isinstance(value, str) and value:
        return (table.directory or Path()) / value
    raise RecipeError(
        f"{table.place(row)}: the {what} is missing, got {show(value)}; give its path or bytes, or "
        f"remove the row"
    )
