"""How vectors are made by an encoder of texts that was trained beside one of images.

CLIP's takes the state at the token that ends a text and, where it was saved with it, maps it by a
projection: what a sentence encoder calls the last token and a Dense step, so that it is saved as
one. The mean over tokens, usual for other encoders, would be vectors that no image lies near.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors import safe_open

from compressor.errors import EnvironmentMismatch
from compressor.tasks.head import ConfigFile

CLIP_TEXTS = "clip_text_model"
_PAIR = "clip"  # of it and the encoder of images
PROJECTION = "text_projection.weight"
PROJECTED = "TextModelWithProjection"  # how the names of architectures end that project
_LEGACY_END = 2  # eos_token_id of CLIP's first checkpoints, which take the largest id for the end
# SigLIP's reads every text padded to one length without a mask, and has a layer after the last.
_OTHERS = ("siglip", "siglip_text_model", "siglip2", "siglip2_text_model")


def is_projected(config: ConfigFile) -> bool:
    """Return whether config.json is of an encoder of texts that was saved with its projection."""
    return any(str(name).endswith(PROJECTED) for name in config.get("architectures") or ())


def has_own_way(config: ConfigFile) -> bool:
    """Return whether config.json says how the vectors of an encoder of texts are made."""
    return config.get("model_type") in (CLIP_TEXTS, _PAIR, *_OTHERS) or is_projected(config)


def projected_width(place: Path, config: ConfigFile) -> int | None:
    """Return how many numbers the projection of an encoder gives, None without one.

    `place` is its config.json. Raises `EnvironmentMismatch` for another encoder than CLIP's.
    """
    kind = config.get("model_type")
    if kind == _PAIR:
        raise EnvironmentMismatch(
            f"{place}: is a pair of encoders, and vectors of texts come from one of them; save it "
            f"by itself, with transformers.CLIPTextModelWithProjection.from_pretrained(..., "
            f"projection_dim={config.get('projection_dim', 512)}) and its save_pretrained, beside "
            f"the files of the tokenizer"
        )
    if kind != CLIP_TEXTS:
        raise EnvironmentMismatch(
            f"{place}: model type '{kind}' makes one vector of a text in a way of its own, which "
            f"is computed here for {CLIP_TEXTS} alone; set model.pooling if its vectors are made "
            f"of the states of its tokens, or give another encoder of texts"
        )
    if not is_projected(config):
        return None
    width = config.get("projection_dim", 512)  # what transformers takes
    if type(width) is not int or width < 1:
        raise EnvironmentMismatch(
            f"{place}: projection_dim must be a whole number above 0, got {width!r}"
        )
    return width


def projection_file(directory: Path) -> Path:
    """Return the weight file that holds the projection; raises `EnvironmentMismatch` without."""
    for path in sorted(directory.glob("*.safetensors")):
        with safe_open(path, framework="np") as content:
            if PROJECTION in content.keys():  # noqa: SIM118 - it is no dict
                return path
    raise EnvironmentMismatch(
        f"{directory}: the weights lack {PROJECTION}, which vectors are made with; copy the "
        f"checkpoint again, or give one that has it"
    )


def require_end(name: str, config: ConfigFile, tokenizer: Any) -> None:
    """Raise `EnvironmentMismatch` unless the token at which CLIP takes a state ends every text.

    `name` is the checkpoint's.
    """
    end = config.get("eos_token_id", 49407)  # what transformers takes
    if end == _LEGACY_END:
        end = max(tokenizer.get_vocab().values())
    last = tokenizer("a")["input_ids"][-1:]
    if last != [end]:
        raise EnvironmentMismatch(
            f"{name}: CLIP takes the state at token {end}, by eos_token_id in config.json, and the "
            f"tokenizer ends a text with {last[0] if last else 'nothing'}; give the tokenizer that "
            f"the encoder was trained with"
        )
