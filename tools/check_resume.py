#!/usr/bin/env python3
"""Kill a run at random moments, let it go on, and compare it with one that nobody disturbed.

    tools/check_resume.py RECIPE [--kills 20] [--seed 0] [--set KEY=VALUE ...]

A round begins in an empty directory and gives the same command again after every kill, until it is
done; rounds follow one another until there were enough kills. Each moment is drawn uniformly from
the length of the shortest run that nobody killed; the signal is SIGKILL, which nothing can prepare
for.

Fails unless in every round each file of the artifact has the bytes that the undisturbed run gave
it, and no step that a killed run had finished was done again.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

Marks = dict[str, tuple[int, int]]  # of each finished step: inode and time of its record


def main() -> int:
    """Return 0 when every round made the same artifact and repeated nothing, 1 otherwise."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--kills", type=int, default=20, help="how often to kill a run")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args()
    if arguments.kills < 1:
        parser.error(f"--kills: must be at least 1, got {arguments.kills}")
    draw = random.Random(arguments.seed)  # noqa: S311 - moments, not secrets
    kills = different = repeated = rounds = 0
    with tempfile.TemporaryDirectory() as scratch:
        whole = Path(scratch) / "undisturbed"
        seconds = run_whole(command(arguments, whole))
        print(f"undisturbed: {seconds:.1f} s, {len(marks(whole))} steps", flush=True)
        while kills < arguments.kills:
            rounds += 1
            output = Path(scratch) / f"round-{rounds}"
            waits = [draw.uniform(0, seconds) for _ in range(arguments.kills - kills)]
            killed, again, elapsed = one_round(command(arguments, output), output, waits)
            if not killed:  # the first run may have trained a built-in model, which later ones find
                seconds = min(seconds, elapsed)
            changed = different_files(whole / "artifact", output / "artifact")
            kills, repeated, different = kills + killed, repeated + again, different + changed
            print(f"round {rounds}: {killed} kills, {changed} files differ, {again} steps repeated")
    print(f"{kills} kills in {rounds} rounds: {different} files differ, {repeated} steps repeated")
    return int(different + repeated > 0)


def command(arguments: argparse.Namespace, output: Path) -> list[str]:
    """Return the command line of one run on the CPU."""
    run = [sys.executable, "-m", "compressor", "run", str(arguments.recipe), "--device", "cpu"]
    overrides = [word for setting in arguments.set for word in ("--set", setting)]
    return [*run, "--output", str(output), *overrides]


def run_whole(run: list[str]) -> float:
    """Carry out `run` without a disturbance and return the seconds that it took."""
    started = time.monotonic()
    subprocess.run(run, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - started


def one_round(run: list[str], output: Path, waits: list[float]) -> tuple[int, int, float]:
    """Kill `run` after each of `waits` until it finishes.

    Returns the kills, the steps that were done twice, and the seconds of the last run.
    """
    kills = repeated = 0
    finished: Marks = {}
    for wait in [*waits, None]:
        started = time.monotonic()
        process = subprocess.Popen(run, stdout=subprocess.DEVNULL)
        try:
            status = process.wait(timeout=wait)
        except subprocess.TimeoutExpired:
            process.kill()
            status = None
            process.wait()
        elapsed = time.monotonic() - started
        now = marks(output)
        again = sorted(key for key, mark in finished.items() if now.get(key) != mark)
        repeated += len(again)
        print(f"  {'killed' if status is None else 'ended'} after {elapsed:.1f} s: {len(now)} "
              f"steps stored, repeated: {', '.join(again) or 'none'}", flush=True)  # fmt: skip
        if status is not None:
            break
        kills += 1
        finished = now
    if status != 0:
        sys.exit(f"the run ended with exit code {status}: {' '.join(run)}")
    return kills, repeated, elapsed


def marks(output: Path) -> Marks:
    """Return what shows that a stored step is the very one that was stored before."""
    records = (output / "steps").glob("[!.]*/step.json")
    found = {record.parent.name: record.stat() for record in records}
    return {key: (status.st_ino, status.st_mtime_ns) for key, status in found.items()}


def different_files(expected: Path, found: Path) -> int:
    """Return how many files of two artifacts do not have the same bytes."""
    one, other = digests(expected), digests(found)
    wrong = sorted(name for name in {*one, *other} if one.get(name) != other.get(name))
    for name in wrong:
        print(f"  DIFFERENT  {name}")
    return len(wrong)


def digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file in a folder."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


if __name__ == "__main__":
    sys.exit(main())
