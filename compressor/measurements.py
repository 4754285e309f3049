"""The facts that a run establishes: frozen values without behaviour, shared by everyone.

They are what `report.json` holds, in the order of the fields; `compressor.report.report_json`
writes it, and reads it by these annotations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic.json_schema import SkipJsonSchema

from compressor.proof import Certificate as Certificate
from compressor.proof import CertificateVerdict as CertificateVerdict
from compressor.proof import Uninformed as Uninformed
from compressor.stored_types import Count, Flag, Number, PerExample, Quantity
from compressor.words import counted

SCHEMA_VERSION = 1

Verdict = Literal[
    "passed", "budget_exceeded", "not_certified", "failed", "stopped", "internal_error"
]
# Metrics that need no labels, because they compare with the untouched checkpoint's outputs on the
# same examples: of a classifier the share of equal answers, of embeddings the mean cosine
# similarity and the mean share of nearest neighbours that stay.
AGREEMENT = "agreement"
COSINE = "cosine"
RANK_AGREEMENT = "rank_agreement"
LABEL_FREE = frozenset({AGREEMENT, COSINE, RANK_AGREEMENT})
# The rank correlation of pairs' cosine similarities with the grades that people gave them.
SPEARMAN = "spearman"
# Metrics to which an example contributes a number, so that a score moves by less than an example.
OF_NUMBERS = frozenset({COSINE, RANK_AGREEMENT, SPEARMAN})
TargetKind = Literal["max_megabytes", "speedup", "strongest"]
FlipKind = Literal["lost", "won", "changed"]
End = Literal["baseline", "final"]


def _none_kept() -> NDArray[np.int64]:
    return np.zeros(0, dtype=np.int64)


@dataclass(frozen=True)
class Score:
    """How well a model does on a split; higher is better for every metric.

    `outcomes` has shape `(num_examples,)`: the predicted class of each example, in the order of the
    split, so that the scores of two models can be paired example by example. Whatever the task, two
    models predict the same for an example where their outcomes are equal: of embeddings they are
    each text's nearest neighbour among the split's other texts, as their position.

    `shares`, shape `(num_examples,)`, is what each example contributes, where that is a number: the
    score is their mean or, for a rank correlation, taken from them; an example is a text, or for
    `spearman` a pair of them. `kept` is what else the task needs of the examples, such as vectors.
    """

    metric: str
    value: Number
    num_examples: Count
    # Empty in a report that was read.
    outcomes: PerExample[np.int64] = field(default_factory=_none_kept, repr=False, compare=False)
    shares: PerExample[np.float64] | None = field(default=None, repr=False, compare=False)
    kept: SkipJsonSchema[Mapping[str, PerExample[Any]]] = field(
        default_factory=dict, repr=False, compare=False
    )


# What a score holds of every single example; `report.json` has the flips instead.
PER_EXAMPLE = frozenset({"outcomes", "shares", "kept"})


@dataclass(frozen=True)
class Size:
    """Three different facts about size, never merged.

    `bytes_on_disk` is the model file alone (weights and graph, no tokenizer). `compressed_bytes` is
    that file after gzip: the only place where unstructured zeros show.
    """

    parameters: Count
    nonzero_parameters: Count
    bytes_on_disk: Count
    compressed_bytes: Count | None = None


@dataclass(frozen=True)
class ComponentBytes:
    """How many bytes of a model file each part takes; they add up to `Size.bytes_on_disk`.

    Scales of quantized weights count to their part; `other` holds the graph itself too.
    """

    embeddings: Count
    attention: Count
    feed_forward: Count
    other: Count


@dataclass(frozen=True)
class Latency:
    """Time of one batch on the provider that really ran, after warm-up.

    `p50_ms` and the like are wall time. `cpu_p50_ms` and `cpu_p95_ms` are what the one thread of
    the CPU computed, without waiting for a core; None with several threads, whose CPU time is their
    summed work, on a GPU, and in reports of before they were measured.
    """

    model: End
    provider: str
    batch_size: Count
    sequence_length: Count | None  # None for models without a sequence, such as image classifiers
    p50_ms: Quantity
    p95_ms: Quantity
    num_runs: Count
    threads: Count
    noisy: Flag = False  # the runs differ so much that the machine was busy with something else
    p99_ms: Quantity | None = None  # null in reports of before it was measured
    cuda_graph: Flag = False  # kernels were recorded once and replayed
    peak_memory_bytes: Count | None = None  # of the GPU; null on the CPU
    cpu_p50_ms: Quantity | None = None
    cpu_p95_ms: Quantity | None = None

    @property
    def deciding_ms(self) -> float:
        """Return the median that choices go by: of CPU time where it was measured."""
        return self.p50_ms if self.cpu_p50_ms is None else self.cpu_p50_ms


@dataclass(frozen=True)
class Parity:
    """The largest difference between PyTorch's and ONNX Runtime's logits on real inputs."""

    max_abs_diff: Quantity
    limit: Quantity
    num_examples: Count
    sequence_lengths: tuple[Count, ...]


@dataclass(frozen=True)
class LengthRecord:
    """How many tokens of a text are read by the artifact, and were by what scores were taken on."""

    checkpoint: Count | None  # null where the checkpoint names no limit
    artifact: Count
    measured: Count  # where texts were cut while scores were taken
    longest: Count  # of the longest text after that
    num_examples: Count
    num_cut: Count  # texts that lost tokens by it
    # Key of the recipe that `artifact` follows from; null in reports of before it was told.
    limited_by: str | None = None


@dataclass(frozen=True)
class SplitRecord:
    """Where the rows of a split came from."""

    name: str
    num_examples: Count
    source: str
    cut_from: str | None  # the split it was cut from, when the recipe did not give it
    fingerprint: str  # SHA-256 of its examples and labels
    # How many of its examples also occur, letter by letter, in other splits of the run.
    shared_with: Mapping[str, Count] = field(default_factory=dict)


@dataclass(frozen=True)
class Flops:
    """What a model computes for one example: FLOPs of the matrix products in its encoder layers.

    Counted on its ONNX file. `sequence_length` is the mean length of the search split in tokens of
    its own tokenizer, rounded; None for models without a sequence.
    """

    encoder: Count
    sequence_length: Count | None


@dataclass(frozen=True)
class ModelRecord:
    """A model at one end of the run: how good and how big."""

    score: Score
    size: Size
    components: ComponentBytes | None = None  # null in reports of before it was measured
    flops: Flops | None = None  # likewise

    @property
    def summary(self) -> str:
        """Return both in one line; one megabyte is 10^6 bytes."""
        score = f"{self.score.metric} {self.score.value:.4f}"
        examples = counted(self.score.num_examples, "example")
        return f"{score} on {examples}, {self.size.bytes_on_disk / 1e6:.2f} MB"


@dataclass(frozen=True)
class Certification:
    """Both ends of the run on the certification split, read once, when all choices were made."""

    baseline: Score
    final: Score
    drop: Number  # baseline value minus final value


@dataclass(frozen=True)
class PassTry:
    """One attempt at a pass: first the recipe's settings, then milder ones where it may repair.

    `change` says in words how its settings differ from the recipe's, "as the recipe says" for the
    first attempt.
    """

    settings: Mapping[str, object]
    change: str
    score_after: Number | None
    drop: Number | None  # baseline score minus score_after
    size: Size | None
    verdict: Verdict
    seconds: Quantity
    kept: Flag  # its model is the one that the run went on with


@dataclass(frozen=True)
class TargetRecord:
    """The goal of `budget.target`, and how near the search came to it.

    `wanted` and `reached` are MB (10^6 bytes) for `max_megabytes`, how many times faster for
    `speedup`; for `strongest`, `reached` is MB and nothing is `wanted`. `reached` is that of the
    strongest candidate within the budget or, when the goal is met, of the one that was kept.
    """

    kind: TargetKind
    goal: str  # in words
    wanted: Quantity | None
    reached: Quantity | None  # None when no candidate was within the budget
    met: Flag
    position: Count  # of the pass whose fraction was searched, the first is 0
    share: Quantity | None  # of the fraction in the recipe for `reached`; 0: left out


@dataclass(frozen=True)
class SliceRecord:
    """What is proven about the accuracy of one group of examples; words as in `Certificate`.

    `confidence` is the one that Holm's correction tested this slice with.
    """

    name: str  # such as "label = positive"
    num_examples: Count
    drop: Number
    upper_bound: Number
    lower_bound: Number
    verdict: CertificateVerdict
    max_drop: Quantity
    confidence: Quantity
    losses: Count
    wins: Count
    needed_examples: Count | None


@dataclass(frozen=True)
class Flip:
    """An example that the untouched checkpoint and the compressed model answer differently.

    `lost` was right and is wrong now, `won` is the reverse; `changed` stands where no labels say
    what is right. Confidence is the probability that a model gave its own answer, in 0..1.
    """

    kind: FlipKind
    row: Count  # of the split's source, the first is 0; `splits.json` uses the same numbers
    text: str | None  # cut when it is long; None for an image, and where examples are left out
    label: str | None  # None for `changed`
    before: str
    after: str
    before_confidence: Number | None
    after_confidence: Number | None
    # How far the probability of the right label fell, of `changed` that of the old answer.
    lost_confidence: Number | None
    image: str | None = None  # a small PNG as a data URI, of the worst flips of images only


@dataclass(frozen=True)
class PredictionRecord:
    """What the untouched checkpoint and the finished artifact say of one example, a few of a run.

    Of a classifier its label and how probable that is; of a sentence encoder the nearest other text
    of the split and its cosine similarity.
    """

    row: Count  # of the split's source, the first is 0
    text: str | None  # as in `Flip`
    before: str
    after: str
    before_score: Number | None
    after_score: Number | None
    label: str | None = None  # the right one, where the split has labels of classes
    image: str | None = None  # as in `Flip`


@dataclass(frozen=True)
class LayerSensitivity:
    """What converting one layer alone costs, an entry of `facts.sensitivity` of a pass."""

    name: str
    logit_rms: Quantity  # how far the logits move
    bytes_saved: int
    kept_in_float: Flag
    converted_to: str = "int8"


@dataclass(frozen=True)
class PassRecord:
    """What one pass did; `score_after` is null when it failed before it could be measured."""

    kind: str
    settings: Mapping[str, object]
    score_before: Number
    score_after: Number | None
    drop: Number | None  # baseline score minus score_after
    size: Size | None
    verdict: Verdict
    seconds: Quantity
    notes: tuple[str, ...] = ()
    facts: Mapping[str, object] = field(default_factory=dict)  # plain JSON, by name
    tries: tuple[PassTry, ...] = ()  # every attempt, in the order they were made
    reused: Flag = False  # taken from an earlier run into the same directory; `seconds` are those


@dataclass(frozen=True)
class EmbeddingRecord:
    """How a sentence encoder makes a vector of the states of a text's tokens."""

    pooling: str  # mean of all tokens, or cls, the first one
    normalize: Flag  # whether vectors have length 1
    source: (
        str | None
    )  # the checkpoint's file that says so; null where the recipe or a default does
    max_length: Count | None  # tokens that the checkpoint's files allow; null where they do not say


