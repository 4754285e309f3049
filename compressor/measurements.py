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

from compressor.environment import Cpu as Cpu
from compressor.environment import Environment as Environment
from compressor.environment import Processes as Processes
from compressor.proof import AttributionRecord as AttributionRecord
from compressor.proof import Certificate as Certificate
from compressor.proof import CertificateVerdict as CertificateVerdict
from compressor.proof import GapRecord as GapRecord
from compressor.proof import GroupError as GroupError
from compressor.proof import Uninformed as Uninformed
from compressor.stored_types import Count, Flag, Number, PerExample, Quantity
from compressor.words import counted

SCHEMA_VERSION = 1

Verdict = Literal[
    "passed", "budget_exceeded", "not_certified", "failed", "stopped", "internal_error"
]
TargetKind = Literal["max_megabytes", "speedup", "strongest"]
FlipKind = Literal["lost", "won", "changed"]
End = Literal["baseline", "final"]
Runtime = Literal["onnxruntime", "openvino"]


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
    score is their mean or, for a rank correlation, taken from them. Of hits it is 1 or 0 where a
    label is more than a class. `sums`, shape `(num_units,
    num_sums)`, is what each unit adds to the sums that the score is taken from, where it is no mean
    of numbers. A unit is what `Metric.unit` says, such as a text, a pair of texts, or a query with
    all its candidates; `units`, shape `(num_rows,)`, is the number of the unit that each example of
    the split belongs to, None where each is one. `kept` is what else the task needs of the
    examples, such as vectors.
    """

    metric: str
    """Same as `metric`."""
    value: Number
    """The score, fraction (a correlation: -1 to 1)."""
    num_examples: Count
    """Examples it was taken on."""
    # Empty in a report that was read.
    outcomes: PerExample[np.int64] = field(default_factory=_none_kept, repr=False, compare=False)
    shares: PerExample[np.float64] | None = field(default=None, repr=False, compare=False)
    sums: PerExample[np.float64] | None = field(default=None, repr=False, compare=False)
    units: PerExample[np.int64] | None = field(default=None, repr=False, compare=False)
    kept: SkipJsonSchema[Mapping[str, PerExample[Any]]] = field(
        default_factory=dict, repr=False, compare=False
    )


@dataclass(frozen=True)
class Size:
    """Three different facts about size, never merged.

    `bytes_on_disk` is the model file alone (weights and graph, no tokenizer). `compressed_bytes` is
    that file after gzip: the only place where unstructured zeros show.
    """

    parameters: Count
    """Number of parameters."""
    nonzero_parameters: Count
    """Parameters that are not zero."""
    bytes_on_disk: Count
    """The model file alone, bytes; after a PyTorch pass its weights."""
    compressed_bytes: Count | None = None
    """That file after gzip, bytes. Null: it was not compressed."""


@dataclass(frozen=True)
class ComponentBytes:
    """How many bytes of a model file each part takes; they add up to `Size.bytes_on_disk`.

    Scales of quantized weights count to their part; `other` holds the graph itself too.
    """

    embeddings: Count
    """Token, position and patch embeddings with their norm, bytes."""
    attention: Count
    """Query, key, value and output of every layer, with the norm beside them, bytes."""
    feed_forward: Count
    """Both matmuls of every layer, with the norm beside them, bytes."""
    other: Count
    """Classifier, pooler, what has no telling name, and the graph itself, bytes."""


@dataclass(frozen=True, kw_only=True)
class TimedBatch:
    """Time of one batch of a shape, after warm-up.

    `p50_ms` and the like are wall time. `cpu_p50_ms` is what the one thread of the CPU computed,
    without waiting for a core.
    """

    batch_size: Count
    """Examples in the batch."""
    sequence_length: Count | None
    """Tokens of each example. Null: inputs have no sequence."""
    p50_ms: Quantity
    """Median wall time, ms."""
    p95_ms: Quantity
    """95th percentile of it, ms."""
    num_runs: Count
    """Timed runs, after warm-up."""
    threads: Count
    """Threads of the runtime within one operator."""
    noisy: Flag = False
    """True when the runs differ so much that the machine was busy with something else: p95 above
    1.5 times p50, or medians of the earlier and the later half more than 15% apart."""
    cpu_p50_ms: Quantity | None = None
    """Median CPU time of the thread that ran the batch, ms: what it computed, without waiting for a
    core that others use. Choices by time, and the ratios on the first screen, go by it. Null:
    several threads (their CPU time would be summed work), a GPU, or the report is older than this
    key."""

    @property
    def deciding_ms(self) -> float:
        """Return the median that choices go by: of CPU time where it was measured."""
        return self.p50_ms if self.cpu_p50_ms is None else self.cpu_p50_ms


@dataclass(frozen=True, kw_only=True)
class Latency(TimedBatch):
    """Time of one batch on the provider that really ran, after warm-up.

    `p50_ms` and the like are wall time. `cpu_p50_ms` and `cpu_p95_ms` are what the one thread of
    the CPU computed, without waiting for a core; None with several threads, whose CPU time is their
    summed work, on a GPU, and in reports of before they were measured.
    """

    model: End
    """`baseline` or `final`."""
    provider: str
    """The execution provider that really ran: `cpu`, `cuda`, `tensorrt`."""
    p99_ms: Quantity | None = None
    """99th percentile of wall time, ms. Null: the report is older than this key."""
    cuda_graph: Flag = False
    """True when the kernels of this shape were recorded once as a CUDA graph and replayed
    (`benchmark.cuda_graph`)."""
    peak_memory_bytes: Count | None = None
    """The most of the GPU's memory that this model took with this batch, weights, engines and
    kernels included, bytes: by how much the memory in use grew from before its session opened to
    after a few runs. Null: on the CPU."""
    cpu_p95_ms: Quantity | None = None
    """95th percentile of CPU time, ms. Null: as for `cpu_p50_ms`."""


@dataclass(frozen=True, kw_only=True)
class RuntimeLatency(TimedBatch):
    """Time of one batch of the artifact on the CPU in one runtime; the runtimes took turns."""

    runtime: Runtime
    """`onnxruntime` or `openvino`."""
    version: str
    """Version of the runtime."""


@dataclass(frozen=True)
class Parity:
    """The largest difference between PyTorch's and ONNX Runtime's logits on real inputs."""

    max_abs_diff: Quantity
    """Largest absolute difference of a logit."""
    limit: Quantity
    """Largest difference allowed."""
    num_examples: Count
    """Inputs compared."""
    sequence_lengths: tuple[Count, ...]
    """Padded lengths of those inputs, tokens. Null: inputs have no sequence."""


@dataclass(frozen=True)
class LengthRecord:
    """How much of a text or sound the artifact reads, and what scores were taken on read."""

    checkpoint: Count | None
    """Tokens of a text, or samples of a sound, that the checkpoint reads at most. Null: it names no
    limit."""
    artifact: Count
    """Tokens or samples that the artifact reads at most."""
    measured: Count
    """Tokens or samples at which texts or sounds were cut while scores were taken."""
    longest: Count
    """Tokens or samples of the longest one that scores were taken on, after that."""
    num_examples: Count
    """Texts or sounds of the search and certification splits."""
    num_cut: Count
    """How many of them are longer than `measured`."""
    limited_by: str | None = None
    """The key of the recipe that `artifact` follows from: `export.max_length`, or the model that
    reads least of `model.checkpoint` and students, such as `passes.0.student`. Null: the report is
    older than this key, or a sound is read up to what the checkpoint reads."""
    unit: str = "token"
    """What is counted: `token` of a text, or `sample` of a sound. Null: the report is older than
    this key, and has tokens."""


@dataclass(frozen=True)
class SplitRecord:
    """Where the rows of a split came from."""

    name: str
    """`train`, `calibration`, `search` or `certification`, or the pass that learns from rows of its
    own, such as `passes[0]`."""
    num_examples: Count
    """Rows; of embeddings texts, two for each pair."""
    source: str
    """Where the rows came from."""
    cut_from: str | None
    """The split that it was cut from. Null: the recipe gives it rows of its own."""
    fingerprint: str
    """SHA-256 of its examples, labels and grades."""
    shared_with: Mapping[str, Count] = field(default_factory=dict)
    """For each other split, how many of these examples also occur in it, letter by letter; of
    candidates how many have a query that occurs in it. Empty when none do."""


@dataclass(frozen=True)
class Flops:
    """What a model computes for one example: FLOPs of the matmuls in its encoder layers.

    Counted on its ONNX file. `sequence_length` is the mean length of the search split in tokens of
    its own tokenizer, rounded; None for models without a sequence.
    """

    encoder: Count
    """FLOPs, two for each multiply-add, of the matmuls in the encoder layers: all that read
    a weight there, float or integer, and attention's scores and weighted sum; embeddings, pooler,
    classifier, norms and activation functions are left out, and so is work that the graph leaves
    out."""
    sequence_length: Count | None
    """Mean length of the search split in tokens of its own tokenizer, rounded. Null: inputs have no
    sequence."""


@dataclass(frozen=True)
class ModelRecord:
    """A model at one end of the run: how good and how big."""

    score: Score
    """On the search split."""
    size: Size
    """What the model takes."""
    components: ComponentBytes | None = None
    """Where the bytes of that file are; the four add up to `bytes_on_disk`. Null: the report is
    older than this key."""
    flops: Flops | None = None
    """What it computes for one example, counted on the ONNX file. Null: the report is older than
    this key."""

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
    """Of the untouched checkpoint."""
    final: Score
    """Of the shipped artifact."""
    drop: Number
    """Baseline value minus final value, fraction."""


@dataclass(frozen=True)
class PassTry:
    """One attempt at a pass: first the recipe's settings, then milder ones where it may repair.

    `change` says in words how its settings differ from the recipe's, "as the recipe says" for the
    first attempt.
    """

    settings: Mapping[str, object]
    """The settings of this attempt, as the pass's own keys."""
    change: str
    """How its settings differ from the recipe's, in words, such as `ratio 0.8 -> 0.6`; `as the
    recipe says` for the first; in a search, followed by what the candidate came to, such as `ratio
    0.8 -> 0.4: 9.1 MB, goal at most 10 MB`."""
    score_after: Number | None
    """Score after this attempt, fraction. Null: it failed before it could be measured."""
    drop: Number | None
    """Baseline score minus `score_after`, fraction; negative when better. Null: as above."""
    size: Size | None
    """The model after this attempt. Null: as above."""
    verdict: Verdict
    """As `passes[].verdict`; of a candidate in a search, whether this gate and all later ones held.
    """
    seconds: Quantity
    """Wall time of this attempt, s."""
    kept: Flag
    """True for the attempt that the run went on with; none when all fell short."""


