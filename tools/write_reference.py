"""Writes the pages under docs/reference that follow from the code: settings, keys, codes, commands.

    python tools/write_reference.py            # writes them
    python tools/write_reference.py --check    # names those that are stale, exit code 1

They are kept in the repository, and not only made with the site, because that is where they are
read: on a forge, in an editor, beside a change that alters what users meet. A test compares them.
Every example on them is read as a recipe first.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import typer.main
from pydantic import BaseModel, TypeAdapter
from typer.models import CommandInfo, OptionInfo

import compressor
from compressor import errors, measurements
from compressor.cli import app
from compressor.data import DataSettings
from compressor.measurements import RunReport
from compressor.models.runtime_releases import OLDEST, OPSETS
from compressor.models.runtime_versions import IR_VERSIONS, OPERATORS
from compressor.models.settings import ModelSettings
from compressor.passes import (
    PASSES,
    OnnxPass,
    Pass,
    PassGroup,
    SettingDescription,
    pass_settings,
)
from compressor.recipe.budget import AccuracyBudget
from compressor.recipe.recipe import (
    BenchmarkSettings,
    ExportSettings,
    Recipe,
    RepairSettings,
    ReportSettings,
    parse_recipe,
)
from compressor.tasks import task_class, task_names

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = ROOT / "docs" / "reference"
_RUNTIMES = REFERENCE / "runtimes.md"
# At the end, because mkdocs looks for a title at the beginning.
_MADE = "\n<!-- Made by tools/write_reference.py; edit what it reads. -->\n"
_SECTIONS: dict[str, type[BaseModel]] = {
    "model": ModelSettings,
    "data": DataSettings,
    "budget": AccuracyBudget,
    "repair": RepairSettings,
    "export": ExportSettings,
    "benchmark": BenchmarkSettings,
    "report": ReportSettings,
}
# What a caller uses of a class whose other methods serve the pipeline.
_MEMBERS = {"Recipe": ("path", "to_dict")}
_FIELDS = {
    "Recipe": "Its fields are the [keys of a recipe](recipe.md).",
    "RunReport": "Its fields are the [keys of `report.json`](report.md).",
}
_KEY_HEAD = ("key", "value", "meaning and unit", "null or empty when")
_REPORT_RULES = """\
Every run writes this file once its recipe has been validated, whether it passed or not. Figures are
unrounded. Two rules hold throughout:

- **A measurement that is not there is `null`** (an absent list is empty), never 0, and `missing`
  says why. A number that came out as NaN or infinite is null for the same reason.
- **A new key does not raise `schema_version`**; renaming a key, removing one or changing a unit
  does. Readers should ignore keys that they do not know.

Differences and limits of a score are fractions (0.01 is what the report calls one point). Sizes are
bytes, latencies milliseconds, durations seconds."""
# What the example of a pass is put into.
_AROUND = """\
model: {checkpoint: ./my-model}
data: {train: {path: train.tsv}, search: {path: dev.tsv}}
budget: {metric: accuracy, max_drop: 0.01}
"""
_RECIPE = """\
model:
  checkpoint: ./my-model        # a directory or a Hub id
data:
  text: sentence                # [premise, hypothesis] for pairs
  label: label
  train: {path: train.tsv}      # csv, tsv, json lines or parquet
  search: {path: dev.tsv}       # what every gate reads
  certification: {path: unseen.tsv} # read once, to prove the budget
budget:
  metric: accuracy
  max_drop: 0.01                # one point, all passes together
  slices: [label, length]       # judge these by themselves
on_failure: repair              # try milder settings of a pass
repair: {max_tries: 6, max_minutes: 30}
passes:
  - kind: prune_structured
    method: reconstruction
    ratio: 0.4
  - kind: quantize_dynamic
    on_failure: stop            # a pass can say otherwise
export: {max_length: 128}
benchmark:
  batch_sizes: [1, 8]
  sequence_lengths: [32, 128]
  threads: 1
