"""The processes of one run: the first leads, the others follow, and each notices when one ends.

The first process does a run from top to bottom. Work that is done together goes to the others over
a connection that each of them holds to the first: until it comes they wait there, without a time
limit and without computing. When a process ends, however that happens, the system closes its
connections, so that the others know at once. Within such a work, processes add up and exchange
tensors through `torch.distributed`.

What goes over these connections is Python's own form for objects, as with everything that
`torch.distributed` exchanges; it comes from the first process of the same run, which a token in the
launcher's store vouches for.
"""

from __future__ import annotations

import atexit
import hmac
import json
import logging
import os
import queue
import secrets
import select
import shutil
import signal
import socket
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import PrefixStore, Store, TCPStore

from compressor.errors import CompressorError, EnvironmentMismatch, PassError, StepFailed
from compressor.machine.launchers import Launch, read_launch

T = TypeVar("T")

logger = logging.getLogger(__name__)

_JOIN_SECONDS = 600.0  # for all processes to start, which load their libraries first
# A process that ends is known by its connection, so nothing else may give up on a long step.
_PATIENCE = timedelta(days=30)
_GRACE_SECONDS = 30.0  # for the first process to write its report, once the others know of the end
_BLOCKED_SECONDS = 20.0  # for an exchange to fail after another process ended
_KEEPALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}
_LEADER = "compressor/leader"  # in the launcher's store
_WORK, _END = b"W", b"E"
_HEADER = struct.Struct("!cQ")
_NEXT_STEP = "start the same command again: it goes on from the last checkpoint"


@dataclass(frozen=True)
class Lost:
    """A process that ended or failed before the run did; `code` is the exit code of that failure.

    `stopped` says that it was told to stop from outside.
    """

    rank: int
    told: str
    code: int = EnvironmentMismatch.exit_code
    stopped: bool = False

    def error(self, size: int) -> Exception:
        """Return the failure of that process as one of this."""
        text = f"process {self.rank} of {size} (counted from 0) {self.told}"
        if self.code == EnvironmentMismatch.exit_code:
            return EnvironmentMismatch(text)
        return RuntimeError(text) if self.code == 1 else StepFailed(text)


class Team:
    """The processes of a run as one of them sees them; a run without a launcher is alone."""

    def __init__(self, launch: Launch | None = None) -> None:
        self.launch = launch or Launch()

    @property
    def rank(self) -> int:
        """Return the number of this process, from 0 on."""
        return self.launch.rank

    @property
    def size(self) -> int:
        """Return how many processes there are."""
        return self.launch.size

    @property
    def leads(self) -> bool:
        """Return whether this process does the run, and reads and writes its files."""
        return self.rank == 0

    @property
    def is_alone(self) -> bool:
        """Return whether there is no other process."""
        return self.size == 1

    def own_part(self, rows: Sequence[T]) -> Sequence[T]:
        """Return the part of `rows` that is this process's; parts are disjoint and as long."""
        most, extra = divmod(len(rows), self.size)
        start = self.rank * most + min(self.rank, extra)
        return rows[start : start + most + (self.rank < extra)]

    def total(self, value: Tensor) -> Tensor:
        """Return the sum over all processes, without a gradient; alone, `value` itself."""
        if self.is_alone:
            return value
        found = value.detach().clone()
        dist.all_reduce(found)
        return found

    def gathered(self, value: Tensor) -> list[Tensor]:
        """Return what each process gives, on the CPU; shapes may differ."""
        if self.is_alone:
            return [value]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value.detach().cpu())
        return found

    def to_leader(self, value: T) -> list[T]:
        """Return what each process gives, in the first one; nothing in the others."""
        if self.is_alone:
            return [value]
        found: list[Any] = [None] * self.size if self.leads else []
        dist.gather_object(value, found if self.leads else None, dst=0)
        return found

    def from_leader(self, value: T) -> T:
        """Return the `value` of the first process."""
        if self.is_alone:
            return value
        found = [value]
        dist.broadcast_object_list(found, src=0, device=torch.device("cpu"))
        return found[0]

    def all_agree(self, value: object) -> bool:
        """Return whether `value` is the same in all processes."""
        if self.is_alone:
            return True
        found: list[object] = [None] * self.size
        dist.all_gather_object(found, value)
        return all(other == value for other in found)


ALONE = Team()


