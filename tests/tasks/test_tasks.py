"""Tasks are found by the names of their files."""

from __future__ import annotations

import pytest

from compressor.errors import RecipeError
from compressor.tasks import load_task, task_names


def test_the_words_of_the_recipe_are_the_files_of_the_folder():
    assert task_names() == ("image-classification", "sentence-embedding", "text-classification")


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
