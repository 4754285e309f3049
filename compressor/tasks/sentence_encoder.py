"""An encoder without a head that gives one vector for each text.

transformers has a class for every encoder with a classification head, none for pooled vectors, so
one is made of the plain encoder's class. It stands where a classifier stands: the encoder is its
`base_model` under the usual prefix, so that pruning, loading, rebuilding and export see nothing
new. What is saved is the plain encoder, which every other tool knows, with the files of
`compressor.tasks.pooling` beside it, the weights of linear layers after pooling among them. The
encoder's own pooler, a layer that sentence vectors are not taken from, is left out.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from transformers.utils.generic import ModelOutput

from compressor.errors import EnvironmentMismatch
from compressor.tasks.model_classes import model_classes
from compressor.tasks.pooling import AMONG_WEIGHTS, DenseStep, Pooling, dense_weights
from compressor.tasks.text_towers import PROJECTION, projection_file

_SETTINGS = "sentence_embedding"  # the key of the configuration that holds the pooling
_DENSE = "sentence_dense"  # the attribute that holds the linear layers after pooling


@dataclass
class EmbeddingOutput(ModelOutput):
    """What a sentence encoder gives: vectors of shape `(batch, width)`, and its inside."""

    sentence_embedding: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


def pool(states: Tensor, mask: Tensor, pooling: Pooling) -> Tensor:
    """Return one vector for each text, shape `(batch, width)`, whatever it is padded with.

    `states` has shape `(batch, tokens, hidden_size)`; `mask`, shape `(batch, tokens)`, is 0 at
    padding, of which no row is full. Several modes give one vector, `width` times as long. What
    follows pooling is not done here. Ref: Reimers & Gurevych 2019, arXiv:1908.10084, section 3.
    """
    vectors = [_pooled(mode, states, mask) for mode in pooling.modes]
    return vectors[0] if len(vectors) == 1 else torch.cat(vectors, dim=-1)


def _pooled(mode: str, states: Tensor, mask: Tensor) -> Tensor:
    """Return what one mode makes of states, shape `(batch, hidden_size)`."""
    if mode == "cls":
        return states[:, 0]
    there = mask.unsqueeze(-1) != 0  # (batch, tokens, 1)
    if mode == "max":
        # The least number of float16, so that a graph in float16 holds it too.
        return torch.where(there, states, -65504.0).amax(dim=1)
    kept = there.to(states.dtype)
    # 1, 2, 3, ... of the tokens there are, whichever side is padded. Whole numbers, because ONNX
    # Runtime's CPU has no CumSum of float16; sums and not ArgMax, which it lacks for int64
    # (microsoft/onnxruntime#10068).
    if mode == "lasttoken":
        places = torch.cumsum(mask, dim=1)
        is_last = (places == mask.sum(dim=1, keepdim=True)).unsqueeze(-1) & there
        return (states * is_last.to(states.dtype)).sum(dim=1)
    number = kept.sum(dim=1)
    if mode == "weightedmean":
        # Places as parts of the number of tokens: float16 holds their sum.
        places = torch.cumsum(mask, dim=1).unsqueeze(-1).to(states.dtype)
        kept = places / number.unsqueeze(1) * kept
        number = kept.sum(dim=1)
    total = (states * kept).sum(dim=1)
    return total / (number.sqrt() if mode == "mean_sqrt_len_tokens" else number)


def pooling_of(module: Any) -> Pooling:
    """Return how a sentence encoder makes its vectors."""
    return Pooling.from_dict(getattr(module.config, _SETTINGS))


def vector_width(config: Any) -> int:
    """Return how many numbers the vectors of a sentence encoder have, by its configuration."""
    return Pooling.from_dict(getattr(config, _SETTINGS)).width(int(config.hidden_size))


def finished(vectors: Tensor, pooling: Pooling, dense: Sequence[nn.Module]) -> Tensor:
    """Return pooled vectors after the steps that follow pooling, shape `(batch, width)`."""
    for step, linear in zip(pooling.dense, dense, strict=True):
        if step.normalized_input:
            vectors = functional.normalize(vectors, dim=-1)
        if step.is_cut:
            vectors = vectors[:, : step.out_features]
            continue
        vectors = linear(vectors)
        if step.activation == "tanh":
            vectors = torch.tanh(vectors)
    return functional.normalize(vectors, dim=-1) if pooling.normalize else vectors


def vectors_of_states(
    module: Any, states: NDArray[np.float32], mask: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Return what a module makes of states of shape `(batch, tokens, hidden_size)`.

    Where there is one state for each text, it is that of the first token.
    """
    pooling = pooling_of(module)
    if states.shape[1] == 1:
        mask = mask[:, :1]
    with torch.inference_mode():
        given, there = (
            torch.from_numpy(np.ascontiguousarray(array)).to(module.device)
            for array in (states, mask)
        )
        vectors = pool(given, there, pooling)
        found: NDArray[np.float32] = finished(vectors, pooling, _dense_of(module)).cpu().numpy()
    return found


