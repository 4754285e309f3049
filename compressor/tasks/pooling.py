"""How a sentence's vector is made of the states of its tokens, as sentence-transformers writes it.

That library keeps it in files beside a plain encoder: `modules.json` lists the steps,
`1_Pooling/config.json` says how states become one vector, a `Normalize` step gives it length 1,
`sentence_bert_config.json` says how many tokens are read. They are read as data, nothing in them is
run, and what is saved has them again, so that sentence-transformers loads a compressed checkpoint
like the original. A step that this package does not compute is refused by its name, because vectors
without it would be other vectors.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from compressor.errors import EnvironmentMismatch, RecipeError
from compressor.measurements import EmbeddingRecord

MODULES = "modules.json"
_LENGTH = "sentence_bert_config.json"
ABOUT = "config_sentence_transformers.json"
_STEPS = (("Transformer", "Pooling"), ("Transformer", "Pooling", "Normalize"))
_MODES = {"mean": "mean", "mean_tokens": "mean", "cls": "cls", "cls_token": "cls"}
_FLAG = "pooling_mode_"
_OWN_TYPES = "sentence_transformers.models."


@dataclass(frozen=True)
class Pooling:
    """How vectors are made, and which file says so (None: the recipe, or what is usual).

    `max_length` is the largest number of tokens that the files allow. `about` is the content of
    `config_sentence_transformers.json`, which is kept as it is.
    """

    mode: str = "mean"
    normalize: bool = False
    source: str | None = None
    max_length: int | None = None
    about: Mapping[str, Any] | None = None

    def record(self) -> EmbeddingRecord:
        """Return what a report says about it."""
        return EmbeddingRecord(self.mode, self.normalize, self.source, self.max_length)

    def to_dict(self) -> dict[str, Any]:
        """Return plain types that JSON can hold."""
        return asdict(self)


def read_pooling(
    directory: Path, *, mode: str | None = None, normalize: bool | None = None
) -> Pooling:
    """Return how a checkpoint's vectors are made: by its files, else by the recipe, else as usual.

    Usual is what sentence-transformers does with a checkpoint that has no such files: the mean over
    the tokens, not normalised.

    `mode` and `normalize` are what the recipe says, None where it says nothing.

    Raises `EnvironmentMismatch` when a file is damaged or asks for a step that is not known, and
    `RecipeError` when the recipe contradicts the files.
    """
    wanted = {"pooling": mode, "normalize": normalize}
    length, about = _read(directory / _LENGTH) or {}, _read(directory / ABOUT)
    found = _from_modules(directory)
    max_length = length.get("max_seq_length")
    if max_length is not None and not (type(max_length) is int and max_length > 1):
        raise EnvironmentMismatch(
            f"{directory / _LENGTH}: max_seq_length must be a whole number above 1, got "
            f"{max_length!r}"
        )
    _refuse_prompt(directory, about)
    if found is None:
        return Pooling(mode or "mean", bool(normalize), None, max_length, about)
    said = {"pooling": found.mode, "normalize": found.normalize}
    mistakes = [
        f"model.{name}: is {_shown(value)}, but {found.source} of the checkpoint says "
        f"{_shown(said[name])}, and its vectors would become others; remove it"
        for name, value in wanted.items()
        if value not in (None, said[name])
    ]
    if mistakes:
        raise RecipeError(mistakes)
    return Pooling(found.mode, found.normalize, found.source, max_length, about)


def read_about(directory: Path) -> dict[str, Any] | None:
    """Return what sentence-transformers says about the whole model; None where it says nothing."""
    content: dict[str, Any] | None = _read(directory / ABOUT)
    return content


def lowers_case(directory: Path) -> bool:
    """Return whether sentence-transformers puts texts to lower case before the tokenizer."""
    return bool((_read(directory / _LENGTH) or {}).get("do_lower_case"))


def write_pooling(directory: Path, pooling: Pooling, *, width: int, max_length: int) -> None:
    """Write the files from which sentence-transformers makes the same vectors."""
    steps = [("", "Transformer"), ("1_Pooling", "Pooling")]
    steps += [("2_Normalize", "Normalize")] * pooling.normalize
    modules = [
        {"idx": index, "name": str(index), "path": path, "type": _OWN_TYPES + kind}
        for index, (path, kind) in enumerate(steps)
    ]
    _write(directory / MODULES, modules)
    flags = {
        f"{_FLAG}cls_token": pooling.mode == "cls",
        f"{_FLAG}mean_tokens": pooling.mode == "mean",
        f"{_FLAG}max_tokens": False,
        f"{_FLAG}mean_sqrt_len_tokens": False,
    }
    (directory / "1_Pooling").mkdir(exist_ok=True)
    _write(directory / "1_Pooling" / "config.json", {"word_embedding_dimension": width, **flags})
    _write(directory / _LENGTH, {"max_seq_length": max_length, "do_lower_case": False})
    if pooling.about is not None:
        _write(directory / ABOUT, pooling.about)


def _from_modules(directory: Path) -> Pooling | None:
    """Return what `modules.json` and the files that it names say; None without it."""
    place = directory / MODULES
    modules = _read(place, kind=list)
    if modules is None:
        return None
    try:
        kinds = tuple(str(module["type"]).rpartition(".")[2] for module in modules)
        paths = [str(module["path"]) for module in modules]
    except (KeyError, TypeError) as error:
        raise EnvironmentMismatch(f"{place}: a step without type and path ({error!r})") from error
    if kinds not in _STEPS:
        raise EnvironmentMismatch(
            f"{place}: its steps are {', '.join(kinds)}; only Transformer, Pooling and, at the "
            f"end, Normalize can be computed, and without the others its vectors would be others"
        )
    if paths[0]:
        raise EnvironmentMismatch(
            f"{place}: the encoder lies in {paths[0]}, not beside this file; move the content of "
            f"that folder here and set its path to an empty text"
        )
    if Path(paths[1]).name != paths[1]:
        raise EnvironmentMismatch(f"{place}: names a folder outside the checkpoint: {paths[1]}")
    settings = directory / paths[1] / "config.json"
    content = _read(settings)
    if content is None:
        raise EnvironmentMismatch(f"{settings}: not found, and {MODULES} names it")
    return Pooling(_mode(settings, content), len(kinds) == 3, f"{paths[1]}/config.json")


def _mode(place: Path, content: Mapping[str, Any]) -> str:
    asked = [key.removeprefix(_FLAG) for key, on in content.items() if on and key.startswith(_FLAG)]
    if isinstance(content.get("pooling_mode"), str):  # the form of later versions
        asked = [content["pooling_mode"]]
    if len(asked) != 1 or asked[0] not in _MODES:
        raise EnvironmentMismatch(
            f"{place}: pools by {' and '.join(asked) or 'nothing'}; only mean_tokens or cls_token, "
            f"one of them, can be computed"
        )
    return _MODES[asked[0]]


def _refuse_prompt(directory: Path, about: Mapping[str, Any] | None) -> None:
    name = (about or {}).get("default_prompt_name")
    prompts = (about or {}).get("prompts")
    prompt = prompts.get(name) if isinstance(prompts, Mapping) else None
    if name is not None and prompt != "":
        raise EnvironmentMismatch(
            f"{directory / ABOUT}: puts the prompt '{name}' ({prompt!r}) before every text, which "
            f"an artifact cannot do; write it into the data, and set default_prompt_name to null"
        )


def _shown(value: Any) -> str:
    return json.dumps(value) if isinstance(value, bool) else str(value)


def _read(path: Path, kind: type[Any] = dict) -> Any:
    """Return the content of a JSON file; None when it does not exist."""
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise EnvironmentMismatch(f"{path}: not a readable JSON file ({error})") from error
    if not isinstance(content, kind):
        raise EnvironmentMismatch(f"{path}: must hold a {kind.__name__}, copy it again")
    return content


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
