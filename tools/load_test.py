#!/usr/bin/env python3
"""Put a service of each artifact under load, and say how many requests it answers and how fast.

    tools/load_test.py ARTIFACT [...] [--texts FILE] [--clients 1 8 64] [--seconds 10] [--json FILE]
    tools/load_test.py ARTIFACT --hand-over 60 --hostile 10000 --soak 240 [--json FILE]

Each ARTIFACT is NAME=FOLDER, or a folder; the first is what the others are compared with. Requests
of one text each, out of `--texts` (a text a line), are sent by wrk, which has to be installed, over
connections that are kept; services take turns, so that all are measured in one run. `--hand-over`
loads the first for so many seconds, and lets another take over the socket from it in the middle,
while clients that connect for each request go on; it fails when one request is lost. `--hostile`
sends so many requests that no client should send to every path that takes one, and fails on an
answer of 500, a hang or a crash, where a right request is answered otherwise afterwards, and where
a word of a request is logged. `--soak` sends requests of up to 16 texts of all lengths for so many
seconds, and fails where one is lost, or where the service takes more memory in the last quarter of
that time than a twentieth above what it took in the third.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import json
import random
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
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
PATIENCE = 3.0  # seconds without an answer until a client closes its side
ENDS = 0.95  # of the clients do that; the others wait until the service ends the connection
WORD = "zyzzyva"  # stands in hostile requests, and must not be logged
CLIENTS = 4  # that connect for each request, while one process takes over from another
SAMPLES = 40  # of memory, while a service is soaked
MOST_TEXTS, MOST_WORDS = 16, 400  # of a request, and of one of its texts
GROWTH = 1.05  # that the memory of the last quarter may show over the third


@dataclass(frozen=True)
class Server:
    """A service that runs."""

    name: str
    process: subprocess.Popen[str]
    port: int
    log: Path

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
    with tempfile.TemporaryDirectory() as scratch, (Path(scratch) / "log").open("w") as log:
        process = subprocess.Popen(
            [*command, "--workers", str(workers)],
            stderr=log,  # a pipe that nobody reads would fill up and stop it
            text=True,
            pass_fds=() if listener is None else [listener.fileno()],
        )
        server = Server(name, process, 0, Path(log.name))
        try:
            yield replace(server, port=_port_of(server))
            process.send_signal(signal.SIGTERM)
            if process.wait(180) != 0:
                sys.exit(f"{name}: ended with {process.returncode}: {server.log.read_text()}")
        finally:
            process.kill()
            process.wait()


def _port_of(server: Server) -> int:
    """Wait until a service takes requests, and return its port."""
    while True:
        found = re.search(r"serving .*:(\d+)$", text := server.log.read_text(), re.MULTILINE)
        if found is not None:
            return int(found[1])
        if server.process.poll() is not None:
            sys.exit(f"{server.name}: {text}")
        time.sleep(0.05)


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


def hand_over(name: str, folder: Path, seconds: float, workers: int) -> dict[str, Any]:
    """Load one process, let another take over in the middle, and return what was lost."""
    listener = listen("127.0.0.1", 0)
    port = listener.getsockname()[1]
    body = json.dumps({"inputs": [example_of(folder)]}).encode()
    is_done = threading.Event()
    answers: Counter[str] = Counter()
    slowest = 0.0

    def client() -> None:
        nonlocal slowest
        while not is_done.is_set():
            start = time.monotonic()
            try:
                status, _ = post(port, body)
                answers[str(status)] += 1
            except (OSError, http.client.HTTPException) as error:
                answers[f"lost: {type(error).__name__}"] += 1
            slowest = max(slowest, time.monotonic() - start)

    threads = [threading.Thread(target=client) for _ in range(CLIENTS)]
    memory: list[list[float]] = []

    def watch(server: Server) -> None:
        """Note how much memory a process takes over half of the time, once it is warm."""
        time.sleep(seconds / 20)
        before = server.rss_mb
        time.sleep(seconds * 9 / 20)
        memory.append([round(before, 1), round(server.rss_mb, 1)])

    try:
        with ExitStack() as later:
            with serving(name, folder, workers, listener) as first:
                for thread in threads:
                    thread.start()
                watch(first)
                # It is there before the first is asked to stop.
                second = later.enter_context(serving(name, folder, workers, listener))
            watch(second)
            is_done.set()
            for thread in threads:
                thread.join()
    finally:
        is_done.set()
    return {
        "what": "hand over",
        "artifact": name,
        "seconds": round(seconds),
        "processes": 2,
        "requests": answers.total(),
        "answers": dict(sorted(answers.items())),
        "slowest_s": round(slowest, 2),
        "memory_mb": memory,
        "passed": set(answers) == {"200"},
    }


def soak(name: str, folder: Path, seconds: float, workers: int) -> dict[str, Any]:
    """Send requests of all sizes for a while, and return how much memory the service took."""
    example = example_of(folder)
    words = " ".join(TEXTS).split()
    is_done = threading.Event()
    answers: Counter[str] = Counter()

    def sized(draw: random.Random, value: Any) -> Any:
        """Return an example with texts of any length in place of its own."""
        if isinstance(value, Mapping):
            return {key: sized(draw, item) for key, item in value.items()}
        if isinstance(value, list):
            return [sized(draw, item) for item in value]
        if " " not in value:  # a picture or a sound
            return value
        mask = ["[MASK]"] if "[MASK]" in value else []
        return " ".join([*mask, *draw.choices(words, k=draw.randint(1, MOST_WORDS))])

    def client(number: int) -> None:
        draw = random.Random(number)  # noqa: S311 - the same requests in every run
        while not is_done.is_set():
            texts = [sized(draw, example) for _ in range(draw.randint(1, MOST_TEXTS))]
            status, _ = post(server.port, json.dumps({"inputs": texts}).encode())
            answers[str(status)] += 1

    memory: list[float] = []
    with serving(name, folder, workers) as server, ThreadPoolExecutor(CLIENTS) as pool:
        clients = [pool.submit(client, number) for number in range(CLIENTS)]
        try:
            for _ in range(SAMPLES):
                time.sleep(seconds / SAMPLES)
                memory.append(round(server.rss_mb, 1))
        finally:
            is_done.set()
        for item in clients:
            item.result()
    quarter = SAMPLES // 4
    third, last = max(memory[-2 * quarter : -quarter]), max(memory[-quarter:])
    return {
        "what": "soak",
        "artifact": name,
        "seconds": round(seconds),
        "requests": answers.total(),
        "answers": dict(sorted(answers.items())),
        "memory_mb": memory,
        "passed": set(answers) == {"200"} and last <= GROWTH * third,
    }


def post(port: int, body: bytes, path: str = "/predict") -> tuple[int, bytes]:
    """Send one request over a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SLOWEST)
    try:
        connection.request("POST", path, body, JSON)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def example_of(folder: Path) -> Any:
    """Return an example that an artifact reads, as it stands in a request."""
    task = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["task"]
    if task == "text-scoring":
        return [TEXTS[0], TEXTS[1]]
    if task == "question-answering":
        return {"question": "how is the film", "context": TEXTS[3]}
    if task == "masked-language-modeling":
        return "a film that is [MASK]"
    if task.startswith("image"):
        return base64.b64encode(picture(8, 8)).decode()
    if task.startswith("audio"):
        return base64.b64encode(sound(4000, told=4000)).decode()
    return TEXTS[1]


