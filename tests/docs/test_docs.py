"""The pages of the documentation: what can be pasted works, and what is linked is there.

Every block of YAML is a recipe, whole or in part, unless its title is the name of a workflow; a
part is laid over a recipe that is complete. Blocks of Python compile; those behind
`<!-- runs: NAME -->` are carried out, on the run of a tiny random model. Commands are parsed by the
command line itself.
"""

from __future__ import annotations

import ast
import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer.main
import yaml

import compressor
from compressor.cli import app
from compressor.recipe.recipe import Recipe
from compressor.sweep.settings import load_sweep
from compressor.sweep.space import corners

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
BLOCK = re.compile(
    r"(?:<!-- runs: (?P<runs>\w+) -->\n+)?^(?P<indent> *)```(?P<language>\w+)(?P<title>[^\n]*)\n"
    r"(?P<code>.*?)^(?P=indent)```$",
    re.DOTALL | re.MULTILINE,
)
LINK = re.compile(r"\[[^\]]*\]\((?P<target>[^)\s]+)\)")
HEADING = re.compile(r"^#+ +(?P<words>.+?)\s*$", re.MULTILINE)
COMPLETE: dict[str, Any] = {
    "model": {"checkpoint": "./my-model"},
    "data": {
        "text": "sentence",
        "train": {"path": "train.tsv"},
        "search": {"path": "dev.tsv"},
    },
    "budget": {"max_drop": 0.01},
    "passes": [{"kind": "quantize_dynamic"}],
}


@dataclass(frozen=True)
class Block:
    """One fenced block of a page."""

    page: Path
    line: int
    language: str
    title: str
    runs: str | None
    code: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT).as_posix()}:{self.line}"


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found = []
    for match in BLOCK.finditer(text):
        line = text.count("\n", 0, match.start("language")) + 1
        lines = match["code"].splitlines(keepends=True)
        code = "".join(item.removeprefix(match["indent"]) for item in lines)
        facts = (match["language"], match["title"], match["runs"])
        found.append(Block(page, line, *facts, code))
    return found


BLOCKS = [block for page in PAGES for block in blocks_of(page)]
# What a page shows as a file of another program is no recipe.
FILES = (".github", "compress-job.yaml")
YAML = [
    block
    for block in BLOCKS
    if block.language == "yaml" and not any(name in block.title for name in FILES)
]
SWEEPS = [block for block in YAML if re.search(r"^space:", block.code, re.MULTILINE)]
RECIPES = [block for block in YAML if block not in SWEEPS and "apiVersion:" not in block.code]
PYTHON = [block for block in BLOCKS if block.language == "python"]


def commands_of(block: Block) -> list[str]:
    """Return the commands of a block as single lines, without what they print."""
    joined = block.code.replace("\\\n", " ")
    return [line.partition("  #")[0].strip() for line in joined.splitlines()]


TYPED = [
    pytest.param(command, id=f"{block}: {command[:60]}")
    for block in BLOCKS
    if block.language == "bash"
    for command in commands_of(block)
]
COMPRESS = [item for item in TYPED if "compress " in str(item.values[0])]
SCRIPTS = [item for item in TYPED if "tools/" in str(item.values[0])]


def completed(settings: dict[str, Any]) -> dict[str, Any]:
    """Lay a part of a recipe over one that is complete."""
    whole = {"model", "data", "budget"} <= settings.keys()
    return settings if whole else {**COMPLETE, **settings, "budget": _budget(settings)}


def _budget(settings: dict[str, Any]) -> dict[str, Any]:
    return {**COMPLETE["budget"], **settings.get("budget", {})}


@pytest.mark.parametrize("block", RECIPES, ids=str)
def test_every_recipe_of_a_page_is_valid(block: Block, tmp_path: Path):
    settings = completed(yaml.safe_load(block.code))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(settings, sort_keys=False))
    assert isinstance(compressor.load_recipe(recipe), Recipe)


@pytest.mark.parametrize("block", SWEEPS, ids=str)
def test_every_sweep_of_a_page_is_valid(block: Block, tmp_path: Path):
    passes = [
        {"kind": "prune_structured", "ratio": 0.5, "recovery": {"kind": "distill", "epochs": 1}},
        {"kind": "quantize_dynamic"},
    ]
    recipe, sweep = tmp_path / "recipe.yaml", tmp_path / "sweep.yaml"
    recipe.write_text(yaml.safe_dump({**COMPLETE, "passes": passes}))
    sweep.write_text(block.code)
    loaded = load_sweep(sweep)
    assert [loaded.recipe_at(point) for point in corners(loaded.space)]


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_every_block_of_python_compiles(block: Block):
    assert ast.parse(block.code).body


@pytest.mark.parametrize("command", COMPRESS)
def test_every_command_is_one_that_the_program_reads(command: str):
    words = shlex.split(command.partition("&& ")[2] if "&& " in command else command)
    arguments = words[[Path(word).name for word in words].index("compress") + 1 :]
    group: Any = typer.main.get_command(app)
    name, *rest = arguments or ["--help"]
    chosen = group if name.startswith("-") else group.commands[name]
    known = {option for item in chosen.params for option in (*item.opts, *item.secondary_opts)}
    given = {word.partition("=")[0] for word in (name, *rest) if word.startswith("--")}
    assert given <= known | {"--help"}
    assert chosen is group or chosen.make_context(name, list(rest))


