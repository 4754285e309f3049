"""Rerankers and regressions: what a head means, what its numbers are worth, and whole runs."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scored_texts
import torch
import transformers
from numpy.typing import NDArray
from pydantic import ValidationError
from scipy import stats
from scored_texts import CANDIDATES, graded_rows, new_module, query_rows, save, write_jsonl
from sklearn.metrics import ndcg_score, r2_score
from torch.nn import functional

import compressor
from compressor.certificate import certify_scores
from compressor.data import Dataset, DataSettings, SplitSource, load_splits
from compressor.data.describe import describe_splits, fingerprint
from compressor.errors import EnvironmentMismatch, RecipeError, StepFailed
from compressor.measurements import RunReport, Score
from compressor.models.checkpoint import find_checkpoint
from compressor.models.predict import predict_rows
from compressor.models.torch_model import TorchModel, load_checkpoint
from compressor.passes.distill.settings import Distill
from compressor.pipeline.preflight import check_inputs
from compressor.report.predictions import prediction_lines
from compressor.runtime.probabilities import sigmoid
from compressor.tasks import OutputForm, Truth, load_task
from compressor.tasks.columns import ScoredColumns
from compressor.tasks.losses import NumberLosses, ProbabilityLosses
from compressor.tasks.text_scoring import ScoreLogits, TextScoring
from compressor.training.recovery import check_distillation

IDENTITY, SIGMOID = "torch.nn.modules.linear.Identity", "torch.nn.modules.activation.Sigmoid"
WRITTEN = {"activation_fn": IDENTITY, "version": "4.1.0"}
SCORING, CLASSES = "text-scoring", "text-classification"
QUICK = {"epochs": 1, "batch_size": 16}
BENCHMARK = {
    "batch_sizes": [1], "sequence_lengths": [8], "num_runs": 3, "warmup_runs": 1, "threads": 1,
}  # fmt: skip
IDENTICAL = TextScoring(activation="identity")
PAIRS = [("a film", "a good film"), ("the plot", "dull"), ("it was very good", "great")]


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """Return a random checkpoint of one logit, about which nothing else is said."""
    return save(*new_module(), tmp_path / "plain")


def edit(directory: Path, name: str = "config.json", **changes: Any) -> None:
    place = directory / name
    content = json.loads(place.read_text()) if place.is_file() else {}
    place.write_text(json.dumps({**content, **changes}))


def logits_of(directory: Path) -> NDArray[np.float32]:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(directory).eval()
    tokenizer = AutoTokenizer.from_pretrained(directory)
    first, second = zip(*PAIRS, strict=True)
    with torch.inference_mode():
        found = model(**tokenizer(list(first), list(second), padding=True, return_tensors="pt"))
    return np.asarray(found.logits[:, 0].numpy())


def scores_of(model: TorchModel) -> NDArray[np.float32]:
    assert isinstance(model.task, TextScoring)
    batch = model.task.encode(model.preprocessor, PAIRS)
    return model.task.predictions(model.task.collect([model.predict(batch)], [batch]), ())


# What a head means.


def test_one_logit_is_a_score_and_several_are_a_choice(plain: Path, tiny_bert_dir: Path):
    assert find_checkpoint(str(plain)).infer_task() == SCORING
    assert find_checkpoint(str(tiny_bert_dir)).infer_task() == CLASSES


def test_each_task_sends_the_heads_of_the_other_there(plain: Path, tiny_bert_dir: Path):
    with pytest.raises(EnvironmentMismatch, match=r"set model\.task: text-scoring"):
        find_checkpoint(str(plain)).require_head(CLASSES)
    with pytest.raises(EnvironmentMismatch, match=r"2 labels .*text-classification"):
        find_checkpoint(str(tiny_bert_dir)).require_head(SCORING)


@pytest.mark.parametrize(
    ("config", "about", "activation"),
    [
        ({}, None, "sigmoid"),
        ({"problem_type": "regression"}, None, "identity"),
        ({"problem_type": "multi_label_classification"}, None, "sigmoid"),
        ({"sentence_transformers": WRITTEN}, None, "identity"),
        ({"sbert_ce_default_activation_function": IDENTITY}, None, "identity"),
        ({"sentence_transformers": WRITTEN}, {"activation_fn": SIGMOID}, "sigmoid"),
        ({"problem_type": "regression"}, {"activation_fn": SIGMOID}, "sigmoid"),
    ],
)
def test_the_activation_is_what_the_files_say(
    plain: Path, config: dict[str, Any], about: dict[str, Any] | None, activation: str
):
    edit(plain, **config)
    if about is not None:
        edit(plain, "config_sentence_transformers.json", model_type="CrossEncoder", **about)
    model = load_checkpoint(plain, task=SCORING)
    assert isinstance(model.task, TextScoring)
    assert model.task.activation == activation
    expected = torch.from_numpy(logits_of(plain))
    expected = torch.sigmoid(expected) if activation == "sigmoid" else expected
    np.testing.assert_allclose(scores_of(model), expected, rtol=1e-5, atol=1e-6)


def test_a_saved_model_says_it_too(plain: Path, tmp_path: Path):
    edit(plain, "config_sentence_transformers.json", activation_fn=IDENTITY)
    model = load_checkpoint(plain)
    model.save(tmp_path / "saved")
    again = load_checkpoint(tmp_path / "saved")
    np.testing.assert_allclose(scores_of(again), scores_of(model), atol=1e-7)
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert config["sentence_transformers"] == {"activation_fn": IDENTITY}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"sentence_transformers": {"activation_fn": "my.module.Softplus"}},
            "'my.module.Softplus' is not computed here.*write the one",
        ),
        ({"problem_type": "single_label_classification"}, "one label to choose from; write"),
        ({"problem_type": "ranking"}, "known are single_label"),
    ],
)
def test_a_head_that_means_something_else_is_refused(
    plain: Path, changes: dict[str, Any], reason: str
):
    edit(plain, **changes)
    with pytest.raises(EnvironmentMismatch, match=reason):
        load_checkpoint(plain)


def test_a_prompt_and_modules_of_their_own_are_refused(plain: Path):
    about = {"model_type": "CrossEncoder", "default_prompt_name": "q", "prompts": {"q": "query: "}}
    edit(plain, "config_sentence_transformers.json", **about)
    with pytest.raises(EnvironmentMismatch, match="puts the prompt 'q'"):
        load_checkpoint(plain)
    edit(plain, "config_sentence_transformers.json", default_prompt_name=None)
    steps = [{"type": f"sentence_transformers.base.modules.{name}", "path": ""} for name in
             ("transformer.Transformer", "dense.Dense")]  # fmt: skip
    (plain / "modules.json").write_text(json.dumps(steps))
    with pytest.raises(EnvironmentMismatch, match="the steps are Transformer, Dense"):
        load_checkpoint(plain)
    (plain / "modules.json").write_text(json.dumps(steps[:1]))
    assert load_checkpoint(plain).task.name == SCORING


def test_a_checkpoint_without_its_classifier_is_refused(plain: Path):
    from safetensors.torch import load_file, save_file

    place = plain / "model.safetensors"
    tensors = {key: value for key, value in load_file(place).items() if "classifier" not in key}
    save_file(tensors, place, metadata={"format": "pt"})
    with pytest.raises(EnvironmentMismatch, match="classifier"):
        load_checkpoint(plain)


def test_the_tokenizer_reads_what_sentence_transformers_would(plain: Path):
    own = load_checkpoint(plain).preprocessor.model_max_length
    edit(plain, "sentence_bert_config.json", max_seq_length=12)
    # As CrossEncoder does, which reads the file where modules.json names a step alone.
    assert load_checkpoint(plain).preprocessor.model_max_length == own
    kind = "sentence_transformers.base.modules.transformer.Transformer"
    (plain / "modules.json").write_text(json.dumps([{"type": kind, "path": ""}]))
    edit(plain, "config_sentence_transformers.json", model_type="CrossEncoder")
    assert load_checkpoint(plain).preprocessor.model_max_length == 12
    way = {"text": {"method": "forward", "method_output_name": "logits"}}
    usual = {"transformer_task": "sequence-classification", "module_output_name": "scores"}
    edit(plain, "sentence_bert_config.json", modality_config=way, **usual)
    assert load_checkpoint(plain).task.name == SCORING
    edit(plain, "sentence_bert_config.json", processing_kwargs={"text": {"max_length": 12}})
    with pytest.raises(EnvironmentMismatch, match=r"processing_kwargs\.text is .*not followed"):
        load_checkpoint(plain)


def test_the_sigmoid_is_that_of_torch():
    logits = np.linspace(-120, 120, 2001, dtype=np.float32)
    expected = torch.sigmoid(torch.from_numpy(logits)).numpy()
    np.testing.assert_allclose(sigmoid(logits), expected, rtol=3e-7, atol=1e-37)


# What the numbers are worth.


def reranking(seed: int = 0, num_queries: int = 80) -> Truth:
    rows = query_rows(seed, num_queries)
    examples = [(row["query"], row["passage"]) for row in rows]
    labels = np.array([float(row["relevance"]) for row in rows])
    return Truth(examples, labels, groups=np.repeat(np.arange(num_queries), CANDIDATES))


def single(seed: int = 0, count: int = 200) -> Truth:
    rows = graded_rows(seed, count)
    return Truth([row["text"] for row in rows], np.array([float(row["grade"]) for row in rows]))


def outputs(numbers: NDArray[np.float64]) -> ScoreLogits:
    return ScoreLogits(numbers.astype(np.float32)[:, None])


def good(truth: Truth, noise: float = 0.3) -> NDArray[np.float64]:
    assert truth.labels is not None
    return truth.labels + np.random.default_rng(1).normal(scale=noise, size=len(truth.labels))


def scored(metric: str, numbers: NDArray[np.float64], truth: Truth) -> Score:
    return IDENTICAL.score(metric, outputs(numbers), truth)


GROUPED = ("ndcg@10", "mrr@10", "concordance")
OF_ROWS = ("spearman", "pearson", "r2", "score_agreement")


def truth_of(metric: str) -> Truth:
    return reranking() if metric in GROUPED else single()


def test_scores_are_those_of_other_libraries():
    truth = reranking()
    numbers = good(truth).astype(np.float32).astype(np.float64)
    lists = (truth.labels.reshape(-1, CANDIDATES), numbers.reshape(-1, CANDIDATES))
    assert scored("ndcg@10", numbers, truth).value == pytest.approx(ndcg_score(*lists))
    places = [
        np.flatnonzero(own[np.argsort(-told)] > 0)[0] + 1 for own, told in zip(*lists, strict=True)
    ]
    assert scored("mrr@10", numbers, truth).value == pytest.approx(np.mean(1 / np.array(places)))
    truth = single()
    numbers = good(truth).astype(np.float32).astype(np.float64)
    found = {metric: scored(metric, numbers, truth).value for metric in OF_ROWS[:3]}
    assert found == pytest.approx(
        {
            "spearman": stats.spearmanr(numbers, truth.labels).statistic,
            "pearson": stats.pearsonr(numbers, truth.labels).statistic,
            "r2": r2_score(truth.labels, numbers),
        }
    )


@pytest.mark.parametrize("metric", ["concordance", "score_agreement"])
def test_without_labels_a_model_agrees_with_itself(metric: str):
    truth = truth_of(metric)
    numbers = good(truth)
    before = scored(metric, numbers, Truth(truth.examples, groups=truth.groups))
    assert before.value == 1.0
    known = Truth(truth.examples, reference=before, groups=truth.groups)
    after = scored(metric, -numbers, known)
    assert after.value < 0.01


def test_queries_without_a_better_and_a_worse_order_do_not_count():
    truth = reranking(num_queries=6)
    labels = truth.labels.copy()
    labels[: 2 * CANDIDATES] = np.repeat([0.0, 1.0], CANDIDATES)
    truth = Truth(truth.examples, labels, groups=truth.groups)
    found = scored("ndcg@10", good(truth), truth)
    assert (found.num_examples, len(found.shares)) == (4, 4)
    assert found.units.tolist() == np.repeat([-1, -1, 0, 1, 2, 3], CANDIDATES).tolist()


@pytest.mark.parametrize("metric", [*GROUPED, *OF_ROWS])
@pytest.mark.parametrize("ruin", ["constant", "other rows", "reversed", "random"])
def test_a_ruined_model_is_never_certified(metric: str, ruin: str):
    truth, random = truth_of(metric), np.random.default_rng(2)
    numbers = good(truth)
    ruined = {
        "constant": np.zeros(len(numbers)),
        "other rows": random.permutation(numbers),
        "reversed": numbers.mean() - numbers,
        "random": random.normal(size=len(numbers)),
    }[ruin]
    before = scored(metric, numbers, truth)
    known = Truth(truth.examples, truth.labels, reference=before, groups=truth.groups)
    after = scored(metric, ruined, known)
    guesses = IDENTICAL.guesses(before, truth, ("LABEL_0",))
    for max_drop in (0.01, 0.3, 0.6, 0.95):
        proof = certify_scores(
            before, after, truth.labels, guesses=guesses, max_drop=max_drop, seed=0, resamples=999
        )
        assert proof.verdict != "certified"


@pytest.mark.parametrize("metric", [*GROUPED, *OF_ROWS])
def test_a_model_that_hardly_moved_is_certified(metric: str):
    truth = truth_of(metric)
    numbers = good(truth)
    before = scored(metric, numbers, truth)
    known = Truth(truth.examples, truth.labels, reference=before, groups=truth.groups)
    after = scored(metric, numbers + 1e-3 * np.sin(np.arange(len(numbers))), known)
    proof = certify_scores(
        before,
        after,
        truth.labels,
        guesses=IDENTICAL.guesses(before, truth, ("LABEL_0",)),
        max_drop=0.15,  # one of 200 rows that turns round takes 12 points of a correlation
        seed=0,
    )
    assert proof.verdict == "certified"
    assert proof.num_examples == (80 if metric in GROUPED else 200)


def test_the_candidates_of_a_query_are_one_unit():
    truth = reranking()
    numbers = good(truth)
    for metric in ("pearson", "r2", "score_agreement", *GROUPED):
        found = scored(metric, numbers, truth)
        assert found.num_examples == 80
        assert found.units.tolist() == truth.groups.tolist()


@pytest.mark.parametrize("metric", GROUPED)
def test_equal_scores_are_worth_what_a_random_order_is(metric: str):
    truth, random = reranking(num_queries=400), np.random.default_rng(3)
    before = scored(metric, good(truth), truth)
    known = Truth(truth.examples, truth.labels, reference=before, groups=truth.groups)
    found = scored(metric, np.zeros(len(truth.labels)), known).value
    shuffled = scored(metric, random.normal(size=len(truth.labels)), known).value
    assert found == pytest.approx(shuffled, abs=0.04)


FOUR, TWO = ["a"] * 4, np.array([0, 0, 1, 1])


@pytest.mark.parametrize(
    ("metric", "truth", "reason"),
    [
        ("ndcg@10", single(), "no query with several candidates.*data.group"),
        ("ndcg@10", Truth(reranking().examples, groups=reranking().groups), "no labels.*concord"),
        ("ndcg@10", Truth(FOUR, np.array([0.0, -1, 0, 1]), groups=TWO), "label -1"),
        ("mrr@10", Truth(FOUR, np.ones(4), groups=TWO), "0 queries whose"),
        ("concordance", Truth(["a"] * 4, groups=np.arange(4)), "no query with several.*agreement$"),
        ("ndcg@10", Truth(FOUR, np.array([0.0, 1, 0, 1])), "problem_type: multi_label_class"),
        ("ndcg@10", Truth(FOUR, np.array([0.0, 1, 0, 2])), "no query with several.*agreement$"),
        ("pearson", Truth(["a"] * 4), "no labels.*score_agreement"),
        ("r2", Truth(["a"] * 4, np.ones(4)), "every label is 1"),
        ("spearman", reranking(), "most rows share their query.*pearson"),
        ("score_agreement", Truth(["a"] * 2), "fewer than 3"),
    ],
)  # fmt: skip
def test_what_cannot_be_scored_is_told(metric: str, truth: Truth, reason: str):
    found = IDENTICAL.unscorable(metric, truth)
    assert found is not None
    assert re.search(reason, found)


def test_labels_beyond_a_sigmoid_are_told_where_they_are_compared_or_trained_on():
    task, truth = TextScoring(activation="sigmoid"), single()
    for told in (task.unscorable("r2", truth), _refusal(task, truth)):
        assert told is not None
        assert "bring the labels into 0..1" in told
    assert task.unscorable("spearman", truth) is None
    assert task.targets({}, np.array([0.0, 0.25, 1.0])).dtype == np.float32


def _refusal(task: TextScoring, truth: Truth) -> str:
    assert truth.labels is not None
    with pytest.raises(StepFailed) as found:
        task.targets({}, truth.labels)
    return str(found.value)


def test_labels_that_cannot_be_trained_on_are_told_before_a_run(tmp_path: Path):
    save(*new_module(), tmp_path / "model")
    path = write_jsonl(tmp_path / "rows.jsonl", graded_rows(0, 40))
    recipe = {
        "model": {"checkpoint": str(tmp_path / "model")},
        "data": {"label": "grade", "train": {"path": str(path)}},
        "budget": {"metric": "spearman", "max_drop": 0.1},
        "passes": [{"kind": "finetune", **QUICK}],
    }
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    with pytest.raises(
        RecipeError, match=r"passes\[0\]\.kind: trains on labels.*do not fit: labels"
    ):
        check_inputs(compressor.load_recipe(tmp_path / "recipe.yaml"))


def test_scores_that_are_all_alike_are_told():
    truth = reranking()
    same = scored("ndcg@10", np.zeros(len(truth.labels)), truth)
    assert IDENTICAL.constant(same, ()) == "gives the same score"
    by_query = scored("ndcg@10", truth.groups.astype(np.float64), truth)
    assert IDENTICAL.constant(by_query, ()) == "gives the candidates of each query the same score"
    assert IDENTICAL.constant(scored("ndcg@10", good(truth), truth), ()) is None


def test_a_query_flips_where_another_passage_is_best():
    truth = reranking(num_queries=4)
    numbers = np.tile([4.0, 3.0, 2.0, 1.0, 0.0], 4)
    after = numbers.copy()
    after[1] = 5.0  # another one of the first query
    after[CANDIDATES + 4] = 3.5  # not the best of the second
    numbers[2 * CANDIDATES + 1] = 4.0  # one of two that were best in the third stays so
    before = scored("ndcg@10", numbers, truth)
    [flip] = IDENTICAL.flips(before, scored("ndcg@10", after, truth), truth, ())
    assert (flip.position, flip.before, flip.after, flip.lost) == (0, 0, 1, 1.0)
    assert (flip.before_score, flip.after_score) == (4.0, 5.0)


def test_one_score_for_all_is_no_best_passage():
    truth = reranking(num_queries=4)
    before = scored("ndcg@10", np.tile([4.0, 3.0, 2.0, 1.0, 0.0], 4), truth)
    same = scored("ndcg@10", np.zeros(20), truth)
    assert [flip.position for flip in IDENTICAL.flips(before, same, truth, ())] == [0, 5, 10, 15]


def test_a_row_flips_where_its_score_moved_far():
    truth = single(count=20)
    numbers = np.arange(20.0)
    after = numbers + 0.5
    after[7] = 12.0
    [flip] = IDENTICAL.flips(scored("r2", numbers, truth), scored("r2", after, truth), truth, ())
    assert (flip.position, flip.before, flip.after, flip.lost) == (7, "7.00", "12.00", 5.0)


# Losses.


def test_losses_follow_the_activation():
    logits, labels = torch.tensor([[2.0], [-1.0]]), torch.tensor([1.0, 0.25])
    assert isinstance(TextScoring(activation="sigmoid").losses, ProbabilityLosses)
    found = ProbabilityLosses().on_labels(logits, labels).mean
    expected = functional.binary_cross_entropy(torch.sigmoid(logits[:, 0]), labels)
    assert float(found) == pytest.approx(float(expected))
    assert isinstance(IDENTICAL.losses, NumberLosses)
    assert float(NumberLosses().on_labels(logits, labels).mean) == pytest.approx(
        (1.0**2 + 1.25**2) / 2
    )


@pytest.mark.parametrize("losses", [ProbabilityLosses(), NumberLosses()])
def test_a_student_is_held_against_the_teachers_logits(losses: Any):
    student, teacher = torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0], [2.0]])
    assert float(losses.to_teacher(student, teacher, None, 2.0)) == 2.0


@pytest.mark.parametrize("losses", [ProbabilityLosses(), NumberLosses()])
def test_margins_are_compared_within_a_query_and_what_all_share_costs_nothing(losses: Any):
    student = torch.tensor([[1.0], [2.0], [5.0], [0.0], [7.0]])
    teacher = torch.tensor([[0.0], [3.0], [5.0], [0.0], [9.0]])
    groups = torch.tensor([4, 4, 4, 1, 1])
    # Differences of 1 and 2, 1 and 5, 2 and 5 for 3, 5 and 2, and of 7 for 9.
    pairs = [(-1 + 3) ** 2, (-4 + 5) ** 2, (-3 + 2) ** 2, (-7 + 9) ** 2]
    found = losses.margins(student, teacher, groups)
    assert float(found) == pytest.approx(sum(pairs) / 4)
    shift = torch.tensor([[3.0], [3.0], [3.0], [-8.0], [-8.0]])
    assert float(losses.margins(teacher + shift, teacher, groups)) == 0.0
    assert float(losses.margins(student, teacher, torch.arange(5))) == 0.0


def test_a_setting_of_margins_needs_queries_and_their_own_texts():
    assert "margin_weight" not in Distill().settings
    assert Distill(margin_weight=1.0).settings["margin_weight"] == 1.0
    assert Distill(margin_weight=1.0, logits_weight=0.0).margin_weight == 1.0
    with pytest.raises(ValidationError, match="texts that are changed belong to none"):
        Distill(margin_weight=1.0, drop_probability=0.1)
    with pytest.raises(ValidationError, match="accumulation_steps computes them apart"):
        Distill(margin_weight=1.0, accumulation_steps=2)
    [(key, why)] = Distill(margin_weight=1.0).unfit_for(load_task("text-classification"))
    assert key == "margin_weight"
    assert "text-classification gives none" in why


def test_margins_without_queries_are_refused(plain: Path):
    model = load_checkpoint(plain)
    alone = Dataset("train", ("a film", "the plot"), None, np.arange(2), "rows.csv")
    settings = Distill(margin_weight=1.0)
    with pytest.raises(StepFailed, match=r"no two rows of the split 'train' have one in common"):
        check_distillation(model, model, alone, settings)


def test_a_fisher_probe_of_one_number_is_its_derivative():
    logits = torch.tensor([[0.0], [4.0]], requires_grad=True)
    [probe] = NumberLosses().fisher_probes(logits, None, torch.Generator())
    assert torch.autograd.grad(probe, logits)[0].tolist() == [[1.0], [1.0]]
    [probe] = ProbabilityLosses().fisher_probes(logits, None, torch.Generator())
    p = torch.sigmoid(torch.tensor([0.0, 2.0]))  # softened at temperature 2
    squared = torch.autograd.grad(probe, logits)[0][:, 0] ** 2
    torch.testing.assert_close(squared, p * (1 - p))


def test_a_teacher_must_mean_the_same_by_its_logit(plain: Path):
    config = load_checkpoint(plain).module.config
    other = type(config)(
        **{**config.to_dict(), "sentence_transformers": {"activation_fn": IDENTITY}}
    )
    own = OutputForm(("LABEL_0",), config)
    task = TextScoring(activation="sigmoid")
    assert task.teacher_order(own, OutputForm(("relevance",), config)) == [0]
    with pytest.raises(StepFailed, match="is the sigmoid of its logit, the teacher's the identity"):
        task.teacher_order(own, OutputForm(("LABEL_0",), other))


# Rows.


def splits(path: Path, *, group: str | None = None, needed: tuple[str, ...] = ("search",)) -> Any:
    settings = DataSettings(
        text=("query", "passage"),
        label="relevance",
        group=group,
        **{"train" if "train" in needed else "search": SplitSource(path=path)},
    )
    names = ("LABEL_0",)
    return load_splits(settings, label_names=names, columns=ScoredColumns(), needed=needed, seed=0)


def test_rows_belong_to_the_query_that_a_column_names_or_to_their_first_text(tmp_path: Path):
    rows = query_rows(0, 12)
    rows[CANDIDATES]["query"] = rows[0]["query"]  # two queries of one text
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    assert splits(path, group="query_id")["search"].groups.tolist() == [
        number for number in range(12) for _ in range(CANDIDATES)
    ]
    by_text = splits(path)["search"].groups
    assert by_text[CANDIDATES] == by_text[0]


def test_a_cut_parts_no_query(tmp_path: Path):
    path = write_jsonl(tmp_path / "rows.jsonl", query_rows(0, 50))
    found = splits(path, group="query_id", needed=("train", "search"))
    queries = {
        name: {query_rows(0, 50)[row]["query_id"] for row in split.rows.tolist()}
        for name, split in found.items()
    }
    assert not queries["train"] & queries["search"]
    assert len(found["search"]) == len(queries["search"]) * CANDIDATES == 50


def test_a_row_without_its_query_is_told(tmp_path: Path):
    rows = query_rows(0, 4)
    rows[3]["query_id"] = ""
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    with pytest.raises(RecipeError, match="query_id is missing"):
        splits(path, group="query_id")


def test_label_names_of_numbers_are_refused(tmp_path: Path):
    path = write_jsonl(tmp_path / "rows.jsonl", query_rows(0, 4))
    settings = DataSettings(
        text=("query", "passage"),
        label="relevance",
        label_names=("no", "yes"),
        search=SplitSource(path=path),
    )
    with pytest.raises(RecipeError, match="label_names: labels are numbers"):
        load_splits(
            settings, label_names=("x",), columns=ScoredColumns(), needed=["search"], seed=0
        )


def test_the_fingerprint_tells_fractions_apart():
    def split(labels: list[float]) -> Dataset:
        return Dataset("search", ("a", "b"), np.array(labels), np.arange(2), "rows")

    assert fingerprint(split([0.25, 0.5])) != fingerprint(split([0.0, 0.0]))


def test_queries_that_two_splits_share_are_counted_by_their_rows(tmp_path: Path):
    rows = query_rows(0, 10)
    for row in rows[: 3 * CANDIDATES]:
        row["passage"] = f"very {row['passage']}"  # other candidates of the same queries
    first = splits(write_jsonl(tmp_path / "rows.jsonl", query_rows(0, 10)))["search"]
    second = splits(write_jsonl(tmp_path / "others.jsonl", rows[: 3 * CANDIDATES]))["search"]
    records = describe_splits({"search": first, "certification": second})
    assert [record.shared_with for record in records] == [
        {"certification": 3 * CANDIDATES},
        {"search": 3 * CANDIDATES},
    ]


def test_a_column_of_queries_is_for_scores_alone(tiny_bert_dir: Path, tmp_path: Path):
    write_jsonl(tmp_path / "rows.jsonl", [{"text": "a film", "label": 0, "id": 1}] * 2)
    recipe = {
        "model": {"checkpoint": str(tiny_bert_dir), "task": CLASSES},
        "data": {"group": "id", "search": {"path": str(tmp_path / "rows.jsonl")}},
    }
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    with pytest.raises(RecipeError, match=r"data\.group: text-classification takes every row"):
        compressor.load_recipe(tmp_path / "recipe.yaml")


# Whole runs.


def run(folder: Path, recipe: dict[str, Any], *, certified: bool = True) -> RunReport:
    (folder / "recipe.yaml").write_text(json.dumps({**recipe, "benchmark": BENCHMARK}))
    return compressor.run(
        compressor.load_recipe(folder / "recipe.yaml"),
        output=folder / "run",
        device="cpu",
        allow_inconclusive=not certified,
    )


PASSES = [
    {"kind": "prune_structured", "ratio": 0.25},
    {"kind": "distill", **QUICK, "epochs": 4, "label_weight": 0.5},
    {"kind": "quantize_dynamic", "min_elements": 64, "keep_sensitive": 1},
]


@pytest.fixture(scope="module")
def reranked(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunReport, Path]:
    folder = tmp_path_factory.mktemp("reranker")
    scored_texts.trained_reranker(folder / "model")
    for seed, (name, count) in enumerate({"train": 40, "search": 40, "unseen": 120}.items()):
        write_jsonl(folder / f"{name}.jsonl", query_rows(seed, count))
    return run(
        folder,
        {
            "model": {"checkpoint": str(folder / "model")},
            "data": {
                "text": ["query", "passage"],
                "label": "relevance",
                "group": "query_id",
                "train": {"path": str(folder / "train.jsonl")},
                "search": {"path": str(folder / "search.jsonl")},
                "certification": {"path": str(folder / "unseen.jsonl")},
            },
            "budget": {"max_drop": 0.2, "slices": ["source", "length"]},
            "passes": [PASSES[0], {**PASSES[1], "margin_weight": 1.0}, PASSES[2]],
        },
    ), folder


def test_a_reranker_is_judged_query_by_query(reranked: tuple[RunReport, Path]):
    report, _ = reranked
    assert (report.task, report.metric) == (SCORING, "ndcg@10")
    assert report.baseline is not None
    assert report.baseline.score.value > 0.85  # a random order of these candidates has 0.67
    assert report.certificate is not None
    assert report.certificate.verdict == "certified"
    assert report.certificate.num_examples == 120
    assert {item.name for item in report.slices} >= {"source = web", "source = print"}
    assert sum(item.num_examples for item in report.slices if "source" in item.name) == 120


def test_its_report_shows_best_passages(reranked: tuple[RunReport, Path]):
    report, folder = reranked
    assert len(report.predictions) == 3
    assert len(report.flips) < 120
    assert all(item.before != item.after for item in report.flips)
    page = (folder / "run" / "report.html").read_text()
    assert "Best passages" in page
    queries = {row["query"] for row in query_rows(1, 40)}
    passages = {row["passage"] for row in query_rows(1, 40)}
    for shown in report.predictions:
        assert shown.text in queries
        assert {shown.before, shown.after} <= passages
    said = list(prediction_lines(report))[-1]
    assert said.startswith("Among 600 certification rows, ")
    assert "%" not in said  # queries are no share of rows
    assert "NDCG@10" in page


def test_its_artifact_gives_what_a_cross_encoder_would(reranked: tuple[RunReport, Path]):
    _, folder = reranked
    artifact = compressor.load_artifact(folder / "run" / "artifact", threads=1)
    found = artifact(PAIRS)
    assert found.dtype == np.float32
    assert found.shape == (3,)
    # int8 aside, the formula of sentence-transformers: the activation of config.json on the logit.
    logits = torch.from_numpy(artifact.logits(PAIRS)[:, 0])
    np.testing.assert_allclose(found, torch.sigmoid(logits).numpy(), rtol=1e-6)
    # An empty second text keeps its place, as in CrossEncoder, which gives a tokenizer lists too.
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "run" / "artifact")
    batch = tokenizer(["a good film"], [""], return_tensors="np")
    assert batch["input_ids"][0].tolist().count(tokenizer.sep_token_id) == 2
    expected = predict_rows(artifact.model, dict(batch), 1)
    np.testing.assert_array_equal(artifact.logits([("a good film", "")]), expected)
    config = json.loads((folder / "run" / "artifact" / "config.json").read_text())
    assert config["sentence_transformers"]["activation_fn"] == SIGMOID


def test_a_regression_goes_through_a_run(tmp_path: Path):
    scored_texts.trained_regression(tmp_path / "model")
    for seed, (name, count) in enumerate({"train": 100, "search": 100, "unseen": 200}.items()):
        write_jsonl(tmp_path / f"{name}.jsonl", graded_rows(seed, count))
    report = run(
        tmp_path,
        {
            "model": {"checkpoint": str(tmp_path / "model")},
            "data": {
                "label": "grade",
                "train": {"path": str(tmp_path / "train.jsonl")},
                "search": {"path": str(tmp_path / "search.jsonl")},
                "certification": {"path": str(tmp_path / "unseen.jsonl")},
            },
            "budget": {"metric": "pearson", "max_drop": 0.3, "slices": ["length"]},
            "passes": PASSES,
        },
    )
    assert report.baseline is not None
    assert report.baseline.score.value > 0.8
    assert report.certificate is not None
    assert report.certificate.verdict == "certified"
    assert all(float(item.before) != float(item.after) for item in report.flips)
    artifact = compressor.load_artifact(tmp_path / "run" / "artifact", threads=1)
    np.testing.assert_array_equal(artifact(["a good film"]), artifact.logits(["a good film"])[:, 0])


def test_an_exact_export_gives_the_checkpoints_scores(plain: Path, tmp_path: Path):
    rows = [{"text": row["text"]} for row in graded_rows(0, 60)]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    shutil.copytree(plain, tmp_path / "model")
    run(
        tmp_path,
        {
            "model": {"checkpoint": str(tmp_path / "model")},
            "data": {"text": "text", "search": {"path": str(tmp_path / "rows.jsonl")}},
            "budget": {"metric": "score_agreement", "max_drop": 0.1},
            "passes": [],
        },
    )
    artifact = compressor.load_artifact(tmp_path / "run" / "artifact", threads=1)
    expected = torch.sigmoid(torch.from_numpy(logits_of(plain))).numpy()
    np.testing.assert_allclose(artifact.task.predictions(  # pairs, though judged on single texts
        _collected(artifact), ()), expected, atol=1e-5)  # fmt: skip


def _collected(artifact: Any) -> Any:
    batch = artifact.task.encode(artifact.preprocessor, PAIRS)
    return artifact.task.collect([artifact.model.predict(batch)], [batch])


def test_the_one_logit_that_was_certified_at_nothing_is_refuted(tmp_path: Path):
    """Zeroed weights keep the arg-max of one logit, and lose every order of scores."""
    scored_texts.trained_regression(tmp_path / "model")
    rows = [{"text": row["text"]} for row in graded_rows(0, 100)]
    write_jsonl(tmp_path / "search.jsonl", rows)
    recipe = {
        "model": {"checkpoint": str(tmp_path / "model")},
        "data": {"text": "text", "search": {"path": str(tmp_path / "search.jsonl")}},
        "budget": {"metric": "score_agreement", "max_drop": 0.05},
        "passes": [{"kind": "prune_magnitude", "sparsity": 0.99}],
        "on_failure": "stop",
    }
    with pytest.raises(compressor.errors.BudgetExceeded):
        run(tmp_path, recipe)


def test_a_text_scoring_task_needs_to_know_its_checkpoint():
    with pytest.raises(ValueError, match="as_saved"):
        load_task(SCORING).predictions(outputs(np.zeros(2)), ())