def picture(width: int, height: int) -> bytes:
    """Return a PNG file that says it has so many pixels, and holds those of eight rows."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress(b"\0" + bytes(range(8)) + (b"\0" + bytes(8)) * 7)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )


def sound(samples: int, *, told: int) -> bytes:
    """Return a WAV file of 16 bits at 16 kHz that says it has `told` samples."""
    form = struct.pack("<HHIIHH", 1, 1, 16_000, 32_000, 2, 16)
    length = 2 * told % 2**32
    head = b"RIFF" + struct.pack("<I", (36 + length) % 2**32) + b"WAVEfmt \x10\0\0\0" + form
    return head + b"data" + struct.pack("<I", length) + b"\1\2" * samples


@dataclass(frozen=True)
class Target:
    """A path that takes requests, and a right body of one."""

    path: str
    body: Mapping[str, Any]

    def request(
        self, body: bytes, *headers: bytes, told: bytes | None = None, version: str = "1.1"
    ) -> bytes:
        """Return a request with a body, whose Content-Length is `told` or right."""
        length = b"%d" % len(body) if told is None else told
        start = f"POST {self.path} HTTP/{version}".encode()
        own = [b"Host: a", b"Content-Type: application/json", b"Content-Length: " + length]
        return b"\r\n".join((start, *own, *headers)) + b"\r\n\r\n" + body

    def with_value(self, draw: random.Random, value: bytes) -> bytes:
        """Return a request in whose body some value is replaced by JSON."""
        key = draw.choice([*self.body, "prompt_name", "top_n", "dimensions", "aggregation"])
        whole = json.dumps({**self.body, key: WORD}).encode()
        return self.request(whole.replace(json.dumps(WORD).encode(), value, 1))

    def right(self, *headers: bytes) -> bytes:
        """Return a right request."""
        return self.request(json.dumps(self.body).encode(), *headers)


def _cut_off(draw: random.Random, to: Target) -> bytes:
    whole = to.right()
    return whole[: draw.randrange(1, len(whole))]


def _slowly(draw: random.Random, to: Target) -> Iterator[bytes]:
    whole = to.right()
    size = draw.randrange(1, 40)
    for start in range(0, min(len(whole), size * 30), size):
        yield whole[start : start + size]
        time.sleep(0.02)


def _without_end(draw: random.Random, to: Target) -> Iterator[bytes]:
    yield f"POST {to.path} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    size = draw.choice([1, 1000, 100_000])
    for _ in range(100):
        yield b"%x\r\n%b\r\n" % (size, b"[" * size)


def _headers_without_end(draw: random.Random, to: Target) -> Iterator[bytes]:
    yield f"POST {to.path} HTTP/1.1\r\nHost: a\r\n".encode()
    for number in range(200):
        yield b"".join(b"X-%d-%d: y\r\n" % (number, n) for n in range(draw.randrange(1, 100)))


def _bytes_of_files(draw: random.Random, to: Target) -> bytes:
    files = (picture(60_000, 60_000), picture(2**31 - 1, 1), picture(8, 8)[:-20], sound(3, told=9))
    more = (sound(10, told=2**31), sound(0, told=0), draw.randbytes(300), b"GIF89a" + bytes(9))
    return to.with_value(
        draw, json.dumps([base64.b64encode(draw.choice(files + more)).decode()]).encode()
    )


Hostile = Callable[[random.Random, Target], "bytes | Iterator[bytes]"]
NUMBERS = (
    b"NaN", b"-Infinity", b"Infinity", b"1e400", b"-0", b"9223372036854775808", b"1" * 400,
    b"1" * 5000, b"-1", b"0", b"1.5", b"0x10", b"00", b"1e-400", b"true",
)  # fmt: skip
LENGTHS = (
    b"-1",
    b"+2",
    b"1" * 15,
    b"9" * 40,
    b"9" * 5000,
    b"1e3",
    b"0x10",
    b"\xb2",
    b"",
    b"2, 2",
    b"2, 3",
)
HOSTILE: dict[str, Hostile] = {
    "no JSON": lambda draw, to: to.request(draw.randbytes(draw.randrange(200))),
    "half of JSON": lambda draw, to: to.request(
        (text := json.dumps(to.body).encode())[: draw.randrange(len(text))]
    ),
    "JSON of another shape": lambda draw, to: to.request(
        draw.choice([b"null", b"[]", b"{}", b'""', b"1", b"", b" ", b"[{}]", b"\xef\xbb\xbf{}"])
    ),
    "deep": lambda draw, to: to.with_value(
        draw, b"[" * draw.randrange(1, 50_000) + b"]" * draw.randrange(50_000)
    ),
    "objects in objects": lambda draw, to: to.request(b'{"a":' * draw.randrange(1, 20_000) + b"1"),
    "no UTF-8": lambda draw, to: to.with_value(draw, b'["' + draw.randbytes(20) + b'"]'),
    "half of a surrogate pair": lambda draw, to: to.with_value(
        draw, draw.choice([b'"\\ud800"', b'["\\udc00 a"]', b'{"\\udfff": 1}'])
    ),
    "control characters": lambda draw, to: to.with_value(draw, b'["\\u0000\\u202e\\ufffe"]'),
    "a number": lambda draw, to: to.with_value(
        draw, draw.choice([b"%b", b"[%b]", b"[[%b]]"]) % draw.choice(NUMBERS)
    ),
    "a key twice": lambda _, to: to.request(
        json.dumps(to.body).encode()[:-1] + b", " + json.dumps(to.body).encode()[1:]
    ),
    "a wrong kind": lambda draw, to: to.with_value(
        draw, draw.choice([b"null", b"{}", b"[[]]", b'[[""]]', b'[{"a": []}]', b'[""]', b"[null]"])
    ),
    "a long text": lambda draw, to: to.with_value(
        draw, json.dumps([f"{WORD} " * draw.randrange(1, 10_000)]).encode()
    ),
    "many texts": lambda draw, to: to.with_value(
        draw, json.dumps([WORD] * draw.randrange(500, 2000)).encode()
    ),
    "files that are none": _bytes_of_files,
    "a wrong length": lambda draw, to: to.request(b"{}", told=draw.choice(LENGTHS)),
    "two lengths": lambda _, to: to.right(b"Content-Length: 3"),
    "a length and chunks": lambda _, to: to.right(b"Transfer-Encoding: chunked"),
    "a chunk of nonsense": lambda draw, to: to.request(
        draw.choice([b"zz\r\n\r\n", b"-1\r\n", b"f" * 40 + b"\r\n", b"2;" + b"a" * 70_000]),
        b"Transfer-Encoding: chunked", told=b"0",
    ).replace(b"Content-Length: 0\r\n", b""),
    "chunks without end": _without_end,
    "cut off": _cut_off,
    "slow": _slowly,
    "many headers": lambda draw, to: to.right(
        *[b"X-%d: y" % n for n in range(draw.randrange(500))]
    ),
    "headers without end": _headers_without_end,
    "a long header": lambda draw, to: to.right(b"X: " + b"y" * draw.randrange(200_000)),
    "a header of bytes": lambda draw, to: to.right(
        draw.choice([b"X: ", b"", b"Authorization: ", b"Content-Encoding: ", b"Content-Type: "])
        + draw.randbytes(8)
    ),
    "another content type": lambda draw, to: to.right().replace(
        b"application/json", draw.choice([b"text/plain", b"\xff", b"", b"multipart/form-data"])
    ),
    "packed": lambda draw, to: to.request(draw.randbytes(50), b"Content-Encoding: gzip"),
    "another path": lambda draw, _: (
        b"GET /" + draw.randbytes(8).hex().encode() + b" HTTP/1.1\r\nHost: a\r\n\r\n"
    ),
    "a path of bytes": lambda draw, _: b"GET /" + draw.randbytes(8) + b" HTTP/1.1\r\n\r\n",
    "a path with more": lambda draw, to: to.right().replace(
        to.path.encode(),
        to.path.encode()
        + draw.choice([b"/", b"?a=b", b"/../health", b"%00", b"#", b"?" + b"a" * 9000]),
    ),
    "another method": lambda draw, to: to.right().replace(
        b"POST", draw.choice([b"PUT", b"TRACE", b"OPTIONS", b"CONNECT", b"X" * 300, b"get"])
    ),
    "the head of an answer": lambda _, to: to.right(b"Connection: close").replace(b"POST", b"HEAD"),
    "HTTP/1.0 and others": lambda draw, to: to.request(
        json.dumps(to.body).encode(), version=draw.choice(["1.0", "0.9", "2.0", "1.10", "x"])
    ),
    "wants to be told to go on": lambda draw, to: to.right(
        b"Expect: " + draw.choice([b"100-continue", b"another thing"])
    ),
    "wants another protocol": lambda draw, to: to.right(
        b"Connection: Upgrade", b"Upgrade: " + draw.choice([b"websocket", b"h2c"])
    ),
    "many at once": lambda draw, to: to.right() * draw.randrange(2, 20),
    "a right one and a broken one": lambda draw, to: to.right() + draw.randbytes(30),
    "no HTTP": lambda draw, _: draw.randbytes(draw.randrange(1, 400)),
    "nothing": lambda *_: b"",
}  # fmt: skip


def targets(port: int, example: Any) -> list[Target]:
    """Return the paths of a service that take requests, each with a right body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SLOWEST)
    connection.request("GET", "/openapi.json")
    paths = json.loads(connection.getresponse().read())["paths"]
    connection.close()
    bodies: dict[str, dict[str, Any]] = {
        "/predict": {"inputs": [example]},
        "/v1/embeddings": {"input": [TEXTS[0]]},
        "/rerank": {"query": TEXTS[0], "texts": list(TEXTS)},
        "/v1/rerank": {"query": TEXTS[0], "documents": list(TEXTS)},
    }
    return [Target(path, bodies[path]) for path, kinds in paths.items() if "post" in kinds]


