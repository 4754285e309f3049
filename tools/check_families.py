"""Take tiny random models of many families through every kind of pass, and say what came out.

Each family gets a random checkpoint with what prepares its inputs, and each pass a cell:

    yes        what the pass made computes what it has to, and another program said so
    no: ...    refused, with the reason, which for some is that of every run
    WRONG      the numbers differ
    CRASH      anything else: a bug of ours

The other program is a process that imports transformers and ONNX Runtime and nothing of this
package. It compares files with what transformers computes, at lengths of 1, 7, 64 and as many
tokens as the model reads, alone and in batches of 5 that are padded right or left:

    export        the file with the checkpoint
    scores        the file of the pruned model with a dense checkpoint whose units are zero; in this
                  process each importance against the same
    reconstruct   the file with the saved model, which yet another process loaded
    layers        the saved checkpoint of fewer layers, read by transformers alone
    distill       the saved checkpoint, read by transformers alone
    trained       the saved checkpoint, read by transformers alone, and the int8 file of rounded
                  weights with its simulation
    int8, fp16, weights   outputs near those of the checkpoint

Usage: tools/check_families.py [--only FAMILY ...]     measures, and writes the results
       tools/check_families.py --page       writes docs/guides/families.md from the results
       tools/check_families.py --check      exits with 1 when the page is not what the results say
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from quote_results import with_tables
from results import FOLDER, ROOT, commit, read_results, write_results
from sweep_architectures import (
    CONVOLVING,
    HEADLESS,
    IMAGE_FAMILIES,
    SEED,
    SOUND_FAMILIES,
    TAGGERS,
    TEXT_FAMILIES,
    WORDS,
    build,
    sound,
)

from compressor.data import Dataset
from compressor.errors import CompressorError, StepFailed
from compressor.export.to_onnx import export_onnx
from compressor.models.checkpoint import find_checkpoint
from compressor.models.families import FAMILIES
from compressor.models.families.layers import encoder_layers
from compressor.models.families.prunable import UnsupportedArchitecture
from compressor.models.loading import STRUCTURE
from compressor.models.onnx_model import OnnxModel
from compressor.models.probes import RowDependence, read_probes
from compressor.models.text_files import check_family, positions_limit
from compressor.models.torch_model import TorchModel, load_checkpoint
from compressor.passes import PassContext, apply_pass, settings_of
from compressor.passes.quantize_aware_train.fake_quantize import simulated_int8
from compressor.progress import SILENT
from compressor.verify.evaluation import parity_probes

PAGE = ROOT / "docs" / "guides" / "families.md"
COLUMNS = {
    "export": "export",
    "scores": "pruned by scores",
    "reconstruct": "pruned by reconstruction",
    "layers": "fewer layers",
    "distill": "distilled",
    "dynamic": "int8",
    "static": "static int8",
    "weights": "weights alone",
    "fp16": "fp16",
    "train": "trained for int8",
}
IMPORTANCES = ("random", "magnitude", "magnitude_l1", "taylor", "fisher", "activation")
# What is looked at of a comparison, and what is right of it. A difference is a share of the spread
# of the outputs, their standard deviation: what float32 rounds off grows with the numbers, so that
# the same 1e-4 is nothing for outputs of tens and much for those of hundredths.
PARITY: dict[str, Callable[[float], bool]] = {"share": lambda found: found <= 1e-4}
NEAREST = 0.95  # cosine of outputs, at least, after int8
NEAR: dict[str, Callable[[float], bool]] = {"cosine": lambda found: found > NEAREST}
# A number at the edge of a step may be rounded to either side, and then a few outputs differ.
SIMULATION: dict[str, Callable[[float], bool]] = {
    "median": lambda found: found <= 1e-4,
    "cosine": lambda found: found > 0.9999,
}
LEAST_SPREAD = 1e-3  # of outputs: those that are all alike say nothing
LENGTHS = (1, 7, 64)
TRAINING = {"epochs": 1, "batch_size": 16, "learning_rate": 1e-4}
SETTINGS: dict[str, dict[str, Any]] = {
    "layers": {"kind": "prune_structured", "layers": 1},
    "distill": {"kind": "distill", **TRAINING},
    "dynamic": {"kind": "quantize_dynamic", "min_elements": 256, "keep_sensitive": "auto"},
    "static": {"kind": "quantize_static", "min_elements": 256, "keep_sensitive": "auto"},
    "weights": {"kind": "quantize_weights", "bits": 8, "min_elements": 256},
    "fp16": {"kind": "convert_fp16"},
}
INTRODUCTION = """\
# Families of models

