"""Numbers as a reader wants them: with a unit, sensibly rounded, and a dash when there is none.

One place decides how a figure looks, so that the same figure reads alike in HTML, Markdown and the
terminal. Every function takes None for "not measured".
"""

from __future__ import annotations

import math

from compressor.tasks import Metric, find_metric, has_metric

DASH = "—"
MINUS = "−"
BYTES_PER_MB = 1_000_000


def metric_of(name: str | None) -> Metric | None:
    """Return the metric called `name`; None where there is none, or no task here has it."""
    return find_metric(name) if name is not None and has_metric(name) else None


def units_of(metric: str | None) -> str:
    """Return what the examples are that a metric is taken on, such as `queries`; else `rows`."""
    found = metric_of(metric)
    return "rows" if found is None else found.units


def is_share(metric: str | None) -> bool:
    """Tell whether a metric lies in 0..1 and is shown as per cent."""
    found = metric_of(metric)
    return found is not None and found.percent


def counts_changes(metric: str | None) -> bool:
    """Tell whether a metric is the share of predictions that did not change, without labels."""
    found = metric_of(metric)
    return found is not None and found.bound == "flips"


def metric_words(metric: str | None) -> str:
    """Return a metric's name for a sentence, such as `macro F1` for `f1_macro`."""
    if (found := metric_of(metric)) is not None:
        return found.words
    return "score" if metric is None else metric.replace("_", " ")


def title(metric: str | None) -> str:
    """Return a metric's name for a heading, such as `Accuracy`."""
    words = metric_words(metric)
    return words[:1].upper() + words[1:]


def known(value: float | None) -> float | None:
    """Return a measurement; None for one that came out as no number, too."""
    return None if value is None or math.isnan(value) else value


def number(value: float | None) -> str:
    """Format with three significant digits, thousands separated, never with an exponent.

    >>> number(90.41), number(9.041), number(0.0875), number(1234.5), number(None)
    ('90.4', '9.04', '0.0875', '1,234', '—')
    """
    if value is None or not math.isfinite(value):
        return DASH
    if value == 0:
        return "0"
    digits = 2 - math.floor(math.log10(abs(value)))
    if round(abs(value), digits) >= 10 ** (3 - digits):  # 9.996 rounds up to 10.0
        digits -= 1
    return _minus(f"{value:,.{min(max(digits, 0), 9)}f}")


def megabytes(num_bytes: int | None) -> str:
    """Format bytes as MB (1 MB = 1,000,000 bytes), without the unit.

    >>> megabytes(90_412_345), megabytes(0)
    ('90.4', '0')
    """
    return DASH if num_bytes is None else number(num_bytes / BYTES_PER_MB)


def count(amount: int | None) -> str:
    """Format a count of parameters.

    >>> count(22_713_216), count(66_400), count(940)
    ('22.7 M', '66.4 k', '940')
    """
    if amount is None:
        return DASH
    for unit, size in (("G", 1_000_000_000), ("M", 1_000_000), ("k", 1_000)):
        if amount >= size:
            return f"{number(amount / size)} {unit}"
    return str(amount)


def score(metric: str | None, value: float | None) -> str:
    """Format a score: per cent for a share, otherwise the value itself.

    >>> score("accuracy", 0.8968), score("matthews_correlation", 0.512)
    ('89.68%', '0.5120')
    """
    if value is None or not math.isfinite(value):
        return DASH
    return f"{100 * value:.2f}%" if is_share(metric) else _minus(f"{value:.4f}")


def percent(fraction: float | None) -> str:
    """Format a probability; one that only rounds to certainty or to nothing says so.

    >>> percent(0.934), percent(0.9996), percent(1.0), percent(0.0004), percent(None)
    ('93%', '>99%', '100%', '<1%', '—')
    """
    if fraction is None or not math.isfinite(fraction):
        return DASH
    whole = round(100 * fraction)
    if whole == 100 and fraction < 1:
        return ">99%"
    return "<1%" if whole == 0 and fraction > 0 else f"{whole}%"


