"""Which of transformers' classes an auto class chooses between for a configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def model_classes(mapping: Mapping[Any, Any], config: Any) -> tuple[type[Any], ...]:
    """Return the classes in `mapping`, one of an auto class, the first one by default.

    Of Funnel there are two: the second gives fewer states than there are tokens.
    """
    found = mapping[type(config)]
    return tuple(found) if isinstance(found, tuple | list) else (found,)
