#!/usr/bin/env python3
"""Put a service of each artifact under load, and say how many requests it answers and how fast.

    tools/load_test.py ARTIFACT [...] [--texts FILE] [--clients 1 8 64] [--seconds 10] [--json FILE]
    tools/load_test.py ARTIFACT --hand-over 60
    tools/load_test.py ARTIFACT --hostile 10000

Each ARTIFACT is NAME=FOLDER, or a folder; the first is what the others are compared with. Requests
of one text each, out of `--texts` (a text a line), are sent by wrk, which has to be installed, over
connections that are kept; services take turns, so that all are measured in one run. `--hand-over`
lets new processes take over the socket from old ones again and again for so many seconds, while
clients that connect for each request go on, and fails when one request is lost. `--hostile` sends
so many requests that no client should send, and fails on an answer of 500, a hang or a crash.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from results import write_results

from compressor.serve.run import listen

TEXTS = (
    "a film that is fine",
    "it takes a while until the story begins, and then it is over before anybody notices",
    "brilliant",
    "the plot is dull, the jokes are older than the actors, and the music never stops",
)
LUA = """
local bodies = {}
for line in io.lines(os.getenv("LOAD_TEST_BODIES")) do bodies[#bodies + 1] = line end
local next = math.random(#bodies)
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
request = function()
  next = next % #bodies + 1
  return wrk.format(nil, "/predict", nil, bodies[next])
end
done = function(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '\\nRESULT {"requests": %d, "seconds": %f, "p50_ms": %f, "p95_ms": %f, "p99_ms": %f, ' ..
    '"failed": %d}\\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3,
    latency:percentile(95) / 1e3, latency:percentile(99) / 1e3,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
"""
JSON = {"Content-Type": "application/json"}
SLOWEST = 40  # seconds that any answer or refusal may take


@dataclass(frozen=True)
class Server:
    """A service that runs."""

    name: str
    process: subprocess.Popen[str]
    port: int

    @property
    def rss_mb(self) -> float:
        """Return how much memory it takes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found is not None
        return int(found[1]) / 1000


@contextmanager
def serving(
    name: str, folder: Path, workers: int, listener: socket.socket | None = None
) -> Iterator[Server]:
    """Start a service and yield it; what it had to answer is answered in the end."""
    place = ["--port", "0"] if listener is None else ["--fd", str(listener.fileno())]
    command = [sys.executable, "-m", "compressor", "serve", str(folder), *place]
    process = subprocess.Popen(
        [*command, "--workers", str(workers)],
        stderr=subprocess.PIPE,
        text=True,
        pass_fds=() if listener is None else [listener.fileno()],
    )
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        found = re.search(r":(\d+)$", line.strip())
        if found is None:
            sys.exit(f"{name}: {line}{process.stderr.read()}")
        yield Server(name, process, int(found[1]))
        process.send_signal(signal.SIGTERM)
        if process.wait(60) != 0:
            sys.exit(f"{name}: ended with {process.returncode}: {process.stderr.read()}")
    finally:
        process.kill()
        process.wait()
        if process.stderr is not None:
            process.stderr.close()


def under_load(server: Server, clients: int, seconds: int, bodies: Path) -> dict[str, Any]:
    """Return what wrk measured with so many clients."""
    script = bodies.with_suffix(".lua")
    script.write_text(LUA, encoding="ascii")
    command = ["wrk", "-t1", f"-c{clients}", f"-d{seconds}s", "--timeout", "60s", "-s", str(script)]
    before = server.rss_mb
    ended = subprocess.run(
        [*command, f"http://127.0.0.1:{server.port}"],
        env={"LOAD_TEST_BODIES": str(bodies), "PATH": "/usr/local/bin:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    found = re.search(r"RESULT (.*)", ended.stdout)
    if found is None:
        sys.exit(f"wrk said nothing of its results: {ended.stdout}{ended.stderr}")
    result: dict[str, Any] = json.loads(found[1])
    told = result.pop("requests"), result.pop("seconds")
    return {
        "artifact": server.name,
        "clients": clients,
        "requests": told[0],
        "requests_per_second": round(told[0] / told[1], 1),
        **{key: round(value, 2) for key, value in result.items()},
        "memory_before_mb": round(before, 1),
        "memory_after_mb": round(server.rss_mb, 1),
    }


def compare(artifacts: Sequence[tuple[str, Path]], arguments: argparse.Namespace) -> int:
    """Put all services under load in turns; return 1 when a request failed."""
    if shutil.which("wrk") is None:
        sys.exit("wrk is not installed; install it, such as with: apt-get install wrk")
    texts = TEXTS
    if arguments.texts is not None:
        texts = tuple(arguments.texts.read_text(encoding="utf-8").splitlines())
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        bodies = Path(folder) / "bodies.txt"
        bodies.write_text("".join(f"{json.dumps({'inputs': [text]})}\n" for text in texts))
        for clients in arguments.clients:
            for name, path in artifacts:
                with serving(name, path, arguments.workers) as server:
                    under_load(server, clients, 2, bodies)
                    row = under_load(server, clients, arguments.seconds, bodies)
                first = next((r for r in rows if r["clients"] == clients), row)
                row["times"] = round(row["requests_per_second"] / first["requests_per_second"], 2)
                rows.append(row)
                print(json.dumps(row), flush=True)
    if arguments.json is not None:
        about = {"workers": arguments.workers, "seconds": arguments.seconds, "texts": len(texts)}
        write_results(arguments.json, rows, about=about)
    return int(any(row["failed"] for row in rows))


def hand_over(name: str, folder: Path, seconds: float, workers: int) -> int:
    """Let one process after another take over; return 1 when a request was lost."""
    listener = listen("127.0.0.1", 0)
    port = listener.getsockname()[1]
    is_done = threading.Event()
    answers: Counter[str] = Counter()
    slowest = 0.0

    def client() -> None:
        nonlocal slowest
        while not is_done.is_set():
            start = time.monotonic()
            try:
                status, _ = post(port, json.dumps({"inputs": [TEXTS[1]]}).encode())
                answers[str(status)] += 1
            except (OSError, http.client.HTTPException) as error:
                answers[f"lost: {type(error).__name__}"] += 1
            slowest = max(slowest, time.monotonic() - start)

    clients = [threading.Thread(target=client) for _ in range(8)]
    end, processes = time.monotonic() + seconds, 0
    while not is_done.is_set():
        with serving(name, folder, workers, listener):
            processes += 1
            if processes == 1:
                for thread in clients:
                    thread.start()
            # The next one is there before this one is asked to stop.
            with serving(name, folder, workers, listener):
                processes += 1
                time.sleep(1)
                if time.monotonic() > end:
                    is_done.set()
                    for thread in clients:
                        thread.join()
    told = {"processes": processes, "answers": dict(answers), "slowest_s": round(slowest, 2)}
    print(json.dumps(told))
    return int(set(answers) != {"200"})


def post(port: int, body: bytes) -> tuple[int, bytes]:
    """Send one request over a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SLOWEST)
    try:
        connection.request("POST", "/predict", body, JSON)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def _request(body: bytes, *headers: bytes, told: int | None = None) -> bytes:
    lines = [b"POST /predict HTTP/1.1", b"Host: a", b"Content-Type: application/json", *headers]
    lines.append(b"Content-Length: %d" % (len(body) if told is None else told))
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


HOSTILE: dict[str, Callable[[random.Random], bytes]] = {
    "no JSON": lambda draw: _request(draw.randbytes(draw.randrange(200))),
    "half of JSON": lambda draw: _request(b'{"inputs": ["a fine film"'[: draw.randrange(25)]),
    "deep": lambda draw: _request(
        b'{"inputs": ' + b"[" * draw.randrange(1, 50_000) + b"]" * draw.randrange(50_000) + b"}"
    ),
    "objects in objects": lambda draw: _request(b'{"a":' * draw.randrange(1, 20_000) + b"1"),
    "no UTF-8": lambda draw: _request(b'{"inputs": ["' + draw.randbytes(20) + b'"]}'),
    "half of a surrogate pair": lambda _: _request(b'{"inputs": ["\\ud800"]}'),
    "control characters": lambda _: _request(b'{"inputs": ["\\u0000\\u202e\\ufffe"]}'),
    "a number": lambda _: _request(b'{"inputs": [1e400, -0, NaN]}'),
    "a wrong kind": lambda draw: _request(
        json.dumps({"inputs": draw.choice([None, {}, [[]], [[""]], [{"a": []}], True])}).encode()
    ),
    "a long text": lambda draw: _request(
        json.dumps({"inputs": ["a " * draw.randrange(1, 60_000)]}).encode()
    ),
    "many texts": lambda draw: _request(
        json.dumps({"inputs": ["a"] * draw.randrange(500, 2000)}).encode()
    ),
    "said to be huge": lambda _: _request(b"{}", told=10**15),
    "a wrong length": lambda _: _request(b'{"inputs": "a"}', b"Content-Length: 3"),
    "a negative length": lambda _: _request(b"{}", told=-1),
    "cut off": lambda draw: _request(b'{"inputs": "a"}', told=10_000)[: draw.randrange(1, 120)],
    "many headers": lambda draw: _request(
        b"{}", *[b"X-%d: y" % n for n in range(draw.randrange(500))]
    ),
    "a long header": lambda draw: _request(b"{}", b"X: " + b"y" * draw.randrange(200_000)),
    "another path": lambda draw: (
        b"GET /" + draw.randbytes(8).hex().encode() + b" HTTP/1.1\r\nHost: a\r\n\r\n"
    ),
    "a path of bytes": lambda draw: b"GET /" + draw.randbytes(8) + b" HTTP/1.1\r\n\r\n",
    "another method": lambda draw: (
        draw.choice([b"PUT", b"TRACE", b"X" * 300]) + b" /predict HTTP/1.1\r\nHost: a\r\n\r\n"
    ),
    "no HTTP": lambda draw: draw.randbytes(draw.randrange(1, 400)),
    "a chunk of nonsense": lambda _: (
        b"POST /predict HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n\r\n"
    ),
    "packed": lambda draw: _request(draw.randbytes(50), b"Content-Encoding: gzip"),
}


def hostile(name: str, folder: Path, count: int, workers: int) -> int:
    """Send what no client should send; return 1 on a 500, a hang or a crash."""
    good = json.dumps({"inputs": list(TEXTS)}).encode()
    statuses: Counter[str] = Counter()
    with serving(name, folder, workers) as server:
        expected = post(server.port, good)
        before = server.rss_mb

        def send(number: int) -> tuple[str, str]:
            draw = random.Random(number)  # noqa: S311 - the same requests in every run
            kind = draw.choice(list(HOSTILE))
            with socket.create_connection(("127.0.0.1", server.port), timeout=SLOWEST) as own:
                try:
                    own.sendall(HOSTILE[kind](draw))
                    if kind == "cut off" or draw.random() < 0.1:
                        own.shutdown(socket.SHUT_WR)
                    answer = own.recv(1000)
                except TimeoutError:
                    return kind, "hangs"
                except OSError:
                    return kind, "closed"
            found = re.match(rb"HTTP/1\.\d (\d+)", answer)
            return kind, found[1].decode() if found else "closed"

        with ThreadPoolExecutor(16) as pool:
            for number, (kind, status) in enumerate(pool.map(send, range(count))):
                statuses[status] += 1
                if status in ("500", "hangs"):
                    print(f"request {number}, {kind}: {status}", flush=True)
        again = post(server.port, good)
        after = server.rss_mb
    told = {"requests": count, "statuses": dict(sorted(statuses.items()))}
    print(json.dumps({**told, "memory_mb": [round(before), round(after)]}))
    if again != expected:
        print(f"a right request is answered otherwise now: {expected} {again}")
        return 1
    return int(bool({"500", "hangs"} & set(statuses)))


def main() -> int:
    """Return 0 when no request failed, 1 otherwise."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("artifacts", nargs="+", metavar="ARTIFACT", help="NAME=FOLDER or FOLDER")
    parser.add_argument("--texts", type=Path, help="a text a line")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--seconds", type=int, default=10, help="of each measurement")
    parser.add_argument("--workers", type=int, default=1, help="batches at a time")
    parser.add_argument("--hand-over", type=float, metavar="SECONDS")
    parser.add_argument("--hostile", type=int, metavar="REQUESTS")
    parser.add_argument("--json", type=Path, help="results file to write")
    arguments = parser.parse_args()
    artifacts = []
    for item in arguments.artifacts:
        name, _, folder = item.rpartition("=")
        artifacts.append((name or Path(folder).resolve().parent.name, Path(folder)))
    if arguments.hand_over is not None:
        return max(
            hand_over(name, folder, arguments.hand_over, arguments.workers)
            for name, folder in artifacts
        )
    if arguments.hostile is not None:
        return max(
            hostile(name, folder, arguments.hostile, arguments.workers)
            for name, folder in artifacts
        )
    return compare(artifacts, arguments)


if __name__ == "__main__":
    sys.exit(main())
