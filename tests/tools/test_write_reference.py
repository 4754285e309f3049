"""The pages of docs/reference that are made from the code."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

import compressor
from compressor.errors import EXIT_CODES, CompressorError
from compressor.passes import PASSES, pass_settings
from compressor.recipe.recipe import Recipe
from compressor.tasks import task_class, task_names


@pytest.fixture(scope="module")
def reference(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("write_reference")


@pytest.fixture(scope="module")
def pages(reference: ModuleType) -> dict[str, str]:
    made: dict[str, str] = reference.pages()
    return made


def test_every_page_is_what_the_code_says(reference: ModuleType):
    # Otherwise: python tools/write_reference.py
    assert reference.stale() == []


def test_a_page_that_differs_or_whose_pass_is_gone_is_stale(
    reference: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(reference, "REFERENCE", tmp_path)
    reference.write()
    (tmp_path / "cli.md").write_text("# Another page\n", encoding="utf-8")
    (tmp_path / "passes" / "prune_by_hand.md").write_text("# A pass\n", encoding="utf-8")

    assert reference.write() == ["cli.md", "passes/prune_by_hand.md"]
    assert reference.stale() == []
    assert not (tmp_path / "passes" / "prune_by_hand.md").exists()


@pytest.mark.parametrize("kind", PASSES)
def test_the_page_of_a_pass_has_every_setting_with_its_meaning(pages: dict[str, str], kind: str):
    rows = re.findall(r"^\| `([^`]+)` \| (.*)<br>", pages[f"passes/{kind}.md"], re.MULTILINE)
    wanted = {item.name.rpartition(".")[2] for item in pass_settings(PASSES[kind].settings)}
    assert {name for name, meaning in rows if meaning.strip()} == wanted


def test_the_page_of_the_recipe_has_every_key(pages: dict[str, str]):
    named = set(re.findall(r"`([\w.]+)`", pages["recipe.md"]))
    assert {*Recipe.model_fields} <= named
    assert {"budget.target", "data.certification"} <= named


def test_every_exit_code_of_an_error_is_explained(pages: dict[str, str]):
    raised = {error.exit_code for error in descendants(CompressorError)}
    assert raised == {2, 3, 4, 5, 6}
    assert raised < set(EXIT_CODES)
    assert all(f"| `{code}` |" in pages["exit-codes.md"] for code in EXIT_CODES)


def descendants(kind: type[CompressorError]) -> set[type[CompressorError]]:
    return {found for child in kind.__subclasses__() for found in (child, *descendants(child))}


def test_the_page_of_the_commands_has_arguments_options_and_defaults(pages: dict[str, str]):
    assert "| `--set KEY=VALUE` |" in pages["cli.md"]
    assert "| `--output PATH` | The recipe to write. | `recipe.yaml` |" in pages["cli.md"]
    assert "compress compare RUNS... [OPTIONS]" in pages["cli.md"]
    assert "| `--device cpu/cuda/auto` |" in pages["cli.md"]


def test_the_page_of_python_has_every_public_name(pages: dict[str, str]):
    assert all(f"## `{name}`\n" in pages["python.md"] for name in compressor.__all__)


def test_a_mapping_leads_to_the_table_of_its_settings(pages: dict[str, str]):
    page = pages["passes/prune_structured.md"]
    assert "<small>[mapping](#recovery); not set by default</small> |" in page
    assert "\n### `recovery`\n" in page


@pytest.mark.parametrize("task", task_names())
def test_the_page_of_the_recipe_names_every_task_and_its_metrics(pages: dict[str, str], task: str):
    assert task in pages["recipe.md"]
    assert all(metric in pages["recipe.md"] for metric in task_class(task).metric_names())
