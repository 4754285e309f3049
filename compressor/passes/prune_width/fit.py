"""Least squares on a narrower model, from the bottom up, so that its layers give what they gave.

Every linear layer that reads the residual stream is fitted to what the wide model's gives, on the
inputs that the narrow model really computes. Every output projection is fitted to the wide model's
sub-layer output plus the difference of the residuals beside it. A LayerNorm over fewer features has
another mean and variance; where it lies on the stream (BERT and its relatives), its scale and shift
are fitted feature by feature. What is left is what no linear map of the features that stayed can
say, and how the factor of a norm differs from token to token.

So nothing here is exact. Rotating the stream onto its principal components before cutting (Ashkboos
et al. 2024, arXiv:2401.15024) loses less where norms lie beside the stream; in BERT a norm scales
the stream itself feature by feature, a rotated scale is a full matrix, and the architecture has no
place for one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from compressor.errors import StepFailed
from compressor.models.families.layers import ConstantOutput, encoder_layers, parts_of
from compressor.passes.prune_structured.fisher import token_mask
from compressor.passes.prune_structured.layerwise import run_layer
from compressor.passes.prune_structured.least_squares import Correction, NormFit, RidgeChoice
from compressor.passes.prune_structured.reconstruct import CalibrationInputs
from compressor.passes.prune_width.feature_groups import Space, unpadded

# Where among the norms of a layer the one behind each sub-layer is.
_NORM_BEHIND = {"attention": slice(0, 1), "feed_forward": slice(1, 2)}


def fit_width(
    student: Any,
    teacher: Any,
    spaces: Sequence[Space],
    kept: Sequence[Sequence[int]],
    calibration: CalibrationInputs,
    *,
    ridge: float,
    advance: Callable[[], object],
    few_tokens: bool = False,
    few_rows: bool = False,
) -> dict[str, RidgeChoice]:
    """Fit `student`, in place, to `teacher`, of whose `spaces` it has the features `kept`.

    `ridge` holds weights to what they are, as a fraction of the mean diagonal of a Gram matrix.
    Both are put into evaluation mode; `advance` is called once a layer, and once for the head.

    With `few_tokens` every layer has a ridge of its own, as in `reconstruction.reconstruct` with
    `leaves_out`, and the result says what was chosen; with `few_rows` those of the head, which read
    one vector of each row.

    Raises `StepFailed`, naming the place, when statistics are not finite or singular.
    """
    student.eval()
    teacher.eval()
    work = _Work(student, teacher, tuple(kept[0]), calibration, ridge, few_tokens, few_rows)
    for index in range(len(encoder_layers(student))):
        work.run_teacher(index)
        if index == 0:
            work.enter()
        work.fit_sub_layer(index, "attention")
        work.fit_sub_layer(index, "feed_forward")
        work.leave(index)
        advance()
    work.fit_head(spaces, kept)
    advance()
    return work.choices


@dataclass(frozen=True)
class _Work:
    """One fit: hidden states of both models wait in files beside the inputs."""

    student: Any
    teacher: Any
    kept: tuple[int, ...]
    calibration: CalibrationInputs
    ridge: float
    few_tokens: bool
    few_rows: bool
    choices: dict[str, RidgeChoice] = field(default_factory=dict)

    def run_teacher(self, index: int) -> None:
        """Store what the wide layer gives at each place, and what it hands to the next."""
        layer = encoder_layers(self.teacher)[index].module
        parts = {**self._readers(layer, "attention"), **self._readers(layer, "feed_forward")}
        norms = self._norms(layer)
        for batch, inputs in self._batches():
            hidden = None if index == 0 else self._get("teacher", batch)["hidden"]
            with _watched({**parts, **norms}) as seen:
                trace = run_layer(self.teacher, index, inputs, hidden)
            assert trace.feed_forward is not None
            assert trace.output is not None
            found = {name: seen.outputs(name) for name in parts}
            on_stream = {name: seen.outputs(name) for name in norms}
            on_stream["attention"] = trace.attention.total
            on_stream["feed_forward"] = trace.feed_forward.total
            on_stream["entry"] = trace.attention.residual
            found |= {name: value[..., list(self.kept)] for name, value in on_stream.items()}
            self._put("target", batch, found)
            self._put("teacher", batch, {"hidden": trace.output})

    def enter(self) -> None:
        """Fit the norm of the embeddings, where it lies on the stream, and go past it."""
        norms = {
            name: part
            for name, part in self.student.base_model.embeddings.named_modules()
            if isinstance(part, nn.LayerNorm) and part.weight.shape == (len(self.kept),)
        }
        for name, norm in norms.items():
            fit = NormFit(norm, leaves_out=self.few_tokens)
            for batch, inputs in self._batches():
                with _watched({name: norm}) as seen:
                    run_layer(self.student, 0, inputs, None, attention_only=True)
                target = self._get("target", batch)["entry"]
                self._add(fit, batch, seen.inputs(name), target)
            self._solve(fit, "the norm of the embeddings")
        for batch, inputs in self._batches():
            trace = run_layer(self.student, 0, inputs, None, attention_only=True)
            self._put("student", batch, {"hidden": trace.attention.residual})

    def fit_sub_layer(self, index: int, place: str) -> None:
        """Fit what reads the stream, then what writes to it, then the norm behind that."""
        layer = encoder_layers(self.student)[index].module
        readers = {
            name: Correction(part, leaves_out=self.few_tokens)
            for name, part in self._readers(layer, place).items()
        }
        if readers:
            for batch, inputs in self._batches():
                seen = self._run(index, place, batch, inputs)[0]
                target = self._get("target", batch)
                for name, fit in readers.items():
                    missing = target[name] - seen.outputs(name)
                    self._add(fit, batch, seen.inputs(name), missing)
            for name, fit in readers.items():
                self._solve(fit, f"'{name}' of layer {index}")
        projection = layer.get_submodule(self._output(place))
        assert isinstance(projection, nn.Linear | ConstantOutput)
        writer = Correction(projection, leaves_out=self.few_tokens)
        for batch, inputs in self._batches():
            part = self._run(index, place, batch, inputs)[1]
            missing = (self._get("target", batch)[place] - part.total) / part.scale
            self._add(writer, batch, part.inputs, missing)
            self._put("writer", batch, {"inputs": part.inputs, "residual": part.residual})
        self._solve(writer, f"'{self._output(place)}' of layer {index}")
        for name, norm in list(self._norms(layer).items())[_NORM_BEHIND[place]]:
            self._fit_norm(name, norm, projection, f"'{name}' of layer {index}")

    def leave(self, index: int) -> None:
        """Move the student's hidden states past a layer."""
        for batch, inputs in self._batches():
            hidden = self._get("student", batch)["hidden"]
            output = run_layer(self.student, index, inputs, hidden).output
            assert output is not None
            self._put("student", batch, {"hidden": output})

    def fit_head(self, spaces: Sequence[Space], kept: Sequence[Sequence[int]]) -> None:
        """Fit the linear layers above the encoder, in the order in which they run."""
        inside = {part for layer in encoder_layers(self.student) for part in layer.module.modules()}
        for position, space in enumerate(spaces):
            own = space.readers(self.student).items()
            linears = {name: part for name, part in own if part not in inside}
            theirs = {name: self.teacher.get_submodule(name) for name in linears}
            fits = {
                name: Correction(part, leaves_out=self.few_rows) for name, part in linears.items()
            }
            rows = list(kept[position + 1]) if position + 1 < len(spaces) else None
            for batch, inputs in self._batches():
                with torch.no_grad(), _watched(theirs) as wide, _watched(linears) as seen:
                    self.teacher(**inputs)
                    self.student(**inputs)
                for name, fit in fits.items():
                    target = wide.outputs(name) if rows is None else wide.outputs(name)[..., rows]
                    self._add(fit, batch, seen.inputs(name), target - seen.outputs(name))
            for name, fit in fits.items():
                self._solve(fit, f"'{name}'")

    def _fit_norm(self, name: str, norm: nn.LayerNorm, projection: nn.Module, place: str) -> None:
        fit = NormFit(norm, leaves_out=self.few_tokens)
        for batch, _ in self._batches():
            stored = self._get("writer", batch)
            with torch.no_grad():
                total = stored["residual"] + projection(stored["inputs"])
            target = self._get("target", batch)[name]
            self._add(fit, batch, total, target)
        self._solve(fit, place)

    def _run(self, index: int, place: str, batch: int, inputs: Mapping[str, Tensor]) -> Any:
        """Return what a sub-layer of the student's read and gave, and its output projection's."""
        only = place == "attention"
        readers = self._readers(encoder_layers(self.student)[index].module, place)
        with _watched(readers) as seen:
            hidden = self._get("student", batch)["hidden"]
            trace = run_layer(self.student, index, inputs, hidden, attention_only=only)
        return seen, trace.attention if only else trace.feed_forward

    def _readers(self, layer: nn.Module, place: str) -> dict[str, nn.Linear]:
        heads, neurons = parts_of(self.student).attention, parts_of(self.student).feed_forward
        own = (heads.query, heads.key, heads.value) if place == "attention" else (neurons.ffn_in,)
        if isinstance(layer.get_submodule(self._output(place)), ConstantOutput):
            return {}
        parts = {name: layer.get_submodule(name) for name in own}
        return {name: part for name, part in parts.items() if isinstance(part, nn.Linear)}

    def _output(self, place: str) -> str:
        parts = parts_of(self.student)
        return parts.attention.output if place == "attention" else parts.feed_forward.ffn_out

    def _norms(self, layer: nn.Module) -> dict[str, nn.LayerNorm]:
        """Return the norms that lie on the stream: first that after attention."""
        if parts_of(self.student).norms_first:
            return {}
        parts = layer.named_modules()
        return {name: part for name, part in parts if isinstance(part, nn.LayerNorm)}

    def _batches(self) -> Iterator[tuple[int, dict[str, Tensor]]]:
        return ((batch, self.calibration[batch]) for batch in range(len(self.calibration)))

    def _get(self, name: str, batch: int) -> dict[str, Tensor]:
        return self.calibration.files.get(name, batch)

    def _put(self, name: str, batch: int, tensors: Mapping[str, Tensor]) -> None:
        # Two names may hold one tensor, which safetensors refuses.
        self.calibration.files.put(name, batch, {key: t.clone() for key, t in tensors.items()})

    def _add(self, fit: Correction | NormFit, batch: int, inputs: Tensor, wanted: Tensor) -> None:
        """Count in the tokens of a batch, or its rows where there is one vector of each."""
        of_model = self.calibration[batch]
        if wanted.ndim == 2:
            mask = torch.ones(len(wanted), 1, dtype=torch.bool, device=wanted.device)
        else:
            mask = token_mask(of_model, *wanted.shape[:2]).to(wanted.device)
        rows = self.calibration.rows_of(batch, mask)
        fit.add(unpadded(inputs, of_model), unpadded(wanted, of_model), rows)

    def _solve(self, fit: Correction | NormFit, place: str) -> None:
        try:
            choice = fit.solve(self.ridge)
        except StepFailed as error:
            raise StepFailed(f"least squares of {place}: {error}") from error
        if choice is not None:
            self.choices[place] = choice


class _Seen:
    """What went into some modules and came out, in parts where tokens are computed in chunks."""

    def __init__(self) -> None:
        self._calls: dict[str, list[tuple[Tensor, Tensor]]] = {}

    def hook(self, name: str) -> Callable[..., None]:
        """Return a forward hook that keeps what passes by."""

        def keep(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            self._calls.setdefault(name, []).append((inputs[0], output))

        return keep

    def inputs(self, name: str) -> Tensor:
        """Return what went in, shape `(batch, tokens, features)` or `(batch, features)`."""
        return torch.cat([call[0] for call in self._calls[name]], dim=1 - self._is_flat(name))

    def outputs(self, name: str) -> Tensor:
        """Return what came out, of the same shape but for the features."""
        return torch.cat([call[1] for call in self._calls[name]], dim=1 - self._is_flat(name))

    def _is_flat(self, name: str) -> bool:
        return self._calls[name][0][0].ndim == 2


@contextmanager
def _watched(modules: Mapping[str, nn.Module]) -> Iterator[_Seen]:
    seen = _Seen()
    hooks = [part.register_forward_hook(seen.hook(name)) for name, part in modules.items()]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()
