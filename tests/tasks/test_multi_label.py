"""Multi-label classification: columns, scores, losses, guesses and a ruined model."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from conftest import BAD, GOOD, NEUTRAL, TINY, word_piece_tokenizer
from numpy.typing import NDArray
from sklearn.metrics import f1_score

import compressor
from compressor.certificate import certify_scores
from compressor.errors import EnvironmentMismatch, RecipeError
from compressor.measurements import Score
from compressor.pipeline.preflight import check_inputs
from compressor.runtime.probabilities import sigmoid
from compressor.starter.write import write_starter
from compressor.tasks import Truth, load_task
from compressor.tasks.columns import TextColumns
from compressor.tasks.label_columns import LabelSetColumns
from compressor.tasks.losses import LabelSetLosses
from compressor.tasks.multi_label import LabelLogits, predicted_sets
from compressor.tasks.table import Table

LABELS = ("good", "bad", "long")
METRICS = ("f1_micro", "f1_per_label", "exact_match", "agreement")
TASK = load_task("multi-label-classification")


def truth_of(sets: NDArray[Any], reference: Score | None = None) -> Truth:
    labels = np.empty(len(sets), dtype=object)
    for row, item in enumerate(sets):
        labels[row] = np.asarray(item, dtype=bool)
    return Truth(("a text",) * len(sets), labels, None, reference)


def made_up(seed: int, size: int = 400) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return logits and labels of a model that is right for most."""
    random = np.random.default_rng(seed)
    sets = random.random((size, len(LABELS))) < [0.5, 0.3, 0.1]
    logits = (sets * 6.0 - 3.0 + random.normal(0, 1.5, sets.shape)).astype(np.float32)
    return logits, sets


@pytest.mark.parametrize("seed", range(5))
def test_scores_are_those_of_scikit_learn(seed: int):
    logits, sets = made_up(seed)
    predicted = logits >= 0
    found = {
        name: TASK.score(name, LabelLogits(logits), truth_of(sets)).value for name in METRICS[:3]
    }
    assert found["f1_micro"] == pytest.approx(f1_score(sets, predicted, average="micro"))
    assert found["f1_per_label"] == pytest.approx(f1_score(sets, predicted, average="macro"))
    assert found["exact_match"] == pytest.approx((sets == predicted).all(axis=1).mean())


def test_agreement_compares_sets_with_those_of_the_untouched_checkpoint():
    logits, sets = made_up(0)
    before = TASK.score("agreement", LabelLogits(logits), truth_of(sets))
    assert before.value == 1.0
    moved = logits.copy()
    moved[:20, 1] *= -1
    after = TASK.score("agreement", LabelLogits(moved), truth_of(sets, before))
    assert after.value == pytest.approx(380 / 400)
    assert TASK.changed(LabelLogits(logits), LabelLogits(moved)).sum() == 20  # type: ignore[union-attr]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("ruin", ["zero", "random", "always", "shuffled"])
def test_a_ruined_model_is_never_certified(metric: str, ruin: str):
    logits, sets = made_up(1)
    random = np.random.default_rng(2)
    ruined = {
        "zero": np.zeros_like(logits),
        "random": random.normal(size=logits.shape).astype(np.float32),
        "always": np.broadcast_to(np.float32([3, -3, -3]), logits.shape).copy(),
        "shuffled": logits[random.permutation(len(logits))],
    }[ruin]
    before = TASK.score(metric, LabelLogits(logits), truth_of(sets))
    after = TASK.score(metric, LabelLogits(ruined), truth_of(sets, before))
    truth = truth_of(sets)
    for max_drop in (0.02, 0.3, 0.9):
        proof = certify_scores(
            before, after, truth.labels, guesses=TASK.guesses(before, truth, LABELS),
            max_drop=max_drop, seed=0, resamples=499,
        )  # fmt: skip
        assert proof.verdict != "certified"


def test_a_model_that_stayed_is_certified():
    logits, sets = made_up(3, 1500)
    truth = truth_of(sets)
    for metric in METRICS:
        before = TASK.score(metric, LabelLogits(logits), truth)
        after = TASK.score(metric, LabelLogits(logits * 1.1), truth_of(sets, before))
        guesses = TASK.guesses(before, truth, LABELS)
        proof = certify_scores(
            before, after, truth.labels, guesses=guesses, max_drop=0.02, seed=0, resamples=999
        )
        assert proof.verdict == "certified"


