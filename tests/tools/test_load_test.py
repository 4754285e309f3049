"""The requests that no client should send: what they are made of, and what a service answers."""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from compressor.tasks.sound import read_wav


@pytest.fixture(scope="module")
def script(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("load_test")


def test_right_files_are_read_as_pictures_and_sounds(script: ModuleType):
    with Image.open(io.BytesIO(script.picture(8, 8))) as picture:
        assert np.asarray(picture)[0].tolist() == list(range(8))
    assert len(read_wav(script.sound(4000, told=4000), "here")) == 4000


def test_answers_count_once_their_bodies_are_there(script: ModuleType):
    one = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nab"
    assert script.answered(one[:-1]) == 0
    assert script.answered(one + one) == 2
    assert script.answered(b"HTTP/1.1 100 \r\n\r\n" + one) == 1


def test_every_kind_is_refused_or_answered_by_a_service(
    script: ModuleType, served_folder: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(script, "PATIENCE", 0.3)
    with script.serving("tiny", served_folder, 1) as server:
        [to] = script.targets(server.port, "a great film")
        answers = {}
        for kind, make in script.HOSTILE.items():
            made = make(random.Random(0), to)  # noqa: S311 - the same in every run
            pieces = [made] if isinstance(made, bytes) else made
            answers[kind] = script.sent(server.port, pieces, ends=True)
        status, _ = script.post(server.port, b'{"inputs": ["a great film"]}')
        log = server.log.read_text()
    assert not {"500", "hangs"} & set().union(*answers.values())
    assert answers["no JSON"] == answers["deep"] == answers["files that are none"] == {"400"}
    assert answers["packed"] == {"415"}
    assert answers["many at once"] == {"200"}
    assert answers["another path"] == {"404"}
    assert status == 200
    assert script.WORD not in log
    assert "Traceback" not in log


def test_a_soak_watches_memory_while_texts_of_all_lengths_come(
    script: ModuleType, served_folder: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(script, "SAMPLES", 8)
    found = script.soak("tiny", served_folder, 1, 1)
    assert set(found["answers"]) == {"200"}
    assert len(found["memory_mb"]) == 8
    assert min(found["memory_mb"]) > 20
    monkeypatch.setattr(script, "GROWTH", 0.5)
    assert not script.soak("tiny", served_folder, 1, 1)["passed"]