def hostile(name: str, folder: Path, count: int, workers: int) -> dict[str, Any]:
    """Send what no client should send, and return what came of it."""
    statuses: Counter[str] = Counter()
    wrong: list[str] = []
    with serving(name, folder, workers) as server:
        places = targets(server.port, example_of(folder))
        expected = [post(server.port, json.dumps(to.body).encode(), to.path) for to in places]
        before = server.rss_mb

        def send(number: int) -> tuple[str, str, set[str]]:
            draw = random.Random(number)  # noqa: S311 - the same requests in every run
            kind, to = draw.choice(list(HOSTILE)), draw.choice(places)
            made = HOSTILE[kind](draw, to)
            pieces = [made] if isinstance(made, bytes) else made
            return kind, to.path, sent(server.port, pieces, ends=draw.random() < ENDS)

        with ThreadPoolExecutor(64) as pool:
            for number, (kind, path, found) in enumerate(pool.map(send, range(count))):
                statuses.update(found)
                if found & {"500", "hangs"}:
                    wrong.append(f"request {number}, {kind}, {path}: {sorted(found)}")
        again = [post(server.port, json.dumps(to.body).encode(), to.path) for to in places]
        after = server.rss_mb
        if again != expected or {status for status, _ in again} != {200}:
            wrong.append(f"right requests are answered otherwise now: {expected} {again}")
        log = server.log.read_text(encoding="utf-8", errors="replace")
    for word in (WORD, TEXTS[0], "Traceback"):
        if word in log:
            wrong.append(f"the log holds '{word}': {log[log.index(word) - 300 :][:600]}")
    print("\n".join(wrong[:20]), flush=True)
    return {
        "what": "hostile",
        "artifact": name,
        "paths": [to.path for to in places],
        "kinds": len(HOSTILE),
        "requests": count,
        "answers": dict(sorted(statuses.items())),
        "memory_mb": [[round(before, 1), round(after, 1)]],
        "passed": not wrong,
    }


