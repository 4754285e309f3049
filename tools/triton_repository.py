#!/usr/bin/env python3
"""Make a model repository for NVIDIA's Triton server of an artifact.

    tools/triton_repository.py ARTIFACT --output REPOSITORY [--name NAME] [--gpu] [--instances N]

Writes `REPOSITORY/NAME/config.pbtxt` and `REPOSITORY/NAME/1/model.onnx`, for Triton's backend
`onnxruntime`, for every task: texts, images and sounds. Triton joins requests along the first axis,
so a client pads the texts of a request itself, and requests whose texts have another length are not
joined; a graph whose numbers would depend on what is joined is not batched. Texts become tokens at
the client: `tokenizer.json` lies in the artifact. Artifacts for OpenVINO and TensorRT are refused:
Triton would compute them otherwise than they were judged.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

import onnx
from onnx import TensorProto

from compressor.artifact import MODEL, read_manifest, verify_artifact
from compressor.errors import EnvironmentMismatch
from compressor.onnx_graph.onnx_file import load_graph

_TYPES: dict[int, str] = {
    TensorProto.FLOAT: "TYPE_FP32",
    TensorProto.FLOAT16: "TYPE_FP16",
    TensorProto.INT8: "TYPE_INT8",
    TensorProto.INT32: "TYPE_INT32",
    TensorProto.INT64: "TYPE_INT64",
    TensorProto.UINT8: "TYPE_UINT8",
}
BATCHES = (8, 32)  # what dynamic batching waits for, for at most so long
DELAY_MICROSECONDS = 2000
LARGEST_BATCH = 64
# What finds one scale for the activations of all examples of a batch, which then share it.
JOINS_EXAMPLES = ("DynamicQuantizeLinear", "DynamicQuantizeMatMul")


def config_of(graph: onnx.GraphProto, *, name: str, gpu: bool, instances: int) -> str:
    """Return the content of `config.pbtxt`.

    Raises `EnvironmentMismatch` for a graph that Triton does not batch.
    """
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    kind = "KIND_GPU" if gpu else "KIND_CPU"
    return f"""\
name: "{name}"
backend: "onnxruntime"
max_batch_size: {LARGEST_BATCH}
input [{_tensors(inputs)}]
output [{_tensors(graph.output)}]
{_batching(graph)}instance_group [{{ count: {instances}, kind: {kind} }}]
parameters {{ key: "intra_op_thread_count" value {{ string_value: "1" }} }}
"""


def _batching(graph: onnx.GraphProto) -> str:
    if any(node.op_type in JOINS_EXAMPLES for node in graph.node):
        return ""
    return f"""\
dynamic_batching {{
  preferred_batch_size: [{", ".join(map(str, BATCHES))}]
  max_queue_delay_microseconds: {DELAY_MICROSECONDS}
}}
"""


def _tensors(values: Iterable[onnx.ValueInfoProto]) -> str:
    shown = []
    for value in values:
        tensor = value.type.tensor_type
        sizes = [dim.dim_value if dim.HasField("dim_value") else -1 for dim in tensor.shape.dim]
        if tensor.elem_type not in _TYPES or len(sizes) < 2 or sizes[0] != -1:
            raise EnvironmentMismatch(
                f"{value.name}: Triton batches values whose first axis is free and that have "
                f"another one, of the types {', '.join(_TYPES.values())}; this one has the shape "
                f"{sizes} (-1 is free) and type {TensorProto.DataType.Name(tensor.elem_type)}"
            )
        shown.append(
            f'\n  {{ name: "{value.name}", data_type: {_TYPES[tensor.elem_type]}, '
            f"dims: {sizes[1:]} }}"  # the batch is Triton's own
        )
    return ",".join(shown) + "\n"


def _require_provider(artifact: Path, made_for: str, *, gpu: bool) -> None:
    """Raise `EnvironmentMismatch` where Triton would not compute as the artifact was judged."""
    fits = {"cpu": not gpu, "cuda": gpu}
    if fits.get(made_for, False):
        return
    what = {
        "cpu": "leave --gpu out, or make it again with export: {provider: cuda}",
        "cuda": "add --gpu, or make it again with export: {provider: cpu}",
    }.get(made_for, "make it again with export: {provider: cpu} or {provider: cuda}")
    raise EnvironmentMismatch(
        f"{artifact}: was made and judged for {made_for}, and Triton's backend onnxruntime would "
        f"compute it otherwise on the {'GPU' if gpu else 'CPU'}; {what}"
    )


def write_repository(
    artifact: Path, repository: Path, *, name: str, gpu: bool = False, instances: int = 1
) -> Path:
    """Write the repository, and return `config.pbtxt`.

    Raises `EnvironmentMismatch` where the artifact is damaged or not for Triton.
    """
    manifest = read_manifest(artifact)
    verify_artifact(artifact, manifest)
    _require_provider(artifact, manifest.get("provider", "cpu"), gpu=gpu)
    graph = load_graph(artifact / MODEL, weights=False).graph
    text = config_of(graph, name=name, gpu=gpu, instances=instances)
    folder = repository / name
    (folder / "1").mkdir(parents=True, exist_ok=True)
    for file in (MODEL, f"{MODEL}.data"):
        if (artifact / file).is_file():
            shutil.copyfile(artifact / file, folder / "1" / file)
    config = folder / "config.pbtxt"
    config.write_text(text, encoding="utf-8")
    return config


def main() -> int:
    """Write a repository and say where."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("artifact", type=Path, help="folder with model.onnx and manifest.json")
    parser.add_argument("--output", type=Path, required=True, help="the model repository")
    parser.add_argument("--name", default="model", help="what clients call it")
    parser.add_argument("--gpu", action="store_true", help="instances on the GPU, not the CPU")
    parser.add_argument("--instances", type=int, default=1, help="that run side by side")
    arguments = parser.parse_args()
    try:
        config = write_repository(
            arguments.artifact,
            arguments.output,
            name=arguments.name,
            gpu=arguments.gpu,
            instances=arguments.instances,
        )
    except EnvironmentMismatch as error:
        raise SystemExit(str(error)) from error
    print(config)
    return 0


if __name__ == "__main__":
    sys.exit(main())
