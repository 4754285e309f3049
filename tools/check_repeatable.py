#!/usr/bin/env python3
"""Carry out a recipe several times, each in a fresh process, and compare the artifacts.

    tools/check_repeatable.py RECIPE [--runs 2] [--set KEY=VALUE ...]

Prints one line for each file of the artifact and fails unless every run wrote the same bytes. The
promise holds for one machine, one set of versions and the CPU.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path


def main() -> int:
    """Return 0 when every file has the same bytes in every run, 1 otherwise."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--runs", type=int, default=2, help="how often to run the recipe")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args()
    if arguments.runs < 2:
        parser.error(f"--runs: one run has nothing to be compared with, got {arguments.runs}")
    with tempfile.TemporaryDirectory() as scratch:
        found = [
            artifact_of(arguments.recipe, Path(scratch) / f"run-{number}", arguments.set)
            for number in range(1, arguments.runs + 1)
        ]
    different = 0
    for name in sorted(set().union(*found)):
        digests = {files.get(name) for files in found}
        different += len(digests) > 1
        print(f"{'same' if len(digests) == 1 else 'DIFFERENT':9}  {name}")
    print(f"{arguments.runs} runs: {different} of {len(set().union(*found))} files differ")
    return int(different > 0)


def artifact_of(recipe: Path, output: Path, settings: list[str]) -> dict[str, str]:
    """Run `recipe` on the CPU and return the SHA-256 of each file of its artifact."""
    command = [sys.executable, "-m", "compressor", "run", str(recipe), "--device", "cpu"]
    overrides = [word for setting in settings for word in ("--set", setting)]
    subprocess.run([*command, "--output", str(output), *overrides], check=True)
    folder = output / "artifact"
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


if __name__ == "__main__":
    sys.exit(main())