@pytest.mark.parametrize("command", SCRIPTS)
def test_every_script_is_there_and_reads_the_options(command: str):
    words = shlex.split(command)
    place = next(index for index, word in enumerate(words) if word.startswith("tools/"))
    script = (ROOT / words[place]).read_text(encoding="utf-8")
    unread = [word for word in words[place + 1 :] if word.startswith("--") and word not in script]
    assert unread == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_of_a_page_leads_somewhere(page: Path):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    targets = [match["target"] for match in LINK.finditer(text)]
    near = [target for target in targets if "://" not in target and not target.startswith("mailto")]
    assert [target for target in near if not leads_somewhere(page, target)] == []


def leads_somewhere(page: Path, target: str) -> bool:
    """Tell whether a link leads to a file that is there and, where it says so, to a heading."""
    name, _, anchor = target.partition("#")
    path = (page.parent / name).resolve() if name else page
    if not path.exists():
        return False
    return not anchor or path.suffix != ".md" or anchor in anchors(path)


def anchors(page: Path) -> set[str]:
    """Return what the headings of a page are called in links, as Python-Markdown makes it."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    words = [match["words"] for match in HEADING.finditer(text)]
    bare = [re.sub(r"[^\w\s-]", "", item).strip().lower() for item in words]
    given = re.findall(r"\{ *#([\w-]+)|<a id=\"([\w-]+)\"", text)
    return {re.sub(r"[-\s]+", "-", item) for item in bare} | {a or b for a, b in given}


def test_every_tool_that_can_be_run_is_named_on_its_page():
    page = (DOCS / "understanding" / "tools.md").read_text(encoding="utf-8")
    scripts = [path for path in (ROOT / "tools").glob("*.py") if "__main__" in path.read_text()]
    assert [path.name for path in scripts if f"tools/{path.name}" not in page] == []


@pytest.fixture(scope="module")
def finished_run(bert_recipe: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder in which `run/` is that of a tiny random classifier."""
    folder = tmp_path_factory.mktemp("docs")
    recipe = {**bert_recipe, "passes": [{"kind": "quantize_dynamic"}]}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    compressor.run(compressor.load_recipe(folder / "recipe.yaml"), output=folder / "run")
    return folder


def carry_out(name: str, folder: Path, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Run the one block that is marked `name` in `folder`, and return what it defined."""
    (block,) = [item for item in PYTHON if item.runs == name]
    patch.chdir(folder)
    names: dict[str, Any] = {}
    exec(compile(block.code, str(block), "exec"), names)  # noqa: S102 - our own page
    return names


def test_the_lines_without_this_package_give_the_predictions_of_the_artifact(
    finished_run: Path, monkeypatch: pytest.MonkeyPatch
):
    texts = ["a lovely film", "it is a very dull story and a boring plot", "good"]
    given = carry_out("plain_onnxruntime", finished_run, monkeypatch)["predict"](texts)
    predictions = compressor.load_artifact(finished_run / "run" / "artifact")(texts)
    assert [label for label, _ in given] == [prediction["label"] for prediction in predictions]
    scores = [prediction["score"] for prediction in predictions]
    np.testing.assert_allclose([score for _, score in given], scores, atol=1e-6)


def test_the_lines_without_this_package_cut_long_texts_as_the_artifact_does(
    finished_run: Path, monkeypatch: pytest.MonkeyPatch
):
    texts = ["good " * 200, "bad"]
    given = carry_out("plain_onnxruntime", finished_run, monkeypatch)["predict"](texts)
    predictions = compressor.load_artifact(finished_run / "run" / "artifact")(texts)
    scores = [prediction["score"] for prediction in predictions]
    np.testing.assert_allclose([score for _, score in given], scores, atol=1e-6)


def test_the_lines_with_this_package_run(finished_run: Path, monkeypatch: pytest.MonkeyPatch):
    names = carry_out("load_artifact", finished_run, monkeypatch)
    assert [item["label"] in ("negative", "positive") for item in names["predictions"]] == [True]


def test_the_lines_that_read_a_report_run(finished_run: Path, monkeypatch: pytest.MonkeyPatch):
    names = carry_out("read_report", finished_run, monkeypatch)
    assert names["report"]["verdict"] == "passed"


def test_the_lines_before_a_merge_stop_a_model_that_loses(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    report = json.loads((finished_run / "run" / "report.json").read_text())
    for name in ("run", "live"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "report.json").write_text(json.dumps(report))
    assert carry_out("against_the_live_model", tmp_path, monkeypatch)["lost"] == 0
    report["final"]["score"]["value"] += 0.01
    (tmp_path / "live" / "report.json").write_text(json.dumps(report))
    with pytest.raises(SystemExit, match=r"^passed, 0\.0100 below the live model$"):
        carry_out("against_the_live_model", tmp_path, monkeypatch)
    report["splits"] = [{**split, "fingerprint": "another"} for split in report["splits"]]
    (tmp_path / "live" / "report.json").write_text(json.dumps(report))
    with pytest.raises(SystemExit, match="judged on other rows"):
        carry_out("against_the_live_model", tmp_path, monkeypatch)


def test_the_lines_that_deploy_by_digest_run(finished_run: Path, monkeypatch: pytest.MonkeyPatch):
    names = carry_out("version", finished_run, monkeypatch)
    assert re.fullmatch(r"[0-9a-f]{64}", names["version"])


def test_the_lines_that_run_a_recipe_run(finished_run: Path, monkeypatch: pytest.MonkeyPatch):
    names = carry_out("from_python", finished_run, monkeypatch)
    assert names["report"].verdict == "passed"
