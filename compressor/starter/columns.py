"""Guesses which columns of a data file hold the input and the label, or says what it cannot tell.

A guess needs a reason that would convince a person: the only column whose values are the
checkpoint's labels, the only one with sentences in it, or a name that data sets use for it. Two
columns that could be meant are an error, never a choice. For each kind of rows there is one rule.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from compressor.errors import RecipeError
from compressor.setting_errors import names_shown, show
from compressor.starter.column_values import (
    Columns,
    are_compound,
    are_flags,
    are_lists,
    columns_of_labels,
    ending_not_read,
    in_lists,
    is_absent,
    is_file,
    is_grade,
    is_text,
    spelling,
)
from compressor.tasks.columns import RowKind
from compressor.words import counted, few_of

_LABEL_NAMES = ("label", "labels", "target", "class", "category", "sentiment", "intent", "y")
_TEXT_NAMES = ("text", "sentence", "content", "review", "tweet", "comment", "document", "utterance")
_WORD_NAMES = ("text", "tokens", "words")
_TAG_NAMES = ("label", "labels", "tags", "ner_tags", "pos_tags", "ner", "pos", "entities")
_FILE_NAMES = (
    "image", "img", "picture", "audio", "sound", "file", "file_name", "filename", "path",
    "image_path",
)  # fmt: skip
_PAIRS = (
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("question", "answer"),
    ("query", "passage"),
    ("query", "document"),
    ("query", "positive"),
    ("anchor", "positive"),
    ("text1", "text2"),
    ("text_a", "text_b"),
)
# Of which the second text is what the first one looks for.
_SEARCHED = frozenset(
    (
        ("question", "answer"),
        ("query", "passage"),
        ("query", "document"),
        ("query", "positive"),
        ("anchor", "positive"),
    )
)
_QUERY_TEXTS = frozenset(first for first, _ in _SEARCHED)
_NEGATIVE = "negative"  # how columns of texts begin that are not relevant
_QUESTIONS = ("question", "context")
_ANSWERS = ("answers", "answer")
_GRADE_NAMES = (
    "score", "label", "grade", "similarity", "similarity_score", "relatedness", "relatedness_score",
)  # fmt: skip
_RELEVANCE_NAMES = ("relevance", "relevant", "rating", "target", "y")
_QUERY_IDS = (
    "query_id",
    "query-id",
    "qid",
    "queryid",
    "question_id",
    "topic_id",
    "group",
    "group_id",
)


@dataclass(frozen=True)
class Guess:
    """The columns that a recipe should name; `label` is None when every column is input.

    `label_names` are the data's names in the checkpoint's order, None where they are its own or
    class ids.
    """

    inputs: tuple[str, ...]
    label: str | tuple[str, ...] | None  # several: one for each label that can hold
    label_names: tuple[str, ...] | None = None
    group: str | None = None  # the same in all rows of one query
    searches: bool = False  # the first text looks for the second


@dataclass(frozen=True)
class Asked:
    """What the user said of the columns, and the checkpoint's labels in the order of its logits."""

    labels: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    label: str | None = None
    label_names: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Rows:
    """The columns of the file `name`, and what the user said of them."""

    name: str
    columns: Columns
    asked: Asked

    @property
    def place(self) -> str:
        """Return the file and its columns, for errors."""
        return f"{self.name} ({self.listing})"

    @property
    def listing(self) -> str:
        """Return the names of the columns, for errors."""
        return f"columns: {names_shown(list(self.columns))}"

    def text(self, *, but: Collection[str | None]) -> tuple[str, ...]:
        """Return the column of the text, or the two of a pair, none of which is in `but`.

        Raises `RecipeError` where they cannot be told, and for more than two that are given.
        """
        given = self.asked.inputs
        if len(given) > 2:
            raise RecipeError(f"--text: one column, or two for pairs of texts, got {len(given)}")
        return given or _text(self.place, self.without(but))

    def without(self, names: Collection[str | None]) -> Columns:
        """Return the other columns."""
        return {key: values for key, values in self.columns.items() if key not in names}


def guess(kind: RowKind, name: str, columns: Columns, asked: Asked) -> Guess:
    """Return which columns of rows of some kind a recipe should name.

    `name` is the file, for errors. Raises `RecipeError` that lists the columns and the flag to give
    when a column does not exist or cannot be told.
    """
    rows = _Rows(name, columns, asked)
    given = [(item, "--text") for item in asked.inputs]
    given += [(asked.label, "--label")] if asked.label else []
    for column, flag in given:
        if column not in columns:
            raise RecipeError(f"{flag}: {name} has no column '{column}' ({rows.listing})")
    return _RULES[kind](rows)


def _texts_and_classes(rows: _Rows) -> Guess:
    label, names = _label(rows)
    return _with_label(rows, rows.text(but=(label,)), label, names)


