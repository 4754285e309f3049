from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from compressor.data import Dataset, DataSettings, fingerprint, load_splits
from compressor.data.splits import plan_cuts
from compressor.errors import RecipeError
from compressor.tasks.columns import ImageColumns, SentenceColumns, TextColumns

Reviews = Callable[[str, int], Path]
Write = Callable[[str, str], Path]
Settings = Callable[..., DataSettings]
ALL = ("train", "calibration", "search", "certification")


def load(
    settings: DataSettings, *needed: str, seed: int = 0, spare_rows: int = 0
) -> dict[str, Dataset]:
    return load_splits(
        settings,
        label_names=("negative", "positive"),
        columns=TextColumns(),
        needed=needed or ALL,
        seed=seed,
        spare_rows=spare_rows,
    )


def mistakes_of(settings: DataSettings, *needed: str) -> tuple[str, ...]:
    with pytest.raises(RecipeError) as caught:
        load(settings, *needed)
    return caught.value.mistakes


def sizes(splits: dict[str, Dataset]) -> dict[str, int]:
    return {name: len(split) for name, split in splits.items()}


def positives(split: Dataset) -> int:
    assert split.labels is not None
    return int(split.labels.sum())


@pytest.mark.parametrize(
    ("given", "needed", "expected"),
    [
        (ALL, ALL, {}),
        (
            ("train",),
            ALL,
            {"calibration": "train", "search": "train", "certification": "train"},
        ),
        (
            ("search",),
            ALL,
            {"train": "search", "calibration": "search", "certification": "search"},
        ),
        (("train", "search"), ("search", "certification"), {"certification": "search"}),
        (("certification",), ("search",), {"search": "certification"}),
        (
            ("certification",),
            ("train", "search"),
            dict.fromkeys(("train", "search"), "certification"),
        ),
        (("search", "certification"), ("train",), {"train": "search"}),
        (("train", "search"), ("search",), {}),
    ],
)
def test_each_missing_split_has_one_donor(
    given: Sequence[str], needed: Sequence[str], expected: dict[str, str]
) -> None:
    assert plan_cuts(given, needed) == expected


def test_every_split_that_cannot_be_had_is_reported() -> None:
    with pytest.raises(RecipeError) as caught:
        plan_cuts(("calibration",), ALL)
    assert [line.split(":")[0] for line in caught.value.mistakes] == [
        "data.train",
        "data.search",
        "data.certification",
    ]


def test_given_splits_are_read_as_they_are(settings: Settings, reviews: Reviews) -> None:
    paths = {name: reviews(f"{name}.tsv", 8) for name in ALL}
    splits = load(settings(**paths))
    assert splits["search"].examples[:2] == ("search.tsv review 0", "search.tsv review 1")
    assert splits["search"].labels is not None
    assert splits["search"].labels.tolist() == [1, 0, 0, 0, 1, 0, 0, 0]
    assert splits["search"].rows.tolist() == list(range(8))
    assert splits["search"].source == str(paths["search"])
    assert [split.cut_from for split in splits.values()] == [None] * 4


def test_search_and_certification_share_a_file_half_and_half(
    settings: Settings, reviews: Reviews
) -> None:
    splits = load(settings(search=reviews("dev.tsv", 80)), "search", "certification")
    assert sizes(splits) == {"search": 40, "certification": 40}
    assert {name: positives(split) for name, split in splits.items()} == {
        "search": 10,
        "certification": 10,
    }
    assert splits["certification"].cut_from == "search"
    assert splits["search"].cut_from is None


def test_cuts_from_train_take_a_fifth_each(settings: Settings, reviews: Reviews) -> None:
    splits = load(settings(train=reviews("train.tsv", 100)))
    assert sizes(splits) == {"train": 40, "calibration": 20, "search": 20, "certification": 20}
    assert {name: positives(split) for name, split in splits.items()} == {
        "train": 10,
        "calibration": 5,
        "search": 5,
        "certification": 5,
    }


