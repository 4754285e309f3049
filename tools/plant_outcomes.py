#!/usr/bin/env python3
"""Run recipes whose true drop is known, and count how often their certificate is wrong.

    tools/plant_outcomes.py [--recipes 30] [--seed 0]

A tiny random classifier is compressed once, and both ends answer a pool of generated texts. Labels
are then planted: where the answers differ, the label is the first one (a loss) or the second (a
win), so that the drop over the pool is a number that was chosen. Each recipe is a real
`compressor.run` on certification rows drawn from the pool with replacement, so that the drop over
the pool is exactly the true one of what they stand for. The search rows are some that both ends
answer alike: every gate passes, as it may after a search, and only certification can tell.

`just above` has a true drop a hair above the budget, the hardest case there is: a `certified` there
is wrong and may happen to 1 in 20. The other cases are clear, and each has the one verdict that
more than 99.9% of all draws give.

Fails when wrong certificates are significantly more frequent than 5% among the cases that should
fail, when a clear case has another verdict, or when an exit code does not fit its verdict.
"""

from __future__ import annotations

import argparse
import csv
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
import yaml
from numpy.typing import NDArray
from scipy import stats
from sklearn.metrics import f1_score
from tokenizers import Tokenizer, models, pre_tokenizers, processors

import compressor
from compressor.errors import BudgetExceeded
from compressor.measurements import Certificate

ALLOWED = 0.05
SIGNIFICANT = 0.01  # how rarely a certificate that keeps its promise may fail this script
HAIR = 1e-4  # how far the budget lies below the true drop where it is just missed

POOL = 6000
SEARCH_ROWS = 200
WORDS = tuple(f"w{index}" for index in range(200))
LABELS = ("no", "yes")
ALREADY_WRONG = 0.1  # share of the rows answered alike on which both ends are wrong
# Rows are answered in batches of several make-ups, which moves the last digits of a logit.
CLOSEST_LOGITS = 1e-2

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Case:
    """What a recipe is given: shares of the pool that get worse and better, a budget and rows."""

    name: str
    metric: str
    loss_rate: float
    win_rate: float
    rows: int
    max_drop: float | None = None  # None: a hair below the true drop
    expected: str | None = (
        None  # the verdict of nearly every draw; None where it is a matter of luck
    )


# The first five are one of each kind.
CASES = (
    Case("just above", "accuracy", 0.035, 0.015, 300),
    Case("just above", "agreement", 0.020, 0.010, 500),
    Case("far above", "accuracy", 0.050, 0.005, 1000, max_drop=0.01, expected="refuted"),
    Case("far below", "accuracy", 0.010, 0.010, 1500, max_drop=0.025, expected="certified"),
    Case("too few rows", "accuracy", 0.010, 0.010, 120, max_drop=0.012, expected="inconclusive"),
    Case("just above", "accuracy", 0.020, 0.010, 1000),
    Case("just above", "accuracy", 0.025, 0.005, 500),
    Case("just above", "agreement", 0.012, 0.008, 1000),
    Case("just above", "f1_macro", 0.040, 0.010, 300),
    Case("far above", "agreement", 0.040, 0.015, 800, max_drop=0.02, expected="refuted"),
)


@dataclass(frozen=True)
class Pool:
    """Generated texts with the answers of the untouched and of the compressed model."""

    texts: tuple[str, ...]
    before: Integers
    after: Integers

    @property
    def flipped(self) -> Integers:
        """Return where the two answers differ."""
        return np.flatnonzero(self.before != self.after)

    @property
    def alike(self) -> Integers:
        """Return where the two answers are the same."""
        return np.flatnonzero(self.before == self.after)


@dataclass(frozen=True)
class Planted:
    """The part of a pool that a case draws from, its labels, and what is true there."""

    rows: Integers
    labels: Integers
    drop: float


@dataclass(frozen=True)
class Outcome:
    """What one recipe gave."""

    case: Case
    true_drop: float
    certificate: Certificate
    exit_code: int

    @property
    def should_fail(self) -> bool:
        """Return whether the true drop is above the budget."""
        return self.true_drop > self.certificate.max_drop

    @property
    def wrong(self) -> bool:
        """Return whether a drop above the budget was certified."""
        return self.should_fail and self.certificate.verdict == "certified"

    @property
    def unexpected(self) -> bool:
        """Return whether a clear case has another verdict, or the exit code does not fit it."""
        allowed = {"certified": (0,), "refuted": (5,), "inconclusive": (5, 6)}
        verdict = self.certificate.verdict
        return verdict != (self.case.expected or verdict) or self.exit_code not in allowed[verdict]


