"""Whose turn it is on a host that several processes share: one measures time while others wait.

Without `on_shared_host` everybody is alone, and nothing waits. CPU time of one thread is hardly
changed by what other processes do, so there it is enough that one process measures at a time. Wall
time is: whoever measures it also waits until the others are between two steps, and they begin no
other one until it is done.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from compressor.machine.locks import Lock, locked


@dataclass
class _Host:
    """The locks of one host, which lie under `folder` with `name` before them.

    `measure` is held alone while somebody measures. Who works shares `work`, and comes in by
    `gate`, which is closed to others while somebody waits for the host to be quiet. Nobody who
    waits for `measure` holds `work`.
    """

    folder: Path
    name: str
    _work: Lock = field(init=False)

    def __post_init__(self) -> None:
        self._work = self._lock("work")

    def begin_work(self) -> None:
        with locked(self._lock("gate").path):
            self._work.acquire(shared=True)

    def end_work(self) -> None:
        self._work.release()

    @contextmanager
    def measure(self, *, alone: bool) -> Iterator[None]:
        is_at_work = self._work.is_held
        self._work.release()
        try:
            with locked(self._lock("measure").path):
                if not alone:
                    yield
                    return
                with locked(self._lock("gate").path), locked(self._lock("work").path):
                    yield
        finally:
            if is_at_work:
                self.begin_work()

    def _lock(self, kind: str) -> Lock:
        return Lock(self.folder / f"{self.name}.{kind}")


_host: ContextVar[_Host | None] = ContextVar("host", default=None)


@contextmanager
def on_shared_host(folder: Path, name: str) -> Iterator[None]:
    """Take turns, within the block, with all processes that give the same `folder` and `name`."""
    token = _host.set(_Host(folder, name))
    try:
        yield
    finally:
        _host.reset(token)


@contextmanager
def working() -> Iterator[None]:
    """Do a step while nobody waits for a quiet host."""
    host = _host.get()
    if host is None:
        yield
        return
    host.begin_work()
    try:
        yield
    finally:
        host.end_work()


@contextmanager
def measuring(clock: Literal["cpu", "wall"]) -> Iterator[None]:
    """Measure times on `clock` while nobody else does, and for wall times while nobody works."""
    host = _host.get()
    if host is None:
        yield
        return
    with host.measure(alone=clock == "wall"):
        yield
