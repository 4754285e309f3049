"""Words that every message takes from here, so that the same figure reads alike in all of them.

A figure in a table stands alone and is the business of `compressor.report.units`.
"""

from __future__ import annotations

import math
import re

from compressor.runtime.words import counted as counted
from compressor.runtime.words import few_of as few_of
from compressor.runtime.words import listing as listing
from compressor.runtime.words import noun_for as noun_for

_MINUS = "−"
# Control characters (but not tab and line ends), lone surrogates, which UTF-8 cannot carry, and the
# marks that make text run backwards.
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]"
)


def printable(text: str) -> str:
    """Replace characters that cannot be shown, or that change how a page or terminal reads."""
    cleaned = _UNPRINTABLE.sub("\ufffd", text)
    # Jinja marks what it has escaped with a subclass of str, and would escape a plain str again.
    return text if cleaned == text else type(text)(cleaned)


def verb_for(amount: int, singular: str, plural: str) -> str:
    """Return the form of a verb that stands behind `counted(amount, ...)`.

    >>> verb_for(1, "is", "are"), verb_for(2, "is", "are")
    ('is', 'are')
    """
    return singular if amount == 1 else plural


def about(count: int) -> str:
    """Return a number that is an estimate: rounded up to two digits, such as `about 1,300`."""
    unit = 10 ** max(0, len(str(count)) - 2)
    return f"about {-(-count // unit) * unit:,}"


def points(fraction: float) -> str:
    """Return a difference in points, with the unit: one point is 0.01 of the metric.

    It has two decimals at most, as in a table, unless nothing would be left of it.

    >>> points(0.0052), points(0.01), points(3 / 299), points(-0.0052), points(0.00001)
    ('0.52 points', '1 point', '1 point', '−0.52 points', '0.001 points')
    """
    figures = (_decimal(100 * fraction, digits) for digits in (2, 3, 4))
    return _with_unit(next((text for text in figures if text != "0"), "0"))


def moved(drop: float) -> str:
    """Say which way a score went, such as `fell by 0.52 points`; a gain is a negative drop.

    >>> moved(0.0052), moved(-0.0052), moved(0.0)
    ('fell by 0.52 points', 'rose by 0.52 points', 'did not change')
    """
    if abs(drop) < 5e-7:  # less than one example of any split, as sums of floats leave it
        return "did not change"
    return f"{'rose' if drop < 0 else 'fell'} by {points(abs(drop))}"


def moved_and_budget(drop: float, max_drop: float) -> tuple[str, str]:
    """Say which way a score went, and its budget, with digits that tell the two apart.

    >>> moved_and_budget(0.0052, 0.01)
    ('fell by 0.52 points', '1 point')
    >>> moved_and_budget(3 / 299, 0.01)
    ('fell by 1.003 points', '1 point')
    """
    allowed = points(max_drop)
    if drop < 0 or points(drop) != allowed or math.isclose(drop, max_drop, abs_tol=1e-9):
        return moved(drop), allowed
    figures = (_with_unit(_decimal(100 * drop, digits)) for digits in (3, 4, 6, 8))
    return f"fell by {next((text for text in figures if text != allowed), allowed)}", allowed


def bound_and_budget(bound: float, budget: float, *, upwards: bool) -> tuple[str, str]:
    """Return what is proven in points, rounded to the side on which it holds, and a budget.

    With as many digits as tell the two apart where they differ: a bound that is above the budget
    must not read like it, nor one below it.

    >>> bound_and_budget(0.0087, 0.01, upwards=True), bound_and_budget(0.009949, 0.01, upwards=True)
    (('0.87', '1.00'), ('0.995', '1.000'))
    """
    for digits in (2, 3, 4, 6):
        scaled = round(100 * bound * 10**digits, 6)  # without the last bits of binary fractions
        whole = math.ceil(scaled) if upwards else math.floor(scaled)
        text, allowed = f"{whole / 10**digits:.{digits}f}", f"{100 * budget:.{digits}f}"
        if text != allowed or math.isclose(bound, budget, abs_tol=1e-9):
            break
    return ("0.00" if text == "-0.00" else text).replace("-", _MINUS), allowed


def bound_points(bound: float, budget: float, *, upwards: bool = True) -> str:
    """Return what is proven with its unit; unlike `points` it never reads as more than holds.

    >>> bound_points(0.00874, 0.02), bound_points(0.00876, 0.02, upwards=False)
    ('0.88 points', '0.87 points')
    """
    text, _ = bound_and_budget(bound, budget, upwards=upwards)
    return _with_unit(text.rstrip("0").rstrip("."))


def _with_unit(figure: str) -> str:
    return f"{figure} {'point' if figure == '1' else 'points'}"


def _decimal(value: float, digits: int) -> str:
    """Return a number with at most so many decimals, and a true minus."""
    text = f"{value:.{digits}f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text.replace("-", _MINUS)
