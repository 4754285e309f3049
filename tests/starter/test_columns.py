from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from compressor.errors import RecipeError
from compressor.starter.columns import Asked, Guess
from compressor.starter.columns import guess as guess_rows
from compressor.tasks.columns import RowKind

LABELS = ("negative", "positive")
TEXTS = ["a fine film", "two dull hours", "it was quite good"]
OTHER_TEXTS = ["why was it so", "who made this film", "is it any good"]


def guess(
    columns: dict[str, Any],
    kind: RowKind = "classes",
    *,
    labels: tuple[str, ...] = LABELS,
    name: str = "rows.csv",
    **given: Any,
) -> Guess:
    return guess_rows(kind, name, columns, Asked(labels, **given))


@pytest.mark.parametrize(
    "values", [["0", "1", "1"], [0, 1, 1], [0.0, 1.0, 1.0], ["negative", "positive", "positive"]]
)
@pytest.mark.parametrize("name", ["label", "gold", "Sentiment"])
def test_the_only_column_with_the_checkpoints_labels_is_the_label(values: list[Any], name: str):
    assert guess({"words": TEXTS, name: values}) == Guess(("words",), name)


def test_the_datas_own_spelling_of_the_labels_is_named_in_the_checkpoints_order():
    found = guess({"text": TEXTS, "label": ["Positive", "NEGATIVE", "Positive"]})
    assert found.label_names == ("NEGATIVE", "Positive")


def test_a_usual_name_decides_between_columns_that_could_be_the_label():
    columns = {"text": TEXTS, "is_long": ["0", "1", "0"], "label": ["1", "0", "1"]}
    assert guess(columns).label == "label"


def test_without_a_usual_name_two_possible_labels_are_an_error():
    columns = {"text": TEXTS, "is_long": ["0", "1", "0"], "is_new": ["1", "0", "1"]}
    with pytest.raises(RecipeError) as caught:
        guess(columns)
    assert str(caught.value) == (
        "rows.csv: is_long and is_new could each be the label (columns: text, is_long, is_new); "
        "give --label COLUMN"
    )
    assert guess(columns, label="is_new").label == "is_new"


def test_labels_the_checkpoint_does_not_know_are_an_error_that_asks_for_their_order():
    columns = {"text": TEXTS, "label": ["good", "bad", "good"]}
    with pytest.raises(RecipeError) as caught:
        guess(columns)
    assert str(caught.value) == (
        "rows.csv: column 'label' holds bad, good, the checkpoint's labels are negative, "
        "positive; give --label-names with the data's names in that order, separated by commas, "
        "or another --label"
    )
    found = guess(columns, label_names=("bad", "good"))
    assert found == Guess(("text",), "label", ("bad", "good"))


@pytest.mark.parametrize(
    "values", [["0", "1", ""], ["0", "2", "1"], [True, False, True], [0.5, 1, 0]]
)
def test_values_that_are_no_labels_are_not_taken_for_them(values: list[Any]):
    with pytest.raises(RecipeError, match="no column holds the checkpoint's labels"):
        guess({"text": TEXTS, "score": values})


def test_rows_without_any_label_are_all_input():
    assert guess({"sentence": TEXTS}) == Guess(("sentence",), None)


@pytest.mark.parametrize(
    ("first", "second"),
    [("premise", "hypothesis"), ("Sentence1", "Sentence2"), ("text_a", "text_b")],
)
def test_pairs_of_texts_are_known_by_their_names(first: str, second: str):
    found = guess({first: TEXTS, second: OTHER_TEXTS, "label": [0, 1, 0]})
    assert found == Guess((first, second), "label")


def test_a_usual_name_decides_between_two_texts():
    assert guess({"sentence": TEXTS, "note": OTHER_TEXTS, "label": [0, 1, 0]}).inputs == (
        "sentence",
    )


def test_two_texts_of_unknown_names_are_an_error():
    columns = {"left": TEXTS, "right": OTHER_TEXTS, "label": [0, 1, 0]}
    with pytest.raises(RecipeError, match="left and right could each be the text"):
        guess(columns)
    assert guess(columns, inputs=("left", "right")).inputs == ("left", "right")


def test_short_texts_are_found_by_a_usual_name():
    assert guess({"id": ["a", "b"], "text": ["good", "bad"], "label": [1, 0]}).inputs == ("text",)


def test_no_text_at_all_is_an_error_that_lists_the_columns():
    with pytest.raises(RecipeError, match=r"\(columns: n, label\): no column looks like text"):
        guess({"n": [3, 4], "label": [0, 1]})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"inputs": ("absent",)}, "--text: rows.csv has no column 'absent'"),
        ({"label": "absent"}, "--label: rows.csv has no column 'absent'"),
        ({"inputs": ("text", "text", "label")}, "--text: one column, or two"),
    ],
)
def test_a_column_that_is_named_must_be_there(given: dict[str, Any], message: str):
    with pytest.raises(RecipeError, match=message):
        guess({"text": TEXTS, "label": [0, 1, 0]}, **given)


