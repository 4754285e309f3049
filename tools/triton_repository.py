#!/usr/bin/env python3
"""Make a model repository for NVIDIA's Triton server of an artifact.

    tools/triton_repository.py ARTIFACT --output REPOSITORY [--name NAME] [--gpu] [--instances N]

Writes `REPOSITORY/NAME/config.pbtxt` and `REPOSITORY/NAME/1/model.onnx`, for Triton's backend
`onnxruntime`, with dynamic batching. Triton joins requests along the first axis, so a client pads
the texts of a request itself, and requests whose texts have another length are not joined. Texts
become tokens at the client: `tokenizer.json` lies in the artifact.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

import onnx
from onnx import TensorProto

from compressor.artifact import MODEL, read_manifest
from compressor.onnx_graph.onnx_file import load_graph

_TYPES = {
    TensorProto.FLOAT: "TYPE_FP32",
    TensorProto.FLOAT16: "TYPE_FP16",
    TensorProto.INT8: "TYPE_INT8",
    TensorProto.INT64: "TYPE_INT64",
    TensorProto.UINT8: "TYPE_UINT8",
}
BATCHES = (8, 32)  # what dynamic batching waits for, for at most so long
DELAY_MICROSECONDS = 2000
LARGEST_BATCH = 64


def config_of(graph: onnx.GraphProto, *, name: str, gpu: bool, instances: int) -> str:
    """Return the content of `config.pbtxt`."""
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    kind = "KIND_GPU" if gpu else "KIND_CPU"
    return f"""\
name: "{name}"
backend: "onnxruntime"
max_batch_size: {LARGEST_BATCH}
input [{_tensors(inputs)}]
output [{_tensors(graph.output)}]
dynamic_batching {{
  preferred_batch_size: [{", ".join(map(str, BATCHES))}]
  max_queue_delay_microseconds: {DELAY_MICROSECONDS}
}}
instance_group [{{ count: {instances}, kind: {kind} }}]
parameters {{ key: "intra_op_thread_count" value {{ string_value: "1" }} }}
"""


def _tensors(values: object) -> str:
    shown = []
    for value in values:  # type: ignore[attr-defined] # repeated fields of protobuf have no type
        tensor = value.type.tensor_type
        sizes = [dim.dim_value if dim.HasField("dim_value") else -1 for dim in tensor.shape.dim]
        shown.append(
            f'\n  {{ name: "{value.name}", data_type: {_TYPES[tensor.elem_type]}, '
            f"dims: {sizes[1:]} }}"  # the batch is Triton's own
        )
    return ",".join(shown) + "\n"


def write_repository(
    artifact: Path, repository: Path, *, name: str, gpu: bool = False, instances: int = 1
) -> Path:
    """Write the repository, and return `config.pbtxt`."""
    read_manifest(artifact)
    folder = repository / name
    (folder / "1").mkdir(parents=True, exist_ok=True)
    for file in (MODEL, f"{MODEL}.data"):
        if (artifact / file).is_file():
            shutil.copyfile(artifact / file, folder / "1" / file)
    graph = load_graph(artifact / MODEL, weights=False).graph
    config = folder / "config.pbtxt"
    text = config_of(graph, name=name, gpu=gpu, instances=instances)
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
    print(
        write_repository(
            arguments.artifact,
            arguments.output,
            name=arguments.name,
            gpu=arguments.gpu,
            instances=arguments.instances,
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