@dataclass(frozen=True)
class TargetRecord:
    """The goal of `budget.target`, and how near the search came to it.

    `wanted` and `reached` are MB (10^6 bytes) for `max_megabytes`, how many times faster for
    `speedup`; for `strongest`, `reached` is MB and nothing is `wanted`. `reached` is that of the
    strongest candidate within the budget or, when the goal is met, of the one that was kept.
    """

    kind: TargetKind
    """`max_megabytes`, `speedup` or `strongest`."""
    goal: str
    """The goal in words."""
    wanted: Quantity | None
    """The figure to reach: MB (10^6 bytes) for `max_megabytes`, for `speedup` how many times as
    fast as the baseline, by `cpu_p50_ms` where that is taken, else by `p50_ms`. Null: `strongest`.
    """
    reached: Quantity | None
    """That figure for the candidate that was kept or, when the goal was missed, for the strongest
    one within the budget; MB for `strongest`. A `speedup` is what the search measured, `latencies`
    were measured again at the end. Null: no candidate was within the budget."""
    met: Flag
    """True when the run went on with a candidate."""
    position: Count
    """Of the searched pass in `passes`, the first is 0."""
    share: Quantity | None
    """Of the fraction in the recipe, that `reached` was found with, 0..1; with 0 the pass is left
    out. Null: no candidate was within the budget."""


