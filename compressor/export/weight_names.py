"""Gives the weights of an exported graph the names they have in the checkpoint.

The exporter transposes linear weights and packs query, key and value into one matrix; both leave
names such as `val_134`. Recipes name weights (`quantize_dynamic.exclude`) and reports list them, so
they need names that say where in the model they are.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable

import onnx_ir as ir

_SCOPES = "pkg.torch.onnx.name_scopes"  # written by torch's exporter on every node it makes


def name_weights(graph: ir.Graph) -> None:
    """Rename the constant right-hand sides of matmuls after their module.

    The weight of `encoder.layer.0.output.dense` becomes `encoder.layer.0.output.dense.weight`, one
    packed from `self.query`, `self.key` and `self.value` becomes `self.query_key_value.weight`, or
    `self.packed.weight` where it does not show which of them are in it (a key without a bias).
    A weight of several matmuls is named after the first. Weights whose module is not known keep
    their name.
    """
    named: set[str] = set()
    for node in graph:
        # The second is ONNX Runtime's own, which holds the projections of query, key and value.
        is_packed = node.op_type == "Attention" and node.domain == "com.microsoft"
        weight = node.inputs[1] if node.op_type == "MatMul" or is_packed else None
        if weight is None or weight.name not in graph.initializers or weight.name in named:
            continue
        module = _module(node) or _packed(node)
        if is_packed:
            module = f"{module}.packed" if module else ""
        if module and f"{module}.weight" not in graph.initializers:
            graph.initializers.pop(str(weight.name))
            weight.name = f"{module}.weight"
            named.add(weight.name)
            graph.register_initializer(weight)


def _module(node: ir.Node) -> str:
    # The last scope is the operation itself, the one before the module that called it.
    scopes = ast.literal_eval(node.metadata_props.get(_SCOPES, "[]"))
    return str(scopes[-2]) if len(scopes) >= 2 else ""


def _packed(product: ir.Node) -> str:
    [splits] = [output.consumers() for output in product.outputs]
    if len(splits) != 1 or splits[0].op_type != "Split":
        return ""
    readers = [node for output in splits[0].outputs for node in output.consumers()]
    return join_names(dict.fromkeys(filter(None, map(_module, readers))))


def join_names(modules: Iterable[str]) -> str:
    """Return one name for weights of several modules that are packed: `a.query` and `a.key` give
    `a.query_key`. Empty when they are not in one module.
    """
    found = list(modules)
    paths = [module.rpartition(".") for module in found]
    parents = {parent for parent, _, _ in paths}
    # Without a bias the first reader of a part is the attention itself, not its projection.
    whole = [module for module in found if module in parents]
    if whole and parents <= {whole[0], whole[0].rpartition(".")[0]}:
        return f"{whole[0]}.packed"
    names = "_".join(name for _, _, name in paths)
    return f"{parents.pop()}.{names}" if len(parents) == 1 else ""