def test_a_lone_search_file_is_shared_by_all(settings: Settings, reviews: Reviews) -> None:
    splits = load(settings(search=reviews("dev.tsv", 90)))
    assert sizes(splits) == {"train": 24, "calibration": 18, "search": 24, "certification": 24}


def test_cuts_never_overlap_and_lose_no_row(settings: Settings, reviews: Reviews) -> None:
    splits = load(settings(train=reviews("train.tsv", 103)))
    rows = np.concatenate([split.rows for split in splits.values()])
    assert sorted(rows.tolist()) == list(range(103))
    texts = [text for split in splits.values() for text in split.examples]
    assert len(set(texts)) == 103


def test_calibration_takes_at_most_512_rows(settings: Settings, reviews: Reviews) -> None:
    splits = load(settings(train=reviews("train.tsv", 4000)), "train", "calibration")
    assert sizes(splits) == {"train": 3488, "calibration": 512}


@pytest.mark.parametrize(("wanted", "found"), [(700, 700), (2048, 800)])
def test_calibration_is_as_large_as_asked_for_up_to_a_fifth_of_train(
    settings: Settings, reviews: Reviews, wanted: int, found: int
) -> None:
    splits = load_splits(
        settings(train=reviews("train.tsv", 4000)),
        label_names=("negative", "positive"),
        columns=TextColumns(),
        needed=("train", "calibration"),
        seed=0,
        calibration_rows=wanted,
    )
    assert sizes(splits) == {"train": 4000 - found, "calibration": found}


def test_many_calibration_rows_leave_equal_shares_of_the_rest(
    settings: Settings, reviews: Reviews
) -> None:
    splits = load_splits(
        settings(search=reviews("search.tsv", 4000)),
        label_names=("negative", "positive"),
        columns=TextColumns(),
        needed=("train", "calibration", "search"),
        seed=0,
        calibration_rows=8192,
    )
    assert sizes(splits) == {"train": 1600, "calibration": 800, "search": 1600}


def test_splits_that_are_not_needed_are_neither_cut_nor_read(
    settings: Settings, reviews: Reviews, tmp_path: Path
) -> None:
    data = settings(search=reviews("dev.tsv", 10), train=tmp_path / "absent.tsv")
    assert sizes(load(data, "search")) == {"search": 10}


def test_the_same_seed_gives_the_same_rows_and_another_seed_others(
    settings: Settings, reviews: Reviews
) -> None:
    data = settings(train=reviews("train.tsv", 100))
    first, again, other = load(data), load(data), load(data, seed=1)
    assert [split.rows.tolist() for split in first.values()] == [
        split.rows.tolist() for split in again.values()
    ]
    assert first["search"].rows.tolist() != other["search"].rows.tolist()


def test_max_rows_draws_a_stratified_sample_and_says_so(
    settings: Settings, reviews: Reviews
) -> None:
    path = reviews("train.tsv", 100)
    [split] = load(settings(train={"path": path, "max_rows": 20}), "train").values()
    assert (len(split), positives(split)) == (20, 5)
    assert split.source == f"{path} (20 of 100 rows, sampled by label with seed 0)"


def test_max_rows_above_the_size_changes_nothing(settings: Settings, reviews: Reviews) -> None:
    path = reviews("train.tsv", 10)
    [split] = load(settings(train={"path": path, "max_rows": 20}), "train").values()
    assert (len(split), split.source) == (10, str(path))


def test_a_file_too_small_to_cut_is_a_mistake(settings: Settings, reviews: Reviews) -> None:
    [mistake] = mistakes_of(settings(train=reviews("train.tsv", 3)))
    assert "has 3 rows, too few to cut calibration and search and certification" in mistake


def test_train_and_calibration_may_lack_labels(settings: Settings, write: Write) -> None:
    path = write("train.tsv", "text\na\nb\nc\n")
    assert load(settings(train=path), "train")["train"].labels is None