What each pass does with each model type whose heads and neurons can be pruned, and with some that
stay as they are. `tools/check_families.py` writes this table from tiny random checkpoints with a
tokenizer, an image processor or a feature extractor, and those marked *vectors* from models
without a head. *Yes* means that a program that knows nothing of this package compared what the pass
made with what transformers computes, at several lengths, alone and in batches padded on either
side. A pruned model is compared with the dense one whose units are zero, whatever scored them.
*Neurons* means that heads have to stay. Reasons stand below the table.

A model type that is not in the table is exported and quantized as it comes, and compared with
PyTorch before anything else happens; only pruning has to know where units sit."""
TRAINED = """\
## What int8 changes of trained models

`tools/int8_of_families.py` trains a tiny model of each type for a moment, on rows that a rule made,
and counts the predictions on 1,000 others that `quantize_dynamic` and `quantize_static` change, as
they are and with `keep_sensitive: auto`. A model that decides by a narrow margin, as some of those
that learnt little do, changes more. Of ResNet, ConvNeXt, MobileNetV2 and Swin static int8 has the
convolutions too (`convolutions: int8`); without them a ResNet has nothing to quantize.

<!-- results: families_int8 -->
<!-- end of results -->"""
TOGETHER = """\
## What goes together

- Weights that are packed lose the rows of a unit in each part: queries, keys and values of one
  matrix (ModernBERT, the first DeBERTa), both halves of a gate (ModernBERT). A gate of its own
  (GTE, NomicBERT, EuroBERT, Llama) loses the same neurons as what it multiplies.
- Biases of relative positions lose the columns of a head where a layer has its own (BEiT). Of those
  that all layers are given (MPNet, BEiT), each layer picks what belongs to the heads it has left.
- T5's first layer computes such a bias for all and each layer hands it on, so the first one stays
  whatever is dropped, and the bias stays whole whichever heads go.
- In DeBERTa the projections of relative positions lose the same heads, whether they are shared with
  queries and keys or not.
- Query heads that share a key go with it, and are counted as one head (EuroBERT, Llama, Qwen,
  Mistral, Gemma).
- Classifiers of images that are made of CLIP or SigLIP have the tower of images alone. What pools
  the states of SigLIP, convolutions in front of encoders of sound, and X-MOD's adapters for
  languages stay as they are.
- ALBERT's layers are one set of weights: a unit goes from all of them and is scored by what it does
  in all of them, and reconstruction fits them once, to the sum over all runs. Fewer layers are the
  same weights run less often.
- ModernBERT's first layer reads the embeddings without a norm, so it stays whatever is dropped.

After each removal the model has to compute what it computed with those units at zero, or the step
fails: a model that is built unlike others of its type is found out there."""
# Compares files without anything of this package. Reads jobs from a file, writes what it found.
OTHER_PROGRAM = """
import json, sys
import numpy, onnxruntime, torch, transformers
torch.set_num_threads(1)
transformers.utils.logging.set_verbosity_error()
jobs, found = json.load(open(sys.argv[1])), {}

