"""What memory is to blame for is said in one sentence, whichever library noticed."""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import parser

from compressor import cli
from compressor.errors import EnvironmentMismatch
from compressor.machine import memory
from compressor.machine.memory import free_bytes, is_out_of_memory, memory_as_mismatch

TERABYTES = 400 * 10**12


def numpy_asks() -> None:
    np.zeros(TERABYTES, np.uint8)


def torch_asks() -> None:
    torch.zeros(TERABYTES // 4)


def onnxruntime_asks() -> None:
    model = parser.parse_model("""<ir_version: 10, opset_import: ["" : 21]>
        g (int64[1] x) => (float[n] y) { y = ConstantOfShape (x) }""")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    session.run(None, {"x": np.array([TERABYTES // 4])})


@pytest.mark.parametrize("ask", [numpy_asks, torch_asks, onnxruntime_asks])
def test_the_error_of_each_library_tells_what_was_asked_for(ask: Callable[[], None]):
    with (
        pytest.raises(
            EnvironmentMismatch, match=r"memory: 400,\d{3}\.\d\d GB more were needed at once"
        ),
        memory_as_mismatch(),
    ):
        ask()


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (MemoryError(), "memory: more was needed than there is"),
        (RuntimeError("std::bad_alloc"), "memory: more was needed than there is"),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has"),
            r"memory: 21\.47 GB more were needed at once",
        ),
    ],
)
def test_errors_that_this_machine_cannot_raise_are_known_too(error: Exception, message: str):
    with pytest.raises(EnvironmentMismatch, match=message) as found, memory_as_mismatch():
        raise error
    assert found.value.__cause__ is error
    assert "smaller batch_size" in str(found.value)


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), ValueError("out of memory")])
def test_other_errors_pass_as_they_are(error: Exception):
    assert not is_out_of_memory(error)
    with pytest.raises(type(error)) as found, memory_as_mismatch():
        raise error
    assert found.value is error


def test_a_command_that_runs_out_of_memory_ends_with_exit_code_3(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(sys, "argv", ["compress", "inspect", str(tmp_path / "model.onnx")])
    monkeypatch.setattr("compressor.inspection.paths.find_onnx", lambda path: numpy_asks())
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 3
    assert "GB more were needed at once" in capsys.readouterr().err


def test_a_graph_with_a_batch_of_a_billion_is_refused_before_it_is_drawn():
    from compressor.inspection.inputs import random_batch

    model = onnx.ModelProto()
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [10**9, 128])
    model.graph.input.append(value)
    with pytest.raises(
        EnvironmentMismatch, match=r"'x' .* shape \[1000000000, 128\], .* 1024\.0 GB"
    ):
        random_batch(model)


def test_a_process_is_refused_what_the_machine_does_not_have():
    # More than is free, less than Linux would promise and end the process for.
    program = (
        "from compressor.machine.memory import (\n"
        "    free_bytes, limit_to_free_memory, memory_as_mismatch)\n"
        "limit_to_free_memory()\n"
        "kept = bytearray(10_000_000)\n"
        "import numpy\n"
        "with memory_as_mismatch():\n"
        "    numpy.empty(int(1.02 * free_bytes()), numpy.uint8)\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "EnvironmentMismatch: memory: " in result.stderr


def test_the_limit_of_a_container_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "memory.max").write_text("3000000")
    (tmp_path / "memory.current").write_text("1000000")
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    assert free_bytes() == 2_000_000


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_memory_between_blocks_in_use_is_given_back():
    script = """
from pathlib import Path
from compressor.machine.memory import give_back

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

blocks = [bytes(10_000) for _ in range(20_000)]
kept = blocks[::100]
del blocks
before = resident()
give_back()
print(before - resident())
"""
    found = subprocess.check_output([sys.executable, "-c", script], text=True)
    assert int(found) > 50_000_000  # of 200 million