report: {examples: false}       # show no texts
seed: 0
output: ./run
"""


def pages() -> dict[str, str]:
    """Return the text of every page that is made, by its path under docs/reference."""
    made = {
        "cli.md": cli_page(),
        "exit-codes.md": exit_codes_page(),
        "inspect.md": inspect_page(),
        "passes/index.md": passes_page(),
        "python.md": python_page(),
        "recipe.md": recipe_page(),
        "report.md": report_page(),
    }
    made |= {f"passes/{kind}.md": pass_page(entry.settings) for kind, entry in PASSES.items()}
    noted = {name: text + _MADE for name, text in made.items()}
    return noted | {"runtimes.md": runtimes_page()}


def stale() -> list[str]:
    """Return the pages that are not what the code says, and those of passes that are gone."""
    made = pages()
    changed = [name for name, text in made.items() if _read(REFERENCE / name) != text]
    return sorted({*changed, *(name for name in _pass_files() if name not in made)})


def write() -> list[str]:
    """Write the stale pages and return their names; a page of a pass that is gone is removed."""
    made, names = pages(), stale()
    for name in names:
        path = REFERENCE / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name in made:
            path.write_text(made[name], encoding="utf-8")
        else:
            path.unlink()
    return names


# Settings


def recipe_page() -> str:
    """Return the page of every key of a recipe outside the settings of passes."""
    parse_recipe(_RECIPE, path=ROOT / "recipe.yaml")
    flat = [item for item in pass_settings(Recipe) if item.name.count(".") == 0]
    plain = [item for item in flat if item.name not in _SECTIONS and item.name != "passes"]
    parts = [
        "# Recipe",
        "A recipe is a YAML file. Relative paths in it are relative to the file. Unknown keys are "
        "errors, `compress validate` names all mistakes of a file at once as `file:line`, and "
        "`--set passes.0.ratio=0.5` overrides any key for one run. `compress init` writes a "
        "recipe for a checkpoint and data.",
        _yaml(_RECIPE),
        "## Top level",
        _settings_table(plain, {}),
        "`passes` is a list; each entry has a `kind` and the settings of that pass, "
        "which [Passes](passes/index.md) describes. An empty list is a plain export.",
    ]
    for name, settings in _SECTIONS.items():
        parts += [f"## `{name}`", _capital(_summary(settings).partition(": ")[2])]
        parts += _groups(settings, level=3, prefix=f"{name}.")
    parts += [
        "## Tasks and metrics",
        "What `model.task` can be, and what `budget.metric` can be for it; the first one is the "
        "default. Metrics without labels compare with what the untouched checkpoint gives for the "
        "same rows.",
        *_tasks(),
    ]
    return "\n\n".join(parts) + "\n"


def _tasks() -> Iterator[str]:
    """Yield a heading and a table of metrics for each task."""
    for name in task_names():
        yield f"### `{name}`"
        yield _table(
            ("metric", "what it is", "labels"),
            [
                (f"`{item.name}`", item.explained, "no" if item.label_free else "yes")
                for item in task_class(name).metrics
            ],
        )


def passes_page() -> str:
    """Return the page that lists the passes, in groups."""
    parts = [
        "# Passes",
        "A pass takes a model and gives back a smaller or faster one. After each of them the run "
        "takes the score and compares it with the budget. Passes over the PyTorch model come first "
        "in a recipe, passes over the exported ONNX graph after them. `compress passes` prints "
        "this list, `compress passes KIND` the settings of one.",
    ]
    for group in get_args(PassGroup):
        rows = [
            (f"[`{kind}`]({kind}.md)", step.about.summary, _kind_of_model(step), _providers(step))
            for kind, step in ((kind, entry.settings) for kind, entry in PASSES.items())
            if step.about.group == group
        ]
        head = ("pass", "what it does", "works on", "result runs on")
        parts += [f"## {_capital(group)}", _table(head, rows)]
    return "\n\n".join(parts) + "\n"


def pass_page(step: type[Pass]) -> str:
    """Return the page of one pass: what it does, an example, every setting."""
    kind = str(step.model_fields["kind"].default)
    parse_recipe(_AROUND + step.about.example, path=ROOT / "recipe.yaml")
    parts = [
        f"# {kind}",
        step.about.explanation,
        f"Works on {_kind_of_model(step)}; the result runs on {_providers(step)}.",
        _yaml(step.about.example),
        "## Settings",
        *_groups(step, level=3, prefix=""),
        "## In detail",
        *_paragraphs(step),
    ]
    return "\n\n".join(parts) + "\n"


def _groups(settings: type[BaseModel], *, level: int, prefix: str) -> Iterator[str]:
    """Yield a table of the settings, then one with a heading for each mapping among them.

    Mappings with the same settings, such as the splits of the data, share one.
    """
    items = pass_settings(settings)
    groups: dict[str, list[SettingDescription]] = {}
    for item in items:
        head, dot, rest = item.name.partition(".")
        if dot:
            groups.setdefault(head, []).append(
                SettingDescription(rest, item.type, item.default, item.allowed, item.description)
            )
    titles = {
        head: ", ".join(f"`{prefix}{name}`" for name, other in groups.items() if other == group)
        for head, group in groups.items()
    }
    yield _settings_table([item for item in items if "." not in item.name], titles)
    for title in dict.fromkeys(titles.values()):
        yield f"{'#' * level} {title}"
        yield _settings_table(next(groups[head] for head in groups if titles[head] == title), {})


def _settings_table(items: Iterable[SettingDescription], titles: dict[str, str]) -> str:
    """Return a table of settings; `titles` has the headings of those that are mappings."""
    rows = []
    for item in items:
        kind = item.type.removesuffix(" or null")
        if item.name in titles:
            kind = f"[{kind}](#{_anchor(titles[item.name])})"
        bounds = item.allowed.replace(">=", "≥").replace("<=", "≤")
        value = _cell(", ".join(part for part in (kind, bounds) if part))
        default = {"required": "**required**", "null": "not set by default"}.get(
            item.default, f"default `{item.default}`"
        )
        meaning = f"{_cell(item.description)}<br><small>{value}; {default}</small>"
        rows.append((f"`{item.name}`", meaning))
    return _table(("setting", "meaning, value and default"), rows)


def _anchor(title: str) -> str:
    """Return where a heading is found, the same in mkdocs and on forges."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def _kind_of_model(step: type[Pass]) -> str:
    return "the exported graph" if issubclass(step, OnnxPass) else "the PyTorch model"


