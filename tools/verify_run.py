"""Recompute a run's final score from the artifact's files alone, and compare it with the report.

Independent on purpose: nothing of `compressor` is imported. Usage: tools/verify_run.py RUN
Exits with 1 when a figure of the report does not agree, with 2 when its metric is not accuracy.
"""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime


def read_rows(data: dict[str, Any], split: str) -> tuple[list[Any], list[str]]:
    """Return inputs and labels of every row of the file or dataset that `split` came from."""
    source = data[split]
    if source.get("sklearn") == "digits":
        from sklearn.datasets import load_digits

        digits = load_digits()
        images = np.round(digits.images * 255 / 16).astype(np.uint8)  # (1797, 8, 8)
        return list(images), [str(label) for label in digits.target]
    path = Path(source["path"])
    with path.open(encoding="utf-8", newline="") as stream:
        if path.suffix == ".tsv":
            rows = list(csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE))
        else:
            rows = list(csv.DictReader(stream))
    text, label = (source.get(name) or data[name] for name in ("text", "label"))
    return [row[text] for row in rows], [row[label] for row in rows]


def encode(folder: Path, inputs: list[Any], max_length: int | None) -> dict[str, Any]:
    """Turn inputs into model inputs with Pillow-free numpy or with the bare tokenizer."""
    if not isinstance(inputs[0], str):
        facts = json.loads((folder / "preprocessor_config.json").read_text())
        pixels = np.stack(inputs)[:, None] * np.float32(facts["rescale_factor"])
        pixels = (pixels - facts["image_mean"][0]) / facts["image_std"][0]
        return {"pixel_values": pixels.astype(np.float32)}
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    limit = json.loads((folder / "tokenizer_config.json").read_text())["model_max_length"]
    tokenizer.enable_truncation(min(max_length or limit, limit))
    tokenizer.enable_padding()
    encoded = tokenizer.encode_batch(inputs)
    return {
        "input_ids": np.array([item.ids for item in encoded]),
        "attention_mask": np.array([item.attention_mask for item in encoded]),
        "token_type_ids": np.array([item.type_ids for item in encoded]),
    }


def main(run: Path) -> int:
    """Print both figures and return the exit code."""
    report = json.loads((run / "report.json").read_text())
    if report["metric"] != "accuracy":
        print(f"only accuracy can be recomputed from an artifact alone, not {report['metric']}")
        return 2
    chosen = json.loads((run / "splits.json").read_text())["search"]
    folder = run / "artifact"
    manifest = json.loads((folder / "manifest.json").read_text())
    inputs, labels = read_rows(report["recipe"]["data"], "search")
    session = onnxruntime.InferenceSession(
        str(folder / "model.onnx"), providers=["CPUExecutionProvider"]
    )
    names = {item.name for item in session.get_inputs()}
    right = 0
    # The same batches as the report's: with `activations: per_tensor` an answer depends on them.
    order = sorted(chosen, key=lambda row: len(inputs[row]) if isinstance(inputs[row], str) else 0)
    for start in range(0, len(order), 32):
        rows = order[start : start + 32]
        batch = encode(folder, [inputs[row] for row in rows], manifest["max_length"])
        feed = {name: value for name, value in batch.items() if name in names}
        for row, logits in zip(rows, session.run(["logits"], feed)[0], strict=True):
            answer = int(logits.argmax())
            right += labels[row] in (str(answer), manifest["labels"][answer])
    value = right / len(chosen)
    size = (folder / "model.onnx").stat().st_size
    final = report["final"]
    print(f"accuracy  report {final['score']['value']:.6f}   recomputed {value:.6f}")
    print(f"bytes     report {final['size']['bytes_on_disk']}   on disk    {size}")
    agrees = abs(value - final["score"]["value"]) < 1e-9 and size == final["size"]["bytes_on_disk"]
    print("the report agrees" if agrees else "THE REPORT DOES NOT AGREE")
    return 0 if agrees else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
