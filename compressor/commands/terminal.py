"""What every command writes to, and how torch is made ready for a terminal."""

from __future__ import annotations

from collections.abc import Callable

from rich.console import Console

from compressor.machine.memory import limit_to_free_memory

FLAG = ""  # in place of `<bool>`, which typer shows as if a flag took a value
out = Console()
err = Console(stderr=True)


def prepare_torch(*, quiet: bool = True) -> None:
    """Turn the progress bars of transformers off, and let memory that is not there be an error."""
    import torch

    if not torch.cuda.is_available():
        limit_to_free_memory()
    if not quiet:
        return
    from transformers.utils import logging as transformers_logging

    turn_off: Callable[[], None] = transformers_logging.disable_progress_bar
    turn_off()
