"""Passes that train or prune run on a GPU without mixing devices: rehearsed on the CPU.

A tensor here says that it lies on another device, and computes on the CPU with the numbers that it
holds. It does what a real one does: it refuses to meet a tensor of the CPU in one operation, single
numbers aside, and to become a NumPy array before it was brought back. The device is called `meta`,
because autograd knows that one without a driver. Not rehearsed: what is written for `cuda` by name.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any

import accelerate
import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from compressor.data import Dataset
from compressor.models.torch_model import TorchModel
from compressor.passes import PASSES, PassContext, TorchPass, apply_pass
from compressor.passes.prune_structured import layerwise
from compressor.progress import SILENT

DEVICE = torch.device("meta")
make_tensor = torch.tensor
COPIES = frozenset(("aten::_to_copy", "aten::copy_"))


class Elsewhere(torch.Tensor):
    """A tensor on the other device; `held` has its numbers."""

    held: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> Elsewhere:
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=DEVICE,
        )
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, operator, types, arguments=(), options=None):
        return compute(operator, arguments, options or {})

    def __getitem__(self, index: Any) -> torch.Tensor:
        parts = index if isinstance(index, tuple) else (index,)
        # PyTorch would make tensors of lists on the real device of this name.
        known = (make_tensor(part) if isinstance(part, list) else part for part in parts)
        return super().__getitem__(tuple(known))

    def tolist(self) -> Any:
        return self.held.tolist()

    def new_tensor(self, values: Any, **settings: Any) -> Elsewhere:
        return Elsewhere(self.held.new_tensor(values, **settings))


class OtherDevice(TorchDispatchMode):
    """Makes tensors on the other device where somebody asks for them."""

    def __torch_dispatch__(self, operator, types, arguments=(), options=None):
        return compute(operator, arguments, options or {})


def compute(operator: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
    given = [item for item in tree_leaves((arguments, options)) if isinstance(item, torch.Tensor)]
    check_devices(operator._schema.name, arguments, given)
    result_is_there = any(isinstance(item, Elsewhere) for item in given)
    if operator._schema.name == "aten::copy_":
        result_is_there = isinstance(arguments[0], Elsewhere)
    if options.get("device") is not None:
        result_is_there = torch.device(options["device"]) == DEVICE
        options = options | {"device": torch.device("cpu")}
    known = {id(item.held): item for item in given if isinstance(item, Elsewhere)}

    def held(item: Any) -> Any:
        return item.held if isinstance(item, Elsewhere) else item

    def there(item: Any) -> Any:
        if not isinstance(item, torch.Tensor) or not result_is_there:
            return item
        return known[id(item)] if id(item) in known else Elsewhere(item)

    return tree_map(there, operator(*tree_map(held, arguments), **tree_map(held, options)))


def check_devices(name: str, arguments: tuple[Any, ...], given: list[torch.Tensor]) -> None:
    """Raise what PyTorch would; positions may lie on the CPU, and single numbers always."""
    assert not any(item.device == DEVICE and not isinstance(item, Elsewhere) for item in given), (
        f"{name} got a tensor without numbers"
    )
    devices = {isinstance(item, Elsewhere) for item in given if item.dim() > 0}
    looks_up = name.startswith("aten::index") and isinstance(arguments[0], Elsewhere)
    if len(devices) > 1 and name not in COPIES and not looks_up:
        raise RuntimeError(f"{name}: expected all tensors to be on the same device")


@pytest.fixture
def other_device(tiny_bert: TorchModel, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the other device be there, for transformers' Trainer and accelerate too.

    Checkpoints are loaded before, because that uses the real device of this name.
    """
    monkeypatch.setattr(transformers.TrainingArguments, "device", DEVICE)
    monkeypatch.setattr(accelerate.Accelerator, "device", DEVICE)
    monkeypatch.setattr(layerwise, "save_file", save_from_there)
    monkeypatch.setattr(layerwise, "load_file", load_there)
    monkeypatch.setattr(torch, "tensor", tensor_there)
    # None of these knows a device of this name: they change the arithmetic, or check for kernels.
    monkeypatch.setattr(
        import_module("torch.optim.adam"), "_device_dtype_check_for_fused", lambda *rest: None
    )
    monkeypatch.setattr(torch, "inference_mode", torch.no_grad)
    monkeypatch.setattr(torch, "autocast", lambda *settings, **more: nullcontext())
    with OtherDevice():
        yield


def tensor_there(
    values: Any, *, device: torch.device | str | None = None, **settings: Any
) -> torch.Tensor:
    made = make_tensor(values, **settings)
    return made if device is None else made.to(device)


def save_from_there(tensors: dict[str, torch.Tensor], path: Path) -> None:
    save_file({name: value.cpu() for name, value in tensors.items()}, path)


