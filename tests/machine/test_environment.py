"""What is written about a machine is plain and complete; CUDA is never pretended."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import compressor
from compressor.errors import EnvironmentMismatch
from compressor.machine.environment import (
    code_digest,
    describe_environment,
    result_conditions,
    result_variables,
    seed_everything,
    select_device,
)


def test_the_description_is_plain_json():
    facts = describe_environment(seed=3, device=torch.device("cpu"), threads=2)
    assert json.loads(json.dumps(facts)) == facts
    assert facts["packages"]["torch"] == torch.__version__
    assert facts["seed"] == 3


def test_seeding_repeats_every_generator():
    seed_everything(7)
    first = (torch.rand(2).tolist(), np.random.random(2).tolist())
    seed_everything(7)
    assert (torch.rand(2).tolist(), np.random.random(2).tolist()) == first


def test_asking_for_cuda_without_a_device_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(EnvironmentMismatch, match="sees no CUDA device"):
        select_device("cuda")


def test_auto_is_the_cpu_without_a_device(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert select_device("auto") == torch.device("cpu")


def test_what_reads_texts_and_images_is_among_the_versions():
    """A score that is stored for one tokenizer library is not that of another one."""
    versions = result_conditions()["packages"]
    assert {"tokenizers", "pillow", "scipy", "safetensors"} <= versions.keys()


@pytest.mark.parametrize(
    "name",
    [
        "ATEN_CPU_CAPABILITY", "CUBLAS_WORKSPACE_CONFIG", "DNNL_MAX_CPU_ISA", "MKL_CBWR",
        "NVIDIA_TF32_OVERRIDE", "OMP_NUM_THREADS", "ONEDNN_DEFAULT_FPMATH_MODE",
        "ORT_TENSORRT_FP16_ENABLE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
    ],
)  # fmt: skip
def test_a_variable_that_changes_results_is_among_their_conditions(
    name: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv(name, raising=False)
    before = result_conditions()
    monkeypatch.setenv(name, "1")
    after = result_conditions()
    assert after != before
    assert after["variables"][name] == "1"
    assert json.loads(json.dumps(after)) == after


def test_variables_that_change_no_result_are_left_out():
    others = {
        "HOME": "/root",
        "MKL_VERBOSE": "1",
        "HF_TOKEN": "secret",
        "OMP_WAIT_POLICY": "PASSIVE",
        "ORT_DISABLE_TELEMETRY": "1",
    }
    assert result_variables(others) == {}


def test_the_precision_of_products_in_torch_is_among_the_conditions_of_results():
    before = result_conditions()
    torch.set_float32_matmul_precision("high")
    try:
        assert result_conditions() != before
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("name", ["starter/plan.py", "inspection/facts.py", "report/table.py"])
def test_an_edit_of_what_only_shows_leaves_stored_steps_valid(tmp_path: Path, name: str):
    folder = copied_sources(tmp_path)
    before = code_digest(folder)
    (folder / name).write_text("EDITED = True\n")
    assert code_digest(folder) == before


@pytest.mark.parametrize(
    "name", ["passes/finetune/settings.py", "verify/evaluation.py", "pipeline/cached_work.py"]
)
def test_an_edit_of_what_computes_makes_stored_steps_invalid(tmp_path: Path, name: str):
    folder = copied_sources(tmp_path)
    before = code_digest(folder)
    (folder / name).write_text("EDITED = True\n")
    assert code_digest(folder) != before


def copied_sources(place: Path) -> Path:
    ignored = shutil.ignore_patterns("__pycache__")
    return shutil.copytree(Path(compressor.__file__).parent, place / "compressor", ignore=ignored)
