"""The recipes of a first run: the same in the package and in `recipes`, and never written over."""

from __future__ import annotations

from pathlib import Path

import pytest

import compressor.quickstart
from compressor.errors import EnvironmentMismatch, RecipeError
from compressor.quickstart import RECIPES, write_recipe
from compressor.recipe.recipe import load_recipe

ROOT = Path(__file__).parents[2]
PACKAGE = Path(compressor.quickstart.__file__).parent


@pytest.mark.parametrize("name", RECIPES)
def test_the_recipe_in_the_package_is_the_one_in_recipes(name: str):
    copy = (ROOT / "recipes" / f"{name}.yaml").read_bytes()
    assert (PACKAGE / f"{name}.yaml").read_bytes() == copy


def test_the_recipe_is_written_as_it_is_into_a_directory_that_is_made(tmp_path: Path):
    path = write_recipe("quickstart", tmp_path / "new" / "place")
    assert path == tmp_path / "new" / "place" / "quickstart.yaml"
    assert path.read_bytes() == (PACKAGE / "quickstart.yaml").read_bytes()


def test_what_it_makes_lies_beside_the_recipe(tmp_path: Path):
    recipe = load_recipe(write_recipe("quickstart", tmp_path), ())
    assert recipe.output == tmp_path.resolve() / "runs" / "quickstart"


def test_the_same_recipe_is_left_alone(tmp_path: Path):
    first = write_recipe("quickstart", tmp_path)
    written = first.stat().st_mtime_ns
    assert write_recipe("quickstart", tmp_path).stat().st_mtime_ns == written


def test_a_recipe_that_was_edited_is_never_written_over(tmp_path: Path):
    path = write_recipe("quickstart", tmp_path)
    path.write_text(path.read_text() + "# mine\n")
    with pytest.raises(RecipeError, match=r"compress run .*quickstart\.yaml"):
        write_recipe("quickstart", tmp_path)
    assert path.read_text().endswith("# mine\n")


def test_a_directory_in_its_place_is_refused(tmp_path: Path):
    (tmp_path / "quickstart.yaml").mkdir()
    with pytest.raises(EnvironmentMismatch, match="is a directory"):
        write_recipe("quickstart", tmp_path)


def test_a_file_in_place_of_the_directory_is_refused(tmp_path: Path):
    (tmp_path / "taken").touch()
    with pytest.raises(EnvironmentMismatch, match="--output"):
        write_recipe("quickstart", tmp_path / "taken")
