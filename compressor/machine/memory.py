"""Recognizes out-of-memory errors of NumPy, torch and ONNX Runtime, and words them alike.

NumPy, torch and ONNX Runtime each say in their own way that there is no room, two of them with the
type that they use for everything. They are told apart here and nowhere else.
"""

from __future__ import annotations

import ctypes
import platform
import re
import sys
from pathlib import Path
from types import TracebackType

from compressor.errors import EnvironmentMismatch

# What says so in errors whose type does not: torch on the CPU and on CUDA, C++, ONNX Runtime.
_TOLD = re.compile(
    r"can't allocate memory|cannot allocate memory|not enough memory|bad[_ ]alloc|out of memory"
    r"|failed to allocate memory",
    re.IGNORECASE,
)
_ASKED = re.compile(r"(?:allocate|buffer of size) ([0-9.]+) ?([KMGTPE]iB)?(?![0-9])")
_CGROUP = Path("/sys/fs/cgroup")  # of a container, where it has a limit of its own
_POWERS = {unit: power for power, unit in enumerate("KMGTPE", start=1)}


def limit_to_free_memory() -> None:
    """Let this process be refused memory that the machine does not have, as an error.

    Linux promises more than there is, and ends the process without a word when the promise is
    called in: nothing is lost then, but nothing is said either. For a program, not a library,
    because the limit holds for the whole process; not where a GPU's driver maps memory of its own.
    """
    if sys.platform != "linux" or (free := free_bytes()) is None:
        return
    import resource  # only here: it does not exist on every system

    status = Path("/proc/self/status").read_text(encoding="ascii")
    own = int(re.findall(r"^VmData:\s+(\d+) kB", status, re.MULTILINE)[0]) * 1024
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = own + free
    if soft == resource.RLIM_INFINITY or wanted < soft:
        resource.setrlimit(resource.RLIMIT_DATA, (wanted, hard))


def free_bytes() -> int | None:
    """Return how much memory can still be had, None where the system does not say.

    The smaller of what the machine has and what its control group leaves.
    """
    path = Path("/proc/meminfo")
    text = path.read_text(encoding="ascii") if path.is_file() else ""
    found = re.search(r"^MemAvailable:\s+(\d+) kB", text, re.MULTILINE)
    if found is None:
        return None
    free = int(found[1]) * 1024
    limit, used = (_CGROUP / name for name in ("memory.max", "memory.current"))
    if limit.is_file() and (most := limit.read_text(encoding="ascii").strip()) != "max":
        free = min(free, max(0, int(most) - int(used.read_text(encoding="ascii"))))
    return free


class memory_as_mismatch:  # noqa: N801 -- read as a statement, like contextlib.suppress
    """A context that raises `EnvironmentMismatch` for an error that says that memory is full."""

    def __enter__(self) -> None:
        """Begin to watch."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Let every other error pass as it is."""
        if error is not None and is_out_of_memory(error):
            raise EnvironmentMismatch(
                f"memory: {_wanted(str(error))}{_free()}; set a smaller batch_size, shorter texts "
                f"(data.max_length) or fewer rows (max_rows), or take a machine with more memory"
            ) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory is full, in whatever library."""
    # By its name, because torch may not be loaded, and has its type under several modules.
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    # ONNX Runtime's errors have no type in common, but a module.
    told_by_library = isinstance(error, RuntimeError) or type(error).__module__.startswith(
        "onnxruntime."
    )
    return told_by_library and _TOLD.search(str(error)) is not None


def _wanted(text: str) -> str:
    found = _ASKED.search(text)
    if found is None:
        return "more was needed than there is"
    count = float(found[1].rstrip(".")) * 1024 ** _POWERS.get((found[2] or " ")[0], 0)
    return f"{count / 1e9:,.2f} GB more were needed at once"


def _free() -> str:
    free = free_bytes()
    return "" if free is None else f", {free / 1e9:,.1f} GB are free"


def give_back() -> None:
    """Give memory that was freed back to the system, where the C library would keep it.

    glibc keeps what lies between blocks that are still in use, which after a pass over millions of
    rows is many times what they hold. Elsewhere this does nothing.
    """
    if sys.platform == "linux" and platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