def _files_and_classes(rows: _Rows) -> Guess:
    given = rows.asked.inputs
    if len(given) > 1:
        raise RecipeError(f"--text: one column of images or sounds, got {len(given)}")
    label, names = _label(rows)
    return _with_label(rows, given or _file(rows.place, rows.without((label,))), label, names)


def _with_label(
    rows: _Rows, chosen: tuple[str, ...], label: str | None, names: tuple[str, ...] | None
) -> Guess:
    """Return the guess; raises `RecipeError` for columns left that might have been a label."""
    labels = rows.asked.labels
    if label is None and not rows.asked.inputs and set(rows.columns) != set(chosen):
        raise RecipeError(
            f"{rows.name}: no column holds the checkpoint's labels ({few_of(labels)}) or ids "
            f"0..{len(labels) - 1} ({rows.listing}); give --label COLUMN, with "
            f"--label-names where the data calls its classes otherwise"
        )
    return Guess(chosen, label, names)


def _texts_and_label_sets(rows: _Rows) -> Guess:
    """Find lists of labels, or columns of 0 and 1 with the labels' names, in any spelling."""
    columns, labels, inputs = rows.columns, rows.asked.labels, rows.asked.inputs
    label, label_names = rows.asked.label, rows.asked.label_names
    lists = [column for column, values in columns.items() if are_lists(values)]
    unread = [column for column in lists if column not in inputs]
    chosen = label or _one_of(rows.place, unread, _LABEL_NAMES, "the labels", "--label")
    flags = columns_of_labels(columns, label_names or labels) if chosen is None else ()
    if chosen is None and len(labels) == 1:  # a 0 or 1 can be of no other label
        alone = [key for key, values in columns.items() if key not in inputs and are_flags(values)]
        chosen = _one_of(rows.place, flags or alone, _LABEL_NAMES, "the label", "--label")
        flags = ()
    texts = rows.text(but=(chosen, *flags))
    if flags:
        own = label_names or labels
        return Guess(texts, flags, None if flags == own == labels else flags)
    if chosen is None and not inputs and set(columns) != set(texts):
        raise RecipeError(
            f"{rows.place}: no column holds lists of labels, and there is not one for each of "
            f"{few_of(labels)} with 0 or 1, which a checkpoint of several labels is judged by; "
            f"give --label COLUMN, from JSON lines or parquet, or --label-names, the names of the "
            f"columns in the checkpoint's order"
        )
    return Guess(texts, chosen, label_names or None)


def _texts_to_embed(rows: _Rows) -> Guess:
    """Find texts and, of pairs, the grade of their similarity, or what the first one looks for."""
    columns, label = rows.columns, rows.asked.label
    chosen = rows.text(but=(label,))
    searches = tuple(column.lower() for column in chosen) in _SEARCHED
    relevance = [
        column
        for column in columns
        if column.lower() in _RELEVANCE_NAMES[:2] and column not in chosen
    ]
    if searches and label is None and len(relevance) == 1 and is_grade(columns[relevance[0]]):
        return Guess(chosen, relevance[0], searches=True)
    if label is not None:
        if searches and label in relevance:
            return Guess(chosen, label, searches=True)
        if len(chosen) == 1 or not is_grade(columns[label]):
            raise RecipeError(
                f"--label: of sentence embeddings it is the grade of a pair of texts, a number; "
                f"'{label}' of {rows.name} with the text in {' and '.join(chosen)} is none; leave "
                f"it out"
            )
        return Guess(chosen, label)
    named = [column for column in columns if column.lower() in _GRADE_NAMES]
    grades = [item for item in named if item not in chosen and is_grade(columns[item])]
    if len(chosen) == 1 or not grades:
        return Guess(chosen, None, searches=searches)
    if len(grades) > 1:
        raise RecipeError(
            f"{rows.place}: {' and '.join(grades)} could each be the grade of the pairs; give "
            f"--label COLUMN"
        )
    return Guess(chosen, grades[0])


def _unlabelled_files(rows: _Rows) -> Guess:
    given = rows.asked.inputs
    if rows.asked.label is not None:
        raise RecipeError(
            "--label: vectors of images and sounds are judged without labels; leave it out"
        )
    if len(given) > 1:
        raise RecipeError(f"--text: one column of images or sounds, got {len(given)}")
    return Guess(given or _file(rows.place, rows.columns), None)


def _single_texts(rows: _Rows) -> Guess:
    if rows.asked.label is not None:
        raise RecipeError("--label: a text says itself which words were hidden; leave it out")
    chosen = rows.asked.inputs or _text(rows.place, rows.columns)
    if len(chosen) > 1:
        raise RecipeError(
            f"--text: the checkpoint reads single texts, got {' and '.join(chosen)}; give one"
        )
    return Guess(chosen, None)


