"""Run what `compress init` writes: tiny trained models, rows made for them, to the end.

Each case draws a family of architectures, a task, numbers of rows for every file, short or long
texts, and how the rows are: labelled, unlabelled, graded, mostly of one class, with wrong labels.
`init` writes a recipe, and the recipe is run. One line each:

    ok       exit 0
    said     init said what is not possible, and wrote nothing
    FAILED   init wrote a recipe that does not run to exit 0
    CRASH    anything else: a bug of ours

Usage: tools/check_init.py [--cases N] [--seed S] [--only CASE ...] [--json FILE]
Exits with 1 when a line is FAILED or CRASH.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import transformers
from PIL import Image
from sweep_architectures import IMAGE_FAMILIES, TEXT_FAMILIES
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from compressor.errors import CompressorError, RecipeError
from compressor.pipeline.run import run
from compressor.recipe.recipe import load_recipe
from compressor.starter.write import write_starter

TEXTS = (
    "bert", "roberta", "distilbert", "electra", "mpnet", "xlm-roberta", "albert", "deberta-v2",
    "modernbert", "camembert",
)  # fmt: skip
ENCODERS = ("bert", "roberta", "mpnet", "xlm-roberta", "distilbert")
IMAGES = ("vit", "deit", "beit", "dinov2", "resnet")
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = tuple(f"w{index}" for index in range(58))
OF_CLASS = 12  # words that tell each of the two classes; the others are neutral
NAMES = ("no", "yes")
SIDE = 16
LONGEST, SHORTEST = 36, 3  # words
STEPS, BATCH, GOOD_LOSS = 200, 32, 0.03
QUICK_RUN = ("benchmark.num_runs=1", "benchmark.warmup_runs=1")

Task = Literal["single", "pair", "image", "encoder"]
Kind = Literal["labelled", "unlabelled", "one-sided", "mislabelled"]
Verdict = Literal["ok", "said", "FAILED", "CRASH"]


@dataclass(frozen=True)
class Case:
    """One draw; 0 rows stand for a file that is not given."""

    number: int
    family: str
    task: Task
    kind: Kind
    words: int
    search: int
    train: int
    certification: int


@dataclass(frozen=True)
class Line:
    """What became of a case."""

    case: Case
    verdict: Verdict
    detail: str
    seconds: float

    @property
    def text(self) -> str:
        """Return the line of the table."""
        case = self.case
        rows = f"{case.search}/{case.train}/{case.certification}"
        about = (
            f"{case.number:4} {case.family:12} {case.task:8} {case.kind:12} {case.words:3} words"
        )
        return f"{about} {rows:15} {self.verdict:7} {self.seconds:5.1f} s  {self.detail}"


def draw(number: int, seed: int) -> Case:
    """Return the case of a number."""
    drawn = random.Random(f"{seed}/{number}")  # noqa: S311 -- cases, no secrets
    task: Task = drawn.choice(("single", "single", "pair", "image", "encoder"))
    families = {"image": IMAGES, "encoder": ENCODERS}.get(task, TEXTS)
    kinds: tuple[Kind, ...] = ("labelled", "labelled", "labelled", "unlabelled", "one-sided")
    kind: Kind = drawn.choice((*kinds, "mislabelled"))
    if task == "encoder":
        kind = drawn.choice(("labelled", "unlabelled"))

    def rows(least: int, most: int) -> int:
        return round(math.exp(drawn.uniform(math.log(least), math.log(most))))

    return Case(
        number=number,
        family=drawn.choice(families),
        task=task,
        kind=kind,
        words=drawn.choice((6, LONGEST)),
        search=rows(50, 5000),
        train=rows(50, 5000) if drawn.random() < 0.5 else 0,
        certification=rows(50, 5000) if drawn.random() < 0.5 else 0,
    )


def check(case: Case, folder: Path) -> Line:
    """Write the files of a case, let init write a recipe, and run it."""
    started = time.monotonic()
    verdict: Verdict = "ok"
    is_written = False
    try:
        make_checkpoint(case, folder / "model")
        rows = np.random.default_rng(case.number)
        files = {
            name: write_rows(case, folder, name, count, rows)
            for name in ("search", "train", "certification")
            if (count := getattr(case, name))
        }
        output = folder / "recipe.yaml"
        write_starter(
            str(folder / "model"),
            files["search"],
            output,
            train=files.get("train"),
            certification=files.get("certification"),
        )
        is_written = True
        recipe = load_recipe(output, QUICK_RUN)
        report = run(recipe, output=folder / "run", device="cpu")
        proof = report.certificate
        passes = ", ".join(
            f"{item.kind}{f' in {len(item.tries)} tries' if len(item.tries) > 1 else ''}"
            for item in report.passes
        )
        detail = f"{report.metric} within {recipe.budget.max_drop:g}: {passes}"
        detail += "" if proof is None else f"; {proof.verdict}"
    except CompressorError as error:
        verdict = "FAILED" if is_written or not isinstance(error, RecipeError) else "said"
        detail = f"exit {error.exit_code}: {' '.join(str(error).split())}"
    except Exception as error:  # noqa: BLE001 -- a crash is what this looks for
        last = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(last.filename).name}:{last.lineno} {last.name}"
        verdict, detail = "CRASH", f"{type(error).__name__} in {place}: {error}".split("\n")[0]
    return Line(case, verdict, detail, time.monotonic() - started)


def make_checkpoint(case: Case, folder: Path) -> None:
    """Write a tiny checkpoint that tells the two classes apart, with what reads its inputs."""
    torch.manual_seed(case.number)
    fields = {**TEXT_FAMILIES, **IMAGE_FAMILIES}[case.family]
    labels: dict[str, Any] = {
        "id2label": dict(enumerate(NAMES)),
        "label2id": {name: index for index, name in enumerate(NAMES)},
    }
    config = transformers.AutoConfig.for_model(case.family, **{**fields, **labels})
    if case.task == "image":
        auto: Any = transformers.AutoModelForImageClassification
        processor = transformers.ViTImageProcessorPil(
            size={"height": SIDE, "width": SIDE}, image_mean=[0.5] * 3, image_std=[0.5] * 3
        )
        processor.save_pretrained(folder)
        module = auto.from_config(config)
    else:
        auto = transformers.AutoModelForSequenceClassification
        tokenizer().save_pretrained(folder)
        module = auto.from_config(config)
    _train(case, module)
    if case.task == "encoder":
        module = module.base_model
        pooling = {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True}
        (folder / "1_Pooling").mkdir()
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
        kinds = {"": "Transformer", "1_Pooling": "Pooling"}
        (folder / "modules.json").write_text(
            json.dumps(
                [
                    {"idx": index, "path": path, "type": f"sentence_transformers.models.{kind}"}
                    for index, (path, kind) in enumerate(kinds.items())
                ]
            )
        )
    module.save_pretrained(folder)


def tokenizer() -> Any:
    """Return a tokenizer of made-up words, for single texts and pairs."""
    vocabulary = {word: index for index, word in enumerate((*SPECIAL, "the", *WORDS))}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token=SPECIAL[1]))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B [SEP]",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    special = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    settings: dict[str, Any] = {
        "tokenizer_object": made,
        "model_max_length": 60,
        "model_input_names": ["input_ids", "attention_mask"],
        **dict(zip(special, SPECIAL, strict=True)),
    }
    return transformers.PreTrainedTokenizerFast(**settings)


def _train(case: Case, module: Any) -> None:
    """Train until the classes are told apart."""
    draws = np.random.default_rng(case.number + 1)
    optimizer = torch.optim.AdamW(module.parameters(), lr=2e-3)
    reader = None if case.task == "image" else tokenizer()
    module.train()
    for _ in range(STEPS):
        labels = draws.integers(0, 2, BATCH)
        if reader is None:
            pixels = np.stack([image(int(label), draws) for label in labels]).transpose(0, 3, 1, 2)
            inputs = {"pixel_values": torch.from_numpy(pixels / 127.5 - 1).float()}
        else:
            texts = [text(case, int(label), draws) for label in labels]
            inputs = dict(reader(texts, padding=True, return_tensors="pt"))
        loss = module(**inputs, labels=torch.from_numpy(labels)).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        if float(loss.detach()) < GOOD_LOSS:
            break
    module.eval()


def text(case: Case, label: int, draws: np.random.Generator) -> str:
    """Return words of which more tell one class."""
    length = int(draws.integers(SHORTEST, case.words + 1))
    own = WORDS[label * OF_CLASS : (label + 1) * OF_CLASS]
    telling = max(1, length // 3)
    neutral = draws.choice(WORDS[2 * OF_CLASS :], length - telling)
    words = [*draws.choice(own, telling), *neutral]
    draws.shuffle(words)
    return " ".join(map(str, words))


def image(label: int, draws: np.random.Generator) -> Any:
    """Return a noisy image that is bright above or below."""
    pixels = draws.integers(0, 120, (SIDE, SIDE, 3)).astype(np.uint8)
    half = np.s_[: SIDE // 2] if label else np.s_[SIDE // 2 :]
    pixels[half] += 100
    return pixels


def write_rows(case: Case, folder: Path, name: str, count: int, draws: np.random.Generator) -> Path:
    """Write a file of rows as JSON lines."""
    path = folder / f"{name}.jsonl"
    share = 0.04 if case.kind == "one-sided" else 0.5
    with path.open("w", encoding="utf-8") as stream:
        for index in range(count):
            label = int(draws.random() < share) if index > 1 else index
            row = _row(case, folder / f"{name}-{index}.png", label, draws)
            told = label if draws.random() > 0.05 else 1 - label  # labels are never clean
            if case.kind == "mislabelled":
                told = int(draws.random() < 0.5)
            if case.kind != "unlabelled" and case.task != "encoder":
                row["label"] = NAMES[told]
            stream.write(json.dumps(row) + "\n")
    return path


def _row(case: Case, place: Path, label: int, draws: np.random.Generator) -> dict[str, Any]:
    if case.task == "image":
        Image.fromarray(image(label, draws)).save(place)
        return {"image": place.name}
    if case.task == "single" or (case.task == "encoder" and case.kind == "unlabelled"):
        return {"text": text(case, label, draws)}
    if case.task == "pair":
        words = text(case, label, draws).split()
        return {"text1": " ".join(words[::2]), "text2": " ".join(words[1::2]) or "the"}
    other = int(draws.integers(0, 2))
    grade = 4.0 * (other == label) + float(draws.random())
    return {
        "sentence1": text(case, label, draws),
        "sentence2": text(case, other, draws),
        "score": round(grade, 2),
    }


def lines(cases: Sequence[Case]) -> Iterator[Line]:
    """Yield one line for each case, as soon as it is known."""
    for case in cases:
        with tempfile.TemporaryDirectory() as folder:
            yield check(case, Path(folder))


def main() -> int:
    """Print the table and return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--cases", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, nargs="*", help="numbers of cases")
    parser.add_argument("--json", type=Path, help="write the lines to this file too")
    given = parser.parse_args()
    numbers = given.only or range(given.cases)
    found = []
    for line in lines([draw(number, given.seed) for number in numbers]):
        print(line.text, flush=True)
        found.append(line)
    counts = {verdict: sum(line.verdict == verdict for line in found)
              for verdict in ("ok", "said", "FAILED", "CRASH")}  # fmt: skip
    print(", ".join(f"{count} {verdict}" for verdict, count in counts.items()))
    if given.json is not None:
        given.json.write_text(json.dumps([asdict(line) for line in found], indent=2) + "\n")
    return int(counts["FAILED"] + counts["CRASH"] > 0)


if __name__ == "__main__":
    sys.exit(main())
