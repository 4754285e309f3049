"""What AdamW remembers of a model, carried from one training run to the next while units go.

AdamW starts with no idea of the gradients' size and takes its first steps blindly. Between the
steps of gradual pruning the parameters that stay are the same ones, so their moments still hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from compressor.errors import StepFailed
from compressor.models.families.layers import parts_of
from compressor.models.structure import dense_shape
from compressor.passes.prune_structured.unit_removal import Units
from compressor.training.checkpoints import State, StateFile

_FILE = "moments.safetensors"


class Moments:
    """The optimizer's state by parameter name, between training runs of one model.

    It is handed to one run after another; each starts with what the one before left, and `follow`
    cuts it where the model was pruned in between. `key` names the run that filled it.
    """

    def __init__(self) -> None:
        self.key = ""
        self._values: dict[str, dict[str, Tensor]] = {}
        self._file: StateFile | None = None
        self._before: StateFile | None = None  # needed until the run after it has its result

    def put(self, optimizer: Any, module: nn.Module) -> None:
        """Start `optimizer` with these moments; parameters that have none start without.

        Raises `StepFailed` when they were there and are lost.
        """
        if self._file is not None and not self._values:
            raise StepFailed(
                f"{self._file.path}: the moments of the training before are missing or damaged; "
                f"remove {self._file.path.parent.parent}, so that this pass begins anew, and run "
                f"again"
            )
        names = parameter_names(optimizer, module)
        state = {index: self._values[name] for index, name in names.items() if name in self._values}
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": state, "param_groups": groups})

    def keep(self, optimizer: Any, module: nn.Module, folder: Path, key: str) -> None:
        """Take over the moments of the run `key`, and write them into its folder.

        Those of the run before stay on disk until `forget_before`.
        """
        names = parameter_names(optimizer, module)
        values = {
            names[index]: {kind: value.detach().cpu().clone() for kind, value in each.items()}
            for index, each in optimizer.state_dict()["state"].items()
            if index in names
        }
        self._before, self._file = self._file, StateFile(folder / _FILE, key)
        self.key, self._values = key, values
        tensors = {
            f"{name}/{kind}": value for name, each in values.items() for kind, value in each.items()
        }
        self._file.write(State(tensors, {}))

    def read(self, folder: Path, key: str) -> None:
        """Become what the finished run `key` left in its folder.

        They may be gone since, when the next run is finished too and they are not needed any more.
        """
        self._before, self._file = self._file, StateFile(folder / _FILE, key)
        self.key, self._values = key, {}
        state = self._file.read()
        for name, value in ({} if state is None else state.tensors).items():
            parameter, _, kind = name.rpartition("/")
            self._values.setdefault(parameter, {})[kind] = value
        self.forget_before()

    def forget_before(self) -> None:
        """Remove what the run before the last one left: that one has its result."""
        before, self._before = self._before, None
        if before is not None and self._file is not None and before.path != self._file.path:
            before.remove()

    def follow(self, module: Any, heads: Units, neurons: Units) -> None:
        """Cut the moments as `module` was cut when it lost these heads and neurons.

        Units are those of each layer, counted as they were before the cut. Moments of parameters
        that went with a whole sub-layer go too.
        """
        parts = parts_of(module)
        head_dim = dense_shape(module.config, parts).head_dim
        prefix = f"{module.base_model_prefix}.{parts.layers}"
        for layer, units in heads.items():
            rows = [unit * head_dim + row for unit in units for row in range(head_dim)]
            for path in (parts.attention.query, parts.attention.key, parts.attention.value):
                self._cut(f"{prefix}.{layer}.{path}.weight", 0, rows)
                self._cut(f"{prefix}.{layer}.{path}.bias", 0, rows)
            self._cut(f"{prefix}.{layer}.{parts.attention.output}.weight", 1, rows)
        for layer, units in neurons.items():
            self._cut(f"{prefix}.{layer}.{parts.feed_forward.ffn_in}.weight", 0, units)
            self._cut(f"{prefix}.{layer}.{parts.feed_forward.ffn_in}.bias", 0, units)
            self._cut(f"{prefix}.{layer}.{parts.feed_forward.ffn_out}.weight", 1, units)
        left = {name for name, _ in module.named_parameters()}
        self._values = {name: each for name, each in self._values.items() if name in left}

    def of(self, parameter: str) -> dict[str, Tensor]:
        """Return the moments of one parameter by kind, such as `exp_avg`; empty where none are."""
        return dict(self._values.get(parameter, {}))

    def _cut(self, name: str, dim: int, removed: Sequence[int]) -> None:
        for kind, value in self._values.get(name, {}).items():
            if value.ndim > 0:  # `step` is a number
                stays = torch.ones(value.shape[dim], dtype=torch.bool)
                stays[list(removed)] = False
                kept = stays.nonzero()[:, 0]
                self._values[name][kind] = value.index_select(dim, kept)


def parameter_names(optimizer: Any, module: nn.Module) -> dict[int, str]:
    """Return the names of a module's parameters by their number in the optimizer's state."""
    names = {id(value): name for name, value in module.named_parameters()}
    parameters = [each for group in optimizer.param_groups for each in group["params"]]
    return {
        index: names[id(parameter)]
        for index, parameter in enumerate(parameters)
        if id(parameter) in names
    }
