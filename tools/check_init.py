"""Run what `compress init` writes: tiny trained models, rows made for them, to the end.

Each case draws a task, a family of architectures, numbers of rows for every file, short or long
texts, how the rows are (labelled, unlabelled, mostly of one class, with wrong labels) and the
format of their files. `init` writes a recipe, and the recipe is run. One line each:

    ok       exit 0; with --every, `compress validate` finds nothing wrong
    said     init said what is not possible, and wrote nothing
    FAILED   init wrote a recipe that does not run to exit 0
    unmade   with --every, transformers could not train so small a model
    CRASH    anything else: a bug of ours

With --every all model types that transformers has for a task take the place of the draw, each as
small as its configuration allows (`tiny_configs.py`) and trained for a moment, and nothing is run
but `init` and `validate`; with --run those that pass are run too.

Usage: tools/check_init.py [--cases N] [--seed S] [--only CASE ...] [--json FILE]
       tools/check_init.py --every [--tasks TASK ...] [--types TYPE ...] [--run] [--json FILE]
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
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from init_subjects import SUBJECTS, Kind, Subject, Wanted
from tiny_configs import NOT_TINY

from compressor.errors import CompressorError
from compressor.pipeline.preflight import check_machine
from compressor.pipeline.run import run
from compressor.recipe.recipe import load_recipe
from compressor.starter.write import write_starter

LONGEST, SHORT = 36, 6  # words
STEPS, BATCH, GOOD_LOSS = 200, 32, 0.03
FEW_STEPS = 30
QUICK_RUN = ("benchmark.num_runs=1", "benchmark.warmup_runs=1")
ANY_LOSS = ("budget.max_drop=0.9",)  # of a model that learnt little

Format = Literal["jsonl", "parquet"]
Verdict = Literal["ok", "said", "unmade", "FAILED", "CRASH"]
Ends = Literal["run", "validate"]


@dataclass(frozen=True)
class Case:
    """One draw; 0 rows stand for a file that is not given."""

    number: int
    family: str
    task: str
    kind: Kind
    words: int
    search: int
    train: int
    certification: int
    format: Format = "jsonl"

    @property
    def subject(self) -> Subject:
        """Return the task with what it learns from."""
        return SUBJECTS[self.task](Wanted(self.family, self.kind, self.words))


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
            f"{case.number:4} {case.family:12} {case.task:9} {case.kind:12} {case.words:3} words "
            f"{case.format:7}"
        )
        return f"{about} {rows:15} {self.verdict:7} {self.seconds:5.1f} s  {self.detail}"


def draw(number: int, seed: int, tasks: Sequence[str] = tuple(SUBJECTS)) -> Case:
    """Return the case of a number."""
    drawn = random.Random(f"{seed}/{number}")  # noqa: S311 -- cases, no secrets
    task = drawn.choice(tasks)
    subject = SUBJECTS[task]

    def rows(least: int, most: int) -> int:
        return round(math.exp(drawn.uniform(math.log(least), math.log(most))))

    return Case(
        number=number,
        family=drawn.choice(subject.families),
        task=task,
        kind=drawn.choice(subject.kinds),
        words=drawn.choice((SHORT, LONGEST)),
        search=rows(50, 5000),
        train=rows(50, 5000) if drawn.random() < 0.5 else 0,
        certification=rows(50, 5000) if drawn.random() < 0.5 else 0,
        format=drawn.choice(("jsonl", "jsonl", "parquet")),
    )


def every(tasks: Sequence[str], types: Sequence[str] | None) -> Iterator[Case]:
    """Yield a case for each model type of each task of which there is a small model."""
    for task in tasks:
        mapping: Any = SUBJECTS[task].auto._model_mapping
        known = sorted({config.model_type for config in mapping} - NOT_TINY)
        known = [family for family in known if types is None or family in types]
        for number, family in enumerate(known):
            kind = SUBJECTS[task].kinds[0]
            yield Case(number, family, task, kind, SHORT, search=60, train=0, certification=0)


def check(case: Case, folder: Path, *, steps: int = STEPS, ends: Ends = "run") -> Line:
    """Write the files of a case, let init write a recipe, and run it or validate it alone."""
    started = time.monotonic()
    verdict: Verdict = "ok"
    is_made = is_written = False
    try:
        make_checkpoint(case, folder / "model", steps=steps)
        is_made = True
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
        recipe = load_recipe(output, QUICK_RUN + (ANY_LOSS if steps < STEPS else ()))
        check_machine(recipe)
        if ends == "validate":
            kinds = ", ".join(step.kind for step in recipe.passes)
            detail = f"{recipe.budget.metric} within {recipe.budget.max_drop:g}: {kinds}"
            return Line(case, verdict, detail, time.monotonic() - started)
        report = run(recipe, output=folder / "run", device="cpu")
        proof = report.certificate
        passes = ", ".join(
            f"{item.kind}{f' in {len(item.tries)} tries' if len(item.tries) > 1 else ''}"
            for item in report.passes
        )
        detail = f"{report.metric} within {recipe.budget.max_drop:g}: {passes}"
        detail += "" if proof is None else f"; {proof.verdict}"
    except CompressorError as error:
        verdict = "FAILED" if is_written else "said"
        detail = f"exit {error.exit_code}: {' '.join(str(error).split())}".replace(str(folder), "")
    except Exception as error:  # noqa: BLE001 -- a crash is what this looks for
        last = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(last.filename).name}:{last.lineno} {last.name}"
        verdict = "CRASH" if is_made or steps == STEPS else "unmade"
        detail = f"{type(error).__name__} in {place}: {error}".split("\n")[0]
    return Line(case, verdict, detail, time.monotonic() - started)


def make_checkpoint(case: Case, folder: Path, *, steps: int = STEPS) -> None:
    """Write a tiny checkpoint that has learnt its task, with what reads its inputs."""
    torch.manual_seed(case.number)
    subject = case.subject
    module = subject.module()
    draws = np.random.default_rng(case.number + 1)
    optimizer = torch.optim.AdamW(module.parameters(), lr=2e-3)
    module.train()
    for _ in range(steps):
        loss = subject.loss(module, BATCH, draws)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        if float(loss.detach()) < GOOD_LOSS:
            break
    module.eval()
    if steps < STEPS:
        balance(module, subject, draws)
    subject.save(module, folder)


def balance(module: torch.nn.Module, subject: Subject, draws: np.random.Generator) -> None:
    """Take what all rows share out of a head's weights, so that it predicts every class."""
    width = len(subject.names)
    heads = [
        part
        for part in module.modules()
        if isinstance(part, torch.nn.Linear) and part.out_features == width
    ]
    if not heads:
        return
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def keep(_: torch.nn.Module, given: tuple[torch.Tensor, ...], found: torch.Tensor) -> None:
        found.retain_grad()
        seen.append((given[0].detach(), found))

    hook = heads[-1].register_forward_hook(keep)
    torch.autograd.backward(subject.loss(module, BATCH, draws))
    hook.remove()
    # Of a decoder's head only the output at the last token of a text is read.
    read = [given[(found.grad != 0).any(dim=-1)] for given, found in seen if found.grad is not None]
    module.zero_grad()
    with torch.no_grad():
        shared = torch.cat(read).mean(dim=0)
        weight = heads[-1].weight
        weight -= torch.outer(weight @ shared, shared) / shared.square().sum()
        if heads[-1].bias is not None:
            heads[-1].bias.zero_()


