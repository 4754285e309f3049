"""Recompute the integer matmuls of quantized checkpoints in NumPy; not one may differ.

Builds tiny random checkpoints of the supported architectures with heavy-tailed weights and odd
sizes, every third one pruned unevenly and every third one alike in all layers, stores each in every
form that ships (one scale per token, per tensor, grids fixed by calibration or where they are fine,
smoothed, with weights left in float, int4 tables with and without refined rows, packed weights,
after training for int8), and compares every integer matmul of the graph that ONNX Runtime makes of
the file, and every row of the embedding tables, bit for bit. Each product also gets integers that
overflow 16 bits where any can; by simulation they must not on CPUs without VNNI. Checkpoints on the
command line are checked too. Exits with 1 when a number is wrong.

Usage: tools/check_integers.py [CHECKPOINT ...] [--random N]
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
import transformers
from integer_exactness import ExactnessCheck, check_integers

from compressor.data import Dataset
from compressor.export.to_onnx import export_onnx
from compressor.machine.environment import describe_environment
from compressor.models.conv1d import make_linear
from compressor.models.families.layers import (
    encoder_layers,
    find_encoder,
)
from compressor.models.onnx_model import OnnxModel, optimized_graph
from compressor.models.torch_model import TorchModel, load_checkpoint
from compressor.passes import PassContext, apply_pass
from compressor.passes.prune_structured.unit_removal import prune_heads, prune_neurons
from compressor.passes.quantize.settings import (
    IntegerSettings,
    QuantizeAuto,
    QuantizeDynamic,
    QuantizeStatic,
    QuantizeWeights,
)
from compressor.passes.quantize_aware_train.settings import QuantizeAwareTrain
from compressor.progress import SILENT
from compressor.tasks import Batch, Example
from compressor.tasks.image_classification import ImageClassification
from compressor.tasks.text_classification import TextClassification

TEXT = (
    *("bert", "roberta", "xlm-roberta", "camembert", "electra", "distilbert", "mpnet"),
    *("data2vec-text", "ernie", "megatron-bert", "roberta-prelayernorm", "roformer"),
    *("xlm-roberta-xl", "modernbert", "gte", "nomic_bert", "jina_embeddings_v3", "eurobert", "esm"),
    *("deberta", "deberta-v2", "albert", "rembert", "helium", "llama", "mistral"),
    *("qwen2", "qwen3"),
    *("layoutlm", "gpt2", "gemma", "gemma2", "gemma3_text", "mobilebert", "squeezebert"),
)
IMAGE = ("vit", "deit", "beit", "dinov2", "dinov2_with_registers")
# The layers of ALBERT are one, so none of them is pruned apart; of the others none can be.
UNPRUNED = ("albert", "mobilebert", "squeezebert")
# Queries can share keys.
GROUPED = (
    *("eurobert", "helium", "llama", "mistral", "qwen2", "qwen3"),
    *("gemma", "gemma2", "gemma3_text"),
)
ROTATED = ("roformer", "modernbert", "nomic_bert", "jina_embeddings_v3", *GROUPED)
SMALL = {"min_elements": 0}
FORMS: dict[str, IntegerSettings] = {
    "per_token": QuantizeDynamic.model_validate(SMALL),
    "per_token, int4 tables": QuantizeDynamic.model_validate({**SMALL, "embeddings": "int4"}),
    "per_token, 4 bits where few": QuantizeDynamic.model_validate(
        {**SMALL, "embeddings": "int4", "refined_rows": 9, "once_per_text": "int4"}
    ),
    "per_token, smooth": QuantizeDynamic.model_validate({**SMALL, "smooth": True}),
    "per_token, gptq": QuantizeDynamic.model_validate({**SMALL, "rounding": "gptq"}),
    "per_token, 2 in float": QuantizeDynamic.model_validate({**SMALL, "keep_sensitive": 2}),
    "per_tensor": QuantizeDynamic.model_validate({**SMALL, "activations": "per_tensor"}),
    "static": QuantizeStatic.model_validate(SMALL),
    "static, mse": QuantizeStatic.model_validate({**SMALL, "method": "mse"}),
    "static, smooth_alpha": QuantizeStatic.model_validate({**SMALL, "smooth_alpha": 0.5}),
    "static, int4 tables": QuantizeStatic.model_validate({**SMALL, "embeddings": "int4"}),
    "mixed": QuantizeAuto.model_validate({**SMALL, "forms": ("mixed",), "rounds": 1}),
    "8 bits, block 16": QuantizeWeights.model_validate({**SMALL, "bits": 8, "block_size": 16}),
    "4 bits, block 64": QuantizeWeights.model_validate({**SMALL, "block_size": 64}),
}
# Trained for, then stored: few steps, but enough that weights and step sizes have moved.
TRAINED: dict[str, tuple[QuantizeAwareTrain, IntegerSettings]] = {
    form: (
        QuantizeAwareTrain.model_validate(
            {**SMALL, "max_steps": 5, "learning_rate": 1e-3, "keep_if_worse": True, **training}
        ),
        FORMS[stored],
    )
    for form, stored, training in (
        ("trained", "per_token", {}),
        ("trained, static", "static", {"activations": "static"}),
    )
}
WORDS = 61  # of a random model's vocabulary
IMAGE_SIZE = 12
LENGTHS = (1, 2, 7, 16, 33)  # tokens in the texts that random models read


class Numbers:
    """A tokenizer of texts such as `17 4 9`: the numbers are the tokens, 0 is the padding."""

    model_max_length = 40

    def __init__(self, inputs: Sequence[str]) -> None:
        self.model_input_names = list(inputs)

    def __call__(
        self,
        texts: Sequence[str],
        _pairs: object = None,
        *,
        padding: bool | str = False,
        truncation: bool,
        max_length: int | None = None,
        **_form: object,
    ) -> Mapping[str, Any]:
        most = max_length if truncation else None
        rows = [_numbers(text)[:most] for text in texts]
        if not padding:
            return {"input_ids": rows}
        width = max(map(len, rows))
        if padding == "max_length":
            assert max_length is not None, "there is a length to fill"
            width = max_length
        ids, mask = (np.zeros((len(rows), width), np.int64) for _ in range(2))
        for row, tokens in enumerate(rows):
            ids[row, : len(tokens)], mask[row, : len(tokens)] = tokens, 1
        known = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        return {name: known[name] for name in self.model_input_names}


def _numbers(text: str) -> list[int]:
    # Words that are no numbers come from the exporter's example.
    return [int(word) if word.isdigit() else 5 for word in text.split()]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("checkpoints", nargs="*", type=Path, help="folders of classifiers")
    parser.add_argument("--random", type=int, default=20, help="random checkpoints to check")
    arguments = parser.parse_args()
    wrong = compared = 0
    for name, model, examples in models(arguments.checkpoints, arguments.random):
        for form, checks in chain(check(model, examples), check_trained(model, examples)):
            wrong_here = sum(item.wrong + item.saturated for item in checks)
            numbers = sum(item.compared for item in checks)
            wrong, compared = wrong + wrong_here, compared + numbers
            print(
                f"{name:24} {form:28} {numbers:12,} numbers in {len(checks):2} nodes: "
                f"{describe(checks)}",
                flush=True,
            )
    print(
        f"\n{compared:,} numbers compared, {wrong} wrong; "
        f"{describe_environment(seed=0, device=torch.device('cpu'), threads=1)['cpu']['model']}, "
        f"onnxruntime {onnxruntime.__version__}"
    )
    return 1 if wrong else 0


def describe(checks: Sequence[ExactnessCheck]) -> str:
    bad = [item for item in checks if item.wrong or item.saturated]
    listed = (f"{item.node}: {item.wrong} wrong, {item.saturated} saturated" for item in bad)
    return "exact" if not bad else "; ".join(listed)


def models(
    checkpoints: Sequence[Path], count: int
) -> Iterator[tuple[str, TorchModel, list[Example]]]:
    for number in range(count):
        yield random_model(number)
    for path in checkpoints:
        model = load_checkpoint(path)
        example = model.task.dummy_example(24)
        texts: list[Example] = ["a", "a film that is quite good, if long", example]
        yield path.name, model, texts if model.task.reads_tokens else [example] * 3


def random_model(number: int) -> tuple[str, TorchModel, list[Example]]:
    """Return a model of the next architecture, two of three pruned, and what it reads."""
    kinds = (*TEXT, *IMAGE)
    turn, place = divmod(number, len(kinds))
    kind = kinds[place]
    torch.manual_seed(number)
    random = np.random.default_rng(number)
    is_text = kind in TEXT
    module = _module(kind, random, is_text=is_text)
    _spread(module, number)
    pruning = ("", ", uniform", ", pruned")[(turn + place) % 3]
    width = 3 if kind in UNPRUNED else encoder_layers(module)[0].num_neurons
    gone = random.permutation(width)[: width // 3 + 1].tolist()
    if kind in UNPRUNED:
        pruning = ""
    elif pruning == ", pruned":
        prune_neurons(find_encoder(module), {0: gone})
        if kind != "mpnet":  # its heads share one table of relative positions
            prune_heads(find_encoder(module), {1: [int(random.integers(0, 3))]})
    elif pruning == ", uniform":
        prune_neurons(find_encoder(module), {0: gone, 1: gone})
    name = f"{number}: {kind}{pruning}"
    if is_text:
        named = ("input_ids", "attention_mask", "token_type_ids")
        has_types = kind in ("bert", "electra")
        model = TorchModel(module, Numbers(named[: 3 if has_types else 2]), TextClassification())
        texts = [" ".join(map(str, random.integers(2, WORDS, size=length))) for length in LENGTHS]
        return name, model, list(texts)
    processor = transformers.ViTImageProcessorPil(
        size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}, image_mean=[0.5], image_std=[0.5]
    )
    shape = (5, IMAGE_SIZE, IMAGE_SIZE)
    images = [image.astype(np.uint8) for image in random.integers(0, 256, size=shape)]
    return name, TorchModel(module, processor, ImageClassification()), list(images)


def _module(kind: str, random: np.random.Generator, *, is_text: bool) -> Any:
    head = int(random.integers(3, 12))  # odd ones too
    if kind in ROTATED:
        head += head % 2  # pairs of numbers are turned
    sizes: dict[str, Any] = {
        "hidden_size": 3 * head,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "intermediate_size": int(random.integers(30, 90)),
        "num_labels": 3,
    }
    if kind == "distilbert":
        sizes = {"dim": 3 * head, "n_layers": 2, "n_heads": 3, "hidden_dim": 47, "num_labels": 3}
    if kind == "gpt2":
        sizes = {"n_embd": 3 * head, "n_layer": 2, "n_head": 3, "n_inner": 47, "num_labels": 3}
        sizes |= {"n_positions": 48, "bos_token_id": 2, "eos_token_id": 3}
    if kind == "mobilebert":
        sizes |= {"intra_bottleneck_size": 3 * head, "embedding_size": 12}
    if kind == "squeezebert":  # four groups of its convolutions
        sizes |= {"hidden_size": 12 * head, "intermediate_size": 4 * sizes["intermediate_size"]}
        sizes |= {"embedding_size": 12 * head}
    if is_text:
        sizes |= {"vocab_size": WORDS, "max_position_embeddings": 48, "pad_token_id": 0}
        if kind in GROUPED:
            sizes |= {"num_key_value_heads": 3, "head_dim": head}
        auto: Any = transformers.AutoModelForSequenceClassification
    else:
        sizes |= {"image_size": IMAGE_SIZE, "patch_size": 4, "num_channels": 1}
        auto = transformers.AutoModelForImageClassification
        # transformers knows two heads of DeiT, and asks the configuration which.
        sizes |= {"architectures": ["DeiTForImageClassification"]} if kind == "deit" else {}
    module = auto.from_config(transformers.AutoConfig.for_model(kind, **sizes)).eval()
    make_linear(module)
    return module


def _spread(module: Any, seed: int) -> None:
    """Give weights and normalisations heavy tails, as those of trained models have."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            factor = torch.exp(torch.randn(parameter.shape[-1:], generator=generator))
            if parameter.ndim > 1:
                parameter.copy_(0.15 * noise * factor)
            else:
                parameter.add_(0.3 * noise)