def vectors_of_sounds(model, batch):
    # Each alone and as long as it is, so that there is no padding to be told from samples.
    with torch.no_grad():
        if model.config.model_type == "audio-spectrogram-transformer":
            return model(**batch).pooler_output
        if model.config.model_type == "whisper":
            return model.get_encoder()(**batch).last_hidden_state.mean(dim=1)
        lengths = batch["attention_mask"].sum(dim=1).tolist()
        sounds = [row[None, :length] for row, length in zip(batch["input_values"], lengths)]
        return torch.cat([model(sound).last_hidden_state.mean(dim=1) for sound in sounds])

def outputs(folder, batch):
    config = transformers.AutoConfig.from_pretrained(folder)
    kind = "Image" if "pixel_values" in batch else "Sequence"
    if "input_values" in batch or "input_features" in batch:
        kind = "Audio"
    if config.architectures[0].endswith("ForTokenClassification"):
        kind = "Token"
    auto = getattr(transformers, f"AutoModelFor{kind}Classification")
    if config.architectures[0].endswith("Model"):
        auto = transformers.AutoModel
    if folder not in models:
        models[folder] = auto.from_pretrained(folder).eval()
    batch = {k: torch.from_numpy(v) for k, v in batch.items()}
    if kind == "Audio" and auto is transformers.AutoModel:
        return vectors_of_sounds(models[folder], batch).numpy()
    with torch.no_grad():
        given = models[folder](**batch)
    return (given.logits if "logits" in given else given.pooler_output).numpy()

models = {}
for job in jobs:
    arrays = numpy.load(job["batches"])
    names = sorted({key.split("/")[0] for key in arrays.files})
    if "onnx" in job:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(
            job["onnx"], options, providers=["CPUExecutionProvider"])
    ours, theirs = [], []
    for name in names:
        batch = {k.split("/")[1]: arrays[k] for k in arrays.files if k.startswith(name + "/")}
        if "checkpoint" in job:
            expected = outputs(job["checkpoint"], batch)
        else:
            expected = numpy.load(job["arrays"])[name]
        if "onnx" in job:
            wanted = {item.name for item in session.get_inputs()}
            [given] = session.run(None, {k: v for k, v in batch.items() if k in wanted})
        else:
            given = numpy.load(job["arrays"])[name]
        ours.append(given.ravel())
        theirs.append(expected.ravel())
    ours, theirs = numpy.concatenate(ours), numpy.concatenate(theirs)
    cosine = float(ours @ theirs / (numpy.linalg.norm(ours) * numpy.linalg.norm(theirs)))
    difference = numpy.nan_to_num(abs(ours.astype(numpy.float64) - theirs), nan=1e9)
    spread = float(theirs.std())
    shares = difference / max(spread, 1e-30)
    found[job["name"]] = {
        "largest": float(difference.max()), "share": float(shares.max()),
        "median": float(numpy.median(shares)), "cosine": cosine, "spread": spread}
json.dump(found, open(sys.argv[2], "w"))
"""
LOAD = """
import sys, numpy
from compressor.models.torch_model import load_checkpoint
arrays, model = numpy.load(sys.argv[2]), load_checkpoint(sys.argv[1])
names = {key.split("/")[0] for key in arrays.files}
batches = {
    name: {key.split("/")[1]: arrays[key] for key in arrays.files if key.startswith(name + "/")}
    for name in names
}
numpy.savez(sys.argv[3], **{name: model.predict(batch) for name, batch in batches.items()})
"""


@dataclass
class Work:
    """What is known of one family while it is taken through the passes."""

    family: str
    folder: Path
    model: TorchModel
    batches: dict[str, dict[str, Any]]
    cells: dict[str, str] = field(default_factory=dict)
    jobs: list[dict[str, str]] = field(default_factory=list)
    limits: dict[str, dict[str, Callable[[float], bool]]] = field(default_factory=dict)

    def cell(self, column: str, work: Callable[[], None]) -> None:
        """Do the work of a column, and say what became of it."""
        try:
            work()
        except (CompressorError, StepFailed) as error:
            self.cells[column] = "no: " + " ".join(str(error).split())
        except Exception as error:  # noqa: BLE001 -- a crash is what this looks for
            last = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{Path(last.filename).name}:{last.lineno}"
            what = f"{type(error).__name__} in {place}: {error}".splitlines()[0]
            self.cells[column] = f"CRASH {what}"

    def compare(
        self, column: str, *, limit: dict[str, Callable[[float], bool]] = PARITY, **job: Path
    ) -> None:
        """Leave a comparison to the other program."""
        named = {key: str(value) for key, value in job.items()}
        self.jobs.append({"name": column, "batches": str(self.folder / "batches.npz"), **named})
        self.limits[column] = limit


def main() -> int:
    """Measure, or write or check the page; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    known = [*TEXT_FAMILIES, *IMAGE_FAMILIES, *SOUND_FAMILIES]
    parser.add_argument("--only", nargs="+", choices=known, default=None, metavar="FAMILY")
    parser.add_argument("--page", action="store_true", help="write the page from the results")
    parser.add_argument("--check", action="store_true", help="compare the page with the results")
    arguments = parser.parse_args()
    if arguments.check:
        return int(PAGE.read_text(encoding="utf-8") != page())
    if not arguments.page:
        measure(arguments.only or [name for name in known if name.partition(" ")[0] in FAMILIES])
    PAGE.write_text(page(), encoding="utf-8")
    return 0


