"""Trials are picked alike by one worker or several, and none is lost with its worker."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from compressor.errors import RecipeError
from compressor.machine.locks import Lock
from compressor.sweep.outcome import Figures, Outcome
from compressor.sweep.settings import Sweep
from compressor.sweep.space import Choices, Range
from compressor.sweep.study import Study, Taken, planned_points

FACTS = {"seed": 0, "recipe": {"passes": []}}
SPACE = {
    "passes.0.ratio": Range(low=0.1, high=0.8, step=0.1),
    "passes.0.method": Choices(choices=("a", "b")),
    "passes.0.rate": Range(low=1e-5, high=1e-2, log=True),
}
# Takes a trial, says its number, and waits to be killed.
TAKE = (
    "import sys, time\n"
    "from pathlib import Path\n"
    "sys.path.insert(0, sys.argv[2])\n"
    "from test_study import FACTS, sweep\n"
    "from compressor.sweep.study import Study\n"
    "taken = Study(Path(sys.argv[1]), sweep('grid'), FACTS).take()\n"
    "print(taken.number, flush=True)\n"
    "time.sleep(600)\n"
)


def sweep(sampler: str, trials: int | None = None, seed: int = 0) -> Sweep:
    space = {"passes.0.ratio": SPACE["passes.0.ratio"]} if sampler == "grid" else SPACE
    return Sweep.model_validate(
        {
            "recipe": Path("recipe.yaml"),
            "space": space,
            "objectives": {"score": "maximize", "bytes": "minimize"},
            "constraints": {"drop": 0.1},
            "sampler": sampler,
            "trials": trials,
            "seed": seed,
        }
    )


def outcome_of(taken: Taken) -> Outcome:
    ratio = float(taken.point["passes.0.ratio"])
    if ratio > 0.7:
        return Outcome("over_budget", "fell too far", over=ratio - 0.7)
    score = 0.9 - ratio**2 / 4
    figures = Figures("accuracy", score, 0.9 - score, round(1e7 * (1 - ratio)), None, None)
    return Outcome("done", figures=figures)


def finish_all(study: Study) -> list[tuple[str, ...]]:
    found = []
    while (taken := study.take()) is not None:
        found.append(taken.settings)
        study.finish(taken, outcome_of(taken))
    return found


@pytest.mark.parametrize("sampler", ["random", "tpe", "nsga2"])
def test_the_same_seed_gives_the_same_trials_after_a_kill_too(tmp_path: Path, sampler: str):
    asked = sweep(sampler, 14)
    undisturbed = finish_all(Study(tmp_path / "one", asked, FACTS))
    found = []
    study = Study(tmp_path / "two", asked, FACTS)
    while (taken := study.take()) is not None:
        if len(found) in (3, 12) and not taken.is_again:
            taken.lock.release()  # as the system does when the worker dies
            study = Study(tmp_path / "two", asked, FACTS)
            continue
        found.append(taken.settings)
        study.finish(taken, outcome_of(taken))
    assert found == undisturbed
    assert len(found) == 14
    assert finish_all(Study(tmp_path / "three", sweep(sampler, 14, seed=1), FACTS)) != found


def test_two_workers_share_a_grid_and_number_it_as_one_does(tmp_path: Path):
    asked = sweep("grid")
    one, two = (Study(tmp_path, asked, FACTS) for _ in range(2))
    while (first := one.take()) is not None:
        if (second := two.take()) is not None:
            two.finish(second, outcome_of(second))
        one.finish(first, outcome_of(first))
    settings = [item.settings for item in one.judged()]
    assert settings == [(f"passes.0.ratio={ratio}",) for ratio in SPACE["passes.0.ratio"].values]
    assert [item.number for item in two.judged()] == list(range(1, 9))
    assert one.is_done
    assert two.is_done


def test_more_trials_of_random_begin_with_those_of_fewer():
    few, many = planned_points(sweep("random", 3)), planned_points(sweep("random", 5))
    assert few is not None
    assert many is not None
    assert many[:3] == few
    assert planned_points(sweep("tpe", 3)) is None


def test_a_trial_whose_worker_was_killed_is_taken_over(tmp_path: Path):
    own = str(Path(__file__).parent)
    with subprocess.Popen(
        [sys.executable, "-c", TAKE, tmp_path, own], stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "1\n"
        study = Study(tmp_path, sweep("grid"), FACTS)
        second = study.take()
        assert second is not None
        assert (second.number, second.is_again) == (2, False)
        other.kill()
    first = study.take()
    assert first is not None
    assert (first.number, first.is_again) == (1, True)
    assert first.settings == ("passes.0.ratio=0.1",)


def test_a_trial_is_not_given_up_for_a_lock_that_was_held_for_a_moment(tmp_path: Path):
    one, two = (Study(tmp_path, sweep("grid"), FACTS) for _ in range(2))
    left = one.take()
    assert left is not None
    finish_all(two)
    one.give_back(left)
    probe = Lock(tmp_path / "locks" / f"trial-{left.number:04}")
    assert probe.acquire(wait=False)  # as a third worker does that waits for trials
    assert two.take() is None
    probe.release()
    assert two.wait()
    again = two.take()
    assert again is not None
    assert again.number == left.number


def test_half_a_line_of_a_killed_worker_is_taken_off_the_journal(tmp_path: Path):
    asked = sweep("grid")
    study = Study(tmp_path, asked, FACTS)
    with (tmp_path / "journal.log").open("a") as stream:
        stream.write('{"op_code": 8, "worker')
    taken = study.take()
    assert taken is not None
    study.finish(taken, outcome_of(taken))
    assert [json.loads(line) for line in (tmp_path / "journal.log").read_text().splitlines()]
    assert len(Study(tmp_path, asked, FACTS).judged()) == 1


def test_a_trial_that_a_machine_cannot_do_is_left_to_workers_that_start_later(tmp_path: Path):
    asked = sweep("grid")
    one, two = (Study(tmp_path, asked, FACTS) for _ in range(2))
    taken = one.take()
    assert taken is not None
    one.give_back(taken, mismatch="no memory")
    assert "passes.0.ratio=0.1" not in [setting for (setting,) in finish_all(two)]
    assert two.left() == ["trial 1: no memory"]
    assert not two.is_done
    assert not two.wait()
    assert finish_all(Study(tmp_path, asked, FACTS)) == [("passes.0.ratio=0.1",)]


def test_a_trial_that_kills_its_workers_is_given_up(tmp_path: Path):
    asked = sweep("grid")
    for _ in range(5):
        taken = Study(tmp_path, asked, FACTS).take()
        assert taken is not None
        assert taken.number == 1
        taken.lock.release()
    study = Study(tmp_path, asked, FACTS)
    taken = study.take()
    assert taken is not None
    assert taken.number == 2
    [first] = study.judged()
    assert first.outcome == Outcome("failed", "5 workers died while they ran it")


def test_a_trial_that_was_stopped_often_is_not_given_up(tmp_path: Path):
    asked = sweep("grid")
    for _ in range(7):
        study = Study(tmp_path, asked, FACTS)
        taken = study.take()
        assert taken is not None
        assert taken.number == 1
        study.give_back(taken)


def test_the_trials_of_another_sweep_are_refused(tmp_path: Path):
    Study(tmp_path, sweep("grid"), FACTS)
    with pytest.raises(RecipeError, match="holds the trials of another sweep, whose seed differs"):
        Study(tmp_path, sweep("grid"), {**FACTS, "seed": 1})


def test_more_trials_may_follow(tmp_path: Path):
    assert len(finish_all(Study(tmp_path, sweep("random", 2), FACTS))) == 2
    study = Study(tmp_path, sweep("random", 4), FACTS)
    assert not study.is_done
    assert len(finish_all(study)) == 2
    assert study.is_done
