"""A sweep file is read strictly, and each mistake is told with its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from compressor.errors import RecipeError
from compressor.recipe.recipe import load_recipe
from compressor.sweep.settings import Sweep, load_sweep
from compressor.sweep.space import corners

RECIPE = """\
model: {checkpoint: ./checkpoint}
data: {text: text, search: {path: rows.csv}}
budget: {max_drop: 0.5}
passes:
  - {kind: prune_magnitude, sparsity: 0.5}
"""
SPARSITY = "passes.0.sparsity: {low: 0.1, high: 0.5, step: 0.1}"


def written(folder: Path, *lines: str, space: str = SPARSITY) -> Path:
    (folder / "recipe.yaml").write_text(RECIPE)
    path = folder / "sweep.yaml"
    start = ["recipe: recipe.yaml", "space:", f"  {space}", "objectives: {score: maximize}"]
    path.write_text("\n".join([*start, *lines]) + "\n")
    return path


def mistakes(path: Path) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        load_sweep(path)
    return [line.replace(f"{path}", "sweep.yaml") for line in caught.value.mistakes]


def grid(folder: Path, *lines: str) -> Sweep:
    return load_sweep(written(folder, "sampler: grid", *lines))


def test_a_grid_has_as_many_trials_as_there_are_combinations(tmp_path: Path):
    assert grid(tmp_path).num_trials == 5


def test_amounts_are_read_with_their_units(tmp_path: Path):
    sweep = grid(tmp_path, "constraints: {drop: 1.5 points, bytes: 20 MB, speedup: 2}")
    assert sweep.constraints.given == {"drop": 0.015, "bytes": 20_000_000, "speedup": 2.0}
    assert sweep.goes_by_time


def test_the_first_objective_decides_unless_another_is_named(tmp_path: Path):
    path = written(tmp_path, "trials: 3", "choose: bytes")
    path.write_text(path.read_text().replace("maximize}", "maximize, bytes: minimize}"))
    assert load_sweep(path).chooses_by == "bytes"
    path.write_text(path.read_text().replace("choose: bytes", ""))
    assert load_sweep(path).chooses_by == "score"


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("trails: 3", "sweep.yaml:5: trails: unknown key 'trails', did you mean 'trials'?"),
        ("constraints: {drop: 1 pint}", "sweep.yaml:5: constraints.drop: must be a difference"),
        ("constraints: {bytes: 20 XB}", "sweep.yaml:5: constraints.bytes: must be a size such as"),
        ("sampler: gird", "sweep.yaml:5: sampler: must be 'grid', 'random', 'tpe' or 'nsga2'"),
        ("seed: -1", "sweep.yaml:5: seed: must be at least 0, got -1"),
    ],
)
def test_a_wrong_key_or_value_is_told(tmp_path: Path, line: str, told: str):
    assert any(found.startswith(told) for found in mistakes(written(tmp_path, line)))


@pytest.mark.parametrize(
    ("space", "told"),
    [
        ("a.b: {low: 1, hihg: 3}", "space.a.b.hihg: unknown key 'hihg', did you mean 'high'?"),
        ("a.b: {low: 3, high: 1}", "space.a.b.high: must be above low (3), got 1"),
        ("a.b: {low: 0, high: 1.0, log: true}", "space.a.b.low: must be above 0 with log, got 0"),
        ("a.b: {low: 0.1, high: 0.25, step: 0.1}", "space.a.b.high: must be low and a whole"),
        ("a.b: 7", "space.a.b: must be a mapping such as {low: 0.2, high: 0.8, step: 0.1} or"),
        ("a.b: {choices: []}", "space.a.b.choices: must be a list of at least 1 entry"),
        ("a.b: {choices: [4, 4]}", "space.a.b.choices: names 4 twice"),
        ("budget.max_drop: {choices: [0.1]}", "space.budget.max_drop: budget has to be the same"),
        ("a..b: {choices: [1]}", "space.a..b: must look like a key of the recipe"),
    ],
)
def test_a_wrong_dimension_is_told(tmp_path: Path, space: str, told: str):
    found = mistakes(written(tmp_path, "trials: 3", space=space))
    assert any(line.startswith(f"sweep.yaml:3: {told}") for line in found)


def test_a_key_is_given_once_however_it_is_spelled(tmp_path: Path):
    space = "passes.0.sparsity: {choices: [0.1]}\n  passes[0].sparsity: {choices: [0.2]}"
    [line] = mistakes(written(tmp_path, "trials: 3", space=space))
    assert line == "sweep.yaml:4: space.passes[0].sparsity: is passes.0.sparsity once more"


def test_a_grid_needs_an_end(tmp_path: Path):
    path = written(tmp_path, "sampler: grid", space="passes.0.sparsity: {low: 0.1, high: 0.5}")
    [line] = mistakes(path)
    assert "space.passes.0.sparsity: has no end; give step or choices" in line


def test_a_part_of_a_grid_is_refused(tmp_path: Path):
    [line] = mistakes(written(tmp_path, "sampler: grid", "trials: 3"))
    assert line.endswith(
        "the grid has 5 combinations, got 3; leave it out, or take sampler: random"
    )


def test_other_samplers_need_a_number_of_trials(tmp_path: Path):
    [line] = mistakes(written(tmp_path))
    assert "required key 'trials' is missing: tpe needs it" in line


def test_an_objective_has_the_way_that_is_better(tmp_path: Path):
    path = written(tmp_path, "trials: 3")
    path.write_text(path.read_text().replace("score: maximize", "bytes: maximize"))
    [line] = mistakes(path)
    assert line == "sweep.yaml:4: objectives.bytes: can only be minimize, got maximize"


def test_a_recipe_is_no_sweep_and_a_sweep_no_recipe(tmp_path: Path):
    path = written(tmp_path, "trials: 3")
    [line] = mistakes(tmp_path / "recipe.yaml")
    assert "is a recipe; a sweep is a file of its own" in line
    with pytest.raises(RecipeError, match="is a sweep, not a recipe; start it with compress sweep"):
        load_recipe(path)


def test_the_recipe_of_a_trial_has_its_values(tmp_path: Path):
    recipe = grid(tmp_path).recipe_at({"passes.0.sparsity": 0.1 + 2 * 0.1})
    assert recipe.passes[0].settings["sparsity"] == 0.3


def test_what_is_wrong_with_a_trials_recipe_is_told_where_the_sweep_asks_for_it(tmp_path: Path):
    sweep = load_sweep(written(tmp_path, "trials: 1", space="passes.0.sparsty: {choices: [0.1]}"))
    with pytest.raises(RecipeError) as caught:
        sweep.recipe_at({"passes.0.sparsty": "0.1"})
    assert f"{sweep.path}:3: space.passes.0.sparsty: passes.0.sparsty=0.1: unknown key" in str(
        caught.value
    )


def test_settings_of_the_recipe_hold_for_every_trial(tmp_path: Path):
    sweep = load_sweep(written(tmp_path, "sampler: grid"), ["seed=7"])
    assert sweep.recipe_at({"passes.0.sparsity": 0.2}).seed == 7


SHIPPED = sorted((Path(__file__).parents[2] / "recipes" / "sweeps").glob("*.yaml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_a_shipped_sweep_loads_with_the_recipes_of_its_corners(path: Path):
    sweep = load_sweep(path)
    assert [sweep.recipe_at(point).passes for point in corners(sweep.space)]


def test_a_sweep_is_shipped():
    assert [path.name for path in SHIPPED] == ["digits.yaml"]
