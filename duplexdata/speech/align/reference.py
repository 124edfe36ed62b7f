"""Word times without a model: a recording is warped onto espeak-ng's rendering of its text, whose times are known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from duplexdata.errors import SynthesisError
from duplexdata.speech.align.base import AlignmentError, placed
from duplexdata.speech.align.dtw import warp
from duplexdata.speech.align.features import (
    HOP_SEC,
    features,
    frames,
    log_mel,
    loudness,
    silence_threshold,
    silences,
    speech_bounds,
)
from duplexdata.speech.base import Float32, Speech, SpeechRequest, Synthesizer, Voice, WordTime
from duplexdata.words import split_words

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]

_REFERENCE = Voice(
    "reference", "both", (("accent", "en-us"), ("variant", "f2"), ("rate", "165"), ("pitch", "50"), ("range", "50"))
)
"""One female voice: the better of it and a male one was no better, and takes twice the time."""
_PAUSE = frames(0.12)
"""A shorter silence may be the closure of a stop."""
_CUT_PAUSE, _EDGE = frames(0.16), frames(0.03)
"""Of a longer silence only the edges are warped. A pause that one of the two voices lacks costs the path so much
otherwise that it drags the words before it along."""
_LONG_PAUSE, _NEAR, _NEAR_LONG = frames(0.2), frames(0.03), frames(0.15)
"""How far a pause may lie from the end of a word that it is taken for."""
_BAND, _BAND_SHARE = frames(1.0), 0.15
"""How far a speaker may be ahead or behind: frames, and a share of the longer recording."""
_MOST_TEMPO = 6.0
"""A recording so many times longer or shorter than the other does not say the same."""


@dataclass(frozen=True, slots=True)
class _Heard:
    """A recording as it is compared. `kept`: its frames without the insides of pauses; `pauses`: inside the speech."""

    kept: Int64
    features: Float32
    pauses: tuple[tuple[int, int], ...]
    first: int


class ReferenceAligner:
    """Dynamic time warping against a reference voice, then words moved to the pauses next to them.

    Source: Malfrère and Dutoit, "High-quality speech synthesis for phonetic speech segmentation", 1997, for the idea.
    """

    def __init__(self, make_reference: Callable[[], Synthesizer], name: str) -> None:
        self._make = make_reference
        self._reference: Synthesizer | None = None
        self.name = f"dtw-{name}"

    def word_times(self, request: SpeechRequest, speech: Speech) -> tuple[WordTime, ...]:
        if not split_words(request.text):
            return ()
        reference = self._speak(request)
        if not len(speech.samples) or reference.words is None:
            raise AlignmentError("there is nothing to align")
        starts, ends = _transferred(reference, _heard(reference), _heard(speech))
        return placed(request.text, starts, ends, speech)

    def _speak(self, request: SpeechRequest) -> Speech:
        if self._reference is None:
            self._reference = self._make()
        (spoken,) = self._reference.synthesize_many([SpeechRequest(request.text, _REFERENCE, request.language)])
        if isinstance(spoken, SynthesisError):
            raise AlignmentError(str(spoken))
        return spoken

    def describe(self) -> dict[str, str]:
        return {"name": self.name}

    def close(self) -> None:
        if self._reference is not None:
            self._reference.close()
            self._reference = None


def _heard(speech: Speech) -> _Heard:
    mel = log_mel(speech.samples, speech.sample_rate)
    level = loudness(mel)
    threshold = silence_threshold(level)
    first, behind = speech_bounds(level, threshold)
    pauses = [(a, b) for a, b in silences(level, threshold, _PAUSE) if first < a and b < behind]
    keep = np.zeros(len(level), bool)
    keep[first:behind] = True
    for a, b in pauses:
        if b - a >= _CUT_PAUSE:
            keep[a + _EDGE : b - _EDGE] = False
    kept = np.flatnonzero(keep)
    return _Heard(kept, features(mel, level)[kept], tuple(pauses), first)


def _transferred(reference: Speech, known: _Heard, heard: _Heard) -> tuple[Float64, Float64]:
    """Seconds in `heard` at which the reference's words start and end."""
    n, m = len(known.kept), len(heard.kept)
    if max(n, m) > _MOST_TEMPO * min(n, m) + _BAND:
        raise AlignmentError(f"{m * HOP_SEC:.1f} s of speech cannot say what takes {n * HOP_SEC:.1f} s")
    a, b, _ = warp(known.features, heard.features, _BAND + int(_BAND_SHARE * max(n, m)))
    rows = np.arange(n)
    middle = (b[np.searchsorted(a, rows, "left")] + b[np.searchsorted(a, rows, "right") - 1]) / 2

    def there(samples: list[int]) -> Float64:
        here = np.array(samples, np.float64) / reference.sample_rate / HOP_SEC
        return np.interp(np.interp(here, known.kept, middle), np.arange(m), heard.kept)

    words = reference.words or ()
    starts, ends = there([w.start for w in words]), there([w.end for w in words])
    starts[0] = max(starts[0], heard.first)
    _move_to_pauses(starts, ends, heard.pauses)
    return starts * HOP_SEC, ends * HOP_SEC


def _move_to_pauses(starts: Float64, ends: Float64, pauses: tuple[tuple[int, int], ...]) -> None:
    """Each pause is given to the nearest end of a word, in place: the word ends where it begins."""
    chosen: dict[int, tuple[int, int]] = {}
    for first, behind in pauses if len(starts) > 1 else ():
        apart = np.maximum(np.maximum(ends[:-1] - behind, first - starts[1:]), 0)
        overlap = np.minimum(starts[1:], behind) - np.maximum(ends[:-1], first)
        word = int(np.lexsort((-overlap, apart))[0])
        near = _NEAR_LONG if behind - first >= _LONG_PAUSE else _NEAR
        other = chosen.get(word, (0, 0))
        if apart[word] <= near and behind - first > other[1] - other[0]:
            chosen[word] = (first, behind)
    for word, (first, behind) in chosen.items():
        if first > starts[word] + 2 and behind < ends[word + 1] - 2:
            ends[word], starts[word + 1] = first, behind