@dataclass
class _Connection:
    """A connection to another process, over which whole messages go."""

    socket: socket.socket

    def send(self, kind: bytes, content: bytes) -> None:
        self.socket.sendall(_HEADER.pack(kind, len(content)) + content)

    def receive(self) -> tuple[bytes, bytes] | None:
        """Return the next message; None when the other process ended."""
        head = self._read(_HEADER.size)
        if head is None:
            return None
        kind, length = _HEADER.unpack(head)
        content = self._read(length)
        return None if content is None else (kind, content)

    def _read(self, count: int) -> bytes | None:
        found = bytearray()
        while len(found) < count:
            try:
                part = self.socket.recv(min(count - len(found), 1 << 20))
            except OSError:  # reset, or no answer any more
                return None
            if not part:
                return None
            found += part
        return bytes(found)


class Leader(Team):
    """The team as its first process sees it."""

    def __init__(self, launch: Launch, seconds: float = _JOIN_SECONDS) -> None:
        super().__init__(launch)
        self._lost: dict[int, Lost] = {}
        self._changed = threading.Condition()
        self._busy = False
        self._is_over = False
        self._has_group = False
        with socket.create_server(("", 0), backlog=launch.size) as listener:
            token = secrets.token_hex(32)
            self._store = _store(launch, seconds)
            self._store.set(_LEADER, json.dumps([listener.getsockname()[1], token]))
            self._others = _accepted(listener, token, launch.size, seconds)
        threading.Thread(target=self._watch, daemon=True).start()
        atexit.register(self._end_with_python)

    def together(self, device: torch.device, work: bytes, own: Callable[[], T]) -> T:
        """Send `work` to the other processes, which begin with it, and do `own` part of it.

        Raises what `own` raises, and where that came of another process, that one's failure.
        """
        self._require_all()
        for rank, connection in self._others.items():
            try:
                connection.send(_WORK, work)
            except OSError:
                self._note(Lost(rank, f"ended before the training began; {_NEXT_STEP}"))
                self._require_all()
        self._busy = True
        try:
            self._join_group(device)
            return own()
        except RuntimeError as error:  # of torch.distributed, when another process is gone
            if (lost := self.lost(seconds=5.0)) is not None:
                _end_undisturbed()
                raise lost.error(self.size) from error
            raise
        finally:
            self._busy = False

    def lost(self, seconds: float = 0.0) -> Lost | None:
        """Return the first process that ended or failed, waiting for the news for so long."""
        with self._changed:
            self._changed.wait_for(lambda: bool(self._lost), timeout=seconds)
            return next(iter(self._lost.values()), None)

    def end(self, code: int) -> None:
        """Let the other processes end with this exit code as soon as this one has ended."""
        if self._is_over:
            return
        self._is_over = True
        for connection in self._others.values():
            try:
                connection.send(_END, str(code).encode())
            except OSError:
                continue  # that one has ended

    def _require_all(self) -> None:
        if (lost := self.lost()) is not None:
            raise lost.error(self.size)

    def _join_group(self, device: torch.device) -> None:
        if not self._has_group:
            _join_group(self._store, self.launch, device)
            self._has_group = True

    def _watch(self) -> None:
        """Note who says that it failed, and who ends without a word."""
        waiting = {connection.socket: rank for rank, connection in self._others.items()}
        while waiting:
            for ready in select.select(list(waiting), [], [])[0]:
                rank = waiting[ready]
                message = self._others[rank].receive()
                if message is not None:
                    self._note(Lost(rank, **json.loads(message[1])))
                    continue
                del waiting[ready]
                told = f"ended without a word, as one that is killed; {_NEXT_STEP}"
                self._note(Lost(rank, told))
                threading.Thread(target=self._give_up, daemon=True).start()

    def _note(self, lost: Lost) -> None:
        with self._changed:
            self._lost.setdefault(lost.rank, lost)
            self._changed.notify_all()

    def _give_up(self) -> None:
        """End this process where an exchange on a GPU still waits for one that is gone."""
        time.sleep(_BLOCKED_SECONDS)
        if self._busy and not self._is_over:
            lost = next(iter(self._lost.values()))
            sys.stderr.write(f"{lost.error(self.size)}\n")
            sys.stderr.flush()
            os._exit(EnvironmentMismatch.exit_code)

    def _end_with_python(self) -> None:
        self.end(1 if hasattr(sys, "last_value") else 0)
        if self._has_group and not self._lost:
            dist.destroy_process_group()