@pytest.mark.parametrize(
    "images",
    [["a.png", "b.JPG"], [{"bytes": b"x", "path": None}] * 2, [b"x", b"y"], [np.zeros((2, 2))] * 2],
    ids=["files", "encoded", "bytes", "arrays"],
)
def test_images_are_known_by_their_values(images: list[Any]):
    columns = {"picture": images, "label": [0, 1]}
    assert guess(columns, "images") == Guess(("picture",), "label")


@pytest.mark.parametrize("file", ["a.mp3", "b/c.FLAC", "photo.heic"])
def test_files_of_formats_that_are_not_read_are_named(file: str):
    with pytest.raises(RecipeError, match=r"audio names \.\w+ files, which are not read; convert"):
        guess({"audio": [file], "label": [0]}, kind="sounds")


def test_two_columns_of_images_are_an_error():
    columns = {"left": ["a.png"], "right": ["b.png"], "label": [0]}
    with pytest.raises(RecipeError, match="left and right could each be the image"):
        guess(columns, "images")


def test_pairs_of_sentences_and_their_grade_are_known_by_name():
    columns = {"sentence1": TEXTS, "sentence2": TEXTS[::-1], "score": ["4.2", "0", "3"]}
    assert guess(columns, "sentences") == Guess(("sentence1", "sentence2"), "score")


def test_one_column_of_texts_needs_no_other_whatever_else_there_is():
    columns = {"text": TEXTS, "label": ["a", "b", "c"], "id": [1, 2, 3]}
    assert guess(columns, "sentences") == Guess(("text",), None)


@pytest.mark.parametrize(
    ("more", "given", "message"),
    [
        ({"score": [1, 2, 3], "label": [0.5, 1, 0]}, {}, "score and label could each be the grade"),
        ({"kind": ["x", "y", "z"]}, {"label": "kind"}, "the grade of a pair of texts, a number"),
        ({"score": [1, 1, 1]}, {"label": "score"}, "the grade of a pair of texts, a number"),
        ({"score": [1, 2, 3]}, {"label": "absent"}, "--label: rows.csv has no column 'absent'"),
    ],
)
def test_a_grade_that_cannot_be_told_is_an_error(
    more: dict[str, Any], given: dict[str, Any], message: str
):
    columns = {"sentence1": TEXTS, "sentence2": TEXTS[::-1], **more}
    with pytest.raises(RecipeError, match=message):
        guess(columns, "sentences", **given)


TAGS = ("O", "B-PER", "I-PER")
WORDS = [["Ann", "Lee"], ["ran"]]
TAGGED = [["B-PER", "I-PER"], ["O"]]


def words(columns: dict[str, list[Any]], **given: Any) -> Guess:
    return guess(columns, "words", labels=TAGS, name="dev.conll", **given)


def test_lists_of_words_and_of_tags_are_found():
    found = words({"text": WORDS, "label": TAGGED, "column_1": WORDS, "column_2": TAGGED})
    assert found == Guess(("text",), "label")
    assert words({"id": [1, 2], "tokens": WORDS, "spans": TAGGED}) == Guess(("tokens",), "spans")


def test_ids_of_tags_need_names():
    ids = [[1, 2], [0]]
    with pytest.raises(RecipeError, match="no column holds lists of the checkpoint's tags"):
        words({"tokens": WORDS, "ner_tags": ids})
    found = words({"tokens": WORDS, "ner_tags": ids}, label_names=TAGS)
    assert found == Guess(("tokens",), "ner_tags", TAGS)


def test_words_alone_have_no_label():
    assert words({"tokens": WORDS}) == Guess(("tokens",), None)


def test_texts_are_no_lists_of_words():
    with pytest.raises(RecipeError, match="no column holds lists of words, with a list of tags"):
        words({"text": ["Ann ran", "it"]})


def test_two_columns_of_tags_are_an_error():
    other = [["O", "O"], ["O"]]
    with pytest.raises(RecipeError, match="first and second could each be the tags; give --label"):
        words({"tokens": WORDS, "first": TAGGED, "second": other})
    assert (
        words({"tokens": WORDS, "first": TAGGED, "second": other}, label="second").label == "second"
    )


def test_a_document_is_one_column():
    with pytest.raises(RecipeError, match="--text: a document is one list of words"):
        words({"a": WORDS, "b": WORDS}, inputs=("a", "b"))


RANKED = {
    "query_id": ["q1", "q1", "q2"],
    "query": OTHER_TEXTS,
    "passage": TEXTS,
    "relevance": [0, 2, 1],
}


def test_of_scores_the_pair_the_number_and_the_query_are_found():
    found = guess(RANKED, "scores")
    assert found == Guess(("query", "passage"), "relevance", group="query_id")


def test_scores_need_neither_labels_nor_queries():
    assert guess({"text": TEXTS}, "scores") == Guess(("text",), None)
    words = {"text": TEXTS, "label": ["good", "bad", "good"]}
    assert guess(words, "scores") == Guess(("text",), None)