def _words_and_tags(rows: _Rows) -> Guess:
    """Find lists of words and of their tags; whether tags are right is looked at by a run alone."""
    place, columns = rows.place, rows.columns
    labels, label_names = rows.asked.labels, rows.asked.label_names
    inputs, label = rows.asked.inputs, rows.asked.label
    if len(inputs) > 1:
        raise RecipeError(f"--text: a document is one list of words, got {len(inputs)} columns")
    lists = {column: found for column, values in columns.items() if (found := in_lists(values))}
    known = set(label_names or labels)
    tagged = [
        column
        for column, found in lists.items()
        if column not in inputs
        and (found <= known or (label_names and all(isinstance(item, int) for item in found)))
    ]
    chosen = label or _one_of(place, tagged, _TAG_NAMES, "the tags", "--label")
    words = [
        column
        for column, found in lists.items()
        if column != chosen and all(isinstance(item, str) for item in found)
    ]
    if chosen is not None:
        words = [column for column in words if lists[column] != lists.get(chosen)]
    text = inputs[0] if inputs else _one_of(place, words, _WORD_NAMES, "the words", "--text")
    if text is None:
        raise RecipeError(
            f"{place}: no column holds lists of words, with a list of tags beside it; write texts "
            f"so, one tag for each word, as JSON lines, parquet or a CoNLL file"
        )
    if chosen is None and not inputs and len(lists) > 1:
        raise RecipeError(
            f"{place}: no column holds lists of the checkpoint's tags ({few_of(labels)}); give "
            f"--label COLUMN, with --label-names where its class ids have no names"
        )
    return Guess((text,), chosen, label_names or None)


def _questions_and_answers(rows: _Rows) -> Guess:
    """Find questions, their contexts and the answers; those are looked at by a run alone."""
    inputs = rows.asked.inputs
    if len(inputs) not in (0, 2):
        raise RecipeError(
            f"--text: two columns, the question and then its context, got {len(inputs)}"
        )
    lowered = {column.lower(): column for column in rows.columns}
    absent = [word for word in _QUESTIONS if word not in lowered]
    if absent and not inputs:
        raise RecipeError(
            f"{rows.place}: no column is called {' or '.join(absent)}; give --text QUESTION --text "
            f"CONTEXT"
        )
    chosen = inputs or tuple(lowered[word] for word in _QUESTIONS)
    label = rows.asked.label or next((lowered[word] for word in _ANSWERS if word in lowered), None)
    others = [column for column in rows.columns if column.lower().startswith("answer")]
    if label is None and others and not inputs:
        raise RecipeError(
            f"{rows.place}: {', '.join(others)} look like answers, and answers are one column of "
            f"{{text: [...], answer_start: [...]}}, as SQuAD has it; write them so, in JSON lines "
            f"or parquet, or give --text QUESTION --text CONTEXT to be judged without answers"
        )
    return Guess(chosen, label)


def _texts_to_score(rows: _Rows) -> Guess:
    """Find texts, the number that is right, and the id of the query."""
    columns, label = rows.columns, rows.asked.label
    if not rows.asked.inputs:
        _require_rows_of_pairs(rows.place, columns)
    chosen = rows.text(but=(label,))
    if label is not None and not is_grade(columns[label]):
        raise RecipeError(
            f"--label: the label of a score is a number, the higher the better, and '{label}' of "
            f"{rows.name} holds something else, or one number in every row; leave it out"
        )
    rest = [column for column in columns if column not in chosen]
    ids = [column for column in rest if column.lower() in _QUERY_IDS]
    group = ids[0] if len(ids) == 1 else None
    if label is not None:
        return Guess(chosen, label, group=group)
    named = [column for column in rest if column.lower() in (*_GRADE_NAMES, *_RELEVANCE_NAMES)]
    numbers = [column for column in named if is_grade(columns[column])]
    if len(numbers) > 1:
        raise RecipeError(
            f"{rows.place}: {' and '.join(numbers)} could each be the number that is right; give "
            f"--label COLUMN"
        )
    return Guess(chosen, numbers[0] if numbers else None, group=group)


def _require_rows_of_pairs(place: str, columns: Columns) -> None:
    """Raise `RecipeError` where a row holds several candidates of its query."""
    lowered = {column.lower(): column for column in columns}
    queries = [lowered[first] for first, _ in _PAIRS if first in lowered and first in _QUERY_TEXTS]
    several = [column for column in columns if column.lower().startswith(_NEGATIVE)]
    are_pairs = any(
        first in lowered and second in lowered and is_text(columns[lowered[second]])
        for first, second in _SEARCHED
    )
    if not are_pairs:
        several += [column for column, values in columns.items() if are_compound(values)]
    if queries and several:
        raise RecipeError(
            f"{place}: a row holds several candidates of {queries[0]} ({few_of(several)}); write a "
            f"row for each pair of query and candidate, with a number that says how relevant it is "
            f"(1 and 0 will do), or give --text twice, for the two columns that are to be read"
        )


