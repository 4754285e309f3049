"""The GPU checks on the CPU: arguments, the refusal, the table, and what each check calls wrong."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest

from compressor.errors import EnvironmentMismatch

FACTS = {
    "gpu": "NVIDIA H100",
    "driver": "NVRM version: 580.65",
    "cuda": "13.0",
    "cpu": {"model": "a CPU"},
    "threads": 8,
    "platform": "Linux",
    "python": "3.11",
    "packages": {"torch": "2.13.0", "onnxruntime-gpu": "1.32.0", "numpy": "2.0"},
}


@pytest.fixture(scope="module")
def script(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("check_gpu")


@pytest.fixture(scope="module")
def render(script: ModuleType):
    """Return the function that makes the table of a record."""
    return sys.modules["gpu_table"].render


def latency(precision: str, p50_ms: float, **changes):
    return {
        "subject": "base",
        "precision": precision,
        "beside": "float16",
        "model": "baseline" if precision == "float32" else "final",
        "provider": "cuda",
        "cuda_graph": False,
        "batch_size": 128,
        "sequence_length": 32,
        "p50_ms": p50_ms,
        "p95_ms": p50_ms * 1.1,
        "p99_ms": p50_ms * 1.2,
        "noisy": False,
        "peak_memory_bytes": 1_234_000_000,
    } | changes


def test_machine_without_a_gpu_is_refused_with_its_own_exit_code(
    script: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    def no_driver():
        raise EnvironmentMismatch("GPU memory: the driver's library libcuda.so.1 cannot be loaded")

    monkeypatch.setattr(script, "GpuMemory", no_driver)
    assert script.main([]) == 3
    assert "check_gpu: GPU memory: the driver's library" in capsys.readouterr().err


def test_unknown_check_is_refused(script: ModuleType, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as caught:
        script.main(["--only", "speed"])
    assert caught.value.code == 2
    assert "'speed'" in capsys.readouterr().err


def test_table_names_card_driver_and_versions(script: ModuleType, render):
    text = render(script.Record("2026-01-01T00:00:00+00:00", FACTS))
    assert "# GPU checks, 2026-01-01T00:00:00+00:00" in text
    assert "- GPU: NVIDIA H100\n- driver: NVRM version: 580.65; CUDA of torch: 13.0" in text
    assert "- torch 2.13.0, onnxruntime-gpu 1.32.0; Python 3.11" in text


def test_table_of_a_cpu_does_not_pass_for_one_of_a_gpu(script: ModuleType, render):
    text = render(script.Record("now", FACTS | {"gpu": None}))
    assert "- GPU: none: these are numbers of the CPU" in text


def test_speed_up_is_that_over_the_float32_it_took_turns_with(script: ModuleType, render):
    record = script.Record("now", FACTS)
    record.latencies = [
        latency("float32", 10.0),
        latency("float16", 4.0),
        latency("float32", 6.0, cuda_graph=True),
        latency("float16", 2.0, cuda_graph=True, noisy=True, peak_memory_bytes=None),
    ]
    rows = [line for line in render(record).splitlines() if line.startswith("| base")]
    assert rows == [
        "| base | float32 | cuda | no | 128 | 32 | 10 | 11 | 12 | 1.00× | 1,234 |",
        "| base | float16 | cuda | no | 128 | 32 | 4 | 4.4 | 4.8 | 2.50× | 1,234 |",
        "| base | float32 | cuda | yes | 128 | 32 | 6 | 6.6 | 7.2 | 1.00× | 1,234 |",
        "| base | float16 | cuda | yes | 128 | 32 | 2 | 2.2 | 2.4 | 3.00× (noisy) | — |",
    ]


def test_detail_cannot_break_the_table(
    script: ModuleType, render, capsys: pytest.CaptureFixture[str]
):
    record = script.Record("now", FACTS)
    record.add("parity", "base", False, "RuntimeError: a | b\nsecond line")
    assert "| parity | base | FAILED | RuntimeError: a / b second line |" in render(record)
    assert "parity · base · FAILED" in capsys.readouterr().out
    assert record.failed


@pytest.mark.parametrize(("passed", "failed"), [(True, False), (None, False), (False, True)])
def test_only_what_is_wrong_fails(script: ModuleType, passed: bool | None, failed: bool):
    record = script.Record("now", FACTS)
    record.add("check", "what", passed, "detail")
    assert record.failed is failed


def test_error_of_one_check_does_not_stop_the_others(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch
):
    def broken(situation, record):
        raise RuntimeError("CUDA error: device-side assert triggered")

    monkeypatch.setitem(script.CHECKS, "parity", broken)
    record = script.Record("now", FACTS)
    script.run_check("parity", None, record)
    [finding] = record.findings
    assert (finding.passed, finding.detail) == (
        False,
        "RuntimeError: CUDA error: device-side assert triggered",
    )


@pytest.fixture(scope="module")
def outcome(script: ModuleType, tmp_path_factory: pytest.TempPathFactory):
    """Return the exit code and the record of every check but training, on the CPU."""
    folder = tmp_path_factory.mktemp("gpu")
    arguments = ["--provider", "cpu", "--sizes", "tiny", "--batch-sizes", "1", "2"]
    arguments += ["--lengths", "8", "999", "--runs", "2", "--output", str(folder)]
    code = script.main([*arguments, "--only", "providers", "parity", "latency", "tensorrt"])
    return code, json.loads((folder / "gpu.json").read_text(encoding="utf-8")), folder


def test_every_check_that_the_cpu_can_run_passes(outcome):
    code, record, _ = outcome
    results = {(item["check"], item["what"]): item["passed"] for item in record["findings"]}
    assert results == {
        ("providers", "cpu"): True,
        ("providers", "tensorrt"): None,
        ("parity", "tiny, float32"): True,
        ("parity", "tiny, float16"): True,
        ("parity", "tiny, bfloat16"): None,
        ("latency", "tiny, float16 on cpu"): True,
        ("latency", "tiny, pruned, float16 on cpu"): True,
        ("tensorrt", "provider"): None,
    }
    assert code == 0


def test_every_precision_is_timed_at_every_setting_that_the_model_can_read(outcome):
    _, record, folder = outcome
    timed = {
        (item["precision"], item["beside"], item["batch_size"], item["sequence_length"])
        for item in record["latencies"]
    }
    assert timed == {
        (precision, beside, size, 8)
        for size in (1, 2)
        for beside in ("float16", "pruned, float16")
        for precision in ("float32", beside)
    }
    assert "| tiny | pruned, float16 | cpu | no | 2 | 8 |" in (folder / "gpu.md").read_text()


def test_tensorrt_gets_a_graph_with_signed_pairs_in_half_precision(
    script: ModuleType, tmp_path: Path
):
    subjects = script.subjects(tmp_path, None, ["tiny"])
    situation = script.Situation(
        "cpu", script.torch.device("cpu"), tmp_path, (1,), (8,), 1, subjects
    )
    made = dict(script.tensorrt_graphs(situation, "tiny", subjects["tiny"]))
    assert list(made) == ["float32", "float16", "int8, float16"]
    kinds = {
        name: Counter(node.op_type for node in onnx.load(path).graph.node)["QuantizeLinear"]
        for name, path in made.items()
    }
    assert kinds["float32"] == kinds["float16"] == 0
    assert kinds["int8, float16"] > 0
    sizes = [path.stat().st_size for path in made.values()]
    assert sizes == sorted(sizes, reverse=True)


def test_logits_that_are_off_fail_the_parity_check(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    subjects = script.subjects(tmp_path, None, ["tiny"])
    situation = script.Situation(
        "cpu", script.torch.device("cpu"), tmp_path, (1,), (8,), 1, subjects
    )

    class Off:
        def predict(self, batch):
            return subjects["tiny"].predict(batch) + np.float32(0.5)

    monkeypatch.setattr(script, "graphs", lambda *rest: iter([("float32", Off())]))
    record = script.Record("now", FACTS)
    script.check_parity(situation, record)
    assert [item.passed for item in record.findings] == [False]


@pytest.mark.parametrize("title", ["fine-tuning", "scores by Fisher", "reconstruction"])
def test_passes_end_with_finite_logits_and_repeat(script: ModuleType, tmp_path: Path, title: str):
    subjects = script.subjects(tmp_path, None, ["tiny"])
    situation = script.Situation(
        "cpu", script.torch.device("cpu"), tmp_path, (1,), (8,), 1, subjects
    )
    kind, settings = script.STEPS[title]
    step = script.PASSES[kind].settings.of(settings)
    detail, finite = script.apply_twice(situation, "tiny", title, step)
    assert finite
    assert detail.endswith("s on cpu, the same bits twice")


def test_steps_are_settings_that_the_passes_know(script: ModuleType):
    for kind, settings in script.STEPS.values():
        script.PASSES[kind].settings.of(settings)