def sent(port: int, pieces: Iterable[bytes], *, ends: bool) -> set[str]:
    """Send one thing after another, and return the statuses of what is answered.

    `closed` where nothing is answered before the connection ends, `hangs` where it stays open. A
    client that `ends` closes its side when there is no answer for a while.
    """
    answer = bytearray()
    due = 0
    with socket.create_connection(("127.0.0.1", port), timeout=SLOWEST) as own:
        try:
            with suppress(BrokenPipeError, ConnectionResetError):  # refused before all was sent
                for piece in pieces:
                    due += piece.count(b" HTTP/1.1\r\n")
                    own.sendall(piece)
            if ends and not select.select([own], [], [], PATIENCE)[0]:
                own.shutdown(socket.SHUT_WR)
            while answered(bytes(answer)) < max(due, 1) and (part := own.recv(1 << 16)):
                answer += part
        except TimeoutError:
            return {"hangs"}
        except OSError:
            pass  # reset: what came until then counts
    found = {status.decode() for status in re.findall(rb"^HTTP/1\.\d (\d+)", answer, re.MULTILINE)}
    return found or {"closed"}


def answered(answers: bytes) -> int:
    """Return how many answers are there with the whole of their bodies.

    >>> answered(b"HTTP/1.1 100 \\r\\n\\r\\nHTTP/1.1 200 OK\\r\\ncontent-length: 2\\r\\n\\r\\nab")
    1
    """
    count = 0
    while (end := answers.find(b"\r\n\r\n")) >= 0:
        head, answers = answers[:end].lower(), answers[end + 4 :]
        length = re.search(rb"\r\ncontent-length: (\d+)", head)
        if length is None and re.match(rb"http/1\.\d 1", head):
            continue
        if length is None or len(answers) < int(length[1]):
            break
        answers = answers[int(length[1]) :]
        count += 1
    return count