def make_model(folder: Path, texts: list[str], seed: int) -> None:
    """Save a tiny random classifier that gives each of its two answers about equally often."""
    special = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    vocabulary = {word: index for index, word in enumerate((*special, *WORDS))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))  # noqa: S106 - a token of text
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = ("pad", "unk", "cls", "sep", "mask")
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=32,
        **{f"{name}_token": word for name, word in zip(names, special, strict=True)},
    ).save_pretrained(folder)
    torch.manual_seed(seed)
    config = transformers.BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=32,
        initializer_range=0.4,
        id2label=dict(enumerate(LABELS)),
        label2id={label: index for index, label in enumerate(LABELS)},
    )
    module = transformers.BertForSequenceClassification(config)
    module.save_pretrained(folder)
    logits = answers_of_checkpoint(folder, texts)
    with torch.no_grad():
        module.classifier.bias[1] -= float(np.median(logits[:, 1] - logits[:, 0]))
    module.save_pretrained(folder)


def answers_of_checkpoint(folder: Path, texts: list[str]) -> NDArray[np.float32]:
    """Return the logits of a checkpoint, shape `(len(texts), 2)`."""
    model = compressor.load_checkpoint(folder)
    parts = [texts[start : start + 100] for start in range(0, len(texts), 100)]
    return np.concatenate(
        [model.predict(model.task.encode(model.preprocessor, part)) for part in parts]
    )


def make_pool(place: Path, seed: int) -> Pool:
    """Make and compress the model in `place`, and let both ends answer."""
    draw = np.random.default_rng(seed)
    found = {" ".join(draw.choice(WORDS, size=draw.integers(4, 13))) for _ in range(POOL)}
    texts = sorted(found)
    make_model(place / "model", texts, seed)
    before = answers_of_checkpoint(place / "model", texts)
    clear = np.abs(before[:, 1] - before[:, 0]) > CLOSEST_LOGITS
    write_rows(place / "search.csv", texts[:SEARCH_ROWS], before.argmax(1)[:SEARCH_ROWS])
    run(place, Case("first", "accuracy", 0, 0, 0, max_drop=0.9))
    predict = compressor.load_artifact(place / "run" / "artifact")
    answers = predict(texts)
    after = np.array([answer["label_id"] for answer in answers])
    # The winner of two has a probability of 1 / (1 + exp(-difference of the logits)).
    clear &= np.array([answer["score"] for answer in answers]) > 0.5 + CLOSEST_LOGITS / 4
    kept = np.flatnonzero(clear)
    return Pool(tuple(texts[row] for row in kept), before.argmax(1)[kept], after[kept])


def plant(pool: Pool, case: Case) -> Planted:
    """Choose rows and labels so that the pool loses and wins exactly what the case says."""
    flipped, alike = pool.flipped, pool.alike
    discordance = case.loss_rate + case.win_rate
    total = round(min(len(flipped) / discordance, len(alike) / (1 - discordance)))
    losses, wins = round(case.loss_rate * total), round(case.win_rate * total)
    lost, won = flipped[:losses], flipped[losses : losses + wins]
    same = alike[: total - losses - wins]
    label_of_same = pool.before[same].copy()
    already_wrong = round(ALREADY_WRONG * len(same))
    label_of_same[:already_wrong] = 1 - label_of_same[:already_wrong]
    rows = np.concatenate([lost, won, same])
    labels = np.concatenate([pool.before[lost], pool.after[won], label_of_same])
    drop = (len(lost) - len(won)) / total
    if case.metric == "agreement":
        drop = (len(lost) + len(won)) / total
    elif case.metric == "f1_macro":
        before, after = (
            f1_score(labels, answers[rows], average="macro")
            for answers in (pool.before, pool.after)
        )
        drop = float(before - after)
    return Planted(rows, labels, drop)


def carry_out(place: Path, pool: Pool, case: Case, draw: np.random.Generator) -> Outcome:
    """Draw the certification rows of a case and run its recipe."""
    planted = plant(pool, case)
    budget = planted.drop - HAIR if case.max_drop is None else case.max_drop
    chosen = draw.integers(len(planted.rows), size=case.rows)
    texts = [pool.texts[row] for row in planted.rows[chosen]]
    write_rows(place / "certification.csv", texts, planted.labels[chosen])
    report, exit_code = run(place, case, max_drop=budget)
    assert report.certificate is not None, report.reason
    return Outcome(case, planted.drop, report.certificate, exit_code)


