"""Recompute a run's final score from the artifact's files alone, and compare it with the report.

Independent on purpose: nothing of `compressor` is imported. Usage: tools/verify_run.py RUN
Accuracy and, for sentence encoders, cosine, rank_agreement and spearman; the first two compare with
the run's own baseline graph. Exits with 1 when a figure of the report does not agree, with 2 when
its metric is another, or its rows come from elsewhere than digits, csv, tsv or JSON lines.
"""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from scipy import stats

ROOT = Path(__file__).resolve().parents[1]
VECTORS = ("cosine", "rank_agreement", "spearman")
# The report's baseline ran in PyTorch, which differs by 1e-6; where that turns a tie between two
# neighbours, one text keeps a tenth more or less of its ten.
TOLERANCES = {"accuracy": 1e-9, "spearman": 1e-6, "cosine": 1e-5, "rank_agreement": 1e-3}


def read_rows(data: dict[str, Any], split: str) -> tuple[list[Any], list[Any]]:
    """Return inputs and labels of every row of the file or dataset that `split` came from.

    An input is an image, a text or a list of two; a label is None where there is no such column.
    """
    source = data[split]
    if source.get("sklearn") == "digits":
        from sklearn.datasets import load_digits

        digits = load_digits()
        images = np.round(digits.images * 255 / 16).astype(np.uint8)  # (1797, 8, 8)
        return list(images), [str(label) for label in digits.target]
    path = Path(source["path"] or "")
    if source.get("builtin") == "sentences":
        path = ROOT / "compressor" / "data" / "sentences" / f"{source['split']}.tsv"
    if path.suffix not in (".tsv", ".csv", ".jsonl"):
        raise SystemExit(_cannot(f"{source['path'] or source.get('hub')} cannot be read here"))
    with path.open(encoding="utf-8-sig", newline="") as stream:
        if path.suffix == ".jsonl":
            rows = [json.loads(line) for line in stream if line.strip()]
        elif path.suffix == ".tsv":
            rows = list(csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE))
        else:
            csv.field_size_limit(1 << 30)
            rows = list(csv.DictReader(stream))
    text, label = (source.get(name) or data[name] or name for name in ("text", "label"))
    pairs = isinstance(text, list)
    inputs = [tuple(row[name] for name in text) if pairs else row[text] for row in rows]
    names = data["label_names"] or []  # of class 0, 1, ... in the data's own words
    found = [row.get(label) for row in rows]
    return inputs, [str(names.index(str(item))) if str(item) in names else item for item in found]


def _cannot(why: str) -> int:
    print(why)
    return 2


def source_of(report: dict[str, Any], split: str) -> str:
    """Return the split of the recipe whose rows `split` was cut from, or itself."""
    facts = next(item for item in report["splits"] if item["name"] == split)
    return str(facts["cut_from"] or split)


def encode(
    folder: Path, inputs: list[Any], max_length: int | None, words: Path | None = None
) -> dict[str, Any]:
    """Turn inputs into model inputs with Pillow-free numpy or with the bare tokenizer.

    `words` is another folder whose tokenizer reads them, with the length limit of `folder`.
    """
    if isinstance(inputs[0], np.ndarray):
        facts = json.loads((folder / "preprocessor_config.json").read_text())
        pixels = np.stack(inputs)[:, None] * np.float32(facts["rescale_factor"])
        pixels = (pixels - facts["image_mean"][0]) / facts["image_std"][0]
        return {"pixel_values": pixels.astype(np.float32)}
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str((words or folder) / "tokenizer.json"))
    facts = json.loads((folder / "tokenizer_config.json").read_text())
    limit, pad = facts["model_max_length"], facts["pad_token"]
    pad = pad if isinstance(pad, str) else pad["content"]
    sides = {name: facts.get(f"{name}_side", "right") for name in ("truncation", "padding")}
    tokenizer.enable_truncation(min(max_length or limit, limit), direction=sides["truncation"])
    tokenizer.enable_padding(
        direction=sides["padding"], pad_id=tokenizer.token_to_id(pad), pad_token=pad
    )
    encoded = tokenizer.encode_batch(inputs)
    return {
        "input_ids": np.array([item.ids for item in encoded]),
        "attention_mask": np.array([item.attention_mask for item in encoded]),
        "token_type_ids": np.array([item.type_ids for item in encoded]),
    }


def measured_length(report: dict[str, Any]) -> int | None:
    """Return where texts were cut while they were measured; None where the artifact cuts them."""
    length: int | None = report["recipe"]["data"]["max_length"]
    return length