def test_a_model_that_gives_every_row_the_same_labels_is_told():
    logits = np.broadcast_to(np.float32([2, -2, 2]), (9, 3))
    score = TASK.score("agreement", LabelLogits(logits), truth_of(np.zeros((9, 3))))
    assert TASK.constant(score, LABELS) == "predicts 'good, long'"
    assert TASK.unscorable("f1_micro", truth_of(np.ones((4, 3)))) is not None


def test_a_model_that_predicts_no_label_is_told_of_thresholds():
    logits = np.full((9, 3), -2, dtype=np.float32)
    score = TASK.score("agreement", LabelLogits(logits), truth_of(np.zeros((9, 3))))
    told = TASK.constant(score, LABELS)
    assert told is not None
    assert (
        "as no probability reaches its threshold (lower ones are set in model.thresholds)" in told
    )


def test_what_is_found_of_each_label_goes_by_the_labels_or_by_the_original():
    logits, sets = made_up(4)
    before = TASK.score("f1_micro", LabelLogits(logits), truth_of(sets))
    after = TASK.score("f1_micro", LabelLogits(np.where(sets, -1.0, logits)), truth_of(sets))
    by_labels = TASK.findings(before, after, truth_of(sets), LABELS, labelled=True)
    assert by_labels["bad"].there.sum() == sets[:, 1].sum()
    assert by_labels["bad"].before.sum() == (sets & (logits >= 0))[:, 1].sum()
    assert by_labels["bad"].after.sum() == 0
    alone = TASK.findings(before, after, truth_of(sets), LABELS, labelled=False)
    assert np.array_equal(alone["bad"].there, alone["bad"].before)
    assert alone["bad"].there.sum() == (logits[:, 1] >= 0).sum()


def test_flips_name_the_sets_and_the_surest_loss():
    logits = np.float32([[3, -3, -3], [3, -3, -3], [3, 3, -3]])
    moved = np.float32([[3, -3, -3], [-1, -3, 2], [3, 3, -3]])
    sets = logits >= 0
    before, after = (
        TASK.score("exact_match", LabelLogits(item), truth_of(sets)) for item in (logits, moved)
    )
    [flip] = TASK.flips(before, after, truth_of(sets), LABELS)
    assert (flip.position, flip.before, flip.after) == (1, "good", "long")
    assert (flip.kind, flip.label) == ("lost", "good")
    assert flip.lost == pytest.approx(float(np.prod(sigmoid(np.float32([3, 3, 3])))), abs=0.05)


def test_predictions_give_every_label_its_sigmoid():
    [scores] = TASK.predictions(LabelLogits(np.float32([[0.0, -2.0, 2.0]])), LABELS)
    assert [item["label"] for item in scores] == list(LABELS)
    assert [item["predicted"] for item in scores] == [True, False, True]
    assert scores[2]["score"] == pytest.approx(1 / (1 + np.exp(-2.0)))


def read(values: list[Any], names: tuple[str, ...] = LABELS, **options: Any) -> list[list[int]]:
    table = Table("rows.jsonl", {"labels": values})
    found = LabelSetColumns().labels(table, "labels", names, options.get("data_names"))
    assert found.labels is not None
    return [np.flatnonzero(item).tolist() for item in found.labels]


def test_names_ids_and_flags_are_told_apart():
    assert read([["bad"], [], ["long", "good"]]) == [[1], [], [0, 2]]
    assert read([[1], [], [2, 0]]) == [[1], [], [0, 2]]
    assert read([[0, 1, 0], [0, 0, 0], [1.0, 0.0, 1.0]]) == [[1], [], [0, 2]]
    assert read([np.array([0, 1]), (1,)], ("a", "b")) == [[0, 1], [1]]
    assert read([["x"], ["z"]], data_names=("x", "y", "z")) == [[0], [2]]


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (["bad"], r"rows\.jsonl: row 0 .* must be a list of labels, \[\] where none holds"),
        ([["bad"], None], "row 1"),
        ([["bad", "bad"]], "lists 'bad' twice"),
        ([["worse"]], "has 'worse', which is no label; the labels are good, bad, long"),
        ([[3]], "has 3, which is no label"),
        ([[0.5, 0.5, 0.0]], r"has 0\.5, which is no label"),
        ([[[1]]], "which is no label"),
    ],
)
def test_what_is_no_set_of_labels_is_refused(values: list[Any], reason: str):
    with pytest.raises(RecipeError, match=reason):
        read(values)


