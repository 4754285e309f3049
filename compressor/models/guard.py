"""Turns errors of any type that the files of a checkpoint raise into errors about them.

What other libraries raise for files that they cannot read is of many types: KeyError, TypeError,
AttributeError, bare Exception, a panic in Rust. Around the loading of a checkpoint that somebody
else made, around its first batch, and around the tokenizer of an artifact, each of them says that
these files do not work here. Anywhere else it says that this package is wrong.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from compressor.errors import CompressorError, EnvironmentMismatch, shortened
from compressor.machine.memory import is_out_of_memory

_MOST_CHARACTERS = 600  # of a foreign message; some list every model type there is


@contextmanager
def foreign(what: str, advice: str) -> Iterator[None]:
    """Raise `EnvironmentMismatch` that begins with `what` and ends with `advice` for any error.

    Errors of this package pass, and so does what memory is to blame for.
    """
    try:
        yield
    except BaseException as error:
        if not _is_foreign(error):
            raise
        raise EnvironmentMismatch(f"{what} ({_told(error)}); {advice}") from error


def _is_foreign(error: BaseException) -> bool:
    if isinstance(error, CompressorError) or is_out_of_memory(error):
        return False
    # A panic in a library written in Rust, such as tokenizers, is no Exception.
    return isinstance(error, Exception) or type(error).__module__ == "pyo3_runtime"


def _told(error: BaseException) -> str:
    """Return the error's own words on one line, with its type where they are few."""
    words = shortened(error, _MOST_CHARACTERS)
    return f"{type(error).__name__}: {words}" if words else type(error).__name__