def save_dense(module: Any, directory: Path, folders: Sequence[str]) -> None:
    """Write the weights of each Dense step into its folder, as sentence-transformers reads them."""
    steps = pooling_of(module).dense
    for folder, linear, step in zip(folders, _dense_of(module), steps, strict=True):
        own = {f"linear.{name}": value.contiguous() for name, value in linear.state_dict().items()}
        if step.is_cut:
            own = {"linear.weight": torch.eye(step.out_features, step.in_features)}
        save_file(own, directory / folder / "model.safetensors", metadata={"format": "pt"})


def load_dense(module: Any, directory: Path) -> None:
    """Take the weights of the Dense steps from the folders of the checkpoint in `directory`.

    Raises `EnvironmentMismatch` where they are missing or do not fit what their files say.
    """
    pooling = pooling_of(module)
    steps = zip(pooling.dense_folders, _dense_of(module), pooling.dense, strict=True)
    for folder, linear, step in steps:
        if step.is_cut:
            continue
        place, found = _stored_dense(directory, folder)
        own = {f"linear.{name}": value for name, value in linear.state_dict().items()}
        shapes = {name: list(value.shape) for name, value in found.items()}
        wanted = {name: list(value.shape) for name, value in own.items()}
        if shapes != wanted:
            raise EnvironmentMismatch(
                f"{place}: holds {shapes}, and by config.json beside it {wanted} are needed; take "
                f"both from the same save"
            )
        linear.load_state_dict(
            {name.removeprefix("linear."): value.float() for name, value in found.items()}
        )


def _stored_dense(directory: Path, folder: str) -> tuple[Path, dict[str, Tensor]]:
    """Return the weights of a Dense step, by their names in a file of its own, and their file."""
    if folder != AMONG_WEIGHTS:
        place = dense_weights(directory, folder)
        return place, load_file(place)
    place = projection_file(directory)
    with safe_open(place, framework="pt") as content:
        return place, {"linear.weight": content.get_tensor(PROJECTION)}


def cut_vectors(module: Any, dimensions: int) -> None:
    """Leave out all numbers of the vectors after the first `dimensions`, in place.

    Where vectors were scaled to length 1, those that are left are again. Raises `ValueError` unless
    there are more.
    """
    pooling, width = pooling_of(module), vector_width(module.config)
    if dimensions >= width:
        raise ValueError(f"vectors have {width} numbers, so there is nothing to leave out")
    step = DenseStep(width, dimensions, bias=False, activation="identity", is_cut=True)
    changed = replace(pooling, dense=(*pooling.dense, step), dense_folders=())
    setattr(module.config, _SETTINGS, changed.to_dict())
    setattr(module, _DENSE, nn.ModuleList([*_dense_of(module), nn.Identity()]))


def map_vectors(module: Any, linear: nn.Linear | None, *, normalize: bool) -> None:
    """Let the vectors go through `linear`, if given, in place; it becomes part of the module.

    What scaled them to length 1 before no longer does; with `normalize` they are afterwards.
    """
    pooling, dense = pooling_of(module), list(_dense_of(module))
    changed = replace(pooling, normalize=normalize)
    if linear is not None:
        step = DenseStep(linear.in_features, linear.out_features, activation="identity")
        changed = replace(changed, dense=(*pooling.dense, step), dense_folders=())
        setattr(module, _DENSE, nn.ModuleList([*dense, linear]))
    setattr(module.config, _SETTINGS, changed.to_dict())


def _dense_of(module: Any) -> Sequence[nn.Module]:
    # A module without Dense steps has no such list, so that its keys are those of any encoder.
    found: Sequence[nn.Module] = getattr(module, _DENSE, ())
    return found


