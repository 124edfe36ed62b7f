"""What an aligner is, and how the times it found become the words of an utterance."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from duplexdata.speech.align.features import HOP_SEC, log_mel, loudness, silence_threshold, speech_bounds
from duplexdata.speech.base import Speech, SpeechRequest, WordTime
from duplexdata.words import split_words

Float64 = npt.NDArray[np.float64]


class AlignmentError(Exception):
    """These words cannot be found in this sound by this method."""


class Aligner(Protocol):
    """Finds when the words of a text sound in a recording of it. One per worker process."""

    name: str
    """Of the method and what it stands on; joined to the synthesizer's name in every row's provenance."""

    def word_times(self, request: SpeechRequest, speech: Speech) -> tuple[WordTime, ...]:
        """One per word of the text (`words.split_words`), in order, not overlapping, all `estimated`.

        Raises: AlignmentError: this method cannot do it, for this utterance.
        """
        ...

    def describe(self) -> dict[str, str]: ...

    def close(self) -> None: ...


def placed(text: str, starts: Float64, ends: Float64, speech: Speech) -> tuple[WordTime, ...]:
    """Times in seconds as words of the sound: in order, not overlapping, inside it."""
    n = len(speech.samples)
    starts = np.maximum.accumulate(np.clip(np.rint(starts * speech.sample_rate), 0, n)).astype(np.int64)
    ends = np.clip(np.rint(ends * speech.sample_rate), 0, n).astype(np.int64)
    ends = np.maximum(np.minimum(ends, np.append(starts[1:], n)), starts)
    spans = split_words(text)
    return tuple(
        WordTime(text[span.start : span.end], int(a), int(b), estimated=True)
        for span, a, b in zip(spans, starts, ends, strict=True)
    )


class CharacterAligner:
    """The time from the first sound to the last, shared out by characters: what is left where nothing is known."""

    name = "characters"

    def word_times(self, request: SpeechRequest, speech: Speech) -> tuple[WordTime, ...]:
        spans = split_words(request.text)
        if not spans or not len(speech.samples):
            return ()
        level = loudness(log_mel(speech.samples, speech.sample_rate))
        first, behind = speech_bounds(level, silence_threshold(level))
        edges = np.array(spans, np.float64) / spans[-1].end * (behind - first) + first
        return placed(request.text, edges[:, 0] * HOP_SEC, edges[:, 1] * HOP_SEC, speech)

    def describe(self) -> dict[str, str]:
        return {"name": self.name}

    def close(self) -> None:
        pass
