"""Prove the certificate: how often does it certify a drop of exactly `max_drop`?

Draws the counts of paired examples (losses, wins, the rest) from a model whose true drop lies on
the boundary, and counts wrong verdicts; 5% is allowed at 95% confidence. Beside each drawn rate
stands the exact one, summed over all counts, and those of two simpler bounds: Tango's without the
correction, and Wald's. The last columns say how often a good model is certified.

A second table is about slices: data sets that are cut into several slices, all of them on the
boundary, and how often at least one slice gets a wrong verdict.

Usage: tools/simulate_certificate.py [--quick] [--draws N] [--seed N]
Exits with 1 when a rate of wrong verdicts is significantly above 5%.
"""

from __future__ import annotations

import argparse
import functools
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from compressor.certificate import holm, noninferiority_p_value, tango_upper_bound
from compressor.certificate.certify import holm_levels

CONFIDENCE = 0.95
ALLOWED = 1 - CONFIDENCE
STANDARD_ERRORS = 4.0  # a hundred rates are looked at, so two would often be exceeded by chance
EXACT_MARGIN = 0.0005  # the correction is asymptotic: it promises 5% to this precision

SIZES = (200, 268, 448, 1000, 2000, 5000, 20000)  # the second and third are Tango's worst
DISCORDANCES = (0.01, 0.02, 0.05, 0.1)
MAX_DROPS = (0.0, 0.005, 0.01, 0.02)
QUICK = ((268, 0.01, 0.01), (448, 0.01, 0.01), (1000, 0.05, 0.01), (2000, 0.02, 0.005))

# Slices, examples in each, discordance, `max_drop`.
FAMILIES = (
    (2, 200, 0.05, 0.02),
    (5, 400, 0.04, 0.02),
    (20, 200, 0.1, 0.05),
    (20, 2000, 0.03, 0.01),
)
QUICK_FAMILIES = FAMILIES[1:3]

Rule = Callable[[int, int], bool]  # losses and wins to a verdict


@dataclass(frozen=True)
class Rates:
    """How often each verdict falls at one setting; all are fractions of 1."""

    drawn: float  # certified at the boundary, by drawing
    error: float  # standard error of `drawn`
    exact: float  # the same without drawing
    refuted: float  # refuted at the boundary, exact
    uncorrected: float  # certified at the boundary by Tango's bound alone, exact
    wald: float  # certified at the boundary by Wald's bound, exact
    power_half: float  # certified when the true drop is max_drop / 2, exact
    power_zero: float  # certified when the true drop is 0, exact


def settings(*, quick: bool) -> Iterator[tuple[int, float, float]]:
    """Yield size, discordance and `max_drop`; a drop cannot exceed the discordance."""
    if quick:
        yield from QUICK
        return
    for size in SIZES:
        for discordance in DISCORDANCES:
            for max_drop in MAX_DROPS:
                if max_drop <= discordance and (max_drop == 0 or size * max_drop >= 1):
                    yield size, discordance, max_drop


