"""Vectors of texts by the encoder of texts that stands beside an encoder of images, as in CLIP."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from compressor.errors import EnvironmentMismatch, RecipeError
from compressor.machine.quiet import quiet_libraries
from compressor.models.guard import foreign
from compressor.tasks import load_task
from compressor.tasks.image_texts import KEY
from compressor.tasks.image_vectors import OF_TEXTS

_AT_ONCE = 64  # texts
_ADVICE = f"give a checkpoint that holds it whole, or remove {KEY}"


def text_vectors(directory: Path, texts: Sequence[str]) -> NDArray[np.float32]:
    """Return what the encoder of texts of the pair in `directory` gives, `(num_texts, width)`.

    Raises `EnvironmentMismatch` where it or its tokenizer cannot be loaded, and `RecipeError` for a
    text that is longer than it reads.
    """
    with (
        foreign(f"{directory}: its encoder of texts cannot be loaded", _ADVICE),
        quiet_libraries(),
    ):
        config = transformers.AutoConfig.from_pretrained(directory, trust_remote_code=False)
        pair, info = transformers.AutoModel.from_pretrained(
            directory,
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
        tokenizer = load_task("sentence-embedding").load_preprocessor(directory)
    if missing := sorted(key for key in info["missing_keys"] if OF_TEXTS.match(key)):
        raise EnvironmentMismatch(f"{directory}: the weights lack {', '.join(missing)}; {_ADVICE}")
    limit = config.text_config.max_position_embeddings
    for text, ids in zip(texts, tokenizer(list(texts))["input_ids"], strict=True):
        if len(ids) > limit:
            raise RecipeError(
                f"{KEY}: {text[:60]!r} has {len(ids)} tokens, and the encoder of texts reads at "
                f"most {limit}; shorten it"
            )
    found = []
    with torch.inference_mode():
        for start in range(0, len(texts), _AT_ONCE):
            # SigLIP was trained with every text padded to one length; CLIP looks at no padding.
            batch = tokenizer(
                list(texts[start : start + _AT_ONCE]),
                padding="max_length",
                max_length=limit,
                return_tensors="pt",
            )
            read = {name: batch[name] for name in ("input_ids", "attention_mask") if name in batch}
            found.append(pair.eval().get_text_features(**read).pooler_output.numpy())
    vectors: NDArray[np.float32] = np.concatenate(found).astype(np.float32)
    if not np.isfinite(vectors).all():
        raise EnvironmentMismatch(
            f"{directory}: its encoder of texts gives numbers that are not finite; {_ADVICE}"
        )
    return vectors
