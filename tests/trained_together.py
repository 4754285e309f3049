"""Small trainings that are the same in one process and in several; run as a script by a launcher.

As a script it does those named after the folder, in all processes that it finds itself among, and
writes the weights that each ends with. Every process but the first follows.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors.torch import save_file

from compressor.data import Dataset
from compressor.machine.team import end_team, join, team
from compressor.models.families.layers import find_encoder
from compressor.models.torch_model import TorchModel, load_checkpoint
from compressor.passes import PassContext, apply_pass
from compressor.passes.prune_magnitude.apply import train_pruned
from compressor.passes.prune_magnitude.settings import PruneMagnitude
from compressor.passes.prune_structured.apply import drop_layers
from compressor.passes.prune_structured.settings import PruneByReconstruction, PruneByScores
from compressor.progress import SILENT, Advance, Silent
from compressor.training.distill_settings import DistillSettings
from compressor.training.recovery import distilled, finetune
from compressor.training.settings import FinetuneSettings
from compressor.training.together import follow, in_all_processes
from compressor.training.training_run import Scorer, TrainingRun

# 49 rows in batches of 8 are 7 steps an epoch, and one row is left for the last of them. No
# dropout, which is drawn for the rows of each process. The usual epsilon would make steps of the
# rounding errors in gradients that are zero, such as those of the keys' biases.
ROWS = 49
BASE = {"epochs": 1, "batch_size": 8, "learning_rate": 1e-3, "dropout": False, "epsilon": 1e-4}
SGD = {**BASE, "epsilon": None, "optimizer": "sgd", "learning_rate": 0.02}
WORDS = ("the", "film", "is", "a", "story", "and", "was", "very", "plot", "good", "bad", "dull")


def save_models(folder: Path, tokenizer: transformers.PreTrainedTokenizerBase) -> None:
    """Save a classifier, another one as its teacher, a model that scores pairs, and one of images.

    Their dropout is on, as in checkpoints.
    """
    torch.manual_seed(0)
    width = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    width |= {"intermediate_size": 32}
    text = {**width, "vocab_size": len(tokenizer), "max_position_embeddings": 64}
    for name, labels in (("texts", 2), ("teacher", 2), ("scores", 1)):
        config = transformers.BertConfig(**text, num_labels=labels, initializer_range=0.3)
        transformers.BertForSequenceClassification(config).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    config = transformers.BertConfig(**text, initializer_range=0.3)
    transformers.BertModel(config).save_pretrained(folder / "vectors")
    tokenizer.save_pretrained(folder / "vectors")
    config = transformers.ViTConfig(**width, image_size=8, patch_size=4, num_labels=3)
    transformers.ViTForImageClassification(config).save_pretrained(folder / "images")
    size = {"height": 8, "width": 8}
    transformers.ViTImageProcessorPil(size=size).save_pretrained(folder / "images")


def texts() -> Dataset:
    draw = np.random.default_rng(0)
    examples = tuple(" ".join(draw.choice(WORDS, size=draw.integers(1, 12))) for _ in range(ROWS))
    return Dataset("train", examples, np.arange(ROWS) % 2, np.arange(ROWS), "drawn")


def pairs() -> Dataset:
    """Return pairs of texts, of which three after each other belong together."""
    own = texts()
    examples = tuple((example, own.examples[-row]) for row, example in enumerate(own.examples))
    return replace(own, examples=examples, labels=None, groups=np.arange(ROWS) // 3)


def images() -> Dataset:
    draw = np.random.default_rng(0)
    examples = tuple(draw.integers(0, 255, size=(8, 8, 3)).astype(np.uint8) for _ in range(ROWS))
    return Dataset("train", examples, np.arange(ROWS) % 3, np.arange(ROWS), "drawn")


def trained(folder: Path, name: str, run: TrainingRun) -> TorchModel:
    """Return the model of `folder` that the training of this name ends with, in all processes."""
    kind, settings = CASES[name]
    first, _, _ = kind.partition(" ")
    own = first if first in ("scores", "images", "vectors") else "texts"
    task = {"scores": "text-scoring", "vectors": "sentence-embedding"}.get(own)
    model = load_checkpoint(folder / own, task=task)
    if kind == "distill":
        teacher = load_checkpoint(folder / "teacher")
        in_all_processes(run, distilled, model, teacher, texts(), settings, run, None)
    elif kind in ("scores", "vectors"):
        teacher = model.clone()
        with torch.no_grad():
            teacher.module.get_input_embeddings().weight.mul_(-1.5)
        dataset = pairs() if kind == "scores" else texts()
        in_all_processes(run, distilled, model, teacher, dataset, settings, run, None)
    elif kind == "layers lost":
        drop_layers(model, find_encoder(model.module), settings, context_of(folder, run))
    elif kind in ("pruned", "vectors pruned"):
        apply_pass(settings, model, context_of(folder, run))
    elif kind == "masks":
        in_all_processes(run, train_pruned, settings, model, texts(), run)
    else:
        dataset = images() if kind == "images" else texts()
        summary = in_all_processes(run, finetune, model, dataset, settings, run)
        if not run.team.is_alone:
            (folder / f"{name}.txt").write_text(summary.told)
    return model


def context_of(folder: Path, run: TrainingRun) -> PassContext:
    return PassContext(
        splits={"calibration": texts()},
        load_baseline=lambda: load_checkpoint(folder / "texts"),
        device=run.device,
        seed=run.seed,
        work_dir=folder / "work",
        progress=SILENT,
        note=lambda _: None,
    )


CASES: dict[str, tuple[str, object]] = {
    "200 steps of SGD": ("texts", FinetuneSettings(**{**SGD, "epochs": 30, "max_steps": 200})),
    "AdamW": ("texts", FinetuneSettings(**BASE)),
    "killed": ("texts", FinetuneSettings(**BASE, schedule="cosine")),
    "resumed": ("texts", FinetuneSettings(**BASE, schedule="constant")),
    "averages and scores": (
        "texts",
        FinetuneSettings(
            **BASE, ema_decay=0.9, evaluations=4, keep_best=True, schedule="reduce_on_plateau"
        ),
    ),
    "smoothing, weights and parts": (
        "texts",
        FinetuneSettings(
            **BASE, label_smoothing=0.1, class_weights="balanced", accumulation_steps=3
        ),
    ),
    "taylor of units": ("pruned", PruneByScores(ratio=0.5, round_to=1)),
    "activation of units": (
        "pruned",
        PruneByScores(ratio=0.5, round_to=1, importance="activation"),
    ),
    "fisher of units": ("pruned", PruneByScores(ratio=0.5, round_to=1, importance="fisher")),
    "fisher of vectors": (
        "vectors pruned",
        PruneByScores(ratio=0.5, round_to=1, importance="fisher"),
    ),
    "entropy of units": ("pruned", PruneByScores(ratio=0.5, round_to=1, importance="entropy")),
    "information of weights": (
        "pruned",
        PruneMagnitude(sparsity=0.5, importance="mutual_information"),
    ),
    "reconstruction": ("pruned", PruneByReconstruction(ratio=0.5, round_to=1)),
    "reconstruction of inputs": (
        "pruned",
        PruneByReconstruction(ratio=0.5, round_to=1, refit_inputs=True),
    ),
    "loss without layers": ("layers lost", PruneByScores(layers=1)),
    "taylor of weights": ("pruned", PruneMagnitude(sparsity=0.5, importance="taylor")),
    "activation of weights": (
        "pruned",
        PruneMagnitude(sparsity=0.5, importance="activation", scope="row"),
    ),
    "mixup": ("texts", FinetuneSettings(**BASE, mixup_alpha=0.4)),
    "mixup of a teacher": (
        "distill",
        DistillSettings(**BASE, mixup_alpha=0.4, label_weight=0.5, accumulation_steps=2),
    ),
    "cutmix": ("images", FinetuneSettings(**BASE, cutmix_alpha=1.0)),
    "layers": (
        "distill",
        DistillSettings(
            **BASE,
            label_weight=0.5,
            hidden_weight=1,
            attention_weight=1,
            sublayer_weight=1,
            relation_weight=1,
            accumulation_steps=2,
        ),
    ),
    "logits": ("distill", DistillSettings(**BASE, logits_loss="mse")),
    "margins": ("scores", DistillSettings(**BASE, margin_weight=1.0)),
    "vectors": ("vectors", DistillSettings(**BASE)),
    "masks": ("masks", PruneMagnitude(sparsity=0.5, schedule="cubic", finetune=dict(BASE))),
}


def run_in(folder: Path, name: str) -> TrainingRun:
    """Return a run in the processes there are, whose checkpoints lie in a folder of its own."""
    own = texts()

    def score(model: TorchModel) -> float:
        logits = model.predict(model.task.encode(model.preprocessor, own.examples))
        return float((logits.argmax(-1) == own.labels).mean())

    run = TrainingRun(torch.device("cpu"), 0, folder / "work" / name, SILENT, name)
    return replace(run, team=team(), scorer=Scorer(score, "texts"), checkpoint_seconds=0.0)


class Calling(Silent):
    """Calls something when a training tells of a certain step."""

    def __init__(self, step: int, call: Callable[[], None]) -> None:
        self.left = step
        self.call = call
        self.amounts: list[int] = []

    @contextmanager
    def bar(self, description: str, total: int | None) -> Iterator[Advance]:
        del description, total

        def advance(amount: int = 1, detail: str = "") -> None:
            del detail
            self.amounts.append(amount)
            self.left -= amount
            if self.left == 0:
                self.call()

        yield advance


def in_two_processes(
    folder: Path,
    *names: str,
    address: str = "127.0.0.1",
    prefixes: Sequence[Sequence[str]] = ((), ()),
    **variables: str,
) -> tuple[int, int, str]:
    """Return both exit codes, and what the first of two processes said, of these trainings.

    The first one is reached at `address`; `prefixes` are what the two commands begin with.
    """
    tests = Path(__file__).parent
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(tests), str(tests.parent)]),
        "OMP_NUM_THREADS": "1",
        "TORCH_CPP_LOG_LEVEL": "ERROR",
        "WORLD_SIZE": "2",
        "MASTER_ADDR": address,
        "MASTER_PORT": str(free_port()),
        **variables,
    }
    first, second = (
        subprocess.Popen(
            [*prefix, sys.executable, __file__, str(folder), *names],
            env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, prefix in enumerate(prefixes)
    )
    told = first.communicate(timeout=300)[1]
    second.communicate(timeout=60)
    return first.returncode, second.returncode, told


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def main(folder: Path, *names: str) -> None:
    (folder / f"{os.environ['RANK']}.pid").write_text(str(os.getpid()))
    if not join().leads:
        follow(quiet=True)

    def kill_other() -> None:
        os.kill(int((folder / "1.pid").read_text()), 9)

    for name in names:
        run = run_in(folder, name)
        if name == "killed":
            run = replace(run, progress=Calling(5, kill_other))
        model = trained(folder, name, run)
        save_file(dict(model.module.state_dict()), folder / f"{name}.safetensors")
    end_team(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