def test_numbers_in_another_order_are_put_in_the_checkpoints():
    names = ("2", "0", "1")  # the data's number of each of the checkpoint's labels
    assert read([[2], [0, 1], []], data_names=names) == [[0], [1, 2], []]
    assert read([[0, 0, 1], [1, 1, 0], [0, 0, 0]], data_names=names) == [[0], [1, 2], []]


@pytest.mark.parametrize(
    ("cells", "names", "bare"),
    [
        ([[0], [2, 1]], None, True),
        ([["bad"], []], None, False),
        ([[0, 1, 0], [1, 1, 1]], None, True),
        ([[0], [2, 1]], ("0", "1", "2"), False),
        ([[0, 1, 0], [1, 1, 1]], ("2", "0", "1"), False),
        ([[0], [2, 1]], ("x", "y", "z"), True),
    ],
)
def test_numbers_are_bare_unless_label_names_order_them(
    cells: list[Any], names: tuple[str, ...] | None, bare: bool
):
    found = LabelSetColumns().labels(Table("a.jsonl", {"labels": cells}), "labels", LABELS, names)
    assert found.has_bare_ids is bare


def test_the_checkpoints_own_names_in_another_order_are_refused():
    with pytest.raises(RecipeError, match=r"another order .*label_names: \["):
        read([[0], [1]], data_names=(LABELS[1], LABELS[0], *LABELS[2:]))


def test_zeros_and_ones_are_in_the_order_of_the_names_that_are_given():
    flags = [[1, 0, 0], [0, 1, 1]]
    assert read(flags, data_names=("long", "good", "bad")) == [[2], [0, 1]]
    assert read(flags, data_names=LABELS) == [[0], [1, 2]]
    table = Table("rows.jsonl", {"labels": flags})
    found = LabelSetColumns().labels(table, "labels", LABELS, ("long", "good", "bad"))
    assert not found.has_bare_ids


def test_a_column_for_each_label_is_read_by_its_name_in_any_order():
    columns = {"long": ["1", "0", "1"], "bad": [True, False, 0], "good": [0, 1.0, "True"]}
    table = Table("rows.csv", columns).with_sets(tuple(columns))
    found = LabelSetColumns().labels(table, "long, bad, good", LABELS, None)
    assert found.labels is not None
    assert [np.flatnonzero(item).tolist() for item in found.labels] == [[1, 2], [0], [0, 2]]
    assert not found.has_bare_ids
    named = Table("rows.csv", {"b": [1], "c": [0], "a": [1]}).with_sets(("a", "b", "c"))
    renamed = LabelSetColumns().labels(named, "a, b, c", LABELS, ("b", "c", "a"))
    assert renamed.labels is not None
    assert renamed.labels[0].tolist() == [True, False, True]


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        ({"good": 1, "bad": 0}, "says nothing of long; it must say 0 or 1 for each"),
        ({"good": 1, "bad": 0, "short": 1}, "says nothing of long and short, which is no label"),
        ({"good": 1, "bad": 2, "long": 0}, "bad must be 0 or 1, whether the label holds, got 2"),
        ({"good": 1, "bad": None, "long": 0}, "bad must be 0 or 1"),
        ({"good": 1, "bad": [1], "long": 0}, "bad must be 0 or 1"),
    ],
)
def test_flags_by_name_must_be_0_or_1_for_every_label(cell: dict[str, Any], reason: str):
    with pytest.raises(RecipeError, match=reason):
        read([cell])


@pytest.mark.parametrize(
    "values",
    [
        [1, 0, 0],
        ["1", "0", "false"],
        [True, False, 0.0],
        [[1], [0], [0]],
        [[0], [], []],
        [["bad"], [], []],
        [{"bad": 1}, {"bad": 0}, {"bad": 0}],
    ],
)
def test_of_one_label_a_cell_may_be_the_flag_itself(values: list[Any]):
    assert read(values, ("bad",)) == [[0], [], []]
    named = [{"worse": cell["bad"]} if isinstance(cell, dict) else cell for cell in values]
    named = [["worse"] if cell == ["bad"] else cell for cell in named]
    assert read(named, ("bad",), data_names=("worse",)) == [[0], [], []]


