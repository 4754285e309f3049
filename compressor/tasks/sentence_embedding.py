"""Sentence embeddings: one text in, one vector out.

Labels are not needed. How good a compressed encoder is, is how near its vectors are to the
untouched checkpoint's, and whether each text keeps its nearest neighbours, which is what search,
clustering and deduplication read off vectors. Where pairs of texts have a grade of how similar they
are, the rank correlation with it is the usual score (Cer et al. 2017, arXiv:1708.00055).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from compressor.errors import RecipeError
from compressor.measurements import Score
from compressor.runtime.given import given_texts
from compressor.runtime.prompts import Prompted, keep_prompts, prompts_of
from compressor.tasks.audio_vectors import reads_sounds
from compressor.tasks.base import (
    DRAWS,
    Ability,
    Batch,
    Comparison,
    Guess,
    Predict,
    Tokens,
    Truth,
)
from compressor.tasks.columns import Columns, SentenceColumns
from compressor.tasks.examples import Example, is_long, texts_of
from compressor.tasks.head import ConfigFile
from compressor.tasks.image_vectors import reads_images
from compressor.tasks.metrics import MRR, NDCG, SPEARMAN, Metric, UsualDrop
from compressor.tasks.outputs import Outputs
from compressor.tasks.pooling import (
    Pooling,
    PoolingMode,
    checkpoint_prompts,
    dense_files,
    read_config,
    read_pooling,
    similarity_of,
    write_pooling,
)
from compressor.tasks.report_words import TOKENS_CODE, ReportWords
from compressor.tasks.retrieval import (
    SIMILARITIES,
    Problem,
    ndcg,
    recall,
    reciprocal_rank,
    search,
    usual_documents,
)
from compressor.tasks.similarity import (
    NEIGHBOURS,
    as_floats,
    candidates,
    cosines,
    kept_neighbours,
    nearest,
    rank_correlation,
    to_the_mean,
    word_counts,
)
from compressor.tasks.text import TextTask
from compressor.tasks.text_towers import CLIP_TEXTS, PROJECTED, require_end
from compressor.tasks.transformer_step import longest_read, require_case
from compressor.tasks.vectors import (
    BYTES_CODE,
    SIMILARITIES_CODE,
    VECTORS,
    VectorTask,
    cosine_metrics,
    guess_of,
    reference_vectors,
    too_few,
    vectors_of,
)
from compressor.words import counted

if TYPE_CHECKING:
    from torch import nn

COSINE, COSINE_P5 = cosine_metrics("cosine", "text")
RANK_AGREEMENT = Metric(
    "rank_agreement",
    "rank agreement",
    "the share of each text's ten nearest neighbours among the other different texts of the split, "
    "by cosine similarity, that are among its ten nearest by the untouched checkpoint's vectors "
    "too, averaged over texts",
    "mean",
    label_free=True,
    unit="text",
    units="texts",
    usual_drop=UsualDrop(0.01, 0.06, 0.15),
    most_drop=0.15,
    most_pruned_drop=0.0,
)
RECALL = Metric(
    "recall@10",
    "recall@10",
    "the share of a query's relevant documents that are among the ten which it finds first, "
    "averaged over queries",
    "mean",
    unit="query",
    units="queries",
    usual_drop=UsualDrop(0.002, 0.01, 0.03),
)
_SHARE_OF = {"recall@10": recall, "ndcg@10": ndcg, "mrr@10": reciprocal_rank}
_STORED = "_original_index"  # how the name of a metric ends that keeps the documents' vectors


def _in_stored_index(metric: Metric) -> Metric:
    """Return the metric taken of queries alone, against the untouched checkpoint's documents."""
    return replace(
        metric,
        name=metric.name + _STORED,
        words=f"{metric.words} in the original's index",
        explained=f"{metric.explained}; the vectors of documents are the untouched checkpoint's, "
        f"as a search index that was built with it holds them, and only queries are read by the "
        f"compressed model",
        reads_reference=True,
        same_width=True,
    )


