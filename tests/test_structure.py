"""Guards the design: layers point down, each pass file holds one pass, each recipe loads."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from compressor.machine.environment import ONLY_SHOWS
from compressor.passes import PASSES
from compressor.recipe.recipe import load_recipe

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "compressor"

# A module imports only from lines below its own; names on one line do not import each other.
LAYERS = (
    ("__main__",),
    ("cli",),
    ("commands",),
    ("__init__",),
    ("sweep",),
    ("starter", "pipeline.run", "explain", "serve", "shadow", "publish"),
    ("pipeline",),
    ("inspection", "quickstart"),
    ("recipe",),
    ("report",),
    ("passes",),
    ("artifact", "attribution", "export", "training", "verify"),
    ("certificate",),
    ("models", "data"),
    ("tasks",),
    ("onnx_graph",),
    ("events",),
    ("machine",),
    ("console", "measurements"),
    ("proof", "environment"),
    ("stored_types",),
    ("own_code",),
    ("paths", "setting_errors", "amounts"),
    ("errors", "files", "progress"),
    ("words",),
    ("runtime",),
)
LEVEL = {name: level for level, line in enumerate(LAYERS) for name in line}
MODULES = sorted(PACKAGE.rglob("*.py"))


def unit(path: Path) -> str:
    return unit_of(*path.relative_to(PACKAGE).with_suffix("").parts)


def unit_of(*parts: str) -> str:
    """Return the name in `LAYERS` of a module: that of its package, or with its own after it."""
    whole = ".".join(parts[:2])
    return whole if whole in LEVEL else parts[0]


def imported_units(path: Path) -> Iterator[str]:
    """Yield the parts of `compressor` that a file imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            parts = node.module.split(".")
            if parts[0] != "compressor":
                continue
            if len(parts) > 1:
                yield unit_of(*parts[1:])
            else:
                yield from (alias.name for alias in node.names if alias.name in LEVEL)
        elif isinstance(node, ast.Import):
            yield from (
                unit_of(*alias.name.split(".")[1:])
                for alias in node.names
                if alias.name.startswith("compressor.")
            )


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_from_the_lines_below_its_own(path: Path):
    own = unit(path)
    upward = {name for name in imported_units(path) if name != own and LEVEL[name] <= LEVEL[own]}
    assert upward == set()


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_is_no_longer_than_its_subject_may_be(path: Path):
    # 60 to 400 lines are usual; a main file may be longer, and nothing is split only to be short.
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 800


@pytest.mark.parametrize("kind", PASSES)
def test_a_pass_stands_in_the_table_under_its_own_kind(kind: str):
    assert PASSES[kind].settings.model_fields["kind"].default == kind


@pytest.mark.parametrize("kind", PASSES)
def test_a_pass_has_a_test_file(kind: str):
    *folders, name = PASSES[kind].settings.__module__.split(".")[1:]
    assert (ROOT.joinpath("tests", *folders) / f"test_{name}.py").is_file()


@pytest.mark.parametrize("kind", PASSES)
def test_every_setting_of_a_pass_is_described(kind: str):
    variants = PASSES[kind].settings.variants()
    fields = {name: field for item in variants for name, field in item.model_fields.items()}
    undescribed = [
        name for name, field in fields.items() if name != "kind" and not field.description
    ]
    assert undescribed == []


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda p: p.name)
def test_a_shipped_recipe_loads(path: Path):
    assert load_recipe(path).passes


def test_help_and_validate_never_load_torch():
    script = (
        "import sys\n"
        "from compressor.cli import app\n"
        "try:\n"
        "    app(sys.argv[1:], standalone_mode=False)\n"
        "except SystemExit:\n"
        "    pass\n"
        "print('loaded:', [m for m in ('torch', 'transformers', 'onnxruntime', 'sklearn', 'scipy') "
        "if m in sys.modules])\n"
    )
    for arguments in (["--help"], ["validate", str(ROOT / "recipes" / "quickstart.yaml")]):
        result = subprocess.run(
            [sys.executable, "-c", script, *arguments],
            capture_output=True,
            text=True,
            check=True,
            cwd=ROOT,
        )
        assert "loaded: []" in result.stdout


def test_nothing_that_computes_imports_what_only_shows():
    # `environment.ONLY_SHOWS` is left out of the key of a stored step.
    reached: set[Path] = set()
    pending = [PACKAGE / "pipeline/cached_work.py", *(PACKAGE / "passes").rglob("*.py")]
    told = {"pipeline/estimate.py", "pipeline/announce.py"}  # what stages tell, and never read
    while pending:
        path = pending.pop()
        if path in reached or path.relative_to(PACKAGE).as_posix() in told:
            continue
        reached.add(path)
        pending.extend(imported_files(path))
    names = {path.relative_to(PACKAGE).as_posix() for path in reached}
    assert "onnx_graph/int8_weights.py" in names
    assert [name for name in sorted(names) if name.startswith(ONLY_SHOWS)] == []


@pytest.mark.parametrize(
    "path",
    [path for folder in ("recipe", "inspection") for path in (PACKAGE / folder).glob("*.py")],
    ids=lambda path: str(path.relative_to(PACKAGE)),
)
def test_what_holds_between_passes_follows_from_their_declarations(path: Path):
    tree = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    words = [node.value for node in tree if isinstance(node, ast.Constant)]
    assert [word for word in words if word in PASSES] == []
    folders = {file.parent for file in imported_files(path)}
    assert [folder for folder in folders if folder.parent == PACKAGE / "passes"] == []


def test_no_file_imports_itself_by_way_of_others():
    imports = {path: {item for item in imported_files(path) if item != path} for path in MODULES}
    # Files that import nothing among those left go, and so on; what stays imports in circles.
    left = dict(imports)
    while ready := {path for path, needs in left.items() if not needs & left.keys()}:
        left = {path: needs for path, needs in left.items() if path not in ready}
    assert sorted(path.relative_to(PACKAGE).as_posix() for path in left) == []


def test_settings_of_a_pass_never_import_its_work():
    settings = {Path(inspect.getfile(entry.settings)) for entry in PASSES.values()}
    work = {ROOT.joinpath(*entry.work.split(".")).with_suffix(".py") for entry in PASSES.values()}
    assert all(path.is_file() for path in work)
    reached: set[Path] = set()
    pending = list(settings)
    while pending:
        path = pending.pop()
        if path not in reached:
            reached.add(path)
            pending.extend(imported_files(path))
    assert reached & work == set()


def test_the_folder_of_passes_can_be_seen_at_once():
    rooms = [path for path in (PACKAGE / "passes").iterdir() if path.name != "__pycache__"]
    assert len(rooms) <= 18


def imported_files(path: Path) -> Iterator[Path]:
    """Yield the files of `compressor` that a file imports from, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:  # the light runtime's, in one folder
            yield path.with_name(f"{node.module}.py")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("compressor"):
            for alias in node.names:
                yield file_of(f"{node.module}.{alias.name}") or file_of(str(node.module)) or path


def file_of(module: str) -> Path | None:
    """Return the file of a module of `compressor`; None where it has none."""
    whole = PACKAGE.joinpath(*module.split(".")[1:])
    files = (whole.with_name(f"{whole.name}.py"), whole / "__init__.py")
    return next((item for item in files if item.is_file()), None)
