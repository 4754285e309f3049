"""`manifest.json` of an artifact: what it must say, and whether the files are those that it names.

A damaged or mixed-up artifact is refused when it is loaded; so is a file beside the others that
would be read and that the manifest does not name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal, get_args

from .errors import EnvironmentMismatch
from .files import ABSENT, LARGEST_JSON, facts_sha256, sha256, unreadable
from .words import first_repeated, listing, show

MANIFEST = "manifest.json"
MODEL = "model.onnx"
MANIFEST_VERSION = 1
OWN_DIGEST = "manifest_sha256"
OPENVINO = "openvino"  # the provider, and the key of what holds of it
PRECISION = "precision"  # of OpenVINO's entry
# The key that says why its examples are read by transformers alone; absent where they are not.
NEEDS_TRANSFORMERS = "needs_transformers"
AGAIN = "copy the artifact again, or make it again"

# What transformers reads of a directory when it finds it, whether a checkpoint had it or not.
_READ_WITH_IT = frozenset((".json", ".txt", ".model", ".jinja", ".bpe", ".tiktoken"))
_CHAT_TEMPLATES = "additional_chat_templates"
_MOST_NAMED = 5  # files in a message
_SHA256 = re.compile("[0-9a-f]{64}")

Precision = Literal["fp32", "bf16"]
_Problem = tuple[str, str]  # a place in a manifest, and what is wrong there


def each_key_once(pairs: Sequence[tuple[str, object]]) -> dict[str, object]:
    """Return a JSON object; raises `ValueError` when it gives a key twice: Python takes the last.

    For `object_pairs_hook` of `json.loads`.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError(f"key {show(first_repeated(key for key, _ in pairs))} appears twice")
    return found