def test_what_judges_needs_labels(settings: Settings, write: Write) -> None:
    path = write("dev.tsv", "text\na\nb\n")
    assert mistakes_of(settings(search=path), "search") == (
        f"data.search: {path}: no column 'label' (columns: text)",
    )


def test_a_donor_of_what_judges_needs_labels(settings: Settings, write: Write) -> None:
    path = write("train.tsv", "text\na\nb\nc\n")
    [mistake] = mistakes_of(settings(train=path), "train", "search")
    assert mistake.startswith("data.train: ")


def test_the_mistakes_of_all_splits_are_reported_together(settings: Settings, write: Write) -> None:
    train = write("train.tsv", "label\ttext\n5\ta\n")
    search = write("dev.tsv", "label\ttext\nmaybe\ta\n")
    found = mistakes_of(settings(train=train, search=search), "train", "search")
    assert [line.split(" label ")[0] for line in found] == [
        f"data.train: {train}:2:",
        f"data.search: {search}:2:",
    ]


@pytest.mark.parametrize(("name", "text"), [("a.tsv", "label\ttext\n"), ("a.jsonl", "\n")])
def test_an_empty_split_is_a_mistake(
    settings: Settings, write: Write, name: str, text: str
) -> None:
    path = write(name, text)
    assert mistakes_of(settings(search=path), "search") == (f"data.search: {path}: has no rows",)


def test_columns_of_another_input_are_a_mistake(settings: Settings, reviews: Reviews) -> None:
    data = settings({"image": "picture"}, search=reviews("dev.tsv", 4))
    assert mistakes_of(data, "search") == (
        "data.search: the column of the image is set, but the model reads text; set `text` instead",
    )


def test_pairs_of_texts_become_tuples(settings: Settings, write: Write) -> None:
    path = write("dev.csv", "a,b,gold\nx,y,positive\n")
    data = settings({"text": ["a", "b"], "label": "gold"}, search=path)
    assert load(data, "search")["search"].examples == (("x", "y"),)


def test_a_split_is_not_cut_from_rows_that_another_split_reads(
    settings: Settings, reviews: Reviews
) -> None:
    path = reviews("all.tsv", 40)
    data = settings(train=path, search=path)
    assert sizes(load(data, "train", "search", "calibration")) == {
        "train": 32,
        "calibration": 8,
        "search": 40,
    }
    assert mistakes_of(data, "train", "search", "certification") == (
        "data.certification: cannot be cut from data.search, whose rows data.train reads too; give "
        "data.certification a source of its own, or leave data.train out",
    )


def test_columns_may_differ_between_splits(settings: Settings, write: Write) -> None:
    train = {"path": write("train.tsv", "label\tcontent\n1\tx\n"), "text": "content"}
    data = settings(
        {"text": "sentence"}, train=train, search=write("dev.tsv", "label\tsentence\n0\ty\n")
    )
    splits = load(data, "train", "search")
    assert (splits["train"].examples, splits["search"].examples) == (("x",), ("y",))


def test_the_parts_of_the_digits_are_fixed_and_name_rows_of_the_whole(settings: Settings) -> None:
    parts = [
        load_splits(
            settings({"image": "image"}, search={"sklearn": "digits", "split": part}),
            label_names=[str(digit) for digit in range(10)],
            columns=ImageColumns(),
            needed=("search",),
            seed=seed,
        )["search"]
        for part, seed in (("train", 0), ("test", 0), ("test", 1))
    ]
    assert [len(part) for part in parts] == [1297, 500, 500]
    assert sorted(np.concatenate([parts[0].rows, parts[1].rows])) == list(range(1797))
    assert fingerprint(parts[1]) == fingerprint(parts[2])
    digits = load_digits()
    assert parts[1].labels is not None
    assert parts[1].labels.tolist() == digits.target[parts[1].rows].tolist()
    image = parts[1].examples[7]
    assert isinstance(image, np.ndarray)
    assert np.abs(image / 255 * 16 - digits.images[parts[1].rows[7]]).max() <= 0.5 * 16 / 255


