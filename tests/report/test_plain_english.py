"""Every verdict with every outcome reads as a person would say it: `1 row`, `rose by`, no riddles.

The reports here are the odd ones: one row, one example, one token, one pass, one try, and a score
that fell, rose or stayed.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import pytest

from compressor.errors import BudgetExceeded, NotCertified, RecipeError, TargetMissed
from compressor.measurements import Certification, LengthRecord, Parity, Score
from compressor.report.compare import render_comparison_html
from compressor.report.render import render_html, render_markdown, render_model_card
from compressor.report.report_json import as_read
from compressor.report.run_report import RunReport

NOUNS = (
    "rows|examples|tokens|texts|pairs|passes|tries|runs|points|predictions|slices|labels|steps|"
    "latencies|threads|layers|inputs|products|matrices|weights|mistakes"
)
RIDDLES = {
    "one of several": rf"(?<![\d.,:–-])1 (?:search |real )?(?:{NOUNS})\b",
    "a negative fall": r"(?:fell|rose|lost|drop of|falls?) (?:by )?(?:at most )?[-−]\d",
    "a plural in brackets": r"\w\(s\)",
    "a run that goes on": r"\b(?:goes|gone|went) on\b",
    "a fraction for points": r"(?:fell|rose) by 0\.00\d",
    "nothing at all": r"\b(?:None|nan)\b",
    "two stops": r"[^.]\.\.(?!\.)",
}
DROPS = {"fell": 0.005, "rose": -0.0052, "stayed": 0.0, "just a little": 1e-9}


def with_drop(report: RunReport, drop: float) -> RunReport:
    """Return a run whose scores moved by `drop` on every split and in every pass."""
    changes: dict[str, Any] = {}
    if report.final is not None:
        score = dataclasses.replace(report.final.score, value=0.9 - drop)
        changes["final"] = dataclasses.replace(report.final, score=score)
    if report.certification is not None:
        final = dataclasses.replace(report.certification.final, value=0.91 - drop)
        changes["certification"] = Certification(report.certification.baseline, final, drop)
    passes = [
        item if item.drop is None else dataclasses.replace(item, drop=drop, score_after=0.9 - drop)
        for item in report.passes
    ]
    return dataclasses.replace(report, passes=tuple(passes), **changes)


def of_one(report: RunReport) -> RunReport:
    """Return a run with one of everything that is counted."""

    def one(score: Score) -> Score:
        return dataclasses.replace(score, num_examples=1)

    changes: dict[str, Any] = {}
    for end in ("baseline", "final"):
        record = getattr(report, end)
        if record is not None:
            changes[end] = dataclasses.replace(record, score=one(record.score))
    if report.certification is not None:
        both = (one(report.certification.baseline), one(report.certification.final))
        changes["certification"] = Certification(*both, report.certification.drop)
    if report.certificate is not None:
        changes["certificate"] = dataclasses.replace(
            report.certificate, num_examples=1, wins=1, losses=1, needed_examples=1
        )
    latencies = [
        dataclasses.replace(item, num_runs=1, threads=1, sequence_length=1, noisy=True)
        for item in report.latencies[:1]
    ]
    return dataclasses.replace(
        report,
        latencies=tuple(latencies),
        parity=Parity(1e-6, 1e-3, 1, (1,)),
        lengths=LengthRecord(1, 1, 1, 1, 1, 0),
        splits=tuple(dataclasses.replace(item, num_examples=1) for item in report.splits),
        slices=tuple(dataclasses.replace(item, num_examples=1) for item in report.slices[:1]),
        flips=report.flips[:1],
        steps=report.steps[:1],
        rows_to_certify=1,
        **changes,
    )


def said(report: RunReport) -> list[str]:
    """Return everything that a report says, without tags and without the recipe."""
    shown = as_read(report)
    page, *_ = render_html(shown).partition("<h2>Recipe</h2>")
    page = re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL)
    texts = [
        re.sub(r"<[^>]+>", " ", page),
        render_markdown(shown).partition("## Recipe")[0],
        render_model_card(shown).partition("```")[0],
        re.sub(r"<style>.*?</style>|<[^>]+>", " ", render_comparison_html([("a", shown)])),
        report.summary(),
        repr(report),
    ]
    return [" ".join(re.sub(r"\\(.)", r"\1", text).split()) for text in texts]


def riddles(texts: list[str]) -> list[str]:
    """Return every passage that no person would say, with what is wrong with it."""
    return [
        f"{name}: {text[max(found.start() - 40, 0) : found.end() + 40]!r}"
        for text in texts
        for name, pattern in RIDDLES.items()
        for found in re.finditer(pattern, text)
    ]


@pytest.mark.parametrize(
    "text",
    [
        "on 1 rows kept apart",
        "On 1 search rows",
        "of the 1 examples",
        "in the best of 1 tries",
        "accuracy fell by -0.52 points",
        "accuracy fell by −0.52 points",
        "a drop of at most −0.1 points",
        "accuracy fell by 0.0052",
        "2 row(s)",
        "it goes on after the last finished step",
        "The score is nan",
        "It ended.. Run it again",
    ],
)
def test_a_riddle_is_found(text: str):
    assert len(riddles([text])) == 1


@pytest.mark.parametrize("text", ["1 row", "21 rows", "1,001 rows", "batch 1, 32 tokens", "0.1 s"])
def test_plain_words_are_no_riddle(text: str):
    assert riddles([text]) == []


@pytest.mark.parametrize("drop", DROPS.values(), ids=DROPS)
def test_every_verdict_and_outcome_reads_plainly(any_report: RunReport, drop: float):
    assert riddles(said(with_drop(any_report, drop))) == []


@pytest.mark.parametrize("drop", DROPS.values(), ids=DROPS)
def test_one_of_everything_is_one(any_report: RunReport, drop: float):
    assert riddles(said(of_one(with_drop(any_report, drop)))) == []


ERRORS: dict[str, Callable[[float], Exception]] = {
    "budget": lambda drop: BudgetExceeded("export", metric="f1", drop=drop, max_drop=0.01),
    "budget after one try": lambda drop: BudgetExceeded(
        "passes[0] (x)", metric="f1", drop=drop, max_drop=0.01, tried=["a"], earlier=("b", drop)
    ),
    "unproven": lambda drop: NotCertified(
        metric="f1", drop=drop, max_drop=0.01, upper_bound=drop, needed_examples=1200
    ),
    "unproven without a bound": lambda drop: NotCertified(
        metric="f1", drop=drop, max_drop=0.01, upper_bound=None, needed_examples=None, why="x"
    ),
    "unproven for a guess": lambda drop: NotCertified(
        metric="f1", drop=drop, max_drop=0.01, upper_bound=drop, needed_examples=None,
        uninformed="a coin would pass too",
    ),
    "goal": lambda drop: TargetMissed(
        "passes[0] (x)", goal="at most 1 MB", best=None, advice="ask for less", metric="f1",
        drop=drop, max_drop=0.01, tried=["a"],
    ),
    "mistakes": lambda drop: RecipeError([f"r.yaml:1: {drop}"], more=1),
}  # fmt: skip


@pytest.mark.parametrize("drop", [0.005, -0.0052, 0.0, 0.01], ids=str)
@pytest.mark.parametrize("make", ERRORS.values(), ids=ERRORS)
def test_every_error_about_a_score_reads_plainly(make: Callable[[float], Exception], drop: float):
    assert riddles([str(make(drop)).replace("r.yaml:1: -0.0052", "r.yaml:1: x")]) == []
