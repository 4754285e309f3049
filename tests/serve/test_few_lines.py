"""A log whose lines come once a minute of each kind."""

from __future__ import annotations

import logging

import pytest

from compressor.serve.few_lines import FewLines, few_lines


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def fails(words: str) -> None:
    try:
        raise ValueError(words)
    except ValueError:
        logging.getLogger("here").exception("failed: %s", words)


@pytest.fixture
def clock(caplog: pytest.LogCaptureFixture) -> Clock:
    clock = Clock()
    caplog.handler.addFilter(FewLines(60.0, clock=clock))
    return clock


def test_a_line_comes_once_a_minute_and_tells_of_those_between(
    clock: Clock, caplog: pytest.LogCaptureFixture
):
    for number in range(100):
        clock.now = number  # a line a second
        logging.getLogger("here").warning("invalid, %d", number)
    assert caplog.messages == ["invalid, 0", "invalid, 60 (and 59 more before it)"]


def test_other_places_and_other_errors_are_other_kinds(
    clock: Clock, caplog: pytest.LogCaptureFixture
):
    assert clock.now == 0
    for words in ("a", "b"):
        fails(words)
        logging.getLogger("here").warning("beside it")
        try:
            len(3)  # type: ignore[arg-type]
        except TypeError:
            logging.getLogger("here").exception("failed")
    assert caplog.messages == ["failed: a", "beside it", "failed"]


def test_in_the_end_a_service_says_what_it_left_out(caplog: pytest.LogCaptureFixture):
    logger = logging.getLogger("uvicorn.error")
    with few_lines():
        for _ in range(3):
            logger.warning("invalid")
    logger.warning("after it")
    assert caplog.messages == [
        "invalid",
        "2 further lines like these were left out",
        "after it",
    ]
