"""The models that need no download: a small ViT for handwritten digits, and packaged ones.

It lets anyone see a whole run on real data without a network. It is trained once, in well under a
minute, and kept in the user's cache; training that was stopped goes on from its last checkpoint. It
is trained on the fixed `train` part of the digits only, so that the `test` part stays unseen.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
import transformers
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from compressor.data import Dataset, DataSettings, SplitSource, load_splits
from compressor.errors import EnvironmentMismatch
from compressor.machine.environment import seed_everything
from compressor.models.packaged import cached, is_trained_here, local_folder
from compressor.models.torch_model import TorchModel
from compressor.paths import BUILTIN
from compressor.progress import Progress
from compressor.tasks import load_task
from compressor.tasks.columns import ImageColumns
from compressor.tasks.outputs import one_each
from compressor.training.settings import FinetuneSettings
from compressor.training.training_run import TrainingRun

_SEED = 0
_CHECKPOINT_SECONDS = 5.0
_SETTINGS = FinetuneSettings(
    epochs=7, learning_rate=1.5e-3, batch_size=128, weight_decay=0.05, warmup_ratio=0.1
)


def resolve_builtin(checkpoint: str, *, progress: Progress) -> str:
    """Return `checkpoint` itself, or for `builtin:NAME` the directory of that model.

    Trains the digits model when the cache lacks it; it appears there whole or not at all. Of two
    processes the second waits for the first. Raises `EnvironmentMismatch` when nothing has that
    name, or the package that carries the model is not installed.
    """
    if not checkpoint.startswith(BUILTIN):
        return checkpoint
    if not is_trained_here(checkpoint):
        return str(local_folder(checkpoint))
    directory = cached(checkpoint)
    if not (directory / "config.json").is_file():
        _train_into(directory, progress)
    return str(directory)


def _train_into(directory: Path, progress: Progress) -> None:
    """Train into `directory`, one process at a time; one that was killed is gone on with."""
    work = directory.with_name(f".training-{directory.name}")
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        with _alone(work.with_suffix(".lock"), progress):
            if (directory / "config.json").is_file():
                return  # the process that was waited for has made it
            whole = work / "model"
            _remove(whole)  # a process that was killed may have saved half of it
            _train_digits(work, progress).save(whole)
            _remove(directory)  # an earlier version of this function was interrupted here
            whole.rename(directory)
            _remove(work)
    except OSError as error:
        raise EnvironmentMismatch(
            f"{directory}: the built-in model cannot be stored ({error}); free some space or set "
            f"COMPRESSOR_CACHE to a directory that can be written"
        ) from error


@contextmanager
def _alone(path: Path, progress: Progress) -> Iterator[None]:
    """Hold the lock `path`, which the system drops with the process, however that ends."""
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        progress.stage("wait for another run, which trains the built-in model")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)


def _train_digits(work: Path, progress: Progress) -> TorchModel:
    labels = tuple(str(digit) for digit in range(10))
    settings = DataSettings(image="image", train=SplitSource(sklearn="digits", split="train"))
    train = load_splits(
        settings, label_names=labels, columns=ImageColumns(), needed={"train"}, seed=_SEED
    )["train"]
    seed_everything(_SEED)
    config = transformers.ViTConfig(
        image_size=8,
        patch_size=4,
        num_channels=1,
        hidden_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=512,
        # The usual 0.02 is made for widths near 768; at 128 it leaves every layer near zero.
        initializer_range=0.06,
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
    )
    processor = transformers.ViTImageProcessorPil(
        size={"height": 8, "width": 8}, image_mean=[0.5], image_std=[0.5]
    )
    module = transformers.ViTForImageClassification(config)
    model = TorchModel(module, processor, load_task("image-classification"))
    run = TrainingRun(
        device=torch.device("cpu"),
        seed=_SEED,
        work_dir=work,
        progress=progress,
        description="train the built-in digits model (once)",
        checkpoint_seconds=_CHECKPOINT_SECONDS,
    )
    # Here and not at the top: transformers' Trainer takes a second to load, and most runs train
    # nothing.
    from compressor.training.recovery import finetune

    finetune(model, shifted(train), _SETTINGS, run)
    return model


def shifted(dataset: Dataset) -> Dataset:
    """Return the images with their eight neighbours: shifted by one pixel in every direction."""
    steps = [(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1)]
    images = [_shift(image, *step) for step in steps for image in dataset.examples]  # type: ignore[arg-type]
    labels = None if dataset.labels is None else np.tile(one_each(dataset.labels), len(steps))
    rows = np.tile(dataset.rows, len(steps))
    return Dataset(dataset.name, tuple(images), labels, rows, f"{dataset.source}, shifted")


def _shift(image: NDArray[np.uint8], down: int, right: int) -> NDArray[np.uint8]:
    padded = np.pad(image, 1)
    height, width = image.shape[:2]
    return padded[1 - down : 1 - down + height, 1 - right : 1 - right + width]