@dataclass(frozen=True)
class SliceRecord:
    """What is proven about the accuracy of one group of examples; words as in `Certificate`.

    `confidence` is the one that Holm's correction tested this slice with.
    """

    name: str
    """Such as `label = positive`, `length = 1 to 7 words`, `source = web`."""
    num_examples: Count
    """Examples in it."""
    drop: Number
    """Observed drop in accuracy (of `agreement`: changed predictions; of embeddings: in the
    metric), fraction; negative for a gain."""
    upper_bound: Number
    """One-sided upper bound of the drop, fraction."""
    lower_bound: Number
    """One-sided lower bound of the drop, fraction."""
    verdict: CertificateVerdict
    """`certified`, `refuted` or `inconclusive`, as in `certificate`."""
    max_drop: Quantity
    """Largest drop allowed: `budget.max_slice_drop`, or `max_drop` where there is none."""
    confidence: Quantity
    """That each bound was taken with, fraction; Holm's correction over all slices (of embeddings:
    Bonferroni's) raises it."""
    losses: Count
    """Examples right before and wrong after."""
    wins: Count
    """Examples wrong before and right after."""
    needed_examples: Count | None
    """As in `certificate`. Null: it is settled, or no number would do."""


@dataclass(frozen=True)
class RecallRecord:
    """How much of one class or type of entity is missed now, and what is proven about it.

    What is there is what the labels say (`max_recall_drop`) or what the untouched checkpoint found
    (`max_missed`). `confidence` is the one that Holm's correction tested this kind with.
    """

    kind: str
    """Name of the class or type of entity."""
    budget: Literal["max_missed", "max_recall_drop"]
    """Which budget it is judged by."""
    there: Count
    """How many there are."""
    before: Count
    """How many of them the untouched checkpoint finds."""
    after: Count
    """How many of them the compressed model finds."""
    num_units: Count
    """Examples or documents that hold at least one."""
    drop: Number
    """(`before` - `after`) / `there`; 0 where there are none."""
    upper_bound: Number
    """One-sided upper bound of the drop, fraction."""
    lower_bound: Number
    """One-sided lower bound of the drop, fraction."""
    verdict: CertificateVerdict
    """`certified`, `refuted` or `inconclusive`, as in `certificate`."""
    max_drop: Quantity
    """Largest drop allowed."""
    confidence: Quantity
    """That each bound was taken with, fraction."""
    needed_units: Count | None
    """How many examples or documents that hold at least one would settle it with a chance of 80%.
    Null: it is settled, or no number would do."""