def main() -> int:
    """Return 0 when no request failed, 1 otherwise."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("artifacts", nargs="+", metavar="ARTIFACT", help="NAME=FOLDER or FOLDER")
    parser.add_argument("--texts", type=Path, help="a text a line")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--seconds", type=int, default=10, help="of each measurement")
    parser.add_argument("--workers", type=int, default=1, help="batches at a time")
    parser.add_argument("--hand-over", type=int, metavar="SECONDS")
    parser.add_argument("--hostile", type=int, metavar="REQUESTS")
    parser.add_argument("--soak", type=int, metavar="SECONDS")
    parser.add_argument("--json", type=Path, help="results file to write")
    arguments = parser.parse_args()
    artifacts = []
    for item in arguments.artifacts:
        name, _, folder = item.rpartition("=")
        artifacts.append((name or Path(folder).resolve().parent.name, Path(folder)))
    tried = [
        (kind, amount)
        for kind, amount in (
            (hand_over, arguments.hand_over),
            (hostile, arguments.hostile),
            (soak, arguments.soak),
        )
        if amount is not None
    ]
    if not tried:
        return compare(artifacts, arguments)
    rows = []
    for number, (name, folder) in enumerate(artifacts):
        for kind, amount in tried:
            if kind is hand_over and number:
                continue
            rows.append(kind(name, folder, amount, arguments.workers))
            print(json.dumps(rows[-1]), flush=True)
    if arguments.json is not None:
        write_results(
            arguments.json, rows, about={"workers": arguments.workers, "clients": CLIENTS}
        )
    return int(not all(row["passed"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
