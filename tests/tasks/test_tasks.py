"""Tasks are found by the word in the recipe."""

from __future__ import annotations

import pytest

from compressor.errors import RecipeError
from compressor.tasks import load_task, task_class, task_names


@pytest.mark.parametrize("name", task_names())
def test_a_task_stands_in_the_table_under_its_own_name(name: str):
    assert task_class(name).name == name


def test_an_unknown_task_is_a_key_error():
    with pytest.raises(KeyError):
        load_task("speech")


def test_pooling_of_a_task_without_vectors_is_refused_by_its_key():
    with pytest.raises(RecipeError) as refused:
        load_task("text-classification", pooling="cls", normalize=False)
    assert [mistake.partition(": ")[0] for mistake in refused.value.mistakes] == [
        "model.normalize",
        "model.pooling",
    ]
