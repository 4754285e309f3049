from __future__ import annotations

import pytest

from compressor.passes.convert_fp16.cuda_kernels import has_kernel


@pytest.mark.parametrize(
    ("operator", "dtype", "version", "known"),
    [
        ("MatMul", "float16", 20, True),
        ("Range", "float16", 20, False),
        ("CumSum", "float16", 13, False),
        ("CumSum", "float16", 14, True),
        ("MultiHeadAttention", "bfloat16", 20, True),
        ("EmbedLayerNormalization", "bfloat16", 20, False),
        ("Conv", "bfloat16", 20, False),
        ("Conv", "bfloat16", 22, True),
    ],
)
def test_kernels_of_the_cuda_provider(operator: str, dtype, version: int, known: bool):
    assert has_kernel(operator, dtype, version) is known