def open_graph(path: Path, report: dict[str, Any]) -> onnxruntime.InferenceSession:
    """Return a session on the CPU; quantize-dequantize pairs for a GPU run as they are written."""
    options = onnxruntime.SessionOptions()
    if report["recipe"]["export"].get("evaluate_on"):
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def embed(run: Path, report: dict[str, Any], texts: list[str], *, baseline: bool) -> Any:
    """Return the vectors, scaled to length 1, that one end of the run gives `texts`."""
    folder = run / "artifact"
    source = Path(report["source_checkpoint"])
    words = source if baseline and (source / "tokenizer.json").is_file() else None
    session = open_graph((run / "baseline" if baseline else folder) / "model.onnx", report)
    names = {item.name for item in session.get_inputs()}
    found = []
    for start in range(0, len(texts), 32):
        batch = encode(folder, texts[start : start + 32], measured_length(report), words)
        feed = {name: value for name, value in batch.items() if name in names}
        found.append(session.run(["sentence_embedding"], feed)[0].astype(np.float64))
    vectors = np.concatenate(found)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def ten_nearest(vectors: Any, texts: list[str]) -> list[set[str]]:
    """Return for each text the ten other texts, told apart by what they say, that are nearest."""
    first = sorted({text: place for place, text in reversed(list(enumerate(texts)))}.values())
    similar = vectors @ vectors[first].T
    found = []
    for text, row in zip(texts, similar, strict=True):
        others = [texts[first[place]] for place in np.argsort(-row, kind="stable")]
        found.append(set([other for other in others[:11] if other != text][:10]))
    return found


def score_vectors(run: Path, report: dict[str, Any], rows: list[int]) -> float:
    """Return the metric of a run on a sentence encoder, from its two graphs."""
    inputs, grades = read_rows(report["recipe"]["data"], source_of(report, "search"))
    pairs = isinstance(inputs[0], tuple)
    chosen = [inputs[row] if pairs else [inputs[row]] for row in dict.fromkeys(rows)]
    texts = [text for item in chosen for text in item]
    after = embed(run, report, texts, baseline=False)
    if report["metric"] == "spearman":
        wanted = [float(grades[row]) for row in dict.fromkeys(rows)]
        return float(stats.spearmanr((after[0::2] * after[1::2]).sum(axis=1), wanted).statistic)
    before = embed(run, report, texts, baseline=True)
    if report["metric"] == "cosine":
        return float((before * after).sum(axis=1).mean())
    kept = zip(ten_nearest(before, texts), ten_nearest(after, texts), strict=True)
    return float(np.mean([len(old & new) / 10 for old, new in kept]))


def length_of(item: Any) -> int:
    """Return about how long an input is; images are of one size."""
    if isinstance(item, tuple):
        return sum(map(len, item))
    return len(item) if isinstance(item, str) else 0


def score_classes(run: Path, report: dict[str, Any], chosen: list[int]) -> float:
    """Return the accuracy of a run's artifact."""
    folder = run / "artifact"
    manifest = json.loads((folder / "manifest.json").read_text())
    inputs, labels = read_rows(report["recipe"]["data"], source_of(report, "search"))
    session = open_graph(folder / "model.onnx", report)
    names = {item.name for item in session.get_inputs()}
    right = 0
    # The same batches as the report's: with `activations: per_tensor` an answer depends on them.
    order = sorted(chosen, key=lambda row: length_of(inputs[row]))
    for start in range(0, len(order), 32):
        rows = order[start : start + 32]
        batch = encode(folder, [inputs[row] for row in rows], measured_length(report))
        feed = {name: value for name, value in batch.items() if name in names}
        for row, logits in zip(rows, session.run(["logits"], feed)[0], strict=True):
            answer = int(logits.argmax())
            right += str(labels[row]) in (str(answer), manifest["labels"][answer])
    return right / len(chosen)


def main(run: Path) -> int:
    """Print both figures and return the exit code."""
    report = json.loads((run / "report.json").read_text())
    metric = report["metric"]
    if metric not in TOLERANCES:
        names = ", ".join(TOLERANCES)
        return _cannot(f"{names} can be recomputed from a run's files alone, not {metric}")
    chosen = json.loads((run / "splits.json").read_text())["search"]
    score = score_vectors if metric in VECTORS else score_classes
    value = score(run, report, chosen)
    size = (run / "artifact" / "model.onnx").stat().st_size
    final = report["final"]
    print(f"{metric}  report {final['score']['value']:.6f}   recomputed {value:.6f}")
    print(f"bytes     report {final['size']['bytes_on_disk']}   on disk    {size}")
    difference = abs(value - final["score"]["value"])
    agrees = difference < TOLERANCES[metric] and size == final["size"]["bytes_on_disk"]
    print("the report agrees" if agrees else "THE REPORT DOES NOT AGREE")
    return 0 if agrees else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
