"""Tasks are found by the names of their files."""

from __future__ import annotations

import pytest

from compressor.tasks import load_task, task_names


def test_the_words_of_the_recipe_are_the_files_of_the_folder():
    assert task_names() == ("image-classification", "text-classification")


def test_an_unknown_task_is_a_key_error():
    with pytest.raises(KeyError):
        load_task("speech")
