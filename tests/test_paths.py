from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from compressor.paths import (
    exists,
    is_folder,
    no_folder,
    resolve_name,
    resolve_path,
    special_files,
    unreadable,
    unwritable,
)


def test_relative_paths_are_relative_to_the_base(tmp_path: Path) -> None:
    base = tmp_path / "recipes"
    base.mkdir()
    assert resolve_path(Path("../data/dev.tsv"), base) == tmp_path / "data" / "dev.tsv"


def test_absolute_paths_stay(tmp_path: Path) -> None:
    assert resolve_path(Path("/data/dev.tsv"), tmp_path) == Path("/data/dev.tsv")


def test_without_a_base_a_relative_path_stays_relative() -> None:
    assert resolve_path(Path("data/dev.tsv"), None) == Path("data/dev.tsv")


def test_a_tilde_is_the_home_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert resolve_path(Path("~/dev.tsv"), tmp_path) == Path("/home/me/dev.tsv")


def test_an_unknown_home_is_a_value_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot expand '~' in ~no-such-user-here/x"):
        resolve_path(Path("~no-such-user-here/x"), tmp_path)


@pytest.mark.parametrize("name", ["builtin:digits-vit", "org/name", "bert-base-uncased"])
def test_names_that_are_no_directory_stay(name: str, tmp_path: Path) -> None:
    assert resolve_name(name, tmp_path) == name


@pytest.mark.parametrize("name", ["./model", "a/b/c", "models/x/"])
def test_names_that_cannot_be_hub_ids_become_paths(name: str, tmp_path: Path) -> None:
    assert resolve_name(name, tmp_path) == str(tmp_path / name.removeprefix("./")).rstrip("/")


def test_an_existing_directory_wins_over_a_hub_id(tmp_path: Path) -> None:
    (tmp_path / "org" / "name").mkdir(parents=True)
    assert resolve_name("org/name", tmp_path) == str(tmp_path / "org" / "name")


def test_a_regular_file_is_readable_up_to_its_limit(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("12345")
    assert unreadable(path, largest=5) is None
    assert unreadable(path, largest=4) == "holds 5 bytes, more than the 4 that are read at most"


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """Return a directory with one of everything that is no file."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("x")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("absent", "does not exist"),
        ("pipe", "is a named pipe, not a file"),
        ("zero", "is a device, not a file"),
        ("loop", "is a symbolic link that leads back to itself"),
        ("dangling", "is a symbolic link to something that does not exist"),
        ("folder", "is a directory, not a file"),
        ("file/below", "does not exist, because a part of its path is a file"),
        ("x" * 300, "is a longer path than this system has"),
        ("a\0b", "holds a NUL character, which no path can"),
        ("\ud800", "holds half of a surrogate pair, which no path can"),
    ],
)
def test_what_is_no_readable_file_is_named_without_being_opened(
    odd: Path, name: str, reason: str
) -> None:
    assert unreadable(odd / name) == reason


def test_a_file_that_may_not_be_opened_is_unreadable(
    odd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: object, flags: int) -> int:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(os, "open", refuse)  # root may open every file
    assert unreadable(odd / "file") == "cannot be opened (permission denied)"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("folder", None),
        ("file", "is a file, not a directory"),
        ("pipe", "is a named pipe, not a directory"),
        ("loop", "is a symbolic link that leads back to itself"),
    ],
)
def test_what_is_no_directory_is_named(odd: Path, name: str, reason: str | None) -> None:
    assert no_folder(odd / name) == reason


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("new", None),
        ("file", None),
        ("folder", "is a directory, not a file"),
        ("pipe", "is a named pipe, not a file"),
        ("zero", "is a device, not a file"),
        ("loop", "is a symbolic link that leads back to itself"),
    ],
)
def test_what_no_file_can_be_written_to_is_named(odd: Path, name: str, reason: str | None) -> None:
    assert unwritable(odd / name) == reason


def test_special_files_are_found_at_every_depth_and_links_in_a_circle_end(odd: Path) -> None:
    (odd / "folder" / "back").symlink_to(odd)
    os.mkfifo(odd / "folder" / "inner")
    assert set(special_files(odd)) == {
        f"{odd / 'pipe'} is a named pipe",
        f"{odd / 'zero'} is a device",
        f"{odd / 'folder' / 'inner'} is a named pipe",
    }
    assert len(list(special_files(odd, depth=1))) == 2


def test_a_base_that_is_a_circle_of_links_still_gives_a_path(odd: Path) -> None:
    assert resolve_path(Path("dev.tsv"), odd / "loop") == odd / "loop" / "dev.tsv"
    assert not exists(odd / "loop")
    assert not is_folder(odd / ("x" * 300))
