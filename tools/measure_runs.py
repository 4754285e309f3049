#!/usr/bin/env python3
"""Run a recipe of any task for several seeds, and keep what the reports say of its artifacts.

    tools/measure_runs.py RECIPE --json docs/results/NAME.json [--seeds 0 1 2]
        [--set model.checkpoint=... data.train.path=... data.certification.path=...]
        [--texts FILE] [--retrieval FOLDER] [--keep FOLDER]

Reported are, for each seed: how the run ended, its CPU time, size and parameters, the score of the
untouched checkpoint and of the artifact on the search split, which the gates read, and on the
certification split, which nothing read before the end, with the bound that it proves; what is
proven of each kind that must not be missed; and speed as the ratio of the CPU time of one thread,
baseline over artifact, the two taking turns. Of a sentence encoder also cosines of the column
`text` of FILE, and recall@10 on FOLDER, which holds queries, corpus and qrels. A run that is not
certified is told as such; the command exits with 1 when a run ended without an artifact to measure.
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
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from results import write_results
from vector_quality import cosine_facts, recall_facts, rows_of

_DOCUMENTS = 10_000  # that are searched at most


def main() -> int:
    arguments = _arguments()
    about = {"recipe": arguments.recipe.name, "clock": "CPU time of one thread"}
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        kept = arguments.keep or Path(name)
        for seed in arguments.seeds:
            rows.append(measure(arguments, seed, kept / f"{arguments.recipe.stem}-{seed}"))
            write_results(arguments.json, rows, about=about)  # a seed that is done stays
    print(json.dumps(rows, indent=1))
    return int(any("certification" not in row for row in rows))


def measure(arguments: argparse.Namespace, seed: int, output: Path) -> dict[str, Any]:
    """Carry out the recipe with `seed`, and return what its report says."""
    settings = [f"seed={seed}", *arguments.set]
    command = [sys.executable, "-m", "compressor", "run", str(arguments.recipe)]
    command += ["--allow-inconclusive", "--output", str(output)]
    started, before_s = time.monotonic(), _children_cpu_s()
    code = subprocess.run(
        [*command, *(word for item in settings for word in ("--set", item))],
        stdout=subprocess.DEVNULL,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ).returncode
    report = json.loads((output / "report.json").read_text(encoding="utf-8"))
    return {
        "seed": seed,
        "exit_code": code,
        "verdict": report["verdict"],
        "reason": report["reason"],
        "cpu_minutes": round((_children_cpu_s() - before_s) / 60, 1),
        "wall_minutes": round((time.monotonic() - started) / 60, 1),
        "metric": report["metric"],
        "tries": [len(step["tries"]) for step in report["passes"]],
        **dict(_of_artifact(report)),
        **dict(_of_vectors(arguments, report, output / "artifact")),
    }


def _of_vectors(
    arguments: argparse.Namespace, report: Mapping[str, Any], artifact: Path
) -> Iterator[tuple[str, Any]]:
    """Yield what the vectors of a finished artifact are like, as far as texts are given."""
    if not (artifact / "manifest.json").is_file():
        return
    checkpoint = report["source_checkpoint"]
    if arguments.texts is not None:
        yield "cosines", cosine_facts(artifact, checkpoint, rows_of(arguments.texts))
    if arguments.retrieval is not None:
        yield (
            "recall@10",
            recall_facts(artifact, checkpoint, arguments.retrieval, most=_DOCUMENTS),
        )


def _of_artifact(report: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield what the report says of the artifact, as far as the run came."""
    before, after = report["baseline"], report["final"]
    if before is None or after is None:
        return
    sizes = [end["size"]["bytes_on_disk"] / 1e6 for end in (before, after)]
    yield "baseline_megabytes", sizes[0]
    yield "megabytes", sizes[1]
    yield "times_smaller", report["source_bytes"] / 1e6 / sizes[1]
    yield "parameters", after["size"]["parameters"]
    values = [end["score"]["value"] for end in (before, after)]
    yield "search", _lost(*values, num_units=after["score"]["num_examples"])
    if (proof := report["certification"]) is not None:
        ends = [proof[end]["value"] for end in ("baseline", "final")]
        certificate = report["certificate"] or {}
        yield (
            "certification",
            {
                **_lost(*ends, num_units=proof["final"]["num_examples"]),
                "verdict": certificate.get("verdict"),
                "points_lost_at_most": _points(certificate.get("upper_bound")),
                "needed_units": certificate.get("needed_examples"),
            },
        )
    yield (
        "recalls",
        [
            {
                key: item[key]
                for key in ("kind", "budget", "there", "before", "after", "verdict", "needed_units")
            }
            | {"points_lost_at_most": _points(item["upper_bound"])}
            for item in report["recalls"] or ()
        ],
    )
    yield "speeds", dict(_speeds(report["latencies"] or ()))


def _lost(before: float, after: float, *, num_units: int) -> dict[str, float]:
    lost = _points(before - after)
    assert lost is not None
    return {
        "baseline": 100 * before, "final": 100 * after, "points_lost": lost, "units": num_units
    }  # fmt: skip


def _points(fraction: float | None) -> float | None:
    return None if fraction is None else 100 * fraction


def _speeds(latencies: Any) -> Iterator[tuple[str, float]]:
    """Yield how many times faster the artifact is, by batch size and length of texts."""
    timed = {(item["model"], item["batch_size"], item["sequence_length"]): item["cpu_p50_ms"]
             for item in latencies}  # fmt: skip
    for (model, size, length), before_ms in timed.items():
        if model == "baseline":
            yield f"batch {size}, {length} tokens", before_ms / timed["final", size, length]


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--json", required=True, type=Path, help="results file to write")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--texts", type=Path, help="texts that nothing in the run has read")
    parser.add_argument("--retrieval", type=Path, help="folder of queries, corpus and qrels")
    parser.add_argument("--keep", type=Path, help="folder that the runs stay in, for time_again.py")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="as the CLI's")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