def read_manifest(directory: Path, tasks: Collection[str]) -> dict[str, Any]:
    """Return the manifest of an artifact for one of `tasks`.

    Raises `EnvironmentMismatch` when it cannot be used.
    """
    path = directory / MANIFEST
    reason = unreadable(path, largest=LARGEST_JSON)
    if reason not in (None, ABSENT):
        raise EnvironmentMismatch(f"{path}: not a readable manifest: it {reason}; {AGAIN}")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=each_key_once)
    except FileNotFoundError as error:
        raise EnvironmentMismatch(
            f"{path}: not found; an artifact is the `artifact` folder of a finished run"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise EnvironmentMismatch(f"{path}: not a readable manifest ({error}); {AGAIN}") from error
    if not isinstance(manifest, dict) or manifest.get("manifest_version") != MANIFEST_VERSION:
        raise EnvironmentMismatch(
            f"{path}: manifest_version {MANIFEST_VERSION} is supported; make the artifact again "
            f"with this version of compressor"
        )
    if problems := list(_problems(manifest, tasks)):
        place, told = problems[0]
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise EnvironmentMismatch(
            f"{path}: {place}: {told}{more}; the manifest was edited or damaged: {AGAIN}"
        )
    labels, thresholds = manifest["labels"], manifest.get("thresholds")
    if thresholds is not None and len(thresholds) != len(labels):
        raise EnvironmentMismatch(
            f"{path}: thresholds must have one number for each of its labels, has "
            f"{len(thresholds)} for {len(labels)}; {AGAIN}"
        )
    if MODEL not in manifest["files"]:
        raise EnvironmentMismatch(
            f"{path}: files does not list {MODEL}, so nothing says which model this is; {AGAIN}"
        )
    # Artifacts of before this key existed have none.
    if manifest.get(OWN_DIGEST, digest := digest_of(manifest)) != digest:
        raise EnvironmentMismatch(
            f"{path}: was edited after the run: its {OWN_DIGEST} is not that of its content, so "
            f"what it says of labels, lengths and scores is nobody's measurement; {AGAIN}"
        )
    return manifest


def digest_of(manifest: Mapping[str, object]) -> str:
    """Return the SHA-256 of what a manifest says besides its own SHA-256."""
    return facts_sha256({key: value for key, value in manifest.items() if key != OWN_DIGEST})


def verify_files(
    directory: Path,
    manifest: Mapping[str, Any],
    weights_beside: Callable[[Path], Collection[PurePosixPath]],
) -> None:
    """Raise `EnvironmentMismatch` naming the files that are not as the manifest says.

    A listed file may be a link, as in a download from the Hub: its content is what counts. A file
    that is not listed is refused where loading the artifact would read it, because it could change
    predictions; others, such as a licence, are nobody's business. `weights_beside` gives the files,
    beside a graph, that it reads.
    """
    listed = manifest["files"]
    known: dict[tuple[int, int], str | None] = {}  # links to one file are read once
    bad = [name for name, told in listed.items() if _sha256_of(directory / name, known) != told]
    if bad:
        raise EnvironmentMismatch(
            f"{directory}: {listing(bad, _MOST_NAMED)} missing or changed since the artifact "
            f"was written; copy it again"
        )
    read = {path.relative_to(directory).as_posix() for path in _read_if_there(directory)}
    read |= {path.as_posix() for path in weights_beside(directory / MODEL)}
    if unlisted := sorted(read - set(listed) - {MANIFEST}):
        raise EnvironmentMismatch(
            f"{directory}: {listing(unlisted, _MOST_NAMED)} would be read with the artifact, but "
            f"{MANIFEST} does not list it, so nobody measured what it changes; remove it, or "
            f"{AGAIN}"
        )


def reads_pairs(manifest: Mapping[str, Any]) -> bool | None:
    """Return whether the rows it was judged on were pairs of texts, None where nothing says."""
    data = (manifest.get("recipe") or {}).get("data") or {}
    sources = [data.get(name) or {} for name in ("search", "certification", "train")]
    named = [source.get("text") or data.get("text") or "text" for source in sources if source]
    found = {not isinstance(columns, str) for columns in named}
    return found.pop() if len(found) == 1 else None


def _problems(manifest: Mapping[str, Any], tasks: Collection[str]) -> Iterator[_Problem]:
    """Yield what loading relies on and a manifest does not say as it must."""
    for key in ("task", "labels", "max_length", "files"):
        if key not in manifest:
            yield key, "Field required"
    task = manifest.get("task", next(iter(tasks)))
    if not isinstance(task, str):
        yield "task", "must be a string"
    elif task not in tasks:
        yield "task", f"must be one of {', '.join(tasks)}"
    labels = manifest.get("labels", [])
    if not isinstance(labels, list):
        yield "labels", "must be a list of strings"
    else:
        for place, label in enumerate(labels):
            if not isinstance(label, str):
                yield f"labels.{place}", "must be a string"
    length = manifest.get("max_length")
    if length is not None and type(length) is not int:
        yield "max_length", "must be an integer or null"
    elif length is not None and length < 1:
        yield "max_length", "must be greater than or equal to 1"
    yield from _threshold_problems(manifest.get("thresholds"))
    if not isinstance(manifest.get("provider", "cpu"), str):
        yield "provider", "must be a string"
    if OPENVINO in manifest:
        told = manifest[OPENVINO]
        known = isinstance(told, dict) and told.get(PRECISION) in get_args(Precision)
        if not known:
            yield OPENVINO, f"must have {PRECISION}, one of {', '.join(get_args(Precision))}"
    yield from _file_problems(manifest.get("files", {}))


def _threshold_problems(thresholds: object) -> Iterator[_Problem]:
    if thresholds is None:
        return
    if not isinstance(thresholds, list):
        yield "thresholds", "must be a list of numbers"
        return
    for place, value in enumerate(thresholds):
        if type(value) not in (int, float) or not 0 < value < 1:
            yield f"thresholds.{place}", "must be a number greater than 0 and less than 1"


def _file_problems(files: object) -> Iterator[_Problem]:
    if not isinstance(files, dict):
        yield "files", "must be a dictionary of SHA-256 by the names of files"
        return
    for name, digest in files.items():
        if (told := _no_name(name)) is not None:
            yield f"files.{name}", told
        if not isinstance(digest, str) or _SHA256.fullmatch(digest) is None:
            yield f"files.{name}", "must be a string of the pattern [0-9a-f]{64}"


def _no_name(name: str) -> str | None:
    """Return why `name` is no path of a file inside the artifact, None where it is one."""
    path = PurePosixPath(name)
    # Windows would read a backslash and a drive as parts of a path.
    if not name.isprintable() or path.is_absolute() or {"\\", ":"} & set(name):
        return "must be a path relative to the artifact"
    if path.as_posix() != name or ".." in path.parts or name in (".", MANIFEST):
        return "must be a plain path of another file inside the artifact"
    return None


def _read_if_there(directory: Path) -> list[Path]:
    """Return the files that loading a tokenizer or image processor reads when they are there."""
    templates = directory / _CHAT_TEMPLATES
    return [
        *(path for path in directory.iterdir() if path.suffix.lower() in _READ_WITH_IT),
        *(templates.iterdir() if templates.is_dir() else ()),
    ]


def _sha256_of(path: Path, known: dict[tuple[int, int], str | None]) -> str | None:
    """Return the SHA-256 of a file, None where no file can be read."""
    try:
        if not path.is_file():
            return None
        found = path.stat()
        place = (found.st_dev, found.st_ino)
        if place not in known:
            known[place] = sha256(path)
        return known[place]
    except OSError:  # a loop of links, or no right to read it
        return None
