"""Which operators of encoders ONNX Runtime's CUDA provider has float16 and bfloat16 kernels for.

Read from the table that ONNX Runtime publishes, docs/OperatorKernels.md, as of its release 1.32. An
operator without a kernel would run on the CPU, with copies there and back.
"""

from __future__ import annotations

from typing import Literal

Float16Type = Literal["float16", "bfloat16"]

# In float16 it lacks these, and has those since an operator set; what is not listed it has.
_NO_FLOAT16 = frozenset(
    (
        "EyeLike",
        "GridSample",
        "Multinomial",
        "NonMaxSuppression",
        "Normalizer",
        "Range",
        "RoiAlign",
        "Scaler",
    )
)
_FLOAT16_SINCE = {"CumSum": 14, "DequantizeLinear": 19, "IsInf": 20, "QuantizeLinear": 19}
# In bfloat16 it has these, some since an operator set; what is not listed stays in float32.
_BFLOAT16 = frozenset(
    (
        "Add",
        "Attention",
        "BiasGelu",
        "Cast",
        "Concat",
        "ConstantOfShape",
        "Div",
        "Erf",
        "Exp",
        "Expand",
        "FastGelu",
        "Flatten",
        "FusedMatMul",
        "Gather",
        "GatherElements",
        "GatherND",
        "Gelu",
        "Gemm",
        "Identity",
        "LayerNormalization",
        "MatMul",
        "Mul",
        "MultiHeadAttention",
        "Neg",
        "Pow",
        "QuickGelu",
        "RMSNormalization",
        "ReduceSum",
        "Relu",
        "Reshape",
        "RotaryEmbedding",
        "Sigmoid",
        "SimplifiedLayerNormalization",
        "SkipLayerNormalization",
        "SkipSimplifiedLayerNormalization",
        "Slice",
        "Softmax",
        "Split",
        "Sqrt",
        "Squeeze",
        "Sub",
        "Sum",
        "Tanh",
        "Tile",
        "Transpose",
        "Trilu",
        "Unsqueeze",
        "Where",
    )
)
_BFLOAT16_SINCE = {
    "Where": 16,
    # Not in that table: graphs with QDQ are made for TensorRT, which reads them in any
    # float type; a cast between QDQ and its matmul would keep it from computing in int8.
    "DequantizeLinear": 19,
    "QuantizeLinear": 19,
    "Conv": 22,
    "HardSigmoid": 22,
    "HardSwish": 22,
}


def has_kernel(operator: str, dtype: Float16Type, version: int) -> bool:
    """Return whether the CUDA provider computes `operator` of operator set `version` in `dtype`."""
    if dtype == "float16":
        return operator not in _NO_FLOAT16 and version >= _FLOAT16_SINCE.get(operator, 0)
    listed = operator in _BFLOAT16 or operator in _BFLOAT16_SINCE
    return listed and version >= _BFLOAT16_SINCE.get(operator, 0)
