#!/usr/bin/env python3
"""Measure what it takes to import, load and ask once: the light runtime beside others.

    tools/cold_start.py ARTIFACT [--with NAME=PYTHON ...] [--processes N] [--json FILE]

Each contestant is a fresh process that imports its packages, loads the artifact with one thread and
gives one prediction; they take turns, and medians count. CPU time is that of the whole process,
memory the most that it held (VmHWM of Linux). "by hand" is onnxruntime, tokenizers and numpy in
twenty lines. `--with` adds `fastembed` and `sentence-transformers` for an artifact of sentence
embeddings, each by the Python of an environment that has it.

Exits with 1 when the light runtime takes more than 1.3 times the CPU time or the memory of the
lines by hand.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from build_runtime import stage
from results import ROOT, write_results

MOST = 1.3  # times what the lines by hand take
TEXT = "a gripping film"
BY_HAND, LIGHT = "by hand", "compressor-runtime"

_BY_HAND = f"""
import json, sys
import numpy, onnxruntime
from tokenizers import Tokenizer
folder = sys.argv[1]
facts = json.load(open(folder + "/tokenizer_config.json"))
tokenizer = Tokenizer.from_file(folder + "/tokenizer.json")
tokenizer.enable_truncation(facts["model_max_length"])
tokenizer.enable_padding()
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(
    folder + "/model.onnx", options, providers=["CPUExecutionProvider"]
)
rows = tokenizer.encode_batch([{TEXT!r}])
feed = {{
    "input_ids": numpy.array([row.ids for row in rows]),
    "attention_mask": numpy.array([row.attention_mask for row in rows]),
    "token_type_ids": numpy.array([row.type_ids for row in rows]),
}}
names = [item.name for item in session.get_inputs()]
session.run(None, {{name: feed[name] for name in names}})
"""
_PACKAGE = f"""
import sys
import NAME
NAME.load_artifact(sys.argv[1], threads=1)([{TEXT!r}])
"""
_FASTEMBED = f"""
import sys
from fastembed import TextEmbedding
from fastembed.common.model_description import ModelSource, PoolingType
name = "local/artifact"
TextEmbedding.add_custom_model(
    model=name, pooling=PoolingType.DISABLED, normalization=False, dim=384,
    sources=ModelSource(hf=name), model_file="model.onnx",
)
list(TextEmbedding(name, specific_model_path=sys.argv[1], threads=1).embed([{TEXT!r}]))
"""
_SENTENCE_TRANSFORMERS = f"""
import sys
from sentence_transformers import SentenceTransformer
SentenceTransformer(
    sys.argv[1], backend="onnx", device="cpu", model_kwargs={{"provider": "CPUExecutionProvider"}}
).encode([{TEXT!r}])
"""
# ru_maxrss would hold what this process has, too.
_MEMORY = """
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""
OTHERS = {"fastembed": _FASTEMBED, "sentence-transformers": _SENTENCE_TRANSFORMERS}


def measure(python: str, script: str, artifact: Path, paths: str) -> dict[str, float]:
    """Return seconds, CPU seconds and megabytes of one process; raises `SystemExit` if it fails."""
    environment = {
        **os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false",
        "PYTHONPATH": paths, "HF_HUB_OFFLINE": "1",
    }  # fmt: skip
    started = time.monotonic()
    command = [python, "-W", "ignore", "-c", script + _MEMORY, str(artifact)]
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=errors)
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.monotonic() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        for stream in (output, errors):
            stream.seek(0)
        if process.returncode != 0:
            raise SystemExit(f"{script}\nended with {process.returncode}: {errors.read().decode()}")
        kilobytes = int(output.read().split(b"VmHWM:")[-1].split()[0])
    return {
        "seconds": seconds,
        "cpu_seconds": used.ru_utime + used.ru_stime,
        "megabytes": kilobytes / 1024,
    }


def race(
    artifact: Path, contestants: Mapping[str, tuple[str, str, str]], processes: int
) -> list[dict[str, Any]]:
    """Return medians of each contestant, given by its Python, script and paths of modules."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in contestants}
    for turn in range(processes + 1):
        for name, (python, script, paths) in contestants.items():
            measured = measure(python, script, artifact, paths)
            if turn:  # the first fills the cache of files
                found[name].append(measured)
    medians = {
        name: {key: statistics.median(item[key] for item in items) for key in items[0]}
        for name, items in found.items()
    }
    hand = medians[BY_HAND]
    return [
        {
            "contestant": name,
            **{key: round(value, 3) for key, value in own.items()},
            "times_cpu": round(own["cpu_seconds"] / hand["cpu_seconds"], 2),
            "times_memory": round(own["megabytes"] / hand["megabytes"], 2),
        }
        for name, own in medians.items()
    ]


def main() -> int:
    """Return 0 when the light runtime stays within 1.3 times the lines by hand, 1 otherwise."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("artifact", type=Path, help="folder with model.onnx and manifest.json")
    parser.add_argument("--with", dest="others", nargs="+", default=[], metavar="NAME=PYTHON")
    parser.add_argument("--processes", type=int, default=15, help="of each contestant")
    parser.add_argument("--json", type=Path, help="write the results to this file")
    arguments = parser.parse_args()
    artifact = arguments.artifact.resolve()
    with tempfile.TemporaryDirectory() as folder:
        stage(Path(folder))
        own = sys.executable
        contestants = {
            BY_HAND: (own, _BY_HAND, ""),
            LIGHT: (own, _PACKAGE.replace("NAME", "compressor_runtime"), folder),
            "compressor": (own, _PACKAGE.replace("NAME", "compressor"), str(ROOT)),
        }
        for item in arguments.others:
            name, _, python = item.partition("=")
            contestants[name] = (python, OTHERS[name], "")
        rows = race(artifact, contestants, arguments.processes)
    manifest = json.loads((artifact / "manifest.json").read_text(encoding="utf-8"))
    about = {
        "task": manifest["task"],
        "model_bytes": (artifact / "model.onnx").stat().st_size,
        "processes": arguments.processes,
    }
    for row in rows:
        print(json.dumps(row))
    if arguments.json is not None:
        write_results(arguments.json, rows, about=about)
    light = next(row for row in rows if row["contestant"] == LIGHT)
    return int(max(light["times_cpu"], light["times_memory"]) > MOST)


if __name__ == "__main__":
    sys.exit(main())
