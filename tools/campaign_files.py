"""Cases of data files, artifacts, ONNX files, reports, finished steps, and launchers."""

from __future__ import annotations

import copy
import csv
import gzip
import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import onnx
import pyarrow as pa
import pyarrow.parquet as pq
from campaign_commands import Workshop, cli, load_and_answer, reads_all, same_answers, score
from campaign_recipes import RECIPE, plain_recipe, write_recipe
from campaign_subjects import probes
from campaign_trials import ANY, EITHER, LONG_S, NOT_THERE, PASSES, REFUSED, Case, Trial
from mutations import ODD_VALUES, brief, mutate_bytes, mutate_text, mutate_tree, to_json

Rows = list[dict[str, Any]]
Written = tuple[bytes, str, frozenset[int], str]  # content, what, what may come, extension
LABELS = ("negative", "positive")
# Of rows in an unusual form: refused, or read whole.
WHOLE = frozenset((0, 2, 3))


def data_case(shop: Workshop, number: int) -> Case:
    """Return a mutated file of rows, given to `validate`, `init` and `run`."""
    draw = shop.draw
    (shop.folder / "bert").symlink_to(shop.subjects.checkpoint)
    with shop.subjects.rows.open(newline="", encoding="utf-8") as stream:
        rows: Rows = [{"text": row["text"], "label": int(row["label"])}
                      for row in csv.DictReader(stream)]  # fmt: skip
    content, change, allowed, extension = draw.choice(_DATA)(rows, draw)
    name = f"data{extension}"
    (shop.folder / name).write_bytes(content)
    tree = plain_recipe("bert", {"text": "text", "label": "label", "search": {"path": name}})
    write_recipe(shop, tree)
    # Where the rows are right, each of them has to be read as it was written.
    check = reads_all(len(rows)) if allowed in (PASSES, WHOLE) else None
    place = (name, "data.", "budget.")
    reads = allowed | {0} if allowed != PASSES else PASSES
    trials = [
        Trial("validate", cli("validate", RECIPE), reads, place),
        Trial("run until export", score(RECIPE), allowed, place, 10, check=check),
    ]
    if draw.random() < 0.4:
        words = ("init", "bert", "--data", name, "--output", "made.yaml")
        trials.append(Trial("init", cli(*words), ANY, place, 10))
    return Case("data", number, f"{name}: {change}", tuple(trials))


