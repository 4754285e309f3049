"""Print how the cost of pruning by reconstruction grows with the model and with the rows.

    tools/pruning_cost.py TOKENIZER --train FILE --text COLUMN [--sizes 6x384 12x768] [--rows ...]
        [--families bert modernbert deberta-v2 qwen3] [--json FILE]

Seconds of CPU time and peak memory above the model's own, and how much faster the exported graph
is afterwards in ONNX Runtime (CPU time of one thread, 1 and 8 texts of 32 tokens), each measured
in a process of its own, on encoders of LAYERS x HIDDEN SIZE with random weights: what pruning costs
and gains depends on shapes and rows, not on whether the weights were trained (their accuracy means
nothing, and is not measured). Feed-forwards with a gate get two thirds of the inner width, so that
layers of all families have as many weights. TOKENIZER is any directory or Hub id with one. Linux
only (peak memory).
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from classifier_rows import quieten
from results import write_results

from compressor.data import DataSettings, SplitSource, load_splits
from compressor.export.to_onnx import export_onnx
from compressor.models.torch_model import TorchModel
from compressor.passes import PassContext, apply_pass
from compressor.passes.prune_structured.settings import PruneStructured
from compressor.progress import SILENT
from compressor.tasks import load_task
from compressor.tasks.columns import TextColumns
from compressor.verify.benchmark import BenchmarkBatch, benchmark
from compressor.verify.timing import TimingPlan

_LABELS = ("0", "1")
_HEADS = 12  # of widths that they divide, as those of published encoders
_HEAD_DIM = 64  # elsewhere, as in encoders of 1,024
_GATED = ("modernbert", "gte", "nomic_bert", "eurobert", "qwen3", "llama")
_GROUPED = ("eurobert", "qwen3", "llama")
_OWN: dict[str, dict[str, Any]] = {
    "deberta-v2": {
        "relative_attention": True,
        "pos_att_type": ["p2c", "c2p"],
        "share_att_key": True,
        "position_buckets": 256,
        "norm_rel_ebd": "layer_norm",
        "position_biased_input": False,
    }
}
_TOKENS, _BATCHES = 32, (1, 8)


@dataclass(frozen=True)
class Size:
    layers: int
    hidden_size: int

    @classmethod
    def parse(cls, text: str) -> Size:
        layers, _, hidden_size = text.partition("x")
        return cls(int(layers), int(hidden_size))

    def __str__(self) -> str:
        return f"{self.layers}x{self.hidden_size}"

    @property
    def heads(self) -> int:
        return self.hidden_size // _HEAD_DIM if self.hidden_size % _HEADS else _HEADS


@dataclass(frozen=True)
class Cost:
    parameters: int
    tokens: float  # of a row, on average
    seconds: float
    peak_mb: float
    speeds: dict[int, float]  # times faster, by texts in a batch


def random_model(family: str, size: Size, tokenizer: str) -> TorchModel:
    torch.manual_seed(0)
    preprocessor = transformers.AutoTokenizer.from_pretrained(tokenizer)
    settings: dict[str, Any] = {
        "vocab_size": len(preprocessor),
        "hidden_size": size.hidden_size,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "intermediate_size": 4 * size.hidden_size,
        "id2label": dict(enumerate(_LABELS)),
        "pad_token_id": preprocessor.pad_token_id,
    }
    if family in _GATED:
        settings["intermediate_size"] = 8 * size.hidden_size // 3
    # DeBERTa-v3 shares projections of relative positions, and a query's keys are its own here.
    settings |= _OWN.get(family, {})
    if family in _GROUPED:
        settings |= {"num_key_value_heads": size.heads, "head_dim": size.hidden_size // size.heads}
    config = transformers.AutoConfig.for_model(family, **settings)
    preprocessor.model_max_length = min(preprocessor.model_max_length, 512)
    named = ["input_ids", "attention_mask"]
    preprocessor.model_input_names = [*named, "token_type_ids"] if family == "bert" else named
    module: Any = transformers.AutoModelForSequenceClassification.from_config(config)
    return TorchModel(module.eval(), preprocessor, load_task("text-classification"))


def speeds_of(model: TorchModel, before: Path, folder: Path) -> dict[int, float]:
    """Return how many times less CPU time the graph of `model` takes than the one `before`."""
    after = export_onnx(model, folder / "after.onnx", threads=1).path
    example = model.task.dummy_example(_TOKENS)
    batches: list[BenchmarkBatch] = []
    for count in _BATCHES:
        batch = model.task.encode(model.preprocessor, [example] * count)
        batches.append((count, _TOKENS, {"baseline": batch, "final": batch}))
    found = benchmark(
        {"baseline": before, "final": after},
        provider="cpu",
        batches=batches,
        plan=TimingPlan(warmup_runs=3, num_runs=60, threads=1),
    )
    times = {(item.model, item.batch_size): item.cpu_p50_ms for item in found}
    ratios = {}
    for count in _BATCHES:
        dense, pruned = times["baseline", count], times["final", count]
        assert dense is not None, "one thread has a CPU clock"
        assert pruned is not None
        ratios[count] = round(dense / pruned, 2)
    return ratios


def measure(arguments: argparse.Namespace, family: str, size: Size, rows: int) -> Cost:
    quieten()
    model = random_model(family, size, arguments.tokenizer)
    settings = DataSettings(
        text=arguments.text, train=SplitSource(path=arguments.train, max_rows=rows)
    )
    split = load_splits(
        settings, label_names=_LABELS, columns=TextColumns(), needed={"train"}, seed=0
    )["train"]
    encoded = model.task.encode(model.preprocessor, split.examples)
    with tempfile.TemporaryDirectory() as folder:
        before = export_onnx(model, Path(folder) / "before.onnx", threads=1).path
        context = PassContext(
            splits={"calibration": split},
            load_baseline=lambda: model,
            device=torch.device("cpu"),
            seed=0,
            work_dir=Path(folder),
            progress=SILENT,
            note=lambda _: None,
        )
        how = {"method": "reconstruction", "ratio": arguments.ratio, "calibration_rows": rows}
        step = PruneStructured.of(how)
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forget the peak so far
        held_mb, start = status_mb("VmRSS"), time.process_time()
        parameters = sum(parameter.numel() for parameter in model.module.parameters())
        apply_pass(step, model, context)
        seconds, peak_mb = time.process_time() - start, status_mb("VmHWM") - held_mb
        speeds = speeds_of(model, before, Path(folder))
    tokens = float(encoded["attention_mask"].sum() / len(split))
    return Cost(parameters, tokens, seconds, peak_mb, speeds)


def status_mb(field: str) -> float:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    [line] = [line for line in lines if line.startswith(f"{field}:")]
    return int(line.split()[1]) / 1e3


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("tokenizer")
    parser.add_argument("--train", required=True, help="rows to calibrate on")
    parser.add_argument("--text", required=True, help="column of the text")
    parser.add_argument("--ratio", type=float, default=0.5, help="share of FLOPs that goes")
    sizes = [Size(6, 384), Size(12, 384), Size(12, 768)]
    parser.add_argument("--sizes", type=Size.parse, nargs="+", default=sizes)
    parser.add_argument("--rows", type=int, nargs="+", default=[512, 1024, 2048])
    parser.add_argument("--families", nargs="+", default=["bert"], help="their model types")
    parser.add_argument("--json", type=Path, help="results file to write")
    return parser.parse_args()


def main() -> None:
    arguments = read_arguments()
    print(
        f"reconstruction at {arguments.ratio:.0%} of FLOPs, random weights (the cost does not "
        f"depend on training), 1 thread, torch {torch.__version__}"
    )
    print(
        f"{'family':12}{'layers x width':16}{'parameters':>12}{'rows':>7}{'tokens':>8}{'CPU s':>8}"
        f"{'peak MB':>9}" + "".join(f"{f'faster, {count}':>11}" for count in _BATCHES)
    )
    found = []
    cases = itertools.product(arguments.sizes, arguments.rows, arguments.families)
    for size, rows, family in cases:
        # A pool each: one whose workers are replaced can hang (python/cpython#115634).
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            cost = pool.submit(measure, arguments, family, size, rows).result()
        print(
            f"{family:12}{size!s:16}{cost.parameters:12,}{rows:7}{cost.tokens:8.1f}"
            f"{cost.seconds:8.0f}{cost.peak_mb:9.0f}"
            + "".join(f"{cost.speeds[count]:10.2f}x" for count in _BATCHES),
            flush=True,
        )
        found.append({"family": family, "size": str(size), "rows": rows, **asdict(cost)})
    if arguments.json is not None:
        about = {"ratio": arguments.ratio, "tokens": _TOKENS}
        write_results(arguments.json, found, about=about)


if __name__ == "__main__":
    main()