def points(fraction: float | None) -> str:
    """Format a difference or a limit in points: one point is 0.01 of the metric.

    >>> points(0.00344), points(0.01)
    ('0.34', '1.00')
    """
    if fraction is None or not math.isfinite(fraction):
        return DASH
    text = f"{100 * fraction:.2f}"
    return "0.00" if text == "-0.00" else _minus(text)


def change(drop: float | None) -> str:
    """Format a drop as the signed change that it means for the score, in points.

    >>> change(0.0034), change(-0.0011), change(0.0)
    ('−0.34', '+0.11', '0.00')
    """
    if drop is None or not math.isfinite(drop):
        return DASH
    text = points(-drop)
    return f"+{text}" if drop < 0 and text != "0.00" else text


def change_and_budget(drop: float, max_drop: float) -> tuple[str, str]:
    """Format a change and its budget with enough digits that they differ where the values do.

    Three wrong predictions in 299 are a drop of 1.003 points: "−1.00 points; budget 1.00" would
    read like a mistake.

    >>> change_and_budget(0.0034, 0.01), change_and_budget(3 / 299, 0.01)
    (('−0.34', '1.00'), ('−1.003', '1.000'))
    """
    for digits in (2, 3, 4, 6):
        lost, allowed = f"{100 * drop:.{digits}f}", f"{100 * max_drop:.{digits}f}"
        if lost != allowed or math.isclose(drop, max_drop, abs_tol=1e-9):
            break
    if float(lost) == 0:
        return lost.removeprefix("-"), allowed
    return f"+{lost[1:]}" if drop < 0 else f"−{lost}", allowed


def ratio(before: float | None, after: float | None) -> float | None:
    """Return how many times smaller `after` is; None when either is missing or not positive."""
    if before is None or after is None or not (before > 0 and after > 0):
        return None
    return before / after


def times(factor: float | None) -> str:
    """Format a factor.

    >>> times(3.93), times(12.4), times(0.84), times(None)
    ('3.9×', '12×', '0.84×', '—')
    """
    if factor is None or not math.isfinite(factor):
        return DASH
    digits = 0 if round(factor, 1) >= 10 else 1 if round(factor, 2) >= 1 else 2
    return f"{factor:.{digits}f}×"


def compared(
    factor: float | None, better: str, worse: str, same: str, *, counted: bool = False
) -> str | None:
    """Say a ratio in words, such as `3.9× smaller`, `1.2× larger` or `same size`.

    Within 5% it is the same, unless what is compared was `counted` and not timed.

    >>> compared(3.93, "smaller", "larger", "same size")
    '3.9× smaller'
    >>> compared(0.5, "faster", "slower", "same speed")
    '2.0× slower'
    >>> compared(1.046, "fewer", "more", "same number", counted=True)
    '4.4% fewer'
    """
    if factor is None:
        return None
    if 1 / 1.05 < factor < 1.05:
        percent = 100 * abs(1 / factor - 1)
        if counted and percent >= 0.1:
            return f"{percent:.1f}% {better if factor > 1 else worse}"
        return same
    return f"{times(factor)} {better}" if factor > 1 else f"{times(1 / factor)} {worse}"


def zeros(parameters: int, nonzero_parameters: int) -> str:
    """Format the sparsity: the share of parameters that are zero, in per cent.

    >>> zeros(1000, 400), zeros(1000, 1000)
    ('60.0%', '0.0%')
    """
    return DASH if parameters <= 0 else f"{100 * (1 - nonzero_parameters / parameters):.1f}%"


def duration(seconds: float | None) -> str:
    """Format wall time.

    >>> duration(0.42), duration(42.3), duration(125)
    ('0.4 s', '42 s', '2 min 05 s')
    """
    if seconds is None or not math.isfinite(seconds):
        return DASH
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _minus(text: str) -> str:
    return text.replace("-", MINUS)
