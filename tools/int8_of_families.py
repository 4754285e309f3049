"""Train tiny models of many families for a moment, and say how many predictions int8 changes.

Each family gets a model as `tools/sweep_architectures.py` builds it, with smaller random weights,
and is trained on rows that a rule made: texts whose class is that of most of the words in them that
have one, images with a bright side, tones of three heights. Then its int8 files predict 1,000 rows
that it has not seen. What is random in a model that knows nothing says little of int8; what a
trained one decides, more.

Usage: tools/int8_of_families.py [--only FAMILY ...]     measures, and writes the results
"""

from __future__ import annotations

import argparse
import datetime
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from results import FOLDER, commit, read_results, write_results
from sweep_architectures import (
    CONVOLVING,
    HEADLESS,
    IMAGE_FAMILIES,
    RATE,
    SEED,
    SOUND_FAMILIES,
    TAGGERS,
    TEXT_FAMILIES,
    WORDS,
    build,
)

from compressor.data import Dataset
from compressor.errors import CompressorError, StepFailed
from compressor.export.to_onnx import export_onnx
from compressor.models.families import FAMILIES
from compressor.models.onnx_model import OnnxModel
from compressor.models.torch_model import TorchModel, load_checkpoint
from compressor.passes import PassContext, apply_pass, settings_of
from compressor.progress import SILENT
from compressor.tasks import Example
from compressor.tasks.examples import Words
from compressor.tasks.sound import Sound
from compressor.verify.evaluation import predict_outputs

