"""Hand-built runs in every state a run can end in."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from compressor.measurements import (
    Certificate,
    CertificateReading,
    Certification,
    ComponentBytes,
    EmbeddingRecord,
    Flip,
    Flops,
    Latency,
    LengthRecord,
    ModelRecord,
    Parity,
    PassRecord,
    PassTry,
    PredictionRecord,
    Score,
    Size,
    SliceRecord,
    SplitRecord,
    StepRecord,
    TargetRecord,
    Uninformed,
)
from compressor.report.run_report import RunReport

NO_OUTCOMES = np.zeros(0, dtype=np.int64)


def score(value: float, num_examples: int = 872, metric: str = "accuracy") -> Score:
    return Score(metric, value, num_examples, NO_OUTCOMES)


def latency(
    model: Any, p50_ms: float, batch_size: int, sequence_length: int | None, provider: str = "cpu"
) -> Latency:
    return Latency(
        model=model, provider=provider, batch_size=batch_size, sequence_length=sequence_length,
        p50_ms=p50_ms, p95_ms=p50_ms * 1.1, num_runs=50, threads=2,
    )  # fmt: skip


PRUNE = PassRecord(
    kind="prune_structured",
    settings={
        "ratio": 0.25,
        "importance": "taylor",
        "recovery": {"kind": "distill", "epochs": 1.0},
    },
    score_before=0.9,
    score_after=0.895,
    drop=0.005,
    size=Size(17_000_000, 17_000_000, 68_000_000, 63_000_000),
    verdict="passed",
    seconds=61.4,
    notes=("heads 12 -> 9 in each of 6 layers", "FFN neurons 1536 -> 1152 in each of 6 layers"),
    tries=(
        PassTry(
            settings={"ratio": 0.5},
            change="as the recipe says",
            score_after=0.86,
            drop=0.04,
            size=Size(14_000_000, 14_000_000, 56_000_000, 51_800_000),
            verdict="budget_exceeded",
            seconds=30.1,
            kept=False,
        ),
        PassTry(
            settings={"ratio": 0.25},
            change="ratio 0.5 -> 0.25",
            score_after=0.895,
            drop=0.005,
            size=Size(17_000_000, 17_000_000, 68_000_000, 63_000_000),
            verdict="passed",
            seconds=31.3,
            kept=True,
        ),
    ),
)
QUANTIZE = PassRecord(
    kind="quantize_dynamic",
    settings={"embeddings": True, "exclude": []},
    score_before=0.895,
    score_after=0.894,
    drop=0.006,
    size=Size(17_000_000, 16_150_000, 17_400_000, 13_200_000),
    verdict="passed",
    seconds=2.31,
    notes=("37 matrices and 3 tables stored as int8",),
)
ENVIRONMENT = {
    "python": "3.11.9",
    "platform": "Linux-6.1-x86_64",
    "cpu": {"model": "Example CPU @ 2.50GHz", "logical_cores": 2, "features": ["avx2"]},
    "gpu": None,
    "device": "cpu",
    "threads": 2,
    "seed": 7,
    "packages": {"torch": "2.13.0", "onnxruntime": "1.32.0"},
    "onnxruntime_providers": ["CPUExecutionProvider"],
    "variables": {"OMP_NUM_THREADS": "2"},
}
RECIPE = {
    "model": {"checkpoint": "example-org/minilm-sst2", "revision": None},
    "data": {"text": "sentence", "label": "label", "max_length": 128},
    "budget": {"metric": "accuracy", "max_drop": 0.01},
    "passes": [{"kind": "prune_structured", "ratio": 0.25}, {"kind": "quantize_dynamic"}],
    "export": {"provider": "cpu"},
    "benchmark": {"providers": ["cpu"], "warmup_runs": 5, "num_runs": 50},
    "seed": 7,
}
LATENCIES = (
    latency("baseline", 12.0, 1, 32),
    latency("baseline", 45.0, 1, 128),
    latency("baseline", 80.0, 8, 32),
    latency("baseline", 402.0, 8, 128),
    latency("final", 4.8, 1, 32),
    latency("final", 18.7, 1, 128),
    latency("final", 32.1, 8, 32),
    latency("final", 171.0, 8, 128),
)
SPLITS = (
    SplitRecord("train", 67_349, "train.tsv", None, "aa" * 32),
    SplitRecord("calibration", 512, "train.tsv", "train", "bb" * 32),
    SplitRecord("search", 872, "dev.tsv", None, "cc" * 32),
)


def full_report(**changes: Any) -> RunReport:
    report = RunReport(
        verdict="passed",
        reason="every gate held",
        guilty_step=None,
        recipe=RECIPE,
        recipe_name="sst2-minilm.yaml",
        task="text-classification",
        metric="accuracy",
        max_drop=0.01,
        baseline=ModelRecord(
            score(0.9),
            Size(22_700_000, 22_700_000, 90_800_000, 83_900_000),
            ComponentBytes(47_700_000, 14_200_000, 28_400_000, 500_000),
            Flops(543_744_000, 25),
        ),
        final=ModelRecord(
            score(0.894),
            Size(17_000_000, 16_150_000, 17_400_000, 13_200_000),
            ComponentBytes(11_900_000, 1_800_000, 3_600_000, 100_000),
            Flops(268_000_000, 25),
        ),
        passes=(PRUNE, QUANTIZE),
        parity=Parity(3.1e-6, 1e-3, 32, (9, 24, 128)),
        latencies=LATENCIES,
        splits=SPLITS,
        certification=Certification(score(0.91, 900), score(0.905, 900), 0.005),
        certificate=Certificate(
            verdict="inconclusive",
            metric="accuracy",
            drop=0.005,
            upper_bound=0.0123,
            lower_bound=-0.002,
            max_drop=0.01,
            confidence=0.95,
            num_examples=900,
            wins=8,
            losses=12,
            needed_examples=5400,
            method="Tango's score interval",
            data_fingerprint="dd" * 32,
            uninformed=Uninformed("a model that predicts 'positive' for everything", 0.53, 0.35),
        ),
        environment=ENVIRONMENT,
        missing={},
        seconds=143.2,
        started_at="2026-05-03T14:05:09+00:00",
        labels=("negative", "positive"),
        source_checkpoint="example-org/minilm-sst2",
        source_sha256="dd" * 32,
        source_bytes=90_800_000,
        inconclusive_allowed=True,
        certificate_readings=(
            CertificateReading(
                number=1,
                read_at="2026-05-02T09:00:00+00:00",
                data_fingerprint="dd" * 32,
                artifact_sha256="ee" * 32,
                metric="accuracy",
                num_examples=900,
                baseline=0.91,
                final=0.9,
                is_this_run=False,
            ),
            CertificateReading(
                number=2,
                read_at="2026-05-03T14:07:00+00:00",
                data_fingerprint="dd" * 32,
                artifact_sha256="ff" * 32,
                metric="accuracy",
                num_examples=900,
                baseline=0.91,
                final=0.905,
                is_this_run=True,
            ),
        ),
        steps=(
            StepRecord("baseline: score", 4.1, True),
            StepRecord("passes[0] (prune_structured)", 61.4, True),
            StepRecord("export", 15.2, False),
        ),
        damaged_steps=("the stored step 'export' was damaged and done again",),
        compared_split="certification",
        slices=SLICES,
        flips=FLIPS,
        predictions=PREDICTIONS,
        target=TargetRecord("max_megabytes", "at most 20 MB", 20.0, 17.4, True, 0, 0.5),
        embedding=None,
        chance=Uninformed("a model that predicts 'positive' for everything", 0.52),
        doubts=(),
    )
    return dataclasses.replace(report, **changes)


SLICES = (
    SliceRecord("label = negative", 450, 0.031, 0.058, 0.012, "refuted", 0.01, 0.9875, 15, 1, None),
    SliceRecord(
        "length = 1 to 7 words", 300, 0.0, 0.019, -0.019, "inconclusive", 0.01, 0.975, 3, 3, 9000
    ),
    SliceRecord("label = positive", 450, -0.01, 0.002, -0.02, "certified", 0.01, 0.983, 1, 5, None),
)
FLIPS = (
    Flip("lost", 17, "a gripping film", "positive", "positive", "negative", 0.93, 0.71, 0.64),
    Flip("lost", 803, "not bad at all", "positive", "positive", "negative", 0.61, 0.55, 0.16),
    Flip("won", 40, "two hours I want back", "negative", "positive", "negative", 0.6, 0.8, -0.4),
)


PREDICTIONS = (
    PredictionRecord(5, "a gripping film", "positive", "positive", 0.931, 0.918),
    PredictionRecord(9, "two hours I want back", "negative", "positive", 0.611, 0.583),
)
STOPPED = "the run stopped before this was measured"


def failed_before_baseline() -> RunReport:
    reason = "checkpoints/minilm: no such directory; give a directory or a Hub id"
    return full_report(
        verdict="failed", reason=reason, guilty_step="load", task=None, metric=None, baseline=None,
        final=None, passes=(), parity=None, latencies=(), splits=(),
        certification=None, certificate=None, labels=(), compared_split=None, slices=(),
        flips=(), predictions=(), target=None,
        source_sha256=None,
        source_bytes=None,
        missing=dict.fromkeys(("baseline", "final", "parity", "latencies"), STOPPED),
    )  # fmt: skip


def failed_at_second_pass() -> RunReport:
    broken = dataclasses.replace(
        QUANTIZE, score_after=None, drop=None, size=None, verdict="failed", notes=(), tries=()
    )
    return full_report(
        verdict="failed", reason="passes[1] (quantize_dynamic): no MatMul has a constant weight",
        guilty_step="passes[1] (quantize_dynamic)", final=None, passes=(PRUNE, broken),
        latencies=(), certification=None, certificate=None, compared_split="search", target=None,
        missing=dict.fromkeys(("final", "latencies"), STOPPED),
    )  # fmt: skip


def stopped_at_second_pass() -> RunReport:
    cut_short = dataclasses.replace(
        QUANTIZE, score_after=None, drop=None, size=None, verdict="stopped", notes=(), tries=()
    )
    return dataclasses.replace(
        failed_at_second_pass(), verdict="stopped", passes=(PRUNE, cut_short),
        reason="stopped by you (Ctrl-C); run the same command again to resume",
    )  # fmt: skip


def bug_at_second_pass() -> RunReport:
    cut_short = dataclasses.replace(
        QUANTIZE, score_after=None, drop=None, size=None, verdict="internal_error", tries=()
    )
    return dataclasses.replace(
        failed_at_second_pass(), verdict="internal_error", passes=(PRUNE, cut_short),
        reason="internal error in passes[1] (quantize_dynamic): KeyError: 'x'; this is a bug",
    )  # fmt: skip


def embeddings() -> RunReport:
    """Return the report of a sentence encoder, some of whose texts have other neighbours now."""
    scores = [Score("cosine", value, 872, np.zeros(872, dtype=np.int64)) for value in (1.0, 0.993)]
    report = full_report()
    assert report.baseline is not None
    assert report.final is not None
    return full_report(
        task="sentence-embedding", metric="cosine", labels=(),
        baseline=dataclasses.replace(report.baseline, score=scores[0]),
        final=dataclasses.replace(report.final, score=scores[1]),
        certification=Certification(*scores, 0.007),
        certificate=Certificate(
            "certified", "cosine", 0.007, 0.0092, 0.006, 0.01, 0.95, 872, 3, 860, None,
            "paired BCa bootstrap over texts, 9999 resamples, one loss of 1 added", "dd" * 32,
        ),
        slices=(), lengths=LengthRecord(256, 256, 64, 64, 872, 31),
        embedding=EmbeddingRecord("mean", True, "1_Pooling/config.json", 256),
        flips=(
            Flip(
                "changed", 17, "a gripping film", None, "a <thrilling> film", "a dull film", 0.913,
                0.874, 0.0213,
            ),
        ),
    )  # fmt: skip


def over_budget() -> RunReport:
    refused = dataclasses.replace(
        PRUNE.tries[1], score_after=0.85, drop=0.05, verdict="budget_exceeded", kept=False
    )
    guilty = dataclasses.replace(
        PRUNE, score_after=0.85, drop=0.05, verdict="budget_exceeded",
        tries=(PRUNE.tries[0], refused),
    )  # fmt: skip
    return full_report(
        verdict="budget_exceeded",
        reason="passes[0] (prune_structured): accuracy fell by 5 points from the baseline, the "
        "budget allows 1 point",
        guilty_step="passes[0] (prune_structured)", final=None, passes=(guilty,), parity=None,
        latencies=(), certification=None, certificate=None, compared_split="search", target=None,
        missing=dict.fromkeys(("final", "parity", "latencies"), STOPPED),
    )  # fmt: skip


def missed_goal() -> RunReport:
    candidate = dataclasses.replace(
        PRUNE.tries[1], change="ratio 0.5 -> 0.25: 22 MB, goal at most 20 MB", kept=False
    )
    searched = dataclasses.replace(PRUNE, tries=(PRUNE.tries[0], candidate))
    return full_report(
        verdict="budget_exceeded",
        reason="passes[0] (prune_structured): the goal, at most 20 MB, was not reached",
        guilty_step="passes[0] (prune_structured)", final=None, passes=(searched,), parity=None,
        latencies=(), certification=None, certificate=None, compared_split="search",
        target=TargetRecord("max_megabytes", "at most 20 MB", 20.0, 22.0, False, 0, 0.5),
        missing=dict.fromkeys(("final", "parity", "latencies"), STOPPED),
    )  # fmt: skip


def over_budget_on_certification() -> RunReport:
    return full_report(
        verdict="budget_exceeded", reason="certification: accuracy fell by 3 points",
        guilty_step="certification", latencies=(),
        certification=Certification(score(0.91, 900), score(0.88, 900), 0.03),
        inconclusive_allowed=False,
        missing={"latencies": STOPPED},
    )  # fmt: skip


def not_certified() -> RunReport:
    return full_report(
        verdict="not_certified", reason="certification: accuracy fell by 0.5 points, but all "
        "that these rows prove is a drop of at most 1.23 points", guilty_step="certification",
        inconclusive_allowed=False,
    )  # fmt: skip


def without_latencies() -> RunReport:
    return full_report(
        latencies=(), missing={"latencies": "the recipe's benchmark.providers is empty"}
    )


def without_passes() -> RunReport:
    baseline = full_report().baseline
    return full_report(passes=(), final=baseline, recipe={**RECIPE, "passes": []})


def images() -> RunReport:
    seven = "data:image/png;base64,iVBORw0KGgo="
    return full_report(
        compared_split="search",
        flips=(Flip("lost", 41, None, "7", "7", "1", 0.6, 0.8, 0.4, seven),),
        task="image-classification", labels=tuple("0123456789"),
        parity=Parity(2e-7, 1e-3, 32, ()), source_checkpoint="builtin:digits-vit",
        certification=None, certificate=None, certificate_readings=(), inconclusive_allowed=False,
        missing={"certification": "the recipe gives no certification split"},
        latencies=(latency("baseline", 0.42, 1, None), latency("final", 0.31, 1, None),
                   latency("baseline", 1.9, 8, None), latency("final", 2.2, 8, None)),
    )  # fmt: skip


def several_providers() -> RunReport:
    on_cuda = tuple(
        dataclasses.replace(
            item,
            provider="cuda",
            p50_ms=item.p50_ms / 9,
            p95_ms=item.p95_ms / 9,
            p99_ms=item.p95_ms / 8,
            cuda_graph=True,
            peak_memory_bytes=123_456_789,
        )
        for item in LATENCIES
    )
    return full_report(latencies=(*LATENCIES, *on_cuda))


def certified() -> RunReport:
    """Return the report of a run that is proven, on rows that were read for the first time."""
    report = full_report()
    assert report.certificate is not None
    return full_report(
        certificate=dataclasses.replace(
            report.certificate, verdict="certified", upper_bound=0.0087, needed_examples=None
        ),
        certificate_readings=(dataclasses.replace(report.certificate_readings[1], number=1),),
        inconclusive_allowed=False, slices=(), target=None,
    )  # fmt: skip


def uncertified() -> RunReport:
    """Return the report of a run whose recipe keeps no rows apart."""
    return full_report(
        certification=None, certificate=None, certificate_readings=(), compared_split="search",
        inconclusive_allowed=False, slices=(), target=None, rows_to_certify=1234,
        missing={"certification": "the recipe gives no certification split"},
    )  # fmt: skip


STATES: dict[str, Callable[[], RunReport]] = {
    "passed": full_report,
    "certified": certified,
    "uncertified": uncertified,
    "failed-before-baseline": failed_before_baseline,
    "failed-at-second-pass": failed_at_second_pass,
    "stopped-at-second-pass": stopped_at_second_pass,
    "bug-at-second-pass": bug_at_second_pass,
    "missed-goal": missed_goal,
    "over-budget": over_budget,
    "over-budget-on-certification": over_budget_on_certification,
    "not-certified": not_certified,
    "without-latencies": without_latencies,
    "without-passes": without_passes,
    "images": images,
    "embeddings": embeddings,
    "several-providers": several_providers,
}


@pytest.fixture
def make_report() -> Callable[..., RunReport]:
    """Return a function that builds a passed run with the given fields changed."""
    return full_report


@pytest.fixture
def passed() -> dict[str, Any]:
    return full_report().to_dict()


@pytest.fixture(params=STATES)
def any_state(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Return the report of a run in each state in turn."""
    return STATES[request.param]().to_dict()


@pytest.fixture(params=STATES)
def any_report(request: pytest.FixtureRequest) -> RunReport:
    """Return the report of a run in each state in turn, as `compressor.run` returns it."""
    return STATES[request.param]()


@pytest.fixture
def states() -> dict[str, Callable[[], RunReport]]:
    """Return what makes the report of each state."""
    return STATES


@pytest.fixture
def report_in_state() -> Callable[[str], dict[str, Any]]:
    """Return a function from the name of a state to its report."""
    return lambda name: STATES[name]().to_dict()