def _file_of(rows: Rows, extension: str) -> bytes:
    """Return rows as other programs write them."""
    if extension == ".jsonl":
        return "".join(json.dumps(row) + "\n" for row in rows).encode()
    if extension == ".parquet":
        return _parquet(pa.Table.from_pylist(rows))
    stream = io.StringIO()
    names = list(dict.fromkeys(name for row in rows for name in row))
    separator = "\t" if extension == ".tsv" else ","
    writer = csv.DictWriter(stream, names, delimiter=separator, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue().encode()


def _parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def _any_format(draw: Random) -> str:
    return draw.choice((".csv", ".tsv", ".jsonl", ".parquet"))


def _damaged(rows: Rows, draw: Random) -> Written:
    extension = _any_format(draw)
    content = _file_of(rows, extension)
    change = mutate_bytes if extension == ".parquet" or draw.random() < 0.5 else mutate_text
    content, what = change(content, draw)
    return content, what, ANY, extension


def _label(rows: Rows, draw: Random) -> Written:
    """Give one row, or all, a label that is none."""
    extension = draw.choice((".csv", ".tsv", ".jsonl"))
    value: Any = draw.choice(
        ("", "nan", "NaN", "2", "-1", "1.5", "positiv", " 1", "True", "9" * 30, "é")
    )
    if extension == ".jsonl" and draw.random() < 0.6:
        value = draw.choice((None, 2, -1, 1.5, float("nan"), True, [0], {"a": 1}, 2**70, 10**400))
    changed = copy.deepcopy(rows)
    index = draw.randrange(len(rows))
    changed[index]["label"] = value
    return _file_of(changed, extension), f"label {brief(value)} in row {index}", EITHER, extension


def _cell(rows: Rows, draw: Random) -> Written:
    """Give one row a text that is none, or is odd."""
    extension = draw.choice((".csv", ".jsonl"))
    missing = draw.random() < 0.5
    value: Any = draw.choice(
        ("", "  ", "\t")
        if missing
        else (
            "x" * 300_000,
            "a\u0000b",
            "\u202e",
            "🙂" * 500,
            "=1+1",
            "a\rb",
            "[CLS] [SEP] [PAD]",
            "\u0301",
        )
    )
    if missing and extension == ".jsonl":
        value = draw.choice((None, 7, ["a", "b"], {"a": "b"}, True, "\ud800", float("nan")))
    changed = copy.deepcopy(rows)
    index = draw.randrange(len(rows))
    changed[index]["text"] = value
    return _file_of(changed, extension), f"text {brief(value)} in row {index}", \
        EITHER if missing else ANY, extension  # fmt: skip


def _columns(rows: Rows, draw: Random) -> Written:
    extension = _any_format(draw)
    kind = draw.choice(("renamed", "missing", "case", "blank", "index", "many", "other order"))
    if kind == "other order":
        made: Rows = [{"label": row["label"], "id": index, "text": row["text"]}
                      for index, row in enumerate(rows)]  # fmt: skip
        return _file_of(made, extension), "columns in another order, one more", PASSES, extension
    if kind == "many":
        wide = {f"c{index}": "1" for index in range(50_000)}
        made = [{**row, **wide} for row in rows[:20]]
        extension = ".csv" if extension == ".parquet" else extension
        return _file_of(made, extension), "50,000 more columns", ANY, extension
    old = draw.choice(("text", "label"))
    new = {"renamed": f"{old}s", "missing": "", "case": old.upper(), "blank": f" {old}",
           "index": "Unnamed: 0"}[kind]  # fmt: skip
    made = []
    for row in rows:
        changed = {key: value for key, value in row.items() if key != old}
        made.append({**changed, new: row[old]} if new else changed)
    return _file_of(made, extension), f"column {old} {kind}", EITHER, extension


def _form(rows: Rows, draw: Random) -> Written:
    """Write the rows in a way of other programs: right ones must be read, wrong ones refused."""
    plain = _file_of(rows, ".csv")
    lines = _file_of(rows, ".jsonl")
    few: Callable[[int], bytes] = lambda count: _file_of(rows[:count], ".csv")  # noqa: E731
    quoted = io.StringIO()
    csv.writer(quoted, quoting=csv.QUOTE_ALL, lineterminator="\r\n").writerows(
        [("text", "label"), *((row["text"], row["label"]) for row in rows)]
    )
    accents = copy.deepcopy(rows)
    accents[3]["text"] += " é"
    broken = copy.deepcopy(rows)
    broken[5]["text"] = 'a "quoted", text\nof two lines'
    names: Rows = [{**row, "label": LABELS[row["label"]]} for row in rows]
    choices: dict[str, Written] = {
        "all quoted, CR LF": (quoted.getvalue().encode(), "", PASSES, ".csv"),
        "a byte order mark": ("\ufeff".encode() + plain, "", PASSES, ".csv"),
        "a byte order mark, lines": ("\ufeff".encode() + lines, "", PASSES, ".jsonl"),
        "names of labels": (_file_of(names, ".csv"), "", PASSES, ".csv"),
        "names of labels, parquet": (_file_of(names, ".parquet"), "", PASSES, ".parquet"),
        "blank lines": (plain.replace(b"\n", b"\n\n"), "", PASSES, ".csv"),
        "no last end of line": (plain.rstrip(b"\n"), "", PASSES, ".csv"),
        "CR alone": (plain.replace(b"\n", b"\r"), "", WHOLE, ".csv"),
        "gzip called csv": (gzip.compress(plain, mtime=0), "", EITHER, ".csv"),
        "gzip called tsv": (gzip.compress(_file_of(rows, ".tsv"), mtime=0), "", EITHER, ".tsv"),
        "csv called tsv": (plain, "", EITHER, ".tsv"),
        "tsv called csv": (_file_of(rows, ".tsv"), "", EITHER, ".csv"),
        "csv called jsonl": (plain, "", EITHER, ".jsonl"),
        "jsonl called csv": (lines, "", EITHER, ".csv"),
        "csv called parquet": (plain, "", EITHER, ".parquet"),
        "parquet called csv": (_file_of(rows, ".parquet"), "", EITHER, ".csv"),
        "parquet called jsonl": (_file_of(rows, ".parquet"), "", EITHER, ".jsonl"),
        "semicolons": (plain.replace(b",", b";"), "", EITHER, ".csv"),
        "in UTF-16": (plain.decode().encode("utf-16"), "", EITHER, ".csv"),
        "in Latin-1": (_file_of(accents, ".csv").decode().encode("latin-1"), "", EITHER, ".csv"),
        "an unclosed quote": (plain.replace(b"\n", b'\n"', 1), "", EITHER, ".csv"),
        "a comma too many": (plain.replace(b",0\n", b",0,\n", 1), "", EITHER, ".csv"),
        "no header": (plain.partition(b"\n")[2], "", EITHER, ".csv"),
        "the header twice": (plain + b"text,label\n", "", EITHER, ".csv"),
        "a column twice": (plain.replace(b"text,label", b"text,text"), "", EITHER, ".csv"),
        "empty": (b"", "", EITHER, ".csv"),
        "empty, lines": (b"", "", EITHER, ".jsonl"),
        "empty, parquet": (b"", "", EITHER, ".parquet"),
        "a header alone": (few(0), "", EITHER, ".csv"),
        "one row": (few(1), "", ANY, ".csv"),
        "two rows": (few(2), "", ANY, ".csv"),
        "HTML": (b"<!DOCTYPE html><html><body>404</body></html>", "", EITHER, ".csv"),
        "a pointer of LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
                             "", EITHER, ".csv"),
        "zeros": (bytes(5_000), "", EITHER, ".csv"),
        "one list": (json.dumps(rows).encode(), "", WHOLE, ".jsonl"),
        "one list, indented": (json.dumps(rows, indent=1).encode(), "", WHOLE, ".json"),
        "lines of lists": (b'["a", 1]\n' * 20, "", EITHER, ".jsonl"),
        "lines of null": (b"null\n" * 20, "", EITHER, ".jsonl"),
        "a line 100,000 deep": (lines + b'{"text": ' + b"[" * 100_000 + b"\n", "", EITHER,
                                ".jsonl"),
        "a number of 5,000 digits": (lines + b'{"text": "a", "label": ' + b"9" * 5_000 + b"}\n", "",
                                     EITHER, ".jsonl"),
        "a key twice": (lines + b'{"text": "a", "label": 0, "label": 1}\n', "", ANY, ".jsonl"),
        "1,000 bad rows": (plain + b"a,7\n" * 1_000, "", EITHER, ".csv"),
        "1,000 ragged rows": (plain + b"a\n" * 1_000, "", EITHER, ".csv"),
        "a quoted tsv": (_quoted_tsv(broken), "", ANY, ".tsv"),
        "dictionary of texts": (_typed(rows, text=pa.dictionary(pa.int32(), pa.string())), "",
                                PASSES, ".parquet"),
        "large texts": (_typed(rows, text=pa.large_string()), "", PASSES, ".parquet"),
        "labels of 8 bits": (_typed(rows, label=pa.int8()), "", PASSES, ".parquet"),
        "labels of bool": (_typed(rows, label=pa.bool_()), "", WHOLE, ".parquet"),
        "labels of float": (_typed(rows, label=pa.float64()), "", WHOLE, ".parquet"),
        "labels as texts": (_typed(rows, label=pa.string()), "", PASSES, ".parquet"),
        "texts as bytes": (_typed(rows, text=pa.binary()), "", ANY, ".parquet"),
        "a table without rows": (_parquet(pa.Table.from_pylist(rows).slice(0, 0)), "", EITHER,
                                 ".parquet"),
        "names in ClassLabel": (_class_label(rows), "", PASSES, ".parquet"),
    }  # fmt: skip
    name = draw.choice(list(choices))
    content, _, allowed, extension = choices[name]
    return content, name, allowed, extension


