#!/usr/bin/env python3
"""Kill a run at random moments, let it go on, and compare it with one that nobody disturbed.

    tools/check_resume.py RECIPE [--kills 20] [--kills-a-round 4] [--seed 0] [--set KEY=VALUE ...]

A round begins in an empty directory, with an empty cache, and gives the same command again after
every kill, until it is done; rounds follow one another until there were enough kills. The moments
of a round are drawn uniformly from the length of the undisturbed run, the training of a built-in
model included; a run that goes on after a kill is given the time that a run takes which finds
everything done, besides. Time is the process's own, on all CPUs, so that a busy machine does not
move the moments to the front. The signal is SIGKILL, which nothing can prepare for.

Fails unless in every round each file of the artifact has the bytes that the undisturbed run gave
it, no step that a killed run had finished was done again (making a built-in model is one), and
nothing is left over in the cache.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

_POLL_SECONDS = 0.02

Marks = dict[str, tuple[int, int]]  # of each finished step: inode and time of its record


def main() -> int:
    """Return 0 when every round made the same artifact and repeated nothing, 1 otherwise."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--kills", type=int, default=20, help="how often to kill a run")
    parser.add_argument("--kills-a-round", type=int, default=4, help="before it may finish")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args()
    if arguments.kills < 1 or arguments.kills_a_round < 1:
        parser.error("--kills and --kills-a-round: must be at least 1")
    draw = random.Random(arguments.seed)  # noqa: S311 - moments, not secrets
    kills = different = repeated = rounds = 0
    with tempfile.TemporaryDirectory() as scratch:
        whole = Place(Path(scratch) / "undisturbed", arguments)
        seconds, going_on = timed(whole), timed(whole)
        print(
            f"undisturbed: {seconds:.1f} CPU seconds, {len(whole.marks())} steps; again, with "
            f"everything done: {going_on:.1f}",
            flush=True,
        )
        while kills < arguments.kills:
            rounds += 1
            place = Place(Path(scratch) / f"round-{rounds}", arguments)
            count = min(arguments.kills_a_round, arguments.kills - kills)
            moments = sorted(draw.uniform(0, seconds) for _ in range(count))
            later = [after - before + going_on for before, after in pairwise(moments)]
            killed, again = one_round(place, [moments[0], *later])
            changed = different_files(whole.output / "artifact", place.output / "artifact")
            changed += different_files(whole.cache, place.cache)
            kills, repeated, different = kills + killed, repeated + again, different + changed
            print(
                f"round {rounds}: {killed} kills, {changed} files differ, {again} steps repeated",
                flush=True,
            )
            place.remove()
    print(f"{kills} kills in {rounds} rounds: {different} files differ, {repeated} steps repeated")
    return int(different + repeated > 0)


@dataclass(frozen=True)
class Place:
    """Where one run happens: an output directory and a cache of its own."""

    folder: Path
    arguments: argparse.Namespace

    @property
    def output(self) -> Path:
        """Return the output directory."""
        return self.folder / "run"

    @property
    def cache(self) -> Path:
        """Return where the run keeps what is made once, such as a built-in model."""
        return self.folder / "cache"

    @property
    def environment(self) -> dict[str, str]:
        """Return the environment variables of the run."""
        return {**os.environ, "COMPRESSOR_CACHE": str(self.cache)}

    @property
    def command(self) -> list[str]:
        """Return the command line of the run, on the CPU."""
        run = [sys.executable, "-m", "compressor", "run", str(self.arguments.recipe)]
        overrides = [word for setting in self.arguments.set for word in ("--set", setting)]
        return [*run, "--device", "cpu", "--output", str(self.output), *overrides]

    def marks(self) -> Marks:
        """Return what shows that a finished step is the very one that was finished before."""
        records = (self.output / "steps").glob("[!.]*/step.json")
        found = {record.parent.name: record.stat() for record in records}
        made = self.cache.glob("[!.]*/config.json")
        found |= {record.parent.name: record.stat() for record in made}
        return {key: (status.st_ino, status.st_mtime_ns) for key, status in found.items()}

    def remove(self) -> None:
        """Delete everything, because twenty of them take room."""
        shutil.rmtree(self.folder)


def timed(place: Place) -> float:
    """Carry out the whole run without a disturbance and return the CPU seconds that it took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(place.command, env=place.environment, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def killed_after(process: subprocess.Popen[bytes], seconds: float) -> float | None:
    """Kill `process` when it has used this many CPU seconds; None when it ended before."""
    while process.poll() is None:
        used = cpu_seconds(process.pid)
        if used >= seconds:
            process.kill()
            process.wait()
            return used
        time.sleep(_POLL_SECONDS)
    return None


def cpu_seconds(pid: int) -> float:
    """Return what a process of this user, not waited for yet, has used on all CPUs (Linux)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    user, system = fields[11], fields[12]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def one_round(place: Place, waits: list[float]) -> tuple[int, int]:
    """Kill a run after each of `waits` until it finishes; return kills and repeated steps."""
    kills = repeated = 0
    finished: Marks = {}
    place.folder.mkdir()
    for wait in [*waits, math.inf]:
        with (place.folder / "said.txt").open("wb") as said:
            process = subprocess.Popen(
                place.command, env=place.environment, stdout=subprocess.DEVNULL, stderr=said
            )
            used = killed_after(process, wait)
        now = place.marks()
        again = sorted(key for key, mark in finished.items() if now.get(key) != mark)
        repeated += len(again)
        end = "ended" if used is None else f"killed after {used:.1f} CPU seconds"
        print(
            f"  {end}: {len(now)} steps stored, repeated: {', '.join(again) or 'none'}", flush=True
        )
        if used is None:
            break
        kills += 1
        finished = now
    if process.returncode != 0:
        said_last = (place.folder / "said.txt").read_text()
        sys.exit(f"the run ended with exit code {process.returncode}:\n{said_last}")
    return kills, repeated


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
