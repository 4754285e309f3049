"""Sets of ONNX operators by what holds for them in every graph."""

from __future__ import annotations

# Each element of the output depends on the elements of the inputs at the same place, broadcast.
ELEMENTWISE = frozenset(
    (
        "Abs",
        "Add",
        "And",
        "BiasGelu",
        "Cast",
        "Clip",
        "Div",
        "Elu",
        "Erf",
        "Exp",
        "FastGelu",
        "Gelu",
        "HardSigmoid",
        "HardSwish",
        "Identity",
        "LeakyRelu",
        "Max",
        "Min",
        "Mish",
        "Mul",
        "Neg",
        "Not",
        "Or",
        "Pow",
        "QuickGelu",
        "Relu",
        "Sigmoid",
        "Softplus",
        "Sqrt",
        "Sub",
        "Sum",
        "Tanh",
        "Where",
    )
)
