#!/usr/bin/env python3
"""Open artifacts with the programs that people serve encoders with, and compare the answers.

    tools/check_doors.py ARTIFACT ... [--folder FOLDER] [--json FILE]

Each program is installed in an environment of its own under FOLDER, which can be kept; one that
cannot be had is skipped with the reason. Texts go in where a program has a tokenizer, model inputs
elsewhere, and what comes out is compared with `compressor.load_artifact` here: labels must be the
same, and numbers as far as the program computes in the kernels of this ONNX Runtime. Of
text-embeddings-inference the files that its source reads are looked at, of Triton its schema. A
program that is known not to have an operator of the graph is not asked, and the row says so.

Artifacts of sentence embeddings need `export: {token_states: true}` for the programs that pool.

Exits with 1 when a program does not open an artifact, or answers differ.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import venv
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import door_scripts as scripts
import numpy as np
from onnx import TensorProto
from results import write_results
from triton_repository import write_repository

from compressor.artifact import MODEL, Artifact, load_artifact
from compressor.errors import EnvironmentMismatch
from compressor.onnx_graph.onnx_file import load_graph

SAME = 1e-5  # of numbers from the same kernels
ALIKE = 0.97  # of the rows, for a program that rounds int8 in kernels of its own
NPM = ("@huggingface/transformers", "onnxruntime-node", "onnxruntime-web")
TEXTS = [
    "a gripping film",
    "The QUICK brown fox jumped over the lazy dog in New York.",
    "it is a long and dull story about a man who walks through Paris and London, and walks on",
    "Angela Merkel met Barack Obama in Berlin",
    "x",
    "unflinchingly bleak and desperate",
    "what a lovely day it was at the beach of San Francisco",
    "none of it works",
]
# What text-embeddings-inference reads of config.json, by any of its names.
TEI_KEYS: tuple[tuple[tuple[str, ...], type], ...] = (
    (("architectures",), list),
    (("model_type",), str),
    (("max_position_embeddings", "max_trained_positions"), int),
    (("pad_token_id", "eos_token_id"), int),  # 0 otherwise, whatever token that is
    (("hidden_size", "n_embd"), int),
    (("num_hidden_layers", "n_layer"), int),
)
TEI_MODES = ("pooling_mode_cls_token", "pooling_mode_mean_tokens", "pooling_mode_lasttoken")
TEI_INPUTS = {"input_ids", "attention_mask", "token_type_ids", "position_ids"}


class NotThere(Exception):
    """Why a program cannot be had here."""


class NotOpened(Exception):
    """What a program said that does not open an artifact."""


@dataclass(frozen=True)
class Subject:
    """An artifact, what it is asked, and what it answers here."""

    folder: Path
    artifact: Artifact
    given: dict[str, Any]  # what scripts read
    numbers: list[Any]  # of the graph, for each row
    predictions: list[Any]

    @property
    def task(self) -> str:
        """Return the task of the artifact."""
        return self.artifact.task.name


@dataclass(frozen=True)
class Door:
    """A program: how it is installed, what it runs, and which tasks it has."""

    name: str
    environment: str
    packages: tuple[str, ...]
    script: str
    tasks: tuple[str, ...]
    texts: bool = True  # it is given texts, and model inputs otherwise
    same_kernels: bool = True
    node: str | None = None  # the package of npm that runs
    lacks: tuple[str, ...] = ()  # operators that it does not run


PIPELINES = (
    "text-classification", "token-classification", "text-scoring", "sentence-embedding",
    "multi-label-classification",
)  # fmt: skip
VECTORS = ("text-scoring", "sentence-embedding")
# Of all other tasks, which read images or sounds, Triton's schema alone is looked at.
ALL = (*PIPELINES, "question-answering")
OLD = ("optimum-onnx==0.1.0", "onnxruntime", "transformers<4.58", "sentence-transformers<6")
DOORS = (
    Door("ONNX Runtime, Python", "runtime", ("RUNTIME",), scripts.ONNXRUNTIME, ALL, texts=False),
    Door("compressor-runtime", "runtime", ("RUNTIME",), scripts.RUNTIME, ALL),
    Door("onnxruntime-node", "node", (), scripts.NODE, ALL, texts=False, node=NPM[1]),
    Door(
        "onnxruntime-web", "node", (), scripts.NODE, ALL, texts=False, same_kernels=False,
        node=NPM[2],
    ),
    Door("transformers.js", "node", (), scripts.TRANSFORMERS_JS, PIPELINES, node=NPM[0]),
    Door("sentence-transformers", "optimum", OLD, scripts.SENTENCE_TRANSFORMERS, VECTORS),
    Door("ORTModel of optimum-onnx", "optimum", OLD, scripts.OPTIMUM, PIPELINES),
    Door("fastembed", "fastembed", ("fastembed",), scripts.FASTEMBED, VECTORS),
    Door(
        "OpenVINO", "openvino", ("openvino",), scripts.OPENVINO, ALL, texts=False,
        same_kernels=False, lacks=("GatherBlockQuantized",),
    ),
)  # fmt: skip


def read_subject(folder: Path) -> Subject:
    """Return an artifact with its answers, of a task on texts."""
    artifact = load_artifact(folder, threads=1)
    task = artifact.task
    if task.name not in ALL:
        return Subject(folder, artifact, {}, [], [])
    texts: list[Any] = list(TEXTS)
    if task.name == "text-scoring":
        texts = [(text, other) for text, other in zip(TEXTS, TEXTS[1:] + TEXTS[:1], strict=True)]
    elif task.name == "question-answering":
        texts = [{"question": "who walks in London?", "context": text} for text in TEXTS]
    batches = [task.encode(artifact.preprocessor, artifact.given([text])) for text in texts]
    feeds = [artifact.model.feed(batch) for batch in batches]
    numbers = [artifact.model.predict(batch) for batch in batches]
    given = {
        "texts": texts,
        "output": artifact.model.output_name,
        "width": int(numbers[0].shape[-1]),
        "feeds": [
            {
                name: {"dims": list(value.shape), "data": value.ravel().tolist()}
                for name, value in feed.items()
            }
            for feed in feeds
        ],
    }
    found = artifact(texts, aggregation="none" if task.name == "token-classification" else None)
    rows = found.tolist() if isinstance(found, np.ndarray) else found
    return Subject(
        folder,
        artifact,
        given,
        [item.ravel().tolist() for item in numbers],
        [answer(task.name, row) for row in rows],
    )


def answer(task: str, row: Any) -> Any:
    """Return what every program says of a prediction: some call it more, or order it otherwise."""
    if task == "token-classification":
        return [{key: span[key] for key in ("entity", "index", "score")} for span in row]
    if task == "text-classification":
        return {key: row[key] for key in ("label", "score")}
    if task == "multi-label-classification":
        labels = ({key: item[key] for key in ("label", "score")} for item in row)
        return sorted(labels, key=lambda item: str(item["label"]))
    return row


def differences(expected: Any, found: Any) -> Iterator[float]:
    """Yield how far numbers at the same places are apart; infinity where anything else differs."""
    if isinstance(expected, dict) and isinstance(found, dict) and expected.keys() <= found.keys():
        for key, value in expected.items():
            yield from differences(value, found[key])
    elif isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        for own, other in zip(expected, found, strict=True):
            yield from differences(own, other)
    elif isinstance(expected, float) and isinstance(found, int | float):
        yield abs(expected - found)
    else:
        yield 0.0 if expected == found else math.inf


def is_alike(task: str, width: int, expected: list[float], found: list[float]) -> bool:
    """Return whether two rows of numbers say the same.

    Logits do where the largest of each place is the same one, those of several labels where the
    same ones are above 0, those of answers where they begin and end alike, the one logit of a score
    where it moves by a tenth at most, and vectors where their cosine is at least 0.99: rounded to
    int8 in two ways they are about as far apart as either is from float.
    """
    first, second = (np.reshape(row, (-1, width)) for row in (expected, found))
    if task == "sentence-embedding":
        lengths = np.linalg.norm(first) * np.linalg.norm(second)
        return float((first * second).sum() / lengths) >= 0.99
    if width == 1:
        return bool(np.abs(first - second).max() <= 0.1)
    if task == "multi-label-classification":
        return np.array_equal(first > 0, second > 0)
    axis = 0 if task == "question-answering" else -1  # where the best answer begins and ends
    return np.array_equal(first.argmax(axis=axis), second.argmax(axis=axis))


def compare(subject: Subject, door: Door, rows: list[Any]) -> dict[str, Any]:
    """Return how many rows are answered alike, and how far numbers differ at most."""
    expected = subject.predictions if door.texts else subject.numbers
    if len(rows) != len(expected):
        raise NotOpened(f"gives {len(rows)} rows for {len(expected)}")
    width = subject.given["width"]
    alike, largest = [], 0.0
    for own, given in zip(expected, rows, strict=True):
        other = answer(subject.task, given) if door.texts else given
        most = max(differences(own, other), default=0.0)
        same = math.isfinite(most)
        if same and not door.texts:
            same = is_alike(subject.task, width, own, other)
        alike.append(same)
        largest = max(largest, most if math.isfinite(most) else 0.0)
    return {"alike": float(np.mean(alike)), "largest": largest}


def install(door: Door, folder: Path) -> Path:
    """Return the folder of a program's environment, made where it is not there.

    Raises `NotThere` where the packages cannot be had.
    """
    place = folder / door.environment
    if place.is_dir():
        return place
    if door.environment == "node":
        place.mkdir()
        (place / "package.json").write_text("{}", encoding="utf-8")
        # Without scripts: that of onnxruntime-node fetches CUDA libraries.
        command = ["npm", "install", "--silent", "--ignore-scripts", *NPM]
    else:
        venv.create(place, with_pip=False)
        packages = [wheel(folder) if name == "RUNTIME" else name for name in door.packages]
        python = str(place / "bin" / "python")
        command = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", *packages]
    try:
        subprocess.run(command, cwd=place, check=True, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise NotThere(f"{command[0]} is not installed") from error
    except subprocess.CalledProcessError as error:
        raise NotThere((error.stderr.strip().splitlines() or ["failed"])[-1][:200]) from error
    return place


def wheel(folder: Path) -> str:
    """Return the wheel of the light runtime, built where it is not there."""
    place = folder / "wheels"
    if not (found := sorted(place.glob("*.whl"))):
        build = [sys.executable, str(Path(__file__).with_name("build_runtime.py"))]
        subprocess.run([*build, "--outdir", str(place)], check=True, capture_output=True)
        found = sorted(place.glob("*.whl"))
    return str(found[-1])


def ask(
    subject: Subject, door: Door, place: Path, scratch: Path, **more: Any
) -> tuple[str, list[Any]]:
    """Return the version of a program and what it gives; raises `NotOpened` where it fails."""
    given, written = scratch / "given.json", scratch / "written.json"
    given.write_text(json.dumps({**subject.given, **more}), encoding="utf-8")
    written.unlink(missing_ok=True)
    if door.node is not None:
        script = place / "script.mjs"
        script.write_text(door.script, encoding="utf-8")
        own = [door.node] if door.script == scripts.NODE else []
        command = ["node", str(script), *own]
    else:
        command = [str(place / "bin" / "python"), "-W", "ignore", "-c", door.script]
    command += [str(subject.folder), subject.task, str(given), str(written)]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
    if not written.is_file():
        raise NotOpened(f"ended with {done.returncode}: {done.stderr.strip()[-600:]}")
    found = json.loads(written.read_text(encoding="utf-8"))
    version = found.get("version")
    if door.node is not None:
        about = place / "node_modules" / door.node / "package.json"
        version = json.loads(about.read_text(encoding="utf-8"))["version"]
    return str(version), found["rows"]


def check(subject: Subject, door: Door, folder: Path, scratch: Path) -> dict[str, Any]:
    """Return the row of the table for one program and artifact."""
    row: dict[str, Any] = {"door": door.name, "task": subject.task}
    graph = load_graph(subject.folder / MODEL, weights=False).graph
    if missing := sorted({node.op_type for node in graph.node} & set(door.lacks)):
        return {**row, "lacks": missing}
    try:
        place = install(door, folder)
        version, rows = ask(subject, door, place, scratch)
        found = compare(subject, door, rows)
    except NotThere as why:
        return {**row, "skipped": str(why)}
    except NotOpened as why:
        return {**row, "opens": False, "why": str(why)}
    limit = SAME if door.same_kernels else math.inf
    opens = found["largest"] <= limit and found["alike"] >= (1.0 if door.same_kernels else ALIKE)
    return {**row, "version": version, **found, "opens": opens}


def check_triton(subject: Subject, folder: Path, scratch: Path) -> dict[str, Any]:
    """Return the row of Triton, whose schema reads what would be its repository."""
    door = Door("Triton (schema)", "triton", ("tritonclient[grpc]",), scripts.TRITON, ALL)
    row: dict[str, Any] = {"door": door.name, "task": subject.task}
    try:
        place = install(door, folder)
        config = write_repository(subject.folder, scratch / "repository", name="model")
        version, [inputs, outputs] = ask(subject, door, place, scratch, config=str(config))
    except NotThere as why:
        return {**row, "skipped": str(why)}
    except (EnvironmentMismatch, NotOpened) as why:
        return {**row, "opens": False, "why": str(why)}
    session = subject.artifact.model.session
    opens = inputs == [item.name for item in session.get_inputs()]
    opens &= outputs == [item.name for item in session.get_outputs()]
    return {**row, "version": version, "opens": opens}


def check_tei(subject: Subject) -> dict[str, Any]:
    """Return the row of text-embeddings-inference, from the files that its source reads."""
    missing = tei_misses(subject.folder, is_encoder=subject.task == "sentence-embedding")
    return {
        "door": "text-embeddings-inference (files)",
        "task": subject.task,
        "opens": not missing,
        **({"missing": missing} if missing else {}),
    }


def tei_misses(folder: Path, *, is_encoder: bool) -> list[str]:
    """Return what text-embeddings-inference would not find in an artifact, in its own order.

    Ref: its `router/src/lib.rs` and `backends/ort/src/lib.rs` at commit 0d124dc of July 2026. It
    reads `architectures` to tell a classifier from an encoder, of an encoder one mode of
    `1_Pooling` and `max_seq_length`, of a classifier `id2label` and `label2id`. The graph gets
    tokens as int64 and gives `sentence_embedding`, which is not pooled again, or `logits`, float32.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    missing = [
        f"config.json: {' or '.join(names)}"
        for names, kind in TEI_KEYS
        if not any(isinstance(config.get(name), kind) for name in names)
    ]
    if is_encoder == any(name.endswith("Classification") for name in config["architectures"]):
        missing.append("config.json: architectures")
    if not (folder / "tokenizer.json").is_file():
        missing.append("tokenizer.json")
    if is_encoder:
        pooling = json.loads((folder / "1_Pooling" / "config.json").read_text(encoding="utf-8"))
        modes = [key for key, value in pooling.items() if value is True]
        if len(modes) != 1 or modes[0] not in TEI_MODES:
            missing.append("1_Pooling/config.json: one of its modes")
        length = json.loads((folder / "sentence_bert_config.json").read_text(encoding="utf-8"))
        if not isinstance(length.get("max_seq_length"), int):
            missing.append("sentence_bert_config.json: max_seq_length")
    else:
        same = {str(number): label for label, number in config.get("label2id", {}).items()}
        if not same or config.get("id2label") != same:
            missing.append("config.json: id2label and label2id")
    graph = load_graph(folder / MODEL, weights=False).graph
    weights = {tensor.name for tensor in graph.initializer}
    inputs = {value.name: value.type.tensor_type.elem_type for value in graph.input}
    others = {name for name in inputs if name not in weights} - TEI_INPUTS
    if others or {kind for name, kind in inputs.items() if name in TEI_INPUTS} != {
        TensorProto.INT64
    }:
        missing.append("model.onnx: inputs")
    output = "sentence_embedding" if is_encoder else "logits"
    outputs = {value.name: value.type.tensor_type.elem_type for value in graph.output}
    if outputs.get(output) != TensorProto.FLOAT:
        missing.append(f"model.onnx: {output} in float32")
    return missing


