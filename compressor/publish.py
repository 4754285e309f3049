"""Sends an artifact to the Hub, or makes one file of it; both only after checking every hash."""

from __future__ import annotations

import hashlib
import os
import tarfile
from collections.abc import Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from compressor.artifact import MANIFEST, read_manifest, verify_artifact
from compressor.errors import EnvironmentMismatch, RecipeError, shortened
from compressor.files import sha256
from compressor.paths import HUB_ID

_MOST_SHOWN = 300  # characters of another library's message
_VERSION_LENGTH = 12  # of a SHA-256, in names


@dataclass(frozen=True)
class Upload:
    """What goes to the Hub: files by their names there, with their sizes in bytes."""

    directory: Path
    repository: str
    version: str
    files: dict[str, int]

    @property
    def num_bytes(self) -> int:
        """Return how large all files are together."""
        return sum(self.files.values())

    def text(self) -> str:
        """Return it for people, a line for each file."""
        lines = [f"{size:>14,}  {name}" for name, size in self.files.items()]
        return "\n".join([*lines, f"{self.num_bytes:>14,}  bytes in all, version {self.version}"])


def plan_upload(directory: Path, repository: str) -> Upload:
    """Return what would be sent to `repository`, such as `org/name`.

    Raises `EnvironmentMismatch` where the artifact is damaged, `RecipeError` for a name that the
    Hub does not take.
    """
    if not HUB_ID.fullmatch(repository) or "/" not in repository:
        raise RecipeError([f"--to {repository}: must be a name of the Hub, such as org/name"])
    manifest = read_manifest(directory)
    verify_artifact(directory, manifest)
    names = sorted([*manifest["files"], MANIFEST])
    return Upload(
        directory,
        repository,
        _version(manifest),
        {name: (directory / name).stat().st_size for name in names},
    )


def push(upload: Upload, *, private: bool, create_pr: bool, revision: str | None) -> str:
    """Send the files of `upload` in one commit, and return its address.

    The token is the one that `hf auth login` keeps, or HF_TOKEN. Raises `EnvironmentMismatch` where
    the Hub cannot be reached or refuses, `RecipeError` for a change to a branch.
    """
    if create_pr and revision is not None:
        raise RecipeError(["--revision: a change is proposed to the main branch; leave one out"])
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

    api = HfApi(library_name="compressor")
    try:
        if not create_pr:  # who proposes a change often has no right to create anything
            api.create_repo(upload.repository, private=private, exist_ok=True)
        sent = api.create_commit(
            upload.repository,
            [
                CommitOperationAdd(path_in_repo=name, path_or_fileobj=upload.directory / name)
                for name in upload.files
            ],
            commit_message=f"Compressed model {upload.version}",
            create_pr=create_pr,
            revision=revision,
        )
    except LocalTokenNotFoundError as error:
        raise EnvironmentMismatch(
            f"{upload.repository}: nobody is logged in to the Hub; run hf auth login, or set "
            f"HF_TOKEN"
        ) from error
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise EnvironmentMismatch(
            f"{upload.repository}: the Hub did not take it ({shortened(error, _MOST_SHOWN)}); "
            f"nothing is half there, since all files are one commit: log in with a token that may "
            f"write (hf auth login), propose a change with --create-pr, or try again"
        ) from error
    return str(sent.pr_url or sent.commit_url)


def pack(directory: Path, output: Path) -> tuple[Path, str]:
    """Write the artifact as one file, `.tar.zst`, and its SHA-256 beside it, as sha256sum reads it.

    The same artifact gives the same bytes. Raises `EnvironmentMismatch` where the artifact is
    damaged or the file cannot be written, `RecipeError` for a name that ends otherwise.
    """
    if not output.name.endswith(".tar.zst"):
        raise RecipeError([f"--output {output}: must end in .tar.zst"])
    manifest = read_manifest(directory)
    verify_artifact(directory, manifest)
    name = output.name.removesuffix(".tar.zst")
    try:
        with _compressed(output) as stream, tarfile.open(fileobj=stream, mode="w|") as archive:
            for member in sorted([*manifest["files"], MANIFEST]):
                link = _link_inside(directory, member, manifest["files"])
                _add(archive, directory / member, f"{name}/{member}", link)
        digest = sha256(output)
        output.with_name(f"{output.name}.sha256").write_text(
            f"{digest}  {output.name}\n", encoding="utf-8"
        )
    except OSError as error:
        raise EnvironmentMismatch(
            f"--output {output}: cannot be written ({error.strerror or error}); give a file in a "
            f"directory that exists and has room"
        ) from error
    return output, digest


def _version(manifest: dict[str, Any]) -> str:
    """Return the first digits of what covers everything in an artifact."""
    own = manifest.get("manifest_sha256")
    return str(own or hashlib.sha256(repr(manifest).encode()).hexdigest())[:_VERSION_LENGTH]


@contextmanager
def _compressed(output: Path) -> Iterator[IO[bytes]]:
    """Yield what compresses into `output`, which is there whole in the end or not at all."""
    import zstandard

    partial = output.with_name(f".{output.name}.partial")
    try:
        with (
            partial.open("wb") as target,
            zstandard.ZstdCompressor(level=10).stream_writer(target) as stream,
        ):
            yield stream
        partial.replace(output)
    finally:
        partial.unlink(missing_ok=True)


def _link_inside(directory: Path, member: str, files: Container[str]) -> str | None:
    """Return where a member points, if that is one of the `files`, as the Hub's cache does not."""
    path = directory / member
    if not path.is_symlink():
        return None
    target = path.readlink()
    inside = Path(os.path.normpath(Path(member).parent / target)).as_posix()
    return target.as_posix() if inside in files else None


def _add(archive: tarfile.TarFile, path: Path, name: str, link: str | None) -> None:
    """Add a file, or a `link` to one beside it, without what only this machine knows."""
    entry = tarfile.TarInfo(PurePosixPath(name).as_posix())
    entry.mode = 0o644
    if link is not None:
        entry.type, entry.linkname = tarfile.SYMTYPE, link
        archive.addfile(entry)
        return
    with path.open("rb") as content:
        entry.size = path.stat().st_size
        archive.addfile(entry, content)
