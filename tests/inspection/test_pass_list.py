"""`compress passes`: a screen for all passes, a page for one, examples that load."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from compressor.errors import RecipeError
from compressor.inspection.pass_list import describe_passes, render_pass, render_passes
from compressor.passes import PASSES
from compressor.recipe.recipe import load_recipe

MINIMAL = (
    "model: {checkpoint: org/model}\n"
    "data: {text: text, search: {path: rows.csv}}\n"
    "budget: {max_drop: 0.01}\n"
)


@pytest.mark.parametrize("kind", PASSES)
def test_the_example_of_a_pass_makes_a_recipe_of_the_smallest_one(kind: str, tmp_path: Path):
    path = tmp_path / "recipe.yaml"
    path.write_text(MINIMAL + PASSES[kind].settings.about.example)
    assert kind in [step.kind for step in load_recipe(path).passes]


@pytest.mark.parametrize("kind", PASSES)
def test_a_pass_is_explained_in_sentences(kind: str):
    about = PASSES[kind].settings.about
    assert about.explanation.endswith(".")
    assert about.explanation[0].isupper()
    assert not about.summary.endswith(".")


def test_all_passes_fit_a_terminal_of_80_columns_and_24_lines():
    lines = render_passes().plain.splitlines()
    assert len(lines) <= 22  # and a prompt before and after
    assert max(map(len, lines)) <= 80


def test_every_pass_is_on_the_screen_once():
    words = render_passes().plain.split()
    assert {kind: words.count(kind) for kind in PASSES} == dict.fromkeys(PASSES, 1)


def test_the_screen_says_how_to_see_the_settings_of_one():
    assert render_passes().plain.splitlines()[-1].startswith("compress passes KIND shows")


def test_a_pass_is_shown_with_settings_and_example():
    shown = render_pass("prune_magnitude", 80).plain
    assert "  sparsity  number > 0, < 1; required\n" in shown
    assert "      Fraction of the covered weights that become zero.\n" in shown
    assert "  scope  one of global, layer, row; default global\n" in shown
    assert "  ramp_ratio  number > 0, <= 1; optional\n" in shown
    assert shown.endswith("  passes:\n    - kind: prune_magnitude\n      sparsity: 0.5")


def test_what_every_pass_has_comes_after_its_own_settings():
    names = [
        line.split()[0]
        for line in render_pass("finetune", 80).plain.splitlines()
        if line.startswith("  ") and line[2] != " "
    ]
    assert names.index("epochs") < names.index("on_failure")


def test_nested_settings_have_a_page_of_their_own():
    assert "compress passes prune_structured.recovery" in render_pass("prune_structured", 99).plain
    assert "recovery.epochs" not in render_pass("prune_structured", 99).plain
    shown = render_pass("prune_structured.recovery", 80).plain
    assert "  recovery.kind  one of finetune, distill; required\n" in shown
    assert "  recovery.epochs  number > 0, <= 1000; default 1.0\n" in shown


def test_a_list_of_pairs_and_a_list_of_choices_are_named_as_such():
    shown = render_pass("distill", 80).plain
    assert "one of uniform, first, last or list of [integer, integer]; optional" in shown
    assert "list of any of queries, keys, values; default [queries, keys, values]" in shown


@pytest.mark.parametrize(
    ("name", "guess"),
    [
        ("prune_structred", "unknown pass 'prune_structred', did you mean 'prune_structured'?"),
        ("prune_structured.rato", "prune_structured has no setting 'rato', did you mean 'ratio'?"),
    ],
)
def test_a_misspelt_name_gets_the_nearest_one(name: str, guess: str):
    with pytest.raises(RecipeError) as caught:
        render_pass(name, 80)
    assert str(caught.value).startswith(guess)


def test_machines_read_the_same_as_json():
    [found] = json.loads(json.dumps(describe_passes("convert_fp16")))
    assert found["changes"] == "graph"
    assert found["providers"] == ["cuda", "tensorrt"]
    assert "on_failure" in [item["name"] for item in found["settings"]]
    assert [item["kind"] for item in describe_passes(None)] == list(PASSES)
