"""Check that checkpoints of an older transformers are read as it read them, or refused.

    python tools/check_older.py write FOLDER [--only TYPE ...]   # with the older transformers
    python tools/check_older.py read FOLDER                      # with the supported one

`write` makes a tiny classifier of each model type with random weights and, for each setting of its
configuration, one that has another value there; each is kept with its logits where the setting
moves them. It needs torch and transformers alone. `read` computes the logits again: where
transformers gives others, the package has to refuse the checkpoint, and the sentence is shown. A
setting that a release no longer heeds is found so before anybody's model is measured without it.

Exits with 1 where a checkpoint is read and gives other logits.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

TYPES = [
    "albert",
    "bert",
    "bloom",
    "camembert",
    "canine",
    "convbert",
    "data2vec-text",
    "deberta",
    "deberta-v2",
    "distilbert",
    "electra",
    "ernie",
    "esm",
    "flaubert",
    "funnel",
    "gemma",
    "gemma2",
    "gemma3_text",
    "gpt2",
    "gpt_neox",
    "helium",
    "layoutlm",
    "llama",
    "luke",
    "megatron-bert",
    "mistral",
    "mixtral",
    "mobilebert",
    "modernbert",
    "mpnet",
    "mra",
    "mt5",
    "nystromformer",
    "openai-gpt",
    "opt",
    "phi",
    "qwen2",
    "qwen3",
    "rembert",
    "roberta",
    "roc_bert",
    "roformer",
    "stablelm",
    "tapas",
    "umt5",
    "xlm",
    "xlm-roberta",
    "xlm-roberta-xl",
    "xlnet",
    "yoso",
]
# What makes a model tiny, by all names that configurations have for it. It is not changed.
_TINY = {
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "dim", "emb_dim", "true_hidden_size"), 32),
    **dict.fromkeys(("word_embed_proj_dim", "intra_bottleneck_size"), 32),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), 4),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "d_ff", "d_inner", "hidden_dim"), 64),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_inner", "ffn_hidden_size"), 64),
    **dict.fromkeys(("shape_vocab_size", "pronunciation_vocab_size"), 20),
    **{"vocab_size": 120, "entity_vocab_size": 5, "embedding_size": 16, "num_key_value_heads": 2},
    **{"head_dim": 8, "d_kv": 8, "pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 3},
}
# What says how a model is trained, saved or given back, and not what it computes.
_NOT_CHANGED = frozenset(
    [
        "transformers_version",
        "num_labels",
        "id2label",
        "label2id",
        "return_dict",
        "output_hidden_states",
        "output_attentions",
        "torch_dtype",
        "dtype",
        "use_cache",
        "is_encoder_decoder",
        "architectures",
        "problem_type",
        "model_type",
        "torchscript",
        "use_bfloat16",
        "chunk_size_feed_forward",
        "tie_word_embeddings",
        "is_decoder",
        "add_cross_attention",
    ]
)
_ACTIVATIONS = ("relu", "silu", "gelu", "gelu_new", "gelu_pytorch_tanh", "quick_gelu", "tanh")
_ROPE = (
    {"rope_type": "linear", "factor": 2.0},
    {"rope_type": "dynamic", "factor": 2.0},
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16},
)
# What a release may say of a configuration that nobody has.
_FAULTS = (
    *(ValueError, TypeError, RuntimeError, AttributeError, LookupError, AssertionError),
    *(ImportError, OSError, NotImplementedError, ZeroDivisionError),
)
_IDS = ((2, 5, 9, 30, 77, 44, 21, 8, 3), (2, 15, 80, 33, 3, 1, 1, 1, 1))  # the second is padded
_LOGITS = "logits.npy"
_MOVED = 1e-4  # what a setting moves the logits by at least
_SAME = 1e-3  # of the largest logit


def main() -> int:
    arguments = _arguments()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    if arguments.work == "write":
        return write(arguments.folder, arguments.only or TYPES)
    return read(arguments.folder)


def write(folder: Path, types: list[str]) -> int:
    """Write checkpoints of each type with their logits; what cannot be built so is told."""
    for kind in types:
        tiny = _tiny(kind)
        try:
            model = _model(kind, tiny)
            usual = _logits(model)
        except _FAULTS as error:
            print(f"{kind}: not built ({type(error).__name__}: {_first_line(error)})", flush=True)
            continue
        _save(folder / f"{kind} as it is", model, usual)
        count = 1
        for name, value in other_values(model.config.to_dict()):
            try:
                changed = _model(kind, {**tiny, name: value})
                found = _logits(changed)
            except _FAULTS:  # a value that the type does not take
                continue
            is_like = found.shape == usual.shape and bool(np.isfinite(found).all())
            if is_like and np.abs(found - usual).max() > _MOVED:
                _save(folder / f"{kind} {name} {_in_a_name(value)}", changed, found)
                count += 1
        print(f"{kind}: {count}", flush=True)
    return 0


def read(folder: Path) -> int:
    """Compare the logits of each checkpoint, and return 1 where one is silently read otherwise."""
    wrong = same = refused = 0
    for place in sorted(path.parent for path in folder.glob(f"*/{_LOGITS}")):
        expected = np.load(place / _LOGITS)
        load: Any = transformers.AutoModelForSequenceClassification.from_pretrained
        try:
            found = _logits(load(place, attn_implementation="eager").eval())
            difference = float(np.abs(found - expected).max() / max(1.0, np.abs(expected).max()))
        except _FAULTS as error:  # it cannot be read wrongly, then
            print(f"{place.name}: not read ({type(error).__name__}: {_first_line(error)})")
            refused += 1
            continue
        if difference < _SAME:
            same += 1
        elif (why := _refusal(place)) is not None:
            refused += 1
            print(f"{place.name}: {difference:.1e} apart, refused: {why}", flush=True)
        else:
            wrong += 1
            print(f"{place.name}: {difference:.1e} apart, and READ", flush=True)
    print(f"{same} the same, {refused} refused, {wrong} wrong")
    return 1 if wrong or not same else 0


def other_values(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield settings of a configuration with other values that they may take.

    >>> list(other_values({"norm_first": False, "hidden_act": "relu"}))[:2]
    [('norm_first', True), ('hidden_act', 'silu')]
    """
    for name, value in config.items():
        if name in _TINY or name in _NOT_CHANGED or name.startswith("_"):
            continue
        if isinstance(value, bool):
            yield name, not value
        elif isinstance(value, int):
            yield from ((name, other) for other in {2 * value or 3, value // 2 or 3} - {value})
        elif isinstance(value, float):
            yield name, 3 * value + 0.05 if value < 1 else 1.7 * value
        elif name == "position_embedding_type":
            yield from ((name, kind) for kind in ("relative_key", "relative_key_query"))
        elif value in _ACTIVATIONS:
            yield from ((name, other) for other in _ACTIVATIONS if other != value)
        elif value is None and name == "rope_scaling":
            yield from ((name, scaling) for scaling in _ROPE)
        elif value is None and name in ("sliding_window", "query_pre_attn_scalar"):
            yield name, 4


def _tiny(kind: str) -> dict[str, Any]:
    """Return what makes a configuration of a type tiny, each size by one name."""
    config: Any = transformers.AutoConfig.for_model(kind)
    own, names = config.to_dict(), getattr(config, "attribute_map", {})
    return {
        name: value
        for name, value in _TINY.items()
        if name in own or (name in names and names[name] not in _TINY)
    }


def _model(kind: str, settings: Mapping[str, Any]) -> Any:
    """Return a classifier of three classes whose random weights let everything matter."""
    torch.manual_seed(0)
    config: Any = transformers.AutoConfig.for_model(kind, **settings)
    config.num_labels = 3
    config._attn_implementation = "eager"
    make: Any = transformers.AutoModelForSequenceClassification.from_config
    model = make(config).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            drawn = torch.randn(weight.shape, generator=generator)
            if weight.dim() > 1:
                weight.copy_(drawn * (1.5 / weight.shape[-1] ** 0.5))
            else:
                weight.add_(0.2 * drawn)
    return model


def _logits(model: Any) -> NDArray[Any]:
    ids = torch.tensor(_IDS)
    with torch.no_grad():
        logits: NDArray[Any] = (
            model(input_ids=ids, attention_mask=(ids != 1).long()).logits.float().numpy()
        )
    return logits


def _save(place: Path, model: Any, logits: NDArray[Any]) -> None:
    model.save_pretrained(place)
    np.save(place / _LOGITS, logits)
    words = {"<unk>": 0, "<pad>": 1, "<s>": 2, "</s>": 3}
    words |= {f"w{place}": place for place in range(4, _TINY["vocab_size"])}
    content = {
        "version": "1.0",
        "added_tokens": [],
        "pre_tokenizer": {"type": "Whitespace"},
        "model": {"type": "WordLevel", "vocab": words, "unk_token": "<unk>"},
    }
    (place / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 32}
    settings |= {"pad_token": "<pad>", "unk_token": "<unk>"}
    (place / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")


def _refusal(place: Path) -> str | None:
    """Return what the package says of a checkpoint; None where it loads it."""
    from compressor.errors import CompressorError  # only here, as an older release has no need
    from compressor.models.torch_model import load_checkpoint

    try:
        load_checkpoint(place)
    except CompressorError as error:
        return _first_line(error)
    return None


def _in_a_name(value: object) -> str:
    letters = (letter if letter.isalnum() or letter in "._-" else "_" for letter in str(value))
    return "".join(letters)[:40]


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    return lines[0][:160]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("work", choices=("write", "read"))
    parser.add_argument("folder", type=Path, help="where the checkpoints are")
    parser.add_argument("--only", nargs="+", metavar="TYPE", help="model types to write")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
