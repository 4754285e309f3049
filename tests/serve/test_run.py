"""The service as a process: it starts, answers, and ends gracefully."""

from __future__ import annotations

import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from compressor.errors import EnvironmentMismatch
from compressor.serve.run import inherited, listen, serve
from compressor.serve.settings import ServeSettings, read_key, usable_cpus

BODY = json.dumps({"inputs": ["a great film"]})
JSON = {"Content-Type": "application/json"}


@contextmanager
def serving(
    folder: Path, *arguments: str, pass_fds: Sequence[int] = ()
) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Start the service, and yield the process and its port; it is killed in the end."""
    command = [sys.executable, "-m", "compressor", "serve", str(folder), "--workers", "1"]
    process = subprocess.Popen(
        [*command, *arguments], stderr=subprocess.PIPE, text=True, pass_fds=pass_fds
    )
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        found = re.search(r":(\d+)$", line.strip())
        assert found is not None, line + process.stderr.read()
        yield process, int(found[1])
    finally:
        process.kill()
        process.communicate()


def post(port: int, connection: http.client.HTTPConnection | None = None) -> Any:
    own = connection or http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    own.request("POST", "/predict", BODY, JSON)
    response = own.getresponse()
    content = response.read()
    if connection is None:
        own.close()
    assert response.status == 200, content
    return json.loads(content)


def test_it_answers_and_hands_over_without_a_lost_request(served_folder: Path):
    listener = listen("127.0.0.1", 0)
    port, fd = listener.getsockname()[1], listener.fileno()
    lost: list[Exception] = []
    answered: list[Any] = []
    is_done = threading.Event()

    def client() -> None:
        while not is_done.is_set():
            try:
                answered.append(post(port))
            except (OSError, http.client.HTTPException) as error:
                lost.append(error)

    with serving(served_folder, "--fd", str(fd), pass_fds=[fd]) as (first, first_port):
        assert first_port == port
        threads = [threading.Thread(target=client) for _ in range(3)]
        for thread in threads:
            thread.start()
        with serving(served_folder, "--fd", str(fd), pass_fds=[fd]) as (second, _):
            before = len(answered)
            first.send_signal(signal.SIGTERM)
            assert first.wait(30) == 0
            deadline = time.monotonic() + 30
            while len(answered) < before + 20 and time.monotonic() < deadline:
                time.sleep(0.05)
            is_done.set()
            for thread in threads:
                thread.join()
            second.send_signal(signal.SIGINT)
            assert second.wait(30) == 0
    listener.close()
    assert lost == []
    assert len(answered) >= before + 20
    assert {item[0]["label"] for item in answered} == {answered[0][0]["label"]}


def test_headers_that_do_not_come_and_words_that_are_no_http(served_folder: Path):
    with serving(served_folder, "--port", "0") as (process, port):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        assert post(port, connection) == post(port, connection)  # the connection is kept
        for _ in range(5):
            with socket.create_connection(("127.0.0.1", port), timeout=30) as raw:
                raw.sendall(b"\x16\x03\x01 no http at all\r\n\r\n")
                assert b" 400 " in raw.recv(1000)
        connection.request("GET", "/metrics")
        counted = connection.getresponse().read().decode()
        assert 'compressor_requests_total{path="other",status="400"} 5.0' in counted
        with socket.create_connection(("127.0.0.1", port), timeout=30) as slow:
            start = time.monotonic()
            slow.sendall(b"POST /predict HTTP/1.1\r\nHost: a\r\n")
            post(port, connection)
            assert slow.recv(1000) == b""  # closed without waiting for the rest
            assert 5 < time.monotonic() - start < 25
        connection.close()
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=30)
    assert log.count("Invalid HTTP request") == 1
    assert "4 further lines like these were left out" in log


def test_what_cannot_be_started_is_an_error_with_words(tmp_path: Path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(EnvironmentMismatch, match=f"127.0.0.1:{port}: cannot be listened on"):
            listen("127.0.0.1", port)
    with pytest.raises(EnvironmentMismatch, match="--fd 12345: no open socket"):
        inherited(12345)
    with socket.socket() as deaf, pytest.raises(EnvironmentMismatch, match="does not listen"):
        inherited(deaf.fileno())
    for content in (b"", b"two words", b"\xff"):
        (tmp_path / "key").write_bytes(content)
        with pytest.raises(EnvironmentMismatch, match="--key-file"):
            read_key(tmp_path / "key")
    (tmp_path / "key").write_text("sesame\n")
    assert read_key(tmp_path / "key") == "sesame"


def test_a_graph_that_does_not_run_takes_no_request(
    served_folder: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(EnvironmentMismatch, match="provider 'cuda' is not in this onnxruntime"):
        serve(
            served_folder,
            open_socket=lambda: pytest.fail("it listens"),
            settings=ServeSettings(),
            provider="cuda",
            threads=1,
            access_log=False,
            name=None,
            ready=lambda address: pytest.fail(f"it serves on {address}"),
        )


def test_the_share_of_a_container_counts(tmp_path: Path):
    quota = tmp_path / "cpu.max"
    own = usable_cpus(tmp_path / "absent")
    quota.write_text("max 100000\n")
    assert usable_cpus(quota) == own
    quota.write_text("100000 100000\n")
    assert usable_cpus(quota) == 1
    quota.write_text("50000 100000\n")
    assert usable_cpus(quota) == 1
