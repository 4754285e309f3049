"""A lock keeps others out, is shared where it may be, and goes with its owner."""

from __future__ import annotations

import errno
import fcntl
import subprocess
import sys
from pathlib import Path

import pytest

from compressor.errors import EnvironmentMismatch
from compressor.machine.locks import Lock, locked

HOLD = (
    "import sys, time\n"
    "from pathlib import Path\n"
    "from compressor.machine.locks import Lock\n"
    "Lock.acquire(lock := Lock(Path(sys.argv[1])))\n"
    "print('held', flush=True)\n"
    "time.sleep(600)\n"
)


def test_one_owner_at_a_time(tmp_path: Path):
    first, second = Lock(tmp_path / "a"), Lock(tmp_path / "a")
    assert first.acquire(wait=False)
    assert not second.acquire(wait=False)
    first.release()
    assert second.acquire(wait=False)


def test_several_share_a_lock_and_keep_an_owner_of_it_alone_out(tmp_path: Path):
    first, second, alone = (Lock(tmp_path / "a") for _ in range(3))
    assert first.acquire(shared=True)
    assert second.acquire(shared=True, wait=False)
    assert not alone.acquire(wait=False)


def test_a_killed_owner_holds_nothing(tmp_path: Path):
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path / "a"], stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        assert not Lock(tmp_path / "a").acquire(wait=False)
        other.kill()
    assert Lock(tmp_path / "a").acquire(wait=False)


def test_who_waited_for_a_file_that_is_removed_locks_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    first, second, third = (Lock(tmp_path / "a") for _ in range(3))
    first.acquire()
    plain = fcntl.flock

    def removed_meanwhile(descriptor: int, how: int) -> None:
        if first.is_held:
            first.remove()
        plain(descriptor, how)

    monkeypatch.setattr("compressor.machine.locks.fcntl.flock", removed_meanwhile)
    assert second.acquire()
    assert (tmp_path / "a").is_file()
    assert not third.acquire(wait=False)


def test_waiting_is_said_before_it_begins(tmp_path: Path):
    first, said = Lock(tmp_path / "a"), list[str]()

    def say() -> None:
        said.append("waiting")
        first.release()

    first.acquire()
    with locked(tmp_path / "a", before_waiting=say):
        assert said == ["waiting"]
        assert not Lock(tmp_path / "a").acquire(wait=False)
    assert Lock(tmp_path / "a").acquire(wait=False)


def test_a_file_system_without_locks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def flock(descriptor: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("compressor.machine.locks.fcntl.flock", flock)
    with pytest.raises(EnvironmentMismatch, match="has no locks"):
        Lock(tmp_path / "a").acquire()


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentMismatch, match="cannot be locked"):
        Lock(tmp_path / "file" / "a").acquire()
