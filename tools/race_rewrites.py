"""Race the rewrites that exports for the CPU get, one after the other, on this machine.

Exports a checkpoint plain, with transformers' own fusions for the CPU, and with each rewrite of
`compressor/export/cpu_graph.py` on top of those before it; also with ONNX Runtime's
`MultiHeadAttention` in place of the standard `Attention`. Each is timed in float and as int8 (one
scale per token). The models take turns, in shuffled order, on one thread, on real texts; a speed is
the time of the plain float graph over the model's, within one round, and the table gives the median
over the rounds and in brackets the 10th and 90th percentile. `difference` is the largest between
the float logits and those of the plain graph.

The export itself measures nothing: which rewrites it makes is fixed, so that the same model gives
the same bytes on every machine. This table is what the choice rests on.

Usage: tools/race_rewrites.py CHECKPOINT --data FILE --text COLUMN [--rounds N]
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import torch
from compare_int8 import (
    BATCH_SIZE,
    OPSET,
    TIMED_BATCHES,
    TIMED_TEXTS,
    Models,
    context,
    encode,
    export_fused,
    read_texts,
    spread,
    starts,
    time_in_turns,
)
from onnx_ir.passes.common import RemoveUnusedNodesPass

from compressor.export.attention_operator import (
    raise_opset,
    remove_round_trips,
    use_attention_operator,
)
from compressor.export.constant_layers import fold_constant_layers
from compressor.export.cpu_graph import optimize_for_cpu, split_skip_normalizations
from compressor.export.padding_masks import simplify_padding_masks
from compressor.export.to_onnx import export_onnx
from compressor.export.unread_positions import drop_unread_positions
from compressor.machine.environment import describe_environment
from compressor.models.onnx_model import OnnxModel
from compressor.models.runtime_releases import EXPORTER_OPSET
from compressor.models.torch_model import TorchModel, load_checkpoint
from compressor.onnx_graph.onnx_file import load_graph, save_graph
from compressor.passes import apply_pass
from compressor.passes.quantize.settings import QuantizeDynamic
from compressor.tasks import Batch

Rewrite = Callable[[ir.Model], object]


def _attention_operator(model: ir.Model) -> None:
    raise_opset(model, OPSET)
    use_attention_operator(model)


# In the order in which `optimize_for_cpu` makes them for operator set 23 and later.
REWRITES: dict[str, Rewrite] = {
    "+ Sum and LayerNormalization": split_skip_normalizations,
    "+ emptied layers": lambda model: fold_constant_layers(model.graph),
    "+ Attention": _attention_operator,
    "+ one mask": lambda model: simplify_padding_masks(model.graph),
    "+ fewer reshapes": lambda model: remove_round_trips(model.graph),
    "+ last layer for one token": lambda model: drop_unread_positions(model.graph),
}
# Those that ONNX Runtime's own operator gets in place of `Attention`.
_OTHERS = [step for name, step in REWRITES.items() if name != "+ Attention"]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("checkpoint", type=Path, help="folder of a text classifier")
    parser.add_argument("--data", type=Path, required=True, help=".tsv (unquoted) or .csv file")
    parser.add_argument("--text", required=True, help="column of the texts")
    parser.add_argument("--rounds", type=int, default=15, help="of each timing")
    arguments = parser.parse_args()
    model = load_checkpoint(arguments.checkpoint)
    texts = sorted(read_texts(arguments.data, arguments.text), key=len)
    chunks = [texts[start : start + BATCH_SIZE] for start in starts(texts)]
    full = [chunk for chunk in chunks if len(chunk) == BATCH_SIZE]
    groups = [[[text] for text in spread(texts, TIMED_TEXTS)], spread(full, TIMED_BATCHES)]
    batches = [[encode(model, rows) for rows in group] for group in groups]
    with tempfile.TemporaryDirectory() as folder:
        floats = dict(make_models(model, Path(folder)))
        models = {**floats, **dict(quantize(floats, model, Path(folder)))}
        print_table(models, batches, arguments.rounds)
    facts = describe_environment(seed=0, device=torch.device("cpu"), threads=1)
    print(
        f"\n{arguments.rounds} rounds of {len(groups[0])} single texts and of {len(groups[1])} "
        f"batches of {BATCH_SIZE} from {arguments.data.name}; {facts['cpu']['model']}, one "
        f"thread, onnxruntime {onnxruntime.__version__}"
    )
    return 0


def make_models(model: TorchModel, folder: Path) -> Iterator[tuple[str, OnnxModel]]:
    """Yield each float graph, the plain one first."""
    yield "plain", export_onnx(model, folder / "plain.onnx", fuse=False, threads=1)
    yield "the exporter's fusions", export_fused(model, folder / "fused.onnx", opset=20)
    start = export_fused(model, folder / "start.onnx", opset=None)
    for number in range(1, len(REWRITES) + 1):
        name = list(REWRITES)[number - 1]
        yield name, rewrite(start, folder / f"{number}.onnx", list(REWRITES.values())[:number])
    yield "MultiHeadAttention", rewrite(start, folder / "fused_attention.onnx", _OTHERS)
    for opset in (EXPORTER_OPSET, OPSET):
        steps: list[Rewrite] = [partial(optimize_for_cpu, opset=opset)]
        yield f"as exported, opset {opset}", rewrite(start, folder / f"opset_{opset}.onnx", steps)


def rewrite(model: OnnxModel, path: Path, steps: list[Rewrite]) -> OnnxModel:
    program = ir.from_proto(load_graph(model.path))
    for step in steps:
        step(program)
        RemoveUnusedNodesPass()(program)
    save_graph(ir.to_proto(program), path)
    return OnnxModel(path, threads=1)


def quantize(floats: Models, model: TorchModel, folder: Path) -> Iterator[tuple[str, OnnxModel]]:
    for number, (name, graph) in enumerate(floats.items()):
        work_dir = folder / f"int8_{number}"
        yield (
            f"int8: {name}",
            apply_pass(QuantizeDynamic.model_validate({}), graph, context(model, work_dir)),
        )


def print_table(models: Models, groups: list[list[Batch]], rounds: int) -> None:
    first, *_ = models
    everything = [batch for group in groups for batch in group]
    expected = [models[first].predict(batch) for batch in everything]
    timings = [time_in_turns(models, group, rounds) for group in groups]
    print(f"{'':36} nodes  difference   speed, batch 1         speed, batch {BATCH_SIZE}")
    for name, item in models.items():
        found = [item.predict(batch) for batch in everything]
        difference = max(float(np.abs(a - b).max()) for a, b in zip(expected, found, strict=True))
        speeds = (np.percentile(time[first] / time[name], (50, 10, 90)) for time in timings)
        print(
            f"{name:36} {len(load_graph(item.path).graph.node):5}  {difference:10.1e}   "
            + "   ".join(f"{mid:5.2f} ({low:4.2f} - {high:4.2f})" for mid, low, high in speeds)
        )


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    sys.exit(main())