def measure(families: list[str]) -> None:
    """Take families through the passes, and write the results after each."""
    torch.set_num_threads(1)
    chatter: Any = transformers.utils.logging
    chatter.set_verbosity_error()
    chatter.disable_progress_bar()
    path = FOLDER / "families.json"
    rows = {}
    if path.exists():
        before = read_results("families")
        taken = {"commit": before["commit"], "date": before["date"]}
        rows = {row["family"]: {**taken, **row} for row in before["rows"]}
    for family in families:
        with tempfile.TemporaryDirectory() as folder:
            cells = check(Path(folder), family)
        today = datetime.datetime.now(datetime.UTC).date().isoformat()
        rows[family] = {"family": family, "commit": commit(), "date": today, "cells": cells}
        bad = [item for item in cells.items() if item[1].startswith(("WRONG", "CRASH"))]
        print(family, bad or "right", flush=True)
        ordered = [rows[name] for name in sorted(rows)]
        about = {
            "lengths": [*LENGTHS, "longest"],
            "rows": "1 and 5",
            "each_row": "tools/check_families.py --only FAMILY, at the commit that it names",
        }
        write_results(path, ordered, about=about)


def check(folder: Path, family: str) -> dict[str, str]:
    """Return the cells of a family."""
    build(folder / "checkpoint", family, "classifier")
    try:
        model = load_checkpoint(folder / "checkpoint")
        check_family(find_checkpoint(str(folder / "checkpoint")))
    except CompressorError as error:
        reason = "no: " + " ".join(str(error).split()).replace(str(folder / "checkpoint"), family)
        return dict.fromkeys(COLUMNS, reason)
    work = Work(family, folder, model, dict(batches_of(family, model)))
    if (refusal := _why_not_judged(work)) is not None:
        return dict.fromkeys(COLUMNS, f"no: {refusal}")
    flat = {f"{key}/{name}": v for key, it in work.batches.items() for name, v in it.items()}
    np.savez(folder / "batches.npz", **flat)
    work.cell("export", lambda: _export(work))
    work.cell("scores", lambda: _scores(work))
    work.cell("reconstruct", lambda: _reconstruct(work))
    for column, settings in SETTINGS.items():
        done = _plain if column in ("layers", "distill") else _quantized
        work.cell(column, partial(done, work, column, settings))
    work.cell("train", lambda: _train(work))
    _ask_the_other_program(work)
    return {name: work.cells[name].replace(str(folder), "") for name in COLUMNS}


