#!/usr/bin/env python3
"""Run a recipe in one process and in several, kill some of them, and compare what they end with.

    tools/check_processes.py [RECIPE] [--processes 2] [--set KEY=VALUE ...] [--results]

Without a recipe it is the one of `compress quickstart --digits`, with the training at the learning
rate and the epsilon that it is given here and without dropout: what dropout draws depends on the
number of processes, and AdamW makes steps of rounding errors where a gradient is zero, unless
epsilon is far above them. The steps are:

1. the recipe in one process, and in several, started by torchrun;
2. the same in several once more, whose artifact must have the same bytes;
3. in several that divide the model among them (FSDP2);
4. in several, of which the last is killed with SIGKILL while they train: the first has to end with
   exit code 3 and its report; then the same command in one process, which goes on from there;
5. in several, of which the first is killed: the others have to end too.

Fails unless weights agree within 1e-5 everywhere and all of that holds. Processes run side by side
on the machine's CPUs, each with one thread.
"""

from __future__ import annotations

import argparse
import filecmp
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from results import FOLDER, ROOT, write_results
from safetensors.torch import load_file

from compressor.measurements import RunReport
from compressor.report.report_json import read_report

WITHIN = 1e-5
_DIGITS = ROOT / "compressor" / "quickstart" / "digits.yaml"
_DIGITS_SETTINGS = (
    "passes.0.recovery.dropout=false",
    "passes.0.recovery.epsilon=1e-4",
    "benchmark.providers=[]",
)
_POLL_SECONDS = 0.05
_PATIENCE = 1800.0
_DIVIDED = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}


@dataclass(frozen=True)
class Place:
    """Where a run of the recipe goes, and what it is given."""

    folder: Path
    recipe: Path
    settings: tuple[str, ...]

    def command(self, output: str, processes: int = 1) -> list[str]:
        """Return the command of a run into `output`, in so many processes of this machine."""
        start = [sys.executable, "-m"]
        if processes > 1:
            start += ["torch.distributed.run", f"--nproc-per-node={processes}"]
            start += [f"--master-port={free_port()}", "-m"]
        given = [part for setting in self.settings for part in ("--set", setting)]
        own = ["run", str(self.recipe), "--output", str(self.folder / output), "--device", "cpu"]
        return [*start, "compressor", *own, *given]

    def run(self, output: str, processes: int = 1, **variables: str) -> RunReport:
        """Carry out the recipe and return its report; a run that fails ends this program."""
        command = self.command(output, processes)
        done = subprocess.run(
            command, env=environment(**variables), capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            sys.exit(f"{' '.join(command)}: exit code {done.returncode}\n{done.stderr[-3000:]}")
        return read_report(self.folder / output / "report.json")

    def killed(self, output: str, processes: int, which: int) -> list[int]:
        """Kill one of several processes while they train, and return all exit codes."""
        port = str(free_port())
        shared = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        started = [
            subprocess.Popen(
                self.command(output),
                env=environment(**shared, RANK=str(rank), LOCAL_RANK=str(rank)),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            for rank in range(processes)
        ]
        until = time.monotonic() + _PATIENCE
        work = self.folder / output / "work"
        while not any(work.rglob("training.safetensors")):  # the first checkpoint
            if time.monotonic() > until or started[0].poll() is not None:
                for process in started:
                    process.kill()
                sys.exit(f"{output}: no training left a checkpoint to go on from")
            time.sleep(_POLL_SECONDS)
        started[which].send_signal(signal.SIGKILL)
        return [process.wait(timeout=120) for process in started]

    def difference(self, output: str, other: str) -> float:
        """Return how far the weights of two runs are apart, at most."""
        found, expected = (
            load_file(self.folder / name / "checkpoint" / "model.safetensors")
            for name in (output, other)
        )
        if found.keys() != expected.keys():
            return float("inf")
        return max(float((found[name] - expected[name]).abs().max()) for name in expected)

    def same_bytes(self, output: str, other: str) -> bool:
        """Return whether the artifacts of two runs hold the same files but for their card."""
        first, second = (self.folder / name / "artifact" for name in (output, other))
        names = {path.relative_to(first) for path in first.rglob("*.onnx*")}
        return bool(names) and all(
            filecmp.cmp(first / name, second / name, shallow=False) for name in names
        )


def main() -> int:
    """Return 0 when several processes end with what one ends with, 1 otherwise."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("recipe", type=Path, nargs="?", default=_DIGITS)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--results", action="store_true", help="write docs/results/processes.json")
    arguments = parser.parse_args()
    count = arguments.processes
    own = _DIGITS_SETTINGS if arguments.recipe == _DIGITS else ()
    rows: list[dict[str, object]] = []
    failed = False

    def note(name: str, report: RunReport, difference: float, *, holds: bool = True) -> None:
        nonlocal failed
        failed |= not holds or difference > WITHIN
        assert report.final is not None
        rows.append(
            {
                "run": name,
                "processes": (report.environment.get("processes") or {"count": 1})["count"],
                "score": report.final.score.value,
                "largest_difference": difference,
                "kept_share": kept_share(report),
            }
        )
        print(f"{name:34} weights within {difference:.1e}, score {rows[-1]['score']:.4f}"
              f"{'' if holds else ', and NOT as promised'}", flush=True)  # fmt: skip

    with tempfile.TemporaryDirectory() as scratch:
        place = Place(Path(scratch), arguments.recipe, (*own, *arguments.set))
        note("one process", place.run("one"), 0.0)
        note(f"{count} processes", place.run("many", count), place.difference("many", "one"))
        again = place.run("again", count)
        same = place.same_bytes("again", "many")
        note("once more, the same bytes", again, place.difference("again", "many"), holds=same)
        report = place.run("divided", count, **_DIVIDED)
        share = kept_share(report)
        fits = share is not None and share <= 1.2 / count
        note("divided (FSDP2)", report, place.difference("divided", "one"), holds=fits)
        codes = place.killed("killed", count, count - 1)
        told = read_report(place.folder / "killed" / "report.json").reason
        is_told = codes[0] == 3 and f"process {count - 1} of {count}" in told
        report = place.run("killed")
        difference = place.difference("killed", "one")
        note("the last killed, went on in one", report, difference, holds=is_told)
        codes = place.killed("orphans", count, 0)
        ended = codes[0] == -signal.SIGKILL and set(codes[1:]) == {3}
        report = place.run("orphans", count)
        difference = place.difference("orphans", "one")
        note("the first killed, went on in all", report, difference, holds=ended)
    if arguments.results:
        about = {"recipe": arguments.recipe.name, "settings": [*own, *arguments.set]}
        write_results(FOLDER / "processes.json", rows, about=about)
    return int(failed)


def kept_share(report: RunReport) -> float | None:
    """Return the fraction of parameters and optimizer state that the first process kept."""
    for step in report.passes:
        for text in step.notes:
            if found := re.search(r"(\d+)% of parameters and optimizer state", text):
                return int(found[1]) / 100
    return None


def environment(**variables: str) -> dict[str, str]:
    """Return the environment of a process, with one thread."""
    own = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    return {**os.environ, **own, **variables}


def free_port() -> int:
    """Return a port that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


if __name__ == "__main__":
    sys.exit(main())
