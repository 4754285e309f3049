from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from compressor.machine.collector import seldom_collected


@pytest.fixture(autouse=True)
def thresholds() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)


def fail_in_a_block() -> None:
    with seldom_collected():
        assert gc.get_threshold()[0] > 10_000
        raise KeyError


def test_a_block_is_collected_seldom_and_what_comes_after_as_before():
    gc.set_threshold(701, 11, 12)
    with pytest.raises(KeyError):
        fail_in_a_block()
    assert gc.get_threshold() == (701, 11, 12)


def test_who_turned_collecting_off_keeps_it_off():
    gc.set_threshold(0, 10, 10)
    with seldom_collected():
        assert gc.get_threshold()[0] == 0
