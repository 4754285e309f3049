"""The scripts of tools/ as modules, since they are no package."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

TOOLS = Path(__file__).parents[2] / "tools"


@pytest.fixture(scope="session")
def load_script() -> Callable[[str], ModuleType]:
    """Return a function that loads a script by its name."""

    def load(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(name, TOOLS / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # a dataclass looks for its module there
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                sys, "path", [str(TOOLS), *sys.path]
            )  # where a script finds those beside it
            spec.loader.exec_module(module)
        return module

    return load
