"""Recordings to clone from: some that lie beside the repository, and some that espeak-ng makes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import soundfile as sf
from voice_prompts import ACCENTS, SENTENCES, SEXES, Prompt, in_a_room


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

    def write(change: Callable[[int, dict[str, object]], dict[str, object] | None] = lambda i, row: row) -> Path:
        folder = tmp_path / "bank"
        folder.mkdir(exist_ok=True)
        lines = []
        for i, prompt in enumerate(made_prompts):
            sf.write(folder / f"{prompt.id}.wav", prompt.samples, prompt.rate, subtype="PCM_16")
            row: dict[str, object] = {
                "id": prompt.id,
                "file": f"{prompt.id}.wav",
                "transcript": prompt.transcript,
                "language": "en",
                "sex": SEXES[i % 2],
                "accent": ACCENTS[i % 3],
                "licence": "CC-BY-4.0" if i % 2 else "CC0-1.0",
                "consent": "given for this test",
                "source": "made for this test",
                "split": "assistant" if i == 0 else "test" if i % 3 == 1 else "train",
            }
            changed = change(i, row)
            if changed is not None:
                lines.append(json.dumps(changed) + "\n")
        (folder / "voices.jsonl").write_text("".join(lines), encoding="utf-8")
        return folder

    return write
