"""Results files: what a tool measured, with the command, commit, machine and versions that made it.

The documentation quotes these files (`tools/quote_results.py`), so that no figure stands anywhere
that a command did not write.
"""

from __future__ import annotations

import datetime
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from compressor.machine.environment import describe_environment

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "results"
# Instruction sets that decide how fast int8 and bfloat16 are, as /proc/cpuinfo calls them.
_INSTRUCTIONS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8")


def write_results(path: Path, rows: list[dict[str, Any]], *, about: dict[str, Any]) -> None:
    """Write `rows`, one for each line of a table, and `about`, what holds for all of them."""
    facts = describe_environment(seed=0, device=torch.device("cpu"), threads=1)
    content = {
        "command": command_line(sys.argv),
        "commit": commit(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": {"cpu": facts["cpu"]["model"], "instructions": instructions()},
        "versions": facts["packages"],
        "about": about,
        "rows": rows,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def read_results(name: str) -> dict[str, Any]:
    """Return the results file called `name`, without its ending."""
    content: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return content


def command_line(arguments: list[str]) -> str:
    """Return a command as it is typed, with names of files in place of the folders of a machine.

    >>> command_line(["/home/me/tools/measure.py", "/data/dev.tsv", "--others", "a=/tmp/b/c.onnx"])
    'tools/measure.py dev.tsv --others a=c.onnx'
    """
    words = [re.sub(r"(^|=)/.*/", r"\1", word) for word in arguments[1:]]
    return shlex.join([f"tools/{Path(arguments[0]).name}", *words])


def commit() -> str:
    """Return the commit of the code that measured, marked where files had been changed since."""
    git = ["git", "-C", str(ROOT)]
    head = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True)
    if head.returncode != 0:
        return "unknown"
    changed = [*git, "status", "--porcelain", "--untracked-files=no"]
    edited = subprocess.run(changed, capture_output=True, text=True, check=True).stdout.strip()
    return head.stdout.strip() + (" and changes" if edited else "")


def instructions() -> list[str]:
    """Return which instruction sets for int8 and bfloat16 this CPU has."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return []
    flags = next((line for line in text.splitlines() if line.startswith("flags")), "").split()
    return [name for name in _INSTRUCTIONS if name in flags]
