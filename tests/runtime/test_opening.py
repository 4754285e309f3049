"""On which runtime an artifact is opened, by what its manifest says and what is asked for."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from openvino_there import needs_openvino
from small_artifacts import write_small_artifact

import compressor
from compressor.runtime import EnvironmentMismatch, load_artifact
from compressor.runtime.session import Opening, opening_of

FOR_OPENVINO: dict[str, Any] = {"provider": "openvino", "openvino": {"precision": "fp32"}}
TEXTS = ["a good film", "the plot was very dull"]
LOADERS = (load_artifact, compressor.load_artifact)


@pytest.mark.parametrize(
    ("manifest", "provider", "expected"),
    [
        ({}, None, Opening("cpu", "fp32", as_written=False)),
        ({"provider": "cpu"}, None, Opening("cpu", "fp32", as_written=False)),
        ({"provider": "cpu"}, "openvino", Opening("openvino", "fp32", as_written=False)),
        ({"provider": "tensorrt"}, None, Opening("cpu", "fp32", as_written=True)),
        ({"provider": "cuda"}, "cuda", Opening("cuda", "fp32", as_written=False)),
        # Its pairs are safe from overflow, so ONNX Runtime may make integer matmuls of them.
        (FOR_OPENVINO, "cpu", Opening("cpu", "fp32", as_written=False)),
        (
            {"provider": "openvino", "openvino": {"precision": "bf16"}},
            "openvino",
            Opening("openvino", "bf16", as_written=False),
        ),
        (
            {"provider": "openvino", "openvino": {"precision": "bf16"}},
            "cpu",
            Opening("cpu", "fp32", as_written=False),
        ),
    ],
)
def test_an_artifact_opens_where_it_was_made_for_or_where_it_is_told_to(
    manifest: dict[str, Any], provider: str | None, expected: Opening
):
    assert opening_of(Path("artifact"), manifest, provider) == expected


@pytest.mark.parametrize("load", LOADERS)
def test_without_the_package_an_artifact_for_it_says_what_to_do(
    load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = write_small_artifact(tmp_path / "a", "text-classification", facts=FOR_OPENVINO)
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(EnvironmentMismatch) as raised:
        load(folder)
    told = str(raised.value)
    assert told.startswith(f"{folder}: was made and judged for OpenVINO: ")
    assert "pip install 'openvino" in told
    assert told.endswith("or load it with provider cpu, where it was not judged")
    assert len(load(folder, provider="cpu")(TEXTS)) == 2


@pytest.mark.parametrize("told", [{}, {"precision": "fp16"}, "fp32", []])
def test_a_precision_that_nobody_computes_in_is_a_damaged_manifest(told: Any, tmp_path: Path):
    facts = {"provider": "openvino", "openvino": told}
    folder = write_small_artifact(tmp_path / "a", "text-classification", facts=facts)
    with pytest.raises(EnvironmentMismatch, match="openvino: must have precision, one of fp32, bf"):
        load_artifact(folder)


@needs_openvino
@pytest.mark.parametrize("load", LOADERS)
def test_numbers_are_those_of_the_other_runtime(load: Any, tmp_path: Path):
    facts = {"provider": "openvino", "openvino": {"precision": "fp32"}}
    folder = write_small_artifact(tmp_path / "a", "text-classification", facts=facts)
    found, expected = (load(folder, provider=name).logits(TEXTS) for name in (None, "cpu"))
    assert np.abs(expected).max() > 0
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