def _providers(step: type[Pass]) -> str:
    names = {"cpu": "CPU", "cuda": "CUDA", "tensorrt": "TensorRT", "openvino": "OpenVINO"}
    return "any provider" if step.providers is None else ", ".join(names[p] for p in step.providers)


# Keys


def report_page() -> str:
    """Return the page of the keys of report.json: those of the run, then of each kind of part."""
    schema = TypeAdapter(RunReport).json_schema()
    kinds = {"RunReport": schema} | schema["$defs"]
    places: dict[str, list[str]] = {"RunReport": [""]}
    _find_places(schema, "", kinds, places)
    parts = ["# Keys of `report.json`", _REPORT_RULES]
    for kind, found in places.items():
        about = getattr(measurements, kind)
        title = "The run" if kind == "RunReport" else ", ".join(f"`{place}`" for place in found)
        texts = _attribute_docstrings(about)
        rows = []
        for key, value in kinds[kind]["properties"].items():
            meaning, _, absent = texts[key].partition(" Null: ")
            name = f"{key}[]" if "array" in _json_type(value) else key
            words = _json_type(value).removeprefix("array of ")
            link = re.sub(r"\[(\w+)\]", lambda match: _kind_link(match[1], places), words)
            cells = (link, meaning.removesuffix("."), absent.removesuffix("."))
            rows.append((f"`{name}`", *map(_cell, cells)))
        parts += [f"## {title}", _summary(about), _table(_KEY_HEAD, rows)]
    return "\n\n".join(parts) + "\n"


