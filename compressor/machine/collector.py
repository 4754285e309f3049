"""How often Python looks for objects that only refer to each other.

It looks whenever some hundreds of objects more are alive than were before, and at all of them now
and then. Importing and tracing make hundreds of thousands that stay, and next to nothing is found.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

_SELDOM = (50_000, 20, 20)  # more objects; and that so often, for those that were looked at before


@contextmanager
def seldom_collected() -> Iterator[None]:
    """Look seldom in a block; where nothing is looked for, that stays so."""
    before = gc.get_threshold()
    if before[0]:
        gc.set_threshold(*_SELDOM)
    try:
        yield
    finally:
        gc.set_threshold(*before)
