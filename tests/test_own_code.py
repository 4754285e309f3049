"""Code of the user's own runs only where it is allowed, and fails in words with its place."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import pytest

from compressor.errors import EnvironmentMismatch, OwnCodeError
from compressor.own_code import OwnFunction, load_function

CALL = "def score(inputs):\n    {body}\n"


def load(folder: Path, text: str, name: str = "score") -> OwnFunction:
    file = folder / "mine.py"
    file.write_text(text)
    return load_function("budget.metric", f"{file}:{name}", takes="inputs")


def test_what_runs_is_the_content_whose_hash_is_kept(tmp_path: Path):
    text = "def score(inputs):\n    return [inputs]\n"
    own = load(tmp_path, text)
    assert own(3) == [3]
    assert own.sha256 == hashlib.sha256(text.encode()).hexdigest()
    assert own.reference == "mine.py:score"
    assert not (tmp_path / "__pycache__").exists()


def test_dataclasses_and_annotations_work_in_the_file(tmp_path: Path):
    own = load(
        tmp_path,
        "from __future__ import annotations\nimport dataclasses, typing\n"
        "@dataclasses.dataclass\nclass Cost:\n    worth: typing.ClassVar[int] = 2\n"
        "def score(inputs: Cost) -> list[float]:\n    return [Cost.worth]\n",
    )
    assert own(None) == [2]


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("return 1 / 0", "mine.py:2: score raised ZeroDivisionError: division by zero"),
        ("raise SystemExit(0)", "mine.py:2: score raised SystemExit: 0"),
        ("import json; return json.loads('{')", "mine.py:2: score raised JSONDecodeError"),
        ("return score(inputs)", "mine.py:2: score raised RecursionError"),
    ],
)
def test_what_it_raises_is_told_with_its_line_and_its_traceback(
    tmp_path: Path, body: str, told: str
):
    own = load(tmp_path, CALL.format(body=body))
    with pytest.raises(OwnCodeError) as caught:
        own(None)
    head, _, trace = str(caught.value).partition("\n")
    assert head.startswith(f"budget.metric: {tmp_path}/{told}")
    assert trace.startswith("Traceback (most recent call last):")
    assert f'File "{tmp_path}/mine.py", line 2, in score' in trace
    assert "own_code.py" not in trace
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("def score(inputs)\n", "mine.py:1 raised SyntaxError"),
        ("x = 1\nraise ValueError('no data')\n", "mine.py:2 raised ValueError: no data"),
        ("import not_a_package_at_all\n", "mine.py:1 imports not_a_package_at_all, which is not"),
        ("def scores(inputs):\n    pass\n", "has no function 'score', did you mean 'scores'?"),
        ("score = 3\n", "has no function 'score'"),
        ("def score(a, b):\n    pass\n", "score must take one argument, inputs (missing"),
        ("def score():\n    pass\n", "score must take one argument, inputs (too many"),
    ],
)
def test_a_file_that_will_not_do_is_refused(tmp_path: Path, text: str, told: str):
    with pytest.raises(OwnCodeError) as caught:
        load(tmp_path, text)
    assert told in str(caught.value)


def test_a_file_beside_it_is_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "beside_it.py").write_text("x = 1\n")
    with pytest.raises(OwnCodeError, match="put all of it into one file"):
        load(tmp_path, "import beside_it\ndef score(inputs):\n    return []\n")
    assert "beside_it" not in sys.modules


def test_a_file_that_is_not_there_is_a_matter_of_this_machine(tmp_path: Path):
    with pytest.raises(EnvironmentMismatch, match=r"nowhere\.py does not exist"):
        load_function("budget.metric", f"{tmp_path}/nowhere.py:score", takes="inputs")