class Follower(Team):
    """The team as any other process sees it: it waits for work until the first process ends."""

    def __init__(self, launch: Launch, seconds: float = _JOIN_SECONDS) -> None:
        super().__init__(launch)
        self.scratch = Path(tempfile.mkdtemp(prefix="compressor-"))
        self._store = _store(launch, seconds)
        self._works: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._has_group = False
        self._code = EnvironmentMismatch.exit_code
        port, token = _told_by_leader(self._store, launch, seconds)
        self._leader = _connected(launch, port, seconds)
        self._leader.send(_WORK, json.dumps([launch.rank, token]).encode())
        self._signals, wake = socket.socketpair()
        self._signals.setblocking(False)
        wake.setblocking(False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _heard)
        # The main thread may be within an exchange, where no handler runs.
        signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
        self._wake = wake
        threading.Thread(target=self._listen, daemon=True).start()

    def follow(self, do: Callable[[Any], object], load: Callable[[bytes], Any]) -> NoReturn:
        """Do what comes from the first process, `load` making sense of it, until that one ends."""
        while True:
            content = self._works.get()
            try:
                do(load(content))
            except Exception as error:  # noqa: BLE001 - told to the first process, whatever it is
                self._tell(error)
                if self._has_group:
                    dist.destroy_process_group()  # so that nobody waits for this one
                threading.Event().wait()  # until the first process ends

    def join_group(self, device: torch.device) -> None:
        """Join the others for exchanges, the first time that there is work."""
        if not self._has_group:
            _join_group(self._store, self.launch, device)
            self._has_group = True

    def _tell(self, error: Exception) -> None:
        code = 1
        if isinstance(error, StepFailed):
            code = PassError.exit_code
        elif isinstance(error, CompressorError):
            code = error.exit_code
        kind = "" if code != 1 else f"{type(error).__name__}: "
        if code == 1:
            logger.error("process %d failed", self.rank, exc_info=error)
        self._send({"told": f"failed: {kind}{error}", "code": code})

    def _send(self, facts: dict[str, object]) -> None:
        try:
            self._leader.send(_WORK, json.dumps(facts).encode())
        except OSError:
            return  # the first process has ended, which `_listen` sees

    def _listen(self) -> None:
        """Take what the first process sends, and end with it, or when told to from outside."""
        until: float | None = None
        while until is None or time.monotonic() < until:
            ready = select.select([self._leader.socket, self._signals], [], [], 1.0)[0]
            if self._signals in ready:
                number = max(self._signals.recv(64))
                self._code = 128 + number
                told = f"was told to stop (signal {number})"
                self._send({"told": told, "stopped": True})
                until = time.monotonic() + _GRACE_SECONDS
            if self._leader.socket in ready:
                message = self._leader.receive()
                if message is None:
                    break
                kind, content = message
                if kind == _WORK:
                    self._works.put(content)
                else:
                    self._code = int(content)
                    until = time.monotonic() + _GRACE_SECONDS
        shutil.rmtree(self.scratch, ignore_errors=True)
        os._exit(self._code)  # the main thread may wait for an exchange that never comes


def join(seconds: float = _JOIN_SECONDS) -> Team:
    """Return the processes of this run, joining them when it is first asked for.

    Raises `EnvironmentMismatch` where a launcher asks for what a run does not do, and where not all
    processes come within `seconds`.
    """
    global _team  # one for each process, as of `torch.distributed`
    if _team is None:
        launch = read_launch()
        if launch.size == 1:
            return ALONE
        _see_one_gpu(launch)
        _team = Leader(launch, seconds) if launch.rank == 0 else Follower(launch, seconds)
    return _team


def team() -> Team:
    """Return the processes that `join` joined; alone where it was not called."""
    return ALONE if _team is None else _team


_team: Team | None = None


def end_team(code: int) -> None:
    """Let all other processes end with this exit code, where there are any."""
    if isinstance(_team, Leader):
        _team.end(code)


@contextmanager
def explained_by_others() -> Iterator[None]:
    """Raise the failure of another process in place of the signal that its launcher sent for it."""
    try:
        yield
    except BaseException as error:
        if isinstance(error, Exception) or not isinstance(_team, Leader):
            raise
        lost = _team.lost(seconds=0.5)
        if lost is None or lost.stopped:
            raise
        _end_undisturbed()
        raise lost.error(_team.size) from error


