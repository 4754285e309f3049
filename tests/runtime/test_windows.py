from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from compressor.runtime.windows import Window, meeting_points, parts_of, windows_of


@pytest.mark.parametrize("room", [1, 2, 3, 4, 7, 30])
@pytest.mark.parametrize("num_tokens", [0, 1, 5, 29, 30, 31, 100])
def test_windows_cover_a_document_and_overlap(num_tokens: int, room: int):
    windows = windows_of(num_tokens, room)
    assert windows[0].start == 0
    assert windows[-1].end == num_tokens
    assert all(window.end - window.start <= room for window in windows)
    shared = [before.end - after.start for before, after in pairwise(windows)]
    assert all(count >= room // 4 for count in shared)


def test_only_as_many_windows_as_are_needed():
    assert windows_of(8, 8) == [Window(0, 8)]
    assert windows_of(9, 8) == [Window(0, 8), Window(1, 9)]
    assert len(windows_of(8 + 6 * 3, 8)) == 4


def test_without_room_there_are_no_windows():
    with pytest.raises(ValueError, match="without room"):
        windows_of(3, 0)


@pytest.mark.parametrize("seed", range(20))
def test_every_token_is_taken_once_from_a_window_that_holds_it(seed: int):
    random = np.random.default_rng(seed)
    words = np.cumsum(random.random(200) < 0.6)
    windows = windows_of(200, int(random.integers(2, 60)))
    parts = parts_of(windows, words)
    taken = [token for part in parts for token in range(part.start, part.end)]
    assert taken == list(range(200))
    assert all(w.start <= p.start <= p.end <= w.end for w, p in zip(windows, parts, strict=True))


def test_windows_meet_in_the_middle_where_a_word_begins():
    words = np.array([0, 1, 2, 2, 2, 2, 3, 4, 5, 6])
    assert meeting_points([Window(0, 8), Window(2, 10)], words) == [6]
    assert meeting_points([Window(0, 8), Window(2, 10)], np.arange(10)) == [5]


def test_a_word_longer_than_the_overlap_is_cut_in_its_middle():
    assert meeting_points([Window(0, 8), Window(4, 12)], np.zeros(12, np.int64)) == [6]
