"""Reads the files that a starter recipe is for, and guesses what their columns hold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from compressor.data.check import file_source
from compressor.data.judged import read_judged
from compressor.data.media_folder import MEDIA, Media
from compressor.data.readers import read_header, read_table
from compressor.data.settings import Quoting, SplitSource
from compressor.errors import RecipeError
from compressor.paths import is_folder
from compressor.starter.columns import Asked, Guess, guess
from compressor.starter.folder_splits import folder_splits
from compressor.starter.judged import judged_source, splits_in
from compressor.starter.render import SourceFacts
from compressor.tasks import Example, Task
from compressor.tasks.columns import Columns
from compressor.tasks.table import Table

_MIN_ROWS = 2  # with one, a single prediction would be the whole score


@dataclass(frozen=True)
class Wishes:
    """What the user said about the data; left out, it is guessed."""

    inputs: tuple[str, ...] = ()
    label: str | None = None
    label_names: tuple[str, ...] = ()
    metric: str | None = None  # of the budget; one of the user's own as file.py:function
    quoting: Quoting | None = None  # of csv and tsv files
    task: str | None = None  # where it is not what the checkpoint's architecture is for


NO_WISHES = Wishes()


@dataclass(frozen=True)
class Given:
    """The files or folders that the user gave, by what their rows are for."""

    search: Path
    train: Path | None = None
    certification: Path | None = None

    def in_parts(self, task: Task) -> Given:
        """Return the same with what a folder for search has for the other splits too.

        Raises `RecipeError` where nothing in it says what is to judge, and where one file is given
        for two splits.
        """
        given = self
        if is_folder(self.search):
            found = (splits_in if _media(task) is None else folder_splits)(self.search)
            given = Given(
                found["search"],
                self.train or found.get("train"),
                self.certification or found.get("certification"),
            )
        given._require_different()
        return given

    def _require_different(self) -> None:
        seen = {self.search.resolve(): "--data"}
        for flag, path in (("--train", self.train), ("--certification", self.certification)):
            if path is None:
                continue
            if (other := seen.get(path.resolve())) is not None:
                raise RecipeError(
                    f"{flag}: {path} is the file of {other} too, and rows that were trained on or "
                    f"judged by before prove nothing; give rows of their own, or leave {flag} out"
                )
            seen[path.resolve()] = flag


@dataclass(frozen=True)
class Sources:
    """The rows that judge, and what is known of the files of all splits."""

    table: Table
    search: SourceFacts
    train: SourceFacts | None
    certification: SourceFacts | None

    @property
    def donor(self) -> SourceFacts:
        """Return the file that calibration rows are cut from."""
        return self.search if self.train is None else self.train

    def texts(self, task: Task) -> list[Example]:
        """Return the texts that judge, each for itself: of pairs both, of queries documents too.

        Of a task that reads no tokens, what the cells hold.
        """
        inputs = self.search.guess.inputs
        if not task.reads_tokens:
            return [str(value) for column in inputs for value in self.table.columns[column]]
        columns = read_columns(task)
        if judged := self.table.judged:  # with the documents, which are longer
            return [*(item.text for item in judged), *judged[0].corpus.documents.values()]
        found = columns.examples(self.table, inputs, range(len(self.table)))
        return [part for example in found for part in columns.texts_apart(example)]

    def examples(self, task: Task) -> Iterator[Example]:
        """Yield the examples that judge, none of which is read before it is asked for."""
        rows = range(len(self.table))
        yield from read_columns(task).examples(self.table, self.search.guess.inputs, rows)


def read_sources(given: Given, task: Task, labels: tuple[str, ...], wishes: Wishes) -> Sources:
    """Return what the files hold, whose splits have the same names of labels.

    Raises `RecipeError` for what cannot be guessed, `EnvironmentMismatch` for what cannot be read.
    """
    search, table = _look(given.search, labels, wishes, task)

    def other(path: Path | None) -> SourceFacts | None:
        if path is None:
            return None
        # Each file may call its columns differently; what was given by name is for `search`.
        found, rows = _look(path, labels, _for_other(path, wishes, task), task)
        if read_columns(task).names_labels:
            _require_same_names(found, rows, search, labels)
        return found

    return Sources(table, search, other(given.train), other(given.certification))


def read_columns(task: Task) -> Columns:
    """Return how a task reads rows, whatever it is scored by."""
    return task.columns(task.metrics[0].name)


def _require_same_names(
    other: SourceFacts, rows: Table, searched: SourceFacts, labels: Sequence[str]
) -> None:
    """Raise `RecipeError` where a file calls a class otherwise than the one of `searched`."""
    label = other.guess.label
    if label is None or searched.guess.label is None or not isinstance(label, str):
        return  # columns of labels are found by the names
    names = searched.guess.label_names or labels
    cells = rows.columns[label]
    found = [value for cell in cells for value in (cell if isinstance(cell, list) else [cell])]
    unknown = sorted({str(value) for value in found}.difference(names))
    if unknown and not all(value.isdigit() for value in unknown):  # ids are read beside any names
        raise RecipeError(
            f"{other.path}: column '{label}' holds {', '.join(unknown[:6])}, {searched.path} calls "
            f"the classes {', '.join(names)}, and a recipe has one data.label_names; make the "
            f"labels of one file like the other's"
        )


def _look(
    path: Path, labels: Sequence[str], wishes: Wishes, task: Task
) -> tuple[SourceFacts, Table]:
    if (judged := judged_source(path)) is not None and read_columns(task).reads_relevance:
        table = read_judged(judged, read_header, read_table)
        found = Guess(("text",), None, searches=True)
        return SourceFacts(path, len(table), found, source=judged), table
    source = _source(path, wishes, task)
    header = read_header(source)
    table = read_table(source, header, ())
    if len(table) < _MIN_ROWS:
        rows = "1 row" if len(table) == 1 else f"{len(table)} rows"
        raise RecipeError(f"{path}: has {rows}, at least {_MIN_ROWS} are needed")
    asked = Asked(tuple(labels), wishes.inputs, wishes.label, wishes.label_names)
    found = guess(read_columns(task).holds, str(path), table.columns, asked)
    return SourceFacts(path, len(table), found, source.quoting), table


def _media(task: Task) -> Media | None:
    """Return what a folder of a task's inputs holds; None where they have no files of their own."""
    return next((media for media in MEDIA.values() if media.column == task.input_column), None)


def _source(path: Path, wishes: Wishes, task: Task) -> SplitSource:
    """Return the source for a file or a folder of images or sounds.

    What was said of quotes is for files that have separators.
    """
    if is_folder(path) and (media := _media(task)) is not None:
        return SplitSource.model_validate({media.nouns: path})
    source = file_source(path)
    if wishes.quoting is None or source.file_format not in ("csv", "tsv"):
        return source
    return file_source(path, wishes.quoting)


def _for_other(path: Path, wishes: Wishes, task: Task) -> Wishes:
    """Return the wishes that fit another file: columns that it lacks are guessed there."""
    header = set(read_header(_source(path, wishes, task)))
    return Wishes(
        inputs=wishes.inputs if header.issuperset(wishes.inputs) else (),
        label=wishes.label if wishes.label in header else None,
        label_names=wishes.label_names,
        quoting=wishes.quoting,
    )
