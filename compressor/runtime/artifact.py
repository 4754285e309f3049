"""An artifact, loaded with ONNX Runtime, tokenizers and NumPy alone."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import EnvironmentMismatch
from .manifest import MODEL, NEEDS_TRANSFORMERS, read_manifest, verify_files
from .readers import Reader
from .session import Graph, opening_of, require_runtime, weights_beside

# The module and the class of what reads for a task; it is loaded where an artifact asks for it.
READERS: dict[str, tuple[str, str]] = {
    "audio-classification": ("read_sounds", "SoundReader"),
    "audio-features": ("read_sounds", "SoundVectorReader"),
    "image-classification": ("read_images", "ImageReader"),
    "image-features": ("read_images", "ImageVectorReader"),
    "masked-language-modeling": ("read_blanks", "FillReader"),
    "multi-label-classification": ("readers", "LabelReader"),
    "question-answering": ("read_answers", "AnswerReader"),
    "sentence-embedding": ("readers", "VectorReader"),
    "text-classification": ("readers", "ClassReader"),
    "text-scoring": ("readers", "ScoreReader"),
    "token-classification": ("read_spans", "SpanReader"),
}


@dataclass(frozen=True)
class Artifact:
    """A loaded artifact; call it with a list of texts, pairs of texts, images or sounds.

    Texts are read in batches of similar length, `batch_size` together. Threads may share it.
    """

    directory: Path
    manifest: Mapping[str, Any] = field(repr=False)
    graph: Graph = field(repr=False)
    reader: Reader = field(repr=False)

    def __call__(
        self,
        examples: Any,
        *,
        prompt_name: str | None = None,
        aggregation: str | None = None,
        batch_size: int = 32,
    ) -> Any:
        """Return the task's predictions, one for each example, in their order.

        A classifier's are a list of `{"label", "label_id", "score"}`, of several labels a list of
        such for each. An encoder's are an array of vectors, float32 of shape
        `(num_examples, width)`, or int8 or bits where the manifest's `output` says so. Scores are
        an array of `(num_examples,)`. Of token classification, whose examples are texts or lists of
        words, they are a list of `{"entity_group", "score", "word", "start", "end"}` for each. Of
        question answering, whose examples are `{"question", "context"}` or pairs of both, a list of
        the best answers to each: `{"answer", "start", "end", "score"}`, "" for no answer. Of a
        masked language model the likeliest tokens of each mask token.

        `prompt_name` says which of a sentence encoder's prompts stands before every text; left out,
        the checkpoint's default, if it has one. `aggregation` says how tokens become spans: `none`,
        `simple`, `first` (the default), `average` or `max`.

        Raises `ValueError` for a prompt that there is not, for anything that is no list of what the
        model reads, for an `aggregation` of another task, and for a `batch_size` below 1;
        `RecipeError` for a text that gives no token.
        """
        reader = self.reader
        if aggregation is not None:
            reader = reader.aggregated(aggregation)
        if prompt_name is not None:
            reader = reader.prompted(prompt_name)
        given = reader.given(examples)
        return reader.predictions(self.graph, given, batch_size)

    def logits(self, examples: Any, *, batch_size: int = 32) -> NDArray[np.float32]:
        """Return what the graph gives for each example, shape `(num_examples, num_labels)`.

        Raises `ValueError` for a task that gives no row of numbers for an example.
        """
        given = self.reader.given(examples)
        return self.reader.rows(self.graph, given, batch_size)


def load_artifact(
    directory: str | Path,
    *,
    provider: str | None = None,
    threads: int | None = None,
    streams: int = 1,
    verify: bool = True,
) -> Artifact:
    """Load an artifact after checking every file against the manifest.

    `provider` None is OpenVINO for an artifact that was made for it, and the CPU of ONNX Runtime
    for all others. `threads` are those within one operator, None leaves the number to the runtime;
    OpenVINO computes `streams` batches at the same time. Without `verify` the files are taken as
    they are; the manifest is checked all the same. An artifact that was made for a GPU computes its
    quantize-dequantize pairs on the CPU as they are written, in float.

    Raises `EnvironmentMismatch` when the manifest is damaged, when a file is missing, changed or
    there without being named, for a tokenizer, an image processor or a feature extractor that this
    package does not compute, and when the runtime that is installed does not run the graph.
    """
    folder = Path(directory)
    manifest = read_manifest(folder, list(READERS))
    if (why := manifest.get(NEEDS_TRANSFORMERS)) is not None:
        raise EnvironmentMismatch(
            f"{folder}: {why}, so its examples are read with the package transformers; load it "
            f"with the package compressor"
        )
    if verify:
        verify_files(folder, manifest, lambda path: weights_beside(path, manifest["files"]))
    require_runtime(folder, manifest)
    module, name = READERS[manifest["task"]]
    kind: type[Reader] = getattr(importlib.import_module(f".{module}", __package__), name)
    graph = Graph(
        folder / MODEL,
        opening=opening_of(folder, manifest, provider),
        threads=threads,
        output=kind.output,
        streams=streams,
    )
    return Artifact(folder, manifest, graph, kind(folder, manifest))
