from __future__ import annotations

import ctypes

import pytest

from compressor.errors import EnvironmentMismatch
from compressor.models.gpu_memory import GpuMemory


class Driver:
    """Stands for the driver's library: a GPU with 100 bytes, of which `free` are free."""

    def __init__(self, **codes: int) -> None:
        self.free = 100
        self.codes = codes
        self.calls: list[str] = []

    def __getattr__(self, name: str):
        def call(*arguments):
            self.calls.append(name)
            if name == "cuMemGetInfo_v2":
                arguments[0]._obj.value, arguments[1]._obj.value = self.free, 100
            return self.codes.get(name, 0)

        return call


def test_what_is_not_free_is_used():
    driver = Driver()
    memory = GpuMemory(driver)
    driver.free = 30
    assert memory.used_bytes() == 70


def test_context_is_made_once_and_put_back_after_each_question():
    driver = Driver()
    memory = GpuMemory(driver)
    memory.used_bytes()
    memory.used_bytes()
    assert driver.calls == [
        "cuInit",
        "cuDeviceGet",
        "cuDevicePrimaryCtxRetain",
        *["cuCtxPushCurrent_v2", "cuMemGetInfo_v2", "cuCtxPopCurrent_v2"] * 2,
    ]


def test_context_is_put_back_when_the_driver_refuses():
    driver = Driver(cuMemGetInfo_v2=999)
    memory = GpuMemory(driver)
    with pytest.raises(EnvironmentMismatch, match="cuMemGetInfo_v2 failed with CUDA error 999"):
        memory.used_bytes()
    assert driver.calls[-1] == "cuCtxPopCurrent_v2"


def test_gpu_that_is_not_there_is_an_error():
    with pytest.raises(EnvironmentMismatch, match="cuInit failed with CUDA error 100"):
        GpuMemory(Driver(cuInit=100))


def test_machine_without_a_driver_is_an_error(monkeypatch: pytest.MonkeyPatch):
    def missing(name: str):
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    with pytest.raises(EnvironmentMismatch, match=r"libcuda\.so\.1 cannot be loaded") as caught:
        GpuMemory()
    assert caught.value.exit_code == 3
