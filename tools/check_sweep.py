#!/usr/bin/env python3
"""Run a sweep with one worker and with two of which one is killed, and compare the two.

    tools/check_sweep.py SWEEP [--seed 0] [--output docs/results/sweep.json] [--keep DIRECTORY]

The sweep has to be a grid without times among its objectives and constraints, so that both must
give the same. The second worker is killed (SIGKILL) at a moment drawn from the middle third of its
share of the work, on its own CPU clock, and is not started again. Time is that of processes on all
CPUs. What every step takes is noted by the workers themselves, in which `StepStore.make` is
wrapped.

Fails unless

- every trial has the same artifact, byte for byte, in both sweeps, and so has the chosen recipe;
- each step was finished once, the export of the baseline among them;
- the front, recomputed from the reports of the trials, is the one that was written;
- certification rows were scored twice, for baseline and artifact of the chosen recipe alone;
- all CPU time is at most 1.15 times that of the finished steps, for one worker and for two; what
  the killed worker did after its last finished step is lost with its trial, and is told apart.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from check_resume import cpu_seconds
from results import write_results

_MOST_OVERHEAD = 1.15
_POLL_SECONDS = 0.05
_NOTES = "COMPRESSOR_STEP_NOTES"
# Files of an artifact that only a completed one has.
_AT_THE_END = ("manifest.json", "README.md")


def main() -> int:
    """Return 0 when everything held, 1 otherwise."""
    if _NOTES in os.environ:
        return worker(sys.argv[1:])
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("sweep", type=Path)
    parser.add_argument("--seed", type=int, default=0, help="of the moment of the kill")
    parser.add_argument("--output", type=Path, help="results file to write")
    parser.add_argument("--keep", type=Path, help="where to work, kept afterwards")
    arguments = parser.parse_args()
    draw = random.Random(arguments.seed)  # noqa: S311 - a moment, no secret
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.keep or Path(scratch)
        alone = Sweep(arguments.sweep, folder / "one")
        took = alone.run()
        print(f"one worker: {took:.1f} CPU s, of finished steps {alone.parts:.1f}", flush=True)
        shared = Sweep(arguments.sweep, folder / "two")
        moment = took * draw.uniform(1 / 6, 1 / 3)  # of half the work each, the middle third
        both = shared.run_with_a_kill(moment)
        print(f"two workers: {both:.1f} CPU s, of finished steps {shared.parts:.1f}", flush=True)
        wrong = [*compared(alone, shared), *judged(alone, took), *judged(shared, both)]
        for line in wrong:
            print(f"WRONG  {line}")
        if arguments.output is not None:
            rows = [row(alone, took, "one"), row(shared, both, "two, one of them killed")]
            about = {"sweep": arguments.sweep.name, "killed_after_cpu_seconds": round(moment, 1)}
            write_results(arguments.output, rows, about={**about, "wrong": wrong})
    print("everything held" if not wrong else f"{len(wrong)} things did not hold")
    return int(bool(wrong))


def worker(arguments: list[str]) -> int:
    """Run the command line in this process, and note what each step takes."""
    from compressor import cli
    from compressor.pipeline.step_store import Step, StepStore

    notes = Path(os.environ.pop(_NOTES))
    make = StepStore.make

    def noted(self: StepStore, name: str, key: str, *others: Any) -> Step:
        start = time.process_time()
        step = make(self, name, key, *others)
        now = time.process_time()
        line = json.dumps({"name": name, "key": key, "cpu": now - start, "at": now})
        with notes.open("a") as stream:
            stream.write(f"{line}\n")
        return step

    StepStore.make = noted  # type: ignore[method-assign, assignment]
    sys.argv = ["compress", *arguments]
    cli.main()
    return 0


@dataclass
class Sweep:
    """One sweep into a folder of its own, with a cache of its own that is filled before."""

    file: Path
    folder: Path
    taken_over: tuple[str, ...] = ()  # trials that a killed worker had begun
    lost: float = 0.0  # CPU seconds of the killed worker after its last finished step

    def start(self, name: str) -> subprocess.Popen[bytes]:
        """Start a worker; it writes its notes and its words beside the output."""
        self.folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, __file__, "sweep", str(self.file), "--device", "cpu"]
        with (self.folder / f"{name}.txt").open("wb") as said:
            return subprocess.Popen(
                [*command, "--output", str(self.output)],
                env={**os.environ, _NOTES: str(self.folder / f"{name}.jsonl")},
                stdout=said,
                stderr=subprocess.STDOUT,
            )

    def run(self) -> float:
        """Run one worker to the end; return the CPU seconds it took."""
        before = spent()
        self.require_done(self.start("first"))
        return spent() - before

    def run_with_a_kill(self, moment: float) -> float:
        """Run two workers, kill one of them; return the CPU seconds of both."""
        before = spent()
        first, second = self.start("first"), self.start("second")
        used = 0.0
        while second.poll() is None and used < moment:
            time.sleep(_POLL_SECONDS)
            used = cpu_seconds(second.pid)
        second.send_signal(signal.SIGKILL)
        if second.wait() != -signal.SIGKILL:
            sys.exit("the second worker had ended before it was killed")
        finished = [json.loads(line) for line in read_lines(self.folder / "second.jsonl")]
        self.lost = used - max((float(note["at"]) for note in finished), default=0.0)
        self.require_done(first)
        said = read_lines(self.folder / "first.txt")
        self.taken_over = tuple(
            word for line in said for word in re.findall(r"trial \d+(?= .*another worker)", line)
        )
        return spent() - before

    def require_done(self, process: subprocess.Popen[bytes]) -> None:
        """Wait for a worker, and stop where it did not end well."""
        if process.wait() != 0:
            sys.exit(f"a worker ended with {process.returncode}, see {self.folder}/first.txt")

    @property
    def output(self) -> Path:
        """Return the output directory."""
        return self.folder / "out"

    @property
    def notes(self) -> list[dict[str, Any]]:
        """Return what each finished step took, in no order."""
        files = sorted(self.folder.glob("*.jsonl"))
        return [json.loads(line) for path in files for line in read_lines(path)]

    @property
    def parts(self) -> float:
        """Return the CPU seconds of all finished steps together."""
        return sum(float(note["cpu"]) for note in self.notes)

    @property
    def front(self) -> dict[str, Any]:
        """Return the front that was written."""
        found: dict[str, Any] = json.loads((self.output / "front.json").read_text())
        return found

    @property
    def artifacts(self) -> dict[str, str]:
        """Return the SHA-256 of every file of every trial's artifact, and of the chosen one's."""
        files = (*self.output.glob("trials/*/artifact/*"), *self.output.glob("best/artifact/*"))
        return {
            path.relative_to(self.output).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in files
            if path.name not in _AT_THE_END
        }


def read_lines(path: Path) -> list[str]:
    """Return the lines of a file, none of one that is not there."""
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []


def spent() -> float:
    """Return the CPU seconds of all processes that were waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def compared(one: Sweep, other: Sweep) -> list[str]:
    """Return what differs between two sweeps."""
    before, after = one.artifacts, other.artifacts
    wrong = [f"{name} differs" for name in {*before, *after} if before.get(name) != after.get(name)]
    if one.front["front"] != other.front["front"] or one.front["best"] != other.front["best"]:
        wrong.append("the fronts differ")
    return wrong if before else [*wrong, "there is no artifact"]


