from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real dialogues that lie beside the repository and are no part of it."""
    beside = Path(__file__).resolve().parents[2] / "shared"
    folder = Path(os.environ.get("DUPLEXDATA_SHARED", beside)) / "data"
    if not folder.is_dir():
        pytest.skip(f"no real data: {folder} is missing, set DUPLEXDATA_SHARED to the folder above it")
    return folder
