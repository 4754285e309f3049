"""Take tiny random models of many architectures through export, parity and int8, and say how far.

The rewrites of an exported graph are found by its dataflow, and every architecture writes another
one. So each family gets a random model of two layers, which is saved, loaded, exported for the CPU,
compared with PyTorch on texts of several lengths (or images), alone and in one batch, and quantized
with `quantize_dynamic`. One line each:

    right      what the file gives is what PyTorch gives, and int8 is near it
    refused    one sentence says what cannot be done and why
    WRONG      the numbers differ
    CRASH      anything else: a bug of ours

Usage: tools/sweep_architectures.py [--only FAMILY ...] [--opset N] [--no-fuse]
Exits with 1 when a line is WRONG or CRASH.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from compressor.errors import CompressorError
from compressor.export.parity import check_parity
from compressor.export.to_onnx import export_onnx
from compressor.models.onnx_model import OnnxModel
from compressor.models.torch_model import TorchModel, load_checkpoint
from compressor.passes import PassContext, apply_pass
from compressor.passes.quantize.settings import QuantizeDynamic
from compressor.progress import SILENT
from compressor.tasks import Batch, Example
from compressor.tasks.sound import Sound

SEED = 0
PARITY_LIMIT = 1e-3  # what a recipe allows by default
# Cosine of all int8 outputs with those of the float file. Random weights of this spread are harder
# than trained ones; a rewrite that mixes up its inputs gives about 0.
LEAST_COSINE = 0.9
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = (*SPECIAL, "the", *(f"w{index}" for index in range(58)))
ROWS = len(WORDS) + 8  # of embedding tables: some tokenizers of transformers add tokens
LABELS: dict[str, Any] = {
    "id2label": {0: "no", 1: "yes", 2: "maybe"},
    "label2id": {"no": 0, "yes": 1, "maybe": 2},
}
TINY: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "initializer_range": 0.3,
}
TEXT = {**TINY, "vocab_size": ROWS, "max_position_embeddings": 64, "pad_token_id": 0}
RELATIVE = {
    "vocab_size": ROWS, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4,
    "initializer_factor": 1.0, "pad_token_id": 0, "eos_token_id": 3, "decoder_start_token_id": 0,
}  # fmt: skip
AFTER_PADDING = {**TEXT, "max_position_embeddings": 66}
DECODER = {**TEXT, "num_key_value_heads": 2, "bos_token_id": 2, "eos_token_id": 3}
IMAGE = {**TINY, "image_size": 16, "patch_size": 4}
LADDER = {  # stages of growing width, as of hierarchical image models
    "image_size": 32, "patch_size": 2, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 4],
    "window_size": 4, "initializer_range": 0.3,
}  # fmt: skip

# Of each model type, the fields of its configuration.
TEXT_FAMILIES: dict[str, dict[str, Any]] = {
    "albert": {**TEXT, "embedding_size": 16},
    "bert": TEXT,
    "big_bird": {**TEXT, "attention_type": "original_full"},
    "camembert": AFTER_PADDING,
    "convbert": {**TEXT, "embedding_size": 32},
    "data2vec-text": AFTER_PADDING,
    "deberta": {**TEXT, "relative_attention": True, "pos_att_type": ["c2p", "p2c"],
                "max_relative_positions": -1},
    "deberta-v2": {**TEXT, "relative_attention": True, "pos_att_type": ["c2p", "p2c"],
                   "position_buckets": 8, "norm_rel_ebd": "layer_norm", "share_att_key": True,
                   "position_biased_input": False, "pooler_hidden_size": 32},
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64,
                   "vocab_size": ROWS, "max_position_embeddings": 64,
                   "initializer_range": 0.3},
    "electra": {**TEXT, "embedding_size": 16},
    "ernie": TEXT,
    "esm": {**TEXT, "max_position_embeddings": 66, "mask_token_id": 4,
            "position_embedding_type": "rotary"},
    "eurobert": {**DECODER, "num_key_value_heads": 4, "mask_token_id": 4},
    "fnet": {**TEXT, "type_vocab_size": 2},
    "funnel": {"vocab_size": ROWS, "block_sizes": [1, 1], "d_model": 32, "n_head": 4,
               "d_head": 8, "d_inner": 64, "num_decoder_layers": 1},
    "funnel (factorized)": {"vocab_size": ROWS, "block_sizes": [2], "d_model": 32, "n_head": 4,
                            "d_head": 8, "d_inner": 64, "num_decoder_layers": 1,
                            "attention_type": "factorized", "initializer_range": 1.0},
    "gemma": {**DECODER, "head_dim": 8},
    "gemma2": {**DECODER, "head_dim": 8},
    "gemma3_text": {**DECODER, "head_dim": 8},
    "gpt2": {"vocab_size": ROWS, "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 4,
             "initializer_range": 0.3, "pad_token_id": 0},
    "gte": {**TEXT, "rope_theta": 10000.0},
    "helium": {**DECODER, "num_key_value_heads": 4, "head_dim": 8},
    "jina_embeddings_v3": TEXT,
    "layoutlm": TEXT,
    "llama": DECODER,
    "longformer": {**AFTER_PADDING, "attention_window": 8},
    "megatron-bert": TEXT,
    "mistral": DECODER,
    "mobilebert": {**TEXT, "embedding_size": 16, "intra_bottleneck_size": 16,
                   "num_feedforward_networks": 2},
    "modernbert": {**TEXT, "global_attn_every_n_layers": 2, "local_attention": 8,
                   "cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3},
    "mpnet": AFTER_PADDING,
    "mt5": {**RELATIVE, "feed_forward_proj": "gated-gelu"},
    "nomic_bert": TEXT,
    "nystromformer": {**TEXT, "num_landmarks": 4, "segment_means_seq_len": 64},
    "qwen2": DECODER,
    "qwen3": {**DECODER, "head_dim": 8},
    "rembert": {**TEXT, "input_embedding_size": 16, "output_embedding_size": 16},
    "roberta": AFTER_PADDING,
    "roberta-prelayernorm": AFTER_PADDING,
    "roformer": {**TEXT, "embedding_size": 32},
    "squeezebert": {**TEXT, "embedding_size": 32},
    "t5": RELATIVE,
    "t5 (gated)": {**RELATIVE, "feed_forward_proj": "gated-gelu"},
    "xlm-roberta": AFTER_PADDING,
    "xlm-roberta-xl": AFTER_PADDING,
    "xlnet": {"vocab_size": ROWS, "d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 64,
              "pad_token_id": 0},
    "xmod": {**AFTER_PADDING, "languages": ["en"], "default_language": "en"},
}  # fmt: skip
IMAGE_FAMILIES: dict[str, dict[str, Any]] = {
    "beit": IMAGE,
    "beit (relative)": {**IMAGE, "use_relative_position_bias": True,
                        "use_shared_relative_position_bias": True},
    "clip": {"vision_config": IMAGE, "text_config": TEXT, "projection_dim": 16},
    "convnext": {"num_stages": 2, "hidden_sizes": [16, 32], "depths": [1, 1], "image_size": 16,
                 "patch_size": 2, "initializer_range": 0.3},
    "data2vec-vision": IMAGE,
    "deit": {**IMAGE, "architectures": ["DeiTForImageClassification"]},
    "dinov2": {**IMAGE, "mlp_ratio": 2},
    "dinov2 (gated)": {**IMAGE, "mlp_ratio": 2, "use_swiglu_ffn": True},
    "dinov2_with_registers": {**IMAGE, "mlp_ratio": 2, "num_register_tokens": 2},
    "dinov3_vit": {**IMAGE, "num_register_tokens": 2},
    "dinov3_vit (gated)": {**IMAGE, "num_register_tokens": 2, "use_gated_mlp": True},
    "hiera": {"image_size": [16, 16], "patch_size": [4, 4], "patch_stride": [4, 4],
              "patch_padding": [0, 0], "embed_dim": 16, "depths": [1, 1], "num_heads": [1, 2],
              "query_stride": [2, 2], "num_query_pool": 1, "masked_unit_size": [2, 2],
              "masked_unit_attention": [True, False]},
    "ijepa": IMAGE,
    "mobilenet_v2": {"image_size": 32, "depth_multiplier": 0.25, "initializer_range": 0.3},
    "resnet": {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 1],
               "layer_type": "basic"},
    "siglip": {"vision_config": IMAGE, "text_config": {**TEXT, "projection_size": 32}},
    "swin": LADDER,
    "swinv2": LADDER,
    "vit": IMAGE,
    "vit_msn": IMAGE,
}  # fmt: skip
WAVES: dict[str, Any] = {
    **{**TINY, "vocab_size": ROWS, "conv_dim": [16, 16], "conv_kernel": [10, 3]},
    **{"conv_stride": [10, 8], "num_feat_extract_layers": 2, "num_conv_pos_embeddings": 8},
    **{"num_conv_pos_embedding_groups": 4, "classifier_proj_size": 16},
    # With norms over the whole of a sound what they compute depends on how far it is padded.
    **{"feat_extract_norm": "layer"},
}
_SOUND_FAMILIES: dict[str, dict[str, Any]] = {
    "audio-spectrogram-transformer": {**TINY, "max_length": 32, "num_mel_bins": 16,
                                      "patch_size": 8},
    "hubert": WAVES,
    "wav2vec2": WAVES,
    "wav2vec2 (norms first)": {**WAVES, "do_stable_layer_norm": True},
    "wavlm": {**WAVES, "do_stable_layer_norm": True},
    "whisper": {"d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 4,
                "encoder_ffn_dim": 64, "decoder_layers": 1, "decoder_attention_heads": 4,
                "decoder_ffn_dim": 32, "num_mel_bins": 16, "max_source_positions": 50,
                "classifier_proj_size": 16, "vocab_size": ROWS, "init_std": 0.3,
                "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
                "decoder_start_token_id": 1},
}  # fmt: skip
RATE = 16_000
# The same without a head, which give a vector.
VECTORS_OF_SOUNDS = {
    f"{name} (vectors)": fields for name, fields in _SOUND_FAMILIES.items() if "(" not in name
}
SOUND_FAMILIES = {**_SOUND_FAMILIES, **VECTORS_OF_SOUNDS}
# What the short form takes: a gated feed-forward whose weights are packed, read at one token.
QUICK = ("nomic_bert", "dinov2 (gated)")
# Without a head these give vectors too; reading the first token is where most is rewritten.
WITHOUT_ENCODER = frozenset((
    "funnel", "funnel (factorized)", "gpt2", "helium", "llama", "mistral", "qwen2", "qwen3",
    "xlnet",
))  # fmt: skip

# Classes that tag tokens, as those that classify texts hold a decoder too.
TAGGERS = frozenset(("mt5", "t5", "t5 (gated)"))

# Encoders without a head, which give a vector: of sounds, and of images where transformers has no
# classifier of the type.
HEADLESS = frozenset(("dinov3_vit", "dinov3_vit (gated)", *VECTORS_OF_SOUNDS))

# Of these static int8 computes convolutions in int8 too.
CONVOLVING = ("convnext", "convnextv2", "mobilenet_v2", "resnet", "swin", "swinv2")

# Decoders whose tokenizers mark the beginning of a text alone, and those that mark no end of it:
# a vector or class is read off the last token, which then is a word and not always the same.
BEGUN = frozenset(("gemma", "gemma2", "gemma3_text", "helium", "llama", "mistral"))
BARE = frozenset(("gpt2", "qwen2", "qwen3"))

# What is told of a text is read at the last place of a row, whatever stands there.
FROM_THE_LEFT = frozenset(("xlnet",))

Verdict = Literal["right", "refused", "WRONG", "CRASH"]


@dataclass(frozen=True)
class Line:
    """What became of one model; `detail` are its numbers, or why there are none."""

    family: str
    head: str
    verdict: Verdict
    stage: str  # that was reached: build, load, export, parity, int8
    detail: str
    seconds: float

    @property
    def text(self) -> str:
        """Return the line of the table."""
        start = f"{self.family:22} {self.head:10} {self.verdict:8} {self.stage:7}"
        return f"{start} {self.seconds:5.1f} s  {self.detail}"


def sweep(
    families: Sequence[str], *, opset: int | None = None, fuse: bool = True
) -> Iterator[Line]:
    """Yield one line for each family and head, as soon as it is known."""
    for family in families:
        heads = ["classifier"]
        if family in TEXT_FAMILIES and family not in WITHOUT_ENCODER:
            heads.append("cls")
        for head in heads:
            with tempfile.TemporaryDirectory() as folder:
                yield _line(Path(folder), family, head, opset=opset, fuse=fuse)


def _line(folder: Path, family: str, head: str, *, opset: int | None, fuse: bool) -> Line:
    started = time.monotonic()
    stages = ["build"]
    verdict: Verdict = "right"
    try:
        verdict, detail = _try(folder, family, head, stages, opset=opset, fuse=fuse)
    except CompressorError as error:
        verdict, detail = "refused", " ".join(str(error).split())
        if stages[-1] == "parity":  # the file does not run, or computes something else
            verdict = "WRONG"
    except Exception as error:  # noqa: BLE001 -- a crash is what this looks for
        last = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(last.filename).name}:{last.lineno} {last.name}"
        verdict, detail = "CRASH", f"{type(error).__name__} in {place}: {error}".split("\n")[0]
    return Line(family, head, verdict, stages[-1], detail, time.monotonic() - started)


def _try(
    folder: Path, family: str, head: str, stages: list[str], *, opset: int | None, fuse: bool
) -> tuple[Verdict, str]:
    build(folder / "checkpoint", family, head)
    stages.append("load")
    task = "sentence-embedding" if head == "cls" else None
    model = load_checkpoint(folder / "checkpoint", task=task)
    stages.append("export")
    exported = export_onnx(model, folder / "model.onnx", fuse=fuse, opset=opset, threads=1)
    stages.append("parity")
    batches = list(_batches(model, family))
    parity = check_parity(model, exported, batches, PARITY_LIMIT)
    alone = _alone(model, family)
    stages.append("int8")
    notes: list[str] = []
    quantized = apply_pass(
        QuantizeDynamic.model_validate({"min_elements": 256}),
        exported,
        _context(model, folder, notes),
    )
    cosine = _cosine(exported, quantized, batches)
    detail = f"differs by {parity.max_abs_diff:.1e}, int8 cosine {cosine:.4f}"
    if alone > PARITY_LIMIT:
        padded = (
            f"PyTorch's own outputs change by {alone:.1e} with padding, which has to be refused"
        )
        return "WRONG", f"{padded}; {detail}"
    return ("right" if cosine > LEAST_COSINE else "WRONG"), detail


def build(folder: Path, family: str, head: str) -> None:
    """Write a random checkpoint of a family, with its tokenizer or image processor."""
    torch.manual_seed(SEED)
    fields = {**TEXT_FAMILIES, **IMAGE_FAMILIES, **SOUND_FAMILIES}[family]
    config = transformers.AutoConfig.for_model(family.partition(" ")[0], **fields, **LABELS)
    if family in IMAGE_FAMILIES:
        auto: Any = transformers.AutoModelForImageClassification
        if family in HEADLESS:
            auto = transformers.AutoModel
        size = _side(family)
        processor = transformers.ViTImageProcessorPil(
            size={"height": size, "width": size}, image_mean=[0.5] * 3, image_std=[0.5] * 3
        )
        processor.save_pretrained(folder)
    elif family in SOUND_FAMILIES:
        auto = transformers.AutoModelForAudioClassification
        if family in HEADLESS:
            auto = transformers.AutoModel
        _extractor(family).save_pretrained(folder)
    else:
        auto = transformers.AutoModelForSequenceClassification
        if family in TAGGERS:
            auto = transformers.AutoModelForTokenClassification
        _tokenizer(family).save_pretrained(folder)
        if head == "cls":
            auto = transformers.AutoModel
            if family in TAGGERS:
                auto = transformers.AutoModelForTextEncoding
            (folder / "1_Pooling").mkdir()
            (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true}')
            (folder / "modules.json").write_text(
                '[{"idx": 0, "path": "", "type": "sentence_transformers.models.Transformer"},'
                ' {"idx": 1, "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}]'
            )
    module = auto.from_config(config).eval()
    for name, parameter in module.named_parameters():
        # Some begin at zero, where they would say nothing.
        if "relative_position_bias" in name or "relative_attention_bias" in name:
            torch.nn.init.normal_(parameter, std=1.0)
    module.save_pretrained(folder)


def _side(family: str) -> int:
    """Return how many pixels wide and high the images of a family are."""
    given = IMAGE_FAMILIES[family].get("image_size", 16)
    return int(given[0] if isinstance(given, list) else given)


def _extractor(family: str) -> Any:
    """Return what makes a model's inputs of samples."""
    kind = family.partition(" ")[0]
    if kind == "whisper":
        return transformers.WhisperFeatureExtractor(feature_size=16, chunk_length=1)
    if kind == "audio-spectrogram-transformer":
        return transformers.ASTFeatureExtractor(num_mel_bins=16, max_length=32)
    return transformers.Wav2Vec2FeatureExtractor(return_attention_mask=True)


