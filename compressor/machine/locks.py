"""Locks on files, which the operating system drops with their owner, however that ends.

The file that stays behind means nothing by itself. On a network file system the server keeps the
lock, so that processes on several hosts see it, and drops it when a host is gone.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from compressor.errors import EnvironmentMismatch

_HELD_BY_ANOTHER = (errno.EWOULDBLOCK, errno.EACCES)
_WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EOPNOTSUPP)


@dataclass
class Lock:
    """A lock on the file at `path`, held by one owner alone or `shared` by several.

    Two locks on one path exclude each other within a process too.
    """

    path: Path
    _descriptor: int | None = field(default=None, init=False, repr=False)

    @property
    def is_held(self) -> bool:
        """Return whether this very lock is held."""
        return self._descriptor is not None

    def acquire(self, *, shared: bool = False, wait: bool = True) -> bool:
        """Take the lock, and return whether it is held now; without `wait` it may not be.

        Raises `EnvironmentMismatch` where the file system has no locks or the file cannot be made.
        """
        assert self._descriptor is None, "a lock is taken once"
        how = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB)
        while True:
            descriptor = self._open()
            try:
                fcntl.flock(descriptor, how)
            except OSError as error:
                os.close(descriptor)
                if error.errno in _HELD_BY_ANOTHER:
                    return False
                raise self._unusable(error) from error
            except BaseException:  # Ctrl-C while waiting
                os.close(descriptor)
                raise
            if self._is_still(descriptor):
                self._descriptor = descriptor
                return True
            os.close(descriptor)  # who held it before has removed the file: lock the new one

    def release(self) -> None:
        """Give the lock back; nothing where it is not held."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def remove(self) -> None:
        """Remove the file of a lock that is held by its owner alone, and give the lock back."""
        assert self._descriptor is not None, "others may hold it"
        self.path.unlink(missing_ok=True)
        self.release()

    def _open(self) -> int:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            return os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise self._unusable(error) from error

    def _is_still(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), self.path.stat())
        except FileNotFoundError:
            return False

    def _unusable(self, error: OSError) -> EnvironmentMismatch:
        if error.errno in _WITHOUT_LOCKS:
            return EnvironmentMismatch(
                f"{self.path}: this file system has no locks ({error.strerror}), and processes "
                f"would get in each other's way; give a directory on a local disk, or on a shared "
                f"one whose server keeps locks"
            )
        return EnvironmentMismatch(
            f"{self.path}: cannot be locked ({error.strerror}); give a directory that can be "
            f"written"
        )


@contextmanager
def locked(path: Path, *, before_waiting: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Hold the lock on `path` alone; `before_waiting` is called where another owner has it."""
    lock = Lock(path)
    if not lock.acquire(wait=False):
        before_waiting()
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
