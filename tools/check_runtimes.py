#!/usr/bin/env python3
"""Run artifacts in old and new releases of ONNX Runtime, each in an environment of its own.

    tools/check_runtimes.py ARTIFACT [...] [--environments FOLDER] [--releases 1.18.1,1.24.1]
    tools/check_runtimes.py --tables [--environments FOLDER]

For each artifact: the oldest release that its manifest names has to load the model and give what
the release installed here gives, and so has the newest; and halving the list of releases finds the
oldest one that loads it, which is told beside. `--tables` does that with tiny graphs for every
operator set and version of the format in `compressor.models.runtime_versions`, and fails where a
table says something else.

Environments are made with venv and pip, with NumPy and ONNX Runtime alone, and kept in
`--environments`. Exits with 1 when an artifact does not run where its manifest says it does.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import venv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper

from compressor.artifact import MODEL, Artifact, load_artifact
from compressor.models.runtime_releases import OLDEST, OPSETS, Version, parse_version
from compressor.models.runtime_versions import IR_VERSIONS, MIN_RUNTIME, oldest_runtime
from compressor.tasks import Batch

RELEASES = (
    "1.15.0", "1.15.1", "1.16.0", "1.16.3", "1.17.0", "1.17.3", "1.18.0", "1.18.1", "1.19.0",
    "1.19.2", "1.20.0", "1.20.1", "1.21.0", "1.21.1", "1.22.0", "1.22.1", "1.23.0", "1.23.2",
    "1.24.1", "1.24.4", "1.25.0", "1.25.1", "1.26.0", "1.27.0", "1.28.0", "1.29.0", "1.30.0",
    "1.31.0", "1.31.1", "1.32.0",
)  # fmt: skip
# Releases before this one were built for NumPy 1.
NUMPY_2: Version = (1, 19, 0)
LENGTHS = ((6,), (3, 12), (30, 2, 7, 9), *((16,) * 8,) * 4)  # tokens of the rows of each batch
# Kernels differ between releases in the last bits, and where int8 rounds, one bit moves a number
# by a whole step: most rows stay where they are, and those that move stay near.
TOLERANCE = 2e-3  # of the median row
LARGEST = 0.15  # of any row

_WORKER = """
import json, sys
import numpy, onnxruntime
model, feeds, results = sys.argv[1:]
options = onnxruntime.SessionOptions()
options.log_severity_level = 4
options.intra_op_num_threads = 1
told = {"version": onnxruntime.__version__, "error": None, "outputs": []}
try:
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    stored = numpy.load(feeds)
    for batch in range(int(stored["batches"])):
        feed = {item.name: stored[f"{batch}/{item.name}"] for item in session.get_inputs()}
        told["outputs"].append(session.run(None, feed)[0].tolist())
except Exception as error:
    told["error"] = " ".join(str(error).split())[-200:]
with open(results, "w") as stream:
    json.dump(told, stream)
"""


@dataclass(frozen=True)
class Environments:
    """A folder of environments, one for each release, made when it is asked for."""

    folder: Path

    def python(self, release: str) -> Path:
        """Return the interpreter of a release; pip fetches the release the first time."""
        place = self.folder / release
        python = place / "bin" / "python"
        done = place / "done"
        if not done.is_file():
            venv.create(place, clear=True)
            numpy = "numpy<2" if _version(release) < NUMPY_2 else "numpy>=2"
            pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
            more = ["--no-deps", "--only-binary", ":all:", f"onnxruntime=={release}", numpy]
            subprocess.run([*pip, *more], check=True)
            done.touch()
        return python

    def answers(self, release: str, model: Path, feeds: Path) -> Answers:
        """Return what a release gives for every batch, or why it gives nothing."""
        with tempfile.TemporaryDirectory() as scratch:
            results = Path(scratch) / "results.json"
            command = [str(self.python(release)), "-I", "-c", _WORKER]
            done = subprocess.run(
                [*command, str(model), str(feeds), str(results)],
                capture_output=True,
                text=True,
                check=False,
            )
            if not results.is_file():
                return Answers(f"ended with {done.returncode}: {done.stderr[-200:]}", ())
            told = json.loads(results.read_text(encoding="utf-8"))
        if told["error"] is None and told["version"] != release:
            return Answers(f"the environment holds {told['version']}, not {release}", ())
        outputs = tuple(np.asarray(item, dtype=np.float32) for item in told["outputs"])
        return Answers(told["error"], outputs)


@dataclass(frozen=True)
class Answers:
    """The outputs of every batch, or the error in place of them."""

    error: str | None
    outputs: tuple[NDArray[np.float32], ...]


def oldest_that(works: Callable[[str], bool], releases: Sequence[str]) -> str | None:
    """Return the first release that works, by halving: those after one that works do too.

    >>> oldest_that(lambda release: release >= "c", "abcdef")
    'c'
    >>> oldest_that(lambda release: False, "abc") is None
    True
    """
    low, high = 0, len(releases)
    while low < high:
        middle = (low + high) // 2
        if works(releases[middle]):
            high = middle
        else:
            low = middle + 1
    return releases[low] if low < len(releases) else None


def check_artifact(folder: Path, environments: Environments, releases: Sequence[str]) -> list[str]:
    """Return what is wrong with an artifact in its oldest and newest release; print a line."""
    artifact = load_artifact(folder, threads=1)
    named = str(artifact.manifest.get(MIN_RUNTIME) or oldest_runtime(folder / MODEL))
    with tempfile.TemporaryDirectory() as scratch:
        feeds = Path(scratch) / "feeds.npz"
        expected = _feeds(artifact, feeds)

        def given(release: str) -> Answers:
            return environments.answers(release, folder / MODEL, feeds)

        found = oldest_that(lambda release: given(release).error is None, releases)
        wrong = []
        differences = {}
        for release in dict.fromkeys((named, releases[-1])):
            answers = given(release)
            if answers.error is not None:
                wrong.append(f"{folder}: onnxruntime {release} does not run it ({answers.error})")
                continue
            median, largest = _differences(expected, answers.outputs)
            differences[release] = f"{median:.1e} (at most {largest:.1e}) in {release}"
            if not (median <= TOLERANCE and largest <= LARGEST):
                wrong.append(
                    f"{folder}: onnxruntime {release} gives other outputs (the median row by "
                    f"{median:.2g}, one by {largest:.2g})"
                )
    shown = ", ".join(differences.values())
    print(f"{folder}: named {named}, oldest that runs it {found}; differences {shown or 'none'}")
    return wrong


def _feeds(artifact: Artifact, path: Path) -> list[NDArray[np.float32]]:
    """Write the inputs of a few batches, and return what the release here gives for them."""
    stored: dict[str, Any] = {"batches": len(LENGTHS)}
    expected = []
    for number, lengths in enumerate(LENGTHS):
        examples = [artifact.task.dummy_example(length) for length in lengths]
        batch = _with_random_tokens(
            artifact.task.encode(artifact.preprocessor, examples), artifact, number
        )
        expected.append(artifact.model.predict(batch))
        stored |= {f"{number}/{name}": value for name, value in artifact.model.feed(batch).items()}
    np.savez(path, **stored)
    return expected


def _with_random_tokens(batch: Batch, artifact: Artifact, seed: int) -> Batch:
    """Return a batch of texts with other tokens between the first and the last of each row.

    An example that is one word again and again moves all its tokens at once where one rounds.
    """
    if "input_ids" not in batch:
        return batch
    ids, mask = batch["input_ids"].copy(), batch["attention_mask"]
    random = np.random.default_rng(seed)
    inside = mask.astype(bool) & (np.cumsum(mask, axis=1) > 1)
    inside &= np.cumsum(mask[:, ::-1], axis=1)[:, ::-1] > 1
    known = len(artifact.preprocessor)
    ids[inside] = random.integers(known // 10, known, inside.sum())  # special tokens come first
    return {**batch, "input_ids": ids}


def _differences(
    expected: Sequence[NDArray[np.float32]], found: Sequence[NDArray[np.float32]]
) -> tuple[float, float]:
    """Return the median row's difference and the largest, in units of the largest output."""
    pairs = list(zip(expected, found, strict=True))
    scale = max(1.0, *(float(np.abs(before).max()) for before, _ in pairs))
    rows = [np.abs(before - after).reshape(len(before), -1).max(axis=1) for before, after in pairs]
    moved = np.concatenate(rows) / scale
    return float(np.median(moved)), float(moved.max())