def _tokenizer(family: str) -> Any:
    """Return a tokenizer of made-up words that marks the ends of a text as the family's own do."""
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    shared: dict[str, Any] = {
        "model_max_length": 64,
        "model_input_names": ["input_ids", "attention_mask"],
        **dict(zip(names, SPECIAL, strict=True)),
    }
    if family == "qwen2":  # whatever a folder holds, transformers makes its own class of it
        vocabulary, merges = _pieces()
        made: Any = transformers.Qwen2Tokenizer  # whose merges are said to be texts
        return made(vocab=vocabulary, merges=merges, eos_token=SPECIAL[3], **shared)
    words = {word: index for index, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token=SPECIAL[1]))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if family not in BARE:
        end = "" if family in BEGUN else " [SEP]"
        special = [("[CLS]", 2), ("[SEP]", 3)]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"[CLS] $A{end}", special_tokens=special if end else special[:1]
        )
    side = "left" if family in FROM_THE_LEFT else "right"
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, padding_side=side, **shared
    )


def _pieces() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Return the vocabulary and the merges of a byte-level tokenizer of about the same words."""
    merges = [("t", "h"), ("th", "e"), *(("w", str(digit)) for digit in range(10))]
    merges += [(f"w{number // 10}", str(number % 10)) for number in range(10, 42)]
    pieces = [*SPECIAL, "\u0120", *"the", "w", *"0123456789", *(a + b for a, b in merges)]
    return {piece: index for index, piece in enumerate(pieces)}, merges


def _examples(family: str) -> list[Example]:
    random = np.random.default_rng(SEED)
    if family in TEXT_FAMILIES:
        lengths = (30, 1, 2, 9, 5, 7, 17, 3)
        return [" ".join(random.choice(WORDS[5:], size=length)) for length in lengths]
    if family in SOUND_FAMILIES:
        return [sound(random, 3000 + 500 * row) for row in range(4)]
    size = _side(family)
    return [random.integers(0, 256, (size, size, 3)).astype(np.uint8) for _ in range(4)]


def sound(random: np.random.Generator, length: int) -> Example:
    """Return a tone of so many samples, with noise."""
    tone = np.sin(np.arange(length) * random.uniform(0.01, 0.5))
    noise = 0.1 * random.standard_normal(length)
    return Sound((0.4 * tone + noise).astype(np.float32), RATE, "a made-up sound")


def _batches(model: TorchModel, family: str) -> Iterator[Batch]:
    examples = _examples(family)
    yield model.task.encode(model.preprocessor, examples)
    for example in examples[:3]:
        yield model.task.encode(model.preprocessor, [example])


def _alone(model: TorchModel, family: str) -> float:
    """Return by how much PyTorch's own outputs for an example depend on the others beside it."""
    examples = _examples(family)
    together = model.predict(model.task.encode(model.preprocessor, examples))
    alone = [model.predict(model.task.encode(model.preprocessor, [item])) for item in examples]
    return float(np.max(np.abs(together - np.concatenate(alone))))


