"""Write the tables of the documentation from the results files, or check that they agree.

    tools/quote_results.py            writes the tables into README.md
    tools/quote_results.py --check    exits with 1 when a table is not what its file says

A table stands between `<!-- results: NAME -->` and `<!-- end of results -->`; NAME is one of the
functions below. Figures are written nowhere else: a test looks for those that are.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from results import ROOT, read_results

DOCUMENTS = (ROOT / "README.md",)
BLOCK = re.compile(r"<!-- results: (?P<name>\w+) -->\n.*?<!-- end of results -->", re.DOTALL)
RECIPES = ("sst2-minilm",)
# Rows of `compare_int8` that are shown, with what they are called; None: as there.
INT8_FILES = {
    "fp32, rewritten": "none: this package's float export",
    "per_token, smooth": "`quantize_dynamic`, `smooth: true`",
    "static, percentile": "`quantize_static`",
    "transformers": "transformers, dynamic, per tensor (its default)",
    "transformers, per channel": "transformers, dynamic, per channel",
    "optimum-onnx 0.1, avx2, per channel": None,
    "optimum-onnx 0.1, avx512_vnni, per channel": None,
    "Olive, OnnxDynamicQuantization, per_channel": None,
    "NNCF, quantize for transformers, 300 rows": None,
}
_CONFIDENCE = "95%"  # of a statement about the product, which no tool measures
# A number and what makes it a figure of speed, size or accuracy.
_FIGURE = re.compile(r"\d(?:[\d.,]*)\s?(?:×|x (?:smaller|faster)|[MG]B\b|% |%\)|points\b|CPU s)")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="change nothing, exit with 1 if stale")
    check = parser.parse_args().check
    stale = []
    for path in DOCUMENTS:
        text = path.read_text(encoding="utf-8")
        if (fresh := with_tables(text)) != text:
            stale.append(path.name)
            if not check:
                path.write_text(fresh, encoding="utf-8")
    print(f"{'stale' if check else 'written'}: {', '.join(stale) or 'none'}")
    return int(check and bool(stale))


def with_tables(text: str) -> str:
    """Return a document with each table made anew from its results file."""

    def table(block: re.Match[str]) -> str:
        name = block["name"]
        return f"<!-- results: {name} -->\n{TABLES[name]()}\n<!-- end of results -->"

    return BLOCK.sub(table, text)


def figures_outside_tables(text: str) -> list[str]:
    """Return the lines of a document that hold a figure which no results file stands behind."""
    bare = BLOCK.sub("", text)
    bare = re.sub(r"```.*?```", "", bare, flags=re.DOTALL)  # recipes and commands
    return [line for line in bare.splitlines() if _FIGURE.search(line.replace(_CONFIDENCE, ""))]


def recipes() -> str:
    """Return the table of whole recipes: means over seeds, lowest and highest in brackets."""
    lines = [
        "| recipe | size | points lost, search rows | predictions changed, rows set aside "
        "| speed, batch 1 | speed, batch 32 | CPU minutes |",
        "|:--|:--|:--|:--|:--|:--|:--|",
    ]
    sources = []
    for name in RECIPES:
        results = read_results(name)
        rows, about = results["rows"], results["about"]
        sources.append(source(name, results))
        megabytes = [row["megabytes"] for row in rows]
        size = rows[0]["baseline_megabytes"] / float(np.mean(megabytes))
        cells = (
            f"`recipes/{about['recipe']}`{repaired(rows)}",
            f"{rows[0]['baseline_megabytes']:.1f} → {spread(megabytes, '.1f')} MB, {size:.1f}×",
            f"{spread([row['points_lost'] for row in rows], '.2f')}; one run ± "
            f"{max(row['points_lost_within'] for row in rows):.1f}",
            f"{spread([row['changed_percent'] for row in rows], '.1f')}%",
            *(speeds([row[f"speed_batch_{size}"] for row in rows]) for size in (1, 32)),
            spread([row["cpu_minutes"] for row in rows], ".0f"),
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", *sources])


def repaired(rows: Sequence[Mapping[str, Any]]) -> str:
    """Say in how many runs a pass went on with milder settings than the recipe's."""
    count = sum(any(tries > 1 for tries in row["tries"]) for row in rows)
    return f", repaired in {count} of {len(rows)} runs" if count else ""


def int8() -> str:
    """Return the table of int8 files of one checkpoint, this package's and other tools'."""
    results = read_results("int8")
    lines = [
        "| int8 file | MB | accuracy | predictions changed | speed, batch 1 | speed, batch 32 |",
        "|:--|:--|:--|:--|:--|:--|",
    ]
    for row in results["rows"]:
        if row["name"] not in INT8_FILES:
            continue
        cells = (
            INT8_FILES[row["name"]] or row["name"],
            f"{row['megabytes']:.1f}",
            f"{row['accuracy']:.2f}%",
            f"{row['changed_percent']:.2f}%",
            *(speeds([row[f"speed_batch_{size}"]]) for size in (1, 32)),
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", source("int8", results)])


def source(name: str, results: Mapping[str, Any]) -> str:
    """Return the line under a table: command, commit, machine, versions and date."""
    versions = results["versions"]
    return (
        f"<sub>[`docs/results/{name}.json`](docs/results/{name}.json): `{results['command']}`, "
        f"commit {results['commit']}, {results['date']}, {results['machine']['cpu']} with "
        f"{', '.join(results['machine']['instructions']) or 'none of the wide instruction sets'}, "
        f"torch {versions['torch']}, onnxruntime {versions['onnxruntime']}.</sub>\n"
    )


def spread(values: Sequence[float], digits: str) -> str:
    """Return the mean of `values`, with the lowest and the highest where there are several."""
    middle = f"{float(np.mean(values)):{digits}}"
    if len(values) == 1:
        return middle
    return f"{middle} ({min(values):{digits}} to {max(values):{digits}})"


def speeds(measured: Sequence[Mapping[str, float]]) -> str:
    """Return the mean of the medians, and the whole range of the 10th to 90th percentiles."""
    middle = float(np.mean([item["median"] for item in measured]))
    low, high = min(item["low"] for item in measured), max(item["high"] for item in measured)
    return f"{middle:.1f}× ({low:.1f} to {high:.1f})"


TABLES: dict[str, Callable[[], str]] = {"recipes": recipes, "int8": int8}


if __name__ == "__main__":
    sys.exit(main())
