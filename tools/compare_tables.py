"""Measure what ways to make a table of words smaller lose, on texts with words of their own.

    tools/compare_tables.py CHECKPOINT --train FILE --apart FILE ... --text COLUMN
        [--label COLUMN] --json docs/results/NAME.json

CHECKPOINT is a text classifier that was trained on rows of --train, whose pieces are counted, and
the files --apart hold rows that are no part of those (`tools/train_sst2.py` makes both). All models
are int8 by `quantize_dynamic` with `smooth`, so that only the table differs. No label is read but
to count what is lost, and nothing is trained. Bytes are those of the whole file. What the rows can
tell is given as 1.96 standard errors of the difference in accuracy to the untouched checkpoint.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from classifier_rows import points_lost, quieten
from compare_int8 import context, predict, read_rows, read_texts
from numpy.typing import NDArray
from results import write_results

from compressor.data import Dataset
from compressor.export.to_onnx import export_onnx
from compressor.models.onnx_model import OnnxModel
from compressor.models.torch_model import TorchModel, load_checkpoint
from compressor.passes import apply_pass
from compressor.passes.quantize.settings import QuantizeDynamic
from compressor.passes.trim_vocabulary.settings import TrimVocabulary

_ALL = 100_000  # more rows than any table has: all that calibration rows contain


@dataclass(frozen=True)
class Form:
    """How a table is made smaller: which of its rows go, and how those that stay are stored."""

    name: str
    stored: Mapping[str, object] = field(default_factory=dict)
    trimmed: Mapping[str, object] | None = None


_FINER = {"refined_rows": _ALL, "embedding_block": 128}
_COUNTED = {"count_in": ("calibration",)}
FORMS = (
    Form("int8"),
    Form("int4, 32 to a scale", {"embeddings": "int4"}),
    Form("int4, 128 to a scale", {"embeddings": "int4", "embedding_block": 128}),
    Form("pieces of the train texts, int4", {"embeddings": "int4"}, _COUNTED),
    Form(
        "the same and the first 10,000, int4",
        {"embeddings": "int4"},
        {**_COUNTED, "keep_first": 10_000},
    ),
    Form("codes of 4, nothing finer", {"embeddings": "codes", "code_width": 4}),
    Form("codes of 8, counted rows finer", {"embeddings": "codes", "code_width": 8, **_FINER}),
    Form("codes of 12, counted rows finer", {"embeddings": "codes", **_FINER}),
    Form("codes of 16, counted rows finer", {"embeddings": "codes", "code_width": 16, **_FINER}),
    Form("codes of 24, counted rows finer", {"embeddings": "codes", "code_width": 24, **_FINER}),
)


def main() -> None:
    arguments = _arguments()
    quieten()
    texts, labels = _apart(arguments)
    counted = read_texts(arguments.train, arguments.text)
    rows = Dataset("calibration", tuple(counted), None, np.arange(len(counted)), "calibration")
    model = load_checkpoint(arguments.checkpoint)
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        exported = export_onnx(model, folder / "fp32.onnx", threads=1)
        before = predict(exported, model, texts).argmax(axis=1)
        about = {
            "rows": len(texts),
            "accuracy": 100 * float((before == labels).mean()),
            "bytes": exported.size().bytes_on_disk,
        }
        for number, form in enumerate(FORMS):
            stored, own = _store(form, model, exported, rows, folder / str(number))
            after = predict(stored, own, texts).argmax(axis=1)
            found.append(
                {
                    "form": form.name,
                    "bytes": stored.size().bytes_on_disk,
                    "pieces": own.module.get_input_embeddings().num_embeddings,
                    "changed_percent": 100 * float((before != after).mean()),
                    **points_lost(before == labels, after == labels),
                }
            )
            write_results(arguments.json, found, about=about)  # a form that is done stays
            print(json.dumps(found[-1]), flush=True)


def _store(
    form: Form, model: TorchModel, exported: OnnxModel, rows: Dataset, folder: Path
) -> tuple[OnnxModel, TorchModel]:
    """Return the int8 model with the table of `form`, and the model whose tokenizer it reads."""
    if form.trimmed is not None:
        settings = TrimVocabulary.model_validate(form.trimmed)
        model = apply_pass(settings, model.clone(), context(model, folder / "trimming", rows))
        exported = export_onnx(model, folder / "fp32.onnx", threads=1)
    int8 = QuantizeDynamic.model_validate({"smooth": True, **form.stored})
    return apply_pass(int8, exported, context(model, folder / "int8", rows)), model


def _apart(arguments: argparse.Namespace) -> tuple[list[str], NDArray[np.int64]]:
    parts = [read_rows(path, arguments.text, arguments.label, None) for path in arguments.apart]
    return [text for part, _ in parts for text in part], np.concatenate([own for _, own in parts])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("checkpoint")
    parser.add_argument("--train", type=Path, required=True, help="texts whose pieces are counted")
    parser.add_argument("--apart", type=Path, nargs="+", required=True, help="rows to judge by")
    parser.add_argument("--text", required=True, help="column of the text")
    parser.add_argument("--label", default="label", help="column of the label, a class number")
    parser.add_argument("--json", required=True, type=Path, help="results file to write")
    return parser.parse_args()


if __name__ == "__main__":
    main()