@pytest.mark.parametrize(
    ("further", "told"),
    [
        ({"positive": TEXTS, "negative": TEXTS}, r"several candidates of query \(negative\)"),
        ({"docs": [["a", "b"]], "labels": [[0, 1]]}, r"candidates of query \(docs, labels\)"),
        ({"passages": [{"text": ["a"]}]}, r"candidates of query \(passages\)"),
    ],
)
def test_rows_of_several_candidates_are_not_scored_by_halves(
    further: dict[str, list[Any]], told: str
):
    with pytest.raises(RecipeError, match=told):
        guess({"query": TEXTS, **further}, kind="scores")
    columns = {"query": TEXTS, "passage": TEXTS, "about": [{"source": "a"}]}
    assert guess(columns, kind="scores").inputs == ("query", "passage")


@pytest.mark.parametrize("absent", [-1, None, ""])
def test_rows_without_a_label_are_named_where_the_others_have_one(absent: Any):
    columns = {"text": TEXTS, "label": ["positive", absent, "negative"]}
    with pytest.raises(RecipeError, match=r"holds no label in 1 row, the first of them the 2\."):
        guess(columns)


def test_two_numbers_that_could_be_right_are_an_error():
    columns = {**RANKED, "score": [0.1, 0.2, 0.3]}
    with pytest.raises(RecipeError, match=r"relevance and score could each be .*--label"):
        guess(columns, "scores")
    assert guess(columns, "scores", label="score").label == "score"


def test_a_label_of_scores_that_is_no_number_is_refused():
    with pytest.raises(RecipeError, match="a number, the higher the better, and 'passage'"):
        guess(RANKED, "scores", inputs=("query",), label="passage")


SETS = {"id": [7, 8, 9], "text": TEXTS, "labels": [["a"], [], ["a", "b"]]}


def test_lists_of_labels_are_found():
    assert guess(SETS, "label sets", labels=()) == Guess(("text",), "labels")
    named = guess(SETS, "label sets", labels=(), label_names=("x", "y"))
    assert named.label_names == ("x", "y")
    assert guess({"text": TEXTS}, "label sets", labels=()) == Guess(("text",), None)


def test_a_label_that_is_no_list_is_none_of_several():
    columns = {"text": TEXTS, "labels": ["a", "b", "a"]}
    with pytest.raises(RecipeError, match="no column holds lists of labels"):
        guess(columns, "label sets", labels=())


def test_two_columns_of_lists_of_labels_are_an_error():
    columns = {"text": TEXTS, "first": SETS["labels"], "second": SETS["labels"]}
    with pytest.raises(
        RecipeError, match="first and second could each be the labels; give --label"
    ):
        guess(columns, "label sets", labels=())
    assert guess(columns, "label sets", labels=(), label="second").label == "second"


ASKED = {"id": ["a", "b"], "Question": TEXTS[:2], "context": TEXTS[1:3], "title": ["x", "y"]}
ANSWERS = [{"text": ["it"], "answer_start": [0]}, {"text": [], "answer_start": []}]


def test_questions_contexts_and_answers_are_found_by_their_names():
    assert guess(ASKED, "answers", name="dev.jsonl") == Guess(("Question", "context"), None)
    answered = {**ASKED, "answers": ANSWERS}
    assert guess(answered, "answers", name="dev.jsonl") == Guess(("Question", "context"), "answers")
    found = guess({**answered, "gold": ANSWERS}, "answers", name="dev.jsonl", label="gold")
    assert found.label == "gold"
    found = guess(answered, "answers", name="dev.jsonl", inputs=("Question", "title"))
    assert found == Guess(("Question", "title"), "answers")


@pytest.mark.parametrize(
    ("columns", "given", "message"),
    [
        ({"question": TEXTS}, {}, "no column is called context; give --text QUESTION --text"),
        ({"q": TEXTS, "c": TEXTS}, {}, "no column is called question or context"),
        (ASKED, {"inputs": ("context",)}, "--text: two columns, the question and then its context"),
        (ASKED, {"label": "answers"}, "--label: dev.jsonl has no column 'answers'"),
        (
            {**ASKED, "answer_text": ["it", ""], "answer_start": [0, -1]},
            {},
            "answer_text, answer_start look like answers, and answers are one column",
        ),
    ],
)
def test_columns_of_questions_that_cannot_be_told_are_an_error(
    columns: dict[str, Any], given: dict[str, Any], message: str
):
    with pytest.raises(RecipeError, match=message):
        guess(columns, "answers", name="dev.jsonl", **given)


def test_images_to_make_vectors_of_need_no_label():
    columns = {"picture": ["a.png", "b.png"], "label": ["cat", "dog"]}
    found = guess(columns, "unlabelled images")
    assert found == Guess(("picture",), None)


def test_a_label_of_vectors_is_refused():
    with pytest.raises(RecipeError, match="vectors of images and sounds are judged without labels"):
        guess_rows(
            "unlabelled images",
            "rows.csv",
            {"picture": ["a.png"], "label": ["cat"]},
            Asked(label="label"),
        )


def test_sounds_are_known_by_their_values():
    columns = {"clip": ["a.wav", "b.WAV"], "label": LABELS[:2]}
    asked = Asked(tuple(LABELS))
    assert guess_rows("sounds", "rows.csv", columns, asked).inputs == ("clip",)