_PLAIN = (RECALL, NDCG, MRR)
RETRIEVAL = (*_PLAIN, *map(_in_stored_index, _PLAIN))
_RETRIEVAL_NAMES = frozenset(metric.name for metric in RETRIEVAL)
_COSINES = {metric.name: metric for metric in (COSINE, COSINE_P5)}
_SAME_WIDTH = frozenset(
    metric.name for metric in (*_COSINES.values(), *RETRIEVAL) if metric.same_width
)
_CODE = f"""\
{TOKENS_CODE}\
[vectors] = session.run(["sentence_embedding"], inputs)
{SIMILARITIES_CODE}"""
_BYTES_CODE = f"""\
{TOKENS_CODE}\
[codes] = session.run(["sentence_embedding"], inputs)
{BYTES_CODE}"""


@dataclass(frozen=True)
class SentenceEmbedding(VectorTask, TextTask):
    """Each text of a pair is read by itself.

    `pooling` and `normalize` are what the recipe says about how a vector is made of the states of
    tokens; None leaves it to the checkpoint. `similarity` is by what queries find documents.
    """

    pooling: PoolingMode | None = None
    normalize: bool | None = None
    similarity: str = "cosine"

    name: ClassVar[str] = "sentence-embedding"
    keeps_tokens: ClassVar[bool] = True
    head: ClassVar[str] = "Model"
    other_heads: ClassVar[tuple[str, ...]] = (PROJECTED,)
    output: ClassVar[str] = "sentence_embedding"
    metrics: ClassVar[tuple[Metric, ...]] = (
        COSINE,
        COSINE_P5,
        RANK_AGREEMENT,
        SPEARMAN,
        *RETRIEVAL,
    )
    abilities: ClassVar[frozenset[Ability]] = frozenset({"vectors", "blends"})
    pools_tokens: ClassVar[bool] = True
    words: ClassVar[ReportWords] = ReportWords(
        code=_CODE,
        code_of_bytes=_BYTES_CODE,
        hub_task="sentence-similarity",
        row="text",
        predictions_title="Nearest texts",
        predictions_shown="search texts whose nearest other search text the original finds nearest",
        score="cosine similarity",
        flips_title="Texts with another nearest neighbour",
        another="another nearest text",
        changed=(
            "text",
            "has another nearest neighbour among the other texts",
            "have another nearest neighbour among the other texts",
        ),
        flips_order="Those come first whose vector moved most: 1 minus its cosine similarity.",
        prediction_is_text=True,
        flips_header=" nearest text",
        flips_sure="and its cosine similarity",
        flips_moved=True,
    )

    @classmethod
    def is_for(cls, config: ConfigFile) -> bool:
        """Return whether config.json is of an encoder neither of images nor of sounds."""
        return not reads_images(config) and not reads_sounds(config)

    @classmethod
    def metric_of_any_rows(cls, *, labelled: bool, searches: bool = False) -> str:
        """Return the metric without labels, or the one that reads grades of pairs or relevance."""
        if searches:
            return RECALL.name
        return SPEARMAN.name if labelled else COSINE.name

    def columns(self, metric: str) -> Columns:
        """Return texts, of pairs each by itself, with what the metric needs beside them.

        For others a column of that name need not be one of grades.
        """
        if metric in _RETRIEVAL_NAMES:
            return SentenceColumns("relevance")
        return SentenceColumns("grades" if metric == SPEARMAN.name else "nothing")

    def fitted_to(self, directory: Path) -> Self:
        """Return the task that compares vectors as the checkpoint's files say."""
        return replace(self, similarity=similarity_of(directory))

    def auto_class(self, directory: Path) -> Any:
        """Return what puts pooling around a plain encoder, as the checkpoint or the recipe says."""
        from compressor.tasks.sentence_encoder import AutoSentenceEncoder

        return AutoSentenceEncoder(self.how_pooled(directory))

    def identities(self, truth: Truth) -> Sequence[str]:
        """Return the texts, each of a pair by itself."""
        return _texts(truth)

    def require_prompts(self, directory: Path, wanted: Mapping[str, str]) -> None:
        """Raise `RecipeError` for names of prompts that the checkpoint has not."""
        prompts = checkpoint_prompts(directory)
        mistakes = []
        for key, name in wanted.items():
            try:
                prompts.require(name)
            except ValueError as error:
                mistakes.append(f"{key}: {str(error).removeprefix('prompt_name: ')}")
        if mistakes:
            raise RecipeError(mistakes)

    def how_pooled(self, directory: Path) -> Pooling:
        """Return how vectors are made, by the files in `directory`, else by the recipe."""
        return read_pooling(directory, mode=self.pooling, normalize=self.normalize)

    def vector_width(self, config: Any) -> int:
        """Return how many numbers a vector has after all that follows pooling."""
        from compressor.tasks.sentence_encoder import vector_width

        return vector_width(config)

    def pooled_states(
        self, module: Any, states: NDArray[np.float32], batch: Batch
    ) -> NDArray[np.float32]:
        """Return the vectors of texts, shape `(batch, width)`, from the states of their tokens."""
        from compressor.tasks.sentence_encoder import vectors_of_states

        return vectors_of_states(module, states, batch["attention_mask"])

    def cut_vectors(self, module: Any, dimensions: int) -> None:
        """Add a Dense step that gives the first numbers; raises `ValueError` as the base does."""
        from compressor.tasks.sentence_encoder import cut_vectors

        cut_vectors(module, dimensions)

    def map_vectors(self, module: Any, linear: nn.Linear | None, *, normalize: bool) -> None:
        """Add a Dense step, which sentence-transformers computes too."""
        from compressor.tasks.sentence_encoder import map_vectors

        map_vectors(module, linear, normalize=normalize)

    def scales_vectors(self, module: Any) -> bool:
        """Return whether a Normalize step comes last."""
        from compressor.tasks.sentence_encoder import pooling_of

        return pooling_of(module).normalize

    def saved_module(self, module: Any) -> Any:
        """Return the plain encoder, which every other tool knows."""
        return module.base_model

    def write_beside(self, module: Any, preprocessor: Any, directory: Path) -> None:
        """Write the files by which sentence-transformers makes the same vectors."""
        from compressor.tasks.sentence_encoder import pooling_of, save_dense

        width, length = int(module.config.hidden_size), int(preprocessor.model_max_length)
        folders = write_pooling(directory, pooling_of(module), width=width, max_length=length)
        save_dense(module, directory, folders)

    def weights_beside(self, directory: Path) -> list[Path]:
        """Return the weights of linear layers after pooling."""
        return dense_files(directory)

    def tokens_read(self, directory: Path) -> int | None:
        """Return how many tokens sentence-transformers reads at most, where it says so."""
        return longest_read(directory)

    def fit_preprocessor(self, name: str, directory: Path, preprocessor: Any) -> None:
        """Let a tokenizer read what sentence-transformers would; raises where it cannot."""
        keep_prompts(preprocessor, checkpoint_prompts(directory))
        require_case(name, directory, preprocessor)
        config = read_config(directory)
        if (
            config.get("model_type") == CLIP_TEXTS
            and self.how_pooled(directory).source == "config.json"
        ):
            require_end(name, config, preprocessor)

    def given(self, value: Any, *, pairs: bool | None = None) -> Sequence[Example]:  # noqa: ARG002
        """Return single texts, whatever the rows were that the model was judged on."""
        if isinstance(value, list) and value and all(isinstance(item, Prompted) for item in value):
            return value
        return given_texts(value, pairs=False)

    def prompted(
        self, preprocessor: Any, examples: Sequence[Example], prompt_name: str
    ) -> Sequence[Example]:
        """Return texts that are read after the prompt of that name; raises `ValueError`."""
        prompts_of(preprocessor).require(prompt_name)
        return [Prompted(texts_of(example)[0], prompt_name) for example in examples]

    def fixed_texts(self, preprocessor: Any) -> tuple[str, ...]:
        """Return the prompts."""
        return tuple(prompts_of(preprocessor).by_name.values())

    def encode(self, preprocessor: Any, examples: Sequence[Example]) -> Batch:
        """Tokenize texts after their prompts; arrays are int64 of shape `(batch, sequence)`.

        Raises `ValueError` for a pair: its two texts are two examples.
        """
        if any(isinstance(example, tuple) for example in examples):
            raise ValueError(
                "an embedding is of one text; give the two texts of a pair one after the other"
            )
        prompts = prompts_of(preprocessor)
        return super().encode(preprocessor, [prompts.read(example) for example in examples])

    def counted_at_once(self, preprocessor: Any, examples: Sequence[Example]) -> NDArray[np.int64]:
        """Return how many tokens each text has with its prompt, before it is cut."""
        prompts = prompts_of(preprocessor)
        return super().counted_at_once(
            preprocessor, [prompts.read(example) for example in examples]
        )

    def tokenizes(self, preprocessor: Any) -> str | None:
        """Return what the tokens depend on, the prompts among it."""
        found = super().tokenizes(preprocessor)
        return None if found is None else f"{found} {prompts_of(preprocessor)}"

    def tokens(self, preprocessor: Any, examples: Sequence[Example]) -> Tokens:
        """Return the tokens of texts after their prompts; raises as `encode` does."""
        prompts = prompts_of(preprocessor)
        return super().tokens(preprocessor, [prompts.read(example) for example in examples])

    def as_tokenized(self, preprocessor: Any, example: Example) -> Example:
        """Return the text after its prompt."""
        return prompts_of(preprocessor).read(example)

    def repeated(self, example: Example, times: int) -> Example:
        """Return a text so many times as long, after the same prompt."""
        text = " ".join([str(texts_of(example)[0])] * times)
        return replace(example, text=text) if isinstance(example, Prompted) else text

    def score(self, metric: str, outputs: Outputs, truth: Truth) -> Score:
        """Score vectors of shape `(num_texts, width)`.

        Those that the graph gives as int8 or as bits are compared as `as_floats` reads them.
        `cosine` is the mean cosine similarity of each vector and the untouched checkpoint's of the
        same text, and `cosine_p5` the largest that all but 5% of them reach. `rank_agreement` is
        the mean share of each text's ten nearest neighbours, among the other texts of the split,
        that are still among its ten nearest (mutual nearest neighbours: Huh et al. 2024,
        arXiv:2405.07987, section 2). `spearman` is the rank
        correlation of the cosine similarity of pairs with their grades. The others are means over
        queries of what `compressor.tasks.retrieval` documents; those of the original's index take
        the vectors of documents from the untouched checkpoint.
        """
        texts, vectors = _texts(truth), vectors_of(outputs)
        before = reference_vectors(vectors, truth, same_width=metric in _SAME_WIDTH)
        if metric in _RETRIEVAL_NAMES:
            return self._retrieval_score(metric, before, vectors, truth)
        if metric == SPEARMAN.name:
            assert truth.grades is not None, "the caller asked whether it can be scored"
            shares = cosines(vectors[0::2], vectors[1::2])  # (num_pairs,)
            value = rank_correlation(shares, truth.grades)
        elif (of_cosines := _COSINES.get(metric)) is not None:
            shares = cosines(before, vectors)
            value = of_cosines.value_of(shares)
        elif metric == RANK_AGREEMENT.name:
            shares = _agreement(before, vectors, texts)
            value = RANK_AGREEMENT.value_of(shares)
        else:
            raise KeyError(metric)
        outcomes = nearest(vectors, texts, 1)[:, 0]
        return Score(metric, value, len(shares), outcomes, shares=shares, kept={VECTORS: vectors})

    def _retrieval_score(
        self,
        metric: str,
        before: NDArray[np.float32],
        vectors: NDArray[np.float32],
        truth: Truth,
    ) -> Score:
        """Score queries; the outcome of each is the document that it finds first.

        The outcome of a document is itself.
        """
        assert truth.labels is not None, "the caller asked whether it can be scored"
        problem = Problem.of(truth.labels)
        stored = before if metric.endswith(_STORED) else vectors
        shares, first = _found(
            metric,
            vectors[problem.queries],
            stored[problem.documents],
            problem,
            self.similarity,
        )
        outcomes = np.arange(len(vectors))
        outcomes[problem.queries] = problem.documents[first]
        units = problem.units(len(vectors))
        return Score(
            metric,
            float(np.mean(shares)),
            len(shares),
            outcomes,
            shares=shares,
            units=units,
            kept={VECTORS: vectors},
        )

    def unscorable(self, metric: str, truth: Truth) -> str | None:
        """Return that grades are missing, or that there are too few different texts."""
        if metric in _RETRIEVAL_NAMES:
            return _unsearchable(metric, truth, self.similarity)
        if metric == SPEARMAN.name and truth.grades is None:
            return (
                "has no graded pairs, which spearman compares similarities with; name the columns "
                "of both texts in data.text and that of the grade in data.label"
            )
        found = len(candidates(_texts(truth)))
        if metric == RANK_AGREEMENT.name and found <= 2 * NEIGHBOURS:
            return (
                f"holds {counted(found, 'different text')}; rank_agreement compares the "
                f"{NEIGHBOURS} nearest of each, which even a random model keeps unless there are "
                f"more than {2 * NEIGHBOURS}: give it more rows, or use cosine"
            )
        return too_few(found, "text")

    def guesses(
        self,
        baseline: Score,
        truth: Truth,
        labels: Sequence[str],  # noqa: ARG002 - it has none
    ) -> tuple[Guess, ...]:
        """Return what vectors score that know no word.

        For cosines the one vector that is nearest to all; for `rank_agreement` the neighbours
        that most texts have; for `spearman` similarities of other pairs, the best of 19 draws; for
        retrieval the documents that are relevant to most queries. For all but cosines also vectors
        of which words two texts share, as random weights give them.
        """
        vectors, shares = baseline.kept[VECTORS], baseline.shares
        assert shares is not None
        texts = _texts(truth)
        if baseline.metric in _RETRIEVAL_NAMES:
            return _retrieval_guesses(baseline, truth)
        if (of_cosines := _COSINES.get(baseline.metric)) is not None:
            one, who = to_the_mean(vectors), "a model that gives every text the same vector"
            return (guess_of(who, baseline, one, value=of_cosines.value_of(one)),)
        words = word_counts(texts)
        if baseline.metric == RANK_AGREEMENT.name:
            near = nearest(vectors, texts, NEIGHBOURS)
            usual = np.argsort(-np.bincount(near.ravel()), kind="stable")[:NEIGHBOURS]
            same = kept_neighbours(near, np.broadcast_to(usual, near.shape))
            shared = kept_neighbours(near, nearest(words, texts, NEIGHBOURS))
            return (
                guess_of("a model that finds the same neighbours for every text", baseline, same),
                guess_of("a model that only counts the words that texts share", baseline, shared),
            )
        assert truth.grades is not None
        random = np.random.RandomState(0)
        draws = [random.permutation(shares) for _ in range(DRAWS)]
        grades = truth.grades
        best = max(draws, key=lambda drawn: rank_correlation(drawn, grades))
        shared = cosines(words[0::2], words[1::2])
        return (
            guess_of(
                "a model that gives the checkpoint's similarities, but to other pairs",
                baseline,
                best,
                grades,
            ),
            guess_of(
                "a model that only counts the words that texts share", baseline, shared, grades
            ),
        )

    def samples(
        self,
        before: Score,
        after: Score,
        truth: Truth,
        labels: Sequence[str],
        predict: Predict,
        count: int,
    ) -> list[Comparison]:
        """Return the texts whose nearest other text the first model finds nearest."""
        if before.units is not None:
            return _found_first(before, after, truth, predict, count, self.similarity)
        return super().samples(before, after, truth, labels, predict, count)


