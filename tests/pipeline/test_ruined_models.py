"""No ruined model is ever certified: every task, every metric, every kind of ruin.

The scores and the certificates are those of a run; only the search and the passes are left out.
Each baseline is right by definition: the labels are its own predictions, the grades follow its own
similarities. So it is certified itself, and what is not told from it proves nothing.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from conftest import TINY, word_piece_tokenizer
from masked_texts import save_masked_model, texts_it_knows

from compressor.attribution.agreement import (
    agreements,
    judge_agreement,
    uninformed_agreements,
)
from compressor.attribution.occlusion import Question, Reader, ask, hiding_for, occlude
from compressor.certificate import certify_scores
from compressor.data import Dataset
from compressor.measurements import Certificate, Score
from compressor.models.torch_model import TorchModel, load_checkpoint
from compressor.own_code import load_function
from compressor.proof import AttributionRecord
from compressor.runtime.prompts import Document, Query
from compressor.tasks import Guess, ImageTexts, Task, task_class, task_names, with_own_metric
from compressor.tasks.answers import GoldAnswer
from compressor.tasks.examples import Words
from compressor.tasks.hiding import changes_of
from compressor.tasks.similarity import cosines
from compressor.tasks.sound import Sound
from compressor.verify.evaluation import evaluate, predict_outputs

WORDS = ("good", "bad", "funny", "dull", "film", "plot", "very", "the", "story", "was", "it", "and")
BUDGETS = (0.3, 0.9)
# A classifier's metrics hold for both of its tasks, `common` stands for one class of 97%.
CLASSES = [
    (task, metric)
    for task in ("text", "image", "sound", "common")
    for metric in ("accuracy", "f1_macro", "matthews_correlation", "agreement")
]
# Where each task is judged: what is said of it, with the metrics that can be.
PLACES = {
    "vectors": ("sentence-embedding", ("cosine", "cosine_p5", "rank_agreement", "spearman")),
    "index": (
        "sentence-embedding",
        tuple(
            f"{name}@10{of}" for name in ("recall", "ndcg", "mrr") for of in ("", "_original_index")
        ),
    ),
    "pictures": ("image-features", None),
    "heard": ("audio-features", None),
    "tags": ("token-classification", None),
    "label sets": ("multi-label-classification", None),
    "one label": ("multi-label-classification", None),
    "queries": ("text-scoring", ("ndcg@10", "mrr@10", "concordance", "pearson", "r2")),
    "grades": ("text-scoring", ("spearman", "score_agreement")),
    "answers": ("question-answering", None),
    "hidden tokens": ("masked-language-modeling", None),
}
CASES = [
    *CLASSES,
    *(
        (name, metric)
        for name, (task, metrics) in PLACES.items()
        for metric in metrics or task_class(task).metric_names()
    ),
]
TAGS = ("O", "B-PER", "I-PER", "B-LOC")
ROWS = 100
EXPLAINED_ROWS = 40
# Metrics of a user's own, one for each form that predictions and labels have.
OWN = """
def classes(inputs):
    return [p["label_id"] == k for p, k in zip(inputs.predictions, inputs.labels)]

def tags(inputs):
    return [sum(a == b for a, b in zip(own, right, strict=True)) / len(right)
            for own, right in zip(inputs.predictions, inputs.labels)]

def sets(inputs):
    return [sum(one["predicted"] == bool(k) for one, k in zip(own, right)) / len(right)
            for own, right in zip(inputs.predictions, inputs.labels)]

def queries(inputs):
    best = [(-1.0, 0.0)] * inputs.num_units
    for group, score, label in zip(inputs.groups, inputs.predictions, inputs.labels):
        best[group] = max(best[group], (float(score), -label))
    return [-label / 3 for _, label in best]

def pairs(inputs):
    first, second = inputs.predictions[0::2], inputs.predictions[1::2]
    sizes = [max(1e-9, (a @ a) * (b @ b)) ** 0.5 for a, b in zip(first, second)]
    cosines = [a @ b / size for a, b, size in zip(first, second, sizes)]
    return [1 - min(1.0, 20 * abs(c - grade)) for c, grade in zip(cosines, inputs.labels)]

def answers(inputs):
    return [own[0]["answer"] == (right[0].text if right else "")
            for own, right in zip(inputs.predictions, inputs.labels)]