def _find_places(
    schema: dict[str, Any], place: str, kinds: dict[str, Any], places: dict[str, list[str]]
) -> None:
    """Add to `places` where in a report each kind of part is found, in the order of the keys."""
    for key, value in schema["properties"].items():
        for kind in re.findall(r"\[(\w+)\]", _json_type(value)):
            here = f"{place}.{key}".lstrip(".") + ("[]" if "array" in _json_type(value) else "")
            places.setdefault(kind, []).append(here)
            _find_places(kinds[kind], here, kinds, places)


def _json_type(schema: dict[str, Any]) -> str:
    """Say what a JSON schema allows besides null; a kind of part stands in brackets."""
    if "$ref" in schema:
        return f"[{schema['$ref'].rpartition('/')[2]}]"
    if "anyOf" in schema:
        return " or ".join(
            _json_type(item) for item in schema["anyOf"] if item.get("type") != "null"
        )
    if "enum" in schema:
        return "one of its words"
    if schema.get("type") == "array":
        return f"array of {_json_type(schema['items'])}"
    names = {"string": "text", "integer": "whole number", "boolean": "true or false"}
    kind = str(schema.get("type", "anything"))
    return names.get(kind, kind)


def _kind_link(kind: str, places: dict[str, list[str]]) -> str:
    return f"[object](#{_anchor(', '.join(places[kind]))})"


def _attribute_docstrings(kind: type) -> dict[str, str]:
    """Return the string that stands below each field of a class and of what it inherits from."""
    own = (base for base in kind.__mro__ if base.__module__ == kind.__module__)
    trees = (ast.parse(inspect.getsource(base)).body[0] for base in own)
    return {
        ast.unparse(field.target): " ".join(str(ast.literal_eval(text.value)).split())
        for tree in trees
        if isinstance(tree, ast.ClassDef)
        for field, text in pairwise(tree.body)
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr)
    }


def inspect_page() -> str:
    """Return the page of what `compress inspect --json` prints."""
    text = (ROOT / "compressor" / "inspection" / "schema.md").read_text(encoding="utf-8")
    return "# Keys of `inspect --json`\n\n" + text[text.index("\n") :].strip() + "\n"


# Codes and commands


def exit_codes_page() -> str:
    """Return the page of the exit codes, and of the errors that end with them."""
    rows = [
        (f"`{code}`", item.name, item.meaning, item.advice)
        for code, item in errors.EXIT_CODES.items()
    ]
    raised = [
        (f"`{error.__name__}`", f"`{error.exit_code}`", _summary(error))
        for error in _descendants(errors.CompressorError)
    ]
    return (
        "\n\n".join(
            [
                "# Exit codes",
                "Every command ends with one of these, so that a script can tell a wrong recipe "
                "from a full disk, and a model that lost too much from one that is not proven.",
                _table(("code", "name", "meaning", "what to do"), rows),
                "## Errors in Python",
                "From Python the same endings are exceptions, all of them in `compressor.errors`. "
                "`CompressorError` is the root: catch it to catch everything that is raised on "
                "purpose. Its `exit_code` is the number above, its `report` the `RunReport` of the "
                "run that stopped, where there was one.",
                _table(("error", "exit code", "meaning"), raised),
            ]
        )
        + "\n"
    )


def cli_page() -> str:
    """Return the page of the commands with their arguments and options."""
    found = {_command_name(item): item for item in app.registered_commands}
    group: Any = typer.main.get_command(app)  # knows their order
    commands = {name: found[name] for name in group.list_commands(None)}
    links = ", ".join(f"[`{name}`](#compress-{name})" for name in commands)
    parts = [
        "# Command line",
        f"{app.info.help} The commands: {links}. Each ends with an [exit code](exit-codes.md) that "
        "says what happened.",
    ]
    for name, command in commands.items():
        callback = command.callback
        assert callback is not None
        rows = [_parameter(*item) for item in _parameters(callback)]
        usage = " ".join(name for name, _, _ in rows if not name.startswith("-"))
        parts += [
            f"## compress {name}",
            f"```text\ncompress {name} {usage} [OPTIONS]\n```",
            *_paragraphs(callback),
            _table(
                ("argument or option", "meaning", "default"),
                [(f"`{name}`", _cell(about), default) for name, about, default in rows],
            ),
            *([_cell(command.epilog)] if command.epilog else []),
        ]
    return "\n\n".join(parts) + "\n"


