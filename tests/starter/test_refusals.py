"""What rows do not allow is said before a recipe is written, or leads to another recipe."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from masked_texts import save_masked_model

from compressor.errors import RecipeError
from compressor.progress import Silent
from compressor.starter.sources import Wishes
from compressor.starter.write import write_starter

Rows = list[list[Any]]


class Told(Silent):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.results: list[str] = []

    def result(self, text: str) -> None:
        self.results.append(text)


def write(path: Path, rows: Rows, header: tuple[str, ...] = ("text", "label")) -> Path:
    with path.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([header, *rows])
    return path


def test_rows_that_all_get_one_prediction_are_refused(
    tiny_bert_dir: Path, told: Rows, tmp_path: Path
):
    data = write(tmp_path / "rows.csv", [told[0]] * 30)
    with pytest.raises(
        RecipeError, match=r"predicts 'negative' for all of the 24 rows .* give rows"
    ):
        write_starter(str(tiny_bert_dir), data, tmp_path / "recipe.yaml")
    assert not (tmp_path / "recipe.yaml").exists()


def test_two_texts_are_too_few_for_vectors(tiny_encoder_dir: Path, tmp_path: Path):
    data = write(tmp_path / "rows.csv", [["a fine film"], ["a dull plot"]], ("text",))
    with pytest.raises(RecipeError, match=r"--data: .*2 different texts; at least 3 are needed"):
        write_starter(str(tiny_encoder_dir), data, tmp_path / "recipe.yaml")


def test_three_rows_with_both_classes_are_enough_for_int8(
    tiny_bert_dir: Path, told: Rows, tmp_path: Path
):
    data = write(tmp_path / "rows.csv", told[:3])
    recipe = write_starter(str(tiny_bert_dir), data, tmp_path / "recipe.yaml")
    assert [step.kind for step in recipe.passes] == ["quantize_dynamic"]
    assert recipe.budget.resolution_mistake(3) is None


def test_labels_of_one_class_leave_agreement(tiny_bert_dir: Path, told: Rows, tmp_path: Path):
    data = write(tmp_path / "rows.csv", [[text, 1] for text, _ in told])
    progress = Told()
    recipe = write_starter(str(tiny_bert_dir), data, tmp_path / "recipe.yaml", progress=progress)
    assert recipe.budget.metric == "agreement"
    assert progress.results[0].startswith("accuracy says nothing here: ")
    with pytest.raises(RecipeError, match="every label is class 1"):
        write_starter(
            str(tiny_bert_dir), data, tmp_path / "x.yaml", wishes=Wishes(metric="accuracy")
        )


def test_labels_that_the_checkpoint_does_not_know_leave_agreement(
    tiny_bert_dir: Path, told: Rows, tmp_path: Path
):
    random = np.random.default_rng(0)
    rows = [[text, ("negative", "positive")[random.integers(2)]] for text, _ in told]
    progress = Told()
    recipe = write_starter(
        str(tiny_bert_dir),
        write(tmp_path / "rows.csv", rows),
        tmp_path / "recipe.yaml",
        progress=progress,
    )
    assert recipe.budget.metric == "agreement"
    assert "look whether checkpoint and labels belong together" in progress.results[0]


def test_numbers_of_classes_in_another_order_are_refused_with_the_flag_to_give(
    tiny_bert_dir: Path, told: Rows, tmp_path: Path
):
    data = write(tmp_path / "rows.csv", [[text, 1 - label] for text, label in told])
    output = tmp_path / "recipe.yaml"
    with pytest.raises(RecipeError, match=r"is right on 0\.0% of the rows.* --label-names 1,0"):
        write_starter(str(tiny_bert_dir), data, output)
    wishes = Wishes(label_names=("1", "0"))
    recipe = write_starter(str(tiny_bert_dir), data, output, wishes=wishes)
    assert recipe.data.label_names == ("1", "0")


def test_rows_of_nearly_one_class_are_judged_by_macro_f1(
    tiny_bert_dir: Path, told: Rows, tmp_path: Path
):
    """To predict one class for everything is right on 99% of the rows, within any budget."""
    of_one = [row for row in told if row[1] == 0]
    rows = [*of_one * 24, *[row for row in told if row[1] == 1][:5]]
    recipe = write_starter(
        str(tiny_bert_dir), write(tmp_path / "rows.csv", rows), tmp_path / "recipe.yaml"
    )
    assert recipe.budget.metric == "f1_macro"


def test_few_certification_rows_are_left_out_and_it_is_said(
    tiny_bert_dir: Path, told: Rows, fresh: Rows, tmp_path: Path
):
    """Forty rows of which none changes prove 7 points (exact binomial bound), never 5."""
    data = write(tmp_path / "rows.csv", told * 4)
    unseen = write(tmp_path / "unseen.csv", fresh[:40])
    output, progress = tmp_path / "recipe.yaml", Told()
    recipe = write_starter(
        str(tiny_bert_dir), data, output, certification=unseen, progress=progress
    )
    assert recipe.data.certification is None
    assert "# certification: {path: ./unseen.csv}" in output.read_text()
    [note] = [text for text in progress.results if "certification" in text]
    assert note.startswith("the certification rows are left out: 40 rows prove ")


def test_enough_certification_rows_give_a_budget_that_they_prove(
    tiny_bert_dir: Path, told: Rows, fresh: Rows, tmp_path: Path
):
    data = write(tmp_path / "rows.csv", told * 10)
    unseen = write(tmp_path / "unseen.csv", fresh[:576])
    recipe = write_starter(str(tiny_bert_dir), data, tmp_path / "recipe.yaml", certification=unseen)
    assert recipe.data.certification is not None
    # 576 rows: with no change at all 0.5 points, with 2% of changes, all of them losses, 3.2.
    assert 0.01 <= recipe.budget.max_drop <= 0.03


def test_few_rows_that_agree_by_luck_foresee_no_proof_of_accuracy(
    tiny_bert_dir: Path, told: Rows, fresh: Rows, tmp_path: Path
):
    """Three rows in five are right, which a guess on 40 rows reaches too often to be told from."""
    lucky = [[text, own if at % 5 else 1 - int(own)] for at, (text, own) in enumerate(told[:40])]
    lucky = [[text, 1 - int(own) if at % 5 == 1 else own] for at, (text, own) in enumerate(lucky)]
    data = write(tmp_path / "rows.csv", lucky)
    unseen = write(tmp_path / "unseen.csv", fresh[:576])
    recipe = write_starter(str(tiny_bert_dir), data, tmp_path / "recipe.yaml", certification=unseen)
    assert recipe.budget.metric == "agreement"


@pytest.mark.parametrize("flag", ["train", "certification"])
def test_one_file_for_two_splits_is_refused(
    tiny_bert_dir: Path, told: Rows, tmp_path: Path, flag: str
):
    data = write(tmp_path / "rows.csv", told)
    with pytest.raises(RecipeError, match=f"--{flag}: .* is the file of --data too"):
        write_starter(str(tiny_bert_dir), data, tmp_path / "recipe.yaml", **{flag: data})  # type: ignore[arg-type]


def test_a_metric_that_the_task_lacks_is_refused(tiny_bert_dir: Path, told: Rows, tmp_path: Path):
    data = write(tmp_path / "rows.csv", told)
    with pytest.raises(RecipeError, match="--metric: text-classification has no metric 'cosine'"):
        write_starter(
            str(tiny_bert_dir), data, tmp_path / "recipe.yaml", wishes=Wishes(metric="cosine")
        )


def test_a_starter_fits_a_screen_and_no_line_is_wider_than_one(
    tiny_bert_dir: Path, told: Rows, fresh: Rows, tmp_path: Path
):
    data, train = (write(tmp_path / f"{name}.csv", told * 20) for name in ("rows", "train"))
    unseen = write(tmp_path / "unseen.csv", fresh)
    output = tmp_path / "recipe.yaml"
    write_starter(str(tiny_bert_dir), data, output, train=train, certification=unseen)
    lines = output.read_text().splitlines()
    assert len(lines) <= 55
    assert max(map(len, lines)) <= 120


OWN = """
def hits(inputs):
    return [p["label_id"] == k for p, k in zip(inputs.predictions, inputs.labels)]