def load_there(path: Path, device: str) -> dict[str, torch.Tensor]:
    return {name: value.to(device) for name, value in load_file(path).items()}


@pytest.fixture
def context(tmp_path: Path, tiny_bert: TorchModel, text_dataset: Dataset) -> PassContext:
    def load_baseline() -> TorchModel:
        copied = copy.deepcopy(tiny_bert.module)
        return TorchModel(copied.to(DEVICE), tiny_bert.preprocessor, tiny_bert.task)

    return PassContext(
        splits={"train": text_dataset, "calibration": text_dataset},
        load_baseline=load_baseline,
        device=DEVICE,
        seed=0,
        work_dir=tmp_path,
        progress=SILENT,
        note=lambda sentence: None,
    )


@pytest.mark.usefixtures("other_device")
class TestRehearsal:
    """The other device behaves as one does."""

    def test_numbers_are_those_of_the_cpu(self):
        values = torch.arange(6.0).view(2, 3)
        there = values.to(DEVICE)
        assert there.device == DEVICE
        assert torch.equal((there @ there.T).cpu(), values @ values.T)
        assert torch.zeros(2, device=DEVICE).device == DEVICE

    def test_mixing_devices_is_an_error(self):
        with pytest.raises(RuntimeError, match="add: expected all tensors to be on the same"):
            torch.ones(2, device=DEVICE) + torch.ones(2)
        with pytest.raises(RuntimeError, match="index_select: expected all tensors to be on the"):
            torch.ones(2).index_select(0, torch.tensor([0], device=DEVICE))

    def test_single_numbers_and_positions_may_lie_on_the_cpu(self):
        there = torch.arange(3.0, device=DEVICE)
        assert (there * torch.tensor(2.0))[torch.tensor([1, 2])].tolist() == [2, 4]

    def test_array_needs_a_copy_on_the_cpu(self):
        there = torch.ones(2).to(DEVICE)
        with pytest.raises(RuntimeError, match="numpy"):
            there.numpy()
        assert there.cpu().numpy().tolist() == [1, 1]

    def test_gradients_stay_where_the_parameters_are(self):
        layer = nn.Linear(3, 1).to(DEVICE)
        layer(torch.ones(2, 3, device=DEVICE)).sum().backward()
        assert layer.weight.grad is not None
        assert layer.weight.grad.cpu().tolist() == [[2, 2, 2]]


SHORT = {"max_steps": 2, "batch_size": 8, "precision": "float32"}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "fine-tuning": ("finetune", SHORT),
    "distillation of logits": ("distill", SHORT | {"label_weight": 0.5}),
    "distillation of hidden states": ("distill", SHORT | {"hidden_weight": 1.0}),
    "distillation of attention": ("distill", SHORT | {"attention_weight": 1.0}),
    "distillation of sub-layers": ("distill", SHORT | {"sublayer_weight": 1.0}),
    "distillation of relations": ("distill", SHORT | {"relation_weight": 1.0}),
    "fewer layers": ("distill", SHORT | {"student_layers": 1}),
    "magnitude": ("prune_magnitude", {"sparsity": 0.5, "finetune": SHORT}),
    "random units": ("prune_structured", {"ratio": 0.5, "importance": "random"}),
    "units by magnitude": ("prune_structured", {"ratio": 0.5, "importance": "magnitude"}),
    "units by Taylor": ("prune_structured", {"ratio": 0.5, "importance": "taylor"}),
    "units by Fisher": ("prune_structured", {"ratio": 0.5, "importance": "fisher"}),
    "units by activation": ("prune_structured", {"ratio": 0.5, "importance": "activation"}),
    "layers": ("prune_structured", {"layers": 1, "neuron_ratio": 0.25}),
    "reconstruction": ("prune_structured", {"ratio": 0.5, "method": "reconstruction"}),
    "recovery": (
        "prune_structured",
        {"ratio": 0.5, "recovery": SHORT | {"kind": "distill", "hidden_weight": 1.0}},
    ),
    "int8-aware training": ("quantize_aware_train", {"epochs": 0.1, "min_elements": 0}),
}


@pytest.mark.usefixtures("other_device")
@pytest.mark.parametrize("name", CASES)
def test_pass_runs_on_the_other_device(name: str, context: PassContext):
    kind, settings = CASES[name]
    step = PASSES[kind].settings.of(settings)
    assert isinstance(step, TorchPass)
    changed = apply_pass(step, context.load_baseline(), context)
    assert {parameter.device for parameter in changed.module.parameters()} == {DEVICE}
    batch = changed.task.encode(changed.preprocessor, context.train.examples[:4])
    assert np.isfinite(changed.predict(batch)).all()
