"""Print how the cost of pruning by reconstruction grows with the model and with the rows.

    tools/pruning_cost.py TOKENIZER --train FILE --text COLUMN [--sizes 6x384 12x768] [--rows ...]

Seconds of CPU time and peak memory above the model's own, each measured in a process of its own, on
BERT encoders of LAYERS x HIDDEN SIZE with random weights: what pruning costs depends on shapes and
rows, not on whether the weights were trained (their accuracy means nothing, and is not measured).
TOKENIZER is any directory or Hub id with one. Linux only (peak memory).
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from classifier_rows import quieten

from compressor.data import DataSettings, SplitSource, load_splits
from compressor.models.torch_model import TorchModel
from compressor.passes import PassContext, apply_pass
from compressor.passes.prune_structured.settings import PruneStructured
from compressor.progress import SILENT
from compressor.tasks import load_task
from compressor.tasks.columns import TextColumns

_LABELS = ("0", "1")


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


@dataclass(frozen=True)
class Cost:
    parameters: int
    tokens: float  # of a row, on average
    seconds: float
    peak_mb: float


def random_model(size: Size, tokenizer: str) -> TorchModel:
    torch.manual_seed(0)
    preprocessor = transformers.AutoTokenizer.from_pretrained(tokenizer)
    config = transformers.BertConfig(
        vocab_size=len(preprocessor),
        hidden_size=size.hidden_size,
        num_hidden_layers=size.layers,
        num_attention_heads=12,
        intermediate_size=4 * size.hidden_size,
        id2label=dict(enumerate(_LABELS)),
    )
    preprocessor.model_max_length = min(preprocessor.model_max_length, 512)
    module: Any = transformers.BertForSequenceClassification(config)
    return TorchModel(module.eval(), preprocessor, load_task("text-classification"))


def measure(arguments: argparse.Namespace, size: Size, rows: int) -> Cost:
    quieten()
    model = random_model(size, arguments.tokenizer)
    settings = DataSettings(
        text=arguments.text, train=SplitSource(path=arguments.train, max_rows=rows)
    )
    split = load_splits(
        settings, label_names=_LABELS, columns=TextColumns(), needed={"train"}, seed=0
    )["train"]
    encoded = model.task.encode(model.preprocessor, split.examples)
    with tempfile.TemporaryDirectory() as folder:
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
    return Cost(parameters, float(encoded["attention_mask"].sum() / len(split)), seconds, peak_mb)


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
    return parser.parse_args()


def main() -> None:
    arguments = read_arguments()
    print(
        f"reconstruction at {arguments.ratio:.0%} of FLOPs, random weights (the cost does not "
        f"depend on training), 1 thread, torch {torch.__version__}"
    )
    print(
        f"{'layers x width':16}{'parameters':>12}{'rows':>7}{'tokens':>8}{'CPU s':>8}{'peak MB':>9}"
    )
    for size in arguments.sizes:
        for rows in arguments.rows:
            # A pool each: one whose workers are replaced can hang (python/cpython#115634).
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
                cost = pool.submit(measure, arguments, size, rows).result()
            print(
                f"{size!s:16}{cost.parameters:12,}{rows:7}{cost.tokens:8.1f}"
                f"{cost.seconds:8.0f}{cost.peak_mb:9.0f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
