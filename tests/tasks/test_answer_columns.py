from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from compressor.errors import RecipeError
from compressor.tasks.answer_columns import QuestionColumns, read_answers
from compressor.tasks.answers import GoldAnswer
from compressor.tasks.table import Table

COLUMNS = QuestionColumns()
CONTEXT = "It is in Paris, in France."


def table(**columns: list[Any]) -> Table:
    count = len(next(iter(columns.values())))
    return Table("dev.jsonl", columns, lines=list(range(1, count + 1)))


def squad(*answers: tuple[str, Any]) -> dict[str, list[Any]]:
    return {"text": [text for text, _ in answers], "answer_start": [at for _, at in answers]}


def test_answers_are_read_as_squad_writes_them():
    cells = [
        squad(("Paris", 9), ("in Paris", 6)),
        squad(),
        [{"text": "France", "answer_start": 19}],
    ]
    found = COLUMNS.labels(table(answers=cells), "answers", ("a", "b"), None).labels
    assert found is not None
    assert list(found) == [
        (GoldAnswer("Paris", 9), GoldAnswer("in Paris", 6)),
        (),
        (GoldAnswer("France", 19),),
    ]


@pytest.mark.parametrize(
    ("cell", "told"),
    [
        (None, "is missing; write {text: [...], answer_start: [...]}"),
        (float("nan"), "is missing"),
        ("Paris", "got 'Paris'; JSON lines or parquet hold such cells"),
        ({"text": ["Paris"]}, "got the keys text"),
        ({"text": "Paris", "answer_start": 9}, "got the keys text, answer_start"),
        ({"text": ["Paris"], "answer_start": []}, "has 1 in text and 0 in answer_start"),
        (squad(("", 0)), "has the text '' for answer 1; write what stands in the context"),
        (squad(("Paris", 9), (None, 9)), "for answer 2; write what stands"),
        (squad(("Paris", -1)), "has -1 in answer_start for answer 1"),
        (squad(("Paris", True)), "in answer_start for answer 1"),
        (squad(("Paris", "9")), "has '9' in answer_start for answer 1"),
        (["Paris"], "and answer 1 is 'Paris'"),
    ],
)
def test_a_cell_that_is_no_answers_is_refused_with_its_line(cell: Any, told: str):
    with pytest.raises(RecipeError) as caught:
        COLUMNS.labels(table(answers=[squad(), cell]), "answers", (), None)
    [mistake] = caught.value.mistakes
    assert mistake.startswith("dev.jsonl:2: answers ")
    assert told in mistake


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (("Paris", 8), "'Paris' is not what stands at character 8 of the context"),
        (("Paris", 8), "it begins at 9; correct the row"),
        (("Rome", 9), "the context does not hold it; correct the row"),
        (("Paris", 900), "character 900 of the context"),
    ],
)
def test_an_answer_that_stands_elsewhere_is_refused(answer: tuple[str, int], told: str):
    labels = np.empty(2, dtype=object)
    labels[:] = [read_answers(squad(("Paris", 9))), read_answers(squad(answer))]
    examples = [("Where is it?", CONTEXT)] * 2
    with pytest.raises(RecipeError) as caught:
        COLUMNS.require_fit(table(answers=[0, 0]), [0, 1], examples, labels, "answers")
    [mistake] = caught.value.mistakes
    assert mistake.startswith("dev.jsonl:2: answers: ")
    assert told in mistake


def test_a_question_without_a_column_of_contexts_is_refused():
    with pytest.raises(RecipeError, match=r"list both, the question first: \[question, context\]"):
        COLUMNS.require_columns(["question"], labelled=False)


def test_answers_have_no_label_names():
    with pytest.raises(RecipeError, match=r"data\.label_names: answers are texts here"):
        COLUMNS.labels(table(answers=[squad()]), "answers", (), ["a"])
