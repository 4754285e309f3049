from __future__ import annotations

from pathlib import Path

import pytest

from compressor.paths import resolve_name, resolve_path


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
