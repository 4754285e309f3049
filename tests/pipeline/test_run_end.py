"""What the end of a run says."""

from __future__ import annotations

import pytest

from compressor.errors import Terminated
from compressor.pipeline.run_end import stopped_reason


@pytest.mark.parametrize(
    ("stop", "forced", "reason"),
    [
        (
            KeyboardInterrupt(),
            False,
            "stopped by you (Ctrl-C); run the same command again to resume",
        ),
        (
            KeyboardInterrupt(),
            True,
            "stopped by you (Ctrl-C); run the same command again, without --force, to resume",
        ),
        (
            Terminated(),
            False,
            "stopped from outside (SIGTERM); run the same command again to resume",
        ),
    ],
)
def test_a_stopped_run_says_by_whom_and_how_it_resumes(
    stop: BaseException, forced: bool, reason: str
):
    assert stopped_reason(stop, forced=forced) == reason
