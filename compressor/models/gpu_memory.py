"""How much memory of a GPU is in use, asked of its driver.

The driver's library is there wherever a GPU works, needs no package, and numbers the GPUs as this
process sees them, which tools that talk to the whole machine do not.
"""

from __future__ import annotations

import ctypes

from compressor.errors import EnvironmentMismatch

_LIBRARY = "libcuda.so.1"
_FIRST = 0  # the GPU that sessions and torch use when nobody says otherwise


class GpuMemory:
    """The memory of the first GPU; opened once, because that takes memory of its own.

    Raises `EnvironmentMismatch` when there is no driver or the driver refuses.
    """

    def __init__(self, library: ctypes.CDLL | None = None) -> None:
        try:
            self._driver = library or ctypes.CDLL(_LIBRARY)
        except OSError as error:
            raise EnvironmentMismatch(
                f"GPU memory: the driver's library {_LIBRARY} cannot be loaded ({error}); check "
                f"the GPU and its driver"
            ) from error
        device, self._context = ctypes.c_int(), ctypes.c_void_p()
        self._call("cuInit", 0)
        self._call("cuDeviceGet", ctypes.byref(device), _FIRST)
        # The context that ONNX Runtime and torch share: made here, it is not counted as theirs.
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), device)

    def used_bytes(self) -> int:
        """Return the bytes in use on the GPU, by all processes."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        previous = ctypes.c_void_p()
        self._call("cuCtxPushCurrent_v2", self._context)
        try:
            self._call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        finally:
            self._call("cuCtxPopCurrent_v2", ctypes.byref(previous))
        return total.value - free.value

    def _call(self, name: str, *arguments: object) -> None:
        code = getattr(self._driver, name)(*arguments)
        if code != 0:
            raise EnvironmentMismatch(
                f"GPU memory: {name} failed with CUDA error {code}; check the GPU and its driver"
            )