def _found(
    metric: str,
    queries: NDArray[np.float32],
    documents: NDArray[np.float32],
    problem: Problem,
    similarity: str,
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the score of each query, and the place of the document that it finds first."""
    ranks, first = search(queries, documents, problem, similarity)
    share_of = _SHARE_OF[metric.removesuffix(_STORED)]
    return np.array([share_of(each) for each in ranks]), first


def _unsearchable(metric: str, truth: Truth, similarity: str) -> str | None:
    if similarity not in SIMILARITIES:
        return (
            f"{metric} compares vectors by {' or '.join(SIMILARITIES)}, and the checkpoint's "
            f"config_sentence_transformers.json says similarity_fn_name: {similarity}; take cosine "
            f"or rank_agreement, or set one of them there if it fits"
        )
    if truth.labels is None:
        return (
            f"has no queries with relevant documents, which {metric} looks for; give queries, "
            f"corpus and qrels in place of path, or name the columns of query and document in "
            f"data.text"
        )
    documents = len(Problem.of(truth.labels).documents)
    if documents <= 2 * NEIGHBOURS:
        return (
            f"holds {counted(documents, 'document')}; {metric} looks at the first {NEIGHBOURS} for "
            f"each query, which hold most of them by chance: give it more than {2 * NEIGHBOURS}"
        )
    return None


def _retrieval_guesses(baseline: Score, truth: Truth) -> tuple[Guess, ...]:
    assert truth.labels is not None, "the baseline was scored on them"
    problem, metric = Problem.of(truth.labels), baseline.metric
    same = np.ones((len(problem.queries), 1), dtype=np.float32)
    usual, _ = _found(metric, same, usual_documents(problem), problem, "dot")
    words = word_counts(_texts(truth))
    shared, _ = _found(metric, words[problem.queries], words[problem.documents], problem, "cosine")
    return (
        guess_of("a model that finds the same documents for every query", baseline, usual),
        guess_of("a model that only counts the words that texts share", baseline, shared),
    )


def _found_first(
    before: Score,
    after: Score,
    truth: Truth,
    predict: Predict,
    count: int,
    similarity: str,
) -> list[Comparison]:
    """Return queries with the document that each model finds first, the nearest ones first."""
    assert truth.labels is not None, "both were scored on them"
    problem, texts = Problem.of(truth.labels), _texts(truth)
    vectors = before.kept[VECTORS]
    near = cosines(vectors[problem.queries], vectors[before.outcomes[problem.queries]])
    by_place = dict(zip(problem.queries.tolist(), near.tolist(), strict=True))
    rows = sorted(by_place, key=lambda row: (is_long(texts[row]), -by_place[row], row))[:count]
    queries = as_floats(np.asarray(predict([truth.examples[row] for row in rows])))
    stored = (before if before.metric.endswith(_STORED) else after).kept[VECTORS]
    _, first = _found(
        before.metric, queries, stored[problem.documents], problem.of_queries(rows), similarity
    )
    found = problem.documents[first]
    now = cosines(queries, stored[found])
    return [
        Comparison(row, int(before.outcomes[row]), other, by_place[row], likeness)
        for row, other, likeness in zip(rows, found.tolist(), now.tolist(), strict=True)
    ]


def _texts(truth: Truth) -> list[str]:
    return [str(texts_of(example)[0]) for example in truth.examples]


def _agreement(
    before: NDArray[np.float32], after: NDArray[np.float32], texts: Sequence[str]
) -> NDArray[np.float64]:
    found = (nearest(vectors, texts, NEIGHBOURS) for vectors in (before, after))
    return kept_neighbours(*found)
