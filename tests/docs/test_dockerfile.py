from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from typer.testing import CliRunner

from compressor.cli import app

DOCKERFILE = Path(__file__).parents[2] / "docs" / "guides" / "http-service" / "Dockerfile"
REQUIREMENTS = DOCKERFILE.with_name("requirements.txt")
# Answers a request where nothing can be imported but what is asked for, and what that needs.
SERVES = """
import sys
from importlib import metadata
from packaging.requirements import Requirement

allowed, wanted = {"compressor"}, [
    Requirement(line.strip()) for line in open(sys.argv[1]) if not line.startswith("#")
]
while wanted:
    item = wanted.pop()
    name = item.name.lower().replace("_", "-")
    if name not in allowed and (item.marker is None or item.marker.evaluate({"extra": ""})):
        allowed.add(name)
        wanted += map(Requirement, metadata.requires(name) or ())
refused = {
    top
    for top, owners in metadata.packages_distributions().items()
    if not {owner.lower().replace("_", "-") for owner in owners} & allowed
}


class Refuses:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in refused:
            raise ModuleNotFoundError(f"{name} is not in the image", name=name)


for name in [name for name in sys.modules if name.partition(".")[0] in refused]:
    del sys.modules[name]
sys.meta_path.insert(0, Refuses())

import asyncio
import compressor.cli
from compressor.artifact import load_artifact
from compressor.serve.app import Service
from compressor.serve.settings import ServeSettings
import compressor.serve.run

service = Service(load_artifact(sys.argv[2], threads=1), ServeSettings(), name="own")
body = b'{"inputs": ["a great film"]}'
statuses = []


async def receive():
    return {"type": "http.request", "body": body}


async def send(message):
    statuses.append(message.get("status"))


scope = {
    "type": "http", "method": "POST", "path": "/predict", "raw_path": b"/predict", "headers": [],
    "query_string": b"", "root_path": "", "scheme": "http", "server": ("a", 1),
}
asyncio.run(service.app(scope, receive, send))
service.batcher.close()
print(statuses[0])
try:
    import torch
except ModuleNotFoundError as error:
    print("torch cannot be imported")
"""


def instructions() -> list[tuple[str, str]]:
    """Return the instructions of the file, in order."""
    text = DOCKERFILE.read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.partition(" ")[0], line.partition(" ")[2].strip()) for line in lines]


def test_the_image_runs_the_service_as_a_user_without_rights():
    found = dict(instructions())
    users = [value for name, value in instructions() if name == "USER"]
    assert users == ["10001"]  # a number, which Kubernetes can tell from root
    assert ":" in found["FROM"]
    assert "latest" not in found["FROM"]
    assert "useradd --system --uid 10001" in found["RUN"]
    assert found["RUN"].count("pip install --no-cache-dir") == found["RUN"].count("pip install")
    assert "ORT_DISABLE_TELEMETRY=1" in found["ENV"]


def test_its_command_is_one_that_serve_takes():
    program, command, *arguments = json.loads(dict(instructions())["CMD"])
    assert (program, command) == ("compress", "serve")
    result = CliRunner().invoke(app, ["serve", *arguments, "--help"])
    assert result.exit_code == 0
    # With the same options and no artifact it gets as far as looking for one.
    ended = CliRunner().invoke(app, ["serve", *arguments[:-1], "0"])
    assert "not found; an artifact is" in str(ended.exception)


def test_what_it_installs_is_what_the_service_needs(served_folder: Path):
    assert "--requirement /packages/requirements.txt" in dict(instructions())["RUN"]
    assert "--no-deps /packages/compressor-*.whl" in dict(instructions())["RUN"]
    ended = subprocess.run(
        [sys.executable, "-c", SERVES, str(REQUIREMENTS), str(served_folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.split() == ["200", "torch", "cannot", "be", "imported"]
