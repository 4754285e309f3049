#!/usr/bin/env python3
"""Run the artifact of a text model in runtimes other than Python's ONNX Runtime.

    tools/check_other_runtimes.py ARTIFACT --texts FILE [--folder FOLDER] [--json FILE]

onnxruntime-node, onnxruntime-web (WebAssembly, one thread) and OpenVINO get the inputs that the
artifact's own tokenizer gives; transformers.js gets the texts themselves and a copy of `model.onnx`
as `onnx/model_quantized.onnx`. The answers are compared with those of the ONNX Runtime that is
installed here: how many rows are answered alike, and by how much outputs differ at most. FILE holds
a text on each line. npm and pip fetch the runtimes into FOLDER, which can be kept.

Exits with 1 when a runtime does not run the artifact, or answers less than 97% of the rows alike.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import venv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from results import write_results

from compressor.artifact import MODEL, Artifact, load_artifact

ROWS = 64
BATCH = 8
ALIKE = 0.97  # of the rows; each runtime rounds in kernels of its own
PACKAGES = ("onnxruntime-node", "onnxruntime-web", "@huggingface/transformers")

_NODE = """
import fs from 'fs';
const [name, model, feeds, results] = process.argv.slice(2);
const ort = await import(name);
const isWeb = name.endsWith('web');
if (isWeb) ort.env.wasm.numThreads = 1;
const session = await ort.InferenceSession.create(
  isWeb ? new Uint8Array(fs.readFileSync(model)) : model,
  { executionProviders: [isWeb ? 'wasm' : 'cpu'] },
);
const outputs = [];
for (const batch of JSON.parse(fs.readFileSync(feeds))) {
  const feed = {};
  for (const [key, { dims, data }] of Object.entries(batch))
    feed[key] = new ort.Tensor('int64', BigInt64Array.from(data.map(BigInt)), dims);
  const found = await session.run(feed);
  outputs.push(Array.from(found[session.outputNames[0]].data));
}
fs.writeFileSync(results, JSON.stringify(outputs));
"""

_TRANSFORMERS = """
import fs from 'fs';
import { env, pipeline } from '@huggingface/transformers';
const [models, task, texts, results] = process.argv.slice(2);
env.localModelPath = models;
env.allowRemoteModels = false;
const run = await pipeline(task, 'artifact', { dtype: 'q8' });
const found = [];
for (const text of JSON.parse(fs.readFileSync(texts))) found.push((await run(text))[0].label);
fs.writeFileSync(results, JSON.stringify(found));
"""

_OPENVINO = """
import json, sys
import numpy, openvino
model, feeds, results = sys.argv[1:]
# Otherwise a CPU with AMX or AVX-512 BF16 computes in bfloat16.
compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
outputs = []
for batch in json.load(open(feeds)):
    feed = {k: numpy.array(v["data"], numpy.int64).reshape(v["dims"]) for k, v in batch.items()}
    outputs.append(compiled(feed)[0].ravel().tolist())
