"""Cases of recipes, and of arguments and paths of the command line."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random
from typing import Any

import yaml
from campaign_commands import Workshop, cli, score
from campaign_trials import ANY, EITHER, LONG_S, REFUSED, WRONG_REQUEST, Case, Trial
from mutations import (
    ODD_VALUES,
    at,
    brief,
    mutate_bytes,
    mutate_text,
    mutate_tree,
    paths,
    rename_key,
    typo,
    with_value,
    without,
)

from compressor.passes import PASSES

RECIPE = "recipe.yaml"
_TRAIN = {"epochs": 1, "batch_size": 8, "learning_rate": 1e-3}
# Passes as people write them; each recipe of the campaign has one of these lists.
USUAL: tuple[list[dict[str, Any]], ...] = (
    [],
    [{"kind": "quantize_dynamic"}],
    [{"kind": "quantize_dynamic", "activations": "per_tensor", "keep_sensitive": 1}],
    [
        {"kind": "prune_structured", "ratio": 0.5, "importance": "taylor",
         "recovery": {"kind": "distill", **_TRAIN}},
        {"kind": "quantize_dynamic"},
    ],
    [{"kind": "prune_structured", "method": "reconstruction", "ratio": 0.25}],
    [{"kind": "prune_structured", "method": "reconstruction", "target": "latency", "ratio": 0.3,
      "latency_precision": "float32"}],
    [{"kind": "finetune", **_TRAIN}, {"kind": "quantize_static"}],
    [{"kind": "distill", "temperature": 2.0, "hidden_weight": 1.0, "student_layers": 1, **_TRAIN}],
    [{"kind": "prune_magnitude", "sparsity": 0.5, "finetune": dict(_TRAIN)}],
    [{"kind": "trim_vocabulary", "min_count": 1}, {"kind": "quantize_weights"}],
    [{"kind": "quantize_aware_train", **_TRAIN}, {"kind": "quantize_dynamic"}],
    [{"kind": "quantize_auto"}],
    [{"kind": "convert_fp16", "keep_in_float": ["Softmax"]}],
)  # fmt: skip


def plain_recipe(checkpoint: str, data: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """Return a recipe without passes and without timing, over a checkpoint and data."""
    return {
        "model": {"checkpoint": checkpoint},
        "data": dict(data),
        "budget": {"max_drop": 0.9},
        "passes": [],
        "benchmark": {"providers": []},
        "output": "out",
        **more,
    }


def recipe_case(shop: Workshop, number: int) -> Case:
    """Return a mutated recipe, given to `validate`, and to `run` where the share says so."""
    draw = shop.draw
    (shop.folder / "bert").symlink_to(shop.subjects.checkpoint)
    (shop.folder / "rows.csv").symlink_to(shop.subjects.rows)
    tree = _template(draw)
    content, change, allowed = draw.choice(_MUTATIONS)(tree, draw)
    (shop.folder / RECIPE).write_bytes(content)
    places = (RECIPE, "model.checkpoint", "data.", "bert", "rows.csv", "passes", "out")
    trials = [Trial("validate", cli("validate", RECIPE), allowed, places)]
    if draw.random() < 0.25:
        trials.append(Trial("run until export", score(RECIPE), allowed, places, LONG_S))
    if shop.to_the_end:
        trials.append(Trial("run", cli("run", RECIPE), allowed, places, 3 * LONG_S))
    return Case("recipe", number, change, tuple(trials))


def _template(draw: Random) -> dict[str, Any]:
    data: dict[str, Any] = {"text": "text", "label": "label", "search": {"path": "rows.csv"}}
    data["train"] = {"path": "rows.csv", "max_rows": 24}
    if draw.random() < 0.4:
        data["calibration"] = {"path": "rows.csv", "max_rows": 16}
        data["label_names"] = ["negative", "positive"]
        data["max_length"] = 32
    if draw.random() < 0.2:
        data["certification"] = {"path": "rows.csv", "format": "csv", "text": "text"}
    tree = plain_recipe("bert", data, seed=0, passes=draw.choice(USUAL))
    if draw.random() < 0.4:
        tree["benchmark"] = {"providers": ["cpu"], "batch_sizes": [1], "sequence_lengths": [8],
                             "num_runs": 2, "warmup_runs": 1, "threads": 1}  # fmt: skip
    if draw.random() < 0.3:
        tree["export"] = {"provider": "cpu", "opset": 21, "fuse": True, "max_parity_diff": 1e-3}
    if draw.random() < 0.3:
        tree["budget"] = {"metric": "accuracy", "max_drop": 0.9, "confidence": 0.9,
                          "slices": ["label"], "max_slice_drop": 0.95}  # fmt: skip
    if draw.random() < 0.2:
        tree["on_failure"], tree["repair"] = "repair", {"max_tries": 2}
    if draw.random() < 0.1:
        tree["budget"] = {"max_drop": 0.9, "target": {"max_megabytes": 0.2}}
    return json.loads(json.dumps(tree))  # type: ignore[no-any-return]  # plain copies, as read


Mutation = Callable[[dict[str, Any], Random], tuple[bytes, str, frozenset[int]]]


def _tree(tree: dict[str, Any], draw: Random) -> tuple[bytes, str, frozenset[int]]:
    changed, change = mutate_tree(tree, draw)
    return _written(changed, draw), str(change), ANY


def _mild(tree: dict[str, Any], draw: Random) -> tuple[bytes, str, frozenset[int]]:
    """Change a number a little, leave a key out, or put passes in another order."""
    numbers = [path for path in paths(tree) if type(at(tree, path)) in (int, float)]
    kind = draw.random()
    if kind < 0.5 and numbers:
        path = draw.choice(numbers)
        value = at(tree, path)
        new = draw.choice((value * 2, value + 1, value / 2, value - 1))
        new = int(new) if isinstance(value, int) else new
        return _yaml(with_value(tree, path, new)), f"{path[-1]}: {value} became {new}", ANY
    if kind < 0.75:
        path = draw.choice([path for path in paths(tree) if isinstance(path[-1], str)])
        return _yaml(without(tree, path)), f"{'.'.join(map(str, path))}: left out", ANY
    steps = [*tree["passes"], *draw.choice(USUAL)]
    draw.shuffle(steps)
    kinds = ", ".join(step["kind"] for step in steps)
    return _yaml({**tree, "passes": steps}), f"passes: {kinds}", ANY


def _two_changes(tree: dict[str, Any], draw: Random) -> tuple[bytes, str, frozenset[int]]:
    once, first = mutate_tree(tree, draw)
    twice, second = mutate_tree(once, draw) if isinstance(once, dict) else (once, first)
    return _written(twice, draw), f"{first}; {second}", ANY


def _typo(tree: dict[str, Any], draw: Random) -> tuple[bytes, str, frozenset[int]]:
    path = draw.choice([path for path in paths(tree) if isinstance(path[-1], str)])
    siblings = at(tree, path[:-1])
    name = typo(str(path[-1]), draw)
    while name in siblings or name in _KNOWN:
        name += "x"
    changed = rename_key(tree, path, name)
    return _yaml(changed), f"{'.'.join(map(str, path))}: renamed to {name!r}", WRONG_REQUEST


# Settings that a typo could hit by chance.
_KNOWN = frozenset(("text", "test", "image", "train", "path", "split", "hub", "repair", "seed"))


def _extra(tree: dict[str, Any], draw: Random) -> tuple[bytes, str, frozenset[int]]:
    places = [(), *(path for path in paths(tree) if isinstance(at(tree, path), dict))]
    path = draw.choice(places)
    changed = with_value(tree, (*path, "colour"), draw.choice(ODD_VALUES[:40]))
    return _written(changed, draw), f"{'.'.join(map(str, path))}: an unknown key", WRONG_REQUEST


def _wrong_type(tree: dict[str, Any], draw: Random) -> tuple[bytes, str, frozenset[int]]:
    path = draw.choice([path for path in paths(tree) if path[-1] != "passes"])
    value: Any = {"a": 1} if not isinstance(at(tree, path), dict) else draw.choice((7, [1], "x"))
    changed = with_value(tree, path, value)
    return _yaml(changed), f"{'.'.join(map(str, path))}: became {brief(value)}", WRONG_REQUEST


def _setting(tree: dict[str, Any], draw: Random) -> tuple[bytes, str, frozenset[int]]:
    kind = draw.choice(sorted(PASSES))
    names = {name: None for item in PASSES[kind].settings.variants() for name in item.model_fields}
    name = draw.choice([name for name in names if name != "kind"])
    required = {"prune_magnitude": {"sparsity": 0.5}, "prune_structured": {"ratio": 0.5}}
    value = draw.choice(ODD_VALUES)
    step = {"kind": kind, **required.get(kind, {}), name: value}
    changed = {**tree, "passes": [step]}
    return _written(changed, draw), f"passes.0.{kind}.{name}: became {brief(value)}", ANY


def _text(tree: dict[str, Any], draw: Random) -> tuple[bytes, str, frozenset[int]]:
    content, change = mutate_text(_yaml(tree), draw)
    return content, change, ANY


def _bytes(tree: dict[str, Any], draw: Random) -> tuple[bytes, str, frozenset[int]]:
    content, change = mutate_bytes(_yaml(tree), draw)
    return content, change, ANY


def _special(tree: dict[str, Any], draw: Random) -> tuple[bytes, str, frozenset[int]]:
    text = _yaml(tree).decode()
    rest = text.partition("\n")[2]
    bombs = "".join(f"b{n}: &b{n} [{', '.join([f'*b{n - 1}'] * 9)}]\n" for n in range(1, 12))
    many = "".join(f"k{n}: 1\n" for n in range(40_000))
    choices: dict[str, tuple[str | bytes, frozenset[int]]] = {
        "an empty document": ("", WRONG_REQUEST),
        "a comment alone": ("# nothing\n", WRONG_REQUEST),
        "null": ("null\n", WRONG_REQUEST),
        "a list": ("- a\n- b\n", WRONG_REQUEST),
        "a word": ("recipe\n", WRONG_REQUEST),
        "two documents": (f"{text}---\n{text}", WRONG_REQUEST),
        "a python object": (f"seed2: !!python/object/apply:os.getcwd []\n{text}", WRONG_REQUEST),
        "a python name": (text.replace("seed: 0", "seed: !!python/name:os.system"), WRONG_REQUEST),
        "a python tuple": (text.replace("passes:", "passes: !!python/tuple"), WRONG_REQUEST),
        "an unknown tag": (text.replace("seed: 0", "seed: !secret 0"), WRONG_REQUEST),
        "a binary": (text.replace("seed: 0", "seed: !!binary aGVsbG8="), WRONG_REQUEST),
        "a set": (text.replace("seed: 0", "seed: !!set {a, b}"), WRONG_REQUEST),
        "a date": (text.replace("seed: 0", "seed: 2001-12-14"), WRONG_REQUEST),
        "an octal number": (text.replace("seed: 0", "seed: 0o17"), ANY),
        "a sexagesimal": (text.replace("seed: 0", "seed: 1:30"), ANY),
        "a number of 5,000 digits": (text.replace("seed: 0", f"seed: {'9' * 5000}"), WRONG_REQUEST),
        "an anchor that holds itself": (f"x: &x [*x]\n{text}", WRONG_REQUEST),
        "a merge key": (f"<<: {{seed: 1}}\n{text}", ANY),
        "a merge of itself": (f"x: &x {{<<: *x}}\n{text}", WRONG_REQUEST),
        "an alias that nothing names": (f"x: *nobody\n{text}", WRONG_REQUEST),
        "aliases in aliases": (f"b0: &b0 [x, x]\n{bombs}{text}", WRONG_REQUEST),
        "40,000 unknown keys": (many + text, WRONG_REQUEST),
        "the same key twice": (f"{text}\nseed: 1\n", WRONG_REQUEST),
        "brackets 20,000 deep": (f"x: {'[' * 20_000}{']' * 20_000}\n{text}", WRONG_REQUEST),
        "mappings 5,000 deep": (f"x: {'{a: ' * 5_000}1{'}' * 5_000}\n{text}", WRONG_REQUEST),
        "a list of 60,000 passes": (f"passes: [{'{kind: quantize_dynamic}, ' * 30_000}]\n"
                                    + text.replace("passes:", "p:"), WRONG_REQUEST),
        "a mebibyte of blanks": (text + " " * (1 << 20), WRONG_REQUEST),
        "a key that is a list": (f"? [a, b]\n: 1\n{text}", WRONG_REQUEST),
        "a key that is null": (f"~: 1\n{text}", WRONG_REQUEST),
        "a key that is a number": (f"1: 1\n{text}", WRONG_REQUEST),
        "a key that is true": (f"true: 1\n{text}", WRONG_REQUEST),
        "an escape of half a pair": (f'x: "\\ud800"\n{text}', WRONG_REQUEST),
        "a NUL in a path": (text.replace("rows.csv", '"rows\\0.csv"'), EITHER),
        "a path of 5,000 letters": (text.replace("rows.csv", "r" * 5_000 + ".csv"), EITHER),
        "a name of 300 letters": (text.replace("bert", "b" * 300), ANY),  # one of the Hub's
        "a path through a file": (text.replace("rows.csv", "rows.csv/rows.csv"), EITHER),
        "rows that are not there": (text.replace("rows.csv", "bert.csv"), EITHER),
        "output is a file": (text.replace("output: out", "output: rows.csv"), ANY),
        "output is the checkpoint": (text.replace("output: out", "output: bert"), ANY),
        "output in /dev/null": (text.replace("output: out", "output: /dev/null/x"), ANY),
        "max_drop: 1": (text.replace("max_drop: 0.9", "max_drop: 1"), WRONG_REQUEST),
        "max_drop: .nan": (text.replace("max_drop: 0.9", "max_drop: .nan"), WRONG_REQUEST),
        "an unknown metric": (text.replace("max_drop:", "metric: accuracyy\n  max_drop:"),
                              WRONG_REQUEST),
        "no first line": (rest, ANY),
        "in Latin-1": (text.encode() + "# é\n".encode("latin-1"), WRONG_REQUEST),
        "in UTF-16": (text.encode("utf-16"), WRONG_REQUEST),
        "a tab before a key": (text.replace("\n  ", "\n\t", 1), WRONG_REQUEST),
    }  # fmt: skip
    name = draw.choice(list(choices))
    content, allowed = choices[name]
    return content if isinstance(content, bytes) else content.encode(), name, allowed


_MUTATIONS: tuple[Mutation, ...] = (
    _tree, _tree, _mild, _mild, _mild, _two_changes, _typo, _extra, _wrong_type, _setting,
    _setting, _text, _bytes, _special, _special, _special,
)  # fmt: skip


def _yaml(tree: Any) -> bytes:
    text: str = yaml.safe_dump(tree, sort_keys=False, allow_unicode=False)
    return text.encode()


def _written(tree: Any, draw: Random) -> bytes:
    """Write a tree as YAML, or as JSON, which YAML mostly is, where it is odd."""
    if draw.random() < 0.4:
        return json.dumps(tree).encode()
    try:
        return _yaml(tree)
    except (yaml.YAMLError, RecursionError, UnicodeError):
        return json.dumps(tree).encode()


def write_recipe(shop: Workshop, tree: Mapping[str, Any]) -> None:
    """Write a recipe into the folder of a case."""
    (shop.folder / RECIPE).write_bytes(_yaml(dict(tree)))


def arguments_case(shop: Workshop, number: int) -> Case:
    """Return a command with an odd argument: a path that is no file, a setting, an option."""
    draw, folder = shop.draw, shop.folder
    (folder / "bert").symlink_to(shop.subjects.checkpoint)
    (folder / "rows.csv").symlink_to(shop.subjects.rows)
    write_recipe(shop, plain_recipe("bert", {"search": {"path": "rows.csv"}}))
    if draw.random() < 0.6:
        name, place = _odd_path(shop)
        command, words = draw.choice(_commands(place))
        change = f"{command} with {name}"
    else:
        command, words = draw.choice(_odd_words(draw))
        change = " ".join(words)
        place = ""
    places = tuple(word for word in words[1:] if word.strip()) + (place[-60:],) * bool(place)
    places += tuple(str(Path(word).parent) for word in words if "/" in word)
    shown = tuple(place.strip("-").partition("=")[0] for place in places if len(place) < 300)
    # Nobody asks the Hub whether it has a checkpoint of this name.
    offline = command == "validate" and any(word.startswith("model.checkpoint=") for word in words)
    allowed = REFUSED | {0} if offline else REFUSED
    # What cannot be printed is named by its argument.
    shown = (*shown, "Invalid value for") if shown else shown
    trial = Trial(command, cli(*words), allowed, shown, QUICK[command])
    return Case("arguments", number, change, (trial,))


QUICK = {"validate": 5.0, "inspect": 5.0, "compare": 5.0, "init": 10.0, "run": 10.0, "passes": 5.0}


def _odd_path(shop: Workshop) -> tuple[str, str]:
    """Make a path that holds no readable file, and return what it is and its name."""
    folder = shop.folder
    kind = shop.draw.choice(
        ("a FIFO", "/dev/zero", "/dev/full", "/dev/stdin", "nothing", "a loop", "a directory",
         "too long", "a long name", "NUL", "empty", "a broken link", "through a file", "newline",
         "a socket", "bytes", "an empty file", "~nobody", "/proc/self/mem", "half a pair",
         "a directory of FIFOs", "a loop of directories")
    )  # fmt: skip
    place = "odd.yaml"
    if kind == "a FIFO":
        os.mkfifo(folder / place)
    elif kind == "a loop":
        (folder / place).symlink_to(place)
    elif kind == "a directory":
        (folder / place).mkdir()
    elif kind == "a broken link":
        (folder / place).symlink_to("nowhere")
    elif kind == "bytes":
        (folder / place).write_bytes(shop.draw.randbytes(4_000))
    elif kind == "an empty file":
        (folder / place).touch()
    elif kind == "a socket":
        with socket.socket(socket.AF_UNIX) as server:
            before = Path.cwd()
            os.chdir(folder)  # a socket's path has 108 bytes
            server.bind(place)
            os.chdir(before)
    elif kind == "a directory of FIFOs":
        (folder / place).mkdir()
        for name in ("config.json", "model.safetensors", "report.json", "manifest.json",
                     "model.onnx"):  # fmt: skip
            os.mkfifo(folder / place / name)
    elif kind == "a loop of directories":
        (folder / place).mkdir()
        (folder / place / "artifact").symlink_to(".")
    else:
        place = {
            "/dev/zero": "/dev/zero", "/dev/full": "/dev/full", "/dev/stdin": "/dev/stdin",
            "nothing": "nothing.yaml", "too long": "x/" * 3_000 + "x.yaml",
            "a long name": "x" * 300 + ".yaml", "NUL": "a\0b.yaml", "empty": "",
            "through a file": "rows.csv/x.yaml", "newline": "a\nb.yaml",
            "~nobody": "~nobody-here/x",
            "/proc/self/mem": "/proc/self/mem", "half a pair": "\udc80.yaml",
        }[kind]  # fmt: skip
    return kind, place


def _commands(place: str) -> list[tuple[str, tuple[str, ...]]]:
    return [
        ("validate", ("validate", place)),
        ("run", ("run", place)),
        ("validate", ("validate", RECIPE, "--set", f"data.search.path={place}")),
        ("run", ("run", RECIPE, "--set", f"data.search.path={place}")),
        ("validate", ("validate", RECIPE, "--set", f"model.checkpoint={place}")),
        ("run", ("run", RECIPE, "--set", f"model.checkpoint={place}")),
        ("inspect", ("inspect", place, "--no-timing")),
        ("inspect", ("inspect", "bert", "--no-timing", "--data", place, "--text", "text")),
        ("compare", ("compare", place)),
        ("compare", ("compare", place, place)),
        ("init", ("init", place, "--data", "rows.csv", "--output", "made.yaml")),
        ("init", ("init", "bert", "--data", place, "--output", "made.yaml")),
        ("init", ("init", "bert", "--data", "rows.csv", "--train", place, "--output", "made.yaml")),
    ]


def _odd_words(draw: Random) -> list[tuple[str, tuple[str, ...]]]:
    value = draw.choice(
        ("x", "=", "=1", "a=", "a.b", "passes.0.ratio=0.5", "passes.9.kind=x", "passes.-1=x",
         "budget.max_drop", "budget.max_drop=", "budget.max_drop=[", "budget.max_drop=1e999",
         "budget.max_drop=2", "budget.max_drop=.nan", "seed=9" + "9" * 400, "seed=1.5", "seed=-1",
         "seed=!!python/object/apply:os.getcwd []", "seed=&a [*a]", "model=bert", "model.=bert",
         ".=1", "..=1", "passes=1", "passes.kind=x", "data.search.path.x=1", "budget={", "é=1",
         "output.x=1", "export.opset=16", "export.opset=99", "benchmark.threads=0", "\0=1",
         "data.search=null", "passes.0=" + "[" * 3_000, "model.checkpoint.a.b.c=1")
    )  # fmt: skip
    return [
        ("validate", ("validate", RECIPE, "--set", value)),
        ("run", ("run", RECIPE, "--set", value)),
        ("validate", ("validate", RECIPE, "--set", value, "--set", "budget.max_drop=7")),
        ("validate", ("validate", RECIPE, f"--{value[:40]}")),
        ("validate", ("validate",)),
        ("run", ("run", RECIPE, "--device", "tpu")),
        ("run", ("run", RECIPE, "--output", "rows.csv")),
        ("run", ("run", RECIPE, "--output", "bert")),
        ("run", ("run", RECIPE, "--output", "/proc/nowhere")),
        ("run", ("run", RECIPE, "--output", "x" * 300)),
        ("run", ("run", RECIPE, "--output", "a\0b")),
        ("run", ("run", RECIPE, "--output", "/dev/full")),
        ("passes", ("passes", value)),
        ("compare", ("compare",)),
        ("compare", ("compare", "bert", "bert", "--html", "nowhere/x.html")),
        ("inspect", ("inspect", "bert", "--text", "text", "--no-timing", "--data", "rows.csv")),
        ("init", ("init", "bert", "--data", "rows.csv", "--output", "recipe.yaml")),
        ("init", ("init", "bert", "--data", "rows.csv", "--output", "bert")),
        ("init", ("init", "bert", "--data", "rows.csv", "--output", "no/where.yaml")),
        ("init", ("init", "bert", "--data", "rows.csv", "--output", "m.yaml", "--text", "nobody")),
        ("init", ("init", "bert", "--data", "rows.csv", "--output", "m.yaml", "--label", "no")),
        ("init", ("init", "bert", "--data", "rows.csv", "--output", "m.yaml", "--label-names",
                  ",,,")),
        ("init", ("init", "bert", "--data", "rows.csv", "--output", "m\0.yaml")),
    ]  # fmt: skip