@dataclass(frozen=True)
class Flip:
    """An example that the untouched checkpoint and the compressed model predict differently.

    `lost` was right and is wrong now, `won` is the reverse; `changed` stands where no labels say
    what is right. Confidence is the probability that a model gave its own prediction, in 0..1.
    """

    kind: FlipKind
    """`lost`: right before and wrong after; `won`: the reverse; `changed`: the prediction changed
    and no label says which is right."""
    row: Count
    """Row of the split's source, the first is 0; the numbers of `splits.json`."""
    text: str | None
    """The example, a pair on two lines, at most 400 characters. Null: it is an image, or the
    recipe's `report.examples` is false."""
    label: str | None
    """Name of the right label. Null: kind `changed`."""
    before: str
    """Prediction of the untouched checkpoint, a label name; of embeddings the nearest text, or
    `row N` where texts are left out."""
    after: str
    """Prediction of the compressed model, likewise."""
    before_confidence: Number | None
    """Probability that the untouched checkpoint gave its prediction, fraction; of embeddings the
    cosine similarity to that text. Null: it was not kept."""
    after_confidence: Number | None
    """Probability that the compressed model gave its prediction, fraction; of embeddings as above.
    Null: it was not kept."""
    lost_confidence: Number | None
    """How far the probability of `label` (of `changed`: of `before`) fell, fraction; negative for a
    gain; of embeddings how far the vector moved: 1 minus the cosine similarity of old and new.
    Null: it was not kept."""
    image: str | None = None
    """A PNG of at most 64x64 pixels as a data URI. Null: it is a text, not among the worst 50, or
    the recipe's `report.examples` is false."""