"""
OWN_CASES = [
    ("text", "mine.py:classes"),
    ("tags", "mine.py:tags"),
    ("label sets", "mine.py:sets"),
    ("queries", "mine.py:queries"),
    ("vectors", "mine.py:pairs"),
    ("answers", "mine.py:answers"),
]


def texts(count: int) -> tuple[str, ...]:
    random = np.random.default_rng(0)
    found = (" ".join(random.choice(WORDS, random.integers(2, 12))) for _ in range(4 * count))
    return tuple(dict.fromkeys(found))[:count]


def with_own_labels(model: TorchModel, dataset: Dataset, shares: tuple[float, ...]) -> Dataset:
    """Shift the head until each class gets about its share, and label with the predictions."""
    logits = predict_outputs(model, model.task, model.preprocessor, dataset).numbers
    others = logits[:, 1:].max(axis=1) - logits[:, 0]  # (num_examples,)
    with torch.no_grad():
        head = model.module.classifier
        getattr(head, "dense", head).bias[0] += float(np.quantile(others, shares[0]))
    outputs = predict_outputs(model, model.task, model.preprocessor, dataset)
    return dataclasses.replace(dataset, labels=outputs.numbers.argmax(axis=1))


@pytest.fixture(scope="module")
def baselines(
    tiny_bert_dir: Path,
    tiny_vit_dir: Path,
    tiny_encoder_dir: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, tuple[TorchModel, Dataset]]:
    """Return model and rows of each case."""
    words = Dataset("certification", texts(ROWS), None, np.arange(ROWS), "generated")
    pixels = np.random.default_rng(1).integers(0, 255, (ROWS, 8, 8)).astype(np.uint8)
    images = Dataset("certification", tuple(pixels), None, np.arange(ROWS), "generated")
    found = {}
    for name, place, rows, share in (
        ("text", tiny_bert_dir, words, 0.5),
        ("common", tiny_bert_dir, words, 0.97),
        ("image", tiny_vit_dir, images, 0.5),
    ):
        model = load_checkpoint(place)
        found[name] = (model, with_own_labels(model, rows, (share,)))
    encoder = load_checkpoint(tiny_encoder_dir)
    vectors = predict_outputs(encoder, encoder.task, encoder.preprocessor, words).numbers
    noise = np.random.default_rng(2).normal(0, 0.001, ROWS // 2)
    grades = cosines(vectors[0::2], vectors[1::2]) + noise
    found["vectors"] = (encoder, dataclasses.replace(words, grades=grades))
    folder = tmp_path_factory.mktemp("heads")
    found["sound"] = of_sounds(folder / "sounds")
    found["heard"] = of_heard(folder / "heard", found["sound"][1])
    found["index"] = searched(encoder)
    found["pictures"] = (with_texts(of_pictures(folder / "pictures"), images), images)
    found["tags"] = tagged(new_head(folder / "tags", "Token", TAGS))
    several = {"problem_type": "multi_label_classification"}
    found["label sets"] = labelled(
        new_head(folder / "sets", "Sequence", TAGS[1:], **several), words
    )
    found["one label"] = labelled(new_head(folder / "one", "Sequence", TAGS[1:2], **several), words)
    regression = new_head(folder / "scores", "Sequence", ("score",), problem_type="regression")
    found["answers"] = answered(folder / "answers")
    filler = load_checkpoint(save_masked_model(folder / "filler"))
    known = texts_it_knows(filler, ROWS)
    found["hidden tokens"] = (filler, dataclasses.replace(words, examples=known))
    found["queries"], found["grades"] = scored(regression, queries=30), scored(regression)
    return found


def new_head(folder: Path, kind: str, labels: tuple[str, ...], **options: str) -> TorchModel:
    """Return a tiny BERT with another head, its logits about 0 and far apart."""
    torch.manual_seed(0)
    tokenizer = word_piece_tokenizer()
    config = transformers.BertConfig(
        **TINY,
        vocab_size=len(tokenizer),
        max_position_embeddings=64,
        id2label=dict(enumerate(labels)),
        label2id={name: place for place, name in enumerate(labels)},
        **options,
    )
    module = getattr(transformers, f"BertFor{kind}Classification")(config)
    with torch.no_grad():
        module.classifier.weight.mul_(50)
    module.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return load_checkpoint(folder)


def of_pictures(folder: Path) -> TorchModel:
    """Return an encoder that gives vectors of grey images of 8x8, in many directions."""
    torch.manual_seed(0)
    sizes = {"image_size": 8, "patch_size": 2, "num_channels": 1}
    module = transformers.ViTModel(transformers.ViTConfig(**TINY, **sizes))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    module.save_pretrained(folder)
    transformers.ViTImageProcessorPil(
        size={"height": 8, "width": 8}, image_mean=[0.5], image_std=[0.5]
    ).save_pretrained(folder)
    return load_checkpoint(folder)


def with_texts(model: TorchModel, images: Dataset) -> TorchModel:
    """Return an encoder of images that are compared with the vectors of five of them, as texts."""
    outputs = predict_outputs(model, model.task, model.preprocessor, images)
    vectors = outputs.numbers[:: len(images) // 5][:5]
    names = tuple("abcde")
    texts = ImageTexts(names, tuple((name,) for name in names), vectors)
    return dataclasses.replace(model, task=dataclasses.replace(model.task, zero_shot=texts))


def of_sounds(folder: Path) -> tuple[TorchModel, Dataset]:
    """Return a classifier of spectrograms, and sounds of noise that fades in its own way."""
    torch.manual_seed(0)
    config = transformers.ASTConfig(
        **TINY, max_length=16, num_mel_bins=16, patch_size=8, frequency_stride=8, time_stride=8
    )
    module = transformers.ASTForAudioClassification(config)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    module.save_pretrained(folder)
    transformers.ASTFeatureExtractor(num_mel_bins=16, max_length=16).save_pretrained(folder)
    random = np.random.default_rng(4)
    fading = np.linspace(1, 0, 2400)[None] ** random.uniform(0, 4, (ROWS, 1))
    noise = (random.uniform(-0.9, 0.9, (ROWS, 2400)) * fading).astype(np.float32)
    sounds = tuple(Sound(samples, 16_000, "noise") for samples in noise)
    rows = Dataset("certification", sounds, None, np.arange(ROWS), "generated")
    model = load_checkpoint(folder)
    return model, with_own_labels(model, rows, (0.5,))


def of_heard(folder: Path, rows: Dataset) -> tuple[TorchModel, Dataset]:
    """Return an encoder that gives vectors of spectrograms, and sounds of tones and noise."""
    torch.manual_seed(0)
    config = transformers.ASTConfig(
        **TINY, max_length=16, num_mel_bins=16, patch_size=8, frequency_stride=8, time_stride=8
    )
    module = transformers.ASTModel(config)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    module.save_pretrained(folder)
    transformers.ASTFeatureExtractor(num_mel_bins=16, max_length=16).save_pretrained(folder)
    # Of several colours: noise of one kind lies in one direction.
    random = np.random.default_rng(5)
    places = np.arange(2400)
    tones = tuple(
        Sound(
            (0.5 * np.sin(places * pitch) + 0.01 * random.normal(size=2400)).astype(np.float32),
            16_000,
            "tone",
        )
        for pitch in random.uniform(0.02, 3.0, ROWS)
    )
    model, heard = load_checkpoint(folder), dataclasses.replace(rows, examples=tones, labels=None)
    # Random weights give vectors of one direction, which a model that knows nothing would have too.
    vectors = predict_outputs(model, model.task, model.preprocessor, heard).numbers
    with torch.no_grad():
        model.module.base_model.layernorm.bias -= torch.from_numpy(vectors.mean(axis=0))
    return model, heard


def centre(model: TorchModel, rows: Dataset, share: float) -> np.ndarray:
    """Shift the head until each logit is above 0 for a share of the rows; return the logits."""
    logits = predict_outputs(model, model.task, model.preprocessor, rows).numbers
    with torch.no_grad():
        model.module.classifier.bias -= torch.tensor(np.quantile(logits, 1 - share, axis=0))
    return predict_outputs(model, model.task, model.preprocessor, rows).numbers


def searched(model: TorchModel) -> tuple[TorchModel, Dataset]:
    """Return queries and documents, of which the one is relevant that the model finds first."""
    found = texts(260)
    examples = (*map(Query, found[:60]), *map(Document, found[60:]))
    rows = Dataset("certification", examples, None, np.arange(260), "generated", num_judged=60)
    vectors = predict_outputs(model, model.task, model.preprocessor, rows).numbers
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    labels = np.empty(260, dtype=object)
    for row, best in enumerate((vectors[:60] @ vectors[60:].T).argmax(axis=1).tolist()):
        labels[row] = {"id": f"q{row}", "relevant": {f"d{best}": 1.0}}
    labels[60:] = [f"d{row}" for row in range(200)]
    return model, dataclasses.replace(rows, labels=labels)


def tagged(model: TorchModel) -> tuple[TorchModel, Dataset]:
    documents = tuple(Words(tuple(text.split())) for text in texts(ROWS))
    rows = Dataset("certification", documents, None, np.arange(ROWS), "generated")
    centre(model, rows, 0.5)
    outputs = predict_outputs(model, model.task, model.preprocessor, rows)
    labels = np.empty(ROWS, dtype=object)
    for row, logits in enumerate(outputs.per_example()):
        labels[row] = np.asarray(logits).argmax(axis=1)
    return model, dataclasses.replace(rows, labels=labels)


def labelled(model: TorchModel, rows: Dataset) -> tuple[TorchModel, Dataset]:
    labels = np.empty(len(rows), dtype=object)
    for row, logits in enumerate(centre(model, rows, 0.4)):
        labels[row] = logits >= 0
    return model, dataclasses.replace(rows, labels=labels)


def scored(model: TorchModel, queries: int = 0) -> tuple[TorchModel, Dataset]:
    """Return pairs with labels by the model's own scores; a query has three relevant passages."""
    passages = texts(300)
    groups = np.arange(300) % queries if queries else np.arange(300)
    pairs = tuple(
        (f"{WORDS[group % 12]} {WORDS[group % 7]}", text)
        for group, text in zip(groups.tolist(), passages, strict=True)
    )
    rows = Dataset("certification", pairs, None, np.arange(300), "generated", groups=groups)
    scores = centre(model, rows, 0.5)[:, 0].astype(np.float64)
    labels = scores + np.random.default_rng(3).normal(0, 1e-3 * scores.std(), len(scores))
    if queries:
        for group in range(queries):
            own = np.flatnonzero(groups == group)
            labels[own] = 0.0
            labels[own[np.argsort(-scores[own])[:3]]] = (3.0, 2.0, 1.0)
    return model, dataclasses.replace(rows, labels=labels)