def _why_not_judged(work: Work) -> str | None:
    """Return why a run refuses such a model before its first pass, None where it does not."""
    task, rows = work.model.task, _context(work).splits["train"]
    longest = int(work.model.preprocessor.model_max_length) if task.reads_tokens else None
    try:
        read_probes(work.model, parity_probes(task, work.model.preprocessor, rows, longest), task)
    except RowDependence as error:
        return f"{error}, so a score would depend on how rows are put together"
    return None


def batches_of(family: str, model: TorchModel) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield inputs by name: texts alone and in padded batches, or images."""
    random = np.random.default_rng(SEED)
    if family in IMAGE_FAMILIES:
        size = _side(family)
        for count in (1, 5):
            shape = (count, size, size, 3)
            images = list(random.integers(0, 256, shape).astype(np.uint8))
            yield f"images-{count}", dict(model.task.encode(model.preprocessor, images))
        return
    if family in SOUND_FAMILIES:
        for length in (3000, 4800):
            for count in (1, 5):
                sounds = [sound(random, length - 100 * row) for row in range(count)]
                yield (
                    f"sounds-{length}-{count}",
                    dict(model.task.encode(model.preprocessor, sounds)),
                )
        return
    longest = min(64, int(model.preprocessor.model_max_length), _most_positions(model))
    names = model.preprocessor.model_input_names
    for length in sorted({min(length, longest) for length in (*LENGTHS, longest)}):
        for count, side in ((1, "alone"), (5, "right"), (5, "left")):
            ids = random.integers(5, len(WORDS), (count, length))
            mask = np.ones_like(ids)
            for row in range(1, count):
                kept = max(1, length * row // count)
                mask[row, slice(kept, None) if side == "right" else slice(0, length - kept)] = 0
            known = {"input_ids": ids * mask, "attention_mask": mask, "token_type_ids": 0 * mask}
            yield f"{side}-{length}", {name: known[name] for name in names}


def _most_positions(model: TorchModel) -> int:
    named = getattr(model.module.config, "max_position_embeddings", None)
    return positions_limit(Path("config.json"), named) or LENGTHS[-1]


def _side(family: str) -> int:
    given = IMAGE_FAMILIES[family].get("image_size", 16)
    return int(given[0] if isinstance(given, list) else given)


def _context(work: Work) -> PassContext:
    random = np.random.default_rng(SEED)
    examples: list[Any]
    if work.family in IMAGE_FAMILIES:
        size = _side(work.family)
        examples = [random.integers(0, 256, (size, size, 3)).astype(np.uint8) for _ in range(32)]
    elif work.family in SOUND_FAMILIES:
        examples = [sound(random, 4000) for _ in range(32)]
    else:
        lengths = random.integers(2, 30, 32)
        examples = [" ".join(random.choice(WORDS[5:], size=size)) for size in lengths]
    labels = None if work.family in (*TAGGERS, *HEADLESS) else np.arange(32) % 3
    data = Dataset("rows", tuple(examples), labels, np.arange(32), "made-up rows")
    checkpoint = work.folder / "checkpoint"
    scratch = Path(tempfile.mkdtemp(dir=work.folder))
    return PassContext(
        splits={"train": data, "calibration": data},
        load_baseline=lambda: load_checkpoint(checkpoint),
        device=torch.device("cpu"),
        seed=SEED,
        work_dir=scratch,
        progress=SILENT,
        note=lambda _: None,
    )


def _applied(
    work: Work,
    settings: Mapping[str, Any],
    model: Any = None,
    context: PassContext | None = None,
) -> Any:
    given = settings_of(settings)
    subject = load_checkpoint(work.folder / "checkpoint") if model is None else model
    return apply_pass(given, subject, context or _context(work))


def _exported(work: Work, model: TorchModel, name: str) -> OnnxModel:
    return export_onnx(model, work.folder / name / "model.onnx", threads=1)


def _export(work: Work) -> None:
    _exported(work, work.model, "dense")
    work.compare(
        "export", checkpoint=work.folder / "checkpoint", onnx=work.folder / "dense" / "model.onnx"
    )


def _scores(work: Work) -> None:
    for importance in IMPORTANCES:
        if importance == "taylor" and work.family in HEADLESS:
            continue  # it is the gradient of a loss on labels, and vectors have none
        settings = {"kind": "prune_structured", "importance": importance}
        try:
            pruned = _applied(work, {**settings, "ratio": 0.5})
        except UnsupportedArchitecture:  # heads have to stay
            pruned = _applied(work, {**settings, "neuron_ratio": 0.5, "head_ratio": 0})
            work.cells["scores"] = "neurons"
        dense = with_units_at_zero(work.model, pruned)
        share = largest_share(dense, pruned, work.batches.values())
        if not PARITY["share"](share):
            raise AssertionError(f"importance {importance}: differs by {share:.1e} of the spread")
    dense.save(work.folder / "zeroed")
    _exported(work, pruned, "scores")
    work.compare(
        "scores", checkpoint=work.folder / "zeroed", onnx=work.folder / "scores" / "model.onnx"
    )


def largest_share(
    expected: TorchModel, model: TorchModel, batches: Iterable[dict[str, Any]]
) -> float:
    """Return the largest difference of two models' outputs, as a share of their spread."""
    pairs = [(expected.predict(batch).ravel(), model.predict(batch).ravel()) for batch in batches]
    wanted, found = (np.concatenate(arrays) for arrays in zip(*pairs, strict=True))
    return float(np.abs(found - wanted).max() / max(float(wanted.std()), 1e-30))


