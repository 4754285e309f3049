"""An artifact on its way: to a stand-in for the Hub, and into one file."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import zstandard
from typer.testing import CliRunner

from compressor.artifact import lay_out, load_artifact, read_manifest, seal_artifact
from compressor.cli import app
from compressor.errors import EnvironmentMismatch, RecipeError
from compressor.publish import pack, plan_upload, push

NAME = "somebody/tiny"


@pytest.fixture
def artifact(served_folder: Path, tmp_path: Path) -> Path:
    folder = Path(shutil.copytree(served_folder, tmp_path / "artifact"))
    (folder / "notes.txt.bak").write_text("not listed")
    return folder


class Hub(ThreadingHTTPServer):
    """Takes what the Hub's client sends of small files, and keeps the last commit."""

    status = 200

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.created: list[dict[str, Any]] = []
        self.commit: list[dict[str, Any]] = []
        self.asked: list[str] = []
        self.address = f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = self._chunks()
        self.server.asked.append(self.path)
        self.answer_to(body)

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        self.send({"id": NAME, "sha": "0" * 40, "siblings": [], "private": False, "tags": []})

    def answer_to(self, body: bytes) -> None:
        if self.server.status != 200:
            self.send({"error": "You may not write here"}, self.server.status)
        elif self.path == "/api/repos/create":
            self.server.created.append(json.loads(body))
            self.send({"url": f"{self.server.address}/{NAME}"})
        elif "/preupload/" in self.path:
            files = json.loads(body)["files"]
            self.send(
                {
                    "files": [
                        {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                        for f in files
                    ]
                }
            )
        elif "/commit/" in self.path:
            self.server.commit = [json.loads(line) for line in body.splitlines()]
            self.send(
                {
                    "commitUrl": f"{self.server.address}/{NAME}/commit/{'1' * 40}",
                    "commitOid": "1" * 40,
                    "pullRequestUrl": f"{self.server.address}/{NAME}/discussions/1"
                    if "create_pr=1" in self.path
                    else None,
                }
            )
        else:
            self.send({"error": self.path}, 404)

    def send(self, content: Any, status: int = 200) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _chunks(self) -> bytes:
        found = b""
        while size := int(self.rfile.readline(), 16):
            found += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return found

    def log_message(self, *arguments: object) -> None:
        del arguments


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    server = Hub()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.address)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_made_up")
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def sent(hub: Hub) -> dict[str, bytes]:
    """Return the files of the last commit by name."""
    return {
        line["value"]["path"]: base64.b64decode(line["value"]["content"])
        for line in hub.commit
        if line["key"] == "file"
    }


def test_what_the_manifest_names_is_sent_in_one_commit(hub: Hub, artifact: Path):
    upload = plan_upload(artifact, NAME)
    assert push(upload, private=True, create_pr=False, revision=None).endswith("1" * 40)
    files = sent(hub)
    assert set(files) == {*read_manifest(artifact)["files"], "manifest.json"}
    assert all(content == (artifact / name).read_bytes() for name, content in files.items())
    assert hub.created[0]["name"] == "tiny"
    header = next(line["value"] for line in hub.commit if line["key"] == "header")
    assert read_manifest(artifact)["manifest_sha256"][:12] in header["summary"]


def test_a_change_is_proposed_without_creating_anything(hub: Hub, artifact: Path):
    address = push(plan_upload(artifact, NAME), private=False, create_pr=True, revision=None)
    assert address.endswith("/discussions/1")
    assert hub.created == []
    with pytest.raises(RecipeError, match="leave one out"):
        push(plan_upload(artifact, NAME), private=False, create_pr=True, revision="next")


def test_nothing_is_sent_without_yes(hub: Hub, artifact: Path):
    result = CliRunner().invoke(app, ["push", str(artifact), "--to", NAME])
    assert result.exit_code == 0
    assert "model.onnx" in result.output
    assert "nothing was sent" in result.output
    assert hub.asked == []
    result = CliRunner().invoke(app, ["push", str(artifact), "--to", NAME, "--yes"])
    assert result.exit_code == 0
    assert f"sent: {hub.address}/somebody/tiny/commit/" in result.output


def test_what_the_hub_refuses_is_an_error_with_words(hub: Hub, artifact: Path):
    hub.status = 403
    with pytest.raises(EnvironmentMismatch, match=r"the Hub did not take it .*hf auth login"):
        push(plan_upload(artifact, NAME), private=False, create_pr=False, revision=None)


@pytest.mark.parametrize("name", ["", "tiny", "a/b/c", "a b/c", "../x", "org/"])
def test_a_name_that_the_hub_does_not_take_is_refused(artifact: Path, name: str):
    with pytest.raises(RecipeError, match="--to"):
        plan_upload(artifact, name)


def test_a_damaged_artifact_goes_nowhere(artifact: Path, tmp_path: Path):
    with (artifact / "model.onnx").open("ab") as stream:
        stream.write(b"x")
    with pytest.raises(EnvironmentMismatch, match=r"model\.onnx"):
        plan_upload(artifact, NAME)
    with pytest.raises(EnvironmentMismatch, match=r"model\.onnx"):
        pack(artifact, tmp_path / "x.tar.zst")
    assert not (tmp_path / "x.tar.zst").exists()


def test_one_file_unpacks_to_the_same_artifact(artifact: Path, tmp_path: Path):
    (artifact / "notes.txt.bak").unlink()
    lay_out(artifact)
    manifest = read_manifest(artifact)
    model = load_artifact(artifact, verify=False)
    seal_artifact(artifact, task=model.task, labels=manifest["labels"], facts={})
    first, digest = pack(artifact, tmp_path / "tiny.tar.zst")
    assert digest == hashlib.sha256(first.read_bytes()).hexdigest()
    beside = (tmp_path / "tiny.tar.zst.sha256").read_text()
    assert beside == f"{digest}  tiny.tar.zst\n"
    with (
        first.open("rb") as stream,
        zstandard.ZstdDecompressor().stream_reader(stream) as plain,
        tarfile.open(fileobj=plain, mode="r|") as archive,
    ):
        archive.extractall(tmp_path / "out", filter="data")
    texts = ["a great film", "a dull plot"]
    assert load_artifact(tmp_path / "out" / "tiny")(texts) == model(texts)
    again, _ = pack(artifact, tmp_path / "out" / "tiny.tar.zst")
    assert again.read_bytes() == first.read_bytes()


def test_an_artifact_in_the_hubs_cache_is_packed_with_its_content(artifact: Path, tmp_path: Path):
    (tmp_path / "plain").mkdir()
    plain, _ = pack(artifact, tmp_path / "plain" / "tiny.tar.zst")
    snapshot = tmp_path / "cache" / "snapshots" / "0a1b"
    (blobs := tmp_path / "cache" / "blobs").mkdir(parents=True)
    for number, file in enumerate(sorted(artifact.rglob("*"))):
        if file.is_file():
            shutil.copyfile(file, blobs / str(number))
            place = snapshot / file.relative_to(artifact)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(os.path.relpath(blobs / str(number), place.parent))
    packed, _ = pack(snapshot, tmp_path / "tiny.tar.zst")
    assert packed.read_bytes() == plain.read_bytes()


def test_a_file_that_cannot_be_written_leaves_nothing(artifact: Path, tmp_path: Path):
    with pytest.raises(RecipeError, match=r"must end in \.tar\.zst"):
        pack(artifact, tmp_path / "x.zip")
    with pytest.raises(EnvironmentMismatch, match="cannot be written"):
        pack(artifact, tmp_path / "absent" / "x.tar.zst")
    assert list(tmp_path.glob("*x.tar*")) == []