def check(
    model: TorchModel, examples: list[Example]
) -> Iterator[tuple[str, tuple[ExactnessCheck, ...]]]:
    with tempfile.TemporaryDirectory() as folder:
        exported = export_onnx(model, Path(folder) / "model.onnx", threads=1)
        for form, step in FORMS.items():
            context = _context(model, examples, Path(folder) / form)
            yield form, _checked(apply_pass(step, exported, context), model, examples)


def check_trained(
    model: TorchModel, examples: list[Example]
) -> Iterator[tuple[str, tuple[ExactnessCheck, ...]]]:
    """Yield the checks of `model` after training for int8, in each form that it can train for."""
    with tempfile.TemporaryDirectory() as folder:
        for form, (training, step) in TRAINED.items():
            context = _context(model, examples, Path(folder) / form)
            trained = apply_pass(training, model.clone(), context)
            stored = export_onnx(trained, Path(folder) / f"{form}.onnx", threads=1)
            yield form, _checked(apply_pass(step, stored, context), model, examples)


def _checked(
    stored: OnnxModel, model: TorchModel, examples: list[Example]
) -> tuple[ExactnessCheck, ...]:
    feeds = [stored.feed(batch) for batch in _batches(model, examples)]
    return check_integers(optimized_graph(stored.path), feeds)


def _batches(model: TorchModel, examples: list[Example]) -> list[Batch]:
    parts = (examples, examples[:1], examples[-1:])
    return [model.task.encode(model.preprocessor, part) for part in parts]


def _context(model: TorchModel, examples: list[Example], work_dir: Path) -> PassContext:
    rows = np.arange(len(examples))
    dataset = Dataset("calibration", tuple(examples), None, rows, "generated")
    return PassContext(
        splits={"calibration": dataset, "train": dataset},
        load_baseline=lambda: model,
        device=torch.device("cpu"),
        seed=0,
        work_dir=work_dir,
        progress=SILENT,
        note=lambda _: None,
    )


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    sys.exit(main())