def _quoted_tsv(rows: Rows) -> bytes:
    stream = io.StringIO()
    csv.writer(stream, delimiter="\t", lineterminator="\n").writerows(
        [("text", "label"), *((row["text"], row["label"]) for row in rows)]
    )
    return stream.getvalue().encode()


def _typed(rows: Rows, **types: pa.DataType) -> bytes:
    table = pa.Table.from_pylist(rows)
    for name, kind in types.items():
        index = table.column_names.index(name)
        column = table.column(name)
        column = column.dictionary_encode() if pa.types.is_dictionary(kind) else column.cast(kind)
        table = table.set_column(index, name, column)
    return _parquet(table)


def _class_label(rows: Rows) -> bytes:
    """Return rows as datasets writes them, class ids in an order of names of their own."""
    made: Rows = [{**row, "label": 1 - row["label"]} for row in rows]
    features = {"text": {"dtype": "string", "_type": "Value"},
                "label": {"names": ["positive", "negative"], "_type": "ClassLabel"}}  # fmt: skip
    told = json.dumps({"info": {"features": features}})
    table = pa.Table.from_pylist(made).replace_schema_metadata({"huggingface": told})
    return _parquet(table)


_DATA: tuple[Callable[[Rows, Random], Written], ...] = (
    _damaged, _damaged, _label, _cell, _columns, _form, _form, _form,
)  # fmt: skip