@dataclass(frozen=True)
class PredictionRecord:
    """What the untouched checkpoint and the finished artifact say of one example, a few of a run.

    Of a classifier its label and how probable that is; of a sentence encoder the nearest other text
    of the split and its cosine similarity.
    """

    row: Count
    """Row of the split's source, the first is 0."""
    text: str | None
    """As `flips[].text`. Null: as there."""
    before: str
    """Label that the untouched checkpoint predicts; of embeddings the nearest other text, or `row
    N` where texts are left out."""
    after: str
    """Likewise of the artifact."""
    before_score: Number | None
    """Probability of that label, fraction; of embeddings the cosine similarity to that text; four
    decimals. Null: it was not kept."""
    after_score: Number | None
    """Likewise of the artifact."""
    label: str | None = None
    """Name of the right label. Null: the split has none."""
    image: str | None = None
    """As `flips[].image`. Null: it is a text, or the recipe's `report.examples` is false."""


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
    """The word in the recipe."""
    settings: Mapping[str, object]
    """The settings that it ran with, defaults filled in, as the pass's own keys; of several tries
    those that were kept, or that lost least."""
    score_before: Number
    """Score before the pass, fraction."""
    score_after: Number | None
    """Score after the pass, fraction. Null: the pass failed."""
    drop: Number | None
    """Baseline score minus `score_after`, fraction; negative when better. Null: the pass failed."""
    size: Size | None
    """The model after the pass. Null: the pass failed."""
    verdict: Verdict
    """`passed`, `budget_exceeded`, `failed`, `stopped` or `internal_error`."""
    seconds: Quantity
    """Wall time of the pass, s."""
    notes: tuple[str, ...] = ()
    """What the pass says about its work. Null: it says nothing."""
    facts: Mapping[str, object] = field(default_factory=dict)
    """The same as plain data, by name; each pass documents its own. Null: it records nothing."""
    tries: tuple[PassTry, ...] = ()
    """Every attempt at this pass, in order: the recipe's settings first, then milder ones where it
    may repair; for the pass that `budget.target` searches, every candidate. Null: the run is from a
    version that did not record them."""
    reused: Flag = False
    """True when an earlier run into the same directory had done this pass; `seconds` is what it
    took then."""


@dataclass(frozen=True)
class EmbeddingRecord:
    """How a sentence encoder makes a vector of the states of a text's tokens."""

    pooling: str
    """How states become one vector: `mean` of those of all tokens, `cls` or `lasttoken`, that of
    the first or last one, `max`, `mean_sqrt_len_tokens`, `weightedmean`, or several with `+`
    between them, whose vectors are concatenated."""
    normalize: Flag
    """True when vectors are scaled to length 1."""
    source: (
        str | None
    )  # the checkpoint's file that says so; null where the recipe or a default does
    """The checkpoint's file that says so. Null: the recipe or its defaults say so."""
    max_length: Count | None
    """Tokens of a text that the checkpoint's files allow. Null: they do not say."""
    dense: tuple[str, ...] = ()
    """The linear layers after pooling, such as `768 to 256, tanh`."""
    prompts: Mapping[str, str] = field(default_factory=dict)
    """Texts that the checkpoint reads before others, by their names."""
    default_prompt: str | None = None
    """The name of the prompt before every text of which nothing else is said. Null: there is no
    such prompt."""


@dataclass(frozen=True)
class OwnCodeRecord:
    """A function of the user's own that the run called."""

    key: str
    """Where the recipe names it: `budget.metric` or `data.preprocess`."""
    function: str
    """File, without its folder, and function, such as `my_metric.py:ndcg`."""
    sha256: str
    """SHA-256 of the file that ran."""


@dataclass(frozen=True)
class StepRecord:
    """One stored step of the run; `seconds` is what it took when it was really done."""

    name: str
    """Such as `baseline: score`, `passes[0] (kind)`, `export`."""
    seconds: Quantity
    """Wall time when the step was really done, s."""
    reused: Flag
    """True when an earlier run into the same directory had done it."""