def test_a_cell_of_one_label_that_is_no_flag_is_refused():
    with pytest.raises(RecipeError, match=r"must be 0 or 1, whether bad holds, or a list .* 2"):
        read([1, 2], ("bad",))


def test_a_file_with_some_of_the_columns_of_labels_is_refused():
    with pytest.raises(RecipeError, match="no column 'long', and others of the labels are there"):
        Table("rows.csv", {"good": [1], "bad": [0]}).with_sets(LABELS)
    unlabelled = Table("rows.csv", {"text": ["a"]})
    assert unlabelled.with_sets(LABELS) is unlabelled


def test_one_label_is_read_of_one_column():
    with pytest.raises(RecipeError, match="only multi-label-classification reads one for each"):
        TextColumns().require_label_columns(("a", "b"))
    LabelSetColumns().require_label_columns(("a", "b"))


def test_a_row_without_labels_is_refused_with_what_to_do():
    with pytest.raises(RecipeError, match=r"labels is missing; list the labels, .* or remove"):
        read([["bad"], None])


def test_numbers_that_could_be_ids_or_flags_are_refused():
    with pytest.raises(RecipeError, match="could be ids or a 0 or 1 for each label"):
        read([[0, 1], [1, 0]], ("a", "b"))


def test_losses_are_zero_at_the_truth_and_follow_their_definitions():
    losses = LabelSetLosses()
    outputs = torch.tensor([[2.0, -1.0], [0.5, 3.0]], requires_grad=True)
    targets = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    expected = torch.nn.functional.binary_cross_entropy_with_logits(outputs, targets)
    torch.testing.assert_close(losses.on_labels(outputs, targets).mean, expected)
    other = torch.tensor([[1.0, -2.0], [1.5, 0.0]])
    own, theirs = (torch.distributions.Bernoulli(logits=item / 2) for item in (outputs, other))
    expected = torch.distributions.kl_divergence(theirs, own).sum(dim=-1).mean() * 4
    torch.testing.assert_close(losses.to_teacher(outputs, other, None, 2.0), expected)
    assert losses.to_teacher(other, other, None, 3.0).item() == pytest.approx(0.0, abs=1e-7)
    assert losses.own_targets(outputs, None).tolist() == [[1.0, 0.0], [1.0, 1.0]]


@pytest.mark.parametrize("num_labels", [3, 20])
def test_fisher_probes_add_up_to_the_information(num_labels: int):
    """By the logits, the information is p (1 - p) on the diagonal."""
    torch.manual_seed(0)
    outputs = torch.randn(4, num_labels, requires_grad=True)
    p = torch.sigmoid(outputs.detach() / 2.0)
    total = torch.zeros_like(outputs)
    rounds = 1 if num_labels == 3 else 200
    for seed in range(rounds):
        generator = torch.Generator().manual_seed(seed)
        for probe in LabelSetLosses().fisher_probes(outputs, None, generator):
            [gradient] = torch.autograd.grad(probe, outputs, retain_graph=True)
            total += gradient.square() / rounds
    torch.testing.assert_close(total, p * (1 - p), rtol=1e-4, atol=1e-5)


def rows(seed: int, count: int) -> list[dict[str, Any]]:
    random = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        words = random.choice([*NEUTRAL, *GOOD, *BAD], size=int(random.integers(2, 10))).tolist()
        labels = [
            name
            for name, holds in zip(
                LABELS,
                (set(words) & set(GOOD), set(words) & set(BAD), len(words) > 6),
                strict=True,
            )
            if holds
        ]
        found.append({"text": " ".join(words), "labels": labels})
    return found