def all_rows(subject: Subject, folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the row of each program that has the artifact's task."""
    run: list[Callable[[Path], dict[str, Any]]] = [
        lambda scratch, door=door: check(subject, door, folder, scratch)  # type: ignore[misc]
        for door in DOORS
        if subject.task in door.tasks
    ]
    run.append(lambda scratch: check_triton(subject, folder, scratch))
    if subject.task in ("text-classification", *VECTORS):
        run.append(lambda _: check_tei(subject))
    for one in run:
        with tempfile.TemporaryDirectory() as scratch:
            row = one(Path(scratch))
        print(json.dumps(row), flush=True)
        yield row


def main() -> int:
    """Return 0 when every program that could be had opens every artifact, 1 otherwise."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("artifacts", type=Path, nargs="+", help="folders with manifest.json")
    parser.add_argument("--folder", type=Path, help="where the programs are kept (4 GB)")
    parser.add_argument("--json", type=Path, help="write the results to this file")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as own:
        folder = (arguments.folder or Path(own)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        for artifact in arguments.artifacts:
            rows += all_rows(read_subject(artifact.resolve()), folder)
    if arguments.json is not None:
        write_results(arguments.json, rows, about={"rows": len(TEXTS), "same": SAME})
    return int(not all(row.get("opens", True) for row in rows))


if __name__ == "__main__":
    sys.exit(main())