def _check_widths(pooling: Pooling, hidden_size: int) -> None:
    width = hidden_size * len(pooling.modes)
    for folder, step in zip(pooling.dense_folders, pooling.dense, strict=True):
        if step.in_features != width:
            raise EnvironmentMismatch(
                f"{folder}/config.json of the checkpoint: in_features is {step.in_features}, and "
                f"the vectors before it have {width} numbers; take all files from the same save"
            )
        width = step.out_features


def _initialise(self: Any, config: Any, base: type[Any]) -> None:
    transformers.PreTrainedModel.__init__(self, config)
    has_pooler = "add_pooling_layer" in inspect.signature(base.__init__).parameters
    encoder = base(config, add_pooling_layer=False) if has_pooler else base(config)
    setattr(self, self.base_model_prefix, encoder)
    if dense := pooling_of(self).dense:
        layers = [
            nn.Identity()
            if step.is_cut
            else nn.Linear(step.in_features, step.out_features, bias=step.bias)
            for step in dense
        ]
        setattr(self, _DENSE, nn.ModuleList(layers))
    self.post_init()


def _forward(
    self: Any,
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    token_type_ids: Tensor | None = None,
    **wanted: Any,
) -> EmbeddingOutput:
    if attention_mask is None:
        attention_mask = torch.ones_like(input_ids)
    # Not every encoder knows segments.
    segments = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
    inside = self.base_model(input_ids, attention_mask=attention_mask, **segments, **wanted)
    pooling = pooling_of(self)
    vectors = pool(inside.last_hidden_state, attention_mask, pooling)
    return EmbeddingOutput(
        sentence_embedding=finished(vectors, pooling, _dense_of(self)),
        hidden_states=inside.hidden_states,
        attentions=inside.attentions,
    )


_CLASSES: dict[type[Any], type[Any]] = {}


def _class_around(base: type[Any]) -> type[Any]:
    """Return the class of a sentence encoder around the plain encoder's class, made once."""
    if base in _CLASSES:
        return _CLASSES[base]

    def __init__(self: Any, config: Any) -> None:  # noqa: N807 - it becomes the method
        _initialise(self, config, base)

    name = base.__name__.removesuffix("Model") + "ForSentenceEmbedding"
    # Another process makes the same class by `made_by`.
    members = {"__init__": __init__, "forward": _forward, "made_by": (_class_around, base)}
    return _CLASSES.setdefault(base, type(name, base.__bases__[:1], members))


@dataclass(frozen=True)
class AutoSentenceEncoder:
    """Chooses the class by the configuration, as transformers' auto classes do."""

    pooling: Pooling

    @property
    def _model_mapping(self) -> Any:
        return transformers.AutoModel._model_mapping

    def from_pretrained(self, directory: Any, *, config: Any = None, **options: Any) -> Any:
        """Load the weights, those of a plain encoder or of one with a head."""
        config = config or transformers.AutoConfig.from_pretrained(
            directory, trust_remote_code=False
        )
        found = self._class_of(config).from_pretrained(directory, config=config, **options)
        module, *about = found if isinstance(found, tuple) else (found,)
        load_dense(module, Path(directory))
        for info in about:  # the keys that no file beside config.json was to have
            info["missing_keys"] = {
                key for key in info["missing_keys"] if not key.startswith(f"{_DENSE}.")
            }
        return found

    def from_config(self, config: Any, *, dtype: torch.dtype) -> Any:
        """Return an encoder with random weights."""
        return self._class_of(config)._from_config(config, dtype=dtype)

    def _class_of(self, config: Any) -> type[Any]:
        # Of an encoder with a decoder, such as T5, the class that is the encoder alone.
        encoders: Any = transformers.AutoModelForTextEncoding._model_mapping
        known = encoders if type(config) in encoders else self._model_mapping
        base = model_classes(known, config)[0]
        is_text = getattr(base, "main_input_name", None) == "input_ids"
        is_whole = known is not encoders and getattr(config, "is_encoder_decoder", False)
        if not is_text or is_whole:
            raise EnvironmentMismatch(
                f"{base.__name__} is no encoder of texts, so it gives no sentence embedding; use a "
                f"text encoder, or set model.task to what the checkpoint is for"
            )
        _check_widths(self.pooling, int(config.hidden_size))
        setattr(config, _SETTINGS, self.pooling.to_dict())
        return _class_around(base)
