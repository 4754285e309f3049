"""Cases of checkpoints: configs, weights, tokenizers, image processors, and files beside them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import torch
from campaign_commands import Workshop, cli, like_transformers, score
from campaign_recipes import RECIPE, plain_recipe, write_recipe
from campaign_subjects import images, probes
from campaign_trials import ANY, LONG_S, NOT_THERE, PASSES, REFUSED, Case, Trial
from mutations import ODD_VALUES, brief, mutate_bytes, mutate_text, mutate_tree, to_json, typo
from safetensors.torch import load_file, save_file

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
Outcome = tuple[str, frozenset[int], bool]  # what was changed, what may come, whether names alone
# Of a checkpoint that cannot be used: exit 3, or 2 where the recipe has to say something else.
CANNOT = frozenset((2, 3))

# What people find in a config.json, and what must come of it.
_CONFIG_VALUES: tuple[tuple[str, Any, frozenset[int]], ...] = (
    ("num_hidden_layers", 1, CANNOT), ("num_hidden_layers", 3, CANNOT),
    ("num_hidden_layers", 0, CANNOT), ("num_hidden_layers", None, CANNOT),
    ("num_hidden_layers", -1, CANNOT), ("num_hidden_layers", "2", ANY),
    ("hidden_size", 16, CANNOT), ("hidden_size", 33, CANNOT), ("hidden_size", 0, CANNOT),
    ("hidden_size", 10**9, CANNOT), ("intermediate_size", 65, CANNOT),
    ("intermediate_size", "64", ANY), ("num_attention_heads", 3, CANNOT),
    ("num_attention_heads", 0, CANNOT), ("vocab_size", 7, CANNOT), ("vocab_size", 10**7, CANNOT),
    ("vocab_size", 10**12, CANNOT), ("max_position_embeddings", 8, CANNOT),
    ("max_position_embeddings", 10**6, CANNOT), ("type_vocab_size", 1, CANNOT),
    ("type_vocab_size", 3, CANNOT), ("position_embedding_type", "relative_key", ANY),
    ("model_type", "bert-newer", CANNOT), ("model_type", 7, CANNOT), ("model_type", "", CANNOT),
    ("model_type", "gpt2", CANNOT), ("model_type", "t5", CANNOT), ("model_type", "vit", CANNOT),
    ("model_type", "distilbert", CANNOT), ("model_type", "whisper", CANNOT),
    ("architectures", None, ANY), ("architectures", [], ANY), ("architectures", "Bert", ANY),
    ("architectures", ["BertForTokenClassification"], ANY), ("architectures", [7], ANY),
    ("architectures", ["BertForMaskedLM"], ANY), ("architectures", [None], ANY),
    ("problem_type", "multi_label_classification", CANNOT), ("problem_type", "regression", CANNOT),
    ("problem_type", "single_label_classification", PASSES), ("problem_type", 7, ANY),
    ("id2label", {"0": "a"}, CANNOT), ("id2label", {"0": "a", "1": "b", "2": "c"}, CANNOT),
    ("id2label", {"1": "a", "2": "b"}, CANNOT), ("id2label", {"x": "a", "y": "b"}, CANNOT),
    ("id2label", [], ANY), ("id2label", ["a", "b"], ANY), ("id2label", {"0": None, "1": 7}, ANY),
    ("id2label", {"0": "same", "1": "same"}, ANY), ("id2label", {"0": "\ud800", "1": "b"}, CANNOT),
    ("id2label", {"0": "", "1": "b"}, ANY), ("id2label", {"1": "b", "0": "a"}, ANY),
    ("num_labels", 3, CANNOT), ("num_labels", 1, CANNOT), ("num_labels", "two", ANY),
    ("return_dict", False, ANY), ("output_attentions", True, ANY),
    ("output_hidden_states", True, ANY), ("torchscript", True, ANY), ("use_cache", True, ANY),
    ("is_decoder", True, ANY), ("add_cross_attention", True, CANNOT),
    ("hidden_act", "nothing", CANNOT), ("hidden_act", 7, CANNOT), ("hidden_act", "relu", ANY),
    ("hidden_act", None, CANNOT), ("layer_norm_eps", 0, ANY), ("layer_norm_eps", "x", CANNOT),
    ("layer_norm_eps", float("nan"), REFUSED), ("pad_token_id", 10**6, ANY),
    ("pad_token_id", -1, ANY), ("pad_token_id", None, ANY), ("pad_token_id", "0", ANY),
    ("dtype", "float16", ANY), ("dtype", "float8", ANY), ("dtype", 7, ANY),
    ("torch_dtype", "bfloat16", ANY), ("hidden_dropout_prob", 2, ANY),
    ("hidden_dropout_prob", "x", CANNOT), ("classifier_dropout", 0.5, ANY),
    ("pruned_heads", {"0": [1]}, ANY), ("pruned_heads", {"0": [0, 1, 2, 3]}, ANY),
    ("auto_map", {"AutoModel": "x.Y"}, NOT_THERE), ("auto_map", None, ANY),
    ("quantization_config", {"quant_method": "gptq"}, NOT_THERE),
    ("quantization_config", {}, ANY), ("quantization_config", [1], ANY),
    ("attn_implementation", "flash_attention_2", ANY), ("_attn_implementation", "x", ANY),
    ("attn_implementation", "x", ANY), ("tie_word_embeddings", "x", ANY),
    ("chunk_size_feed_forward", 3, ANY), ("transformers_version", "99.0.0", ANY),
    ("tokenizer_class", "Nothing", ANY), ("text_config", {"hidden_size": 7}, ANY),
    ("vision_config", 7, ANY), ("_name_or_path", "/dev/zero", ANY), ("name_or_path", 7, ANY),
    ("initializer_range", "x", ANY), ("label2id", {"negative": 1, "positive": 0}, ANY),
    ("label2id", 7, ANY), ("bos_token_id", [1, 2], ANY), ("sep_token_id", None, ANY),
)  # fmt: skip


def checkpoint_case(shop: Workshop, number: int) -> Case:
    """Return a mutated classifier of texts, given to every command that reads checkpoints."""
    folder = _copy(shop.subjects.checkpoint, shop.folder / "bert")
    change, allowed, names_alone = shop.draw.choice(_MUTATIONS)(folder, shop.draw)
    examples = probes(shop.subjects)
    base = shop.base_outputs if names_alone else None
    check = like_transformers("bert", examples, base=base)
    return _case(shop, "checkpoint", number, change, allowed, check, folder)


def processor_case(shop: Workshop, number: int) -> Case:
    """Return a classifier of images whose processor, config or head is mutated."""
    draw = shop.draw
    folder = _copy(shop.subjects.vision, shop.folder / "vit")
    (shop.folder / "pictures").symlink_to(shop.subjects.folder / "pictures")
    path = folder / draw.choice(["preprocessor_config.json"] * 4 + ["config.json"])
    change, allowed, _ = (
        _processor_value(path, draw) if draw.random() < 0.4 else _json_file(path, draw)
    )
    check = like_transformers("vit", images())
    return _case(shop, "processor", number, change, allowed, check, folder)


def _case(
    shop: Workshop,
    kind: str,
    number: int,
    change: str,
    allowed: frozenset[int],
    check: Callable[[], str | None],
    folder: Path,
) -> Case:
    rows = "rows.csv" if kind == "checkpoint" else "images.csv"
    (shop.folder / rows).symlink_to(shop.subjects.folder / rows)
    write_recipe(shop, plain_recipe(folder.name, {"search": {"path": rows}}))
    place = (folder.name, "model.checkpoint", "data.", "of the search split")
    # Exit 0 of these says less than a run: they need not load the weights.
    reads = allowed | {0}
    trials = [
        Trial("validate", cli("validate", RECIPE), reads, place),
        Trial("run until export", score(RECIPE), allowed, place, LONG_S, check=check),
    ]
    if shop.draw.random() < 0.5:
        words: tuple[str, ...] = ("init", folder.name, "--data", rows, "--output", "made.yaml")
        trials.append(Trial("init", cli(*words), reads, (*place, rows), LONG_S, check=_valid))
    if shop.draw.random() < 0.5:
        words = ("inspect", folder.name, "--no-timing", "--json")
        trials.append(Trial("inspect", cli(*words), reads, place, LONG_S))
    if shop.to_the_end:
        trials.append(Trial("run", cli("run", RECIPE), allowed, place, 3 * LONG_S, check=check))
    return Case(kind, number, change, tuple(trials))


def _valid() -> str | None:
    """Say what is wrong with a starter recipe that was written."""
    try:
        cli("validate", "made.yaml")()
    except SystemExit as stop:
        return f"init wrote a recipe that is not valid (exit {stop.code})" if stop.code else None
    return None


def _copy(source: Path, target: Path) -> Path:
    shutil.copytree(source, target)
    return target


def _config(folder: Path, draw: Random) -> Outcome:
    path = folder / "config.json"
    tree = json.loads(path.read_text())
    kind = draw.random()
    if kind < 0.15:
        key = draw.choice(list(tree))
        del tree[key]
        path.write_bytes(to_json(tree))
        return f"config.json without {key}", ANY, False
    if kind < 0.75:
        key, value, allowed = draw.choice(_CONFIG_VALUES)
        path.write_bytes(to_json({**tree, key: value}))
        return f"config.json: {key} is {brief(value)}", allowed, False
    return _json_file(path, draw)


def _json_file(path: Path, draw: Random) -> Outcome:
    """Change one place of a JSON file, or damage it as a text."""
    if draw.random() < 0.25:
        content, what = mutate_text(path.read_bytes(), draw)
        path.write_bytes(content)
        return f"{path.name}: {what}", ANY, False
    tree, change = mutate_tree(json.loads(path.read_text()), draw)
    path.write_bytes(to_json(tree))
    return f"{path.name}: {change}", ANY, False


def _tokenizer(folder: Path, draw: Random) -> Outcome:
    path = folder / "tokenizer.json"
    kind = draw.random()
    if kind < 0.5:
        return _json_file(path, draw)
    if kind < 0.75:
        return _json_file(folder / "tokenizer_config.json", draw)
    config = folder / "tokenizer_config.json"
    tree = json.loads(config.read_text())
    key, value = draw.choice(
        (
            ("model_max_length", -1), ("model_max_length", -5), ("model_max_length", 0),
            ("model_max_length", 2), ("model_max_length", 10**30), ("model_max_length", None),
            ("model_max_length", "64"), ("model_max_length", 16), ("model_max_length", 1.5),
            ("padding_side", "left"), ("padding_side", "both"), ("truncation_side", "left"),
            ("tokenizer_class", "BertTokenizer"), ("tokenizer_class", "NewerTokenizer"),
            ("tokenizer_class", 7), ("tokenizer_class", None),
            ("tokenizer_class", "LlamaTokenizer"),
            ("pad_token", None), ("pad_token", "[NOBODY]"), ("pad_token", 7), ("cls_token", None),
            ("unk_token", "a"), ("pad_token", "good"), ("do_lower_case", False),
            ("model_input_names", ["input_ids"]), ("model_input_names", []),
            ("model_input_names", ["input_ids", "attention_mask"]),
            ("model_input_names", ["input_ids", "positions"]), ("model_input_names", 7),
            ("added_tokens_decoder", {"0": {"content": "x"}}), ("added_tokens_decoder", 7),
            ("added_tokens_decoder", {"999999": {"content": "x", "special": True}}),
            ("extra_special_tokens", {"image_token": "<image>"}), ("extra_special_tokens", [7]),
            ("auto_map", {"AutoTokenizer": ["x.Y", None]}), ("backend", "nothing"),
            ("chat_template", "{{ 1/0 }}"), ("clean_up_tokenization_spaces", "x"),
            ("add_prefix_space", True), ("use_fast", False), ("processor_class", "Nothing"),
        )
    )  # fmt: skip
    config.write_bytes(to_json({**tree, key: value}))
    return f"tokenizer_config.json: {key} is {brief(value)}", ANY, False


def _tensors(folder: Path, draw: Random) -> Outcome:
    path = folder / WEIGHTS
    tensors = load_file(path)
    name = draw.choice(sorted(tensors))
    value = tensors[name]
    what, allowed, alone = f"{name} ", CANNOT, True
    kind = draw.choice(_TENSOR_KINDS)
    if kind == "renamed":
        new = typo(name, draw)
        new = new if new not in tensors else f"{new}x"
        tensors[new] = tensors.pop(name)
        what += f"renamed to {new}"
    elif kind == "dropped":
        del tensors[name]
        what += "dropped"
    elif kind == "extra":
        new = draw.choice(("extra.weight", "bert.encoder.layer.2.output.dense.weight", f"{name}_a",
                           "bert.encoder.layer.0.attention.self.distance_embedding.weight",
                           "classifier.lora_A.weight", f"{name}.absmax",
                           f"{name}_scale"))  # fmt: skip
        tensors[new] = value.clone()
        what = f"an extra {new}"
    elif kind == "reshaped":
        changed = torch.cat([value, value], dim=draw.randrange(value.dim()))
        changed = draw.choice((changed, value.reshape(-1, 1), value[..., :-1].clone()))
        tensors[name] = changed.contiguous()
        what += f"of shape {tuple(changed.shape)} in place of {tuple(value.shape)}"
    elif kind == "halves":
        what, allowed, alone = "every tensor in float16", PASSES, False
        tensors = {key: item.half() for key, item in tensors.items()}
    elif kind == "doubles":
        what, allowed = "every tensor in float64", PASSES
        tensors = {key: item.double() for key, item in tensors.items()}
    elif kind == "integers":
        tensors[name] = (value * 100).to(torch.int8)
        what, allowed, alone = f"{what}in int8", ANY, False
    elif kind == "not finite":
        odd = draw.choice((float("nan"), float("inf")))
        _spoil(value, odd, draw)
        what, allowed, alone = f"{what}has {odd}", ANY, False
    elif kind == "enormous":
        tensors[name] = value * 1e30
        what, allowed, alone = f"{what}times 1e30", ANY, False
    elif kind == "prefixed":
        prefix = draw.choice(("module.", "_orig_mod.", "model.", "_forward_module."))
        tensors = {f"{prefix}{key}": item for key, item in tensors.items()}
        what, allowed = f"every name begins with {prefix}", ANY
    elif kind == "adapter inside":
        tensors = {f"base_model.model.{key}": item for key, item in tensors.items()}
        new = "base_model.model.bert.encoder.layer.0.attention.self.query.lora_A.default.weight"
        tensors[new] = torch.randn(4, 32)
        what, alone = "names and weights of an adapter", False
    elif kind == "all gone":
        tensors = {"nothing": torch.zeros(1)}
        what = "one tensor alone, called nothing"
    elif kind == "old names":
        tensors = {key.replace("LayerNorm.weight", "LayerNorm.gamma")
                   .replace("LayerNorm.bias", "LayerNorm.beta"): item
                   for key, item in tensors.items()}  # fmt: skip
        what, allowed = "LayerNorm's old names, gamma and beta", ANY
    elif kind == "harmless":
        tensors["bert.embeddings.position_ids"] = torch.arange(64)[None]
        what, allowed = "an extra bert.embeddings.position_ids", PASSES
    save_file(tensors, path, metadata={"format": "pt"})
    return what, allowed, alone


_TENSOR_KINDS = (
    "renamed", "renamed", "dropped", "dropped", "extra", "extra", "reshaped", "reshaped", "halves",
    "doubles", "integers", "not finite", "enormous", "prefixed", "prefixed", "adapter inside",
    "all gone", "old names", "harmless",
)  # fmt: skip


def _spoil(value: torch.Tensor, odd: float, draw: Random) -> None:
    flat = value.view(-1)
    flat[draw.randrange(len(flat))] = odd


def _weights_file(folder: Path, draw: Random) -> Outcome:
    path = folder / WEIGHTS
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    kind = draw.randrange(6)
    if kind == 0:
        header, change = mutate_tree(json.loads(content[8 : 8 + length]), draw)
        made = json.dumps(header).encode()
        path.write_bytes(len(made).to_bytes(8, "little") + made + content[8 + length :])
        return f"{WEIGHTS}: header, {change}", ANY, False
    if kind == 1:
        path.write_bytes(
            draw.choice((0, 2**40, 2**63, length + 1)).to_bytes(8, "little") + content[8:]
        )
        return f"{WEIGHTS}: another length of the header", NOT_THERE, False
    if kind == 2:
        cut = draw.choice((0, 4, 8, 100, len(content) // 2, len(content) - 1))
        path.write_bytes(content[:cut])
        return f"{WEIGHTS}: cut after {cut} bytes", NOT_THERE, False
    if kind == 3:
        other = draw.choice(
            (b"PK\x03\x04", b"<!DOCTYPE html><html></html>", b"\x1f\x8b", b"{}",
             b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
        )  # fmt: skip
        path.write_bytes(other)
        return f"{WEIGHTS}: begins with {brief(other[:12])}", NOT_THERE, False
    changed, what = mutate_bytes(content, draw)
    path.write_bytes(changed)
    return f"{WEIGHTS}: {what}", ANY, False


def _index(folder: Path, draw: Random) -> Outcome:
    """Divide the weights into shards with an index, right or wrong."""
    tensors = load_file(folder / WEIGHTS)
    names = sorted(tensors)
    shards = {f"model-{part}-of-2.safetensors": names[part::2] for part in range(2)}
    for shard, own in shards.items():
        save_file({name: tensors[name] for name in own}, folder / shard, metadata={"format": "pt"})
    (folder / WEIGHTS).unlink()
    index: Any = {
        "metadata": {"total_size": 1},
        "weight_map": {name: shard for shard, own in shards.items() for name in own},
    }
    kind = draw.randrange(7)
    what, allowed = "right", PASSES
    name = draw.choice(names)
    if kind == 1:
        (folder / "model-1-of-2.safetensors").unlink()
        what, allowed = "a shard is missing", CANNOT
    elif kind == 2:
        del index["weight_map"][name]
        what, allowed = f"{name} is not in the index", ANY
    elif kind == 3:
        index["weight_map"][name] = draw.choice(
            ("../../rows.csv", "/dev/zero", "config.json", "", 7, None, ["a"], "x" * 300, "a\0b")
        )
        what, allowed = f"{name} lies in {brief(index['weight_map'][name])}", CANNOT
    elif kind == 4:
        index, change = mutate_tree(index, draw)
        what, allowed = str(change), ANY
    elif kind == 5:
        index["weight_map"]["extra.weight"] = "model-0-of-2.safetensors"
        what, allowed = "a tensor that no shard holds", ANY
    elif kind == 6:
        shutil.copyfile(folder / "model-0-of-2.safetensors", folder / WEIGHTS)
        what, allowed = "right, and half a file of weights beside", ANY
    (folder / INDEX).write_bytes(to_json(index))
    return f"{INDEX}: {what}", allowed, True


def _beside(folder: Path, draw: Random) -> Outcome:
    """Add a file that other programs write, or that belongs to something else."""
    odd = draw.choice(ODD_VALUES)
    choices: tuple[tuple[str, Any, frozenset[int]], ...] = (
        ("adapter_config.json", {"peft_type": "LORA", "r": 4, "base_model_name_or_path": "x"},
         CANNOT),
        ("adapter_config.json", odd, ANY), ("generation_config.json", odd, ANY),
        ("generation_config.json", {"max_length": "x", "num_beams": -1}, ANY),
        ("special_tokens_map.json", odd, ANY),
        ("special_tokens_map.json", {"pad_token": "[SEP]", "cls_token": "nobody"}, ANY),
        ("added_tokens.json", {"[NEW]": 10_000}, ANY), ("added_tokens.json", odd, ANY),
        ("preprocessor_config.json", odd, ANY), ("processor_config.json", odd, ANY),
        ("chat_template.jinja", "{{ 1/0 }}", ANY), ("modules.json", odd, ANY),
        ("modules.json", [], ANY), ("sentence_bert_config.json", odd, ANY),
        ("config_sentence_transformers.json", odd, ANY), ("structure.json", odd, ANY),
        ("structure.json", {"layers": [], "hidden_size": 32}, ANY),
        ("vocab.txt", "a\nb\n", ANY), ("vocab.json", {"a": 0}, ANY), ("merges.txt", "a b", ANY),
        ("modeling_own.py", "raise SystemExit('ran')", ANY), ("tokenizer.model", "x", ANY),
        ("model.onnx", "x", ANY), ("pytorch_model.bin", "x", ANY), ("manifest.json", {}, ANY),
        ("README.md", "x", PASSES), ("other.safetensors", "x", ANY),
    )  # fmt: skip
    name, value, allowed = draw.choice(choices)
    content = value.encode(errors="replace") if isinstance(value, str) else to_json(value)
    (folder / name).write_bytes(content)
    return f"{name} beside: {brief(value)}", allowed, False


def _files(folder: Path, draw: Random) -> Outcome:
    """Take files away, or put something in their place that is no readable file."""
    name = draw.choice(sorted(path.name for path in folder.iterdir()))
    path = folder / name
    kind = draw.choice(
        ("gone", "empty", "a directory", "a FIFO", "a loop", "zeros without end", "nothing there",
         "bytes", "an empty folder", "pickles alone", "an adapter alone", "an old layout",
         "all in UTF-16", "a list")
    )  # fmt: skip
    if kind == "an empty folder":
        for item in folder.iterdir():
            item.unlink()
        return kind, CANNOT, False
    if kind == "pickles alone":
        (folder / WEIGHTS).rename(folder / "pytorch_model.bin")
        return kind, CANNOT, False
    if kind == "an adapter alone":
        for item in (folder / WEIGHTS, folder / "config.json"):
            item.unlink()
        (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')
        (folder / "adapter_model.safetensors").write_bytes(b"x")
        return kind, CANNOT, False
    if kind == "an old layout":
        (folder / "0_Transformer").mkdir()
        for item in [item for item in folder.iterdir() if item.is_file()]:
            item.rename(folder / "0_Transformer" / item.name)
        (folder / "modules.json").write_text("[]")
        return kind, CANNOT, False
    content = path.read_bytes()
    path.unlink()
    made: dict[str, Callable[[], object]] = {
        "gone": lambda: None,
        "empty": path.touch,
        "a directory": path.mkdir,
        "a FIFO": lambda: os.mkfifo(path),
        "a loop": lambda: path.symlink_to(name),
        "zeros without end": lambda: path.symlink_to("/dev/zero"),
        "nothing there": lambda: path.symlink_to("nowhere"),
        "bytes": lambda: path.write_bytes(draw.randbytes(1_000)),
        "all in UTF-16": lambda: path.write_bytes(content.decode("latin-1").encode("utf-16")),
        "a list": lambda: path.write_text("[]"),
    }
    made[kind]()
    return f"{name}: {kind}", ANY if name == "tokenizer_config.json" else CANNOT, False


def _processor_value(path: Path, draw: Random) -> Outcome:
    tree = json.loads(path.read_text())
    values: Sequence[tuple[str, Any]] = (
        ("image_mean", 0.5), ("image_mean", [0.5, 0.5, 0.5]), ("image_mean", "x"),
        ("image_mean", None), ("image_std", 0), ("image_std", [0]), ("image_std", 0.5),
        ("size", 8), ("size", {"height": 4, "width": 4}), ("size", {"shortest_edge": 8}),
        ("size", {"height": 0, "width": 8}), ("size", {"height": 10**6, "width": 10**6}),
        ("size", None), ("do_resize", False), ("do_rescale", False), ("rescale_factor", 0),
        ("rescale_factor", "x"), ("rescale_factor", 1e30), ("do_normalize", False),
        ("do_convert_rgb", True), ("resample", 99), ("resample", "x"), ("do_center_crop", True),
        ("crop_size", 4), ("image_processor_type", "Nothing"), ("image_processor_type", None),
        ("image_processor_type", "CLIPImageProcessor"), ("data_format", "channels_last"),
        ("feature_extractor_type", "Wav2Vec2FeatureExtractor"), ("auto_map", {"a": "x.Y"}),
        ("num_channels", 3), ("image_size", 16), ("patch_size", 3), ("patch_size", 0),
    )  # fmt: skip
    key, value = draw.choice(values)
    path.write_bytes(to_json({**tree, key: value}))
    return f"{path.name}: {key} is {brief(value)}", ANY, False


_MUTATIONS: tuple[Callable[[Path, Random], Outcome], ...] = (
    _config, _config, _config, _tokenizer, _tokenizer, _tensors, _tensors, _tensors, _weights_file,
    _index, _beside, _files, _files,
)  # fmt: skip