def _end_undisturbed() -> None:
    """Ignore the signal that launchers send once a process is gone: this one ends, with a report.

    Only where a program handles it; nobody else's setting is changed.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if is_main and callable(signal.getsignal(signal.SIGTERM)):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _heard(number: int, frame: FrameType | None) -> None:
    """Leave a signal to the thread that listens."""


def _see_one_gpu(launch: Launch) -> None:
    """Leave this process its own GPU, before torch looks for any."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible == "":
        return  # none, which is how a run is kept off them
    if visible is None:
        os.environ["CUDA_VISIBLE_DEVICES"] = str(launch.local_rank)
        return
    names = visible.split(",")
    if launch.local_rank >= len(names):
        raise EnvironmentMismatch(
            f"this is process {launch.local_rank} of its host, counted from 0, and "
            f"CUDA_VISIBLE_DEVICES={visible} names {len(names)}; start as many processes as there "
            f"are GPUs, or none of them with CUDA_VISIBLE_DEVICES="
        )
    os.environ["CUDA_VISIBLE_DEVICES"] = names[launch.local_rank]


def _store(launch: Launch, seconds: float) -> Store:
    """Return the launcher's store, or one that the first process keeps where there is none."""
    kept = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    try:
        return PrefixStore(
            f"compressor/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}",
            TCPStore(
                launch.address,
                launch.port,
                launch.size,
                is_master=launch.rank == 0 and not kept,
                timeout=timedelta(seconds=seconds),
                wait_for_workers=False,
            ),
        )
    except (RuntimeError, TimeoutError, OSError) as error:
        raise EnvironmentMismatch(
            f"process {launch.rank} of {launch.size} cannot reach MASTER_ADDR={launch.address}, "
            f"MASTER_PORT={launch.port}: {error}"
        ) from error


def _told_by_leader(store: Store, launch: Launch, seconds: float) -> tuple[int, str]:
    """Return where the first process listens, and the token that it knows the others by."""
    try:
        port, token = json.loads(store.get(_LEADER))
    except (RuntimeError, TimeoutError) as error:
        raise EnvironmentMismatch(
            f"process {launch.rank} of {launch.size} did not hear of the first one within "
            f"{seconds:.0f} s; look at what that one says"
        ) from error
    return int(port), str(token)


def _accepted(
    listener: socket.socket, token: str, size: int, seconds: float
) -> dict[int, _Connection]:
    """Return a connection to each other process, all of which know the token."""
    found: dict[int, _Connection] = {}
    until = time.monotonic() + seconds
    while len(found) < size - 1:
        listener.settimeout(max(0.1, until - time.monotonic()))
        try:
            taken, _ = listener.accept()
            taken.settimeout(10.0)
            message = _Connection(taken).receive()
        except TimeoutError as error:
            missing = sorted(set(range(1, size)) - found.keys())
            raise EnvironmentMismatch(
                f"of {size} processes, number {', '.join(map(str, missing))} did not come within "
                f"{seconds:.0f} s; look at what their hosts say, and whether MASTER_ADDR can be "
                f"reached from there"
            ) from error
        rank = None if message is None else _introduced(message[1], token)
        if rank is not None and 0 < rank < size:
            found[rank] = _Connection(_kept_alive(taken))
        else:
            taken.close()  # a stranger
    return found


def _introduced(content: bytes, token: str) -> int | None:
    """Return the number of a process that knows the token; None for anybody else."""
    try:
        rank, shown = json.loads(content)
    except (ValueError, TypeError):  # no JSON, or no pair
        return None
    # As bytes: texts beyond ASCII cannot be compared so.
    knows = hmac.compare_digest(str(shown).encode("utf-8", "replace"), token.encode())
    return rank if knows and isinstance(rank, int) else None


def _connected(launch: Launch, port: int, seconds: float) -> _Connection:
    try:
        opened = socket.create_connection((launch.address, port), timeout=seconds)
    except OSError as error:
        raise EnvironmentMismatch(
            f"process {launch.rank} of {launch.size} cannot reach the first one at "
            f"{launch.address}:{port}: {error}"
        ) from error
    return _Connection(_kept_alive(opened))


def _kept_alive(opened: socket.socket) -> socket.socket:
    """Let the system notice when the other host is gone; otherwise wait without a limit."""
    opened.settimeout(None)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE.items():
        if hasattr(socket, name):
            opened.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return opened


def _join_group(store: Store, launch: Launch, device: torch.device) -> None:
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(
        backend, store=store, rank=launch.rank, world_size=launch.size, timeout=_PATIENCE
    )
