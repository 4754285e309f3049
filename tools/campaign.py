#!/usr/bin/env python3
"""Mutate everything that `compress` reads, with a seed, and look at how each command ends.

    tools/campaign.py [--seed 0] [--cases 1000] [--kinds recipe,data] [--runs 0.05] [--json FILE]
    tools/campaign.py --seed 0 --only recipe:17

Recipes, checkpoints, image processors, data files, artifacts, ONNX files, reports, finished steps,
arguments and the environment of launchers are changed, each case in a folder of its own, and given
to the commands that read them. A case depends on nothing but seed, kind and number.

A trial fails when it ends with a traceback (exit code 1), is killed by a signal, takes longer than
its limit, writes more than a reader can read, says what is wrong without its place (file, key or
option), or passes though it must not: a mutation whose outcome is known, such as a renamed tensor,
or outputs that differ from those of transformers alone. Prints counts by kind, command and exit
code, and the failures grouped by their cause, each with the command that repeats it; after Ctrl-C
those of the cases so far.

Each trial runs in a process forked from this one, which has everything loaded, with limits of time
and memory. Exits with 1 when a trial failed.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from campaign_trials import Case, Failure, Tally, attempt, run_case

# Before anything is imported that reads them.
ENVIRONMENT = {
    "COLUMNS": "500",  # messages in one line each
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}


def report(tally: Tally, seed: int, replay: str) -> str:
    """Return the table of endings, and the failures by group with one command for each."""
    codes = sorted({code for _, _, code in tally.endings}, key=lambda code: (len(code), code))
    lines = [f"{'kind':<12} {'command':<24}" + "".join(f"{code:>8}" for code in codes)]
    for kind, command in sorted({(kind, command) for kind, command, _ in tally.endings}):
        counts = [tally.endings[kind, command, code] for code in codes]
        row = "".join(f"{count or '':>8}" for count in counts)
        lines.append(f"{kind:<12} {command:<24}{row}")
    totals = "".join(
        f"{sum(n for (_, _, c), n in tally.endings.items() if c == code):>8}" for code in codes
    )
    lines.append(f"{'all':<12} {'':<24}{totals}")
    groups: dict[str, list[Failure]] = {}
    for failure in tally.failures:
        groups.setdefault(failure.group, []).append(failure)
    for group, failures in sorted(groups.items(), key=lambda item: (-len(item[1]), item[0])):
        first = failures[0]
        lines += [
            "",
            f"{len(failures):>4} x {group}",
            f"       {first.command}, {first.change[:200]}",
            f"       {_last(first.detail)}",
            f"       {replay} --seed {seed} --only {first.kind}:{first.number}",
        ]
    lines += [
        "",
        f"{tally.cases} cases, {sum(tally.endings.values())} trials, {len(tally.failures)} "
        f"failures in {len(groups)} groups; the slowest took {tally.slowest[0]:.1f} CPU s "
        f"({tally.slowest[1]})",
    ]
    return "\n".join(lines)


def _last(detail: str) -> str:
    lines = [line.strip() for line in detail.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "(nothing was said)"


def numbers(kinds: Iterable[str], cases: int, shares: Mapping[str, float]) -> list[tuple[str, int]]:
    """Return kind and number of every case, `cases` in all, divided as `shares` say."""
    chosen = {kind: shares[kind] for kind in kinds}
    whole = sum(chosen.values())
    return [
        (kind, number)
        for kind, share in chosen.items()
        for number in range(max(1, round(cases * share / whole)))
    ]


def main() -> int:
    """Return 0 when every trial ended as it may, 1 otherwise."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0],
        epilog="Exits with 1 when a trial failed.",
    )
    parser.add_argument("--seed", type=int, default=0, help="of every mutation")
    parser.add_argument("--cases", type=int, default=1_000, help="how many in all")
    parser.add_argument("--kinds", help="these alone, with commas between")
    parser.add_argument("--only", metavar="KIND:NUMBER", help="one case again, all that it says")
    parser.add_argument(
        "--runs", type=float, default=0.05, help="share of cases that are also run to the end"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the failures there")
    parser.add_argument(
        "--keep", type=Path, metavar="FOLDER", help="keep what failed there, one folder a case"
    )
    arguments = parser.parse_args()
    os.environ.update(ENVIRONMENT)
    import campaign_cases  # everything heavy, after its environment is set

    kinds = arguments.kinds.split(",") if arguments.kinds else list(campaign_cases.KINDS)
    unknown = sorted(set(kinds) - set(campaign_cases.KINDS))
    if unknown:
        parser.error(f"--kinds: {', '.join(unknown)}; there are {', '.join(campaign_cases.KINDS)}")
    planned = numbers(kinds, arguments.cases, campaign_cases.SHARES)
    if arguments.only is not None:
        kind, _, number = arguments.only.partition(":")
        if kind not in campaign_cases.KINDS or not number.isdecimal():
            parser.error(f"--only: expected KIND:NUMBER such as recipe:17, got {arguments.only}")
        planned = [(kind, int(number))]
    tally = Tally()
    with tempfile.TemporaryDirectory() as scratch, contextlib.suppress(KeyboardInterrupt):
        kept = frozenset(kind for kind, _ in planned)
        maker = campaign_cases.prepare(Path(scratch), arguments.seed, arguments.runs, kinds=kept)
        for kind, number in planned:
            if tally.cases % 100 == 0 and tally.cases:
                print(
                    f"{tally.cases} of {len(planned)} cases, {len(tally.failures)} failures",
                    file=sys.stderr,
                )
            folder = Path(scratch) / "case"
            folder.mkdir()
            case = maker.case(kind, number, folder)
            before = len(tally.failures)
            run_case(case, folder, tally, keep=arguments.keep)
            if arguments.only is not None:
                print(f"{kind}:{number}: {case.change}")
                _show(case, folder, tally.failures[before:])
            remove(folder)
    replay = f"{Path(sys.argv[0])} --runs {arguments.runs:g}"
    print(report(tally, arguments.seed, replay))
    if arguments.json is not None:
        found = {
            "seed": arguments.seed,
            "cases": tally.cases,
            "endings": [[*key, count] for key, count in sorted(tally.endings.items())],
            "failures": [dataclasses.asdict(item) for item in tally.failures],
        }
        arguments.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return int(bool(tally.failures) or tally.cases < len(planned))


def remove(folder: Path) -> None:
    """Delete the folder of a case, whatever its permissions became."""
    shutil.rmtree(folder, ignore_errors=True)
    if folder.exists():
        for path in [folder, *folder.rglob("*")]:
            if path.is_dir() and not path.is_symlink():
                path.chmod(0o700)
        shutil.rmtree(folder)


def _show(case: Case, folder: Path, failures: Sequence[Failure]) -> None:
    for trial in case.trials:
        ending = attempt(trial.work, folder, trial.limit_s, trial.environment)
        print(
            f"--- {trial.command}: {ending.code}, {ending.cpu_s:.2f} CPU s\n"
            f"{ending.out}{ending.said}"
        )
    for failure in failures:
        print(f"FAILED {failure.command}: {failure.group}\n{failure.detail}")


if __name__ == "__main__":
    sys.exit(main())
