from __future__ import annotations

import pytest

from compressor.passes import discover
from compressor.recipe_rules import find_conflicts


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_int8_on_a_gpu_is_refused_with_the_reason_and_the_alternative(provider: str) -> None:
    data = {
        "passes": [{"kind": "quantize_dynamic"}],
        "benchmark": {"providers": ["cpu", provider]},
    }
    [mistake] = find_conflicts(data, discover())
    assert mistake.path == ("passes", 0, "kind")
    assert mistake.message == (
        f"quantize_dynamic gives a model for cpu, but benchmark.providers asks for {provider}; "
        f"change benchmark.providers or remove the pass: CUDA has no kernels for its integer "
        f"products and would leave them to the CPU, slower than float32, and TensorRT takes int8 "
        f"only with signed scales fixed beforehand; convert_fp16 makes a model for both"
    )