@dataclass(frozen=True)
class StepRecord:
    """One stored step of the run; `seconds` is what it took when it was really done."""

    name: str
    seconds: Quantity
    reused: Flag  # taken from an earlier run into the same directory


@dataclass(frozen=True)
class CertificateReading:
    """One result that was ever read off a certification split, in this output directory.

    A split proves what it proves for the first model that is read on it. Whoever changes the recipe
    and reads the same rows again begins to choose by them; `number` counts those results from 1.
    """

    number: Count
    read_at: str  # ISO 8601, UTC
    data_fingerprint: str
    artifact_sha256: str  # over the files that ship, manifest and model card aside
    metric: str
    num_examples: Count
    baseline: Number
    final: Number
    is_this_run: Flag


@dataclass(frozen=True)
class RunReport:
    """Everything a run found out; what is not known is null, with the reason in `missing`."""

    verdict: Verdict
    reason: str  # one sentence: why the verdict
    guilty_step: str | None  # the step that failed or broke the budget
    recipe: Mapping[str, object]
    recipe_name: str
    task: str | None
    metric: str | None
    max_drop: Quantity
    baseline: ModelRecord | None
    final: ModelRecord | None
    passes: tuple[PassRecord, ...]
    parity: Parity | None
    latencies: tuple[Latency, ...]
    splits: tuple[SplitRecord, ...]
    certification: Certification | None  # null when the recipe gives no certification split
    environment: Mapping[str, object]
    missing: Mapping[str, str]
    seconds: Quantity
    started_at: str  # ISO 8601, UTC
    labels: tuple[str, ...] = ()
    source_checkpoint: str = ""
    source_sha256: str | None = None
    source_bytes: Count | None = None  # of the weight files given; null before they were counted
    certificate: Certificate | None = None  # null without a certification split
    inconclusive_allowed: Flag = False  # the user accepted that the budget is not proven
    compared_split: str | None = None  # that `slices` and `flips` were found on
    slices: tuple[SliceRecord, ...] = ()  # worst first
    flips: tuple[Flip, ...] = ()  # worst first: lost ones by `lost_confidence`, then won ones
    certificate_readings: tuple[CertificateReading, ...] = ()  # of these rows, oldest first
    steps: tuple[StepRecord, ...] = ()  # in the order they were needed
    damaged_steps: tuple[str, ...] = ()  # what was stored, found damaged, and done again
    target: TargetRecord | None = None  # null when the recipe asks for no goal
    embedding: EmbeddingRecord | None = None  # null for a task that gives no vectors
    chance: Uninformed | None = None  # on the search split; null in reports of before it was asked
    doubts: tuple[str, ...] = ()  # what speaks against taking the scores for proof, in sentences
    lengths: LengthRecord | None = None  # null for images, and where the run stopped before
    rows_to_certify: Count | None = None  # that would prove the budget; null with such a split
    predictions: tuple[PredictionRecord, ...] = ()  # on search rows, by the finished artifact
    schema_version: Count = SCHEMA_VERSION

    def model(self, end: End) -> ModelRecord | None:
        """Return the model at one end of the run; None where it was not measured."""
        return self.baseline if end == "baseline" else self.final
