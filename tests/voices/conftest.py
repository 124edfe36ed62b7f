"""Recordings to clone from: some that lie beside the repository, and some that espeak-ng makes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_folder() -> Path:
    """Real prompts that lie beside the repository and are no part of it."""
    beside = Path(__file__).resolve().parents[3] / "shared"
    folder = Path(os.environ.get("DUPLEXDATA_SHARED", beside)) / "voices"
    if not folder.is_dir():
        pytest.skip(f"no real prompts: {folder} is missing, set DUPLEXDATA_SHARED to the folder above it")
    return folder
