"""Bursts of sound instead of a voice: 80 ms a character, the same in every run. For tests of what comes after it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache

import numpy as np

from duplexdata.errors import SynthesisError
from duplexdata.rng import stable_hash
from duplexdata.speech.base import Float32, Speech, SpeechRequest, WordTime
from duplexdata.words import split_words

CHARACTER_SEC = 0.08
"""As long as a character takes in speech at 150 words a minute."""
_PEAK = 0.3
_FADE_SEC = 0.005


class ToneSynthesizer:
    """Every letter or digit is a burst: a buzz at the voice's pitch with three resonances of its own. The rest is
    silence. Pitch follows from the voice, resonances from the character, and a slight detuning from the seed.

    Args:
        words: whether word times (exact ones) are given.
    """

    def __init__(self, *, sample_rate: int = 24_000, words: bool = True) -> None:
        self._rate, self._words = sample_rate, words
        self.name = "tone"

    def describe(self) -> dict[str, str]:
        return {"name": self.name, "sample_rate": str(self._rate), "words": str(self._words)}

    def synthesize_many(self, requests: Iterable[SpeechRequest]) -> Iterator[Speech | SynthesisError]:
        for request in requests:
            yield self._speak(request)

    def _speak(self, request: SpeechRequest) -> Speech | SynthesisError:
        spans = split_words(request.text)
        if not spans:
            return SynthesisError(f"nothing to say in {request.text[:40]!r}")
        n = round(CHARACTER_SEC * self._rate)
        pitch = 90 + stable_hash(request.voice.id, "pitch") % 140 + stable_hash(request.seed, "pitch") % 5
        samples = np.zeros(n * len(request.text), np.float32)
        for i, character in enumerate(request.text):
            if character.isalnum():
                samples[i * n : (i + 1) * n] = _burst(character.lower(), pitch, n, self._rate)
        words = tuple(WordTime(request.text[s.start : s.end], s.start * n, s.end * n) for s in spans)
        return Speech(samples, self._rate, words if self._words else None)

    def close(self) -> None:
        pass


@lru_cache(maxsize=4096)
def _burst(character: str, pitch: int, n: int, rate: int) -> Float32:
    time = np.arange(n) / rate
    formants = [low + stable_hash(character, low) % width for low, width in ((300, 500), (900, 1400), (2300, 900))]
    sound = np.zeros(n)
    for harmonic in range(1, 3500 // pitch):
        frequency = harmonic * pitch
        gain = sum(1 / (1 + ((frequency - f) / 90) ** 2) for f in formants) + 0.02
        sound += gain * np.sin(2 * np.pi * frequency * time)
    fade = round(_FADE_SEC * rate)
    window = np.minimum(1.0, np.minimum(np.arange(n) + 1, n - np.arange(n)) / fade)
    return (sound * window * (_PEAK / np.abs(sound).max())).astype(np.float32)
