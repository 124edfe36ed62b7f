"""Recordings to clone from: some that lie beside the repository, and some that espeak-ng makes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from voice_prompts import SENTENCES, Change, Prompt, in_a_room, write_bank_to


@pytest.fixture(scope="session")
def real_folder() -> Path:
    """Real prompts that lie beside the repository and are no part of it."""
    beside = Path(__file__).resolve().parents[3] / "shared"
    folder = Path(os.environ.get("DUPLEXDATA_SHARED", beside)) / "voices"
    if not folder.is_dir():
        pytest.skip(f"no real prompts: {folder} is missing, set DUPLEXDATA_SHARED to the folder above it")
    return folder


@pytest.fixture(scope="session")
def made_prompts() -> list[Prompt]:
    """Twelve, each of another of the embedded speakers and of another sentence, with a quiet room around it."""
    pytest.importorskip("espeakng_loader")
    from duplexdata.speech.base import Speech, SpeechRequest
    from duplexdata.speech.espeak import EspeakSynthesizer
    from duplexdata.speech.voices import user_voices

    # espeak-ng's paul clips, and its fastest are at the limit of what passes for a person.
    usable = [v for v in user_voices() if v.setting("variant") != "paul" and int(v.setting("rate")) <= 175]
    voices = usable[:: len(usable) // len(SENTENCES)]
    requests = [SpeechRequest(s, v) for s, v in zip(SENTENCES, voices, strict=False)]
    synthesizer = EspeakSynthesizer()
    try:
        speeches = list(synthesizer.synthesize_many(requests))
    finally:
        synthesizer.close()
    found = []
    for n, (request, speech) in enumerate(zip(requests, speeches, strict=True)):
        assert isinstance(speech, Speech)
        found.append(Prompt(request.voice.id, in_a_room(speech.samples, n), speech.sample_rate, request.text))
    return found


@pytest.fixture
def write_bank(tmp_path: Path, made_prompts: list[Prompt]) -> Callable[..., Path]:
    """Writes a bank of recordings; `change` may change a row, or give None to leave it out."""

    def write(change: Change = lambda i, row: row) -> Path:
        return write_bank_to(tmp_path / "bank", made_prompts, change)

    return write