def _command_name(command: CommandInfo) -> str:
    assert command.callback is not None
    return command.name or command.callback.__name__.replace("_", "-")


def _parameters(callback: Callable[..., Any]) -> Iterator[tuple[inspect.Parameter, Any, Any]]:
    """Yield each parameter of a command with its type and what typer is told of it."""
    hints = get_type_hints(callback, include_extras=True)
    for name, parameter in inspect.signature(callback).parameters.items():
        kind, about = get_args(hints[name])
        yield parameter, kind, about


def _parameter(parameter: inspect.Parameter, kind: Any, about: Any) -> tuple[str, str, str]:
    """Return how a parameter is written, what it means, and its default where it has one."""
    value = _value_name(kind) if about.metavar is None else about.metavar
    repeated = "..." if get_origin(kind) is list else ""
    if isinstance(about, OptionInfo):
        # Within Annotated the first name stands where a default would.
        named = [about.default] if isinstance(about.default, str) else []
        named += about.param_decls or ()
        flags = ", ".join(named or [f"--{parameter.name.replace('_', '-')}"])
        name = f"{flags} {value}".strip()
    else:
        name = f"{parameter.name.upper()}{repeated}"
        name = name if parameter.default is inspect.Parameter.empty else f"[{name}]"
    default = parameter.default
    if default is inspect.Parameter.empty:
        return name, about.help or "", "**required**"
    return name, about.help or "", "" if default in (None, False) else f"`{_plain(default)}`"


def _value_name(kind: Any) -> str:
    [plain] = [item for item in get_args(kind) or (kind,) if item is not type(None)]
    [plain] = get_args(plain) or (plain,)
    if issubclass(plain, Enum):
        return "/".join(str(item.value) for item in plain)
    names = {str: "TEXT", Path: "PATH", bool: ""}
    return names[plain] if plain in names else str(plain.__name__).upper()


