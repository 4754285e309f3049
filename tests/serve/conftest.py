"""An artifact to serve."""

from __future__ import annotations

from pathlib import Path

import pytest

from compressor.artifact import Artifact, load_artifact


@pytest.fixture(scope="session")
def classifier(served_folder: Path) -> Artifact:
    return load_artifact(served_folder, threads=1)