def tiny_config(labels: Sequence[str], num_pieces: int) -> transformers.BertConfig:
    return transformers.BertConfig(
        **TINY,
        vocab_size=num_pieces,
        max_position_embeddings=64,
        problem_type="multi_label_classification",
        id2label=dict(enumerate(labels)),
        label2id={name: place for place, name in enumerate(labels)},
    )


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a tiny checkpoint that was trained for a moment to give sets of labels."""
    folder = tmp_path_factory.mktemp("multi-label") / "model"
    torch.manual_seed(0)
    tokenizer = word_piece_tokenizer()
    config = tiny_config(LABELS, len(tokenizer))
    module: Any = transformers.BertForSequenceClassification(config)
    data = rows(9, 96)
    batch = TASK.encode(tokenizer, [row["text"] for row in data])
    targets = torch.tensor([[float(name in row["labels"]) for name in LABELS] for row in data])
    optimizer = torch.optim.Adam(module.parameters(), lr=3e-3)
    for _ in range(80):
        optimizer.zero_grad()
        outputs = module(**{name: torch.from_numpy(value) for name, value in batch.items()}).logits
        TASK.losses.on_labels(outputs, targets).mean.backward()
        optimizer.step()
    module.eval()
    module.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_whole_run_prunes_distils_and_proves(checkpoint: Path, tmp_path: Path):
    for seed, (name, count) in enumerate({"train": 64, "search": 64, "unseen": 96}.items()):
        lines = "\n".join(map(json.dumps, rows(seed, count)))
        (tmp_path / f"{name}.jsonl").write_text(f"{lines}\n")
    recipe = {
        "model": {"checkpoint": str(checkpoint), "thresholds": "chosen"},
        "data": {
            "text": "text",
            "label": "labels",
            "train": {"path": "train.jsonl"},
            "search": {"path": "search.jsonl"},
            "certification": {"path": "unseen.jsonl"},
        },
        "budget": {
            "metric": "f1_micro", "max_drop": 0.5, "slices": ["length"],
            "max_recall_drop": {"good": 0.9},
        },
        "passes": [
            {"kind": "prune_structured", "importance": "taylor", "ratio": 0.25},
            {"kind": "distill", "epochs": 1, "batch_size": 16, "label_weight": 0.5},
            {"kind": "quantize_dynamic", "min_elements": 64, "keep_sensitive": 1},
        ],
        "benchmark": {"providers": []},
    }  # fmt: skip
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    loaded = compressor.load_recipe(tmp_path / "recipe.yaml")
    report = compressor.run(loaded, output=tmp_path / "run", device="cpu", allow_inconclusive=True)
    assert report.task == "multi-label-classification"
    assert report.baseline is not None
    assert report.baseline.score.value > 0.7
    assert report.certificate is not None
    assert [item.kind for item in report.recalls] == ["good"]
    artifact = compressor.load_artifact(tmp_path / "run" / "artifact", threads=1)
    [scores] = artifact(["the fine film"])
    assert [item["label"] for item in scores] == list(LABELS)

    # The thresholds that were chosen are those of report, manifest, card and predictions.
    assert list(report.thresholds) == list(LABELS)
    assert set(report.thresholds.values()) != {0.5}
    own = list(report.thresholds.values())
    assert artifact.manifest["thresholds"] == own
    assert [item["predicted"] for item in scores] == [
        item["score"] >= least for item, least in zip(scores, own, strict=True)
    ]
    assert f"thresholds = {own}" in (tmp_path / "run" / "artifact" / "README.md").read_text()
    assert "chosen by the original's F1" in (tmp_path / "run" / "report.md").read_text()
    again = compressor.run(loaded, output=tmp_path / "run", device="cpu", allow_inconclusive=True)
    assert all(step.reused for step in again.steps if "score" in step.name)

    # The same as transformers' own pipeline gives, before anything is quantized.
    pipe = transformers.pipeline("text-classification", model=str(checkpoint), top_k=None)
    original = compressor.load_checkpoint(checkpoint)
    texts = ["the fine film", "a dull plot that nobody liked in the end"]
    logits = original.predict(original.task.encode(original.preprocessor, texts))
    for found, expected in zip(
        TASK.predictions(LabelLogits(logits), original.labels), pipe(texts), strict=True
    ):
        by_name = {item["label"]: item["score"] for item in expected}
        assert {item["label"]: pytest.approx(item["score"], abs=1e-5) for item in found} == by_name


@pytest.mark.parametrize("swapped", [False, True])
def test_a_starter_finds_a_column_for_each_label_and_the_order_of_lists(
    checkpoint: Path, tmp_path: Path, *, swapped: bool
):
    order = [LABELS[1], LABELS[2], LABELS[0]]
    data = tmp_path / "dev.jsonl"
    lines = [
        {"text": row["text"], "labels": [int(name in row["labels"]) for name in order]}
        if swapped
        else {"text": row["text"], **{name.title(): int(name in row["labels"]) for name in order}}
        for row in rows(9, 96)
    ]
    data.write_text("\n".join(map(json.dumps, lines)))
    if swapped:
        with pytest.raises(RecipeError, match=r"a micro F1 of .* give --label-names 2,0,1"):
            write_starter(str(checkpoint), data, tmp_path / "recipe.yaml")
        return
    recipe = write_starter(str(checkpoint), data, tmp_path / "recipe.yaml")
    assert recipe.data.label == recipe.data.label_names == ("Good", "Bad", "Long")
    assert check_inputs(recipe).labels == LABELS


@pytest.mark.parametrize("as_flags", [False, True])
def test_numbers_in_another_order_end_a_run_with_the_line_to_write(
    checkpoint: Path, tmp_path: Path, as_flags: bool
):
    order = [LABELS[1], LABELS[2], LABELS[0]]
    lines = []
    for row in rows(9, 96):
        numbers = [number for number, name in enumerate(order) if name in row["labels"]]
        flags = [int(number in numbers) for number in range(3)]
        lines.append(json.dumps({**row, "labels": flags if as_flags else numbers}))
    (tmp_path / "search.jsonl").write_text("\n".join(lines))
    recipe = {
        "model": {"checkpoint": str(checkpoint)},
        "data": {"label": "labels", "search": {"path": str(tmp_path / "search.jsonl")}},
        "budget": {"max_drop": 0.5},
        "passes": [],
        "benchmark": {"providers": []},
    }
    with pytest.raises(RecipeError) as caught:
        compressor.run(recipe, output=tmp_path / "run", device="cpu")
    [mistake] = caught.value.mistakes
    assert (
        "with the classes in another order the untouched checkpoint reaches a micro F1" in mistake
    )
    assert f"(if 0 means '{LABELS[1]}', 1 means '{LABELS[2]}', 2 means '{LABELS[0]}')" in mistake
    assert 'label_names: ["2", "0", "1"], or ["0", "1", "2"] if they are right' in mistake


def test_a_checkpoint_of_one_label_is_not_taken_for_several(tiny_bert_dir: Path):
    with pytest.raises(EnvironmentMismatch, match="problem_type"):
        compressor.load_checkpoint(tiny_bert_dir, task="multi-label-classification")


@pytest.mark.parametrize("column", ["bad", "label"])
def test_one_label_that_holds_or_not_goes_from_a_starter_to_the_artifact(
    tmp_path: Path, column: str
):
    torch.manual_seed(0)
    tokenizer = word_piece_tokenizer()
    config = tiny_config(("bad",), len(tokenizer))
    module: Any = transformers.BertForSequenceClassification(config).eval()
    data = [row["text"] for row in rows(9, 96)]
    with torch.no_grad():
        logits = module(**tokenizer(data, padding=True, return_tensors="pt")).logits[:, 0]
        module.classifier.weight.mul_(50)
        # Between two of them: none lies where rounding decides.
        module.classifier.bias[:] = -50 * logits.sort().values[47:49].mean()
        logits = module(**tokenizer(data, padding=True, return_tensors="pt")).logits[:, 0]
    module.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    lines = [{"text": text, column: int(held)} for text, held in zip(data, logits > 0, strict=True)]
    (tmp_path / "dev.jsonl").write_text("\n".join(map(json.dumps, lines)))
    recipe = write_starter(
        str(tmp_path / "model"), tmp_path / "dev.jsonl", tmp_path / "recipe.yaml"
    )
    assert (recipe.model.task, recipe.data.label) == (TASK.name, column)
    # Nothing is removed, so the artifact gives the checkpoint's own probabilities.
    untouched = {
        "model": {"checkpoint": str(tmp_path / "model")},
        "data": {"label": column, "search": {"path": str(tmp_path / "dev.jsonl")}},
        "budget": {"max_drop": 0.01},
        "passes": [],
        "benchmark": {"providers": []},
    }
    compressor.run(untouched, output=tmp_path / "run", device="cpu")
    predicted = compressor.load_artifact(tmp_path / "run" / "artifact")(data[:5])
    for [found], logit in zip(predicted, logits[:5].tolist(), strict=True):
        assert found["score"] == pytest.approx(1 / (1 + math.exp(-logit)), abs=1e-4)
        assert (found["label"], found["predicted"]) == ("bad", logit >= 0)


def test_a_logit_of_0_is_predicted():
    assert predicted_sets(np.float32([[0.0, -0.1]])).tolist() == [[True, False]]
