from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from compressor.data import DataSettings, SplitSource
from compressor.errors import RecipeError


def mistakes_of(model: type[Any], data: dict[str, Any]) -> list[tuple[tuple[Any, ...], str]]:
    with pytest.raises(ValidationError) as caught:
        model.model_validate(data)
    return [(item["loc"], item["msg"]) for item in caught.value.errors()]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.csv", "csv"),
        ("a.TSV", "tsv"),
        ("a.jsonl", "jsonl"),
        ("a.ndjson", "jsonl"),
        ("a.json", "jsonl"),
        ("a.parquet", "parquet"),
    ],
)
def test_the_extension_tells_the_format(name: str, expected: str) -> None:
    assert SplitSource(path=Path(name)).file_format == expected


def test_format_overrides_the_extension() -> None:
    assert SplitSource(path=Path("a.txt"), format="tsv").file_format == "tsv"


@pytest.mark.parametrize(
    ("data", "place", "part"),
    [
        (
            {},
            (),
            "exactly one of path, images, sounds, hub, sklearn, builtin and qrels, got none",
        ),
        ({"path": "a.csv", "sklearn": "digits"}, (), "got path and sklearn"),
        ({"path": "a.txt"}, ("path",), "the extension '.txt'"),
        ({"path": "saved"}, ("path",), "load_from_disk(...).to_parquet('rows.parquet')"),
        ({"path": "a.csv", "subset": "x"}, ("subset",), "belongs to hub, which is not given"),
        ({"path": "a.csv", "split": "x"}, ("split",), "belongs to hub or sklearn"),
        ({"hub": "org/name", "format": "csv"}, ("format",), "belongs to path"),
        ({"sklearn": "digits", "split": "dev"}, ("split",), "must be train or test, got 'dev'"),
        ({"path": "a.csv", "max_rows": 0}, ("max_rows",), "greater than 0"),
        ({"sklearn": "iris"}, ("sklearn",), "digits"),
        ({"builtin": "sentence", "split": "search"}, ("builtin",), "sentences"),
        ({"builtin": "sentences"}, ("split",), "calibration or search or certification, got none"),
        ({"builtin": "sentences", "split": "dev"}, ("split",), "got 'dev'"),
        ({"builtin": "sentences", "split": "search", "path": "a.csv"}, (), "got path and builtin"),
    ],
)
def test_a_source_that_is_not_one_origin_is_a_mistake(
    data: dict[str, Any], place: tuple[str, ...], part: str
) -> None:
    [(loc, message)] = mistakes_of(SplitSource, data)
    assert loc == place
    assert part in message


@pytest.mark.parametrize(
    ("data", "place", "part"),
    [
        ({}, (), "at least one of the splits train, search and certification"),
        ({"calibration": {"path": "a.csv"}}, (), "at least one of the splits"),
        ({"search": {"path": "a.csv"}, "text": "a", "image": "b"}, ("image",), "both given"),
        (
            {"search": {"path": "a.csv"}, "label_names": ["x", "y", "x"]},
            ("label_names",),
            "x appears twice",
        ),
        (
            {"search": {"path": "a.csv", "max_rows": 5}, "certification": {"path": "a.csv"}},
            ("certification",),
            "reads the same rows as data.search",
        ),
        (
            {
                "train": {"sklearn": "digits"},
                "certification": {"sklearn": "digits", "split": "test"},
            },
            ("certification",),
            "reads the same rows as data.train",
        ),
        ({"search": {"path": "a.csv"}, "max_length": 1}, ("max_length",), "equal to 2"),
    ],
)
def test_contradictory_data_settings_are_mistakes(
    data: dict[str, Any], place: tuple[str, ...], part: str
) -> None:
    [(loc, message)] = mistakes_of(DataSettings, data)
    assert loc == place
    assert part in message


def test_splits_other_than_certification_may_share_rows() -> None:
    source = SplitSource(path=Path("a.csv"))
    assert list(DataSettings(train=source, search=source).given) == ["train", "search"]


def test_the_parts_of_the_digits_share_no_rows() -> None:
    train = SplitSource(sklearn="digits", split="train")
    test = SplitSource(sklearn="digits", split="test")
    assert list(DataSettings(train=train, certification=test).given) == ["train", "certification"]


def test_a_part_of_the_sentences_shares_rows_with_itself_alone() -> None:
    search = SplitSource(builtin="sentences", split="search")
    assert search.shares_rows_with(SplitSource(builtin="sentences", split="search"))
    assert not search.shares_rows_with(SplitSource(builtin="sentences", split="certification"))


DIGITS = SplitSource(sklearn="digits")


def test_input_columns_default_to_the_name_of_the_input() -> None:
    assert DataSettings(train=DIGITS).input_columns(DIGITS, "image") == ("image",)


def test_a_pair_of_texts_has_two_columns() -> None:
    settings = DataSettings(text=("premise", "hypothesis"), train=DIGITS)
    assert settings.input_columns(DIGITS, "text") == ("premise", "hypothesis")


def test_a_split_may_name_its_columns_differently() -> None:
    source = SplitSource(path=Path("a.csv"), text="content", label="gold")
    settings = DataSettings(text="sentence", train=source)
    assert settings.input_columns(source, "text") == ("content",)
    assert settings.label_column(source) == "gold"
    assert settings.label_column(DIGITS) == "label"


def test_columns_for_another_kind_of_model_are_refused() -> None:
    settings = DataSettings(text="sentence", train=DIGITS)
    with pytest.raises(RecipeError) as caught:
        settings.input_columns(DIGITS, "image")
    assert caught.value.mistakes == (
        "the column of the text is set, but the model reads image; set `image` instead",
    )


def test_a_hub_source_is_named_with_all_that_selects_its_rows() -> None:
    source = SplitSource(hub="glue", subset="sst2", split="validation", revision="v1")
    assert source.name == "hub:glue:sst2:validation:@v1"
