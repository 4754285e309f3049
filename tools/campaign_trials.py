"""How the campaign tries a command, in a forked process with limits, and judges its end."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

MEMORY_BYTES = 4 << 30  # of one trial, beyond what this process has
FILE_BYTES = 1 << 30  # of one file that a trial writes
MESSAGE_BYTES = 20_000  # what a terminal shows of it is read; a list of mistakes is not 81 MB
QUICK_S = 5.0  # CPU seconds of a command that only reads
LONG_S = 60.0  # CPU seconds of a run of a tiny model
_WAITS = 20  # a trial that waits for its turn may take this many times its limit
_BLOCKED_S = 10.0  # after which a trial that sleeps, with no process of its own at work, is stuck
_POLL_S = 0.002

REFUSED = frozenset((2, 3, 4, 5, 6))
ANY = REFUSED | {0}
WRONG_REQUEST = frozenset((2,))
NOT_THERE = frozenset((3,))
EITHER = frozenset((2, 3))
PASSES = frozenset((0,))

TRACEBACK = "traceback"
SIGNAL = "killed by a signal"
HANG = "too slow"
SILENT_PASS = "passed what it must not"  # noqa: S105 - no password
WRONG_CODE = "another exit code"
NO_PLACE = "a message without its place"
TOO_LONG = "a message too long to read"
CHECK_FAILED = "the check itself failed"


@dataclass(frozen=True)
class Trial:
    """One command over a mutated thing, and what may come of it.

    `work` runs in a process of its own, in the folder of the case; a message has one of `places`
    in it; `check` runs in another process after exit code 0 and returns what is wrong with the
    pass, None when nothing is.
    """

    command: str
    work: Callable[[], None]
    allowed: frozenset[int] = ANY
    places: tuple[str, ...] = ()
    limit_s: float = QUICK_S
    environment: Mapping[str, str] = field(default_factory=dict)
    check: Callable[[], str | None] | None = None


@dataclass(frozen=True)
class Case:
    """A mutated thing: what was changed, and the commands that read it."""

    kind: str
    number: int
    change: str
    trials: tuple[Trial, ...]


@dataclass(frozen=True)
class Ending:
    """How a trial ended: `code` is the exit code, negative for a signal, None when stopped."""

    code: int | None
    cpu_s: float
    said: str
    out: str


@dataclass(frozen=True)
class Failure:
    """A trial that ended as it must not; failures of one `group` have one cause, most likely."""

    kind: str
    number: int
    command: str
    change: str
    cause: str
    group: str
    code: int | None
    detail: str
    kept: str = ""


@dataclass
class Tally:
    """Counts by kind, command and exit code, and the failures."""

    endings: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)
    cases: int = 0
    slowest: tuple[float, str] = (0.0, "")


def run_case(case: Case, folder: Path, tally: Tally, *, keep: Path | None = None) -> None:
    """Carry out the trials of a case in its folder, and count how they end."""
    tally.cases += 1
    failed = False
    for trial in case.trials:
        ending = attempt(trial.work, folder, trial.limit_s, trial.environment)
        said = "stopped" if ending.code is None else str(ending.code)
        tally.endings[case.kind, trial.command, said] += 1
        where = f"{case.kind}:{case.number} {trial.command}"
        tally.slowest = max(tally.slowest, (ending.cpu_s, where))
        found = judge(trial, ending)
        if found is None and ending.code == 0 and trial.check is not None:
            found = _check(trial.check, folder)
        if found is None:
            continue
        cause, group, detail = found
        failed = True
        if keep is not None and not failed_before(tally, case):
            _keep(folder, keep / f"{case.kind}-{case.number}")
        kept = str(keep / f"{case.kind}-{case.number}") if keep is not None else ""
        group = f"{cause}: {group or re.sub(r'[0-9]+', 'N', case.change)[:120]}"
        tally.failures.append(
            Failure(case.kind, case.number, trial.command, case.change, cause, group, ending.code,
                    detail[-2_000:], kept)
        )  # fmt: skip
    del failed


def failed_before(tally: Tally, case: Case) -> bool:
    """Return whether another trial of the case has failed, so that its folder is kept already."""
    return any((item.kind, item.number) == (case.kind, case.number) for item in tally.failures)


def judge(trial: Trial, ending: Ending) -> tuple[str, str, str] | None:
    """Return cause, group and detail of a wrong ending; None for a right one."""
    said = _plain(ending.said)
    if ending.code is None:
        return HANG, f"{trial.command} beyond {trial.limit_s:g} s", said
    if ending.code < 0:
        name = signal.Signals(-ending.code).name
        return SIGNAL, f"{name} in {trial.command}", said
    if ending.code == 1 or "Traceback (most recent call last)" in said:
        return TRACEBACK, _raised(said), said
    if ending.cpu_s > trial.limit_s:
        return HANG, f"{trial.command} beyond {trial.limit_s:g} s", f"{ending.cpu_s:.1f} CPU s"
    if ending.code == 0 and 0 not in trial.allowed:
        return SILENT_PASS, "", said or ending.out
    if ending.code not in trial.allowed:
        allowed = " or ".join(map(str, sorted(trial.allowed)))
        return WRONG_CODE, f"{trial.command}: {ending.code} in place of {allowed}", said
    if ending.code == 0:
        return None
    if len(ending.said) > MESSAGE_BYTES:
        return TOO_LONG, trial.command, f"{len(ending.said)} characters: {said[:500]}"
    places = [place.encode(errors="backslashreplace").decode() for place in trial.places]
    if places and not any(place in said for place in places):
        return NO_PLACE, f"{trial.command}: {_shape(said)}", said
    return None


def attempt(
    work: Callable[[], None], folder: Path, limit_s: float, environment: Mapping[str, str]
) -> Ending:
    """Run `work` in a forked process, in `folder`, with limits of time, memory and file size.

    It is stopped when it used `limit_s` of CPU time, and when it does not compute but waits for
    something that does not come, as one that reads a FIFO does.
    """
    with tempfile.TemporaryDirectory() as scratch:
        out, err = Path(scratch) / "out", Path(scratch) / "err"
        began = time.monotonic()
        child = os.fork()
        if child == 0:
            _work(work, folder, out, err, environment)  # never returns
        status, used = _wait(child, limit_s, began)
        code = None if status is None else os.waitstatus_to_exitcode(status)
        said = err.read_bytes()[: 1 << 20].decode(errors="replace") if err.is_file() else ""
        shown = out.read_bytes()[: 1 << 20].decode(errors="replace") if out.is_file() else ""
    return Ending(code, used, said, shown)


def _work(
    work: Callable[[], None], folder: Path, out: Path, err: Path, environment: Mapping[str, str]
) -> None:
    """Be the forked process: redirect, limit, work, and end without what the parent has open."""
    code = 1
    try:
        os.setsid()
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        for number, path in ((1, out), (2, err)):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        sys.stdout = os.fdopen(1, "w", encoding="utf-8", errors="backslashreplace", closefd=False)
        sys.stderr = os.fdopen(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)
        os.chdir(folder)
        os.environ.update(environment)
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        _limit(resource.RLIMIT_AS, pages * resource.getpagesize() + MEMORY_BYTES)
        _limit(resource.RLIMIT_FSIZE, FILE_BYTES)
        _limit(resource.RLIMIT_CORE, 0)
        code = _call(work)
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _call(work: Callable[[], None]) -> int:
    """Return the exit code that Python would end with."""
    try:
        work()
    except SystemExit as stop:
        if stop.code is None:
            return 0
        if isinstance(stop.code, int):
            return stop.code & 0xFF
        print(stop.code, file=sys.stderr)
        return 1
    except BaseException:  # noqa: BLE001 - what a process ends with, whatever it is
        traceback.print_exc()
        return 1
    return 0


def _limit(what: int, most: int) -> None:
    hard = resource.getrlimit(what)[1]
    resource.setrlimit(what, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def _wait(child: int, limit_s: float, began: float) -> tuple[int | None, float]:
    """Return status and CPU seconds of a process; status None when it had to be stopped."""
    while True:
        done, status, usage = os.wait4(child, os.WNOHANG)
        if done:
            return status, usage.ru_utime + usage.ru_stime
        waited = time.monotonic() - began
        late = waited > limit_s and (_cpu_seconds(child) > limit_s or waited > _WAITS * limit_s)
        if late or (waited > min(limit_s, _BLOCKED_S) and _is_blocked(child)):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            _, _, usage = os.wait4(child, 0)
            return None, usage.ru_utime + usage.ru_stime
        time.sleep(_POLL_S)


def _stat(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _cpu_seconds(pid: int) -> float:
    fields = _stat(pid)
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _is_blocked(pid: int) -> bool:
    """Return whether a process does nothing for a while: not even wait for its turn on a CPU."""
    before = _cpu_seconds(pid)
    for _ in range(10):
        if _stat(pid)[0] != "S" or Path(f"/proc/{pid}/task/{pid}/children").read_text():
            return False
        time.sleep(0.05)
    return _cpu_seconds(pid) == before


def _check(check: Callable[[], str | None], folder: Path) -> tuple[str, str, str] | None:
    def work() -> None:
        wrong = check()
        if wrong is not None:
            print(wrong, file=sys.stderr)
            raise SystemExit(9)

    ending = attempt(work, folder, LONG_S, {})
    if ending.code == 0:
        return None
    said = _plain(ending.said)
    if ending.code == 9:
        last = said.strip().splitlines()[-1]
        return SILENT_PASS, last.partition(" (")[0][:160], said
    return CHECK_FAILED, _raised(said), said


def _plain(said: str) -> str:
    """Return a message without the frames that typer draws around its own."""
    return re.sub(r"\x1b\[[0-9;]*m", "", re.sub(r"[│╭╮╰╯─]", " ", said))


def _raised(said: str) -> str:
    """Return the error and the last of our own lines of a traceback."""
    own = re.findall(r'File "[^"]*/(compressor/[^"]+)", line (\d+), in (\S+)', said)
    place = f"{own[-1][0]}:{own[-1][1]} {own[-1][2]}" if own else "not in compressor"
    lines = [
        line
        for line in said.strip().splitlines()
        if re.match(r"[\w.]+(Error|Exception|\w*): ?", line)
    ]
    return f"{(lines or ['?'])[-1].partition(':')[0]} at {place}"


def _shape(said: str) -> str:
    """Return a message with what varies left out, so that those of one kind are alike."""
    lines = [line for line in said.strip().splitlines() if line.strip()]
    text = " ".join(lines[-2:] if len(lines) > 1 else lines)
    text = re.sub(r"(/[\w.\-]+)+", "PATH", text)
    return re.sub(r"\d+", "N", re.sub(r"'[^']*'", "'…'", text))[:140]


def _keep(folder: Path, target: Path) -> None:
    """Copy the files of a case that can be copied; a FIFO would block and a device has no end."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for path in sorted(folder.rglob("*")):
        place = target / path.relative_to(folder)
        if "steps" in path.relative_to(folder).parts:
            continue
        if path.is_symlink():
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(path.readlink())
        elif path.is_dir():
            place.mkdir(parents=True, exist_ok=True)
        elif path.is_file() and path.stat().st_size < 10 << 20:
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)
