#!/usr/bin/env python3
"""Time the two ends of finished runs again, in several rounds, and say how far ratios wander.

    tools/time_again.py RUN [RUN ...] --json docs/results/NAME.json [--rounds 7] [--runs-of-each 20]

A RUN is the output folder of a recipe for texts. Its baseline and its artifact take turns on one
thread of the CPU, for every batch size and length that its report has, and the ratio of their CPU
times is taken once a round. Token ids are drawn: how long a text takes depends on its length alone.
Beside each round stands how many processes waited for a core on average in the minute before it,
because other programs take caches and memory from both, and more from the one that computes less.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from results import write_results

from compressor.models.onnx_model import OnnxModel
from compressor.verify.benchmark import Contestant, benchmark
from compressor.verify.timing import TimingPlan

_IDS = (1000, 5000)  # of words in every vocabulary of BERT's kind, however it was trimmed
_LARGE = 256  # tokens in a batch, from which on fewer runs are as steady


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--json", required=True, type=Path, help="results file to write")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--runs-of-each", type=int, default=20, help="in a round")
    arguments = parser.parse_args()
    rows = [
        {"run": run.name, **row}
        for run in arguments.runs
        for row in timed(run, rounds=arguments.rounds, num_runs=arguments.runs_of_each)
    ]
    about = {"clock": "CPU time of one thread", "rounds": arguments.rounds}
    write_results(arguments.json, rows, about=about)
    print(json.dumps(rows, indent=1))
    return 0


def timed(run: Path, *, rounds: int, num_runs: int) -> Iterator[dict[str, Any]]:
    """Yield the ratios of each shape in a run's report, round by round."""
    models: dict[Contestant, Path] = {
        "baseline": run / "baseline" / "model.onnx",
        "final": run / "artifact" / "model.onnx",
    }
    report = json.loads((run / "report.json").read_text(encoding="utf-8"))
    for size, length in shapes(report["latencies"]):
        batches = {name: batch_of(path, size, length) for name, path in models.items()}
        ratios, loads = [], []
        for number in range(rounds):
            num = num_runs if size * length < _LARGE else max(3, num_runs // 5)
            found = benchmark(
                models,
                provider="cpu",
                batches=[(size, length, batches)],
                plan=TimingPlan(warmup_runs=2, num_runs=num, threads=1, seed=number),
            )
            cpu_ms = {item.model: item.cpu_p50_ms for item in found}
            ratios.append(ratio_of(cpu_ms))
            loads.append(os.getloadavg()[0])
        yield {
            "task": report["task"],
            "batch_size": size,
            "tokens": length,
            "ratios": ratios,
            "median": float(np.median(ratios)),
            "loads": loads,
        }


def shapes(latencies: Sequence[Mapping[str, Any]]) -> list[tuple[int, int]]:
    """Return the batch sizes and lengths that a report has, each once."""
    found = [(item["batch_size"], item["sequence_length"]) for item in latencies]
    return list(dict.fromkeys(found))


def batch_of(path: Path, size: int, length: int) -> dict[str, Any]:
    """Return drawn tokens for what a graph reads, all of them to be attended to."""
    ids = np.random.default_rng(0).integers(*_IDS, (size, length))
    known = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    return {name: known.get(name, np.zeros_like(ids)) for name in OnnxModel(path).input_names}


def ratio_of(cpu_ms: Mapping[Contestant, float | None]) -> float:
    before, after = cpu_ms["baseline"], cpu_ms["final"]
    assert before is not None, "one thread of the CPU is timed by its CPU time"
    assert after is not None, "one thread of the CPU is timed by its CPU time"
    return before / after


if __name__ == "__main__":
    sys.exit(main())