def artifact_case(shop: Workshop, number: int) -> Case:
    """Return a mutated artifact, which must be refused or answer as before."""
    folder = shop.folder / "artifact"
    shutil.copytree(shop.subjects.run / "artifact", folder)
    change, allowed = shop.draw.choice(_ARTIFACT)(folder, shop.draw)
    texts = probes(shop.subjects)
    check = same_answers(shop.base_outputs, LABELS)
    place = ("artifact",)
    trials = [Trial("load", load_and_answer("artifact", texts), allowed, place, 10, check=check)]
    if shop.draw.random() < 0.2:
        trials.append(Trial("inspect", cli("inspect", "artifact"), ANY, place, 10))
    return Case("artifact", number, change, tuple(trials))


def _manifest(folder: Path, draw: Random) -> tuple[str, frozenset[int]]:
    path = folder / "manifest.json"
    tree = json.loads(path.read_text())
    kind = draw.random()
    if kind < 0.2:
        content, what = mutate_text(path.read_bytes(), draw)
        path.write_bytes(content)
        return f"manifest.json: {what}", ANY
    if kind < 0.6:  # where it matters
        keys = ("manifest_version", "task", "labels", "max_length", "files", "provider")
        key = draw.choice(keys)
        part, change = mutate_tree({key: tree[key]}, draw)
        tree.pop(key)
        tree.update(part if isinstance(part, dict) else {key: part})
    elif kind < 0.75:
        key = draw.choice(list(tree))
        tree.pop(key)
        path.write_bytes(to_json(tree))
        allowed = NOT_THERE if key in ("manifest_version", "task", "labels", "files") else ANY
        return f"manifest.json without {key}", allowed
    else:
        tree, change = mutate_tree(tree, draw)
    path.write_bytes(to_json(tree))
    return f"manifest.json: {change}", ANY


