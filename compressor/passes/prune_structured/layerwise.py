"""Computes an encoder layer by layer, with what goes in and comes out of both sub-layers.

The module's own forward pass does the work, its list of layers cut to one for the moment. So masks
and position biases are prepared as the architecture wants them, whatever that is.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from compressor.models.families import EncoderParts
from compressor.models.families.handed_on_bias import first_bias
from compressor.models.families.layers import Attention, Encoder, FeedForward, only_layers


@dataclass(frozen=True)
class SubLayerTrace:
    """What happened at one output projection, each of shape `(batch, tokens, features)`.

    `inputs` are those of the projection, `output` what it gave; it is multiplied by `scale` and
    added to `residual`.
    """

    inputs: Tensor
    output: Tensor
    residual: Tensor
    scale: Tensor | float

    @property
    def total(self) -> Tensor:
        """Return the sum of the residual and the scaled output."""
        return self.residual + self.scale * self.output


@dataclass(frozen=True)
class LayerTrace:
    """What happened in one layer; without a feed-forward part when it stopped before."""

    attention: SubLayerTrace
    feed_forward: SubLayerTrace | None
    output: Tensor | None


_Positional = tuple[Tensor, *tuple[object, ...]]  # hidden states come first
_Hook = Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]


class _Stop(Exception):
    """Ends a forward pass where enough is known."""


class _Recorder:
    """Hooks on one layer that put `hidden_states` in and keep what passes by."""

    def __init__(
        self,
        hidden_states: Tensor | None,
        *,
        stops_early: bool,
        given: Mapping[int, Callable[[Tensor], Tensor]],
    ) -> None:
        self.hidden_states = hidden_states
        self.given = given  # by place: what other layers would have computed of the states' shape
        self.stops_early = stops_early
        self.output: Tensor | None = None
        # Inputs and outputs by path; several where a layer computes tokens in chunks.
        self.seen: dict[str, list[tuple[Tensor, Tensor]]] = {}

    def enter(
        self, _: nn.Module, positional: _Positional, named: dict[str, object]
    ) -> tuple[_Positional, dict[str, object]]:
        if self.hidden_states is None:
            self.hidden_states = positional[0]
        states = self.hidden_states
        others = (
            self.given[place](states) if place in self.given else value
            for place, value in enumerate(positional[1:], start=1)
        )
        return (states, *others), named

    def leave(self, _: nn.Module, __: object, output: Tensor | tuple[Tensor, ...]) -> None:
        self.output = output[0] if isinstance(output, tuple) else output
        raise _Stop

    def pass_by(self, path: str, *, is_last: bool) -> _Hook:
        def keep(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            self.seen.setdefault(path, []).append((inputs[0], output))
            if is_last and self.stops_early:
                raise _Stop

        return keep

    def at(self, path: str) -> tuple[Tensor, Tensor]:
        inputs, outputs = zip(*self.seen[path], strict=True)
        return torch.cat(inputs, dim=1), torch.cat(outputs, dim=1)


@torch.no_grad()
def run_layer(
    encoder: Encoder,
    index: int,
    inputs: Mapping[str, Tensor],
    hidden_states: Tensor | None,
    *,
    attention_only: bool = False,
) -> LayerTrace:
    """Run layer `index` of `encoder` on `hidden_states`, in the mode its module is in.

    `inputs` are the model's for the same examples. Without `hidden_states` the layer reads what the
    embeddings give. `attention_only` stops after attention's output projection.
    """
    parts = encoder.parts
    attention_output = parts.attention.output
    recorder = _Recorder(
        hidden_states, stops_early=attention_only, given=_handed_on(encoder, index)
    )
    layer = encoder.layer_list[index]
    with only_layers(encoder, [index]):
        # What the next layer reads is known after that.
        last = layer if index or encoder.after_first is None else encoder.after_first
        hooks = [
            layer.register_forward_pre_hook(recorder.enter, with_kwargs=True),
            last.register_forward_hook(recorder.leave),
        ]
        for path in (attention_output, parts.feed_forward.ffn_in, parts.feed_forward.ffn_out):
            hook = recorder.pass_by(path, is_last=path == attention_output)
            hooks.append(layer.get_submodule(path).register_forward_hook(hook))
        try:
            encoder.module(**inputs)
        except _Stop:
            pass
        finally:
            for handle in hooks:
                handle.remove()
    return _trace(recorder, layer, parts)


@contextmanager
def traced_layers(encoder: Encoder, take: Callable[[int, LayerTrace], object]) -> Iterator[None]:
    """Give `take` what happens in each layer, counted from 0, when the module is run in a block.

    Nothing of it has a gradient. No layer may be run twice in one forward pass.
    """
    parts = encoder.parts
    hooks = []

    def watch(index: int, layer: nn.Module) -> None:
        recorder = _Recorder(None, stops_early=False, given={})

        def enter(_: nn.Module, positional: _Positional) -> None:
            recorder.hidden_states = positional[0]

        @torch.no_grad()
        def leave(_: nn.Module, __: object, output: Tensor | tuple[Tensor, ...]) -> None:
            recorder.output = output[0] if isinstance(output, tuple) else output
            take(index, _trace(recorder, layer, parts))
            recorder.hidden_states = recorder.output = None
            recorder.seen.clear()

        hooks.append(layer.register_forward_pre_hook(enter))
        hooks.append(layer.register_forward_hook(leave))
        for path in (parts.attention.output, parts.feed_forward.ffn_in, parts.feed_forward.ffn_out):
            hook = recorder.pass_by(path, is_last=False)
            hooks.append(layer.get_submodule(path).register_forward_hook(hook))

    try:
        for index, layer in enumerate(encoder.layer_list):
            watch(index, layer)
        yield
    finally:
        for handle in hooks:
            handle.remove()


@contextmanager
def not_computed(part: Attention | FeedForward | None) -> Iterator[None]:
    """Let all linear layers of a sub-layer give zeros in a block, where nobody asks what it gives.

    What they are given is still there for hooks.
    """
    if part is None:
        yield
        return
    with _giving_zeros([*_before_output(part), _output_of(part)]):
        yield


@contextmanager
def known_inputs(part: Attention | FeedForward | None, inputs: Tensor) -> Iterator[None]:
    """Give the output projection of a sub-layer `inputs` in a block, which are known from before.

    Shape `(batch, tokens, in_features)`. The linear layers that they come from are not computed.
    """
    if part is None:
        yield
        return
    start = 0

    def give(_: nn.Module, computed: tuple[Tensor, ...]) -> tuple[Tensor]:
        nonlocal start
        first, start = start, start + computed[0].shape[1]  # where tokens come in chunks
        return (inputs[:, first:start],)

    hook = _output_of(part).register_forward_pre_hook(give)
    try:
        with _giving_zeros(_before_output(part)):
            yield
    finally:
        hook.remove()


def _before_output(part: Attention | FeedForward) -> list[nn.Linear]:
    if isinstance(part, Attention):
        return [part.query, part.key, part.value]
    return [rows.owner for rows in part.rows if isinstance(rows.owner, nn.Linear)]


def _output_of(part: Attention | FeedForward) -> nn.Linear:
    return part.output if isinstance(part, Attention) else part.ffn_out


@contextmanager
def _giving_zeros(linears: Iterable[nn.Linear]) -> Iterator[None]:
    def zeros(width: int) -> Any:  # of the type of a method, with its names
        return lambda given: given.new_zeros(*given.shape[:-1], width)

    different = list(dict.fromkeys(linears))
    for linear in different:
        linear.forward = zeros(len(linear.weight))  # type: ignore[method-assign]
    try:
        yield
    finally:
        for linear in different:
            del linear.forward  # the class has its own


def _handed_on(encoder: Encoder, index: int) -> dict[int, Callable[[Tensor], Tensor]]:
    """Return what a layer is given by those before it, by its place among what it takes."""
    place = encoder.parts.bias_place
    if place is None or index == 0:
        return {}
    first = encoder.layer_list[0].get_submodule(encoder.parts.attention.module)
    return {place: lambda states: first_bias(first, states.shape[1])}


def _trace(recorder: _Recorder, layer: nn.Module, parts: EncoderParts) -> LayerTrace:
    assert recorder.hidden_states is not None
    scales: tuple[Tensor | float, Tensor | float] = (1.0, 1.0)
    if parts.scales is not None:
        scales = attrgetter(*parts.scales)(layer)
    units, output = recorder.at(parts.attention.output)
    attention = SubLayerTrace(units, output, recorder.hidden_states, scales[0])
    if recorder.output is None:
        return LayerTrace(attention, None, None)
    units, output = recorder.at(parts.feed_forward.ffn_out)
    if parts.norms_first:
        residual = attention.total
    else:
        residual, _ = recorder.at(parts.feed_forward.ffn_in)
    return LayerTrace(attention, SubLayerTrace(units, output, residual, scales[1]), recorder.output)


class TensorFiles:
    """Tensors by name and batch in files of one folder, so that memory does not grow with rows."""

    def __init__(self, directory: Path, device: torch.device) -> None:
        self._directory = directory
        self._device = device
        directory.mkdir(parents=True, exist_ok=True)

    def put(self, name: str, batch: int, tensors: Mapping[str, Tensor]) -> None:
        """Write the tensors of one batch, in place of those of the same name."""
        own = {key: value.contiguous() for key, value in tensors.items()}
        save_file(own, self._path(name, batch))

    def get(self, name: str, batch: int) -> dict[str, Tensor]:
        """Read what `put` wrote."""
        return load_file(self._path(name, batch), device=str(self._device))

    def drop(self, name: str, batch: int) -> None:
        """Remove what `put` wrote."""
        self._path(name, batch).unlink()

    def free_bytes(self) -> int:
        """Return how much more the disk holds."""
        return shutil.disk_usage(self._directory).free

    def _path(self, name: str, batch: int) -> Path:
        return self._directory / f"{name}-{batch}.safetensors"
