"""Reads rows from files, the Hub, scikit-learn and this package into columns of plain values.

pyarrow, datasets and scikit-learn are imported where their format needs them: they take up to a
second each, and `compress validate` reads headers of text files only.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from compressor.data.arrays import array_names, read_arrays
from compressor.data.conll import read_conll, read_conll_header
from compressor.data.media_folder import media_columns, read_media_folder
from compressor.data.row_files import ROWS_AT_ONCE, is_large, stored_arrays
from compressor.data.sampling import sample_rows
from compressor.data.settings import SplitSource
from compressor.data.text_files import read_text_file, read_text_header
from compressor.errors import EnvironmentMismatch, RecipeError
from compressor.machine.quiet import bars_loaded
from compressor.paths import HUB_ID, is_folder, no_folder, special_files, unreadable
from compressor.tasks.table import Table, choose_columns, require_each_once

_DIGITS_TEST_ROWS = 500
_DIGITS_COLUMNS = ("image", "label")
_LISTS = ("Sequence", "List", "LargeList")  # what datasets calls its lists, release by release


def read_table(source: SplitSource, required: Sequence[str], optional: Sequence[str]) -> Table:
    """Read the `required` columns, and the `optional` ones that are there.

    Raises `EnvironmentMismatch` when the source is missing or damaged, `RecipeError` when a column
    does not exist or a row is malformed.
    """
    if source.sklearn is not None:
        return _read_digits(source, required, optional)
    if (packaged := source.packaged_file) is not None:
        table = read_text_file(packaged, "tsv", required, optional, quoting="none")
        return replace(table, name=source.name)
    if (found := source.folder) is not None:
        media, folder = found
        return read_media_folder(folder, media, required, optional)
    if source.path is None:
        return _read_hub(source, required, optional)
    _require_readable(source.path)
    if source.file_format == "parquet":
        return _read_parquet(source.path, required, optional)
    if source.file_format == "conll":
        return read_conll(source.path, required, optional)
    if source.file_format == "npz":
        return read_arrays(source.path, required, optional)
    return read_text_file(
        source.path, source.file_format, required, optional, quoting=source.quoting
    )


def read_header(source: SplitSource) -> list[str]:
    """Return the columns of rows on this machine without reading them.

    Raises as `read_table` does.
    """
    if (packaged := source.packaged_file) is not None:
        return read_text_header(packaged, "tsv", quoting="none")
    if source.sklearn is not None:
        return list(_DIGITS_COLUMNS)
    if (found := source.folder) is not None:
        media, folder = found
        return media_columns(folder, media)
    if source.path is None:
        raise ValueError(f"{source.name} is not a file")
    _require_readable(source.path)
    if source.file_format == "conll":
        return read_conll_header(source.path)
    if source.file_format == "npz":
        return array_names(source.path)
    if source.file_format != "parquet":
        return read_text_header(source.path, source.file_format, quoting=source.quoting)
    import pyarrow.parquet

    with _damage_named(source.path), pyarrow.parquet.ParquetFile(source.path) as file:
        return list(file.schema_arrow.names)


def column_names(source: SplitSource) -> list[str]:
    """Return all columns of a source, wherever its rows lie; raises as `read_table` does."""
    if source.hub is None:
        return read_header(source)
    return list(_load_hub(source).column_names)


def named_files(source: SplitSource) -> list[Path]:
    """Return the files of images and sounds that the rows of a file name, in their order.

    Raises as `read_table` does.
    """
    found = []
    present = read_header(source)
    for column in (source.image or "image", source.audio or "audio"):
        if column not in present:
            continue
        table = read_table(source, (column,), ())
        for value in table.columns[column]:
            name = value.get("path") if isinstance(value, dict) else value
            if isinstance(name, str) and name:
                found.append((table.directory or Path()) / name)
    return found


def parquet_rows(path: Path) -> int:
    """Return how many rows a parquet file has; raises `EnvironmentMismatch` for a damaged one."""
    import pyarrow.parquet

    _require_readable(path)
    with _damage_named(path), pyarrow.parquet.ParquetFile(path) as file:
        return int(file.metadata.num_rows)


def _require_readable(path: Path) -> None:
    reason = unreadable(path)
    if reason is not None:
        raise EnvironmentMismatch(f"{path}: {reason}; give a file of rows")


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, OSError) as error:
        raise EnvironmentMismatch(
            f"{path}: cannot be read as parquet ({error}); if it exists, it is damaged or of "
            f"another format: copy it again"
        ) from error


def _read_parquet(path: Path, required: Sequence[str], optional: Sequence[str]) -> Table:
    import pyarrow.parquet

    with _damage_named(path), pyarrow.parquet.ParquetFile(path) as file:
        require_each_once(str(path), file.schema_arrow.names)
        chosen = choose_columns(str(path), list(file.schema_arrow.names), required, optional)
        groups = range(file.metadata.num_row_groups)
        size = sum(file.metadata.row_group(group).total_byte_size for group in groups)
        if is_large(size) and chosen:
            return Table(str(path), _stored_parquet(path, chosen), directory=path.parent)
        table = file.read(columns=chosen)
        columns = {name: _parquet_column(path, table, name) for name in chosen}
        classes = _class_names(path, file.schema_arrow.metadata)
    for name in classes.keys() & columns.keys():
        columns[name] = [
            _class_names_of(f"{path}: row {row} (the first is 0): {name}", value, classes[name])
            for row, value in enumerate(columns[name])
        ]
    return Table(str(path), columns, directory=path.parent)


def _stored_parquet(path: Path, names: Sequence[str]) -> dict[str, Sequence[Any]]:
    """Return columns of a large file, a batch of which is in memory at a time."""
    import pyarrow.parquet

    # With a buffer, what is read of a group of rows is no more than is needed next.
    with pyarrow.parquet.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False) as file:
        schema = file.schema_arrow
        classes = _class_names(path, schema.metadata)
        batches = file.iter_batches(batch_size=ROWS_AT_ONCE, columns=list(names))
        return _stored(str(path), names, schema, classes, batches, path)


def _stored(
    name: str,
    names: Sequence[str],
    schema: Any,
    classes: Mapping[str, Sequence[str]],
    batches: Iterable[Any],
    path: Path | None,
) -> dict[str, Sequence[Any]]:
    """Return columns of pyarrow batches from a file, class ids by their names.

    Raises as `_parquet_column` does for a value that cannot be read, where there is a `path`.
    """
    import pyarrow

    kinds = {item: _kind_with_names(schema.field(item).type, item in classes) for item in names}

    def arrays() -> Iterator[dict[str, Any]]:
        start = 0
        for batch in batches:
            found = {item: batch.column(item) for item in names}
            for item, array in found.items():
                values = array.to_pylist() if path is None else _parquet_column(path, batch, item)
                if item in classes:
                    named = [
                        _class_names_of(
                            f"{name}: row {row} (the first is 0): {item}", value, classes[item]
                        )
                        for row, value in enumerate(values, start=start)
                    ]
                    found[item] = pyarrow.array(named, type=kinds[item])
                elif pyarrow.types.is_dictionary(array.type):
                    found[item] = array.dictionary_decode()
            start += len(batch)
            yield found

    return stored_arrays(names, kinds, arrays())


def _kind_with_names(kind: Any, has_names: bool) -> Any:
    """Return the type of a column as it is kept: names in place of class ids, maybe in lists."""
    import pyarrow

    if not has_names:
        return kind.value_type if pyarrow.types.is_dictionary(kind) else kind
    if pyarrow.types.is_nested(kind):
        return pyarrow.list_(_kind_with_names(kind.value_type, has_names))
    return pyarrow.string()


def _class_names(path: Path, metadata: Mapping[bytes, bytes] | None) -> dict[str, list[str]]:
    """Return the names of the classes of each column of ids that `datasets` wrote with them.

    They lie beside the columns in the schema: without them the ids would have the data set's order,
    whatever that of the checkpoint is.
    """
    text = (metadata or {}).get(b"huggingface")
    if text is None:
        return {}
    try:
        features = (json.loads(text).get("info") or {}).get("features") or {}
        found = {name: _class_label(feature) for name, feature in features.items()}
        return {
            name: list(map(str, feature["names"]))
            for name, feature in found.items()
            if feature is not None
        }
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError) as error:
        raise EnvironmentMismatch(
            f"{path}: what its schema says about features cannot be read ({error!r}); write the "
            f"file again"
        ) from error


def _class_label(feature: Any) -> Mapping[str, Any] | None:
    """Return what a schema says of class ids, by themselves or in lists; None of anything else."""
    while isinstance(feature, list) and len(feature) == 1:  # how older releases write a list
        feature = feature[0]
    if not isinstance(feature, dict):
        return None
    if feature.get("_type") in _LISTS:
        return _class_label(feature["feature"])
    return feature if feature.get("_type") == "ClassLabel" else None


def _class_names_of(place: str, value: Any, names: Sequence[str]) -> Any:
    """Return the name of a class id, or the names of a list of them."""
    if isinstance(value, list):
        return [_class_names_of(place, item, names) for item in value]
    return _class_name(place, value, names)


def _class_name(place: str, value: Any, names: Sequence[str]) -> Any:
    if not isinstance(value, int) or isinstance(value, bool):
        return value
    if value >= len(names):
        raise RecipeError(
            f"{place} {value} is outside 0..{len(names) - 1}, the classes that the file's schema "
            f"names ({', '.join(names[:6])})"
        )
    return names[value] if value >= 0 else None  # -1 marks rows whose label is kept secret


def _parquet_column(path: Path, table: Any, name: str) -> list[Any]:
    try:
        values: list[Any] = table.column(name).to_pylist()
    except (UnicodeDecodeError, OverflowError) as error:  # such as bytes that are said to be text
        raise RecipeError(
            f"{path}: column '{name}' holds a value that cannot be read ({error}); write the file "
            f"again without it"
        ) from error
    return values


def check_folder(source: SplitSource) -> None:
    """Check that a `hub` source that is no name on the Hub is a folder that can be read.

    Raises `EnvironmentMismatch` when it is missing or holds pipes or devices, `RecipeError` when it
    was written by `save_to_disk`.
    """
    folder = Path(str(source.hub))
    if not is_folder(folder):
        if HUB_ID.fullmatch(str(source.hub)):
            return  # a dataset on the Hub
        raise EnvironmentMismatch(
            f"{folder}: {no_folder(folder)}; `hub` is a dataset on the Hub, such as org/name, or a "
            f"folder of csv, parquet or image files, relative to the recipe"
        )
    if (special := next(special_files(folder), None)) is not None:
        raise EnvironmentMismatch(f"{special}, and reading it might never end; remove it")
    if unreadable(folder / "state.json") is None and any(folder.glob("*.arrow")):
        raise RecipeError(
            f"{source.name}: is a folder that save_to_disk wrote; write its rows with "
            f"`datasets.load_from_disk('{source.hub}').to_parquet('rows.parquet')` and give that "
            f"file as `path`"
        )


def _read_hub(source: SplitSource, required: Sequence[str], optional: Sequence[str]) -> Table:
    loaded = _load_hub(source)
    chosen = choose_columns(source.name, loaded.column_names, required, optional)
    if is_large(loaded.data.nbytes) and chosen:
        columns = _stored_hub(loaded, source, chosen)
    else:
        columns = {name: _hub_column(loaded, source, name) for name in chosen}
    return Table(source.name, columns, directory=Path(str(source.hub)))


def _stored_hub(loaded: Any, source: SplitSource, names: Sequence[str]) -> dict[str, Sequence[Any]]:
    """Return columns of a large dataset, whose own map of its file is closed again."""
    import datasets

    table = loaded.select_columns(list(names)).flatten_indices().data.table
    classes = {}
    for name in names:
        feature = loaded.features[name]
        while isinstance(feature, datasets.List | datasets.LargeList):
            feature = feature.feature
        if isinstance(feature, datasets.ClassLabel):
            classes[name] = feature.names
    batches = table.to_batches(max_chunksize=ROWS_AT_ONCE)
    return _stored(source.name, names, table.schema, classes, batches, None)


def _load_hub(source: SplitSource) -> Any:
    check_folder(source)
    import datasets

    bars_loaded(datasets.utils)
    try:
        loaded = datasets.load_dataset(
            source.hub,
            name=source.subset,
            split=source.split,
            revision=source.revision,
            **_as_written(source),
        )
    except ValueError as error:  # an unknown split or subset; the text lists the known ones
        raise RecipeError(f"{source.name}: {error}") from error
    except (datasets.exceptions.DatasetsError, OSError, RuntimeError) as error:
        raise EnvironmentMismatch(
            f"{source.name}: cannot be loaded ({type(error).__name__}: {error}); check the name, "
            f"the network and HF_TOKEN"
        ) from error
    if isinstance(loaded, datasets.DatasetDict):
        raise RecipeError(
            f"{source.name}: `split` is missing (the dataset has: {', '.join(loaded)})"
        )
    return loaded


def _as_written(source: SplitSource) -> dict[str, Any]:
    """Return the options with which a dataset of csv files is read as its text stands there.

    pandas would make a missing value of the texts NA, null and nan, and a number of 007.
    """
    import datasets
    from datasets.packaged_modules.csv.csv import CsvConfig

    builder = datasets.load_dataset_builder(
        source.hub, name=source.subset, revision=source.revision
    )
    if not isinstance(builder.config, CsvConfig):
        return {}
    options: dict[str, Any] = {"keep_default_na": False, "na_values": []}
    if is_folder(Path(str(source.hub))):
        # Converters name columns, which for files on the Hub would mean to fetch them first.
        files = [Path(file) for found in builder.config.data_files.values() for file in found]
        separator = builder.config.sep
        names = {name for file in files for name in _csv_names(file, separator)}
        options["converters"] = dict.fromkeys(sorted(names), str)
    return options


def _csv_names(path: Path, separator: str) -> list[str]:
    with path.open(encoding="utf-8-sig", newline="") as stream:
        return next(csv.reader(stream, delimiter=separator), [])


def _hub_column(loaded: Any, source: SplitSource, name: str) -> list[Any]:
    """Return a column as plain values: class ids by names, images and sounds as their bytes."""
    import datasets

    feature = loaded.features[name]
    if isinstance(feature, datasets.Image | datasets.Audio):
        loaded = loaded.cast_column(name, type(feature)(decode=False))
    values = list(loaded[name])
    while isinstance(feature, datasets.List | datasets.LargeList):
        feature = feature.feature
    if isinstance(feature, datasets.ClassLabel):
        return [
            _class_names_of(
                f"{source.name}: row {row} (the first is 0): {name}", value, feature.names
            )
            for row, value in enumerate(values)
        ]
    return values


def _read_digits(source: SplitSource, required: Sequence[str], optional: Sequence[str]) -> Table:
    from sklearn.datasets import load_digits

    digits = load_digits()
    rows = np.arange(len(digits.target), dtype=np.int64)
    if source.split is not None:
        # The same for every run, whatever its seed: a model trained on `train` never saw `test`.
        test = sample_rows(rows, digits.target, _DIGITS_TEST_ROWS, seed=0, purpose="digits.test")
        rows = test if source.split == "test" else np.setdiff1d(rows, test)
    images = np.rint(digits.images[rows] * (255 / 16)).astype(np.uint8)  # (rows, 8, 8), from 0..16
    values = (list(images), digits.target[rows].tolist())
    present = dict(zip(_DIGITS_COLUMNS, values, strict=True))
    chosen = choose_columns(source.name, list(present), required, optional)
    return Table(source.name, {name: present[name] for name in chosen}, positions=rows)