def _artifact_file(folder: Path, draw: Random) -> tuple[str, frozenset[int]]:
    listed = sorted(json.loads((folder / "manifest.json").read_text())["files"])
    name = draw.choice(listed)
    path = folder / name
    kind = draw.choice(("bytes", "gone", "empty", "swapped", "a directory", "a FIFO", "a loop"))
    if kind == "bytes":
        content, what = mutate_bytes(path.read_bytes(), draw)
        path.write_bytes(content)
        return f"{name}: {what}", NOT_THERE
    if kind == "swapped":
        other = folder / draw.choice([item for item in listed if item != name])
        content = path.read_bytes()
        path.write_bytes(other.read_bytes())
        other.write_bytes(content)
        return f"{name} and {other.name} swapped", NOT_THERE
    path.unlink()
    if kind == "empty":
        path.touch()
    elif kind == "a directory":
        path.mkdir()
    elif kind == "a FIFO":
        os.mkfifo(path)
    elif kind == "a loop":
        path.symlink_to(path.name)
    return f"{name}: {kind}", NOT_THERE


def _artifact_extra(folder: Path, draw: Random) -> tuple[str, frozenset[int]]:
    """Add a file, or change one whose line in the manifest is removed or made to fit."""
    if draw.random() < 0.4:
        name = draw.choice(("special_tokens_map.json", "added_tokens.json", "chat_template.jinja",
                            "preprocessor_config.json", "generation_config.json", "vocab.txt",
                            "model.onnx.data", "notes.txt", "tokenizer.model", "x.py"))  # fmt: skip
        value = draw.choice(ODD_VALUES)
        (folder / name).write_bytes(to_json(value))
        return f"{name} beside: {brief(value)}", ANY
    path = folder / "manifest.json"
    tree = json.loads(path.read_text())
    name = draw.choice(sorted(tree["files"]))
    if draw.random() < 0.5:
        del tree["files"][name]
        path.write_bytes(to_json(tree))
        # Exactly what the manifest does not list could be anything.
        allowed = NOT_THERE if name == "model.onnx" else ANY
        return f"manifest.json does not list {name}", allowed
    outside = draw.choice(("../rows.csv", "/etc/passwd", "/dev/zero", "a/../model.onnx", "a\0b"))
    tree["files"][outside] = "0" * 64
    path.write_bytes(to_json(tree))
    return f"manifest.json lists {brief(outside)}", NOT_THERE


_ARTIFACT: tuple[Callable[[Path, Random], tuple[str, frozenset[int]]], ...] = (
    _manifest, _manifest, _manifest, _artifact_file, _artifact_file, _artifact_extra,
)  # fmt: skip


