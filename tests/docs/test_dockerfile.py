from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from compressor.cli import app

DOCKERFILE = Path(__file__).parents[2] / "docs" / "guides" / "http-service" / "Dockerfile"


def instructions() -> list[tuple[str, str]]:
    """Return the instructions of the file, in order."""
    text = DOCKERFILE.read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.partition(" ")[0], line.partition(" ")[2].strip()) for line in lines]


def test_the_image_runs_the_service_as_a_user_without_rights():
    found = dict(instructions())
    users = [value for name, value in instructions() if name == "USER"]
    assert users == ["service"]
    assert ":" in found["FROM"]
    assert "latest" not in found["FROM"]
    assert "useradd --system" in found["RUN"]
    assert "--no-cache-dir" in found["RUN"]


def test_its_command_is_one_that_serve_takes():
    program, command, *arguments = json.loads(dict(instructions())["CMD"])
    assert (program, command) == ("compress", "serve")
    result = CliRunner().invoke(app, ["serve", *arguments, "--help"])
    assert result.exit_code == 0
    # With the same options and no artifact it gets as far as looking for one.
    ended = CliRunner().invoke(app, ["serve", *arguments[:-1], "0"])
    assert "not found; an artifact is" in str(ended.exception)