def answered(folder: Path) -> tuple[TorchModel, Dataset]:
    """Return a model that marks spans, and questions whose answers are its own."""
    torch.manual_seed(0)
    tokenizer = word_piece_tokenizer()
    config = transformers.BertConfig(**TINY, vocab_size=len(tokenizer), max_position_embeddings=64)
    module = transformers.BertForQuestionAnswering(config)
    with torch.no_grad():
        module.qa_outputs.weight.mul_(5)
    module.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    model = load_checkpoint(folder)
    pairs = tuple((WORDS[place % 12], text) for place, text in enumerate(texts(ROWS)))
    rows = Dataset("certification", pairs, None, np.arange(ROWS), "generated")
    outputs = predict_outputs(model, model.task, model.preprocessor, rows)
    labels = np.empty(ROWS, dtype=object)
    for row, [best, *_] in enumerate(model.task.predictions(outputs, ())):
        labels[row] = (GoldAnswer(best["answer"], best["start"]),) if best["answer"] else ()
    return model, dataclasses.replace(rows, labels=labels)


def zeroed(model: TorchModel) -> None:
    for parameter in model.module.parameters():
        parameter.zero_()


def random_weights(model: TorchModel) -> None:
    torch.manual_seed(7)
    for parameter in model.module.parameters():
        parameter.normal_(std=0.3)


