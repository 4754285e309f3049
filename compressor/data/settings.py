"""The recipe's `data`: where the rows of each split come from and which columns matter."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from compressor.data.media_folder import MEDIA, Media
from compressor.errors import RecipeError
from compressor.own_code import Reference
from compressor.paths import HubName, LocalPath
from compressor.setting_errors import Mistake, first_repeated, names_shown, rule_error

FileFormat = Literal["csv", "tsv", "jsonl", "parquet", "conll", "npz"]
# Whether cells may be in quotes, which are then no part of them.
Quoting = Literal["none", "csv"]
Word = Annotated[str, StringConstraints(min_length=1)]

_ORIGINS = ("path", "images", "sounds", "hub", "sklearn", "builtin", "qrels")
_INPUTS = ("text", "image", "audio")  # keys that name the column of the input
SPLIT_NAMES = ("train", "calibration", "search", "certification")
_FORMATS: dict[str, FileFormat] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
    ".conll": "conll",
    ".npz": "npz",
}
_DIGITS_SPLITS = ("train", "test")
_SENTENCES = Path(__file__).parent / "sentences"
_SENTENCES_SPLITS = ("calibration", "search", "certification")
Columns = Word | tuple[Word, Word]
# A column of labels, or one for each of several labels that can hold at once.
LabelColumns = Word | Annotated[tuple[Word, ...], Field(min_length=2)]


class SplitSource(BaseModel):
    """Where the rows of one split come from: exactly one of the origins.

    These are `path`, `images`, `sounds`, `hub`, `sklearn`, `builtin` and `qrels`, which comes with
    `queries` and `corpus`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: LocalPath | None = Field(
        default=None,
        description="file of rows, relative to the recipe: .csv, .tsv, .jsonl, .ndjson or .json "
        "(one object a line, or one array of objects), .parquet, .conll (one token a line, a blank "
        "line between sentences; its first column is `text`, its last one `label`, and each is "
        "also `column_1`, `column_2` and so on), .npz (NumPy arrays by name, such as `image` of "
        "shape (rows, height, width, 3) and `label`)",
    )
    format: FileFormat | None = Field(
        default=None, description="format of `path`, for a file whose extension does not tell"
    )
    images: LocalPath | None = Field(
        default=None,
        description="folder of images, relative to the recipe: one folder for each class, whose "
        "name is the `label`, or images alone; their paths are in the column `image`",
    )
    # Left out of what is written where it is not given, so that other recipes stay as they were.
    sounds: LocalPath | None = Field(
        default=None,
        exclude_if=lambda value: value is None,
        description="folder of WAV files, relative to the recipe: one folder for each class, whose "
        "name is the `label`, or files alone; their paths are in the column `audio`",
    )
    quoting: Quoting | None = Field(
        default=None,
        description="whether cells of a csv or tsv file may be in quotes, which are then no part "
        "of them: csv (as in RFC 4180) or none; left out, csv for csv files, and for tsv files "
        "what alone fits the file, an error where both do",
    )
    hub: HubName | None = Field(
        default=None, description="dataset id on the Hub, or a local folder of csv or parquet files"
    )
    subset: Word | None = Field(default=None, description="configuration of the `hub` dataset")
    split: Word | None = Field(
        default=None,
        description="split of the `hub` dataset, such as validation; of `sklearn` the fixed parts "
        "train (1297 images) and test (500), left out: both; of `builtin` calibration, search or "
        "certification, which share no text",
    )
    revision: Word | None = Field(
        default=None, description="branch, tag or commit of the `hub` dataset"
    )
    sklearn: Literal["digits"] | None = Field(
        default=None,
        description="dataset that scikit-learn carries: 1797 grey images of 8x8 pixels",
    )
    builtin: Literal["sentences"] | None = Field(
        default=None,
        description="rows that this package carries: English sentences of WordNet 3.0, without "
        "labels, in the column `text`",
    )
    qrels: LocalPath | None = Field(
        default=None,
        description="file that says which documents are relevant to which queries, in BEIR's "
        "layout: the columns query-id, corpus-id and score, the higher the more relevant, 0 for "
        "not relevant; the queries that it names are the rows",
    )
    queries: LocalPath | None = Field(
        default=None,
        description="with `qrels`, file of the queries: the columns _id (or id, query_id) and "
        "text; those that `qrels` does not name are passed over",
    )
    corpus: LocalPath | None = Field(
        default=None,
        description="with `qrels`, file of the documents: the columns _id (or id, doc_id) and "
        "text, and title, which stands before the text, where there is one",
    )
    max_documents: int | None = Field(
        default=None,
        gt=0,
        description="with `qrels`, documents searched at most: those that are relevant to a query "
        "of the split, and others, the same in every split; left out, all of them",
    )
    max_rows: int | None = Field(
        default=None, gt=0, description="rows used at most, a seeded sample stratified by label"
    )
    text: Columns | None = Field(
        default=None, description="column of the text in this split, where it is not `data.text`"
    )
    prompt_name: Word | None = Field(
        default=None,
        description="for sentence-embedding, which of the checkpoint's prompts stands before each "
        "text of this split, such as query; left out, its default, if it has one",
    )
    image: Word | None = Field(
        default=None, description="column of the image in this split, where it is not `data.image`"
    )
    # Left out of what is written where it is not given, so that other recipes stay as they were.
    audio: Word | None = Field(
        default=None,
        exclude_if=lambda value: value is None,
        description="column of the sound in this split, where it is not `data.audio`",
    )
    label: LabelColumns | None = Field(
        default=None, description="column of the label in this split, where it is not `data.label`"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        mistakes = [*self._origin_mistakes(), *self._format_mistakes()]
        if mistakes:
            raise rule_error(mistakes)
        return self

    def _origin_mistakes(self) -> Iterator[Mistake]:
        given = [name for name in _ORIGINS if getattr(self, name) is not None]
        if len(given) != 1:
            got = " and ".join(given) or "none of them"
            origins = f"{', '.join(_ORIGINS[:-1])} and {_ORIGINS[-1]}"
            yield Mistake((), f"needs exactly one of {origins}, got {got}")
        owners = {
            "format": ("path",),
            "quoting": ("path",),
            "subset": ("hub",),
            "split": ("hub", "sklearn", "builtin"),
            "revision": ("hub",),
            "queries": ("qrels",),
            "corpus": ("qrels",),
            "max_documents": ("qrels",),
        }
        for name, allowed in owners.items():
            if getattr(self, name) is not None and not set(allowed) & set(given):
                yield Mistake((name,), f"belongs to {' or '.join(allowed)}, which is not given")
        if self.qrels is not None:
            for name in ("queries", "corpus"):
                if getattr(self, name) is None:
                    yield Mistake((name,), "is missing, and qrels alone holds no texts; give it")
            for name in ("text", "image", "audio", "label"):
                if getattr(self, name) is not None:
                    yield Mistake(
                        (name,), "names a column, and those of qrels are fixed; remove it"
                    )
            if self.prompt_name is not None:
                yield Mistake(("prompt_name",), "queries and documents have their own; remove it")
        if self.sklearn is not None and self.split not in (None, *_DIGITS_SPLITS):
            choices = " or ".join(_DIGITS_SPLITS)
            yield Mistake(("split",), f"of {self.sklearn} must be {choices}, got '{self.split}'")
        if self.builtin is not None and self.split not in _SENTENCES_SPLITS:
            choices = " or ".join(_SENTENCES_SPLITS)
            got = "got none" if self.split is None else f"got '{self.split}'"
            yield Mistake(("split",), f"of {self.builtin} must be {choices}, {got}")

    def _format_mistakes(self) -> Iterator[Mistake]:
        for name in ("qrels", "queries", "corpus"):
            file: Path | None = getattr(self, name)
            if file is not None and file.suffix.lower() not in _FORMATS:
                yield Mistake(
                    (name,),
                    f"cannot tell the format from the extension '{file.suffix}'; rename the file "
                    f"to one of {', '.join(_FORMATS)}",
                )
        file_format = None
        if self.path is not None:
            file_format = self.format or _FORMATS.get(self.path.suffix.lower())
        if self.quoting is not None and file_format in ("jsonl", "parquet", "conll", "npz"):
            yield Mistake(("quoting",), f"belongs to csv and tsv, and the file is {file_format}")
        if self.path is None or self.format is not None or self.path.suffix.lower() in _FORMATS:
            return
        told = (
            f"cannot tell the format from the extension '{self.path.suffix}'; rename the file to "
            f"one of {', '.join(_FORMATS)} or set `format`"
        )
        if not self.path.suffix:
            told = (
                f"has no extension, so its format is not known; give a file that ends in one of "
                f"{', '.join(_FORMATS)} or set `format`; a folder that datasets' save_to_disk "
                f"wrote becomes such a file by load_from_disk(...).to_parquet('rows.parquet')"
            )
        yield Mistake(("path",), told)

    @property
    def files(self) -> tuple[Path, ...]:
        """Return the files that hold the rows, where they lie in files of this machine."""
        found = (self.path, self.packaged_file, self.qrels, self.queries, self.corpus)
        return tuple(file for file in found if file is not None)

    @property
    def folder(self) -> tuple[Media, Path] | None:
        """Return the folder whose files are the rows, and what they are; None for other origins."""
        for key, media in MEDIA.items():
            place: Path | None = getattr(self, key)
            if place is not None:
                return media, place
        return None

    @property
    def tables(self) -> dict[str, SplitSource]:
        """Return each of the files of `qrels` as a source of its own, by its key."""
        keys = ("qrels", "queries", "corpus") if self.qrels is not None else ()
        return {key: SplitSource(path=getattr(self, key)) for key in keys}

    @property
    def packaged_file(self) -> Path | None:
        """Return the tsv file, without quotes, that this package carries for `builtin`."""
        return None if self.builtin is None else _SENTENCES / f"{self.split}.tsv"

    @property
    def file_format(self) -> FileFormat:
        """Return the format of `path`; raises `ValueError` for a source without one."""
        if self.path is None:
            raise ValueError(f"{self.name} is not a file")
        return self.format or _FORMATS[self.path.suffix.lower()]

    @property
    def name(self) -> str:
        """Return what errors and reports call this source."""
        if self.hub is not None:
            parts = (self.hub, self.subset, self.split, self.revision and f"@{self.revision}")
            return f"hub:{':'.join(part for part in parts if part)}"
        if self.sklearn is not None:
            return f"sklearn:{self.sklearn}" + (f":{self.split}" if self.split else "")
        if self.builtin is not None:
            return f"builtin:{self.builtin}:{self.split}"
        return str(self.path or self.images or self.sounds or self.qrels)

    def shares_rows_with(self, other: SplitSource) -> bool:
        """Return whether both name the same rows, as far as names can tell."""
        if self.sklearn is not None and self.sklearn == other.sklearn:
            return self.split is None or other.split is None or self.split == other.split
        fields = (*_ORIGINS, "subset", "split", "revision")
        return all(getattr(self, name) == getattr(other, name) for name in fields)


class DataSettings(BaseModel):
    """The recipe's `data`: columns, labels and the four splits.

    A split that a run needs but that is not given here is cut from another one, as
    `compressor.data.load_splits` documents.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    text: Columns | None = Field(
        default=None,
        description="column of the text, or a list of two columns for pairs; left out, `text`",
    )
    image: Word | None = Field(
        default=None,
        description="column of the image, a path relative to the data file or encoded bytes; "
        "left out, `image`",
    )
    audio: Word | None = Field(
        default=None,
        exclude_if=lambda value: value is None,
        description="column of the sound, a path of a WAV file relative to the data file or its "
        "bytes; left out, `audio`",
    )
    label: LabelColumns = Field(
        default="label",
        description="column of the label: class ids or the checkpoint's label names; for "
        "text-scoring numbers, the higher the better; for multi-label-classification lists, or in "
        "place of one column a list of columns, one with 0 or 1 for each label, which is its name",
    )
    group: Word | None = Field(
        default=None,
        description="for text-scoring, column that is the same in all rows of one query, such as "
        "its id; they are ranked among themselves, and no cut of a split parts them; left out, the "
        "first text of a pair, and single texts stand for themselves",
    )
    label_names: tuple[Word, ...] | None = Field(
        default=None,
        min_length=1,
        description="the data's names, or its numbers as text, for class 0, 1, ... of the "
        "checkpoint, where they differ from the checkpoint's; for token classification also the "
        "checkpoint's tags in the order of the data's class ids",
    )
    max_length: int | None = Field(
        default=None,
        ge=2,
        description="tokens of a text that are read while the run trains, calibrates and "
        "measures, at most; longer texts are cut, or read in windows for token classification; "
        "left out, as many as the artifact reads (`export.max_length`)",
    )
    preprocess: Reference | None = Field(
        default=None,
        exclude_if=lambda value: value is None,  # recipes of before are written as they were
        description="function of your own that every row of every split goes through when it is "
        "read, such as my_rows.py:clean: a row as a dict in, one out, or None to leave it out; it "
        "runs with --allow-code alone",
    )
    train: SplitSource | None = Field(
        default=None,
        description="rows that passes train on; left out, an equal share of search is set apart, "
        "else of certification",
    )
    calibration: SplitSource | None = Field(
        default=None,
        description="rows that passes measure the model on, such as ranges of activations and "
        "least squares, without labels; left out, 20% of train, else of search, at most 512 rows "
        "or as many as a pass reads",
    )
    search: SplitSource | None = Field(
        default=None,
        description="rows that the gate after each pass reads; left out, an equal share of "
        "certification, else 20% of train",
    )
    certification: SplitSource | None = Field(
        default=None,
        description="rows read once, at the end, to prove the budget; left out, nothing is proven",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        mistakes = [*self._column_mistakes(), *self._split_mistakes()]
        if mistakes:
            raise rule_error(mistakes)
        return self

    def _column_mistakes(self) -> Iterator[Mistake]:
        given = [name for name in _INPUTS if getattr(self, name) is not None]
        if len(given) > 1:
            both = " and ".join(given[:2])
            yield Mistake((given[1],), f"{both} are both given; a model reads one of them")
        if self.preprocess is not None:
            for name, source in self.given.items():
                if source.qrels is not None:
                    yield Mistake(
                        ("preprocess",),
                        f"goes through rows of one file, and data.{name} reads qrels, queries and "
                        f"corpus; write the files as they should be, and remove it",
                    )
        if (twice := first_repeated(self.label_names or ())) is not None:
            yield Mistake(
                ("label_names",), f"names must differ, {names_shown([twice])} appears twice"
            )
        labels: dict[tuple[str, ...], LabelColumns] = {("label",): self.label}
        labels |= {(name, "label"): source.label or "" for name, source in self.given.items()}
        for place, columns in labels.items():
            named = () if isinstance(columns, str) else columns
            if (twice := first_repeated(named)) is not None:
                yield Mistake(place, f"columns must differ, {names_shown([twice])} appears twice")

    def _split_mistakes(self) -> Iterator[Mistake]:
        given = self.given
        if not set(given) - {"calibration"}:
            yield Mistake((), "needs at least one of the splits train, search and certification")
        for name, source in given.items():
            certification = self.certification
            if name == "certification" or certification is None:
                continue
            if source.shares_rows_with(certification):
                yield Mistake(
                    ("certification",),
                    f"reads the same rows as data.{name}, but rows that were used before certify "
                    f"nothing; give it rows of its own, or leave it out, and nothing is proven",
                )

    @property
    def given(self) -> dict[str, SplitSource]:
        """Return the splits that have a source, in their usual order."""
        sources = {name: getattr(self, name) for name in SPLIT_NAMES}
        return {name: source for name, source in sources.items() if source is not None}

    @property
    def prompt_names(self) -> dict[str, str]:
        """Return the names of prompts that splits ask for, by their keys in the recipe."""
        return {
            f"data.{name}.prompt_name": source.prompt_name
            for name, source in self.given.items()
            if source.prompt_name is not None
        }

    def input_columns(self, source: SplitSource, input_column: str) -> tuple[str, ...]:
        """Return the columns of `source` that hold the input, such as `text`: one or two.

        Raises `RecipeError` when the settings name the other kind of input.
        """
        for other in _INPUTS:
            is_set = getattr(self, other) is not None or getattr(source, other) is not None
            if other != input_column and is_set:
                raise RecipeError(
                    f"the column of the {other} is set, but the model reads {input_column}; "
                    f"set `{input_column}` instead"
                )
        named = getattr(source, input_column) or getattr(self, input_column) or input_column
        return (named,) if isinstance(named, str) else named

    def label_columns(self, source: SplitSource | None) -> tuple[str, ...]:
        """Return the column of `source` that holds the label, or one for each label."""
        named = (source and source.label) or self.label
        return (named,) if isinstance(named, str) else named

    def label_column(self, source: SplitSource | None) -> str:
        """Return what the label is called: its column, or the names of several.

        None stands for a source that names none.
        """
        return ", ".join(self.label_columns(source))
