"""A recording is found again at another level, rate, length of silence or coding; another reading is not."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import soxr
from voice_prompts import SENTENCES, Float32, Prompt, read_prompts

from duplexdata.speech.base import Speech, SpeechRequest
from duplexdata.voices.duplicates import contour, first_alike


def coded(samples: Float32, rate: int, format: str) -> Float32:
    data = io.BytesIO()
    sf.write(data, samples, rate, format=format)
    data.seek(0)
    found: Float32 = sf.read(data, dtype="float32")[0]
    return found


CHANGES: list[Callable[[Float32, int], tuple[Float32, int]]] = [
    lambda x, rate: (x * np.float32(0.2), rate),
    lambda x, rate: (np.pad(x, (rate // 3, rate // 7)), rate),
    lambda x, rate: (soxr.resample(x, rate, 16_000).astype(np.float32), 16_000),
    lambda x, rate: (soxr.resample(x, rate, 48_000).astype(np.float32), 48_000),
    lambda x, rate: (coded(x, rate, "MP3"), rate),
    lambda x, rate: (coded(soxr.resample(x, rate, 24_000).astype(np.float32), 24_000, "OGG"), 24_000),
    lambda x, rate: (-x, rate),
]


@pytest.fixture(params=["real", "made"])
def prompts(request: pytest.FixtureRequest) -> list[Prompt]:
    if request.param == "real":
        return read_prompts(request.getfixturevalue("real_folder"))
    found: list[Prompt] = request.getfixturevalue("made_prompts")
    return found


@pytest.mark.parametrize("change", CHANGES)
def test_the_same_recording_is_found_again(
    prompts: list[Prompt], change: Callable[[Float32, int], tuple[Float32, int]]
) -> None:
    contours = [contour(p.samples, p.rate) for p in prompts]
    again = [contour(*change(p.samples, p.rate)) for p in prompts]
    n = len(prompts)
    assert first_alike([*contours, *again]) == [None] * n + list(range(n))


def test_other_recordings_are_other_ones(prompts: list[Prompt]) -> None:
    assert first_alike([contour(p.samples, p.rate) for p in prompts]) == [None] * len(prompts)


def test_another_speaker_of_the_same_sentence_is_another_recording() -> None:
    pytest.importorskip("espeakng_loader")
    from duplexdata.speech.espeak import EspeakSynthesizer
    from duplexdata.speech.voices import user_voices

    synthesizer = EspeakSynthesizer()
    speeches = list(synthesizer.synthesize_many([SpeechRequest(SENTENCES[0], v) for v in user_voices()]))
    synthesizer.close()
    contours = [contour(s.samples, s.sample_rate) for s in speeches if isinstance(s, Speech)]
    assert len(contours) == 64
    assert first_alike(contours) == [None] * 64


def test_nothing_is_like_nothing(tmp_path: Path) -> None:
    assert first_alike([]) == []