RESULTS = "families-int8"
STEPS, BATCH = 150, 32
ROWS = {"train": 1024, "calibration": 256, "unseen": 1000}
SHRINK = 0.25  # of the weights that a sweep draws, which are too large to train
FORMS: dict[str, dict[str, Any]] = {
    "dynamic": {"kind": "quantize_dynamic"},
    "static": {"kind": "quantize_static"},
    "dynamic_auto": {"kind": "quantize_dynamic", "keep_sensitive": "auto"},
    "static_auto": {"kind": "quantize_static", "keep_sensitive": "auto"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    every = [*TEXT_FAMILIES, *IMAGE_FAMILIES, *SOUND_FAMILIES]
    known = [name for name in every if name.partition(" ")[0] in FAMILIES and name not in HEADLESS]
    parser.add_argument("--only", nargs="+", choices=known, default=known, metavar="FAMILY")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    chatter: Any = transformers.utils.logging
    chatter.set_verbosity_error()
    chatter.disable_progress_bar()
    path = FOLDER / f"{RESULTS}.json"
    rows = {row["family"]: row for row in read_results(RESULTS)["rows"]} if path.exists() else {}
    for family in arguments.only:
        started = time.process_time()
        with tempfile.TemporaryDirectory() as folder:
            row = measured(Path(folder), family)
        row["seconds"] = round(time.process_time() - started, 1)
        print(row, flush=True)
        today = datetime.datetime.now(datetime.UTC).date().isoformat()
        rows[family] = {"family": family, "commit": commit(), "date": today, **row}
        about = {
            "steps": STEPS,
            "rows": ROWS,
            "each_row": "tools/int8_of_families.py --only FAMILY, at the commit that it names",
        }
        write_results(path, [rows[name] for name in sorted(rows)], about=about)


def measured(folder: Path, family: str) -> dict[str, Any]:
    """Return accuracy, and for each form the fraction of predictions that it changes.

    Beside it stands how many weights stay in float. A form that is refused has its reason.
    """
    build(folder / "checkpoint", family, "classifier")
    model = load_checkpoint(folder / "checkpoint")
    splits = {name: made_up(family, name) for name in ROWS}
    train(model, splits["train"])
    model.save(folder / "trained")
    exported = export_onnx(model, folder / "dense" / "model.onnx", threads=1)
    before = predictions(exported, model, splits["unseen"])
    known = splits["unseen"].labels
    assert known is not None, "a rule gave them"
    truth = np.concatenate([np.ravel(labels) for labels in known])
    found: dict[str, Any] = {"accuracy": round(float((before == truth).mean()), 4)}
    for name, settings in FORMS.items():
        given = {"min_elements": 256, **settings}
        if family in CONVOLVING and settings["kind"] == "quantize_static":
            given["convolutions"] = "int8"
        work = folder / name
        context = PassContext(
            splits={"calibration": splits["calibration"]},
            load_baseline=lambda: model,
            device=torch.device("cpu"),
            seed=SEED,
            work_dir=work,
            progress=SILENT,
            note=lambda _: None,
        )
        try:
            quantized = apply_pass(settings_of(given), exported, context)
        except (CompressorError, StepFailed) as error:
            found[name] = {"refused": " ".join(str(error).split())}
            continue
        after = predictions(quantized, model, splits["unseen"])
        measured_alone: Any = context.facts.get("sensitivity", [])
        kept = sum(fact["kept_in_float"] for fact in measured_alone)
        changed = round(float((after != before).mean()), 4)
        found[name] = {"changed": changed, "in_float": kept, "of": len(measured_alone)}
    return found


def train(model: TorchModel, dataset: Dataset) -> None:
    """Train a model in place on the labels of a split."""
    torch.manual_seed(SEED)
    module: Any = model.module.train()
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim > 1:
                parameter.mul_(SHRINK)
    optimizer = torch.optim.AdamW(module.parameters(), lr=2e-3)
    random = np.random.default_rng(SEED)
    assert dataset.labels is not None
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1.0, 2 * (1 - step / STEPS))
        rows = random.choice(len(dataset), BATCH, replace=False)
        batch = model.task.encode(model.preprocessor, [dataset.examples[row] for row in rows])
        targets = torch.from_numpy(model.task.targets(batch, dataset.labels[rows]))
        inputs = {name: torch.from_numpy(value) for name, value in batch.items()}
        outputs = model.task.output_of(module(**inputs))
        optimizer.zero_grad()
        torch.autograd.backward(model.task.losses.on_labels(outputs, targets).mean)
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
    module.eval()


def predictions(graph: OnnxModel, model: TorchModel, dataset: Dataset) -> NDArray[np.int64]:
    """Return the class of each row, or of each word of all rows."""
    outputs = predict_outputs(graph, model.task, model.preprocessor, dataset)
    return np.asarray(outputs.numbers.argmax(axis=-1), np.int64)


def made_up(family: str, name: str) -> Dataset:
    """Return rows by a rule, with their labels."""
    random = np.random.default_rng([SEED, list(ROWS).index(name)])
    examples: list[Example] = []
    labels: list[Any] = []
    for row in range(ROWS[name]):
        if family in TEXT_FAMILIES:
            words, tags = text(random)
            examples.append(Words(words) if family in TAGGERS else " ".join(words))
            counts = np.bincount(tags, minlength=4)[:3]
            labels.append(np.minimum(tags, 2) if family in TAGGERS else int(counts.argmax()))
        else:
            labels.append(row % 3)
            if family in IMAGE_FAMILIES:
                examples.append(image(random, side_of(family), row % 3))
            else:
                examples.append(tone(random, row % 3))
    if family in TAGGERS:
        together: NDArray[Any] = np.empty(len(labels), dtype=object)
        together[:] = labels
    else:
        together = np.array(labels)
    return Dataset(name, tuple(examples), together, np.arange(len(labels)), "made-up rows")


def text(random: np.random.Generator) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Return words and the class of each: 0 to 2, or 3 of a word that has none."""
    known = WORDS[5:]
    places = random.integers(0, len(known), size=random.integers(4, 16))
    return tuple(known[place] for place in places), np.minimum(places // 8, 3)


def image(random: np.random.Generator, side: int, label: int) -> Example:
    """Return a noisy image with a bright top, bottom or left."""
    pixels = random.integers(0, 160, (side, side, 3)).astype(np.uint8)
    half = side // 2
    region = (np.s_[:half, :], np.s_[half:, :], np.s_[:, :half])[label]
    pixels[region] += np.uint8(random.integers(5, 60))
    return pixels


def side_of(family: str) -> int:
    """Return how many pixels wide and high the images of a family are."""
    given = IMAGE_FAMILIES[family].get("image_size", 16)
    return int(given[0] if isinstance(given, list) else given)


def tone(random: np.random.Generator, label: int) -> Example:
    """Return a noisy tone of one of three heights."""
    height = (0.05, 0.15, 0.4)[label] * random.uniform(0.8, 1.25)
    wave = 0.4 * np.sin(np.arange(3200) * height) + 0.3 * random.standard_normal(3200)
    return Sound(wave.astype(np.float32), RATE, "a made-up tone")


if __name__ == "__main__":
    main()