def pruned(model: TorchModel) -> None:
    """Keep the largest 1% of all weights."""
    everything = torch.cat([parameter.abs().flatten() for parameter in model.module.parameters()])
    threshold = everything.quantile(0.99)
    for parameter in model.module.parameters():
        parameter.mul_(parameter.abs() >= threshold)


def one_unit(model: TorchModel) -> None:
    """Keep one number in each row of every matrix."""
    for parameter in model.module.parameters():
        if parameter.ndim > 1:
            parameter[..., 1:] = 0


def constant_head(model: TorchModel) -> None:
    """Let the head, or of an encoder the last layer norm, give its bias alone."""
    norms = [part for part in model.module.modules() if isinstance(part, torch.nn.LayerNorm)]
    last = getattr(model.module, "classifier", norms[-1])
    last = getattr(last, "dense", last)
    last.weight.zero_()
    last.bias.copy_(torch.linspace(1, 2, last.bias.numel()))


RUINS = [zeroed, random_weights, pruned, one_unit, constant_head]


@dataclasses.dataclass(frozen=True)
class Judged:
    """A baseline with its score, and what models that know nothing score beside it."""

    model: TorchModel
    task: Task
    rows: Dataset
    score: Score
    guesses: tuple[Guess, ...]

    def certificate(self, model: TorchModel, max_drop: float) -> Certificate:
        task, rows = self.task, self.rows
        after = evaluate(
            model, task, model.preprocessor, rows, self.score.metric, reference=self.score
        )
        truth = rows.labels if rows.grades is None else rows.grades
        return certify_scores(
            self.score,
            after,
            truth,
            guesses=self.guesses,
            max_drop=max_drop,
            seed=0,
            resamples=999,  # a run takes ten times as many
        )