def judged(sweep: Sweep, took: float) -> list[str]:
    """Return what does not hold of one sweep."""
    wrong = []
    times = Counter(note["key"] for note in sweep.notes)
    if again := [key for key, count in times.items() if count > 1]:
        wrong.append(f"{sweep.folder.name}: {len(again)} steps were finished more than once")
    names = Counter(note["name"] for note in sweep.notes)
    if names["baseline: export"] != 1:
        wrong.append(f"{sweep.folder.name}: the baseline was exported {names['baseline: export']}x")
    certified = [name for name in names.elements() if name.startswith("certification")]
    readings = json.loads((sweep.output / "best" / "readings.json").read_text())
    if len(certified) != 2 or len(readings) != 1:
        wrong.append(f"{sweep.folder.name}: certification rows were read by {certified}")
    if len(sweep.front["trials"]) != sweep.front["num_trials"]:
        wrong.append(f"{sweep.folder.name}: trials are missing")
    if recomputed(sweep) != (sweep.front["front"], sweep.front["best"]):
        wrong.append(f"{sweep.folder.name}: the front is {recomputed(sweep)} when recomputed")
    if took - sweep.lost > _MOST_OVERHEAD * sweep.parts:
        ratio = (took - sweep.lost) / sweep.parts
        wrong.append(f"{sweep.folder.name}: took {ratio:.2f} times its parts")
    if sweep.lost and len(sweep.taken_over) != 1:
        wrong.append(f"{sweep.folder.name}: {sweep.taken_over or 'nothing'} was taken over")
    return wrong


def recomputed(sweep: Sweep) -> tuple[list[int], int | None]:
    """Return front and best trial from the reports of the trials alone, pair by pair."""
    front = sweep.front
    ways = front["objectives"]
    limits = front["constraints"]
    known: dict[int, list[float]] = {}
    for path in sweep.output.glob("trials/*/report.json"):
        report = json.loads(path.read_text())
        if report["verdict"] != "passed":
            continue
        before, after = report["baseline"]["score"]["value"], report["final"]["score"]["value"]
        found = {
            "score": after,
            "drop": before - after,
            "bytes": report["final"]["size"]["bytes_on_disk"],
        }
        if found["drop"] > limits.get("drop", 1) + 1e-12 or found["bytes"] > limits.get(
            "bytes", found["bytes"]
        ):
            continue
        known[int(path.parent.name)] = [
            found[name] * (1 if way == "minimize" else -1) for name, way in ways.items()
        ]
    ahead = [
        number
        for number, own in known.items()
        if not any(
            other != own and all(b <= a for a, b in zip(own, other, strict=True))
            for other in known.values()
        )
    ]
    best = min(known, key=lambda number: (*known[number], number), default=None)
    return sorted(ahead), best


def row(sweep: Sweep, took: float, workers: str) -> dict[str, Any]:
    """Return what one sweep took, for the results file."""
    names = Counter(note["name"] for note in sweep.notes)
    reused = sum(item["num_reused"] for item in sweep.front["trials"])
    return {
        "workers": workers,
        "trials": len(sweep.front["trials"]),
        "on_front": len(sweep.front["front"]),
        "cpu_seconds": round(took, 1),
        "steps_cpu_seconds": round(sweep.parts, 1),
        "lost_cpu_seconds": round(sweep.lost, 1),
        "ratio": round((took - sweep.lost) / sweep.parts, 3),
        "steps": len(sweep.notes),
        "steps_taken_from_the_store": reused,
        "baseline_exports": names["baseline: export"],
        "certification_readings": sum(
            count for name, count in names.items() if name.startswith("certification")
        )
        // 2,
        "taken_over": list(sweep.taken_over),
    }


if __name__ == "__main__":
    sys.exit(main())