def _plain(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(getattr(value, "value", value))


def runtimes_page() -> str:
    """Return the page of the runtimes, written by hand, with the table of releases put into it."""
    rows = [
        (f"operator set up to {min(OPSETS) - 1}", _release(OLDEST)),
        *((f"operator set {opset}", _release(release)) for opset, release in OPSETS.items()),
        *((f"format version {n}", _release(release)) for n, release in IR_VERSIONS.items()),
    ]
    rows += [
        (f"`{operator}`" + (f" of operator set {since}" if domain == "" else ""), _release(release))
        for (domain, operator, since), release in OPERATORS.items()
    ]
    text = _RUNTIMES.read_text(encoding="utf-8")
    before, begin, rest = text.partition("<!-- made: runtimes -->\n")
    _, end, after = rest.partition("<!-- end of what is made -->")
    table = _table(("a graph with", "needs ONNX Runtime"), rows)
    return f"{before}{begin}\n{table}\n\n{end}{after}"


def _release(version: tuple[int, int, int]) -> str:
    return ".".join(map(str, version))


# Python


def python_page() -> str:
    """Return the page of the public names, from their signatures and docstrings."""
    objects = {name: getattr(compressor, name) for name in compressor.__all__}
    functions = [name for name, value in objects.items() if not inspect.isclass(value)]
    classes = [name for name, value in objects.items() if inspect.isclass(value)]
    links = ", ".join(f"[`{name}`](#{name.lower()})" for name in (*functions, *classes))
    parts = [
        "# Python API",
        f"```python\nimport compressor\n```\n\nThe public names: {links}. They load on first use: "
        "`import compressor` does not load torch.",
    ]
    for name in functions:
        parts += [f"## `{name}`", _signature(name, objects[name]), *_paragraphs(objects[name])]
    for name in classes:
        parts += [f"## `{name}`", *_paragraphs(objects[name])]
        parts += [_FIELDS[name]] if name in _FIELDS else []
        for member, value in _members(objects[name]):
            parts.append(f"### `{name}.{member}`")
            if not isinstance(value, property):
                parts.append(_signature(member, getattr(value, "__func__", value)))
            parts += _paragraphs(value)
    return "\n\n".join(parts) + "\n"


def _members(kind: type) -> Iterator[tuple[str, Any]]:
    """Yield the methods and properties that the class itself documents, calling it first."""
    own = vars(kind)
    names = [name for name in own if not name.startswith("_") or name == "__call__"]
    for name in _MEMBERS.get(kind.__name__, sorted(names, key=lambda name: name != "__call__")):
        value = own[name]
        if inspect.isfunction(value) or isinstance(value, property | classmethod | staticmethod):
            yield name, value


def _signature(name: str, function: Callable[..., Any]) -> str:
    """Return the head of a function as code, on several lines where it is long."""
    signature = inspect.signature(function)
    parameters: list[str] = []
    for item in signature.parameters.values():
        if item.name in ("self", "cls"):
            continue
        if item.kind is item.KEYWORD_ONLY and "*" not in parameters:
            parameters.append("*")
        parameters.append(_parameter_text(item))
    arrow = "" if signature.return_annotation is signature.empty else signature.return_annotation
    head = f"def {name}({', '.join(parameters)}) -> {arrow}: ..."
    if len(head) > 88:
        listed = "".join(f"    {item},\n" for item in parameters)
        head = f"def {name}(\n{listed}) -> {arrow}: ..."
    return f"```python\n{head}\n```"


def _parameter_text(item: inspect.Parameter) -> str:
    text = str(item).partition(":")[0] + f": {item.annotation}"  # with its stars, if any
    if item.default is item.empty:
        return text
    shown = repr(item.default)
    if shown.startswith("<"):  # an object, such as the progress that shows nothing
        shown = f"{type(item.default).__name__}()"
    elif isinstance(item.default, str):
        shown = json.dumps(item.default)
    return f"{text} = {shown}"


# Text


def _summary(kind: Any) -> str:
    return (inspect.getdoc(kind) or "").splitlines()[0]


def _paragraphs(kind: Any) -> list[str]:
    """Return the paragraphs of a docstring, each on one line, with links for papers."""
    text = inspect.getdoc(kind) or ""
    found = []
    for paragraph in re.split(r"\n\s*\n", text):
        if paragraph.startswith((" ", ">>>")):
            found.append(f"```text\n{inspect.cleandoc(paragraph)}\n```")
        else:
            line = _cell(" ".join(paragraph.split()))
            found.append(re.sub(r"arXiv:(\d+\.\d+)", r"[arXiv:\1](https://arxiv.org/abs/\1)", line))
    return found


def _descendants(kind: type[errors.CompressorError]) -> Iterator[type[errors.CompressorError]]:
    for child in kind.__subclasses__():
        if child.__module__ == errors.__name__:
            yield child
            yield from _descendants(child)


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |"]
    lines.append("|" + ":--|" * (lines[0].count("|") - 1))
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)


def _cell(text: str) -> str:
    """Return text that neither ends a cell nor begins a tag of HTML."""
    return text.replace("|", "\\|").replace("<", "&lt;")


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _yaml(text: str) -> str:
    return f"```yaml\n{text.rstrip()}\n```"


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _pass_files() -> list[str]:
    return [f"passes/{path.name}" for path in sorted((REFERENCE / "passes").glob("*.md"))]


def main() -> int:
    """Write the pages, or name the stale ones."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing, name stale pages")
    if parser.parse_args().check:
        names = stale()
        for name in names:
            print(f"docs/reference/{name} is stale; run python tools/write_reference.py")
        return 1 if names else 0
    for name in write():
        print(f"wrote docs/reference/{name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
