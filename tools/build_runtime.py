#!/usr/bin/env python3
"""Build `compressor-runtime`: the folder `compressor/runtime` as a package of its own.

    tools/build_runtime.py [--outdir DIR]

The wheel holds the same files that the package `compressor` holds as `compressor.runtime`, under
the name `compressor_runtime`; nothing is rewritten, because they import each other by relative
names. It needs onnxruntime, tokenizers and numpy, and weighs less than a tenth of a megabyte.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NAME = "compressor_runtime"
_PROJECT = """\
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "compressor-runtime"
version = "{version}"
description = "Predictions of compressed encoders with ONNX Runtime, tokenizers and NumPy alone."
readme = "README.md"
requires-python = "{python}"
license = "Apache-2.0"
license-files = ["LICENSE"]
authors = [{{name = "The compressor maintainers"}}]
dependencies = ["numpy>=2", "onnxruntime>=1.18", "tokenizers>=0.22"]

[project.optional-dependencies]
images = ["pillow>=11"]
openvino = ["openvino>=2026.4,<2027"]

[tool.setuptools.packages.find]
include = ["{name}"]

[tool.setuptools.package-data]
{name} = ["py.typed"]
"""
_README = """\
# compressor-runtime

Loads an artifact of `compressor` where there is neither torch nor transformers:

```python
import compressor_runtime

predict = compressor_runtime.load_artifact("artifact", threads=1)
predict(["a gripping film"])
```
"""


def stage(folder: Path) -> Path:
    """Write the sources of the package into `folder`, and return the package among them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    package = folder / NAME
    skipped = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "compressor" / "runtime", package, ignore=skipped)
    shutil.copyfile(ROOT / "compressor" / "py.typed", package / "py.typed")
    shutil.copyfile(ROOT / "LICENSE", folder / "LICENSE")
    (folder / "README.md").write_text(_README, encoding="utf-8")
    text = _PROJECT.format(version=project["version"], python=project["requires-python"], name=NAME)
    (folder / "pyproject.toml").write_text(text, encoding="utf-8")
    return package


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--outdir", type=Path, default=ROOT / "dist", help="where wheels go")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        stage(Path(folder))
        build = [sys.executable, "-m", "build", "--outdir", str(arguments.outdir.resolve()), folder]
        subprocess.run(build, check=True)


if __name__ == "__main__":
    main()
