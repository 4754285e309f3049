"""Joins what waits into batches: threads that each compute one batch after another.

A worker that is free takes all that waits, up to a batch, so that nothing waits for a batch to
fill: alone a request is computed at once, and under load batches grow by themselves. What counts is
work, not the number of examples, so that a few long texts fill a batch and the queue.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from compressor.tasks import Example

Options = TypeVar("Options")
Predict = Callable[[Sequence[Example], Options], Sequence[Any]]
_CLOSED = "the service is stopping; ask another one"


class Overloaded(Exception):
    """More waits than may wait; nothing of the request was computed."""


class Stopping(Exception):
    """No request is taken any more."""


@dataclass(eq=False)
class _Request(Generic[Options]):
    examples: Sequence[Example]
    options: Options
    loop: asyncio.AbstractEventLoop
    answer: asyncio.Future[list[Any]]
    costs: Sequence[int]
    taken: int = 0  # examples that a batch holds or held
    found: list[Any] = field(default_factory=list)
    left: int = 0  # examples without a prediction
    is_dropped: bool = False

    def __post_init__(self) -> None:
        self.found, self.left = [None] * len(self.examples), len(self.examples)

    @property
    def waits(self) -> int:
        """Return what its examples that no batch holds cost."""
        return sum(self.costs[self.taken :])

    def take(self, room: int, *, at_least: int) -> tuple[_Part[Options], int]:
        """Return as many examples as fit into `room`, and what they cost."""
        start, cost = self.taken, 0
        while self.taken < len(self.examples) and (
            cost + self.costs[self.taken] <= room or self.taken - start < at_least
        ):
            cost += self.costs[self.taken]
            self.taken += 1
        return _Part(self, start, self.taken), cost


@dataclass(frozen=True)
class _Part(Generic[Options]):
    """The examples from `start` to `stop` of a request, which one batch holds."""

    request: _Request[Options]
    start: int
    stop: int

    @property
    def examples(self) -> Sequence[Example]:
        return self.request.examples[self.start : self.stop]


class Batcher(Generic[Options]):
    """Computes examples of many requests together; close it when it is not needed any more.

    `predict` gets examples of requests with equal options, in any of `workers` threads, and returns
    a prediction for each: one, or more that together cost at most `max_batch`. At most `max_queue`
    wait. `told` gets the number of examples of each batch.
    """

    def __init__(
        self,
        predict: Predict[Options],
        *,
        workers: int,
        max_batch: int,
        max_queue: int,
        told: Callable[[int], object] = lambda _: None,
    ):
        self._predict, self._told = predict, told
        self._max_batch, self._max_queue = max_batch, max_queue
        self._changed = threading.Condition()
        self._requests: deque[_Request[Options]] = deque()
        self._waiting = 0
        self._is_closed = False
        self._threads = [
            threading.Thread(target=self._work, name=f"batches-{number}", daemon=True)
            for number in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> int:
        """Return what the examples that wait for a batch cost."""
        return self._waiting

    async def predict(
        self, examples: Sequence[Example], options: Options, costs: Sequence[int]
    ) -> list[Any]:
        """Return a prediction for each example, which costs as much as `costs` says, 1 or more.

        Raises `Overloaded` where too much waits, `Stopping` after `close`, and what `predict`
        raised. Cancelled, what no batch holds yet is not computed.
        """
        loop = asyncio.get_running_loop()
        request = _Request(examples, options, loop, loop.create_future(), costs)
        with self._changed:
            if self._is_closed:
                raise Stopping(_CLOSED)
            if self._waiting and self._waiting + request.waits > self._max_queue:
                raise Overloaded(f"work for {self._waiting} examples waits, {self._max_queue} may")
            self._requests.append(request)
            self._waiting += request.waits
            self._changed.notify(len(self._threads))
        try:
            return await request.answer
        finally:
            self._drop(request)

    def close(self) -> None:
        """Compute what waits, take nothing new, and end the threads."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _drop(self, request: _Request[Options]) -> None:
        with self._changed:
            if not request.is_dropped and request.taken < len(request.examples):
                request.is_dropped = True
                self._waiting -= request.waits
                self._requests.remove(request)

    def _work(self) -> None:
        while parts := self._next():
            self._told(sum(part.stop - part.start for part in parts))
            self._answer(parts)

    def _next(self) -> list[_Part[Options]]:
        """Return the next batch, as soon as anything waits; empty when there will be none."""
        with self._changed:
            while not self._requests:
                if self._is_closed:
                    return []
                self._changed.wait()
            options, room = self._requests[0].options, self._max_batch
            parts: list[_Part[Options]] = []
            for request in list(self._requests):
                if request.options != options:
                    continue
                part, cost = request.take(room, at_least=0 if parts else 1)
                if part.start == part.stop:
                    break
                parts.append(part)
                room -= cost
                self._waiting -= cost
                if part.stop == len(request.examples):
                    self._requests.remove(request)
            return parts

    def _answer(self, parts: Sequence[_Part[Options]]) -> None:
        examples = [example for part in parts for example in part.examples]
        try:
            found = self._predict(examples, parts[0].request.options)
        except Exception as error:  # noqa: BLE001 - it is raised where the request waits
            if len(parts) > 1:  # one of them is to blame, and the others are not
                for part in parts:
                    self._answer([part])
                return
            request = parts[0].request
            request.loop.call_soon_threadsafe(_fail, request, error)
            return
        start = 0
        for part in parts:
            count = part.stop - part.start
            own = found[start : start + count]
            start += count
            part.request.loop.call_soon_threadsafe(_fill, part, own)


def _fill(part: _Part[Any], found: Sequence[Any]) -> None:
    request = part.request
    request.found[part.start : part.stop] = found
    request.left -= part.stop - part.start
    if request.left == 0 and not request.answer.done():
        request.answer.set_result(request.found)


def _fail(request: _Request[Any], error: Exception) -> None:
    if not request.answer.done():
        request.answer.set_exception(error)