def with_units_at_zero(model: TorchModel, pruned: TorchModel) -> TorchModel:
    """Return the dense model with those columns of output projections at zero that are gone."""
    dense = model.clone()
    pairs = zip(encoder_layers(dense.module), encoder_layers(pruned.module), strict=True)
    for before, after in pairs:
        for name, output in (("attention", "output"), ("feed_forward", "ffn_out")):
            part = getattr(before, name)
            weight = getattr(part, output).weight.data
            kept = getattr(after, name)
            left = getattr(kept, output).weight.data.T if kept is not None else weight.T[:0]
            alive = (weight.T[:, None] == left[None]).all(dim=-1).any(dim=-1)
            weight[:, ~alive] = 0
    return dense


def _reconstruct(work: Work) -> None:
    settings = {"kind": "prune_structured", "method": "reconstruction", "round_to": 8}
    try:
        pruned = _applied(work, {**settings, "ratio": 0.4})
    except UnsupportedArchitecture:
        pruned = _applied(work, {**settings, "ratio": 0.3, "head_ratio": 0})
        work.cells["reconstruct"] = "neurons"
    saved, arrays = work.folder / "reconstructed", work.folder / "reconstructed.npz"
    pruned.save(saved)
    assert (saved / STRUCTURE).is_file(), "it is pruned"
    _load_elsewhere(saved, work.folder / "batches.npz", arrays)
    _exported(work, pruned, "onnx")
    work.compare("reconstruct", arrays=arrays, onnx=work.folder / "onnx" / "model.onnx")