def test_digits_are_images_with_their_labels(settings: Settings) -> None:
    splits = load_splits(
        settings(train={"sklearn": "digits", "max_rows": 200}),
        label_names=[str(digit) for digit in range(10)],
        columns=ImageColumns(),
        needed=("train", "search"),
        seed=0,
    )
    assert sizes(splits) == {"train": 160, "search": 40}
    assert splits["search"].labels is not None
    assert set(np.bincount(splits["search"].labels).tolist()) <= {3, 4, 5}
    image = splits["search"].examples[0]
    assert isinstance(image, np.ndarray)
    assert (image.shape, image.dtype) == ((8, 8), np.uint8)


def make(examples: tuple[object, ...], labels: list[int] | None = None) -> Dataset:
    ids = None if labels is None else np.array(labels, dtype=np.int64)
    return Dataset("search", examples, ids, np.arange(len(examples)), "here")  # type: ignore[arg-type]


def test_a_fingerprint_depends_on_content_alone() -> None:
    first = make(("a", "b"), [0, 1])
    moved = dataclasses.replace(first, name="train", source="there", cut_from="search")
    assert fingerprint(first) == fingerprint(moved)
    assert len(fingerprint(first)) == 64


@pytest.mark.parametrize(
    "other",
    [
        make(("b", "a"), [0, 1]),
        make(("a", "b"), [1, 1]),
        make(("a", "b")),
        make(("ab", ""), [0, 1]),
        make((("a", "b"),), [0]),
    ],
)
def test_a_fingerprint_tells_different_rows_apart(other: Dataset) -> None:
    assert fingerprint(make(("a", "b"), [0, 1])) != fingerprint(other)


def test_a_fingerprint_tells_images_of_different_shape_apart() -> None:
    flat, square = np.zeros((1, 4), np.uint8), np.zeros((2, 2), np.uint8)
    assert fingerprint(make((flat,))) != fingerprint(make((square,)))


def test_a_split_needs_no_labels_where_nothing_is_held_against_them(
    settings: Settings, write: Write
) -> None:
    data = settings(search=write("texts.csv", "text\na film\nanother film\n"))
    with pytest.raises(RecipeError, match=r"data\.search: .*no column 'label'"):
        load(data, "search")
    found = load_splits(
        data,
        label_names=("negative", "positive"),
        columns=TextColumns(),
        needed=("search",),
        seed=0,
        labelled=False,
    )
    assert found["search"].labels is None


def test_further_columns_are_kept_for_the_split_that_asks_for_them(
    settings: Settings, write: Write
) -> None:
    rows = "text,label,source\na film,0,web\na book,1,print\nb film,0,web\nb book,1,print\n"
    data = settings(search=write("rows.csv", rows))
    common = {"label_names": ("negative", "positive"), "columns": TextColumns(), "seed": 0}
    found = load_splits(
        data, needed=("search", "certification"), keep={"certification": ("source",)}, **common
    )
    assert found["search"].columns == {}
    cut = found["certification"]
    assert cut.columns == {"source": tuple("print" if label else "web" for label in cut.labels)}
    with pytest.raises(RecipeError, match="no column 'sourse', did you mean 'source'"):
        load_splits(data, needed=("search",), keep={"search": ("sourse",)}, **common)


def graded(write: Write, text: str) -> DataSettings:
    return DataSettings.model_validate(
        {"text": ["a", "b"], "label": "grade", "search": {"path": write("pairs.csv", text)}}
    )


def load_pairs(settings: DataSettings, *, graded: bool) -> Dataset:
    return load_splits(
        settings,
        label_names=(),
        columns=SentenceColumns("grades" if graded else "nothing"),
        needed=("search",),
        seed=0,
        keep={"search": ("b",)},
    )["search"]