def frontier(rule: Rule, size: int, wins: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return for each number of wins the largest number of losses that `rule` accepts, or -1.

    Each rule accepts fewer losses when it accepts some, and more wins allow more losses, so the
    search for one number of wins starts where the one before ended.
    """
    largest = np.empty(len(wins), dtype=np.int64)
    reached = -1
    for index, gained in enumerate(wins.tolist()):
        step = 1
        while reached + step <= size - gained and rule(reached + step, gained):
            reached, step = reached + step, 2 * step
        while step > 1:
            step //= 2
            if reached + step <= size - gained and rule(reached + step, gained):
                reached += step
        largest[index] = reached
    return largest


def accepted(
    size: int, discordance: float, drop: float, wins: NDArray[np.int64], largest: NDArray[np.int64]
) -> float:
    """Return the chance, under a true drop, of counts on the accepted side of a frontier."""
    loss_rate, win_rate = (discordance + drop) / 2, (discordance - drop) / 2
    losses_given_wins = stats.binom.cdf(largest, size - wins, loss_rate / (1 - win_rate))
    return float(np.sum(stats.binom.pmf(wins, size, win_rate) * losses_given_wins))


def measure(
    size: int, discordance: float, max_drop: float, draws: int, rng: np.random.Generator
) -> Rates:
    """Return all rates at one setting."""
    z = float(stats.norm.ppf(CONFIDENCE))
    # The drops looked at give win rates from (discordance - max_drop) / 2 to discordance / 2.
    first = stats.binom.ppf(1e-12, size, (discordance - max_drop) / 2)
    last = stats.binom.isf(1e-12, size, discordance / 2)
    wins = np.arange(max(0, int(first)), int(last) + 2)

    def tango(losses: int, gained: int) -> bool:
        return tango_upper_bound(losses, gained, size, confidence=CONFIDENCE) <= max_drop

    def uncorrected(losses: int, gained: int) -> bool:
        bound = tango_upper_bound(losses, gained, size, confidence=CONFIDENCE, corrected=False)
        return bound <= max_drop

    def wald(losses: int, gained: int) -> bool:
        drop = (losses - gained) / size
        return drop + z * math.sqrt(((losses + gained) / size - drop**2) / size) <= max_drop

    def not_refuted(losses: int, gained: int) -> bool:
        return -tango_upper_bound(gained, losses, size, confidence=CONFIDENCE) <= max_drop

    def exact(rule: Rule, drop: float) -> float:
        return accepted(size, discordance, drop, wins, frontier(rule, size, wins))

    line = frontier(tango, size, wins)
    loss_rate, win_rate = (discordance + max_drop) / 2, (discordance - max_drop) / 2
    counts = rng.multinomial(size, [loss_rate, win_rate, 1 - discordance], size=draws)
    places = np.clip(counts[:, 1] - wins[0], 0, len(wins) - 1)
    drawn = float(np.mean(counts[:, 0] <= line[places]))
    return Rates(
        drawn=drawn,
        error=math.sqrt(max(drawn, ALLOWED) * (1 - max(drawn, ALLOWED)) / draws),
        exact=accepted(size, discordance, max_drop, wins, line),
        refuted=1 - exact(not_refuted, max_drop),
        uncorrected=exact(uncorrected, max_drop),
        wald=exact(wald, max_drop),
        power_half=accepted(size, discordance, max_drop / 2, wins, line),
        power_zero=accepted(size, discordance, 0.0, wins, line),
    )


def too_high(rates: Rates) -> bool:
    """Return whether wrong verdicts are significantly more frequent than allowed."""
    return (
        rates.drawn > ALLOWED + STANDARD_ERRORS * rates.error
        or rates.exact > ALLOWED + EXACT_MARGIN
        or rates.refuted > ALLOWED + EXACT_MARGIN
    )


def measure_slices(
    slices: int, size: int, discordance: float, max_drop: float, draws: int, seed: int
) -> tuple[float, float]:
    """Return how often at least one slice is falsely certified, and falsely refuted.

    Every slice has a true drop of exactly `max_drop`, so that each verdict but `inconclusive` is
    wrong: the worst case for a correction.
    """

    @functools.cache
    def p_value(losses: int, wins: int) -> float:
        return noninferiority_p_value(losses, wins, size, max_drop=max_drop)

    @functools.cache
    def refuted(losses: int, wins: int, level: float) -> bool:
        return -tango_upper_bound(wins, losses, size, confidence=1 - level) > max_drop

    loss_rate, win_rate = (discordance + max_drop) / 2, (discordance - max_drop) / 2
    rates = [loss_rate, win_rate, 1 - discordance]
    drawn = np.random.default_rng(seed).multinomial(size, rates, size=(draws, slices))
    certified = falsely_refuted = 0
    for data_set in drawn[..., :2].tolist():  # losses and wins of each slice
        p_values = [p_value(*counts) for counts in data_set]
        certified += bool((holm(p_values) <= ALLOWED).any())
        levels = holm_levels(p_values, ALLOWED)
        falsely_refuted += any(
            refuted(*counts, round(level, 12))
            for counts, level in zip(data_set, levels, strict=True)
        )
    return certified / draws, falsely_refuted / draws


def print_slices(families: Sequence[tuple[int, int, float, float]], draws: int, seed: int) -> bool:
    """Print one line for each family of slices; return whether a rate is too high."""
    print("slices  each n  disc. max drop | one certified  one refuted, falsely")
    highest = ALLOWED + STANDARD_ERRORS * math.sqrt(ALLOWED * (1 - ALLOWED) / draws)
    failed = False
    for slices, size, discordance, max_drop in families:
        rates = measure_slices(slices, size, discordance, max_drop, draws, seed)
        mark = "  <- too high" if max(rates) > highest else ""
        failed |= bool(mark)
        print(
            f"{slices:6d} {size:7d} {100 * discordance:6.1f} {100 * max_drop:8.1f} |"
            f" {100 * rates[0]:13.2f} {100 * rates[1]:12.2f}{mark}",
            flush=True,
        )
    return failed


def main() -> int:
    """Print one line for each setting and return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="a few settings only")
    parser.add_argument("--draws", type=int, default=100_000, help="pairs of counts per setting")
    parser.add_argument("--seed", type=int, default=0, help="of the drawn counts")
    arguments = parser.parse_args()
    rng = np.random.default_rng(arguments.seed)
    print(f"all in percent, {arguments.draws} draws, confidence {CONFIDENCE:.0%}")
    print("               max | falsely certified       falsely |  by simpler bounds |", end="")
    print(" power if drop\n     n  disc. drop |   drawn +- SE    exact  refuted |", end="")
    print("    Tango     Wald  |   half     zero")
    found = []
    for size, discordance, max_drop in settings(quick=arguments.quick):
        rates = measure(size, discordance, max_drop, arguments.draws, rng)
        found.append(rates)
        mark = "  <- too high" if too_high(rates) else ""
        print(
            f"{size:6d} {100 * discordance:5.1f} {100 * max_drop:5.1f} |"
            f" {100 * rates.drawn:6.2f} {100 * rates.error:5.2f} {100 * rates.exact:8.2f}"
            f" {100 * rates.refuted:8.2f} | {100 * rates.uncorrected:8.2f}"
            f" {100 * rates.wald:8.2f}  | {100 * rates.power_half:6.1f}"
            f" {100 * rates.power_zero:8.1f}{mark}",
            flush=True,
        )
    print(
        f"highest over {len(found)} settings: certified {max(r.exact for r in found):.2%}, "
        f"refuted {max(r.refuted for r in found):.2%}, "
        f"Tango {max(r.uncorrected for r in found):.2%}, Wald {max(r.wald for r in found):.2%}"
    )
    families = QUICK_FAMILIES if arguments.quick else FAMILIES
    slices_failed = print_slices(families, max(1, arguments.draws // 10), arguments.seed)
    return int(slices_failed or any(too_high(rates) for rates in found))


if __name__ == "__main__":
    sys.exit(main())
