"""A run on a sentence encoder, from recipe to report and artifact."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import compressor
from compressor.data import Dataset
from compressor.errors import RecipeError
from compressor.measurements import RunReport
from compressor.models.torch_model import load_checkpoint

ROOT = Path(__file__).parents[1]
WORDS = ("bad", "good", "was", "film", "and")


def write_rows(path: Path, header: tuple[str, ...], rows: Any) -> Path:
    with path.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([header, *rows])
    return path


@pytest.fixture(scope="module")
def base(tiny_encoder_dir: Path, text_dataset: Dataset, tmp_path_factory: Any) -> dict[str, Any]:
    """Return a recipe without passes over the tiny encoder; tests change a copy.

    Its random vectors all point much the same way: a single one has a mean cosine of 0.9 to them,
    so that only a budget well below 0.07, and rows enough for that, tell them apart.
    """
    folder = tmp_path_factory.mktemp("data")
    texts = [(f"{text} {'very ' * (index // 6)}", index % 2) for index, text in enumerate(
        text_dataset.examples
    )]  # fmt: skip
    texts += [(f"{word} {text}", source) for word in WORDS for text, source in texts]
    search = write_rows(folder / "search.csv", ("text", "source"), texts)
    others = [(f"it {text}", source) for text, source in texts[::-1]]
    unseen = write_rows(folder / "unseen.csv", ("text", "source"), others)
    return {
        "model": {"checkpoint": str(tiny_encoder_dir)},
        "data": {"search": {"path": str(search)}, "certification": {"path": str(unseen)}},
        "budget": {"max_drop": 0.03, "slices": ["source", "length"]},
        "passes": [],
        "benchmark": {
            "batch_sizes": [1], "sequence_lengths": [8], "num_runs": 3, "warmup_runs": 1,
            "threads": 1,
        },
    }  # fmt: skip


def run(base: dict[str, Any], output: Path, **changes: Any) -> RunReport:
    recipe = output.with_suffix(".json.yaml")
    recipe.write_text(json.dumps({**base, **changes}))
    return compressor.run(compressor.load_recipe(recipe), output=output, device="cpu")


@pytest.fixture(scope="module")
def finished(base: dict[str, Any], tmp_path_factory: Any) -> tuple[RunReport, Path]:
    output = tmp_path_factory.mktemp("finished") / "run"
    return run(base, output, passes=[{"kind": "quantize_dynamic", "min_elements": 64}]), output


def test_programs_that_pool_by_themselves_find_the_states(
    base: dict[str, Any], finished: tuple[RunReport, Path], tmp_path: Path
):
    shutil.copytree(finished[1], tmp_path / "run", symlinks=True)
    quantize = [{"kind": "quantize_dynamic", "min_elements": 64}]
    run(base, tmp_path / "run", passes=quantize, export={"token_states": True})
    folder = tmp_path / "run" / "artifact"
    artifact = compressor.load_artifact(folder)
    texts = ["a good film", "bad"]
    batch = artifact.model.feed(artifact.task.encode(artifact.preprocessor, texts))
    [states] = artifact.model.session.run(["last_hidden_state"], batch)
    mask = batch["attention_mask"][:, :, None]
    mean = (states * mask).sum(axis=1) / mask.sum(axis=1)
    mean /= np.linalg.norm(mean, axis=1, keepdims=True)
    assert mean == pytest.approx(artifact(texts), abs=1e-5)
    steps = json.loads((folder / "modules.json").read_text())
    assert [step["type"].rpartition(".")[2] for step in steps] == [
        "Transformer",
        "Pooling",
        "Normalize",
    ]


def test_states_are_only_given_where_vectors_are_made_of_them(
    tiny_bert_dir: Path, base: dict[str, Any], tmp_path: Path
):
    changes = {"model": {"checkpoint": str(tiny_bert_dir)}, "export": {"token_states": True}}
    budget = {"metric": "agreement", "max_drop": 0.03}
    with pytest.raises(RecipeError, match="text-classification makes no vector of the states"):
        run(base, tmp_path / "run", budget=budget, **changes)


def test_the_run_is_scored_by_cosine_and_proven(finished: tuple[RunReport, Path]):
    report, _ = finished
    assert (report.task, report.metric, report.labels) == ("sentence-embedding", "cosine", ())
    assert report.baseline is not None
    assert report.final is not None
    assert report.baseline.score.value == pytest.approx(1.0)
    assert 0.95 < report.final.score.value < 0.99999  # int8 moves vectors, a little
    assert report.certificate is not None
    assert report.certificate.verdict == "certified"
    assert report.certificate.drop < report.certificate.upper_bound <= 0.03
    assert report.embedding is not None
    assert (report.embedding.pooling, report.embedding.normalize) == ("mean", True)
    assert {item.name.partition(" = ")[0] for item in report.slices} == {"source", "length"}


def test_the_report_shows_the_neighbors_that_the_artifact_finds(
    finished: tuple[RunReport, Path], base: dict[str, Any]
):
    report, output = finished
    with Path(base["data"]["search"]["path"]).open(encoding="utf-8", newline="") as stream:
        texts = [row["text"] for row in csv.DictReader(stream)]
    vectors = compressor.load_artifact(output / "artifact")(texts)
    first = report.predictions[0]
    own = texts[first.row]
    assert first.text == own.rstrip() or first.text == own
    similarities = vectors @ vectors[first.row]
    others = [place for place, text in enumerate(texts) if text != own]
    assert first.after_score == pytest.approx(similarities[others].max(), abs=2e-4)
    assert len(report.predictions) == 3


def test_the_artifact_gives_vectors_without_torch(
    finished: tuple[RunReport, Path], tiny_encoder_dir: Path
):
    _, output = finished
    script = (
        "import sys, json\n"
        "sys.modules['torch'] = None\n"  # any import of torch now fails
        "import compressor\n"
        "embed = compressor.load_artifact(sys.argv[1])\n"
        "print(json.dumps(embed(sys.argv[2:]).tolist()))\n"
    )
    texts = ["a good film", "the plot was very quite lovely and the story is dull"]
    result = subprocess.run(
        [sys.executable, "-c", script, str(output / "artifact"), *texts],
        capture_output=True, text=True, check=True, cwd=ROOT,
    )  # fmt: skip
    found = np.array(json.loads(result.stdout))
    model = load_checkpoint(tiny_encoder_dir)
    expected = model.predict(model.task.encode(model.preprocessor, texts))
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1.0, atol=1e-5)
    assert (found * expected).sum(axis=1).min() > 0.95


def test_the_drop_is_that_of_the_artifacts_own_vectors(
    finished: tuple[RunReport, Path], base: dict[str, Any], tiny_encoder_dir: Path
):
    report, output = finished
    with Path(base["data"]["search"]["path"]).open(encoding="utf-8", newline="") as stream:
        texts = [row["text"] for row in csv.DictReader(stream)]
    after = compressor.load_artifact(output / "artifact")(texts)
    model = load_checkpoint(tiny_encoder_dir)
    before = model.predict(model.task.encode(model.preprocessor, texts))
    assert report.final is not None
    assert report.final.score.value == pytest.approx((before * after).sum(axis=1).mean(), abs=1e-5)


def verify(run_folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "tools" / "verify_run.py"), str(run_folder)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_score_can_be_computed_again_without_this_package(
    finished: tuple[RunReport, Path], tmp_path: Path
):
    _, output = finished
    copy = shutil.copytree(output, tmp_path / "copy")
    assert verify(copy).returncode == 0, verify(copy).stdout
    report = json.loads((copy / "report.json").read_text())
    report["final"]["score"]["value"] -= 0.001
    (copy / "report.json").write_text(json.dumps(report))
    assert verify(copy).returncode == 1


def test_flips_are_texts_whose_nearest_neighbour_changed(finished: tuple[RunReport, Path]):
    report, _ = finished
    for flip in report.flips:
        assert flip.before != flip.after
        assert flip.kind == "changed"
    moved = [flip.lost_confidence for flip in report.flips]
    assert moved == sorted(moved, key=lambda value: -(value or 0.0))


def test_report_and_card_speak_of_vectors(finished: tuple[RunReport, Path]):
    _, output = finished
    page = (output / "report.html").read_text(encoding="utf-8")
    assert "Texts with another nearest neighbour" in page
    assert "the mean of the states of all tokens, scaled to length 1" in page
    card = (output / "artifact" / "README.md").read_text(encoding="utf-8")
    assert 'session.run(["sentence_embedding"], inputs)' in card
    assert "pipeline_tag: sentence-similarity" in card


def test_graded_pairs_are_scored_by_spearman(
    base: dict[str, Any], finished: tuple[RunReport, Path], tmp_path: Path
):
    with Path(base["data"]["search"]["path"]).open(encoding="utf-8", newline="") as stream:
        texts = [row["text"] for row in csv.DictReader(stream)]
    grades = np.random.default_rng(0).integers(0, 6, size=len(texts) - 1)
    rows = zip(texts, texts[1:], grades.tolist(), strict=False)
    pairs = write_rows(tmp_path / "pairs.csv", ("a", "b", "grade"), rows)
    data = {"text": ["a", "b"], "label": "grade", "search": {"path": str(pairs)}}
    # Its steps have the export of the untouched checkpoint, which is the same one.
    output = shutil.copytree(finished[1], tmp_path / "run")
    report = run(base, output, data=data, budget={"metric": "spearman", "max_drop": 0.001})
    model = load_checkpoint(base["model"]["checkpoint"])
    vectors = model.predict(model.task.encode(model.preprocessor, texts))
    similar = (vectors[:-1] * vectors[1:]).sum(axis=1)
    ranks = [np.argsort(np.argsort(similar)), _mean_ranks(grades)]
    assert report.baseline is not None
    assert report.baseline.score.num_examples == len(texts) - 1
    assert report.baseline.score.value == pytest.approx(np.corrcoef(ranks)[0, 1], abs=1e-4)
    assert report.splits[0].num_examples == 2 * (len(texts) - 1)
    assert verify(output).returncode == 0


def _mean_ranks(grades: np.ndarray) -> np.ndarray:
    order = np.sort(grades)
    return np.array([np.mean(np.flatnonzero(order == grade)) for grade in grades])


@pytest.mark.parametrize(
    ("changes", "mistake"),
    [
        (
            {"budget": {"metric": "accuracy", "max_drop": 0.1}},
            "budget.metric: sentence-embedding has no metric .accuracy.",
        ),
        ({"budget": {"metric": "spearman", "max_drop": 0.1}}, "data.search: .* no column .label."),
        ({"budget": {"max_drop": 0.1, "slices": ["label"]}}, "label needs labels of classes"),
    ],
)
def test_what_makes_no_sense_for_vectors_is_refused_before_anything_runs(
    base: dict[str, Any], tmp_path: Path, changes: dict[str, Any], mistake: str
):
    with pytest.raises(RecipeError, match=mistake):
        run(base, tmp_path / "run", **changes)


def test_pooling_of_the_recipe_against_the_checkpoints_is_refused(
    base: dict[str, Any], tmp_path: Path
):
    model = {**base["model"], "pooling": "cls"}
    with pytest.raises(RecipeError, match=r"model\.pooling: is cls, but 1_Pooling/config\.json"):
        run(base, tmp_path / "run", model=model)
