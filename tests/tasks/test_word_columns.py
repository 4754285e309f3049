from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from compressor.errors import RecipeError
from compressor.tasks.examples import Words, texts_of
from compressor.tasks.table import Table
from compressor.tasks.word_columns import WordColumns

TAGS = ("O", "I-PER", "B-PER")
COLUMNS = WordColumns()


def table(**columns: list[Any]) -> Table:
    count = len(next(iter(columns.values())))
    return Table("dev.conll", columns, lines=list(range(2, count + 2)))


def ids(*cells: Any, names: Sequence[str] | None = None) -> list[list[int]]:
    found = COLUMNS.labels(table(tags=list(cells)), "tags", TAGS, names).labels
    assert found is not None
    assert {item.dtype for item in found} <= {np.dtype(np.int64)}
    return [item.tolist() for item in found]


def mistakes(*cells: Any, names: Sequence[str] | None = None) -> tuple[str, ...]:
    with pytest.raises(RecipeError) as caught:
        ids(*cells, names=names)
    return caught.value.mistakes


def test_a_list_of_words_is_a_document():
    found = COLUMNS.examples(table(words=[["New", "York"], ["a"]]), ["words"], [1, 0])
    assert found == (Words(("a",)), Words(("New", "York")))
    assert texts_of(found[1]) == ("New York",)


@pytest.mark.parametrize(
    ("cell", "told"),
    [
        ([], "words is an empty list"),
        (None, "words is missing"),
        (float("nan"), "words is missing"),
        ("New York", "words must be a list of words, got 'New York'; a CoNLL file"),
        (["New", None], "words must be a list of words, and word 2 is nothing (null)"),
        (["New", float("nan")], "and word 2 is nan"),
        ([7], "and word 1 is 7"),
        ([["New"]], "and word 1 is a list of 1 entry"),
        (["\ud800"], "half of a surrogate pair in word 1"),
    ],
)
def test_a_cell_that_is_no_list_of_words_is_refused_with_its_line(cell: Any, told: str):
    with pytest.raises(RecipeError) as caught:
        COLUMNS.examples(table(words=[["a"], cell]), ["words"], [0, 1])
    assert [item.startswith("dev.conll:3: ") for item in caught.value.mistakes] == [True]
    assert told in caught.value.mistakes[0]


def test_tags_are_matched_to_the_checkpoint_by_name():
    assert ids(["B-PER", "I-PER", "O"], ["O"]) == [[2, 1, 0], [0]]


def test_ids_have_the_names_that_the_data_gives_them():
    assert ids([0, 1, 2], names=("O", "B-PER", "I-PER")) == [[0, 2, 1]]
    assert ids([0, 1], ["B-PER"], names=("O", "B-PER")) == [[0, 2], [2]]


def test_other_names_stand_in_the_checkpoints_order():
    assert ids(["B-person", "x"], names=("x", "I-person", "B-person")) == [[2, 0]]
    assert ids([2, 0], names=("x", "I-person", "B-person")) == [[2, 0]]


@pytest.mark.parametrize(
    ("cell", "told"),
    [
        (["O", "B-LOC"], "tags of word 2 is 'B-LOC', which is no tag of the checkpoint"),
        (None, "tags is missing"),
        (float("nan"), "tags is missing"),
        ("O O", "tags must be a list of tags, got 'O O'"),
        ([1], "tags of word 1 is the class id 1, and nothing says which tag that is"),
        ([None], "tags of word 1 must be a tag, got nothing (null)"),
        ([True], "tags of word 1 must be a tag, got true"),
        ([1.0], "tags of word 1 must be a tag, got 1.0"),
    ],
)
def test_tags_that_are_not_the_checkpoints_are_refused_with_their_line(cell: Any, told: str):
    (mistake,) = mistakes(["O"], cell)
    assert mistake.startswith("dev.conll:3: ")
    assert told in mistake


def test_an_id_beyond_the_names_is_refused():
    assert "dev.conll:2: tags of word 1 is 2, outside 0..1" in mistakes([2], names=TAGS[:2])[0]
    assert "outside 0..2" in mistakes([-100], names=TAGS)[0]


def test_names_that_neither_are_the_checkpoints_nor_stand_for_them_are_refused():
    (mistake,) = mistakes(["O"], names=("O", "B-LOC"))
    assert "data.label_names: the checkpoint (O, I-PER, B-PER) has no B-LOC" in mistake


@pytest.mark.parametrize(
    ("own", "names", "told"),
    [
        (("LABEL_0", "LABEL_1"), ("O", "B-PER"), "which calls O LABEL_0, so that"),
        (("none", "B-PER", "I-PER"), ("O", "B-person", "I-person"), "which calls O none, so that"),
        (("O", "PER"), ("nothing", "B-PER"), "which has O, PER, so that"),
    ],
)
def test_names_that_say_more_of_entities_than_the_checkpoints_are_refused(
    own: tuple[str, ...], names: tuple[str, ...], told: str
):
    rows = table(tags=[[names[0], names[1]]])
    with pytest.raises(RecipeError) as caught:
        COLUMNS.labels(rows, "tags", own, names)
    (mistake,) = caught.value.mistakes
    assert told in mistake
    assert f'as id2label: {{"0": "{names[0]}", "1": "{names[1]}"' in mistake


def test_entities_that_begin_with_an_inside_tag_are_refused_where_most_do():
    (mistake,) = mistakes(["I-PER", "I-PER", "O", "I-PER"], ["B-PER"])
    assert "dev.conll: tags: 2 of 3 entities begin with I-, as in the scheme IOB1" in mistake
    assert ids(["B-PER", "O", "I-PER"]) == [[2, 0, 1]]


def test_tags_of_iob2_are_refused_where_the_checkpoints_are_iob1():
    rows = table(tags=[["O", "B-PER"]])
    with pytest.raises(RecipeError) as caught:
        COLUMNS.labels(rows, "tags", ("O", "I-PER", "I-LOC", "B-LOC"), None)
    (mistake,) = caught.value.mistakes
    assert "is 'B-PER', and the checkpoint's tags are those of the scheme IOB1" in mistake
    assert "write the first word of an entity as I-" in mistake


def test_documents_have_a_tag_for_each_word():
    both = table(words=[["a", "b"], ["c"], ["d"]], tags=[["O"], ["O"], ["O", "O"]])
    labels = COLUMNS.labels(both, "tags", TAGS, None).labels
    assert labels is not None
    examples = COLUMNS.examples(both, ["words"], [0, 1, 2])
    COLUMNS.require_fit(both, [1], examples[1:2], labels[1:2], "tags")
    with pytest.raises(RecipeError) as caught:
        COLUMNS.require_fit(both, [0, 1, 2], examples, labels, "tags")
    assert caught.value.mistakes == (
        "dev.conll:2: tags has 1 tag, and there are 2 words; give one tag a word",
        "dev.conll:4: tags has 2 tags, and there is 1 word; give one tag a word",
    )


def test_two_columns_of_words_are_refused():
    with pytest.raises(RecipeError, match="a and b are two columns"):
        COLUMNS.require_columns(["a", "b"], labelled=True)


def test_labels_of_an_empty_file_are_none():
    assert np.shape(COLUMNS.labels(table(tags=[]), "tags", TAGS, None).labels) == (0,)
