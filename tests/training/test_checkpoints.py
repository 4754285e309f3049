import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from compressor.training.checkpoints import Pace, State, StateFile, digest_of_tensors

STATE = State(
    {
        "weight": torch.arange(6.0).reshape(2, 3),
        "step": torch.tensor(3.0),
        "mask": torch.eye(2) > 0,
    },
    {"losses": [0.1, 1e-17], "name": "a"},
)


@pytest.fixture
def file(tmp_path: Path) -> StateFile:
    return StateFile(tmp_path / "folder" / "training.safetensors", "this run")


def same(found: State | None, expected: State) -> bool:
    return (
        found is not None
        and found.facts == expected.facts
        and found.tensors.keys() == expected.tensors.keys()
        and all(
            torch.equal(value, expected.tensors[name])
            and value.dtype == expected.tensors[name].dtype
            for name, value in found.tensors.items()
        )
    )


def test_what_was_written_is_read(file: StateFile):
    file.write(STATE)

    assert same(file.read(), STATE)
    assert [path.name for path in file.path.parent.iterdir()] == ["training.safetensors"]


def test_the_later_state_takes_the_place_of_the_earlier(file: StateFile):
    later = State({"weight": torch.ones(2)}, {"losses": []})

    file.write(STATE)
    file.write(later)

    assert same(file.read(), later)


def test_where_nothing_was_written_nothing_is_read(file: StateFile):
    assert file.read() is None
    file.remove()
    assert not file.path.exists()


def test_a_state_of_another_run_is_not_read(file: StateFile):
    StateFile(file.path, "another run").write(STATE)

    assert file.read() is None


def test_a_file_that_a_kill_left_unfinished_is_not_read_and_does_not_hinder(file: StateFile):
    file.write(STATE)
    unfinished = file.path.with_name(".training.safetensors.partial")
    unfinished.write_bytes(file.path.read_bytes()[:100])

    assert same(file.read(), STATE)
    file.write(STATE)
    assert not unfinished.exists()


@pytest.mark.parametrize("size", [0, 4, 100, -1])
def test_a_truncated_file_is_not_read(file: StateFile, size: int):
    file.write(STATE)
    file.path.write_bytes(file.path.read_bytes()[:size])

    assert file.read() is None


@pytest.mark.parametrize("position", range(-40, 0, 8))
def test_one_flipped_bit_is_noticed(file: StateFile, position: int):
    file.write(STATE)
    content = bytearray(file.path.read_bytes())
    content[position] ^= 1
    file.path.write_bytes(content)

    assert file.read() is None


def test_changed_facts_are_noticed(file: StateFile):
    file.write(STATE)
    with safe_open(file.path, framework="pt") as opened:
        metadata = opened.metadata()
    metadata["facts"] = json.dumps({"losses": [0.2, 1e-17], "name": "a"})
    save_file(STATE.tensors, file.path, metadata=metadata)

    assert file.read() is None


def test_a_plain_checkpoint_is_not_taken_for_a_state(file: StateFile):
    file.path.parent.mkdir()
    save_file(STATE.tensors, file.path)

    assert file.read() is None


@pytest.mark.parametrize(
    "other",
    [
        {"weight": torch.tensor([1.0, 2.0])},
        {"weight": torch.tensor([[1.0], [3.0]])},
        {"weights": torch.tensor([[1.0], [2.0]])},
        {"weight": torch.tensor([[1.0], [2.0]], dtype=torch.float64)},
        {},
    ],
)
def test_a_digest_tells_names_types_shapes_and_contents_apart(other: dict[str, torch.Tensor]):
    tensors = {"weight": torch.tensor([[1.0], [2.0]])}

    assert digest_of_tensors(tensors) == digest_of_tensors({"weight": tensors["weight"].clone()})
    assert digest_of_tensors(tensors) != digest_of_tensors(other)


def test_a_checkpoint_is_due_after_its_seconds_and_not_before():
    now = [100.0]
    pace = Pace(10.0, clock=lambda: now[0])

    assert not pace.due()
    now[0] = 109.0
    assert not pace.due()
    now[0] = 110.0
    assert pace.due()


def test_a_slow_checkpoint_makes_the_next_wait_for_fifty_times_as_long():
    now = [0.0]
    pace = Pace(10.0, clock=lambda: now[0])

    def write() -> None:
        now[0] += 2.0

    pace.keep(write)
    now[0] = 101.0
    assert not pace.due()
    now[0] = 102.0
    assert pace.due()


def test_with_zero_seconds_a_checkpoint_is_always_due():
    pace = Pace(0.0)
    pace.keep(lambda: None)

    assert pace.due()
