"""Processes wait for work, and end with the exit code of the first or because it is gone."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from compressor.errors import EnvironmentMismatch, StepFailed
from compressor.machine.launchers import Launch
from compressor.machine.team import ALONE, Lost, Team, _introduced

ROOT = Path(__file__).parents[2]
# Follows until the first process ends; what it is sent, it fails with.
FOLLOWER = """
import pickle, torch
from compressor.errors import StepFailed
from compressor.machine.team import join

def fail(text):
    team.join_group(torch.device("cpu"))
    raise StepFailed(text)

team = join()
print("joined", flush=True)
team.follow(fail, pickle.loads)
"""
# Does what stands in its input, line by line.
LEADER = """
import os, pickle, sys, torch, torch.distributed
from compressor.machine.team import end_team, join

team = join()
print("joined", flush=True)

def wait():
    torch.distributed.barrier()

for line in sys.stdin:
    try:
        exec(line)
    except Exception as error:
        print(f"{type(error).__name__}: {error}", flush=True)
"""


@pytest.fixture
def processes() -> Iterator[tuple[subprocess.Popen[str], subprocess.Popen[str]]]:
    """Yield two processes that have met; the first does what is written to it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
    own = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1"}
    environment = {**os.environ, **own, "WORLD_SIZE": "2", "MASTER_PORT": port}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", script],
            env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for rank, script in enumerate((LEADER, FOLLOWER))
    ]
    for process in started:
        assert process.stdout is not None
        assert process.stdout.readline() == "joined\n"
    yield started[0], started[1]
    for process in started:
        process.kill()
        process.communicate()


def tell(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin is not None
    process.stdin.write(f"{line}\n")
    process.stdin.flush()


def answer(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


Processes = tuple[subprocess.Popen[str], subprocess.Popen[str]]
WORK = 'team.together(torch.device("cpu"), pickle.dumps("as told"), wait)'


def ticks(process: subprocess.Popen[str]) -> int:
    """Return how long a process has computed, in hundredths of a second."""
    stat = Path(f"/proc/{process.pid}/stat").read_text(encoding="ascii")
    return sum(map(int, stat.split()[13:15]))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_others_wait_without_computing_and_end_with_the_exit_code_of_the_first(
    processes: Processes,
):
    first, second = processes
    before = ticks(second)
    time.sleep(1.0)
    assert ticks(second) - before <= 3
    tell(first, "end_team(5)")
    time.sleep(0.3)  # what it still has to write may take a while
    assert second.poll() is None
    tell(first, "os._exit(5)")
    assert (first.wait(10), second.wait(10)) == (5, 5)


def test_a_failure_of_another_process_is_raised_by_the_first_whose_death_ends_the_other(
    processes: Processes,
):
    first, second = processes
    tell(first, WORK)
    told = "StepFailed: process 1 of 2 (counted from 0) failed: as told\n"
    assert answer(first) == told
    first.kill()
    assert second.wait(10) == EnvironmentMismatch.exit_code


def test_work_for_a_process_that_was_killed_fails_with_its_number(processes: Processes):
    first, second = processes
    second.kill()
    second.wait()
    tell(first, "print(team.lost(10.0).rank, flush=True)")
    assert answer(first) == "1\n"
    tell(first, WORK)
    assert answer(first).startswith(
        "EnvironmentMismatch: process 1 of 2 (counted from 0) ended without a word"
    )


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff",
        b"7",
        b"[]",
        b'[1, "other"]',
        b'["1", "token"]',
        b'{"a": 1, "b": 2}',
        '[1, "\u00fcber"]'.encode(),
        b'[1, "\\ud800"]',
    ],
)
def test_a_stranger_is_not_taken_for_a_process(content: bytes):
    assert _introduced(content, "token") is None
    assert _introduced(b'[1, "token"]', "token") == 1


def test_a_failure_is_raised_by_its_exit_code():
    assert isinstance(Lost(1, "ended").error(2), EnvironmentMismatch)
    assert isinstance(Lost(1, "failed", 4).error(2), StepFailed)
    assert type(Lost(1, "failed", 1).error(2)) is RuntimeError


def test_a_process_without_others_does_all_by_itself():
    value = torch.ones(2)
    assert ALONE.is_alone
    assert ALONE.leads
    assert ALONE.total(value) is value
    assert ALONE.gathered(value) == [value]
    assert (ALONE.from_leader(7), ALONE.to_leader(7), ALONE.all_agree(7)) == (7, [7], True)


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_the_parts_of_processes_are_disjoint_and_alike(size: int):
    rows = list(range(20))
    parts = [list(Team(Launch(rank, size)).own_part(rows)) for rank in range(size)]
    assert [row for part in parts for row in part] == rows
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
