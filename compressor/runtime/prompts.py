"""Prompts: texts such as `query: ` that an encoder was trained to read before every other text.

`config_sentence_transformers.json` names them, and which of them stands before a text of which
nothing else is said (`default_prompt_name`). They travel with the tokenizer, in its own
configuration file, so that whatever encodes a text has them: a pass, an evaluation, an artifact. A
teacher brings its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from .errors import EnvironmentMismatch
from .examples import ConfigFile, Example, texts_of
from .words import did_you_mean

_KEY = "sentence_prompts"  # in the tokenizer's configuration


@dataclass(frozen=True)
class Prompted:
    """A text that is read after a prompt of its own; `prompt_name` None takes the default."""

    text: str
    prompt_name: str | None = None

    # Names that mean the same prompt; a checkpoint has one of them.
    names: ClassVar[tuple[str, ...]] = ()

    @property
    def texts(self) -> tuple[str, ...]:
        """Return the text without its prompt."""
        return (self.text,)


@dataclass(frozen=True)
class Query(Prompted):
    """A text for which documents are looked for."""

    names: ClassVar[tuple[str, ...]] = ("query",)


@dataclass(frozen=True)
class Document(Prompted):
    """A text that is looked for."""

    names: ClassVar[tuple[str, ...]] = ("document", "passage", "corpus")


@dataclass(frozen=True)
class Prompts:
    """The prompts of a checkpoint by their names, and the name of the default one, if any."""

    by_name: Mapping[str, str]
    default: str | None = None

    def before(self, example: Example) -> str:
        """Return the prompt that stands before an example, an empty text where none does.

        Queries and documents have prompts of their own. Where the checkpoint has one for one of the
        two alone, the other has none; where it tells them apart in no way, the default is for both.

        Raises `ValueError` for the name of a prompt that there is not.
        """
        own = "" if self.default is None else self.by_name[self.default]
        if not isinstance(example, Prompted):
            return own
        if example.prompt_name is not None:
            self.require(example.prompt_name)
            return self.by_name[example.prompt_name]
        if example.names and any(name in self.by_name for name in (*Query.names, *Document.names)):
            found = (self.by_name[name] for name in example.names if name in self.by_name)
            return next(found, "")
        return own

    def require(self, name: str) -> None:
        """Raise `ValueError` where no prompt has this name."""
        if not self.by_name:
            raise ValueError(
                f"prompt_name: the checkpoint has no prompts, got '{name}'; leave it out"
            )
        if name not in self.by_name:
            raise ValueError(
                f"prompt_name: no prompt is called '{name}'"
                f"{did_you_mean(name, list(self.by_name), noun='there are')}"
            )

    def read(self, example: Example) -> str:
        """Return the text that is tokenized: the prompt and the text, with nothing between them."""
        return self.before(example) + str(texts_of(example)[0])


def read_prompts(about: ConfigFile | None, place: Path) -> Prompts:
    """Return the prompts that the file at `place`, with the content `about`, names.

    Raises `EnvironmentMismatch` where it names what is no text, or a default that is not there.
    """
    found = (about or {}).get("prompts") or {}
    default = (about or {}).get("default_prompt_name")
    texts = found.values() if isinstance(found, Mapping) else [None]
    if not all(isinstance(text, str) for text in texts):
        raise EnvironmentMismatch(
            f"{place}: prompts must be texts by their names, such as "
            f'{{"query": "query: "}}, got {found!r}; correct it'
        )
    if default is not None and default not in found:
        raise EnvironmentMismatch(
            f"{place}: default_prompt_name is {default!r}, and prompts has "
            f"{', '.join(found) or 'none'}; correct it, or set it to null"
        )
    return Prompts(dict(found), default)


def keep_prompts(tokenizer: Any, prompts: Prompts) -> None:
    """Let a tokenizer carry these prompts, also when it is saved and loaded; none of before."""
    tokenizer.init_kwargs.pop(_KEY, None)
    if prompts.by_name:
        tokenizer.init_kwargs[_KEY] = {"by_name": prompts.by_name, "default": prompts.default}


def prompts_of(tokenizer: Any) -> Prompts:
    """Return the prompts that a tokenizer carries."""
    return Prompts(**tokenizer.init_kwargs.get(_KEY, {"by_name": {}}))