def test_a_graded_pair_is_two_texts_and_one_grade(write: Write):
    split = load_pairs(graded(write, "a,b,grade\nx,y,4.5\nz,w,0\n"), graded=True)
    assert split.examples == ("x", "y", "z", "w")
    assert split.rows.tolist() == [0, 0, 1, 1]
    assert split.grades is not None
    assert split.grades.tolist() == [4.5, 0.0]
    assert split.labels is None
    assert split.columns == {"b": ("y", "y", "w", "w")}


def test_grades_are_not_read_where_nothing_asks_for_them(write: Write):
    split = load_pairs(graded(write, "a,b,grade\nx,y,much\nz,w,little\n"), graded=False)
    assert (split.grades, split.labels) == (None, None)


def test_the_fingerprint_depends_on_the_grades(write: Write):
    first = load_pairs(graded(write, "a,b,grade\nx,y,4\nz,w,0\n"), graded=True)
    second = load_pairs(graded(write, "a,b,grade\nx,y,4\nz,w,1\n"), graded=True)
    assert fingerprint(first) != fingerprint(second)


@pytest.mark.parametrize(
    ("rows", "mistake"),
    [
        ("x,y,4\nz,w,high\n", "grade must be a number, got 'high'"),
        ("x,y,4\nz,w,nan\n", "grade must be a number"),
        ("x,y,4\nz,w,\n", "grade must be a number"),
        ("x,y,4\nz,w,4\n", "grade is 4 in every row"),
    ],
)
def test_a_grade_that_says_nothing_is_refused(write: Write, rows: str, mistake: str):
    with pytest.raises(RecipeError, match=mistake):
        load_pairs(graded(write, f"a,b,grade\n{rows}"), graded=True)


def test_a_grade_of_a_single_text_is_refused(write: Write):
    settings = graded(write, "a,b,grade\nx,y,4\nz,w,1\n").model_copy(update={"text": "a"})
    with pytest.raises(RecipeError, match=r"data\.search: text: the grade is that of a pair"):
        load_pairs(settings, graded=True)


def test_few_calibration_rows_have_spare_ones_of_train(
    settings: Settings, reviews: Reviews
) -> None:
    data = settings(train=reviews("all.tsv", 40), search=reviews("dev.tsv", 10))
    found = load(data, "train", "calibration", "search", spare_rows=20)
    spare = found["calibration"].spare
    assert spare is not None
    assert (len(found["calibration"]), len(spare)) == (8, 12)
    assert set(spare.rows.tolist()) <= set(found["train"].rows.tolist())
    assert load(data, "calibration", "search", spare_rows=20)["calibration"].spare is not None


def test_train_is_read_for_spare_rows_alone_where_calibration_has_very_few(
    settings: Settings, reviews: Reviews
) -> None:
    sources = {"train": reviews("all.tsv", 60), "search": reviews("dev.tsv", 10)}
    few = settings(**sources, calibration=reviews("few.tsv", 3))
    enough = settings(**sources, calibration=reviews("enough.tsv", 32))
    found = load(few, "calibration", "search", spare_rows=32)
    spare = found["calibration"].spare
    assert spare is not None
    assert (len(spare), spare.labels, sorted(found)) == (29, None, ["calibration", "search"])
    assert load(enough, "calibration", "search", spare_rows=100)["calibration"].spare is None


def test_where_calibration_rows_suffice_or_train_is_not_read_none_are_spare(
    settings: Settings, reviews: Reviews
) -> None:
    train = reviews("all.tsv", 40)
    enough = load(settings(train=train), "train", "calibration", spare_rows=8)
    lone = load(settings(search=train), "search", "calibration", spare_rows=20)
    assert enough["calibration"].spare is None
    assert lone["calibration"].spare is None  # nothing that judges is read to prune