_RULES: Mapping[RowKind, Callable[[_Rows], Guess]] = {
    "classes": _texts_and_classes,
    "images": _files_and_classes,
    "sounds": _files_and_classes,
    "unlabelled images": _unlabelled_files,
    "unlabelled sounds": _unlabelled_files,
    "label sets": _texts_and_label_sets,
    "words": _words_and_tags,
    "sentences": _texts_to_embed,
    "scores": _texts_to_score,
    "answers": _questions_and_answers,
    "texts": _single_texts,
}


def _one_of(
    place: str, candidates: Sequence[str], names: Sequence[str], what: str, flag: str
) -> str | None:
    """Return the only candidate, or the only one with a usual name; None where there is none."""
    for name in names:
        if name in candidates:
            return name
    if len(candidates) > 1:
        raise RecipeError(
            f"{place}: {' and '.join(candidates)} could each be {what}; give {flag} COLUMN"
        )
    return candidates[0] if candidates else None


def _label(rows: _Rows) -> tuple[str | None, tuple[str, ...] | None]:
    """Return the label column, and the data's names of the labels where they are others."""
    columns, asked = rows.columns, rows.asked
    if asked.label is not None:
        return asked.label, _names(rows, asked.label)
    candidates = {
        column: own
        for column, values in columns.items()
        if column not in asked.inputs
        and (own := spelling(values, asked.labels, asked.label_names)) is not None
    }
    known = [column for column in columns if column.lower() in _LABEL_NAMES]
    chosen = [column for column in candidates if column in known] or list(candidates)
    if len(chosen) == 1:
        return chosen[0], candidates[chosen[0]] or None
    if not chosen and len(known) == 1:
        _names(rows, known[0])  # says what is wrong with it
    if chosen:
        raise RecipeError(
            f"{rows.name}: {' and '.join(chosen)} could each be the label ({rows.listing}); give "
            f"--label COLUMN"
        )
    return None, None


def _names(rows: _Rows, column: str) -> tuple[str, ...] | None:
    """Return the data's names of the labels in a column; None where they are the checkpoint's."""
    values, labels = rows.columns[column], rows.asked.labels
    own = spelling(values, labels, rows.asked.label_names)
    if own is None:
        absent = [place for place, value in enumerate(values) if is_absent(value)]
        others = [value for value in values if not is_absent(value)]
        if absent and others and spelling(others, labels, rows.asked.label_names) is not None:
            raise RecipeError(
                f"{rows.name}: column '{column}' holds no label in "
                f"{counted(len(absent), 'row')}, the first of them the {absent[0] + 1:,}. "
                f"({show(values[absent[0]])}); remove these rows"
            )
        found = sorted({str(value) for value in values})
        raise RecipeError(
            f"{rows.name}: column '{column}' holds {few_of(found)}, the checkpoint's labels are "
            f"{few_of(labels)}; give --label-names with the data's names in that order, separated "
            f"by commas, or another --label"
        )
    return own or None


def _text(place: str, columns: Columns) -> tuple[str, ...]:
    texts = [column for column, values in columns.items() if is_text(values)]
    lowered = {column.lower(): column for column in columns}
    for first, second in _PAIRS:
        if first in lowered and second in lowered:
            pair = lowered[first], lowered[second]
            others = [
                column
                for column in texts
                if column not in pair and not column.lower().startswith(_NEGATIVE)
            ]
            if not others:
                return pair
    known = [column for column in columns if column.lower() in _TEXT_NAMES]
    chosen = texts if len(texts) == 1 else [item for item in known if item in texts or not texts]
    if len(chosen) == 1:
        return (chosen[0],)
    problem = "no column looks like text"
    if len(texts) > 1:
        problem = f"{' and '.join(texts)} could each be the text"
    raise RecipeError(f"{place}: {problem}; give --text COLUMN, twice for pairs of texts")


def _file(place: str, columns: Columns) -> tuple[str, ...]:
    """Return the column of images or sounds: paths, bytes or arrays."""
    files = [column for column, values in columns.items() if is_file(values)]
    known = [column for column in files if column.lower() in _FILE_NAMES]
    chosen = files if len(files) == 1 else known
    if len(chosen) == 1:
        return (chosen[0],)
    problem = "no column of images or sounds"
    for column, values in columns.items():
        if (ending := ending_not_read(values)) is not None:
            raise RecipeError(
                f"{place}: {column} names .{ending} files, which are not read; convert sounds to "
                f"WAV, for instance with ffmpeg -i IN OUT.wav, and images to PNG or JPEG"
            )
    if files:
        problem = f"{' and '.join(files)} could each be the image or sound"
    raise RecipeError(f"{place}: {problem}; give --text COLUMN for it")