json.dump(outputs, open(results, "w"))
"""


@dataclass(frozen=True)
class Subject:
    """An artifact, the texts it is asked about, and what it answers here."""

    folder: Path
    artifact: Artifact
    texts: list[str]
    outputs: NDArray[np.float32]

    @property
    def feeds(self) -> list[dict[str, Any]]:
        """Return the inputs of each batch, ready for JSON."""
        return [
            {
                name: {"dims": list(value.shape), "data": value.ravel().tolist()}
                for name, value in self._inputs(start).items()
            }
            for start in range(0, len(self.texts), BATCH)
        ]

    def _inputs(self, start: int) -> dict[str, NDArray[Any]]:
        chunk = self.texts[start : start + BATCH]
        return self.artifact.model.feed(
            self.artifact.task.encode(self.artifact.preprocessor, chunk)
        )


def read_subject(folder: Path, texts: Path) -> Subject:
    """Return an artifact with the first texts of a file and its answers to them."""
    artifact = load_artifact(folder, threads=1)
    lines = [line.strip() for line in texts.read_text(encoding="utf-8").splitlines()]
    chosen = [line for line in lines if line][:ROWS]
    if not chosen:
        raise SystemExit(f"{texts}: holds no text; give a file with one on each line")
    batches = [chosen[start : start + BATCH] for start in range(0, len(chosen), BATCH)]
    found = [
        artifact.model.predict(artifact.task.encode(artifact.preprocessor, batch))
        for batch in batches
    ]
    return Subject(folder, artifact, chosen, np.concatenate(found))


def compare(expected: NDArray[np.float32], found: list[list[float]]) -> tuple[float, float]:
    """Return the share of rows answered alike and the largest difference of an output.

    Rows of one or two outputs and of class logits are alike where the largest output is the same
    one, vectors where their cosine is at least 0.999.
    """
    flat = np.concatenate([np.asarray(batch, np.float32) for batch in found])
    outputs = flat.reshape(expected.shape)
    if is_vector(expected):
        alike = (expected * outputs).sum(axis=1) >= 0.999
    else:
        alike = expected.argmax(axis=1) == outputs.argmax(axis=1)
    return float(alike.mean()), float(np.abs(expected - outputs).max())


def is_vector(outputs: NDArray[np.float32]) -> bool:
    """Return whether outputs are unit vectors, as sentence encoders give."""
    return bool(np.allclose(np.linalg.norm(outputs, axis=1), 1, atol=1e-3))


def run_all(subject: Subject, folder: Path) -> list[dict[str, Any]]:
    """Return a row for each runtime, in `folder` with what it needs."""
    install(folder)
    (folder / "feeds.json").write_text(json.dumps(subject.feeds), encoding="utf-8")
    (folder / "node.mjs").write_text(_NODE, encoding="utf-8")
    (folder / "openvino_run.py").write_text(_OPENVINO, encoding="utf-8")
    model, feeds = str((subject.folder / MODEL).absolute()), "feeds.json"
    rows = []
    for name in PACKAGES[:2]:
        found = answers(["node", "node.mjs", name, model, feeds, "out.json"], folder)
        rows.append(row(name, node_version(name, folder), *compare(subject.outputs, found)))
    python = str(folder / "openvino" / "bin" / "python")
    found = answers([python, "openvino_run.py", model, feeds, "out.json"], folder)
    version = subprocess.run(
        [python, "-c", "import openvino; print(openvino.__version__)"],
        capture_output=True, text=True, check=True,
    ).stdout.split("-")[0].strip()  # fmt: skip
    rows.append(row("OpenVINO", version, *compare(subject.outputs, found)))
    if not is_vector(subject.outputs):
        rows.append(run_transformers_js(subject, folder))
    return rows


def run_transformers_js(subject: Subject, folder: Path) -> dict[str, Any]:
    """Return the row of transformers.js, which reads texts."""
    place = folder / "models" / "artifact"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(subject.folder, place)
    (place / "onnx").mkdir()
    (place / MODEL).rename(place / "onnx" / "model_quantized.onnx")
    (folder / "transformers.mjs").write_text(_TRANSFORMERS, encoding="utf-8")
    (folder / "texts.json").write_text(json.dumps(subject.texts), encoding="utf-8")
    command = ["node", "transformers.mjs", "./models/", "text-classification", "texts.json"]
    found = answers([*command, "out.json"], folder)
    expected = [answer["label"] for answer in subject.artifact(subject.texts)]
    alike = sum(a == b for a, b in zip(expected, found, strict=True)) / len(expected)
    name = PACKAGES[2]
    return row("transformers.js", node_version(name, folder), alike, None)


def row(name: str, version: str, alike: float, largest: float | None) -> dict[str, Any]:
    """Return a line of the table, and print it."""
    shown = "" if largest is None else f", outputs differ by {largest:.1e} at most"
    print(f"{name} {version}: {alike:.1%} of the rows alike{shown}")
    return {"runtime": name, "version": version, "alike": alike, "largest": largest}


def install(folder: Path) -> None:
    """Fetch the runtimes where they are not there yet."""
    if not (folder / "node_modules").is_dir():
        (folder / "package.json").write_text("{}", encoding="utf-8")
        subprocess.run(["npm", "install", "--silent", *PACKAGES], cwd=folder, check=True)
    python = folder / "openvino" / "bin" / "python"
    if not python.is_file():
        venv.create(folder / "openvino", with_pip=False)
        pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
        subprocess.run([*pip, "openvino"], check=True)


def node_version(package: str, folder: Path) -> str:
    """Return the version of a package that npm installed."""
    description = folder / "node_modules" / package / "package.json"
    return str(json.loads(description.read_text(encoding="utf-8"))["version"])


def answers(command: list[str], folder: Path) -> Any:
    """Return what a command wrote to the file that it was given last."""
    results = folder / command[-1]
    results.unlink(missing_ok=True)
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if not results.is_file():
        raise SystemExit(f"{' '.join(command[:3])} ended with {done.returncode}: {done.stderr}")
    return json.loads(results.read_text(encoding="utf-8"))


def main() -> int:
    """Return 0 when every runtime runs the artifact and answers alike, 1 otherwise."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("artifact", type=Path, help="folder with model.onnx and manifest.json")
    parser.add_argument("--texts", type=Path, required=True, help="a text on each line")
    parser.add_argument("--folder", type=Path, help="where the runtimes are kept (2 GB)")
    parser.add_argument("--json", type=Path, help="write the results to this file")
    arguments = parser.parse_args()
    subject = read_subject(arguments.artifact, arguments.texts)
    with tempfile.TemporaryDirectory() as scratch:
        folder = (arguments.folder or Path(scratch)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        rows = run_all(subject, folder)
    if arguments.json is not None:
        about = {
            "rows": len(subject.texts),
            "min_onnxruntime": subject.artifact.manifest.get("min_onnxruntime"),
        }
        write_results(arguments.json, rows, about=about)
    return 1 if any(line["alike"] < ALIKE for line in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
