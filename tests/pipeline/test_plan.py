"""What a run would do is said before it, with what to think of first."""

from __future__ import annotations

from pathlib import Path

import pytest

from compressor.certificate.score_bound import tango_upper_bound
from compressor.pipeline.plan import render_plan
from compressor.pipeline.preflight import check_inputs
from compressor.proof import least_proof
from compressor.recipe.recipe import load_recipe

PRUNES = "{kind: prune_structured, ratio: 0.2, on_failure: repair}"


def plan(
    folder: Path,
    checkpoint: Path | str,
    data: str,
    more: str = "",
    *,
    max_drop: float = 0.01,
    passes: str = PRUNES,
) -> list[str]:
    path = folder / "recipe.yaml"
    path.write_text(
        f"model: {{checkpoint: '{checkpoint}'}}\ndata: {data}\nbudget: {{max_drop: {max_drop}}}\n"
        f"passes: [{passes}]\n{more}"
    )
    recipe = load_recipe(path)
    return render_plan(recipe, check_inputs(recipe)).splitlines()


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    for name, count in (("dev.csv", 100), ("proof.csv", 50)):
        lines = (f"fine {name} {row},1\nbad {name} {row},0\n" for row in range(count))
        (tmp_path / name).write_text("text,label\n" + "".join(lines))
    return tmp_path


def test_the_plan_names_rows_labels_passes_and_output(rows: Path, tiny_bert_dir: Path):
    lines = plan(rows, tiny_bert_dir, "{search: {path: dev.csv}}", "output: out\n")
    assert "  task           text-classification" in lines
    assert "  labels         negative, positive" in lines
    assert "  budget         accuracy may fall by at most 1 point" in lines
    assert "  pass 1         prune_structured (milder settings are tried if it fails)" in lines
    assert "  calibration    40 rows cut from search, to calibrate on" in lines
    assert f"  search         160 rows of {rows}/dev.csv, to judge each pass" in lines
    assert "  certification  none" in lines
    assert f"  output         {rows}/out" in lines
    assert lines[-1] == f"nothing was run; next: compress run {rows}/recipe.yaml"


def test_without_rows_to_prove_with_a_warning_says_so(rows: Path, tiny_bert_dir: Path):
    lines = plan(rows, tiny_bert_dir, "{search: {path: dev.csv}}")
    [warning] = [line for line in lines if line.startswith("warning")]
    assert warning.startswith("warning: nothing will be proven, because there is no certification")
    assert lines[-1].endswith("recipe.yaml --output DIRECTORY")


def test_rows_that_cannot_prove_the_budget_are_told(rows: Path, tiny_bert_dir: Path):
    data = "{search: {path: dev.csv}, certification: {path: proof.csv}}"
    [warning] = [line for line in plan(rows, tiny_bert_dir, data) if line.startswith("warning")]
    assert "100 certification rows prove a drop of at most 3.04 points even when" in warning


def test_a_budget_of_nothing_is_told_to_be_hardly_provable(rows: Path, tiny_bert_dir: Path):
    data = "{search: {path: dev.csv}, certification: {path: proof.csv}}"
    lines = plan(rows, tiny_bert_dir, data, max_drop=0)
    [warning] = [line for line in lines if line.startswith("warning")]
    assert "where no prediction changes, 100 certification rows still leave 3.04 points" in warning


@pytest.mark.parametrize("num_examples", [20, 572, 10_000])
def test_the_least_that_rows_prove_is_tangos_bound_without_a_change(num_examples: int):
    expected = tango_upper_bound(0, 0, num_examples, confidence=0.95)
    assert least_proof(num_examples, 0.95) == pytest.approx(expected, abs=1e-9)


def test_rows_that_are_trained_on_and_judged_by_are_told(rows: Path, tiny_bert_dir: Path):
    data = "{train: {path: dev.csv}, search: {path: dev.csv}}"
    lines = plan(rows, tiny_bert_dir, data)
    assert any("data.train and data.search read the same rows" in line for line in lines)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ("max_steps: 1000", True),
        ("max_steps: 6", False),  # of 7
        ("max_steps: 1000, epochs: 3", False),
        ("epochs: 3", False),
    ],
)
def test_steps_that_are_never_reached_are_told(
    rows: Path, tiny_bert_dir: Path, settings: str, told: bool
):
    (rows / "train.csv").write_text("text,label\n" + "good,1\nworse,0\n" * 100)
    passes = f"{{kind: prune_structured, ratio: 0.2, recovery: {{kind: distill, {settings}}}}}"
    data = "{train: {path: train.csv}, search: {path: dev.csv}}"
    lines = plan(rows, tiny_bert_dir, data, passes=passes)
    warning = (
        "warning: passes[0].recovery.max_steps: 1,000 steps are never reached: epochs is 1 where "
        "it is left out, 5 steps of 160 train rows; 1,000 are 200 epochs"
    )
    assert (warning in lines) == told


def test_rows_on_the_hub_are_said_not_to_be_looked_at(rows: Path):
    lines = plan(rows, "org/model", "{search: {hub: org/rows, split: test}}")
    assert "  task           known when the checkpoint is loaded" in lines
    assert (
        "  search         an unknown number of rows of hub:org/rows:test, to judge each pass"
        in (lines)
    )
    assert "warning: not every row of data.search was checked; the run does that first" in lines


def test_rows_that_were_not_read_are_counted_by_their_lines(rows: Path):
    lines = plan(rows, "org/model", "{search: {path: dev.csv}}")
    assert f"  search         at most 160 rows of {rows}/dev.csv, to judge each pass" in lines


def test_queries_are_counted_apart_from_the_documents_that_they_look_for(
    tmp_path: Path, tiny_encoder_dir: Path
):
    rows = [f"find {row},about {row % 25},{1 + row % 2}\n" for row in range(40)]
    (tmp_path / "pairs.csv").write_text("query,document,grade\n" + "".join(rows))
    data = "{text: [query, document], label: grade, search: {path: pairs.csv}}"
    path = tmp_path / "recipe.yaml"
    path.write_text(
        f"model: {{checkpoint: '{tiny_encoder_dir}'}}\ndata: {data}\n"
        "budget: {metric: ndcg@10, max_drop: 0.1}\npasses: []\n"
    )
    recipe = load_recipe(path)
    lines = render_plan(recipe, check_inputs(recipe)).splitlines()
    counts = "40 queries and 25 documents"
    assert f"  search         {counts} of {tmp_path}/pairs.csv, to judge each pass" in lines
