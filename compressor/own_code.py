"""Functions of the user's own, which a recipe names as `file.py:function`.

Nothing in such a file runs by itself: a recipe is read, shown and checked without it, and only who
allows it (`--allow-code`) has it imported. What runs is exactly the bytes whose SHA-256 is kept, so
that every number can be traced to the code that it came from.
"""

from __future__ import annotations

import hashlib
import inspect
import re
import sys
import traceback
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, ValidationInfo

from compressor.errors import EnvironmentMismatch, OwnCodeError
from compressor.paths import resolve_path, unreadable
from compressor.setting_errors import did_you_mean, show

ALLOW = "--allow-code (allow_code=True in Python)"
_REFERENCE = re.compile(r"(?P<file>.+\.py):(?P<function>[^:/\\]+)", re.DOTALL)
_LARGEST = 1 << 20  # bytes of a file of code
_MOST_FRAMES = 8  # of a traceback that is shown, the innermost
_LONGEST_VALUE = 80  # characters of a value that is shown


def is_reference(text: str) -> bool:
    """Return whether a text names a function in a file of Python code."""
    return _REFERENCE.fullmatch(text) is not None


def short_name(reference: str) -> str:
    """Return a reference without the folder that its file lies in.

    >>> short_name("/home/ada/my_metric.py:ndcg")
    'my_metric.py:ndcg'
    """
    file, function = _parts(reference)
    return f"{file.name}:{function}"


def resolved_reference(text: str, info: ValidationInfo) -> str:
    """Return a reference whose file is a path from the root; relative ones are to the recipe.

    Raises `ValueError` for anything else.
    """
    if not is_reference(text):
        raise ValueError(
            f"must be a file and a function in it, such as my_code.py:clean, got {show(text)}"
        )
    file, function = _parts(text)
    if not function.isidentifier():
        raise ValueError(f"must end in the name of a function, got {show(function)}")
    base_dir = info.context.get("base_dir") if isinstance(info.context, dict) else None
    return f"{resolve_path(file, base_dir)}:{function}"


Reference = Annotated[str, AfterValidator(resolved_reference)]


@dataclass(frozen=True)
class OwnFunction:
    """A function of the user's own; `key` names it, `place` is where that stands in the recipe."""

    key: str
    place: str
    file: Path
    name: str
    sha256: str  # of the file
    function: Callable[..., Any] = field(repr=False, compare=False)

    @property
    def reference(self) -> str:
        """Return file and function, without the folder."""
        return f"{self.file.name}:{self.name}"

    def __call__(self, *arguments: Any) -> Any:
        """Call the function; raises `OwnCodeError` with its traceback for whatever it raises."""
        try:
            return self.function(*arguments)
        except MemoryError:
            raise  # that of this machine
        except (Exception, SystemExit) as error:
            raise OwnCodeError(f"{self.place}: {_raised(self, error)}") from error

    def wrong(self, what: str) -> OwnCodeError:
        """Return the error for what the function gave; it names the line where it is defined."""
        code = inspect.unwrap(self.function)
        line = getattr(getattr(code, "__code__", None), "co_firstlineno", None)
        place = self.file if line is None else f"{self.file}:{line}"
        return OwnCodeError(f"{self.place}: {place}: {self.name} {what}")


def load_function(key: str, reference: str, *, takes: str, place: str | None = None) -> OwnFunction:
    """Run a file of the user's own and return the function in it; `takes` names its one argument.

    The file runs under a name of its own, and only what is installed can be imported by it.

    Raises `EnvironmentMismatch` where the file is not there, `OwnCodeError` where it does not run
    or lacks the function.
    """
    file, name = _parts(reference)
    place = place or key
    if (reason := unreadable(file, largest=_LARGEST)) is not None:
        raise EnvironmentMismatch(f"{place}: {file} {reason}; paths are relative to the recipe")
    content = file.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    module = types.ModuleType(f"own_code_{digest[:12]}")
    module.__file__ = str(file)
    sys.modules[module.__name__] = module  # where dataclasses look for the names of types
    try:
        code = compile(content, str(file), "exec", dont_inherit=True)
        with _without(file.parent):
            exec(code, module.__dict__)  # noqa: S102 - the user allowed it
    except MemoryError:
        raise
    except ModuleNotFoundError as error:
        raise OwnCodeError(
            f"{place}: {_located(file, error)} imports {error.name}, which is not installed; a "
            f"file beside it cannot be imported, because its content would be in no hash: put all "
            f"of it into one file, or install the package"
        ) from error
    except (Exception, SystemExit) as error:
        raise OwnCodeError(f"{place}: {_located(file, error)} {_told(file, error)}") from error
    found = getattr(module, name, None)
    if not callable(found):
        own = [word for word, value in vars(module).items() if inspect.isfunction(value)]
        raise OwnCodeError(f"{place}: {file} has no function '{name}'{did_you_mean(name, own)}")
    try:
        inspect.signature(found).bind(None)
    except TypeError as error:
        raise OwnCodeError(
            f"{place}: {file}: {name} must take one argument, {takes} ({error})"
        ) from error
    except ValueError:
        pass  # one that is not written in Python says nothing about its arguments
    return OwnFunction(key, place, file, name, digest, found)


def shown(value: object) -> str:
    """Return a value for a message, shortened, with its type; never raises."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # noqa: BLE001 - a class of anybody's may raise anything
        text = "?"
    if len(text) > _LONGEST_VALUE:
        text = f"{text[:_LONGEST_VALUE]}..."
    return f"{text} ({type(value).__name__})"


@contextmanager
def _without(folder: Path) -> Iterator[None]:
    """Import nothing from a folder, also where it is the one that Python was started in."""
    known = list(sys.path)
    sys.path[:] = [entry for entry in known if Path(entry or Path.cwd()).absolute() != folder]
    try:
        yield
    finally:
        sys.path[:] = known


def _parts(reference: str) -> tuple[Path, str]:
    found = _REFERENCE.fullmatch(reference)
    assert found is not None, "references are checked where a recipe is read"
    return Path(found["file"]), found["function"]


def _raised(own: OwnFunction, error: BaseException) -> str:
    return f"{_located(own.file, error)}: {own.name} {_told(own.file, error)}"


def _located(file: Path, error: BaseException) -> str:
    """Return `file:line` of the last line of the file that was running."""
    if isinstance(error, SyntaxError) and error.filename == str(file):
        return f"{file}:{error.lineno}"
    lines = [line for frame, line in traceback.walk_tb(error.__traceback__) if _is_in(file, frame)]
    return f"{file}:{lines[-1]}" if lines else str(file)


def _told(file: Path, error: BaseException) -> str:
    """Return what was raised, and the traceback from the file's own first line on."""
    summary = " ".join(str(error).split())
    head = f"raised {type(error).__name__}{f': {summary}' if summary else ''}"
    trace = error.__traceback__
    while trace is not None and not _is_in(file, trace.tb_frame):
        trace = trace.tb_next
    # Of an error in the file's syntax, or in a call of it with too few arguments, there is none.
    lines = traceback.format_exception(type(error), error, trace, limit=-_MOST_FRAMES)
    return f"{head}\n{''.join(lines).rstrip()}"


def _is_in(file: Path, frame: types.FrameType) -> bool:
    return frame.f_code.co_filename == str(file)