def _load_elsewhere(saved: Path, batches: Path, arrays: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", LOAD, *map(str, (saved, batches, arrays))]
    subprocess.run(command, check=True, env=environment, capture_output=True)


def _plain(work: Work, column: str, settings: Mapping[str, Any]) -> None:
    made = _applied(work, settings)
    made.save(work.folder / column)
    assert not (work.folder / column / STRUCTURE).exists(), "transformers alone loads it"
    found = {name: made.predict(batch) for name, batch in work.batches.items()}
    np.savez(work.folder / f"{column}.npz", **found)
    work.compare(column, checkpoint=work.folder / column, arrays=work.folder / f"{column}.npz")


def _quantized(work: Work, column: str, settings: Mapping[str, Any]) -> None:
    dense = OnnxModel(work.folder / "dense" / "model.onnx", provider="cpu", threads=1)
    context = _context(work)
    if column == "static" and work.family in CONVOLVING:
        settings = {**settings, "convolutions": "int8"}
    made = _applied(work, settings, dense, context)
    measured: Any = context.facts.get("sensitivity", [])
    if kept := sum(fact["kept_in_float"] for fact in measured):
        work.cells[column] = f"yes, {kept} of {len(measured)} in float"
    work.compare(
        column,
        checkpoint=work.folder / "checkpoint",
        onnx=made.path,
        limit=NEAR,
    )


def _train(work: Work) -> None:
    settings = {"kind": "quantize_aware_train", "min_elements": 256, "keep_if_worse": True}
    _plain(work, "train", {**settings, **TRAINING})
    rounded, arrays = load_checkpoint(work.folder / "checkpoint"), work.folder / "simulated.npz"
    with simulated_int8(rounded.module, min_elements=256):
        found = {name: rounded.predict(batch) for name, batch in work.batches.items()}
    np.savez(arrays, **found)  # type: ignore[arg-type] # its stub takes names for a flag
    exported = _exported(work, rounded, "rounded")
    quantized = _applied(work, {"kind": "quantize_dynamic", "min_elements": 256}, exported)
    work.compare("simulated", arrays=arrays, onnx=quantized.path, limit=SIMULATION)


def _ask_the_other_program(work: Work) -> None:
    jobs, answers = work.folder / "jobs.json", work.folder / "found.json"
    jobs.write_text(json.dumps(work.jobs), encoding="utf-8")
    command = [sys.executable, "-c", OTHER_PROGRAM, str(jobs), str(answers)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONPATH", None)
    subprocess.run(command, check=True, cwd=work.folder, env=environment)
    for column, found in json.loads(answers.read_text(encoding="utf-8")).items():
        right = all(holds(found[name]) for name, holds in work.limits[column].items())
        cell = {"simulated": "train"}.get(column, column)
        said = work.cells.get(cell, "yes")
        if said.startswith(("no: ", "CRASH", "WRONG")):
            continue
        if not right or found["spread"] < LEAST_SPREAD:
            work.cells[cell] = "WRONG " + json.dumps(found)
        elif said == "neurons":
            work.cells[cell] = "yes, neurons"
        else:
            work.cells[cell] = said


def page() -> str:
    """Return the page, from the results."""
    rows = {row["family"]: row["cells"] for row in read_results("families")["rows"]}
    notes: dict[str, int] = {}
    lines = [
        *INTRODUCTION.splitlines(),
        "",
        "| model type | " + " | ".join(COLUMNS.values()) + " |",
        "|:--|" + ":-:|" * len(COLUMNS),
    ]
    for family, cells in rows.items():
        shown = [_shown(cells[column], notes) for column in COLUMNS]
        lines.append(f"| {family} | " + " | ".join(shown) + " |")
    lines += ["", *(f"{number}. {text}" for text, number in notes.items())]
    lines += ["", *TRAINED.splitlines()]
    lines += ["", *TOGETHER.splitlines(), ""]
    return with_tables("\n".join(lines), PAGE.parent)


def _shown(cell: str, notes: dict[str, int]) -> str:
    """Return what a cell shows; reasons are numbered in `notes`."""
    if cell.startswith("WRONG "):
        found = json.loads(cell.removeprefix("WRONG "))
        text = (
            f"outputs differ from those of transformers by up to {found['largest']:.2g}, with a "
            f"cosine of {found['cosine']:.2f}; int8 has to keep {NEAREST} of these random models"
        )
        return f"far off ({notes.setdefault(text, len(notes) + 1)})"
    if not cell.startswith("no: "):
        return cell.replace("|", "/")
    text = cell.removeprefix("no: ").partition("; supported model types")[0]
    # Where a file was, and names of values, differ from run to run and say nothing.
    text = re.sub(r"^\S*/(\S+\.onnx): |( : FAIL) : .*$", r"\1\2 ", text).strip()
    return f"no ({notes.setdefault(text, len(notes) + 1)})"


if __name__ == "__main__":
    sys.exit(main())
