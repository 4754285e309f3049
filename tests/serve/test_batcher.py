from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence

import pytest

from compressor.serve.batcher import Batcher, Overloaded, Stopping


class Model:
    """Doubles numbers, slowly where it is told to; keeps what it was given together."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.may_go = threading.Event()
        self.may_go.set()
        self.has_begun = threading.Event()

    def __call__(self, examples: Sequence[int], options: str) -> list[str]:
        self.batches.append(list(examples))
        self.has_begun.set()
        assert self.may_go.wait(10)
        if 13 in examples:
            raise ValueError("13 is unlucky")
        return [f"{options}{2 * item}" for item in examples]


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture
def batcher(model: Model) -> Iterator[Batcher[str]]:
    own = Batcher(model, workers=1, max_batch=4, max_queue=10)
    yield own
    model.may_go.set()
    own.close()


async def held(model: Model, batcher: Batcher[str]) -> asyncio.Task[list[str]]:
    """Let the one worker compute a first request until `may_go` is set."""
    model.may_go.clear()
    first = asyncio.create_task(batcher.predict([0], "a", [1]))
    await asyncio.to_thread(model.has_begun.wait, 10)
    return first


def test_each_request_gets_its_own_predictions_in_order(model: Model):
    small = Batcher(model, workers=3, max_batch=4, max_queue=1000)
    try:

        async def go() -> list[list[str]]:
            return list(
                await asyncio.gather(
                    *(
                        small.predict(list(range(n, n + n % 7 + 1)), "a", [1] * (n % 7 + 1))
                        for n in range(20, 40)
                    )
                )
            )

        found = asyncio.run(go())
    finally:
        small.close()
    assert found == [[f"a{2 * i}" for i in range(n, n + n % 7 + 1)] for n in range(20, 40)]
    assert max(map(len, model.batches)) <= 4


def test_what_waits_is_computed_together(model: Model, batcher: Batcher[str]):
    async def go() -> None:
        first = await held(model, batcher)
        others = [asyncio.create_task(batcher.predict([n], "a", [1])) for n in (1, 2, 3, 4, 5)]
        await asyncio.sleep(0)
        assert batcher.waiting == 5
        model.may_go.set()
        await asyncio.gather(first, *others)

    asyncio.run(go())
    assert model.batches == [[0], [1, 2, 3, 4], [5]]


def test_a_request_larger_than_a_batch_is_computed_in_parts(model: Model, batcher: Batcher[str]):
    found = asyncio.run(batcher.predict(list(range(20, 29)), "a", [1] * 9))
    assert found == [f"a{2 * n}" for n in range(20, 29)]
    assert model.batches == [[20, 21, 22, 23], [24, 25, 26, 27], [28]]


def test_requests_with_other_options_have_batches_of_their_own(model: Model, batcher: Batcher[str]):
    async def go() -> list[list[str]]:
        first = await held(model, batcher)
        others = [
            asyncio.create_task(batcher.predict([n], o, [1]))
            for n, o in ((1, "a"), (2, "b"), (3, "a"))
        ]
        await asyncio.sleep(0)
        model.may_go.set()
        await first
        return list(await asyncio.gather(*others))

    assert asyncio.run(go()) == [["a2"], ["b4"], ["a6"]]
    assert model.batches == [[0], [1, 3], [2]]


def test_only_the_request_that_is_to_blame_fails(model: Model, batcher: Batcher[str]):
    async def go() -> list[list[str] | BaseException]:
        first = await held(model, batcher)
        others = [asyncio.create_task(batcher.predict([n], "a", [1])) for n in (1, 13, 3)]
        await asyncio.sleep(0)
        model.may_go.set()
        await first
        return list(await asyncio.gather(*others, return_exceptions=True))

    one, unlucky, three = asyncio.run(go())
    assert (one, three) == (["a2"], ["a6"])
    assert isinstance(unlucky, ValueError)


def test_a_queue_that_is_full_refuses_at_once(model: Model, batcher: Batcher[str]):
    async def go() -> None:
        first = await held(model, batcher)
        waiting = asyncio.create_task(batcher.predict(list(range(20, 28)), "a", [1] * 8))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match="work for 8 examples waits, 10 may"):
            await batcher.predict([1, 2, 3], "a", [1] * 3)
        model.may_go.set()
        await asyncio.gather(first, waiting)

    asyncio.run(go())


def test_what_nobody_waits_for_is_not_computed(model: Model, batcher: Batcher[str]):
    async def go() -> None:
        first = await held(model, batcher)
        dropped = asyncio.create_task(batcher.predict([1, 2], "a", [1] * 2))
        kept = asyncio.create_task(batcher.predict([3], "a", [1]))
        await asyncio.sleep(0)
        dropped.cancel()
        await asyncio.sleep(0)
        assert batcher.waiting == 1
        model.may_go.set()
        await asyncio.gather(first, kept)

    asyncio.run(go())
    assert model.batches == [[0], [3]]


def test_closing_computes_what_waits_and_takes_nothing_new(model: Model, batcher: Batcher[str]):
    async def go() -> list[str]:
        first = await held(model, batcher)
        waiting = asyncio.create_task(batcher.predict([1], "a", [1]))
        await asyncio.sleep(0)
        closing = asyncio.create_task(asyncio.to_thread(batcher.close))
        await asyncio.sleep(0.05)
        with pytest.raises(Stopping):
            await batcher.predict([2], "a", [1])
        model.may_go.set()
        await asyncio.gather(first, closing)
        return await waiting

    assert asyncio.run(go()) == ["a2"]


def test_long_examples_fill_a_batch_and_the_queue(model: Model, batcher: Batcher[str]):
    async def go() -> None:
        first = await held(model, batcher)
        long = asyncio.create_task(batcher.predict([1, 2, 3], "a", [3, 1, 9]))
        await asyncio.sleep(0)
        assert batcher.waiting == 13  # one request is taken whatever it costs
        with pytest.raises(Overloaded):
            await batcher.predict([4], "a", [1])
        model.may_go.set()
        await asyncio.gather(first, long)
        assert batcher.waiting == 0

    asyncio.run(go())
    assert model.batches == [[0], [1, 2], [3]]