def onnx_case(shop: Workshop, number: int) -> Case:
    """Return a mutated .onnx file, given to `inspect`."""
    draw = shop.draw
    source = (shop.subjects.run / "artifact" / "model.onnx").read_bytes()
    path = shop.folder / "m.onnx"
    allowed, what = ANY, ""
    kind = draw.random()
    if kind < 0.45:
        content, what = mutate_bytes(source, draw)
    elif kind < 0.9:
        content, what, allowed = _edited(source, draw)
    else:
        content, allowed = draw.choice(
            ((b"", NOT_THERE), (b"<html>", NOT_THERE), (bytes(4_000), NOT_THERE),
             (gzip.compress(source, mtime=0), NOT_THERE), (source[: len(source) // 2], NOT_THERE),
             (b"\x0a\xff\xff\xff\xff\x0f", NOT_THERE), (b"\xff" * 64, NOT_THERE))
        )  # fmt: skip
        what = f"begins with {brief(content[:8])}"
    path.write_bytes(content)
    trials = [Trial("inspect", cli("inspect", "m.onnx"), allowed, ("m.onnx",), 10)]
    if draw.random() < 0.3:
        trials.append(
            Trial("inspect --json", cli("inspect", "m.onnx", "--json"), allowed, ("m.onnx",), 10)
        )
    return Case("onnx", number, f"m.onnx: {what}", tuple(trials))


def _edited(source: bytes, draw: Random) -> tuple[bytes, str, frozenset[int]]:
    """Change fields of a graph, which stays a readable protobuf."""
    model = onnx.load_from_string(source)
    graph = model.graph
    node = draw.choice(graph.node)
    tensor = draw.choice(graph.initializer)
    word = draw.choice(("", "a\nb", "é", "x" * 70_000, "..", "\u0000", node.name))
    place = draw.choice(("../../etc/passwd", "/dev/zero", "x" * 300, "nowhere.bin", "", "a\u0000b"))
    kind = draw.choice(("operator", "domain", "input", "output", "name", "rank", "type", "dims",
                        "external", "opset", "ir", "nodes gone", "twice", "loop", "batch", "empty",
                        "attribute", "no opset", "graph name", "long", "metadata"))  # fmt: skip
    if kind == "operator":
        node.op_type = draw.choice(("Nothing", "", "Loop", "If", "MatMul", "x" * 500))
    elif kind == "domain":
        node.domain = draw.choice(("nobody.knows", "com.microsoft", "ai.onnx.ml", word))
    elif kind == "input":
        node.input[:] = [word] * draw.randrange(4)
    elif kind == "output":
        node.output[:] = [word] * draw.randrange(3)
    elif kind == "name":
        node.name = tensor.name = word
    elif kind == "rank":
        graph.input[0].type.tensor_type.shape.Clear()
    elif kind == "type":
        tensor.data_type = draw.choice((0, 2, 7, 8, 16, 99))
    elif kind == "dims":
        tensor.dims[:] = draw.choice(([], [0], [-1], [2**40], [2**62, 2**62], [1] * 70))
    elif kind == "external":
        tensor.data_location = onnx.TensorProto.EXTERNAL
        told = {"location": place, "offset": draw.choice(("0", "-1", "x", "9" * 30)),
                "length": draw.choice(("4", "-4", "9" * 30, ""))}  # fmt: skip
        for key, value in told.items():
            tensor.external_data.add(key=key, value=value)
    elif kind == "opset":
        model.opset_import[0].version = draw.choice((0, -1, 1, 6, 13, 99, 2**40))
    elif kind == "no opset":
        del model.opset_import[:]
    elif kind == "ir":
        model.ir_version = draw.choice((0, -1, 1, 3, 99, 2**40))
    elif kind == "nodes gone":
        del graph.node[draw.randrange(len(graph.node)) :]
    elif kind == "twice":
        graph.node.add().CopyFrom(node)
        graph.initializer.add().CopyFrom(tensor)
    elif kind == "loop":
        graph.node[0].input[0] = graph.node[-1].output[0]
    elif kind == "batch":
        graph.input[0].type.tensor_type.shape.dim[0].dim_value = draw.choice((0, -1, 10**9, 2**62))
    elif kind == "empty":
        graph.Clear()
    elif kind == "attribute":
        node.attribute.add(name=word or "axis", type=draw.choice((0, 1, 2, 7)), i=2**40)
    elif kind == "graph name":
        graph.name = word
    elif kind == "long":
        graph.output[0].name = word
    else:
        model.metadata_props.add(key=word, value=word)
    return model.SerializeToString(), f"{kind} edited", ANY


def report_case(shop: Workshop, number: int) -> Case:
    """Return a mutated report.json, given to `compare`."""
    draw, folder = shop.draw, shop.folder / "a"
    folder.mkdir()
    (shop.folder / "b").symlink_to(shop.subjects.run)
    source = shop.subjects.run / "report.json"
    if draw.random() < 0.3:
        content, what = mutate_text(source.read_bytes(), draw)
    else:
        tree, change = mutate_tree(json.loads(source.read_text()), draw)
        content, what = to_json(tree), str(change)
    (folder / "report.json").write_bytes(content)
    words = ("compare", "a", "b", *(("--html", "x.html") if draw.random() < 0.5 else ()))
    trial = Trial("compare", cli(*words), ANY, ("a: ", "report.json"))
    return Case("report", number, f"report.json: {what}", (trial,))


def steps_case(shop: Workshop, number: int) -> Case:
    """Return a finished run whose steps were mutated: run again, it gives the same artifact."""
    draw = shop.draw
    for name in ("bert", "rows.csv"):
        (shop.folder / name).symlink_to(shop.subjects.folder / name)
    write_recipe(shop, plain_recipe("bert", {"search": {"path": "rows.csv"}}))
    out = shop.folder / "out"
    shutil.copytree(shop.subjects.run, out, symlinks=True)
    # Not the export, whose repetition takes seconds.
    folders = sorted(
        path for path in (out / "steps").iterdir() if not (path / "model.onnx").exists()
    )
    if shop.to_the_end:
        folders = sorted((out / "steps").iterdir())
    step = draw.choice(folders)
    path = draw.choice(sorted(item for item in step.rglob("*") if item.is_file()))
    name = f"{json.loads((step / 'step.json').read_text())['name']}/{path.name}"
    what = _spoiled(path, step, draw)
    digest = hashlib.sha256(
        (shop.subjects.run / "artifact" / "model.onnx").read_bytes()
    ).hexdigest()

    def check() -> str | None:
        made = hashlib.sha256(Path("out/artifact/model.onnx").read_bytes()).hexdigest()
        return None if made == digest else "the artifact differs from the undisturbed run's"

    place = ("out", "step", "model.checkpoint", "bert")
    trial = Trial("run again", cli("run", RECIPE), ANY, place, LONG_S, check=check)
    return Case("steps", number, f"{name}: {what}", (trial,))


def _spoiled(path: Path, step: Path, draw: Random) -> str:
    kind = draw.choice(("bytes", "tree", "gone", "a FIFO", "a directory", "a loop", "a folder more",
                        "a file more", "a step gone", "a step is a file", "a link", "nested",
                        "the store"))  # fmt: skip
    if kind == "bytes":
        content, kind = mutate_bytes(path.read_bytes(), draw)
        path.write_bytes(content)
    elif kind == "tree":
        record = step / "step.json"
        tree, change = mutate_tree(json.loads(record.read_text()), draw)
        record.write_bytes(to_json(tree))
        kind = f"step.json, {change}"
    elif kind == "a folder more":
        (step / "more" / "and more").mkdir(parents=True)
    elif kind == "a file more":
        (step / "more.onnx").write_bytes(b"x")
    elif kind == "a step gone":
        shutil.rmtree(step)
    elif kind == "a step is a file":
        shutil.rmtree(step)
        step.write_bytes(b"x")
    elif kind == "a link":
        shutil.move(step, step.parent.parent / "elsewhere")
        step.symlink_to(step.parent.parent / "elsewhere")
    elif kind == "nested":
        (step / step.name).mkdir()
        shutil.copytree(step, step / step.name / "again", ignore=lambda *_: [step.name])
    elif kind == "the store":
        odd = step.parent / draw.choice(("x", ".partial-x", "é", "x" * 200))
        choice = draw.randrange(3)
        odd.mkdir() if choice == 0 else odd.symlink_to("x") if choice == 1 else odd.touch()
        kind = f"{odd.name[:12]} beside the steps"
    else:
        path.unlink()
        if kind == "a FIFO":
            os.mkfifo(path)
        elif kind == "a directory":
            path.mkdir()
        elif kind == "a loop":
            path.symlink_to(path.name)
    return kind


# What launchers and shells set, and whether a run may go on with it.
_VARIABLES: Sequence[tuple[dict[str, str], frozenset[int]]] = (
    ({"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}, REFUSED),
    ({"WORLD_SIZE": "2", "RANK": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1",
      "MASTER_PORT": "29500"}, REFUSED),
    ({"WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_PORT": "x"}, REFUSED),
    ({"WORLD_SIZE": "x", "RANK": "0"}, REFUSED),
    ({"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "0"}, ANY),
    ({"SLURM_NTASKS": "4", "SLURM_PROCID": "1"}, ANY),
    ({"ACCELERATE_MIXED_PRECISION": "bf16"}, ANY), ({"ACCELERATE_MIXED_PRECISION": "x"}, ANY),
    ({"ACCELERATE_MIXED_PRECISION": "fp16"}, ANY), ({"ACCELERATE_USE_CPU": "x"}, ANY),
    ({"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4"}, ANY),
    ({"ACCELERATE_USE_FSDP": "true", "WORLD_SIZE": "2", "RANK": "0"}, REFUSED),
    ({"ACCELERATE_USE_DEEPSPEED": "true"}, ANY), ({"ACCELERATE_DYNAMO_BACKEND": "inductor"}, ANY),
    ({"OMP_NUM_THREADS": "0"}, ANY), ({"OMP_NUM_THREADS": "x"}, ANY),
    ({"CUDA_VISIBLE_DEVICES": "x"}, ANY), ({"COMPRESSOR_CACHE": "/dev/null"}, ANY),
    ({"HOME": "/nowhere"}, ANY), ({"TMPDIR": "/nowhere"}, ANY), ({"HF_HOME": "/dev/null"}, ANY),
    ({"PYTHONHASHSEED": "7"}, PASSES), ({"LC_ALL": "C"}, PASSES), ({"TZ": "Nowhere"}, PASSES),
    ({"NO_COLOR": "1"}, PASSES), ({"COLUMNS": "x"}, PASSES), ({"TERM": "dumb"}, PASSES),
)  # fmt: skip


def environment_case(shop: Workshop, number: int) -> Case:
    """Return a run with training whose environment a launcher changed.

    Where it goes on, its weights are those of a plain run, or its steps have keys of their own.
    """
    draw = shop.draw
    for name in ("bert", "rows.csv"):
        (shop.folder / name).symlink_to(shop.subjects.folder / name)
    variables, allowed = draw.choice(_VARIABLES)
    step = {"kind": "finetune", "epochs": 1, "batch_size": 8, "learning_rate": 1e-3}
    data = {"search": {"path": "rows.csv"}, "train": {"path": "rows.csv"}}
    write_recipe(shop, plain_recipe("bert", data, passes=[step]))
    shutil.copytree(shop.subjects.run, shop.folder / "out", symlinks=True)
    plain = shop.subjects.folder / "trained.json"

    def check() -> str | None:
        expected, found = json.loads(plain.read_text()), trained(Path("out"))
        if expected["weights"] == found["weights"] or expected["key"] != found["key"]:
            return None
        return f"the environment changed weights under the same key ({variables})"

    words = " ".join(f"{key}={value}" for key, value in variables.items())
    place = tuple(variables)
    trial = Trial("run", cli("run", RECIPE), allowed, place, LONG_S, variables, check)
    return Case("environment", number, words, (trial,))


def trained(out: Path) -> dict[str, str]:
    """Return key and weights of the training step of a run."""
    for record in sorted((out / "steps").glob("*/step.json")):
        weights = record.parent / "checkpoint" / "model.safetensors"
        # The score of the pass is a step of its own, whose name begins in the same way.
        if json.loads(record.read_text())["name"].startswith("passes[0]") and weights.is_file():
            digest = hashlib.sha256(weights.read_bytes()).hexdigest()
            return {"key": record.parent.name, "weights": digest}
    return {"key": "", "weights": ""}
