"""What sentence-transformers reads of a text, as the file of its first step says.

`sentence_bert_config.json` says how many tokens are read and whether texts are put to lower case.
It may say more: other arguments for tokenizer, configuration or model, another output. What would
make other vectors or scores is refused by its name, because nothing here follows it. Without
`modules.json` there is no such step, and the file is not read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from compressor.errors import EnvironmentMismatch
from compressor.tasks.head import ConfigFile

MODULES = "modules.json"
LENGTH_FILE = "sentence_bert_config.json"
# In the order in which sentence-transformers looks for them; the others were written by its first
# versions.
_LENGTH_FILES = (
    LENGTH_FILE,
    *(
        f"sentence_{kind}_config.json"
        for kind in ("roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
    ),
)
# Arguments for the loading of a tokenizer, a configuration or a model, by their old and new names,
# with those that change no number, or only how far one is rounded.
_ARGUMENTS: Mapping[str, frozenset[str]] = {
    "tokenizer_args": frozenset({"use_fast"}),
    "processor_kwargs": frozenset({"use_fast"}),
    "config_args": frozenset({"use_cache"}),
    "config_kwargs": frozenset({"use_cache"}),
    **dict.fromkeys(
        ("model_args", "model_kwargs"),
        frozenset(
            {
                "add_pooling_layer",
                "attn_implementation",
                "device_map",
                "dtype",
                "low_cpu_mem_usage",
                "torch_dtype",
                "use_safetensors",
            }
        ),
    ),
}
_NO_CODE = "trust_remote_code"  # no code of a checkpoint is run, whatever it says
# What else would change what is made of a text, where anything but null is given.
_OTHERS = ("query_length", "document_length", "query_expansion")
Gives = Literal["states", "scores"]
# What the step is called for, its output, and where in the model that lies, by what it gives.
_USUAL: Mapping[Gives, tuple[str, str, str]] = {
    "states": ("feature-extraction", "token_embeddings", "last_hidden_state"),
    "scores": ("sequence-classification", "scores", "logits"),
}
_OF_TEXTS = ("common", "text")  # parts of what a tokenizer is called with


def longest_read(directory: Path) -> int | None:
    """Return how many tokens sentence-transformers reads at most; None where it says nothing.

    It is what counts, whatever the tokenizer's own files say.
    """
    place, content = _settings(directory)
    found = content.get("max_seq_length")
    if found is not None and not (type(found) is int and found > 1):
        raise EnvironmentMismatch(
            f"{place}: max_seq_length must be a whole number above 1, got {found!r}"
        )
    return found


def require_case(name: str, directory: Path, tokenizer: Any) -> None:
    """Raise `EnvironmentMismatch` where texts are put to lower case before a tokenizer.

    One that does not tell case apart will do. `name` is the checkpoint's.
    """
    probe = "The QUICK Brown Fox"
    place, content = _settings(directory)
    lowers = bool(content.get("do_lower_case"))
    if lowers and tokenizer.tokenize(probe) != tokenizer.tokenize(probe.lower()):
        raise EnvironmentMismatch(
            f"{name}: {place.name} puts texts to lower case before a tokenizer that "
            f"tells case apart, which an artifact cannot do; give the tokenizer a lower-case "
            f"normalizer and set do_lower_case to false"
        )


def require_plain_reading(directory: Path, gives: Gives) -> None:
    """Raise `EnvironmentMismatch` where texts are read, or outputs given, in a way of its own."""
    place, content = _settings(directory)
    for key, value in _unfollowed(content, *_USUAL[gives]):
        raise EnvironmentMismatch(
            f"{place}: {key} is {json.dumps(value)}, which is not followed here, so that outputs "
            f"would be others; remove it and write what it means into the files of the tokenizer "
            f"or into config.json, or give a checkpoint that does without"
        )


def _unfollowed(
    content: ConfigFile, task: str, output: str, inside: str
) -> Iterator[tuple[str, object]]:
    """Yield each setting that would make other outputs, and its value."""
    for key, harmless in _ARGUMENTS.items():
        given = content.get(key)
        for name, value in (given if isinstance(given, Mapping) else {}).items():
            if name not in harmless and name != _NO_CODE:
                yield f"{key}.{name}", value
    usual = {**dict.fromkeys(_OTHERS), "transformer_task": task, "module_output_name": output}
    for key, value in usual.items():
        if content.get(key) not in (None, value):
            yield key, content[key]
    ways, way = content.get("modality_config"), {"method": "forward", "method_output_name": inside}
    if isinstance(ways, Mapping) and (own := ways.get("text", way)) != way:
        yield "modality_config.text", own
    called = content.get("processing_kwargs")
    for part in _OF_TEXTS:
        if isinstance(called, Mapping) and called.get(part):
            yield f"processing_kwargs.{part}", called[part]


def _settings(directory: Path) -> tuple[Path, ConfigFile]:
    """Return the file that counts, and its content; empty where there is none, or no step."""
    if not (directory / MODULES).is_file():
        return directory / LENGTH_FILE, {}
    for name in _LENGTH_FILES:
        if content := read_json(directory / name):
            return directory / name, content
    return directory / LENGTH_FILE, {}


def read_json(path: Path, kind: type[Any] = dict) -> Any:
    """Return the content of a JSON file; None when it does not exist.

    Raises `EnvironmentMismatch` for one that cannot be read, or holds something else than `kind`.
    """
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise EnvironmentMismatch(f"{path}: not a readable JSON file ({error})") from error
    if not isinstance(content, kind):
        raise EnvironmentMismatch(f"{path}: must hold a {kind.__name__}, copy it again")
    return content
