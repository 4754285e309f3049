from __future__ import annotations

import json
from pathlib import Path

import pytest

from compressor.models.vocabulary_files import other_vocabulary, surely_other_vocabulary


def write(folder: Path, pieces: object, **added: int) -> Path:
    folder.mkdir()
    tokens = [{"content": token, "id": index} for token, index in added.items()]
    content = {"model": {"vocab": pieces}, "added_tokens": tokens}
    (folder / "tokenizer.json").write_text(json.dumps(content))
    return folder


def test_differences_are_counted():
    assert other_vocabulary({"a": 0, "b": 1}, {"a": 0, "b": 1}) is None
    assert other_vocabulary({"a": 0, "b": 1}, {"a": 0}) == "it has 1 entry, the student's 2"
    found = other_vocabulary({"a": 0, "b": 1, "c": 2}, {"a": 0, "b": 2, "c": 1})
    assert found == "of 3 entries in both, 1 are the same"


def test_pieces_with_scores_stand_in_the_order_of_their_ids(tmp_path: Path):
    scored = write(tmp_path / "scored", [["a", -1.0], ["b", -2.5]])
    named = write(tmp_path / "named", {"a": 0, "b": 1})
    other = write(tmp_path / "other", {"a": 1, "b": 0})
    assert surely_other_vocabulary(scored, named) is None
    assert surely_other_vocabulary(scored, other) == "of 2 entries in both, 0 are the same"


def test_tokens_that_were_added_do_not_make_it_sure(tmp_path: Path):
    own = write(tmp_path / "own", {"a": 0, "b": 1})
    more = write(tmp_path / "more", {"a": 0, "b": 1, "<x>": 2}, **{"<x>": 2, "<y>": 3})
    both = write(tmp_path / "both", {"a": 0, "c": 1}, **{"<y>": 3})
    assert surely_other_vocabulary(own, more) is None
    assert surely_other_vocabulary(own, both) == "it has 3 entries, the student's 2"


@pytest.mark.parametrize("content", ["", "[]", '{"model": {}}', '{"model": {"vocab": [1]}}'])
def test_a_file_that_cannot_be_read_is_left_to_loading_it(content: str, tmp_path: Path):
    own = write(tmp_path / "own", {"a": 0})
    (tmp_path / "tokenizer.json").write_text(content)
    assert surely_other_vocabulary(own, tmp_path) is None
    assert surely_other_vocabulary(tmp_path / "absent", own) is None