@pytest.fixture(scope="module")
def judged(
    baselines: dict[str, tuple[TorchModel, Dataset]], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, str], Judged]:
    """Return a function that scores a baseline, once for each metric."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "mine.py").write_text(OWN)

    @functools.cache
    def judge(name: str, metric: str) -> Judged:
        model, rows = baselines[name]
        task = model.task
        if metric.startswith("mine.py:"):
            own = load_function("budget.metric", f"{folder}/{metric}", takes="inputs")
            task = with_own_metric(task, own, model.labels)
        score = evaluate(model, task, model.preprocessor, rows, metric)
        return Judged(model, task, rows, score, task.guesses(score, rows.truth(), model.labels))

    return judge


Judge = Callable[[str, str], Judged]


@pytest.mark.parametrize("max_drop", BUDGETS)
@pytest.mark.parametrize("ruin", RUINS, ids=lambda ruin: ruin.__name__)
@pytest.mark.parametrize(("name", "metric"), [*CASES, *OWN_CASES])
def test_a_ruined_model_is_never_certified(
    judged: Judge, name: str, metric: str, ruin: Callable[[TorchModel], None], max_drop: float
):
    baseline = judged(name, metric)
    ruined = baseline.model.clone()
    with torch.no_grad():
        ruin(ruined)
    assert baseline.certificate(ruined, max_drop).verdict in ("refuted", "inconclusive")


@pytest.mark.parametrize(("name", "metric"), CASES)
def test_a_model_of_nan_has_no_score(judged: Judge, name: str, metric: str):
    baseline = judged(name, metric)
    broken = baseline.model.clone()
    with torch.no_grad():
        next(broken.module.parameters()).fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="are not finite"):
        baseline.certificate(broken, 0.9)


@pytest.mark.parametrize(
    ("name", "metric", "max_drop"),
    [
        ("text", "accuracy", 0.1),
        ("text", "f1_macro", 0.1),
        ("text", "matthews_correlation", 0.2),
        ("text", "agreement", 0.1),
        ("image", "accuracy", 0.1),
        ("sound", "accuracy", 0.1),
        ("vectors", "cosine", 0.041),
        ("vectors", "cosine_p5", 0.041),
        ("vectors", "rank_agreement", 0.1),
        ("index", "recall@10", 0.2),
        ("index", "mrr@10_original_index", 0.2),
        ("pictures", "image_cosine", 0.06),
        ("pictures", "image_cosine_p5", 0.06),
        ("pictures", "neighbour_agreement", 0.2),
        ("pictures", "zero_shot_agreement", 0.1),
        ("heard", "audio_cosine", 0.06),
        ("heard", "neighbour_agreement", 0.2),
        ("tags", "entity_f1", 0.2),
        ("tags", "agreement", 0.1),
        ("label sets", "f1_micro", 0.1),
        ("label sets", "exact_match", 0.1),
        ("queries", "ndcg@10", 0.15),
        ("queries", "concordance", 0.15),
        ("grades", "score_agreement", 0.2),
        ("grades", "spearman", 0.1),
        ("answers", "answer_f1", 0.1),
        ("answers", "answer_exact_match", 0.1),
        ("answers", "answer_agreement", 0.1),
        ("hidden tokens", "masked_accuracy", 0.2),
        ("hidden tokens", "masked_agreement", 0.2),
        *((name, metric, 0.15) for name, metric in OWN_CASES),
    ],
)
def test_the_same_rows_certify_a_model_that_stayed_as_it_was(
    judged: Judge, name: str, metric: str, max_drop: float
):
    baseline = judged(name, metric)
    assert baseline.certificate(baseline.model, max_drop).verdict == "certified"


@pytest.mark.parametrize("metric", ["accuracy", "agreement"])
def test_where_one_class_is_97_in_100_not_even_the_checkpoint_itself_is_certified(
    judged: Judge, metric: str
):
    baseline = judged("common", metric)
    proof = baseline.certificate(baseline.model, 0.1)
    assert (proof.verdict, proof.drop) == ("inconclusive", 0.0)
    assert proof.upper_bound < 0.1


# Where attributions are judged: every task that has them, whatever its metric.
EXPLAINED = ("text", "image", "vectors", "pictures", "tags", "label sets", "grades", "answers")
AGREEMENTS = (0.1, 0.5)


def stayed(model: TorchModel) -> None:
    """Change nothing."""


Explained = Callable[[str, Callable[[TorchModel], None], float], AttributionRecord]


@pytest.fixture(scope="module")
def explained(baselines: dict[str, tuple[TorchModel, Dataset]]) -> Explained:
    """Return a function that judges a ruined model's attributions against its baseline's."""

    @functools.cache
    def asked(name: str) -> list[Question]:
        model, rows = baselines[name]
        reader = Reader(model, model.preprocessor)
        return ask(reader, model.task, rows.examples[:EXPLAINED_ROWS])

    @functools.cache
    def attributions(name: str, ruin: Callable[[TorchModel], None]) -> list[np.ndarray]:
        model = baselines[name][0].clone()
        with torch.no_grad():
            ruin(model)
        hiding = hiding_for(model.task, model.preprocessor)
        return occlude(Reader(model, model.preprocessor), model.task, asked(name), hiding)

    def judge(name: str, ruin: Callable[[TorchModel], None], least: float) -> AttributionRecord:
        before = attributions(name, stayed)
        changes = [changes_of(item.example, item.pieces) for item in asked(name)]
        return judge_agreement(
            agreements(before, attributions(name, ruin)),
            uninformed_agreements(before, changes),
            min_agreement=least,
            confidence=0.95,
            seed=0,
            explained=baselines[name][0].task.explains,
            resamples=999,
        )

    return judge


@pytest.mark.parametrize("least", AGREEMENTS)
@pytest.mark.parametrize("ruin", RUINS, ids=lambda ruin: ruin.__name__)
@pytest.mark.parametrize("name", EXPLAINED)
def test_a_ruined_model_never_keeps_its_attributions(
    explained: Explained, name: str, ruin: Callable[[TorchModel], None], least: float
):
    assert explained(name, ruin, least).verdict in ("refuted", "inconclusive")


@pytest.mark.parametrize("name", EXPLAINED)
def test_a_model_that_stayed_as_it_was_keeps_its_attributions(explained: Explained, name: str):
    proof = explained(name, stayed, 0.8)
    assert (proof.agreement, proof.verdict) == (1.0, "certified")


def test_every_task_that_explains_is_among_the_explained(
    baselines: dict[str, tuple[TorchModel, Dataset]],
):
    judged = {baselines[name][0].task.name for name in EXPLAINED}
    assert judged == {name for name in task_names() if task_class(name).explains}


def test_every_task_and_every_metric_is_among_the_cases(
    baselines: dict[str, tuple[TorchModel, Dataset]],
):
    judged = {(baselines[name][0].task.name, metric) for name, metric in CASES}
    wanted = {(task, metric) for task in task_names() for metric in task_class(task).metric_names()}
    assert judged == wanted