def check_tables(environments: Environments, releases: Sequence[str]) -> list[str]:
    """Return each line of the tables that releases contradict, tried with one tiny graph each."""
    wrong = []
    with tempfile.TemporaryDirectory() as scratch:
        feeds = Path(scratch) / "feeds.npz"
        rows: dict[str, Any] = {"batches": 1, "0/x": np.ones((2, 4), dtype=np.float32)}
        np.savez(feeds, **rows)
        tried = [(f"operator set {number}", number, 8, first) for number, first in OPSETS.items()]
        tried += [
            (f"IR version {number}", 17, number, first) for number, first in IR_VERSIONS.items()
        ]
        for name, opset, ir_version, first in tried:
            model = Path(scratch) / "model.onnx"
            onnx.save(tiny_graph(opset, ir_version), model)

            def runs(release: str, model: Path = model) -> bool:
                return environments.answers(release, model, feeds).error is None

            found = oldest_that(runs, releases)
            print(f"{name}: {found}, the table says {'.'.join(map(str, first))}")
            if found is None or _version(found) != first:
                wrong.append(f"{name}: the first release is {found}, the table says {first}")
    return wrong


def tiny_graph(opset: int, ir_version: int) -> onnx.ModelProto:
    """Return a graph of one operator that many operator sets changed, so that it needs a kernel."""
    graph = helper.make_graph(
        [helper.make_node("Cast", ["x"], ["logits"], to=TensorProto.FLOAT)],
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 4])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [2, 4])],
    )
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version
    )


def _version(release: str) -> Version:
    found = parse_version(release)
    if found is None:
        raise SystemExit(f"--releases: {release} is no version such as 1.24.1")
    return found


def main() -> int:
    """Return 0 when every artifact runs and answers alike where it should, 1 otherwise."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("artifacts", nargs="*", type=Path, help="folders with a manifest.json")
    parser.add_argument("--tables", action="store_true", help="check the tables of releases too")
    parser.add_argument(
        "--environments", type=Path, help="folder to keep environments in (300 MB and more)"
    )
    parser.add_argument(
        "--releases", help="search among these, with commas between; all that are known otherwise"
    )
    arguments = parser.parse_args()
    if not arguments.artifacts and not arguments.tables:
        parser.error("give an artifact, or --tables")
    chosen = arguments.releases.split(",") if arguments.releases else RELEASES
    releases = sorted((item for item in chosen if _version(item) >= OLDEST), key=_version)
    print(f"compared with onnxruntime {onnxruntime.__version__}")
    wrong = []
    with tempfile.TemporaryDirectory() as scratch:
        environments = Environments((arguments.environments or Path(scratch)).absolute())
        if arguments.tables:
            wrong += check_tables(environments, releases)
        for folder in arguments.artifacts:
            wrong += check_artifact(folder, environments, releases)
    print("\n".join(wrong) if wrong else "every one runs where it says, with the same outputs")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