def run(
    place: Path, case: Case, *, max_drop: float | None = None
) -> tuple[compressor.RunReport, int]:
    """Run the recipe of a case in `place`; everything but its certification rows is stored."""
    data: dict[str, Any] = {"text": "text", "label": "label", "search": {"path": "search.csv"}}
    if case.rows:
        data["certification"] = {"path": "certification.csv"}
    recipe = {
        "model": {"checkpoint": "./model"},
        "data": data,
        "budget": {"metric": case.metric, "max_drop": max_drop or case.max_drop},
        "passes": [
            {"kind": "prune_magnitude", "sparsity": 0.1},
            {"kind": "quantize_dynamic", "min_elements": 64},
        ],
        "benchmark": {"providers": []},
    }
    path = place / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    try:
        loaded = compressor.load_recipe(path)
        return compressor.run(loaded, output=place / "run", device="cpu"), 0
    except BudgetExceeded as error:  # the error of exit code 6 is one of these
        report, exit_code = error.report, error.exit_code
    assert isinstance(report, compressor.RunReport)
    return report, exit_code


def write_rows(path: Path, texts: list[str], labels: Integers) -> None:
    """Write texts and the names of their labels."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["text", "label"])
        writer.writerows(zip(texts, (LABELS[label] for label in labels), strict=True))


def outcomes(place: Path, number: int, seed: int) -> Iterator[Outcome]:
    """Yield what `number` recipes gave: the cases in turn, those of one metric together."""
    pool = make_pool(place, seed)
    # The search rows are chosen now, among those that both ends answer alike.
    chosen = pool.alike[-SEARCH_ROWS:]
    write_rows(place / "search.csv", [pool.texts[row] for row in chosen], pool.before[chosen])
    texts = tuple(np.delete(np.array(pool.texts), chosen).tolist())
    rest = Pool(texts, np.delete(pool.before, chosen), np.delete(pool.after, chosen))
    draw = np.random.default_rng(seed)
    cases = [CASES[index % len(CASES)] for index in range(number)]
    for case in sorted(cases, key=lambda case: case.metric):
        yield carry_out(place, rest, case, draw)


def summary(found: list[Outcome]) -> tuple[str, bool]:
    """Return the last lines of the table, and whether the certificate kept its promise."""
    failing = [item for item in found if item.should_fail]
    wrong = sum(item.wrong for item in failing)
    unexpected = sum(item.unexpected for item in found)
    chance = stats.binomtest(wrong, len(failing), ALLOWED, alternative="greater").pvalue
    text = (
        f"{len(found)} recipes: {len(failing)} should fail, {wrong} of them were certified "
        f"({wrong / len(failing):.1%}, at most {ALLOWED:.0%} are allowed; chance of as many at "
        f"{ALLOWED:.0%}: {chance:.2g})\n"
        f"{unexpected} verdicts or exit codes were not the expected ones"
    )
    return text, bool(chance >= SIGNIFICANT) and unexpected == 0


def main() -> int:
    """Print one line for each recipe, and return 0 when the certificate keeps its promise."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--recipes", type=int, default=30, help="how many to run")
    parser.add_argument("--seed", type=int, default=0, help="of model, texts and draws")
    arguments = parser.parse_args()
    if arguments.recipes < 1:
        parser.error(f"--recipes: must be at least 1, got {arguments.recipes}")
    transformers.utils.logging.disable_progress_bar()
    print(
        "case          metric       rows  true drop  budget  observed   bound  verdict       exit"
    )
    found = []
    with tempfile.TemporaryDirectory() as place:
        for item in outcomes(Path(place), arguments.recipes, arguments.seed):
            found.append(item)
            proof = item.certificate
            mark = "  <- wrong" * item.wrong + "  <- not expected" * item.unexpected
            print(
                f"{item.case.name:<13} {proof.metric:<10} {proof.num_examples:6d}"
                f" {item.true_drop:10.2%} {proof.max_drop:7.2%} {proof.drop:9.2%}"
                f" {proof.upper_bound:7.2%}  {proof.verdict:<13} {item.exit_code}{mark}",
                flush=True,
            )
    text, kept = summary(found)
    print(text)
    return int(not kept)


if __name__ == "__main__":
    sys.exit(main())
