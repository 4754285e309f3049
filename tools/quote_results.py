"""Write the tables of the documentation from the results files, or check that they agree.

    tools/quote_results.py            writes the tables into README.md and the pages of docs
    tools/quote_results.py --check    exits with 1 when a table is not what its file says

A table stands between `<!-- results: NAME -->` and `<!-- end of results -->`; NAME is one of the
functions below. Those about rows quote no file: they ask the certificate itself what so many rows
prove. Figures are written nowhere else: a test looks for those that are.
"""

from __future__ import annotations

import argparse
import math
import os.path
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from results import FOLDER, ROOT, read_results

from compressor.certificate import (
    certify_agreement,
    certify_paired,
    examples_for_accuracy,
    examples_for_agreement,
)
from compressor.report.units import metric_words
from compressor.words import about

DOCS = ROOT / "docs"
# The reference is made from the code: its numbers are settings, and no measurements.
PAGES = tuple(path for path in sorted(DOCS.rglob("*.md")) if DOCS / "reference" not in path.parents)
DOCUMENTS = (ROOT / "README.md", *PAGES)
BLOCK = re.compile(r"<!-- results: (?P<name>\w+) -->\n.*?<!-- end of results -->", re.DOTALL)
RECIPES = ("sst2-minilm",)
TASK_RECIPES = ("ner-pii", "reranker")
# Results files of a recipe's further seeds, which were measured by commands of their own.
FURTHER_SEEDS = {
    "ner-pii": ("ner-pii-seed-1", "ner-pii-seed-2"),
    "reranker": ("reranker-seed-1", "reranker-seed-2"),
    "minilm-embeddings-distilled": (
        "minilm-embeddings-distilled-seed-1",
        "minilm-embeddings-distilled-seed-2",
    ),
}
EMBEDDING_RECIPES = (
    "minilm-embeddings",
    "minilm-embeddings-distilled",
    "minilm-embeddings-smallest",
)
# Recipes whose finished runs `tools/judge_runs.py` judged.
JUDGED_RECIPES = ("sst2-minilm-smallest", "sst2-minilm-tiny")
# How vectors may be stored, by the names of `tools/vector_quality.py`.
VECTOR_FORMS = {
    "float32": ("`float32`", 32),
    "int8": ("`quantize_vectors`, int8", 8),
    "int8_by_dimension": ("int8 with a range for each dimension", 8),
    "ubinary": ("`quantize_vectors`, ubinary", 1),
}
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
# What rows of `compare_openvino` are called, where not as there.
OPENVINO_MODELS = {
    "plain export, fp32": "the plain export in float32",
    "plain export, bf16": "the plain export in bfloat16, OpenVINO's default on this CPU",
    "export for openvino": "this package's float export",
    "quantize_dynamic": "`quantize_dynamic`",
    "quantize_static": "`quantize_static`",
    "quantize_static, bf16": "`quantize_static`, `precision: bf16`",
    "quantize_dynamic, in ONNX Runtime": "`quantize_dynamic`, in ONNX Runtime",
    "quantize_static, in ONNX Runtime": "`quantize_static`, in ONNX Runtime",
}
# What is raced for a cold start.
_CONTESTANTS = {
    "by hand": "onnxruntime and tokenizers by hand",
    "compressor-runtime": "`compressor-runtime`",
    "compressor": "`compressor`",
}
_OWN_WORK = {
    "training": "an epoch of training",
    "evaluation": "evaluation",
    "export": "export of a model whose weights alone changed",
    "run": "a whole run",
    "first run": "a whole run, the first of a kind of checkpoint",
    "next run": "a whole run of a kind that was traced before",
}
# Of the tables of rows: what a budget is, what share of predictions differs, how many rows there
# are.
ACCURACY_BUDGETS = (0.005, 0.01, 0.02, 0.03, 0.05)
AGREEMENT_BUDGETS = (0.01, 0.02, 0.03, 0.05)
CHANGED = (0.01, 0.02, 0.05)
_WIDTH = 384  # numbers of a vector of all-MiniLM-L6-v2
_SURE = 0.95  # confidence of every certificate, unless the recipe asks for another
ROWS = (50, 100, 200, 500, 1000, 2000, 5000)
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
        if (fresh := with_tables(text, path.parent)) != text:
            stale.append(path.relative_to(ROOT).as_posix())
            if not check:
                path.write_text(fresh, encoding="utf-8")
    print(f"{'stale' if check else 'written'}: {', '.join(stale) or 'none'}")
    return int(check and bool(stale))


def with_tables(text: str, folder: Path) -> str:
    """Return a document in `folder` with each table made anew from its results file."""
    files = Path(os.path.relpath(FOLDER, folder)).as_posix()

    def table(block: re.Match[str]) -> str:
        name = block["name"]
        lines = TABLES[name]().replace("(docs/results/", f"({files}/")
        return f"<!-- results: {name} -->\n{lines}\n<!-- end of results -->"

    return BLOCK.sub(table, text)


