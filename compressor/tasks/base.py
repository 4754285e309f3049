"""The interface of a task: how examples become inputs, and what becomes of a model's outputs.

A task is one file in this folder with one `Task` subclass, listed in `compressor.tasks`. A task
owns its outputs: `output` names them in the PyTorch module and in the ONNX graph, `collect` makes
one typed value of many batches, `score`, `changed` and `error` compare it, and `predictions` is
what a user of an artifact gets of it. Nothing else in the package asks which kind of outputs it
has.

A model gives one array, whose first axis is the batch. Where the class of transformers gives
several, such as starts and ends of spans, the task wraps it in a module that stacks them.

No task imports torch at the top of a file, because a shipped artifact uses tasks where torch is not
installed.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray

from compressor.errors import RecipeError, StepFailed
from compressor.measurements import FlipKind, Score
from compressor.tasks.columns import Columns
from compressor.tasks.examples import Batch as Batch
from compressor.tasks.examples import Example, texts_of
from compressor.tasks.explained import Explained
from compressor.tasks.head import ConfigFile, HasShape
from compressor.tasks.metrics import Metric
from compressor.tasks.outputs import UNLABELLED, LabelArray, Outputs, Positions, Rows, one_each
from compressor.tasks.pooling import Pooling
from compressor.tasks.report_words import ReportWords

if TYPE_CHECKING:
    from torch import Tensor, nn

    from compressor.tasks.losses import Losses

DRAWS = 19  # of a random guess; one in twenty does better than the best of them


@dataclass(frozen=True)
class Truth:
    """What a model's outputs on a split are compared with; what the split does not have is None.

    `labels`, shape `(num_examples,)`, are class ids, or what the task's columns make of a cell
    (dtype object). `grades`, shape `(num_examples / 2,)`, say how similar two neighbouring texts
    are, the more the higher. `reference` is the untouched checkpoint's score on the same examples.
    `groups`, shape `(num_examples,)`, are the numbers, from 0 on, of what examples belong to, such
    as a query.
    """

    examples: Sequence[Example]
    labels: LabelArray | None = None
    grades: NDArray[np.float64] | None = None
    reference: Score | None = None
    groups: NDArray[np.int64] | None = None


@dataclass(frozen=True)
class Findings:
    """How much of one kind was there, and how much of it two models found, unit by unit.

    All have shape `(num_units,)`: for a class 0 or 1 of each example, for entities of one type how
    many a document has. `before` is what the untouched checkpoint found of what was `there`.
    """

    there: NDArray[np.int64]
    before: NDArray[np.int64]
    after: NDArray[np.int64]


@dataclass(frozen=True)
class Guess:
    """The score of a model that knows nothing of its input; `who` names the model."""

    who: str
    score: Score


@dataclass(frozen=True)
class Comparison:
    """What two models predict for one example, for people: in words, and how sure they are.

    `position` is the example's in its split. What a model predicts may itself be an example, which
    is then named by its position. `lost` is how much surer the first was of what is right.
    """

    position: int
    before: str | int
    after: str | int
    before_score: float | None
    after_score: float | None
    label: str | None = None  # what is right, where that is known
    kind: FlipKind = "changed"
    lost: float | None = None


@dataclass(frozen=True)
class Tokens:
    """The tokens of examples, one after the other.

    `ids` has shape `(num_tokens,)`; `types`, of the same shape, says of which text of a pair each
    token is, None where a model does not read it. `ends`, shape `(num_examples,)`, is where each
    example ends, `counts` how many tokens it has before it is cut.
    """

    ids: NDArray[np.int32]
    types: NDArray[np.uint8] | None
    ends: NDArray[np.int64]
    counts: NDArray[np.integer[Any]]


Predict = Callable[[Sequence[Example]], Any]  # examples to what `Task.predictions` gives


# labels: there is a loss on labels; logits: outputs are logits, which a temperature softens;
# own_width: outputs stay as wide as they are when the hidden size changes; vectors: the last
# numbers of an output may be left out; classes: a label is one class of several; mixes: two
# examples may be mixed into one of both labels; blends: of two mixed examples a model gives one
# output, which a teacher can be asked for; pixels: examples are images;
# margins: rows of one group are told apart by one number.
Ability = Literal[
    "labels", "logits", "own_width", "vectors", "classes", "mixes", "blends", "pixels", "margins"
]


@dataclass(frozen=True)
class OutputForm:
    """What a model says of its outputs: the names of its labels, if any, and its configuration."""

    labels: tuple[str, ...]
    config: Any  # of transformers


@dataclass(frozen=True)
class Task(Explained, ABC):
    """One kind of problem; `max_length` cuts token sequences (None: the tokenizer's limit)."""

    max_length: int | None = None

    name: ClassVar[str]
    head: ClassVar[str]  # how the names of transformers architectures for this task end
    other_heads: ClassVar[tuple[str, ...]] = ()  # how others of them end
    has_head: ClassVar[bool] = True  # which a checkpoint is saved with
    names_labels: ClassVar[bool] = True  # the head has label names
    main_input: ClassVar[str]  # what transformers calls it: input_ids, pixel_values
    other_inputs: ClassVar[tuple[str, ...]] = ()  # what some model types call it
    preprocessor_name: ClassVar[str]  # tokenizer or image processor
    output: ClassVar[str]  # the name of the one array that the model gives
    # What transformers calls the parts of it along its last axis, where it gives them apart.
    output_parts: ClassVar[tuple[str, ...]] = ()
    output_words: ClassVar[str]  # what people call it: logits, vectors
    input_column: ClassVar[str]  # the key under `data` that names the input column
    metrics: ClassVar[tuple[Metric, ...]]  # the first is the default
    words: ClassVar[ReportWords]  # how a report speaks of predictions
    reads_tokens: ClassVar[bool]  # whether inputs have a token axis that can be padded
    # How far numbers that `light_preprocessor` gives may be from those of transformers.
    light_difference: ClassVar[float] = 0.0
    abilities: ClassVar[frozenset[Ability]] = frozenset()  # what passes may ask for
    finds: ClassVar[str | None] = None  # what is found or missed, such as "class"; None: nothing is
    # Whether outputs have an axis of tokens, so that models are compared on the same tokens alone.
    per_token: ClassVar[bool] = False
    # Whether what a model says of words tells a model what to say that splits them otherwise.
    aligns_words: ClassVar[bool] = False
    # Whether predictions are names of the tags of each document's words, for a user's own metric.
    tags_words: ClassVar[bool] = False
    # Whether what a model reads of an example while it is trained is drawn anew in every epoch, so
    # that a teacher's outputs for it cannot be kept.
    draws_inputs: ClassVar[bool] = False
    # Whether a longer text is cut to what a model reads; else it is read in several rows.
    cuts_texts: ClassVar[bool] = True
    # Whether a vector is made of the states of a text's tokens.
    pools_tokens: ClassVar[bool] = False
    # Whether rows may belong together, such as the candidates of a query, as `data.group` says.
    reads_groups: ClassVar[bool] = False

    @classmethod
    def metric_names(cls) -> tuple[str, ...]:
        """Return the words that `budget.metric` accepts, the default first."""
        return tuple(metric.name for metric in cls.metrics)

    @classmethod
    def metric_of_any_rows(
        cls,
        *,
        labelled: bool,  # noqa: ARG003 - where it matters
        searches: bool = False,  # noqa: ARG003
    ) -> str:
        """Return the metric that asks least of rows, by which their columns can be looked at.

        `labelled` says whether they have a label column, which is then to be read, `searches`
        whether they say which texts are relevant to queries.
        """
        return next(metric.name for metric in cls.metrics if metric.label_free)

    @classmethod
    def is_for(
        cls,
        config: ConfigFile,  # noqa: ARG003 - where several tasks share a head
    ) -> bool:
        """Return whether this is the task of a checkpoint that has `head`, by its config.json."""
        return True

    @classmethod
    def part_of(cls, config: ConfigFile) -> ConfigFile:
        """Return what config.json says of the part of a checkpoint that is read: of all of it."""
        return config

    @classmethod
    def is_of_another_part(cls, key: str) -> bool:  # noqa: ARG003 - most read all of it
        """Return whether a key of the weights is of a part that is not read."""
        return False

    def loaded_part(self, config: Any) -> Any:
        """Return the configuration of that part, as transformers made it of config.json."""
        return config

    @classmethod
    def check_head(
        cls,
        config: ConfigFile,
        tensors: Mapping[str, HasShape],
        about: ConfigFile | None,
    ) -> None:
        """Raise `HeadProblem` unless a checkpoint's head gives what the task can judge.

        `config` is the content of config.json, `about` of config_sentence_transformers.json, and
        `tensors` are those of the weight files by their keys.
        """

    @classmethod
    def about_labels(cls, labels: Sequence[str]) -> str | None:  # noqa: ARG003
        """Return what label names say besides what classes are called, in words; None for most."""
        return None

    @abstractmethod
    def auto_class(self, directory: Path) -> Any:
        """Return what chooses a module's class by its configuration, as auto classes do.

        `directory` holds the checkpoint. The module gives `output`.
        """

    def as_saved(self, directory: Path) -> Self:  # noqa: ARG002 - most outputs mean one thing
        """Return the task as the checkpoint or artifact in `directory` means its outputs.

        Raises `EnvironmentMismatch` where its files say what no model of this task computes.
        """
        return self

    def fit_config(self, config: Any, directory: Path) -> None:
        """Write into a configuration of transformers what other files in `directory` add to it."""

    @abstractmethod
    def misfit(self, shape: tuple[int, ...], num_rows: int, num_labels: int) -> str | None:
        """Return what is needed in place of an array of `shape` for so many rows, or None."""

    def tokens_read(self, directory: Path) -> int | None:  # noqa: ARG002 - for what has such files
        """Return how many tokens are read of a text at most, whatever a tokenizer's files say.

        None where no other file of the checkpoint says so.
        """
        return None

    def fit_preprocessor(self, name: str, directory: Path, preprocessor: Any) -> None:
        """Let a preprocessor read what the checkpoint called `name` in `directory` was made to.

        Raises `EnvironmentMismatch` where it cannot.
        """

    def write_beside(self, module: Any, preprocessor: Any, directory: Path) -> None:
        """Write what a checkpoint of this task needs beside config, weights and preprocessor."""

    def weights_beside(self, directory: Path) -> list[Path]:  # noqa: ARG002 - for what has layers
        """Return the files of weights that `write_beside` wrote into `directory`."""
        return []

    def for_labels(self, labels: Sequence[str]) -> Self:  # noqa: ARG002 - ids are enough for most
        """Return the task for a checkpoint with these label names, in the order of its logits."""
        return self

    def untunable(self, truth: Truth) -> str | None:  # noqa: ARG002 - most choose nothing
        """Return why `tuned` cannot choose anything on such a search split, or None."""
        return None

    def tuned(self, baseline: Score, truth: Truth) -> Self:  # noqa: ARG002 - as above
        """Return the task with what it chooses by the untouched checkpoint's score on search.

        Both ends of a run are then judged by it. Ask `untunable` first.
        """
        return self

    def label_thresholds(self, labels: Sequence[str]) -> dict[str, float]:  # noqa: ARG002
        """Return from which probability on each label is predicted, where that is not one half."""
        return {}

    def facts(self) -> dict[str, Any]:
        """Return all besides its name that results of this task depend on, as plain data."""
        return dataclasses.asdict(self)

    def aggregated(self, strategy: str) -> Self:  # noqa: ARG002 - for tasks that give tokens
        """Return the task with predictions of tokens that are put together by `strategy`.

        Raises `ValueError` where there are none to put together, or for an unknown strategy.
        """
        raise ValueError(f"aggregation: {self.name} gives no tags of tokens; leave it out")

    def saved_module(self, module: Any) -> Any:
        """Return the part of a PyTorch module that a checkpoint holds."""
        return module

    def texts_beside(self) -> Sequence[str]:
        """Return texts to compare examples with, which an encoder beside the model reads."""
        return ()

    def with_text_vectors(self, vectors: NDArray[np.float32]) -> Self:
        """Return the task with those, shape `(num_texts, width)`; ask `texts_beside` first."""
        raise NotImplementedError(f"{self.name} compares with no texts: {vectors.shape}")

    def fitted_to(self, directory: Path) -> Self:  # noqa: ARG002 - most read nothing
        """Return the task with what the files of a checkpoint say about how outputs are compared.

        Raises `EnvironmentMismatch` where that cannot be followed, and `RecipeError` for what the
        recipe asks for and they cannot do.
        """
        return self

    def require_prompts(
        self,
        directory: Path,  # noqa: ARG002 - for tasks with prompts
        wanted: Mapping[str, str],
    ) -> None:
        """Raise `RecipeError` for names of prompts that the checkpoint in `directory` has not.

        `wanted` are such names by their keys in the recipe.
        """
        if wanted:
            raise RecipeError([f"{key}: {self.name} reads no prompts; remove it" for key in wanted])

    def how_pooled(self, directory: Path) -> Pooling | None:  # noqa: ARG002 - for vectors
        """Return how the checkpoint in `directory` makes one vector of a text, None without such.

        Raises `EnvironmentMismatch` and `RecipeError` as `read_pooling` does.
        """
        return None

    def vector_width(self, config: Any) -> int:  # noqa: ARG002 - for vectors
        """Return how many numbers a vector has, by the configuration of a loaded module.

        Raises `ValueError` for a task without the ability `vectors`.
        """
        raise ValueError(f"{self.name} gives no vectors")

    def cut_vectors(self, module: Any, dimensions: int) -> None:  # noqa: ARG002 - as above
        """Leave out all numbers of a module's vectors after the first `dimensions`, in place.

        Where vectors were scaled to length 1, those that are left are again. Raises `ValueError`
        unless there are more, and for a task without the ability `vectors`.
        """
        raise ValueError(f"{self.name} gives no vectors")

    def map_vectors(
        self,
        module: Any,  # noqa: ARG002 - for sentence encoders
        linear: nn.Linear | None,  # noqa: ARG002
        *,
        normalize: bool,  # noqa: ARG002
    ) -> None:
        """Let a module's vectors go through `linear`, if given, in place.

        What scaled them to length 1 before no longer does; with `normalize` they are afterwards.
        Raises `ValueError` for a task that cannot.
        """
        raise ValueError(f"no matrix can follow what {self.name} gives")

    def scales_vectors(self, module: Any) -> bool:  # noqa: ARG002 - as above
        """Return whether a module's vectors are scaled to length 1; else raises as above."""
        raise ValueError(f"no matrix can follow what {self.name} gives")

    def pooled_states(
        self,
        module: Any,  # noqa: ARG002 - for sentence encoders
        states: NDArray[np.float32],  # noqa: ARG002
        batch: Batch,  # noqa: ARG002
    ) -> NDArray[np.float32]:
        """Return the vectors that a PyTorch module makes of the states of a batch's tokens.

        Raises `ValueError` for a task that pools none.
        """
        raise ValueError(f"{self.name} pools no states of tokens")

    @classmethod
    @abstractmethod
    def require_files(cls, directory: Path) -> None:
        """Raise `OSError` when the files of the tokenizer or image processor are missing."""

    @abstractmethod
    def load_preprocessor(self, directory: str | Path) -> Any:
        """Load the tokenizer or image processor that lies in `directory` (no code from it runs)."""

    def light_preprocessor(self, directory: Path) -> Any:  # noqa: ARG002 - for what has one
        """Return what reads examples as `load_preprocessor` does, without transformers.

        None where there is none for the files in `directory`. Threads may share it. Raises
        `EnvironmentMismatch` where they are damaged.
        """
        return None

    @abstractmethod
    def columns(self, metric: str) -> Columns:
        """Return what the task reads of rows to be scored with `metric`."""

    @abstractmethod
    def given(self, value: Any, *, pairs: bool | None = None) -> Sequence[Example]:
        """Return what a user gave as a list of examples.

        `pairs` says whether an example is a pair of texts, None where that is not known. Raises
        `ValueError` for anything that is no such list.
        """

    def received(
        self,
        value: Any,
        place: str,  # noqa: ARG002 - for what JSON cannot hold
    ) -> Any:
        """Return an example that came as JSON, to be given to `given`; `place` names it in errors.

        Raises `ValueError` and `EnvironmentMismatch` where it cannot be read.
        """
        return value

    def prompted(
        self,
        preprocessor: Any,  # noqa: ARG002 - for tasks with prompts
        examples: Sequence[Example],  # noqa: ARG002
        prompt_name: str,
    ) -> Sequence[Example]:
        """Return examples that are read after the prompt of that name.

        Raises `ValueError` where there is none.
        """
        raise ValueError(f"prompt_name: {self.name} reads no prompts, got '{prompt_name}'")

    def fixed_texts(self, preprocessor: Any) -> tuple[str, ...]:  # noqa: ARG002 - for prompts
        """Return the texts that are read besides those of examples."""
        return ()

    @abstractmethod
    def encode(self, preprocessor: Any, examples: Sequence[Example]) -> Batch:
        """Turn examples into one padded batch of model inputs; raises on an empty sequence."""

    def require_readable(
        self,
        preprocessor: Any,
        examples: Sequence[Example],
        place: Callable[[int], str],
    ) -> None:
        """Raise `RecipeError` for examples that no model could be asked about.

        `place` names the row of the example at a position.
        """

    def encode_to_train(
        self,
        preprocessor: Any,
        examples: Sequence[Example],
        drawn: tuple[int, ...],  # noqa: ARG002 - for tasks that draw
    ) -> Batch:
        """Return what a model reads of examples while it is trained; by default the same.

        What is drawn follows from the numbers `drawn`, seed and epoch, and from the examples.
        """
        return self.encode(preprocessor, examples)

    def without_own_code(self) -> Task:
        """Return the task without code of the user's own, which other processes do not load."""
        return self

    def parts(self, batch: Batch) -> Sequence[Batch]:
        """Return the rows of a batch in batches whose outputs fit into memory; by default all."""
        return [batch]

    def predicted(
        self, predict: Callable[[Batch], NDArray[np.float32]], batches: Sequence[Batch]
    ) -> Outputs:
        """Return what a model gives for the examples of `batches`, one part of them at a time.

        Raises `ValueError` without batches.
        """
        collected = [
            self.collect([predict(part)], [part]) for batch in batches for part in self.parts(batch)
        ]
        if not collected:
            raise ValueError("there are no batches")
        return type(collected[0]).joined(collected)

    def token_counts(
        self,
        preprocessor: Any,  # noqa: ARG002 - for tasks with a sequence
        examples: Sequence[Example],  # noqa: ARG002
    ) -> NDArray[np.int64] | None:
        """Return how many tokens each whole example has; None for a task without a sequence."""
        return None

    def lengths(self, preprocessor: Any, examples: Sequence[Example]) -> NDArray[np.int64]:
        """Return what examples are batched by, so that little is padded: the tokens of each.

        No more than `max_length`, and 0 for images, which have one size.
        """
        counts = self.token_counts(preprocessor, examples)
        if counts is None:
            return np.zeros(len(examples), dtype=np.int64)
        return counts if self.max_length is None else np.minimum(counts, self.max_length)

    def needed_length(
        self,
        preprocessor: Any,  # noqa: ARG002 - for tasks that some models read at one length alone
        examples: Iterable[Example],  # noqa: ARG002
    ) -> int | None:
        """Return the `max_length` that whole examples need, where a model reads only one length.

        None for a model that reads any, and for one that has a length of its own.
        """
        return None

    def samples_read(
        self,
        preprocessor: Any,  # noqa: ARG002 - for sounds
    ) -> tuple[int | None, int] | None:
        """Return how many samples of a sound the checkpoint reads at most, and how many are read.

        The first is None where the checkpoint reads any number; all is None where all are read, and
        for what is no sound.
        """
        return None

    def tokenizes(self, preprocessor: Any) -> str | None:  # noqa: ARG002 - for single rows of tokens
        """Return all that the tokens of an example depend on beside it, as text.

        None where an example is not one row of tokens that is the same whenever it is read, so that
        `tokens` and `padded` cannot be asked.
        """
        return None

    def tokens(self, preprocessor: Any, examples: Sequence[Example]) -> Tokens:
        """Return the tokens of each example as `encode` reads it, without padding."""
        raise NotImplementedError(f"{self.name} does not keep tokens")

    def padded(self, preprocessor: Any, tokens: Tokens) -> Batch:
        """Return what `encode` gives for examples with these tokens."""
        raise NotImplementedError(f"{self.name} does not keep tokens")

    def repeated(self, example: Example, times: int) -> Example:
        """Return an example whose texts are so many times as long."""
        texts = [" ".join([text] * times) for text in texts_of(example)]
        return texts[0] if len(texts) == 1 else (texts[0], texts[1])

    @abstractmethod
    def benchmark_batch(
        self,
        preprocessor: Any,
        examples: Sequence[Example],
        batch_size: int,
        sequence_length: int | None,
    ) -> Batch:
        """Return a batch of real inputs, every row `sequence_length` tokens without padding.

        Raises `RecipeError` when the model takes no sequence of that length.
        """

    def free_axes(self, ndim: int) -> tuple[int, ...]:
        """Return the axes of an input of so many that are of any size: the batch, and tokens."""
        return (0, 1) if self.reads_tokens and ndim == 2 else (0,)

    def timed_lengths(self, lengths: Sequence[int]) -> tuple[int | None, ...]:
        """Return which of the sequence lengths to time; None for inputs without a sequence."""
        return tuple(lengths) if self.reads_tokens else (None,)

    @abstractmethod
    def dummy_example(self, length: int) -> Example:
        """Return an example that encodes to about `length` tokens (ignored without a sequence)."""

    def output_of(self, outputs: Any) -> Tensor:
        """Return the array that the task reads of what a PyTorch module gave, `collect`'s input."""
        found: Tensor = getattr(outputs, self.output)
        return found

    @abstractmethod
    def collect(self, arrays: Sequence[NDArray[np.float32]], batches: Sequence[Batch]) -> Outputs:
        """Return what a model gave for the examples of `batches`, which its `arrays` belong to.

        Raises `ValueError` without batches.
        """

    def without_padding(
        self,
        array: NDArray[np.float32],
        batch: Batch,  # noqa: ARG002 - for tasks whose outputs have a token axis
    ) -> Rows:
        """Return what a model gave for each row of a batch, whatever the row was padded with."""
        return array

    def on_own_tokens(self, array: NDArray[np.float32], batch: Batch, own: Batch) -> Rows:
        """Return `array`, given for `batch`, at the tokens of the same examples in `own`.

        NaN stands where it says nothing of a token. Only asked of tasks that align words.
        """
        raise NotImplementedError

    def targets(
        self,
        batch: Batch,  # noqa: ARG002 - for tasks that give more than one output for an example
        labels: LabelArray,
    ) -> NDArray[Any]:
        """Return what a loss compares a model's array for `batch` with; `labels` are its rows'.

        Class ids by default, shape `(batch,)`; where an id is `UNLABELLED` the output does not
        count. Only asked of tasks that train on labels.
        """
        return one_each(labels)

    def untrainable(self, labels: LabelArray) -> str | None:  # noqa: ARG002 - most can all be
        """Return why no loss can compare outputs with these labels of a split, or None."""
        return None

    def labels_of_changed(self, labels: LabelArray, partners: LabelArray) -> NDArray[Any] | None:
        """Return the labels of texts that lost words or were joined with a partner.

        `partners` are those of what each was joined with, its own where it was not. None where
        nobody can tell them. By default class ids: two texts of different classes are one text of
        neither.
        """
        return np.where(labels == partners, labels, UNLABELLED)

    @property
    @abstractmethod
    def losses(self) -> Losses:
        """Return what models of this task are trained towards; it needs torch."""

    def teacher_order(self, student: OutputForm, teacher: OutputForm) -> list[int]:
        """Return where each of the student's numbers stands on the last axis of teacher outputs.

        By default labels, matched by their names. Raises `StepFailed` when the two cannot be
        compared.
        """
        if sorted(student.labels) != sorted(teacher.labels):
            raise StepFailed(
                f"the teacher's labels are {list(teacher.labels)}, the student's "
                f"{list(student.labels)}; they must be the same, so take another teacher or "
                f"correct id2label in its config.json"
            )
        if len(set(student.labels)) != len(student.labels):
            raise StepFailed(
                f"the labels {list(student.labels)} are not told apart by their names, so those of "
                f"teacher and student cannot be matched; correct id2label in config.json"
            )
        return [teacher.labels.index(label) for label in student.labels]

    def for_score(self, metric: str, outputs: Outputs) -> Outputs:  # noqa: ARG002 - of some tasks
        """Return what `score` reads of `outputs`, where all of them take much more memory."""
        return outputs

    @abstractmethod
    def score(self, metric: str, outputs: Outputs, truth: Truth) -> Score:
        """Score `outputs` in the order of `truth.examples`.

        A metric that compares with the untouched checkpoint takes `outputs` for its own where
        `truth` has no reference. Ask `unscorable` first.
        """

    @abstractmethod
    def changed(self, before: Outputs, after: Outputs) -> NDArray[np.bool_] | None:
        """Return for which examples the prediction is another one, shape `(num_examples,)`.

        None where outputs are no predictions that change or stay, such as vectors.
        """

    def error(self, before: Outputs, after: Outputs) -> float:
        """Return the root mean square of what changed between two outputs for the same examples.

        Raises `ValueError` when they are not of one shape, `StepFailed` when one is not finite.
        """
        first, second = before.numbers, after.numbers
        if first.shape != second.shape:
            raise ValueError(f"logits of shapes {first.shape} and {second.shape} do not pair up")
        difference = first.astype(np.float64) - second
        if not np.isfinite(difference).all():
            raise StepFailed("logits hold NaN or infinity")
        return float(np.sqrt(np.mean(np.square(difference))))

    @abstractmethod
    def unscorable(self, metric: str, truth: Truth) -> str | None:
        """Return why `metric` cannot be taken on these examples, for `data.search: ...`, or None.

        It reads nothing that a model gave, so that the answer is there before one runs.
        """

    @abstractmethod
    def constant(self, score: Score, labels: Sequence[str]) -> str | None:
        """Say what a model gave alike for every example, such as "predicts 'no'"; None otherwise.

        Whatever becomes of such a model, its score stays the same. `labels` are the label names.
        """

    @abstractmethod
    def guesses(self, baseline: Score, truth: Truth, labels: Sequence[str]) -> tuple[Guess, ...]:
        """Return what models that know nothing of their input score where `baseline` was taken.

        `baseline` is the untouched checkpoint's score, in the metric of all the guesses. What does
        not lie clearly above the best of them proves nothing about a model.
        """

    @abstractmethod
    def hits(
        self, metric: str, outputs: Outputs, truth: Truth, positions: Positions
    ) -> NDArray[np.bool_] | None:
        """Return which of `outputs`, those of the examples at `positions` of `truth`, are right.

        None where no example by itself is right or wrong.
        """

    def findings(
        self,
        before: Score,  # noqa: ARG002 - for tasks that find something
        after: Score,  # noqa: ARG002
        truth: Truth,  # noqa: ARG002
        labels: Sequence[str],  # noqa: ARG002
        *,
        labelled: bool,  # noqa: ARG002
    ) -> Mapping[str, Findings]:
        """Return what two models found of each kind, by the names that a recipe gives kinds.

        What was there is what the labels say or, unless `labelled`, what the untouched checkpoint,
        whose score `before` is, found. Empty where nothing can be found or missed.
        """
        return {}

    def held(self, truth: Truth, labels: Sequence[str]) -> Mapping[str, int]:  # noqa: ARG002
        """Return in how many rows each kind is that `kinds` names, by the labels of the rows."""
        return {}

    def kinds(self, labels: Sequence[str]) -> tuple[str, ...]:  # noqa: ARG002 - as above
        """Return the names of all that can be found, in the order of the labels."""
        return ()

    @abstractmethod
    def flips(
        self, before: Score, after: Score, truth: Truth, labels: Sequence[str]
    ) -> list[Comparison]:
        """Return the examples whose prediction changed in a way that matters, by position.

        One that both models get wrong does not matter; without labels every change does.
        """

    @abstractmethod
    def samples(
        self,
        before: Score,
        after: Score,
        truth: Truth,
        labels: Sequence[str],
        predict: Predict,
        count: int,
    ) -> list[Comparison]:
        """Return a few examples, at most `count`, with what the models of both scores predict.

        They are chosen by `before` alone, and `predict` says what the second model predicts.
        """

    @abstractmethod
    def predictions(self, outputs: Outputs, labels: Sequence[str]) -> Any:
        """Return what a user of an artifact wants to have of `outputs`."""

    def own_predictions(self, outputs: Outputs, labels: Sequence[str]) -> Sequence[Any]:
        """Return what a metric of the user's own reads of `outputs`, one for each example."""
        found: Sequence[Any] = self.predictions(outputs, labels)
        return found

    def own_labels(
        self,
        found: LabelArray,
        labels: Sequence[str],  # noqa: ARG002 - most can be read without names
    ) -> Sequence[Any]:
        """Return what it reads of what a split says, in the form of its predictions if it can."""
        if isinstance(found, np.ndarray) and found.ndim == 1:
            return list(found.tolist())
        return list(found)