def write_rows(case: Case, folder: Path, name: str, count: int, draws: np.random.Generator) -> Path:
    """Write a file of rows."""
    path = folder / f"{name}.{case.format}"
    rows = [case.subject.row(index, folder / f"{name}-{index}", draws) for index in range(count)]
    if case.format == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def lines(cases: Iterable[Case], *, steps: int = STEPS, ends: Ends = "run") -> Iterator[Line]:
    """Yield one line for each case, as soon as it is known."""
    for case in cases:
        with tempfile.TemporaryDirectory() as folder:
            yield check(case, Path(folder), steps=steps, ends=ends)


def main() -> int:
    """Print the table and return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--cases", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--tasks", nargs="+", choices=SUBJECTS, default=list(SUBJECTS), help="draw from these"
    )
    parser.add_argument("--only", type=int, nargs="*", help="numbers of cases")
    parser.add_argument("--json", type=Path, help="write the lines to this file too")
    parser.add_argument("--every", action="store_true", help="all model types, init and validate")
    parser.add_argument("--types", nargs="+", metavar="TYPE", help="these model types alone")
    parser.add_argument("--run", action="store_true", help="with --every, run the recipes too")
    given = parser.parse_args()
    if given.every:
        ends: Ends = "run" if given.run else "validate"
        work = lines(every(given.tasks, given.types), steps=FEW_STEPS, ends=ends)
    else:
        numbers = given.only or range(given.cases)
        work = lines([draw(number, given.seed, given.tasks) for number in numbers])
    found = []
    for line in work:
        print(line.text, flush=True)
        found.append(line)
    counts = {verdict: sum(line.verdict == verdict for line in found)
              for verdict in ("ok", "said", "unmade", "FAILED", "CRASH")}  # fmt: skip
    print(", ".join(f"{count} {verdict}" for verdict, count in counts.items()))
    if given.json is not None:
        given.json.write_text(json.dumps([asdict(line) for line in found], indent=2) + "\n")
    return int(counts["FAILED"] + counts["CRASH"] > 0)


if __name__ == "__main__":
    sys.exit(main())
