"""Run `compress quickstart` for several seeds, each in a fresh process, and write what it reached.

    tools/measure_quickstart.py --json docs/results/quickstart.json [--seeds 0 1 2] [--digits]

For each seed: how it ended, seconds on the clock and of the CPU, from the command to its end, size,
score on the certification rows with its bound, and the CPU time of one thread of the original over
the artifact's for each batch. Run it on an idle machine: the seconds are what a user waits. The
command exits with 1 when a run did not end with a proof.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from results import ROOT, write_results


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", required=True, type=Path, help="results file to write")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--digits", action="store_true", help="the model that needs no package")
    arguments = parser.parse_args()
    rows = [measure(seed, digits=arguments.digits) for seed in arguments.seeds]
    write_results(
        arguments.json,
        rows,
        about={"clock": "CPU time of one thread", "cores": os.cpu_count()},
    )
    print(json.dumps(rows, indent=1))
    return int(any(row["exit_code"] != 0 for row in rows))


def measure(seed: int, *, digits: bool) -> dict[str, Any]:
    """Return what one run reached, in an empty directory and with an empty cache."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = [sys.executable, "-m", "compressor", "quickstart", "--output", str(folder)]
        command += ["--set", f"seed={seed}", *(["--digits"] if digits else [])]
        environment = {
            **os.environ,
            "COMPRESSOR_CACHE": str(folder / "cache"),
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        }
        started, cpu_before = time.monotonic(), children_cpu_s()
        code = subprocess.run(command, check=False, env=environment, stdout=sys.stderr).returncode
        facts = {
            "seed": seed,
            "exit_code": code,
            "seconds": round(time.monotonic() - started, 1),
            "cpu_seconds": round(children_cpu_s() - cpu_before, 1),
        }
        [report] = (folder / "runs").glob("*/report.json")
        return {**facts, **of_report(json.loads(report.read_text(encoding="utf-8")))}


def children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def of_report(report: dict[str, Any]) -> dict[str, Any]:
    """Return size, score, bound and speed, as far as the run came."""
    ends = {name: report[name] for name in ("baseline", "final") if report[name] is not None}
    bytes_on_disk = {name: end["size"]["bytes_on_disk"] for name, end in ends.items()}
    found: dict[str, Any] = {"verdict": report["verdict"], "reason": report["reason"]}
    found["megabytes"] = {name: size / 1e6 for name, size in bytes_on_disk.items()}
    if len(ends) == 2:
        found["times_smaller"] = bytes_on_disk["baseline"] / bytes_on_disk["final"]
        found["search_score"] = ends["final"]["score"]["value"]
    if report["certificate"] is not None:
        certificate = report["certificate"]
        found["metric"] = certificate["metric"]
        found["certification_rows"] = certificate["num_examples"]
        found["certification_score"] = report["certification"]["final"]["value"]
        found["points_lost"] = 100 * certificate["drop"]
        found["points_lost_at_most"] = 100 * certificate["upper_bound"]
        found["confidence"] = certificate["confidence"]
    return found | {"speed": speeds(report["latencies"])}


def speeds(latencies: list[dict[str, Any]]) -> dict[str, float]:
    """Return how many times faster the artifact is, by the input, such as `batch 1 x 32`."""
    times: dict[str, dict[str, float]] = {}
    for item in latencies:
        length = item["sequence_length"]
        shape = f"batch {item['batch_size']}" + ("" if length is None else f" x {length}")
        own = item["p50_ms"] if item["cpu_p50_ms"] is None else item["cpu_p50_ms"]
        times.setdefault(shape, {})[item["model"]] = own
    return {shape: own["baseline"] / own["final"] for shape, own in times.items()}


if __name__ == "__main__":
    sys.exit(main())