def _context(model: TorchModel, folder: Path, notes: list[str]) -> PassContext:
    return PassContext(
        splits={},
        load_baseline=lambda: model,
        device=torch.device("cpu"),
        seed=SEED,
        work_dir=folder,
        progress=SILENT,
        note=notes.append,
    )


def _cosine(first: OnnxModel, second: OnnxModel, batches: Sequence[Batch]) -> float:
    def outputs(model: OnnxModel) -> NDArray[np.float32]:
        found = np.concatenate([model.predict(batch) for batch in batches])
        return np.asarray(
            (found - found.mean(axis=0)).ravel()
        )  # what all examples share tells nothing

    before, after = outputs(first), outputs(second)
    return float(before @ after / (np.linalg.norm(before) * np.linalg.norm(after)))


def main() -> int:
    """Print the table and return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    known = [*TEXT_FAMILIES, *IMAGE_FAMILIES, *SOUND_FAMILIES]
    parser.add_argument("--only", nargs="+", choices=known, default=known, metavar="FAMILY")
    parser.add_argument("--opset", type=int, default=None, help="the exporter's own when left out")
    parser.add_argument("--no-fuse", action="store_true", help="standard operators alone")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    chatter: Any = transformers.utils.logging
    chatter.set_verbosity_error()
    chatter.disable_progress_bar()
    bad = 0
    for line in sweep(arguments.only, opset=arguments.opset, fuse=not arguments.no_fuse):
        print(line.text, flush=True)
        bad += line.verdict in ("WRONG", "CRASH")
    print(f"{bad} wrong or crashed")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
