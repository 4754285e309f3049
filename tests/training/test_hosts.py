"""Two hosts train together; they are two network namespaces, each with an address of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import word_piece_tokenizer
from safetensors.torch import load_file
from trained_together import in_two_processes, run_in, save_models, trained

_IP = shutil.which("ip") or ""
# Of a network that is kept for documentation, so that no real one is shadowed.
_ADDRESSES = ("192.0.2.1", "192.0.2.2")


def ip(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([_IP, *words], capture_output=True, text=True, check=False)


@pytest.fixture
def hosts() -> Iterator[tuple[str, str]]:
    """Yield the names of two namespaces that are connected with each other and nothing else."""
    if not _IP:
        pytest.skip("no `ip`, which makes network namespaces")
    names = (f"compressor-a-{os.getpid()}", f"compressor-b-{os.getpid()}")
    try:
        for name in names:
            made = ip("netns", "add", name)
            if made.returncode != 0:
                pytest.skip(f"network namespaces are not allowed here: {made.stderr.strip()}")
        made = ip(
            *("link", "add", "own", "netns", names[0]),
            *("type", "veth", "peer", "name", "own", "netns", names[1]),
        )
        assert made.returncode == 0, made.stderr
        for name, address in zip(names, _ADDRESSES, strict=True):
            for words in (
                ("addr", "add", f"{address}/24", "dev", "own"),
                ("link", "set", "own", "up"),
                ("link", "set", "lo", "up"),
            ):
                done = ip("-n", name, *words)
                assert done.returncode == 0, done.stderr
        yield names
    finally:
        for name in names:
            ip("netns", "del", name)


def test_two_hosts_end_with_the_weights_of_one(hosts: tuple[str, str], tmp_path: Path):
    save_models(tmp_path, word_piece_tokenizer())
    prefixes = [[_IP, "netns", "exec", name] for name in hosts]

    codes = in_two_processes(
        tmp_path,
        "AdamW",
        address=_ADDRESSES[0],
        prefixes=prefixes,
        GLOO_SOCKET_IFNAME="own",
    )

    assert codes[:2] == (0, 0), codes[2]
    found = load_file(tmp_path / "AdamW.safetensors")
    run = replace(run_in(tmp_path, "AdamW"), work_dir=tmp_path / "alone")
    expected = trained(tmp_path, "AdamW", run).module.state_dict()
    assert max(float((found[name] - expected[name]).abs().max()) for name in expected) < 1e-5