"""


def test_a_metric_of_ones_own_is_asked_and_written_with_its_place(
    tiny_bert_dir: Path, told: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "mine.py").write_text(OWN)
    (tmp_path / "recipes").mkdir()
    data, output = write(tmp_path / "rows.csv", told[:40]), tmp_path / "recipes" / "recipe.yaml"
    monkeypatch.chdir(tmp_path)
    wishes = Wishes(metric="code/mine.py:hits")
    with pytest.raises(RecipeError, match=r"--metric: code/mine.py:hits is code of your own, .*"):
        write_starter(str(tiny_bert_dir), data, output, wishes=wishes)
    recipe = write_starter(str(tiny_bert_dir), data, output, wishes=wishes, allow_code=True)
    assert "metric: ../code/mine.py:hits" in output.read_text()
    assert recipe.own_code == {"budget.metric": f"{tmp_path}/code/mine.py:hits"}
    assert recipe.budget.max_drop > 0


def test_a_metric_of_ones_own_needs_labels(tiny_bert_dir: Path, told: Rows, tmp_path: Path):
    (tmp_path / "mine.py").write_text(OWN)
    data = write(tmp_path / "rows.csv", [row[:1] for row in told[:40]], ("text",))
    wishes = Wishes(metric=f"{tmp_path}/mine.py:hits")
    with pytest.raises(RecipeError, match=r"has no labels, which mine.py:hits is given"):
        write_starter(
            str(tiny_bert_dir), data, tmp_path / "recipe.yaml", wishes=wishes, allow_code=True
        )


def test_a_text_without_a_token_to_hide_is_named_by_its_row(tmp_path: Path):
    checkpoint = save_masked_model(tmp_path / "model")
    texts = [f"good film {number}" for number in range(40)]
    texts[7] = "[UNK]"
    (tmp_path / "rows.csv").write_text("text\n" + "\n".join(texts) + "\n")
    with pytest.raises(RecipeError, match=r"^--data: row 7 of .*rows\.csv .* could be hidden"):
        write_starter(str(checkpoint), tmp_path / "rows.csv", tmp_path / "recipe.yaml")
