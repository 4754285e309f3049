"""Guesses which columns of a data file hold the input and the label, or says what it cannot tell.

A guess needs a reason that would convince a person: the only column whose values are the
checkpoint's labels, the only one with sentences in it, or a name that data sets use for it. Two
columns that could be meant are an error, never a choice.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from compressor.errors import RecipeError
from compressor.setting_errors import names_shown, show
from compressor.tasks.columns import RowKind
from compressor.tasks.label_columns import flag_of
from compressor.words import counted, few_of

Columns = Mapping[str, Sequence[Any]]

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
_FILE = re.compile(r".*\.(?:png|jpe?g|bmp|gif|webp|tiff?|wav)", re.IGNORECASE)
_FILES = ("images", "sounds")  # kinds of rows whose inputs are files
_LETTERS = re.compile(r"[\W_]+")  # what stands between letters and digits
_INTEGER = re.compile(r"[-+]?[0-9]{1,18}")
_SAMPLE = 500  # rows that are looked at to tell texts from other columns
_WORDS_OF_A_TEXT = 2.0  # on average; names and ids have fewer


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


def guess(kind: RowKind, name: str, columns: Columns, asked: Asked) -> Guess:
    """Return which columns of rows of some kind a recipe should name.

    `name` is the file, for errors. Raises `RecipeError` that lists the columns and the flag to give
    when a column does not exist or cannot be told.
    """
    given: dict[str, Any] = {"inputs": asked.inputs, "label": asked.label}
    if kind in ("classes", "images", "sounds"):
        return guess_columns(
            name,
            columns,
            asked.labels,
            is_file=kind in _FILES,
            label_names=asked.label_names,
            **given,
        )
    if kind == "words":
        return guess_words(name, columns, asked.labels, label_names=asked.label_names, **given)
    if kind == "label sets":
        return guess_label_sets(
            name, columns, labels=asked.labels, label_names=asked.label_names, **given
        )
    others = {
        "sentences": guess_sentences,
        "scores": guess_scores,
        "answers": guess_questions,
        "unlabelled images": guess_unlabelled_images,
        "texts": guess_texts,
    }
    return others[kind](name, columns, **given)


def guess_label_sets(
    name: str,
    columns: Columns,
    *,
    labels: Sequence[str] = (),
    inputs: Sequence[str] = (),
    label: str | None = None,
    label_names: Sequence[str] = (),
) -> Guess:
    """Return which columns hold the texts and the lists of their labels, or 0 and 1 for each label.

    A column is of a label where it has its name, in any spelling. Errors as `guess`.
    """
    _check_given(name, columns, inputs, label)
    place = f"{name} ({_listing(columns)})"
    lists = [column for column, values in columns.items() if _are_lists(values)]
    chosen = label or _one_of(
        place, [column for column in lists if column not in inputs], _LABEL_NAMES, "the labels",
        "--label",
    )  # fmt: skip
    flags = _columns_of_labels(columns, label_names or labels) if chosen is None else ()
    rest = {
        column: values
        for column, values in columns.items()
        if column != chosen and column not in flags
    }
    texts = tuple(inputs) or _text(place, rest)
    if len(texts) > 2:
        raise RecipeError(f"--text: one column, or two for pairs of texts, got {len(texts)}")
    if flags:
        own = tuple(label_names) or tuple(labels)
        return Guess(texts, flags, None if flags == own == tuple(labels) else flags)
    if chosen is None and not inputs and set(columns) != set(texts):
        raise RecipeError(
            f"{place}: no column holds lists of labels, and there is not one for each of "
            f"{few_of(labels)} with 0 or 1, which a checkpoint of several labels is judged by; "
            f"give --label COLUMN, from JSON lines or parquet, or --label-names, the names of the "
            f"columns in the checkpoint's order"
        )
    return Guess(texts, chosen, tuple(label_names) or None)


def _columns_of_labels(columns: Columns, names: Sequence[str]) -> tuple[str, ...]:
    """Return the column of each name, where every one is there and holds 0 or 1 alone."""
    spelled = {_LETTERS.sub("", column.casefold()): column for column in columns}
    found = [
        name if name in columns else spelled.get(_LETTERS.sub("", name.casefold()), "")
        for name in names
    ]
    is_each = len(set(found)) == len(found) and all(found)
    if not is_each or any(flag_of(value) is None for name in found for value in columns[name]):
        return ()
    return tuple(found)


def _are_lists(values: Sequence[Any]) -> bool:
    return bool(values) and all(isinstance(value, list | tuple | np.ndarray) for value in values)


def guess_columns(
    name: str,
    columns: Columns,
    labels: Sequence[str],
    *,
    is_file: bool = False,
    inputs: Sequence[str] = (),
    label: str | None = None,
    label_names: Sequence[str] = (),
) -> Guess:
    """Return which columns hold input and label; `inputs`, `label` and `label_names` are given.

    `name` is the file, for errors; `labels` are the checkpoint's. Raises `RecipeError` that lists
    the columns and the flag to give when a column does not exist or cannot be told.
    """
    _check_given(name, columns, inputs, label)
    if len(inputs) > (1 if is_file else 2):
        raise RecipeError(f"--text: one column, or two for pairs of texts, got {len(inputs)}")
    found = _label(name, columns, labels, label, tuple(label_names), inputs)
    rest = {key: values for key, values in columns.items() if key != found.label}
    place = f"{name} ({_listing(columns)})"
    chosen = tuple(inputs) or (_file(place, rest) if is_file else _text(place, rest))
    if found.label is None and not inputs and set(columns) != set(chosen):
        raise RecipeError(
            f"{name}: no column holds the checkpoint's labels ({few_of(labels)}) or ids "
            f"0..{len(labels) - 1} ({_listing(columns)}); give --label COLUMN, with "
            f"--label-names where the data calls its classes otherwise"
        )
    return Guess(chosen, found.label, found.label_names)


def guess_sentences(
    name: str, columns: Columns, *, inputs: Sequence[str] = (), label: str | None = None
) -> Guess:
    """Return which columns hold the texts to embed and, of pairs, the grade of their similarity.

    `inputs` and `label` are given. Without a column of grades `label` is None. Raises `RecipeError`
    as `guess_columns` does.
    """
    _check_given(name, columns, inputs, label)
    place = f"{name} ({_listing(columns)})"
    chosen = tuple(inputs) or _text(place, {k: v for k, v in columns.items() if k != label})
    if len(chosen) > 2:
        raise RecipeError(f"--text: one column, or two for pairs of texts, got {len(chosen)}")
    searches = tuple(column.lower() for column in chosen) in _SEARCHED
    relevance = [
        column
        for column in columns
        if column.lower() in _RELEVANCE_NAMES[:2] and column not in chosen
    ]
    if searches and label is None and len(relevance) == 1 and _is_grade(columns[relevance[0]]):
        return Guess(chosen, relevance[0], searches=True)
    if label is not None:
        if searches and label in relevance:
            return Guess(chosen, label, searches=True)
        if len(chosen) == 1 or not _is_grade(columns[label]):
            raise RecipeError(
                f"--label: of sentence embeddings it is the grade of a pair of texts, a number; "
                f"'{label}' of {name} with the text in {' and '.join(chosen)} is none; leave it out"
            )
        return Guess(chosen, label)
    named = [column for column in columns if column.lower() in _GRADE_NAMES]
    grades = [item for item in named if item not in chosen and _is_grade(columns[item])]
    if len(chosen) == 1 or not grades:
        return Guess(chosen, None, searches=searches)
    if len(grades) > 1:
        raise RecipeError(
            f"{place}: {' and '.join(grades)} could each be the grade of the pairs; give --label "
            f"COLUMN"
        )
    return Guess(chosen, grades[0])


def guess_unlabelled_images(
    name: str, columns: Columns, *, inputs: Sequence[str] = (), label: str | None = None
) -> Guess:
    """Return which column holds the images; errors as `guess`, and for a label, as none is read."""
    _check_given(name, columns, inputs, label)
    if label is not None:
        raise RecipeError("--label: vectors of images are judged without labels; leave it out")
    if len(inputs) > 1:
        raise RecipeError(f"--text: one column of images, got {len(inputs)}")
    return Guess(tuple(inputs) or _file(f"{name} ({_listing(columns)})", columns), None)


def guess_texts(
    name: str, columns: Columns, *, inputs: Sequence[str] = (), label: str | None = None
) -> Guess:
    """Return which column holds single texts; errors as `guess`, and for a label."""
    _check_given(name, columns, inputs, label)
    if label is not None:
        raise RecipeError("--label: a text says itself which words were hidden; leave it out")
    chosen = tuple(inputs) or _text(f"{name} ({_listing(columns)})", columns)
    if len(chosen) > 1:
        raise RecipeError(
            f"--text: the checkpoint reads single texts, got {' and '.join(chosen)}; give one"
        )
    return Guess(chosen, None)


def guess_words(
    name: str,
    columns: Columns,
    labels: Sequence[str],
    *,
    inputs: Sequence[str] = (),
    label: str | None = None,
    label_names: Sequence[str] = (),
) -> Guess:
    """Return which columns hold the lists of words and of their tags.

    Arguments and errors are those of `guess_columns`; tags are looked at by a run alone.
    """
    _check_given(name, columns, inputs, label)
    if len(inputs) > 1:
        raise RecipeError(f"--text: a document is one list of words, got {len(inputs)} columns")
    lists = {column: found for column, values in columns.items() if (found := _in_lists(values))}
    place = f"{name} ({_listing(columns)})"
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
    return Guess((text,), chosen, tuple(label_names) or None)


def guess_questions(
    name: str, columns: Columns, *, inputs: Sequence[str] = (), label: str | None = None
) -> Guess:
    """Return which columns hold questions, their contexts and the answers.

    `inputs` and `label` are given. Without a column of answers `label` is None. Errors as `guess`;
    answers are looked at by a run alone.
    """
    _check_given(name, columns, inputs, label)
    place = f"{name} ({_listing(columns)})"
    if len(inputs) not in (0, 2):
        raise RecipeError(
            f"--text: two columns, the question and then its context, got {len(inputs)}"
        )
    lowered = {column.lower(): column for column in columns}
    chosen = tuple(inputs)
    if not chosen:
        absent = [word for word in _QUESTIONS if word not in lowered]
        if absent:
            raise RecipeError(
                f"{place}: no column is called {' or '.join(absent)}; give --text QUESTION --text "
                f"CONTEXT"
            )
        chosen = tuple(lowered[word] for word in _QUESTIONS)
    named = next((lowered[word] for word in _ANSWERS if word in lowered), None)
    return Guess(chosen, label or named)


def _in_lists(values: Sequence[Any]) -> set[Any]:
    """Return what stands in the lists of a column; empty where a cell is no list of plain values.

    Names that the data gives are looked at everywhere, as one stranger makes a column no tags.
    """
    found: set[Any] = set()
    for value in values:
        if not isinstance(value, list):
            return set()
        if not all(isinstance(item, str | int) for item in value):
            return set()
        found.update(value)
    return found


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


def guess_scores(
    name: str, columns: Columns, *, inputs: Sequence[str] = (), label: str | None = None
) -> Guess:
    """Return which columns hold the texts to score, the number that is right and the query's id.

    `inputs` and `label` are given. Without a column of numbers `label` is None, without one of ids
    `group`. Raises `RecipeError` as `guess_columns` does.
    """
    _check_given(name, columns, inputs, label)
    place = f"{name} ({_listing(columns)})"
    if not inputs:
        _require_rows_of_pairs(place, columns)
    chosen = tuple(inputs) or _text(place, {k: v for k, v in columns.items() if k != label})
    if len(chosen) > 2:
        raise RecipeError(f"--text: one column, or two for pairs of texts, got {len(chosen)}")
    if label is not None and not _is_grade(columns[label]):
        raise RecipeError(
            f"--label: the label of a score is a number, the higher the better, and '{label}' of "
            f"{name} holds something else, or one number in every row; leave it out"
        )
    rest = [column for column in columns if column not in chosen]
    ids = [column for column in rest if column.lower() in _QUERY_IDS]
    group = ids[0] if len(ids) == 1 else None
    if label is not None:
        return Guess(chosen, label, group=group)
    named = [column for column in rest if column.lower() in (*_GRADE_NAMES, *_RELEVANCE_NAMES)]
    numbers = [column for column in named if _is_grade(columns[column])]
    if len(numbers) > 1:
        raise RecipeError(
            f"{place}: {' and '.join(numbers)} could each be the number that is right; give "
            f"--label COLUMN"
        )
    return Guess(chosen, numbers[0] if numbers else None, group=group)


def _require_rows_of_pairs(place: str, columns: Columns) -> None:
    """Raise `RecipeError` where a row holds several candidates of its query."""
    lowered = {column.lower(): column for column in columns}
    queries = [lowered[first] for first, _ in _PAIRS if first in lowered and first in _QUERY_TEXTS]
    several = [column for column in columns if column.lower().startswith(_NEGATIVE)]
    are_pairs = any(
        first in lowered and second in lowered and _is_text(columns[lowered[second]])
        for first, second in _SEARCHED
    )
    if not are_pairs:
        several += [column for column, values in columns.items() if _are_compound(values)]
    if queries and several:
        raise RecipeError(
            f"{place}: a row holds several candidates of {queries[0]} ({few_of(several)}); write a "
            f"row for each pair of query and candidate, with a number that says how relevant it is "
            f"(1 and 0 will do), or give --text twice, for the two columns that are to be read"
        )


def _are_compound(values: Sequence[Any]) -> bool:
    return any(isinstance(value, list | tuple | dict | np.ndarray) for value in values[:_SAMPLE])


def _is_grade(values: Sequence[Any]) -> bool:
    """Return whether a column holds finite numbers, as such or as text, that are not all equal."""
    try:
        numbers = np.array([float(value) for value in values])
    except (TypeError, ValueError):
        return False
    return bool(np.isfinite(numbers).all() and np.ptp(numbers) > 0)


def _check_given(name: str, columns: Columns, inputs: Sequence[str], label: str | None) -> None:
    flags = [(item, "--text") for item in inputs] + ([(label, "--label")] if label else [])
    for column, flag in flags:
        if column not in columns:
            raise RecipeError(f"{flag}: {name} has no column '{column}' ({_listing(columns)})")


def _label(
    name: str,
    columns: Columns,
    labels: Sequence[str],
    given: str | None,
    names: tuple[str, ...],
    inputs: Sequence[str],
) -> Guess:
    """Return the label column and its names, with empty inputs."""
    if given is not None:
        return Guess((), given, _names(name, given, columns[given], labels, names))
    candidates = {
        column: own
        for column, values in columns.items()
        if column not in inputs and (own := _spelling(values, labels, names)) is not None
    }
    known = [column for column in columns if column.lower() in _LABEL_NAMES]
    chosen = [column for column in candidates if column in known] or list(candidates)
    if len(chosen) == 1:
        return Guess((), chosen[0], candidates[chosen[0]] or None)
    if not chosen and len(known) == 1:
        _names(name, known[0], columns[known[0]], labels, names)  # says what is wrong with it
    if chosen:
        raise RecipeError(
            f"{name}: {' and '.join(chosen)} could each be the label ({_listing(columns)}); give "
            f"--label COLUMN"
        )
    return Guess((), None)


def _names(
    name: str, column: str, values: Sequence[Any], labels: Sequence[str], names: tuple[str, ...]
) -> tuple[str, ...] | None:
    spelling = _spelling(values, labels, names)
    if spelling is None:
        absent = [place for place, value in enumerate(values) if _is_absent(value)]
        others = [value for value in values if not _is_absent(value)]
        if absent and others and _spelling(others, labels, names) is not None:
            raise RecipeError(
                f"{name}: column '{column}' holds no label in {counted(len(absent), 'row')}, the "
                f"first of them the {absent[0] + 1:,}. ({show(values[absent[0]])}); remove these "
                f"rows"
            )
        found = sorted({str(value) for value in values})
        raise RecipeError(
            f"{name}: column '{column}' holds {few_of(found)}, the checkpoint's labels are "
            f"{few_of(labels)}; give --label-names with the data's names in that order, separated "
            f"by commas, or another --label"
        )
    return spelling or None


def _is_absent(value: Any) -> bool:
    """Return whether a cell says that nobody knows the label, as -1 does in SNLI."""
    return value is None or value in ("", "-", "-1") or value == -1 or value != value


def _spelling(
    values: Sequence[Any], labels: Sequence[str], names: tuple[str, ...]
) -> tuple[str, ...] | None:
    """Return the data's names in the checkpoint's order; empty for the checkpoint's own or ids.

    None when the values are not the labels.
    """
    found = set(map(_plain, values))
    if not found or None in found:
        return None
    if names:
        spelled = {str(value) for value in found}  # numbers are named as text
        return names if spelled <= set(names) and len(names) == len(labels) else None
    texts = {str(value) for value in found}
    if texts <= set(labels):
        return ()
    if all(_INTEGER.fullmatch(text) and 0 <= int(text) < len(labels) for text in texts):
        return ()
    folded = {text.strip().casefold(): text for text in texts}
    own = {label.casefold() for label in labels}
    if len(folded) == len(texts) and len(own) == len(labels) and set(folded) <= own:
        return tuple(folded.get(label.casefold(), label) for label in labels)
    return None


def _plain(value: Any) -> str | int | None:
    """Return a label as text or number, None for anything that cannot be one."""
    if isinstance(value, bool) or not isinstance(value, str | int | np.integer):
        return None
    return value if isinstance(value, str) else int(value)


def _text(place: str, columns: Columns) -> tuple[str, ...]:
    texts = [column for column, values in columns.items() if _is_text(values)]
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


def _is_text(values: Sequence[Any]) -> bool:
    sample = [value for value in values[:_SAMPLE] if value is not None]
    if not sample or not all(isinstance(value, str) for value in sample):
        return False
    return float(np.mean([len(value.split()) for value in sample])) >= _WORDS_OF_A_TEXT


def _file(place: str, columns: Columns) -> tuple[str, ...]:
    """Return the column of images or sounds: paths, bytes or arrays."""
    files = [column for column, values in columns.items() if _is_file(values)]
    known = [column for column in files if column.lower() in _FILE_NAMES]
    chosen = files if len(files) == 1 else known
    if len(chosen) == 1:
        return (chosen[0],)
    problem = "no column of images or sounds"
    if files:
        problem = f"{' and '.join(files)} could each be the image or sound"
    raise RecipeError(f"{place}: {problem}; give --text COLUMN for it")


def _is_file(values: Sequence[Any]) -> bool:
    first = next((value for value in values if value is not None), None)
    if isinstance(first, dict):
        return "bytes" in first or "path" in first
    if isinstance(first, str):
        return bool(_FILE.fullmatch(first))
    return isinstance(first, bytes | np.ndarray)


def _listing(columns: Columns) -> str:
    return f"columns: {names_shown(list(columns))}"