@dataclass(frozen=True)
class CertificateReading:
    """One result that was ever read off a certification split, in this output directory.

    A split proves what it proves for the first model that is read on it. Whoever changes the recipe
    and reads the same rows again begins to choose by them; `number` counts those results from 1.
    """

    number: Count
    """1 for the first result read off these rows."""
    read_at: str
    """When, ISO 8601 in UTC."""
    data_fingerprint: str
    """As `certificate.data_fingerprint`."""
    artifact_sha256: str
    """SHA-256 over the files that ship, without model card and manifest."""
    metric: str
    """Name of the score."""
    num_examples: Count
    """Examples it was taken on."""
    baseline: Number
    """Score of the untouched checkpoint, fraction."""
    final: Number
    """Score of the artifact, fraction."""
    is_this_run: Flag
    """True for the one that this report speaks of."""


@dataclass(frozen=True)
class RunReport:
    """Everything a run found out; what is not known is null, with the reason in `missing`."""

    verdict: Verdict
    """`passed`, `budget_exceeded`, `not_certified` (within the budget on all rows, but the
    certification split does not prove it), `failed`, `stopped` (from outside, such as by Ctrl-C) or
    `internal_error` (a bug in compressor)."""
    reason: str
    """One sentence: why the verdict; of a stopped run who stopped it, and after a semicolon how it
    resumes."""
    guilty_step: str | None
    """The step that failed or broke the budget: `load`, `baseline`, `passes[0] (kind)`, `export`,
    `artifact`, `certification`, `benchmark`, `slices`, `gaps`, `seal`. Null: the run passed."""
    recipe: Mapping[str, object]
    """The resolved recipe: with defaults and overrides, as the recipe's own keys."""
    recipe_name: str
    """Name of the recipe file."""
    task: str | None
    """The task, by its name in a recipe. Null: the checkpoint was not read."""
    metric: str | None
    """Name of the score, as `budget.metric` has it. Null: the checkpoint was not read."""
    max_drop: Quantity
    """The budget: largest drop below the baseline, fraction."""
    baseline: ModelRecord | None
    """The untouched checkpoint. Null: it was not measured."""
    final: ModelRecord | None
    """The shipped artifact, measured from its own file. Null: the run stopped before."""
    passes: tuple[PassRecord, ...]
    """One entry for each pass that was begun, in the recipe's order. Null: no pass was begun."""
    parity: Parity | None
    """Exported file against PyTorch, on real inputs. Null: the run stopped before."""
    latencies: tuple[Latency, ...]
    """Wall time of one batch; one entry for each model, provider, batch size and length. Null:
    `benchmark.providers` is empty, or the run stopped before."""
    splits: tuple[SplitRecord, ...]
    """The data that was read. Null: the data was not read."""
    certification: Certification | None
    """Both ends of the run on the certification split, read once, at the end. Null: there is no
    such split, or the run stopped before."""
    environment: Environment
    """What makes a number repeatable."""
    missing: Mapping[str, str]
    """Reason for each thing that was not measured; the key is its path, such as `latencies` or
    `passes[0].score_after`. Null: nothing is missing."""
    seconds: Quantity
    """Wall time of this call, s; what steps of an earlier run took is in `steps[]`."""
    started_at: str
    """Start of the run, ISO 8601 in UTC."""
    labels: tuple[str, ...] = ()
    """Label names in the order of the logits. Null: the checkpoint was not read, or gives vectors.
    """
    source_checkpoint: str = ""
    """The directory or Hub id that the recipe names."""
    source_sha256: str | None = None
    """SHA-256 of the checkpoint's weight files. Null: the checkpoint was not read."""
    source_bytes: Count | None = None
    """What the weight files of the checkpoint take on disk, bytes; ratios of sizes are taken to
    this. Null: the checkpoint was not read, or the report is older than this key."""
    certificate: Certificate | None = None
    """What the certification split proves about the drop. Null: there is no such split, the run
    stopped before, or `missing` says why no bound exists."""
    inconclusive_allowed: Flag = False
    """True when the run was told to go on (`--allow-inconclusive`) and the certification split did
    not prove the budget."""
    compared_split: str | None = None
    """The split that `slices` and `flips` were found on: `certification` where one was read,
    otherwise `search`. Null: no compressed model was scored."""
    slices: tuple[SliceRecord, ...] = ()
    """Groups of examples judged by themselves, on `compared_split`; refuted ones first, then by
    their drop. Null: the recipe's `budget.slices` is empty, or the run stopped before."""
    gaps: tuple[GapRecord, ...] = ()
    """How unlike the groups of each entry of `budget.slices` fared, on `compared_split`; those with
    one group are left out. Null: as `slices`."""
    recalls: tuple[RecallRecord, ...] = ()
    """What must not be missed, each class or type of entity by itself, on `compared_split`; the
    worst first. Null: the recipe has neither `budget.max_missed` nor `budget.max_recall_drop`, or
    the run stopped before."""
    attributions: AttributionRecord | None = None
    """How far what predictions rest on stayed, on rows of `compared_split`. Null: the recipe has no
    `budget.min_attribution_agreement`, or the run stopped before."""
    flips: tuple[Flip, ...] = ()
    """Every example that one of both ends predicts rightly and the other wrongly; of embeddings
    every text that has another nearest neighbour among the split's other texts, those first whose
    vector moved most; for a run that a gate stopped, the model that the gate refused. Worst first:
    `lost` by `lost_confidence`, then `won`. Null: no prediction changed."""
    certificate_readings: tuple[CertificateReading, ...] = ()
    """Every different result that was read off these certification rows in this output directory,
    oldest first; the second and later ones were read after the first could have been seen. Null: no
    certification split was read."""
    steps: tuple[StepRecord, ...] = ()
    """The stored steps in the order they were needed; a stopped run resumes after the last of them.
    Null: the data was not read."""
    damaged_steps: tuple[str, ...] = ()
    """What was stored but not as it was written, and so was done again; one sentence each. Null:
    nothing was damaged."""
    target: TargetRecord | None = None
    """The goal of `budget.target`, and how near the search came to it. Null: the recipe asks for
    none, or the run stopped before."""
    embedding: EmbeddingRecord | None = None
    """How a sentence encoder makes a vector of a text. Null: the task gives no vectors, or the
    checkpoint was not read."""
    thresholds: Mapping[str, Quantity] = field(default_factory=dict)
    """From which probability on each label is predicted, by its name, where any number of labels
    can hold; the same at both ends. Null: one half for all, or the task has no such labels."""
    chance: Uninformed | None = None
    """The best of the models that know nothing of their input, on the search split; keys as in
    `certificate.uninformed`. Null: the run stopped before."""
    doubts: tuple[str, ...] = ()
    """What speaks against taking the scores for proof, a sentence each, without its full stop.
    Null: nothing does."""
    lengths: LengthRecord | None = None
    """How long a text or sound the artifact reads, and up to which length it was measured. Null:
    the task reads images or the model sounds of any length, or the run stopped before."""
    rows_to_certify: Count | None = None
    """About how many rows of their own, in `data.certification`, would prove the budget with a
    chance of 80%, if they lost what the search split lost. Null: there is such a split, no number
    would do, the run stopped before, or the report is older than this key."""
    predictions: tuple[PredictionRecord, ...] = ()
    """What both ends say of a few rows of `search`, chosen by the untouched checkpoint's
    predictions; the artifact was loaded as its user loads it. Null: the artifact was not finished,
    or `missing` says why."""
    runtimes: tuple[RuntimeLatency, ...] = ()
    """What the artifact takes in each runtime of `benchmark.runtimes`, for each batch size and
    length. Null: the recipe names none, or the run stopped before."""
    own_code: tuple[OwnCodeRecord, ...] = ()
    """Functions of the user's own that numbers of this report come from, allowed by
    `--allow-code`. Null: the recipe names none."""
    schema_version: Count = SCHEMA_VERSION
    """Version of this description: 1."""

    def model(self, end: End) -> ModelRecord | None:
        """Return the model at one end of the run; None where it was not measured."""
        return self.baseline if end == "baseline" else self.final