def figures_outside_tables(text: str) -> list[str]:
    """Return the lines of a document that hold a figure which no results file stands behind."""
    bare = BLOCK.sub("", text)
    bare = re.sub(r"```.*?```|`[^`\n]*`", "", bare, flags=re.DOTALL)  # recipes and commands
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
        cells = (
            f"`recipes/{about['recipe']}`{repaired(rows)}",
            sizes(rows),
            f"{spread([row['points_lost'] for row in rows], '.2f')}; one run ± "
            f"{max(row['points_lost_within'] for row in rows):.1f}",
            f"{spread([row['changed_percent'] for row in rows], '.1f')}%",
            *(speeds([row[f"speed_batch_{size}"] for row in rows]) for size in (1, 32)),
            spread([row["cpu_minutes"] for row in rows], ".0f"),
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", *sources])


def other_tasks() -> str:
    """Return the table of recipes for other tasks: means over seeds, as `recipes`."""
    lines = [
        "| recipe | metric | points lost, search rows | points lost, rows kept apart "
        "| proven at most | size | speed, batch 1 | speed, batch 32 | CPU minutes |",
        "|:--|:--|:--|:--|:--|:--|:--|:--|:--|",
    ]
    sources = []
    for name in TASK_RECIPES:
        results = read_results(name)
        rows = rows_of_seeds(name)
        sources += sources_of_seeds(name)
        megabytes = [row["megabytes"] for row in rows]
        ratios = [
            [
                factor
                for shape, factor in row["speeds"].items()
                if shape.startswith(f"batch {size},")
            ]
            for size in (1, 32)
            for row in rows
        ]
        middle = len(rows)
        cells = (
            f"`recipes/{results['about']['recipe']}`{repaired(rows)}",
            metric_words(rows[0]["metric"]),
            spread([row["search"]["points_lost"] for row in rows], ".2f"),
            spread([row["certification"]["points_lost"] for row in rows], ".2f"),
            spread([row["certification"]["points_lost_at_most"] for row in rows], ".2f"),
            f"{given_megabytes(rows[0]):.1f} → {spread(megabytes, '.1f')} MB, "
            f"{float(np.mean([row['times_smaller'] for row in rows])):.1f}×",
            *(f"{spread([ratio for found in part for ratio in found], '.1f')}×"
              for part in (ratios[:middle], ratios[middle:])),
            spread([row["cpu_minutes"] for row in rows], ".0f"),
        )  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", *sources])


def speeds_again() -> str:
    """Return the table of speeds that were taken again, with the load beside them."""
    name = "reranker-speed"
    results = read_results(name)
    rounds = results["about"]["rounds"]
    lines = [
        f"| shape | speed, {rounds} rounds | load of the two cores meanwhile |",
        "|:--|:--|:--|",
    ]
    for row in results["rows"]:
        ratios, loads = row["ratios"], row["loads"]
        lines.append(
            f"| batch {row['batch_size']}, {row['tokens']} tokens | {row['median']:.1f} "
            f"({min(ratios):.1f} to {max(ratios):.1f})× | {min(loads):.0f} to {max(loads):.0f} |"
        )
    return "\n".join([*lines, "", source(name, results)])


def given_megabytes(row: Mapping[str, Any]) -> float:
    """Return what the weights that were given take; their export is a little smaller or larger."""
    return float(row["times_smaller"] * row["megabytes"])


def rows_of_seeds(name: str) -> list[dict[str, Any]]:
    """Return the rows of a recipe's results, of all its seeds."""
    files = (name, *FURTHER_SEEDS.get(name, ()))
    return [row for file in files for row in read_results(file)["rows"]]


def sources_of_seeds(name: str) -> list[str]:
    """Return the lines that say where they are from."""
    return [source(file, read_results(file)) for file in (name, *FURTHER_SEEDS.get(name, ()))]


def kinds_missed() -> str:
    """Return the table of what the recipe for entities misses of each kind, seed by seed."""
    name = TASK_RECIPES[0]
    lines = [
        "| seed | kind | labelled, rows kept apart | found before | found after "
        "| points of recall lost, at most | budget | documents with one that would prove it |",
        "|--:|:--|--:|--:|--:|--:|:--|--:|",
    ]
    for row in rows_of_seeds(name):
        for item in sorted(row["recalls"], key=lambda item: str(item["kind"])):
            needed = item["needed_units"]
            cells = (
                f"{row['seed']}",
                item["kind"],
                f"{item['there']:,}",
                f"{item['before']:,}",
                f"{item['after']:,}",
                f"{item['points_lost_at_most']:.1f}",
                item["verdict"],
                "–" if needed is None else about(needed),
            )
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", *sources_of_seeds(name)])


def embeddings() -> str:
    """Return the table of recipes for sentence embeddings: means over seeds, as `recipes`."""
    lines = [
        "| recipe | size | speed, batch 1 | speed, batch 32 | with 128 tokens | mean cosine "
        "| 5th percentile | recall@10 in the original's index | CPU minutes |",
        "|:--|:--|:--|:--|:--|:--|:--|:--|:--|",
    ]
    sources = []
    for name in EMBEDDING_RECIPES:
        if not (FOLDER / f"{name}.json").is_file():
            continue
        results = read_results(name)
        rows = rows_of_seeds(name)
        sources += sources_of_seeds(name)
        found = [row["recall@10"] for row in rows]
        kept = [each["original_index"] / each["original"] for each in found]
        ratios = [
            [row["speeds"][f"batch {size}, {length} tokens"] for row in rows]
            for length in (32, 128)
            for size in (1, 32)
            if f"batch {size}, {length} tokens" in rows[0]["speeds"]
        ]
        shown = [f"{spread(part, '.1f')}×" for part in ratios]
        megabytes = [row["megabytes"] for row in rows]
        factors = [row["times_smaller"] for row in rows]
        cells = (
            f"`recipes/{results['about']['recipe']}`{repaired(rows)}",
            f"{given_megabytes(rows[0]):.1f} → {same(megabytes, '.1f')} MB, "
            f"{same(factors, '.1f')}×",
            *shown[:2],
            ", ".join(shown[2:]) or "—",
            same([row["cosines"]["mean"] for row in rows], ".4f"),
            same([row["cosines"]["percentile_5"] for row in rows], ".4f"),
            f"{same([100 * share for share in kept], '.1f')}% of {found[0]['original']:.3f}",
            spread([row["cpu_minutes"] for row in rows], ".1f"),
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", *sources])


def vector_forms() -> str:
    """Return the table of how vectors are stored: bytes, and what queries find among documents."""
    results = read_results(EMBEDDING_RECIPES[0])
    found = results["rows"][0]["recall@10"]
    lines = [
        f"| vectors of {found['documents']:,} documents and {found['queries']:,} queries "
        "| bytes a vector | recall@10 | of `float32` |",
        "|:--|--:|--:|--:|",
    ]
    for name, (words, bits) in VECTOR_FORMS.items():
        share = 100 * found[name] / found["float32"]
        lines.append(f"| {words} | {_WIDTH * bits // 8:,} | {found[name]:.3f} | {share:.1f}% |")
    return "\n".join([*lines, "", source(EMBEDDING_RECIPES[0], results)])


def same(values: Sequence[float], digits: str) -> str:
    """Return what all seeds agree on as they are shown, else as `spread`."""
    shown = {f"{value:{digits}}" for value in values}
    return shown.pop() if len(shown) == 1 else spread(values, digits)


def sizes(rows: Sequence[Mapping[str, Any]]) -> str:
    """Say what the files of a recipe's runs take, before and after."""
    megabytes = [row["megabytes"] for row in rows]
    before = rows[0]["baseline_megabytes"]
    factor = before / float(np.mean(megabytes))
    return f"{before:.1f} → {spread(megabytes, '.1f')} MB, {factor:.1f}×"


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


def vocabulary() -> str:
    """Return the table of a multilingual tagger that is trimmed to one language."""
    results = read_results("vocabulary")
    lines = [
        "| pieces that stay | pieces | weights, MB | smaller | sentences with other pieces | with "
        "other entities, of those | with other entities, of the rest |",
        "|:--|--:|--:|--:|--:|--:|--:|",
    ]
    for row in results["rows"]:
        rest = row["sentences"] - row["pieces_changed"]
        lines.append(
            f"| {row['name']} | {row['pieces']:,} of 250,002 | {row['bytes_before'] / 1e6:.0f} → "
            f"{row['bytes_after'] / 1e6:.0f} | {row['times_smaller']:.1f}× | "
            f"{row['pieces_changed']:,} of {row['sentences']:,} | "
            f"{row['other_entities_where_pieces_changed']:,} | "
            f"{row['other_entities_elsewhere']:,} of {rest:,} |"
        )
    return "\n".join([*lines, "", source("vocabulary", results)])


def rows_for_accuracy() -> str:
    """Return how many rows prove a budget of accuracy, by the share of predictions that changed."""

    def needed(changed: float, budget: float) -> int | None:
        half = changed / 2  # as often for the better as for the worse
        return examples_for_accuracy(half, half, max_drop=budget, confidence=_SURE)

    return _rows_table(needed, ACCURACY_BUDGETS, "points")


def rows_for_agreement() -> str:
    """Return how many rows prove a budget of changed predictions, by the share that changed."""

    def needed(changed: float, budget: float) -> int | None:
        return examples_for_agreement(changed, max_drop=budget, confidence=_SURE)

    return _rows_table(needed, AGREEMENT_BUDGETS, "%")


def rows_prove() -> str:
    """Return the largest drop that is still possible when no prediction changed, by rows."""
    lines = [
        "| certification rows | accuracy: at most | agreement: at most |",
        "|--:|:--|:--|",
    ]
    for size in ROWS:
        right, flips = np.ones(size, dtype=bool), np.zeros(size, dtype=bool)
        lost = certify_paired(right, right, max_drop=0.01).upper_bound
        changed = certify_agreement(flips, max_drop=0.01).upper_bound
        cells = (f"{size:,}", f"{_up(lost)} points lost", f"{_up(changed)}% of predictions changed")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _rows_table(
    needed: Callable[[float, float], int | None], budgets: Sequence[float], unit: str
) -> str:
    """Return rows by budget and share of changed predictions; a dash where no number would do."""
    shares = " | ".join(f"{100 * share:g}% changed" for share in CHANGED)
    lines = [f"| `max_drop` | none changed | {shares} |", "|:--|" + "--:|" * (1 + len(CHANGED))]
    for budget in budgets:
        sizes = [needed(share, budget) for share in (0.0, *CHANGED)]
        cells = ["–" if size is None else about(size).removeprefix("about ") for size in sizes]
        amount = f"{100 * budget:g} {unit}".replace(" %", "%")
        name = amount.removesuffix("s") if amount == "1 points" else amount
        lines.append(f"| `{budget:g}` ({name}) | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _up(share: float) -> str:
    """Return a share in per cent, rounded up, so that what it bounds stays bounded."""
    return f"{np.ceil(10_000 * share - 1e-9) / 100:.2f}"


def quickstart() -> str:
    """Return the table of the first command: means over seeds, lowest and highest in brackets."""
    results = read_results("quickstart")
    rows, cores = results["rows"], results["about"]["cores"]
    first = rows[0]
    megabytes = [row["megabytes"]["final"] for row in rows]
    lines = [
        "| what | `compress quickstart` |",
        "|:--|:--|",
        f"| size | {first['megabytes']['baseline']:.1f} → {spread(megabytes, '.1f')} MB, "
        f"{spread([row['times_smaller'] for row in rows], '.1f')}× smaller |",
        *(
            f"| speed, {shape} tokens | {spread([row['speed'][shape] for row in rows], '.1f')}× |"
            for shape in first["speed"]
        ),
        f"| mean cosine to the original's vectors, {first['certification_rows']:,} unseen texts | "
        f"{spread([row['certification_score'] for row in rows], '.4f')} |",
        f"| proven with {100 * first['confidence']:g}% confidence | at least "
        f"{proven_cosine(rows):.3f} |",
        f"| time on {cores} cores | {spread([row['seconds'] for row in rows], '.0f')} s, of the "
        f"CPU {spread([row['cpu_seconds'] for row in rows], '.0f')} s |",
    ]
    return "\n".join([*lines, "", source("quickstart", results)])


def proven_cosine(rows: Sequence[Mapping[str, Any]]) -> float:
    """Return the least cosine that every run proves, rounded down: rounded up it is not proven."""
    proven = 1 - max(float(row["points_lost_at_most"]) for row in rows) / 100
    return math.floor(1000 * proven) / 1000


def summary() -> str:
    """Return the few lines of the first page: what a run brought, what it lost, what is proven."""
    demo = read_results("quickstart")["rows"]
    first = demo[0]
    lines = [
        "| model | size | faster, one text | lost |",
        "|:--|:--|:--|:--|",
        f"| all-MiniLM-L6-v2, `compress quickstart`, "
        f"{np.mean([row['seconds'] for row in demo]):.0f} s | "
        f"{first['megabytes']['baseline']:.1f} → {first['megabytes']['final']:.1f} MB, "
        f"{first['times_smaller']:.1f}× | "
        f"{spread([row['speed']['batch 1 x 32'] for row in demo], '.1f')}× | vectors keep a mean "
        f"cosine of {first['certification_score']:.4f}; proven: at least "
        f"{proven_cosine(demo):.3f} |",
    ]
    for name in RECIPES:
        results = read_results(name)
        rows = results["rows"]
        lines.append(
            f"| MiniLM fine-tuned on SST-2, `recipes/{results['about']['recipe']}`, "
            f"{np.mean([row['cpu_minutes'] for row in rows]):.0f} CPU min | "
            f"{sizes(rows)} | "
            f"{speeds([row['speed_batch_1'] for row in rows])} | "
            f"{spread([row['points_lost'] for row in rows], '.2f')} points of accuracy; "
            f"{spread([row['changed_percent'] for row in rows], '.1f')}% of predictions changed |"
        )
    who = "another, trained without the {rows:,} rows it is judged on"
    for name in JUDGED_RECIPES:
        lines.append(_judged_summary(name, who))
        who = "the same"  # tools/train_sst2.py made one checkpoint for all of them
    return "\n".join(lines)


def _judged_summary(name: str, who: str) -> str:
    """Return the line of a recipe that was judged on all rows apart, the `{rows}` in `who`."""
    rows = read_results(name)["rows"]
    apart = [list(row["apart"].values()) for row in rows]
    counts = [[item["rows"] for item in files] for files in apart]
    lost, changed = (
        spread(
            [
                float(np.average([item[what] for item in files], weights=count))
                for files, count in zip(apart, counts, strict=True)
            ],
            digits,
        )
        for what, digits in (("points_lost", ".2f"), ("changed_percent", ".1f"))
    )
    before = rows[0]["megabytes"] * rows[0]["times_smaller"]
    return (
        f"| {who.format(rows=sum(counts[0]))}, `recipes/{name}.yaml`, "
        f"{np.mean([row['minutes'] for row in rows]):.0f} min | {before:.1f} → "
        f"{spread([row['megabytes'] for row in rows], '.2f')} MB, "
        f"{np.mean([row['times_smaller'] for row in rows]):.1f}× | "
        f"{speeds([row['speeds']['batch 1'] for row in rows])} | "
        f"{lost} points of accuracy; {changed}% of predictions changed |"
    )


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


def pruning_cost(*names: str) -> str:
    """Return the table of what pruning half of the FLOPs costs and gains, family by family."""
    found = {name: read_results(name) for name in names}
    lines = [
        "| model type | layers x width | parameters | rows | CPU seconds | memory, MB "
        "| faster, 1 text | faster, 8 texts |",
        "|:--|:--|--:|--:|--:|--:|--:|--:|",
    ]
    for row in (row for results in found.values() for row in results["rows"]):
        one, eight = row["speeds"]["1"], row["speeds"]["8"]
        lines.append(
            f"| {row['family']} | {row['size']} | {row['parameters'] / 1e6:.1f} million | "
            f"{row['rows']:,} | {row['seconds']:.0f} | {row['peak_mb']:,.0f} | {one:.1f}× | "
            f"{eight:.1f}× |"
        )
    sources = (source(name, results) for name, results in found.items())
    return "\n".join([*lines, "", *sources])


def pruning_alone() -> str:
    """Return the table of what reconstruction alone loses, for each share of FLOPs."""
    results = read_results("pruning-alone")
    rows = results["rows"]
    lines = [
        "| FLOPs removed | points lost, search rows | points lost, rows set apart | "
        "one run can tell, rows set apart | CPU minutes | seeds |",
        "|:--|:--|:--|:--|:--|--:|",
    ]
    for ratio in sorted({row["ratio"] for row in rows}):
        own = [row for row in rows if row["ratio"] == ratio]
        lost = [
            spread([row[name]["points_lost"] for row in own], ".2f") for name in ("search", "apart")
        ]
        within = max(row["apart"]["within"] for row in own)
        minutes = spread([row["cpu_minutes"] for row in own], ".1f")
        lines.append(
            f"| {ratio:.0%} | {lost[0]} | {lost[1]} | ± {within:.2f} | {minutes} | {len(own)} |"
        )
    counts, right = results["about"]["rows"], results["about"]["accuracy"]
    said = (
        f"<sub>{counts['search']:,} search rows, of which the checkpoint gets "
        f"{right['search']:.2f}% right, and {counts['apart']:,} rows set apart, of which it gets "
        f"{right['apart']:.2f}% right.</sub>"
    )
    return "\n".join([*lines, "", said, "", source("pruning-alone", results)])


def judged(name: str) -> str:
    """Return the table of runs that `tools/judge_runs.py` judged, a line for each seed."""
    results = read_results(name)
    rows = results["rows"]
    files = list(rows[0]["apart"])
    heads = "".join(f" points lost, `{file}` | changed |" for file in files)
    lines = [
        f"| seed | size | speed, batch 1 | batch 32 |{heads} proven at most | minutes |",
        "|--:|:--|:--|:--|" + "--:|--:|" * len(files) + "--:|--:|",
    ]
    for row in rows:
        speeds = (
            f"{item['median']:.1f} ({item['low']:.1f} to {item['high']:.1f})×"
            for item in row["speeds"].values()
        )
        lost = "".join(
            f" {item['points_lost']:.2f} ± {item['points_either_way']:.2f} | "
            f"{item['changed_percent']:.1f}% |"
            for item in row["apart"].values()
        )
        lines.append(
            f"| {row['seed']} | {row['megabytes']:.2f} MB, {row['times_smaller']:.1f}× | "
            f"{' | '.join(speeds)} |{lost} {row['proven_points']:.2f} | {row['minutes']:.0f} |"
        )
    counts = ", ".join(
        f"{item['rows']:,} rows of `{file}`, of which the checkpoint gets {item['baseline']:.2f}% "
        f"right"
        for file, item in rows[0]["apart"].items()
    )
    said = f"<sub>{counts}; speed and size beside the exporter's plain float32 file.</sub>"
    return "\n".join([*lines, "", said, "", source(name, results)])


def tables() -> str:
    """Return the table of what smaller tables of words lose, by how they are stored."""
    results = read_results("tables")
    about = results["about"]
    lines = [
        "| table of words | pieces | MB | times smaller | points lost | predictions changed |",
        "|:--|--:|--:|--:|:--|--:|",
    ]
    lines += [
        f"| {row['form']} | {row['pieces']:,} | {row['bytes'] / 1e6:.1f} | "
        f"{about['bytes'] / row['bytes']:.1f}× | {row['points_lost']:.2f} ± {row['within']:.2f} | "
        f"{row['changed_percent']:.1f}% |"
        for row in results["rows"]
    ]
    said = (
        f"<sub>{about['rows']:,} rows set apart, of which the checkpoint of "
        f"{about['bytes'] / 1e6:.1f} MB gets {about['accuracy']:.2f}% right.</sub>"
    )
    return "\n".join([*lines, "", said, "", source("tables", results)])


def simulated_cost() -> str:
    """Return the table of what passes would cost on GPUs, which was simulated."""
    results = read_results("simulated-cost")
    rows = results["rows"]
    models = list(dict.fromkeys(row["model"] for row in rows))
    lines = [
        f"| simulated | GPUs | {' | '.join(models)} |",
        "|:--|--:|" + "--:|" * len(models),
    ]
    for name in dict.fromkeys(row["pass"] for row in rows):
        own = [row for row in rows if row["pass"] == name]
        for gpus in (1, 8, 64) if own[0]["shared"] else (1,):
            cells = [_simulated(row) for row in own if row["gpus"] == gpus]
            lines.append(f"| `{name}` | {gpus} | {' | '.join(cells)} |")
    points = results["about"]["points"]
    off = max(abs(item["fitted_seconds"] / item["cpu_seconds"] - 1) for item in points)
    usual = float(
        np.median([abs(item["fitted_seconds"] / item["cpu_seconds"] - 1) for item in points])
    )
    given = results["about"]["assumed"]
    told = (
        f"{given['examples']:,} rows of {given['tokens']} tokens, {given['epochs']} epochs, "
        f"{given['batch_size']} rows a step; assumed of a GPU: {given['gpu_tflops']:g} TFLOP/s at "
        f"{given['utilisation']:.0%} of them, {given['gpu_gb']:g} GB, {given['inside_gb_per_s']:g} "
        f"GB/s to the others of its machine and {given['between_gb_per_s']:g} GB/s to other "
        f"machines. The fit is off by {usual:.0%} of a measured point in the middle, {off:.0%} at "
        f"most."
    )
    return "\n".join([*lines, "", f"<sub>{told}</sub>", "", source("simulated-cost", results)])


def _simulated(row: Mapping[str, Any]) -> str:
    """Return a time and GPU hours; what does not fit has none."""
    seconds = row["seconds"]
    if seconds is None:
        return "no room"
    time = f"{seconds / 60:,.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
    hours = row["gpu_hours"]
    return f"{time}, {f'{hours:.2g}' if hours >= 0.01 else '<0.01'} h"


def convolutions() -> str:
    """Return the table of how fast images are classified with convolutions in int8."""
    results = read_results("convolutions")
    lines = [
        "| model | float, MB | int8, MB | float, ms | matmuls in int8, faster | convolutions too, "
        "faster | the same, 8 images |",
        "|:--|--:|--:|--:|--:|--:|--:|",
    ]
    for row in results["rows"]:
        dense, matmuls, every = row["float"], row["matmuls"], row["convolutions"]
        part = "nothing to store" if matmuls is None else f"{matmuls['faster_1']:.2f}×"
        lines.append(
            f"| {row['model']} | {dense['mb']:.1f} | {every['mb']:.1f} | {dense['ms_1']:.1f} | "
            f"{part} | {every['faster_1']:.2f}× | {every['faster_8']:.2f}× |"
        )
    return "\n".join([*lines, "", source("convolutions", results)])


def families_int8() -> str:
    """Return the table of what int8 changes of small trained models, family by family."""
    lines = [
        "| model type | accuracy | int8 | static int8 | int8, auto | static int8, auto |",
        "|:--|--:|--:|--:|--:|--:|",
    ]
    for row in read_results("families-int8")["rows"]:
        forms = ("dynamic", "static", "dynamic_auto", "static_auto")
        cells = " | ".join(_changed(row[name]) for name in forms)
        lines.append(f"| {row['family']} | {row['accuracy']:.1%} | {cells} |")
    return "\n".join(lines)


def _changed(found: Mapping[str, Any]) -> str:
    """Return the share of predictions that a form changes, and how many weights stay in float."""
    if "refused" in found:
        return "nothing to store"
    kept = f", {found['in_float']} of {found['of']} in float" if found["in_float"] else ""
    return f"{found['changed']:.1%}{kept}"


def processes() -> str:
    """Return the table of one process and several, and of some that were killed."""
    results = read_results("processes")
    lines = [
        "| the recipe of the digits | weights differ by at most | score | kept by a process |",
        "|:--|--:|--:|--:|",
    ]
    for row in results["rows"]:
        difference = (
            "–"
            if row["processes"] == 1 and not row["largest_difference"]
            else (f"{row['largest_difference']:.1e}")
        )
        share = "all" if row["kept_share"] is None else f"{100 * row['kept_share']:.0f}%"
        lines.append(f"| {row['run']} | {difference} | {100 * row['score']:.2f}% | {share} |")
    return "\n".join([*lines, "", source("processes", results)])


def data_memory(name: str = "data-memory") -> str:
    """Return the table of peak memory by rows."""
    results = read_results(name)
    counts = sorted({row["rows"] for row in results["rows"]})
    peaks = {(row["part"], row["rows"]): row["peak_mb"] for row in results["rows"]}
    parts = list(dict.fromkeys(row["part"] for row in results["rows"]))
    lines = [
        "| peak memory, MB | " + " | ".join(f"{count:,} rows" for count in counts) + " |",
        "|:--|" + "--:|" * len(counts),
    ]
    for part in parts:
        own = " | ".join(f"{peaks[part, count]:.0f}" for count in counts)
        lines.append(f"| {part} | {own} |")
    lines += ["", f"The largest differ by {results['about']['difference_mb']} MB.", ""]
    return "\n".join([*lines, source(name, results)])


def openvino() -> str:
    """Return the table of int8 models in OpenVINO, this package's and NNCF's."""
    results = read_results("openvino")
    about = results["about"]
    lines = [
        "| model | MB | predictions changed | batch 1 | batch 32 | over NNCF, batch 1 | batch 32 |",
        "|:--|--:|--:|--:|--:|--:|--:|",
    ]
    for row in results["rows"]:
        cells = [
            OPENVINO_MODELS.get(row["name"], row["name"]),
            f"{row['megabytes']:.1f}",
            f"{row['changed']} of {about['rows']}",
            *(speeds([row[f"speed_batch_{size}"]]) for size in (1, 32)),
            *(f"{row[f'over_nncf_batch_{size}']['median']:.2f}×" for size in (1, 32)),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    told = (
        f"<sub>Rows of the development split, {about['calibrated_on']} of the train split to "
        f"calibrate on; {about['rounds']} rounds of {about['singles']} single texts of lengths "
        f"spread over the rows, one after the other, and {about['batches']} batches. OpenVINO "
        f"{about['openvino']}, NNCF {about['nncf']} with its default preset, ONNX Runtime "
        f"{about['onnxruntime']}.</sub>"
    )
    return "\n".join(
        [*lines, "", told, "", _openvino_goal(results), "", source("openvino", results)]
    )


def _openvino_goal(results: Mapping[str, Any]) -> str:
    """Say whether `quantize_static` is as far ahead of NNCF as it was to be."""
    rows = {row["name"]: row for row in results["rows"]}
    own, peer = rows["quantize_static"], rows["NNCF, default preset"]
    told = []
    for size, factor in results["about"]["goal"].items():
        found = own[f"over_nncf_batch_{size}"]["median"]
        met = "met" if found >= factor else "not met"
        told.append(f"{factor:g}× at batch {size}: {met} ({found:.2f}×)")
    fewer = "met" if own["changed"] < peer["changed"] else "not met"
    return (
        f"<sub>The goal of `quantize_static` against NNCF: {', '.join(told)}; fewer changed "
        f"predictions: {fewer} ({own['changed']} and {peer['changed']}).</sub>"
    )


def openvino_kernels() -> str:
    """Return the table of logits in OpenVINO with the kernels of several instruction sets."""
    results = read_results("openvino")
    found = results["about"]["kernels"]
    names = list(dict.fromkeys(item["kernels"] for item in found))
    lines = [
        f"| int8 form | {' | '.join(f'`{name}`' for name in names)} |",
        f"|:--|{'--:|' * len(names)}",
    ]
    for form in dict.fromkeys(item["form"] for item in found):
        own = {item["kernels"]: item for item in found if item["form"] == form}
        cells = [_kernel_cell(own[name]) for name in names]
        lines.append(f"| {form} | {' | '.join(cells)} |")
    told = (
        f"<sub>How far logits on {results['about']['kernel_rows']} texts are from those of the "
        f"last column: the largest difference, and how many predictions it changes. oneDNN was "
        f"limited to the kernels of each instruction set (`ONEDNN_MAX_CPU_ISA`) on one CPU; other "
        f"CPUs were not tried. Differences of the first columns hold those of float kernels, which "
        f"move what int8 rounds.</sub>"
    )
    return "\n".join([*lines, "", told, "", source("openvino", results)])


def _kernel_cell(item: Mapping[str, Any]) -> str:
    if item["largest"] == 0:
        return "equal"
    return f"{item['largest']:.2g} ({item['changed']})"


def doors() -> str:
    """Return the table of programs that open artifacts: how far numbers differ, by task."""
    about = read_results("doors")["about"]
    told = (
        f"<sub>The largest difference of a number (score, probability, logit or part of a vector) "
        f"on {about['rows']} texts, with the same predictions, of vectors a cosine of 0.99; – "
        f"where a program has no such task. MiniLM by `quantize_dynamic`; the heads of the last "
        f"two are random, and that of answers gives large logits. ORTModel and "
        f"sentence-transformers with transformers 4.57.</sub>"
    )
    return _table_of_doors("doors", told)


def doors_of_codes() -> str:
    """Return the same table of artifacts whose tables of words are codes."""
    return _table_of_doors(
        "doors-codes",
        "<sub>MiniLM by `quantize_static` with `embeddings: codes` and `refined_rows`: text "
        "classification is pruned and distilled, and all others have `biases: in_matmuls`. no: "
        "without an operator of the graph.</sub>",
    )


def _table_of_doors(name: str, told: str) -> str:
    results = read_results(name)
    tasks = list(dict.fromkeys(row["task"] for row in results["rows"]))
    lines = [
        f"| program | version | {' | '.join(task.replace('-', ' ') for task in tasks)} |",
        f"|:--|:--|{'--:|' * len(tasks)}",
    ]
    for door in dict.fromkeys(row["door"] for row in results["rows"]):
        own = {row["task"]: row for row in results["rows"] if row["door"] == door}
        version = next((row["version"] for row in own.values() if "version" in row), "–")
        cells = [_door(own.get(task)) for task in tasks]
        lines.append(f"| {door} | {version.partition('-')[0]} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", told, "", source(name, results)])


def _door(row: dict[str, Any] | None) -> str:
    if row is None:
        return "–"
    if "skipped" in row:
        return f"not tried: {row['skipped']}"
    if "lacks" in row:
        return "no"
    if not row["opens"]:
        return "differs"
    if "largest" not in row:
        return "fits"
    return "equal" if row["largest"] == 0 else f"{row['largest']:.0e}"


def arm64() -> str:
    """Return the table of artifacts on emulated arm64 processors."""
    results = read_results("arm64")
    lines = [
        "| processor | artifact | int8 matrices | products | other products | same predictions "
        "| numbers differ by at most |",
        "|:--|:--|--:|--:|--:|--:|--:|",
    ]
    for row in results["rows"]:
        lines.append(
            f"| {row['processor']} | {row['task'].replace('-', ' ')} | {row['matrices']} "
            f"| {row['products']:,} | {row['wrong_products']} | {100 * row['alike']:.0f}% "
            f"| {row['largest']:.0e} |"
        )
    told = f"<sub>qemu {results['about']['qemu']}, user mode.</sub>"
    return "\n".join([*lines, "", told, "", source("arm64", results)])


def cold_start() -> str:
    """Return the table of what a first prediction costs."""
    results = read_results("cold-start")
    lines = [
        "| | CPU seconds | times by hand | memory, MB | times by hand |",
        "|:--|--:|--:|--:|--:|",
    ]
    for row in results["rows"]:
        lines.append(
            f"| {_CONTESTANTS.get(row['contestant'], row['contestant'])} "
            f"| {row['cpu_seconds']:.2f} | {row['times_cpu']:.2f} "
            f"| {row['megabytes']:.0f} | {row['times_memory']:.2f} |"
        )
    return "\n".join([*lines, "", source("cold-start", results)])


def own_speed() -> str:
    """Return the table of what the tool costs beside bare loops."""
    results = read_results("own-speed")
    lines = ["| | CPU seconds | the bare form | ratio |", "|:--|--:|--:|--:|"]
    for row in results["rows"]:
        name, seconds = _OWN_WORK[row["what"]], f"{row['own_seconds']:.1f}"
        bare, ratio = row.get("bare_seconds"), row.get("ratio")
        told = "— | —" if bare is None else f"{bare:.1f} | {ratio:.2f}"
        lines.append(f"| {name} | {seconds} | {told} |")
    return "\n".join([*lines, "", source("own-speed", results)])


def serving() -> str:
    """Return the table of services under load: the original beside what it was compressed to."""
    results = read_results("serving")
    lines = [
        "| clients | model | requests a second, times the original's | median, ms | 95% within, ms "
        "| 99% within, ms | failed |",
        "|--:|:--|--:|--:|--:|--:|--:|",
    ]
    for row in results["rows"]:
        times = f"{row['times']:.1f}×"
        lines.append(
            f"| {row['clients']} | {row['artifact']} | {row['requests_per_second']:.0f}, {times} "
            f"| {row['p50_ms']:.1f} | {row['p95_ms']:.1f} | {row['p99_ms']:.1f} "
            f"| {row['failed']} of {row['requests']} |"
        )
    return "\n".join([*lines, "", source("serving", results)])


def hand_over() -> str:
    """Return the table of a service under load that hands over to another process."""
    results = read_results("serving-hand-over")
    lines = [
        "| seconds | requests | lost | slowest, s | memory of the first process, MB "
        "| of the second |",
        "|--:|--:|--:|--:|--:|--:|",
    ]
    for row in results["rows"]:
        lost = row["requests"] - row["answers"].get("200", 0)
        memory = " | ".join(f"{before} to {after}" for before, after in row["memory_mb"])
        lines.append(
            f"| {row['seconds']} | {row['requests']} | {lost} | {row['slowest_s']} | {memory} |"
        )
    return "\n".join([*lines, "", source("serving-hand-over", results)])


def hostile() -> str:
    """Return the table of what services answered that were sent what no client should send."""
    results = read_results("serving-hostile")
    lines = [
        "| model | kinds | requests | answered 4xx | 200 | closed, mostly by the client | 500 "
        "| memory, MB |",
        "|:--|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in results["rows"]:
        answers = row["answers"]
        refused = sum(count for status, count in answers.items() if status.startswith("4"))
        [[before, after]] = row["memory_mb"]
        lines.append(
            f"| {row['artifact']} | {row['kinds']} | {row['requests']} | {refused} "
            f"| {answers.get('200', 0)} | {answers.get('closed', 0)} | {answers.get('500', 0)} "
            f"| {before} to {after} |"
        )
    return "\n".join([*lines, "", source("serving-hostile", results)])


def soak() -> str:
    """Return the table of how much memory services take while requests of all sizes come."""
    results = read_results("serving-soak")
    quarters = ("first", "second", "third", "last")
    lines = [
        f"| model | seconds | requests | failed | {' | '.join(quarters)} quarter, MB at most |",
        f"|:--|--:|--:|--:|{'--:|' * len(quarters)}",
    ]
    for row in results["rows"]:
        size = len(row["memory_mb"]) // len(quarters)
        parts = [row["memory_mb"][size * place :][:size] for place in range(len(quarters))]
        failed = sum(count for status, count in row["answers"].items() if status != "200")
        most = " | ".join(f"{max(part):.1f}" for part in parts)
        lines.append(
            f"| {row['artifact']} | {row['seconds']} | {row['requests']} | {failed} | {most} |"
        )
    return "\n".join([*lines, "", source("serving-soak", results)])


def sweep() -> str:
    """Return the table of what a sweep takes with one worker, and with two of which one dies."""
    results = read_results("sweep")
    lines = [
        "| workers | trials | steps done | taken from the store | baseline exported | "
        "certification rows read | CPU seconds | of finished steps | lost by the kill | "
        "all others to the steps |",
        "|:--|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    lines += [
        f"| {row['workers']} | {row['trials']} | {row['steps']} | "
        f"{row['steps_taken_from_the_store']} | {_times(row['baseline_exports'])} | "
        f"{_times(row['certification_readings'])} | {row['cpu_seconds']:.0f} | "
        f"{row['steps_cpu_seconds']:.0f} | {row['lost_cpu_seconds']:.0f} | {row['ratio']:.2f} |"
        for row in results["rows"]
    ]
    return "\n".join([*lines, "", source("sweep", results)])


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


TABLES: dict[str, Callable[[], str]] = {
    "recipes": recipes,
    "other_tasks": other_tasks,
    "kinds_missed": kinds_missed,
    "speeds_again": speeds_again,
    "embeddings": embeddings,
    "vector_forms": vector_forms,
    "int8": int8,
    "openvino": openvino,
    "openvino_kernels": openvino_kernels,
    "doors": doors,
    "doors_of_codes": doors_of_codes,
    "cold_start": cold_start,
    "own_speed": own_speed,
    "serving": serving,
    "hand_over": hand_over,
    "hostile": hostile,
    "soak": soak,
    "arm64": arm64,
    "pruning_cost": partial(pruning_cost, "pruning-cost"),
    "pruning_cost_of_sizes": partial(pruning_cost, "pruning-cost-12x768", "pruning-cost-24x1024"),
    "pruning_alone": pruning_alone,
    "smallest": partial(judged, "sst2-minilm-smallest"),
    "tiny": partial(judged, "sst2-minilm-tiny"),
    "base": partial(judged, "sst2-bert-base"),
    "tables": tables,
    "convolutions": convolutions,
    "families_int8": families_int8,
    "processes": processes,
    "simulated_cost": simulated_cost,
    "data_memory": data_memory,
    "data_memory_words": partial(data_memory, "data-memory-words"),
    "vocabulary": vocabulary,
    "rows_prove": rows_prove,
    "rows_for_accuracy": rows_for_accuracy,
    "rows_for_agreement": rows_for_agreement,
    "quickstart": quickstart,
    "sweep": sweep,
    "summary": summary,
}


if __name__ == "__main__":
    sys.exit(main())
