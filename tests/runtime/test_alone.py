"""The light runtime imports nothing of the package, and nothing that a server may lack."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

RUNTIME = Path(__file__).parents[2] / "compressor" / "runtime"
NEEDS = {"numpy", "onnxruntime", "tokenizers"}


@pytest.mark.parametrize("path", sorted(RUNTIME.glob("*.py")), ids=lambda path: path.name)
def test_a_module_imports_its_neighbours_and_three_packages(path: Path):
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add(str(node.module).partition(".")[0])
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 1
            assert (RUNTIME / f"{node.module}.py").is_file()
    # Pillow is there where there are pictures.
    needs = NEEDS | ({"PIL"} if path.name == "pixels.py" else set())
    assert found - set(sys.stdlib_module_names) <= needs


def test_validating_a_recipe_needs_no_module_that_loads_onnxruntime():
    script = (
        "import sys, compressor.errors, compressor.words, compressor.setting_errors\n"
        "print([name for name in ('onnxruntime', 'tokenizers', 'numpy') if name in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
