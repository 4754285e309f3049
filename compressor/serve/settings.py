"""What a service may be asked to do at most, and how it computes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from compressor.errors import EnvironmentMismatch
from compressor.paths import unreadable

MEGABYTE = 1_000_000
_LARGEST_KEY = 4096  # bytes
_CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")


@dataclass(frozen=True)
class ServeSettings:
    """Limits of a service; sizes in bytes, times in seconds.

    `workers` is how many batches are computed at a time, each of at most `max_batch` examples.
    `max_queue` examples wait at most, over all requests; what comes then is refused at once. For
    both a text counts as one for each 500 characters of it.
    `api_key` is what a request has to show as `Authorization: Bearer KEY`, None for nobody.
    """

    workers: int = 1
    max_batch: int = 32
    max_queue: int = 2048
    max_examples: int = 512
    max_body: int = 8 * MEGABYTE
    max_characters: int = 50_000
    max_connections: int = 1024
    receive_seconds: float = 20.0
    answer_seconds: float = 60.0
    stop_seconds: float = 30.0
    api_key: str | None = None


def read_key(path: Path) -> str:
    """Return the key in a file, without the space around it.

    Raises `EnvironmentMismatch` where there is none.
    """
    reason = unreadable(path, largest=_LARGEST_KEY)
    if reason is not None:
        raise EnvironmentMismatch(f"--key-file {path}: {reason}; give a file that holds the key")
    try:
        key = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise EnvironmentMismatch(
            f"--key-file {path}: cannot be read as ASCII ({error}); give a file that holds the key"
        ) from error
    if not key or len(key.split()) != 1:
        raise EnvironmentMismatch(
            f"--key-file {path}: must hold one word, the key, in its first line"
        )
    return key


def usable_cpus(quota: Path = _CPU_QUOTA) -> int:
    """Return how many CPUs this process may use: those of its affinity and its container's share.

    `quota` is the file of the second version of control groups that says so: microseconds in each
    period, or `max`.
    """
    own = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        most, period = quota.read_text(encoding="ascii").split()
        return max(1, min(own, int(most) // int(period)))
    except (OSError, ValueError):  # no container, or no limit in it
        return own
