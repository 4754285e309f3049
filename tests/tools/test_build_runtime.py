"""The light runtime as a package of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from small_artifacts import write_small_artifact

from compressor.runtime import load_artifact


@pytest.fixture(scope="module")
def tool(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("build_runtime")


def test_the_package_alone_reads_an_artifact_where_nothing_else_is_installed(
    tool: ModuleType, tmp_path: Path
):
    tool.stage(tmp_path / "sources")
    folder = write_small_artifact(tmp_path / "artifact", "token-classification")
    script = (
        "import sys\n"
        "absent = ('PIL', 'compressor', 'onnx', 'pydantic', 'torch', 'transformers', 'yaml')\n"
        "sys.modules.update(dict.fromkeys(absent))\n"
        "import json, compressor_runtime\n"
        "print(json.dumps(compressor_runtime.load_artifact(sys.argv[1])(['a good film'])))"
    )
    result = subprocess.run(
        [sys.executable, "-c", script, str(folder)],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(tmp_path / "sources")},
    )
    here = load_artifact(folder)(["a good film"])
    assert json.loads(result.stdout) == json.loads(json.dumps(here))


def test_its_project_file_names_what_its_modules_import(tool: ModuleType, tmp_path: Path):
    package = tool.stage(tmp_path)
    project = tomllib.loads((tmp_path / "pyproject.toml").read_text())["project"]
    needed = {item.partition(">")[0] for item in project["dependencies"]}
    assert needed == {"numpy", "onnxruntime", "tokenizers"}
    assert project["name"].replace("-", "_") == package.name
    assert (package / "py.typed").is_file()
