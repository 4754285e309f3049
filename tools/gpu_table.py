"""The table that `check_gpu.py` writes: what was checked, on what, and what it took."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Finding:
    """What one check found; `passed` is None for a fact that cannot be wrong."""

    check: str
    what: str
    passed: bool | None
    detail: str


@dataclass
class Record:
    """Everything that goes into the table."""

    taken_at: str
    environment: dict[str, Any]
    findings: list[Finding] = field(default_factory=list)
    latencies: list[dict[str, Any]] = field(default_factory=list)

    def add(self, check: str, what: str, passed: bool | None, detail: str) -> None:
        self.findings.append(Finding(check, what, passed, detail))
        print(_line(self.findings[-1]), flush=True)

    @property
    def failed(self) -> bool:
        return any(item.passed is False for item in self.findings)


def write(record: Record, folder: Path | None) -> None:
    """Print the table and, with a folder, leave it there as Markdown and JSON."""
    text = render(record)
    print("\n" + text)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "gpu.md").write_text(text, encoding="utf-8")
        plain = json.dumps(asdict(record), indent=2, ensure_ascii=False)
        (folder / "gpu.json").write_text(plain + "\n", encoding="utf-8")


def render(record: Record) -> str:
    facts = record.environment
    packages = ", ".join(
        f"{name} {facts['packages'][name]}"
        for name in ("compressor", "torch", "transformers", "onnxruntime", "onnxruntime-gpu")
        if name in facts["packages"]
    )
    lines = [
        f"# GPU checks, {record.taken_at}",
        "",
        f"- GPU: {facts['gpu'] or 'none: these are numbers of the CPU'}",
        f"- driver: {facts['driver'] or 'unknown'}; CUDA of torch: {facts['cuda'] or 'none'}",
        f"- CPU: {facts['cpu']['model']}, {facts['threads']} threads; {facts['platform']}",
        f"- {packages}; Python {facts['python']}",
        "",
        "| check | of | result | detail |",
        "|:--|:--|:--|:--|",
    ]
    lines += [f"| {' | '.join(_cells(item))} |" for item in record.findings]
    if record.latencies:
        lines += [
            "",
            "Each precision took turns with float32 in one run. Memory is the GPU's, in a session "
            "of its own.",
            "",
            "| model | precision | provider | CUDA graphs | batch | tokens | p50, ms | p95, ms | "
            "p99, ms | speed-up | memory, MB |",
            "|:--|:--|:--|:--|--:|--:|--:|--:|--:|--:|--:|",
        ]
        lines += list(_latency_lines(record.latencies))
    return "\n".join(lines) + "\n"


def _latency_lines(latencies: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield one line for each measurement; float32 comes with each that it was timed beside."""

    def setting(item: Mapping[str, Any]) -> tuple[Any, ...]:
        keys = ("subject", "beside", "provider", "cuda_graph", "batch_size", "sequence_length")
        return tuple(item[key] for key in keys)

    before = {setting(item): item["p50_ms"] for item in latencies if item["model"] == "baseline"}
    for item in latencies:
        memory = item["peak_memory_bytes"]
        cells = [
            item["subject"],
            item["precision"],
            item["provider"],
            "yes" if item["cuda_graph"] else "no",
            str(item["batch_size"]),
            str(item["sequence_length"]),
            *(f"{item[key]:.3g}" for key in ("p50_ms", "p95_ms", "p99_ms")),
            f"{before[setting(item)] / item['p50_ms']:.2f}×{' (noisy)' if item['noisy'] else ''}",
            "—" if memory is None else f"{memory / 1e6:,.0f}",
        ]
        yield f"| {' | '.join(cells)} |"


def _cells(item: Finding) -> tuple[str, ...]:
    result = {True: "passed", False: "FAILED", None: "noted"}[item.passed]
    return (item.check, item.what, result, " ".join(item.detail.replace("|", "/").split()))


def _line(item: Finding) -> str:
    return " · ".join(_cells(item))
