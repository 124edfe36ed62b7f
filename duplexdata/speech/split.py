"""A synthesizer that speaks long texts in pieces and joins them into one utterance."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from duplexdata.errors import SynthesisError, UtteranceRejected
from duplexdata.rng import stable_hash
from duplexdata.speech.base import Float32, Speech, SpeechRequest, Synthesizer, WordTime
from duplexdata.splitting import Piece, split_text
from duplexdata.vad import BELOW_PEAK_DB
from duplexdata.words import split_words

_FRAME_SEC = 0.01
_KEPT_SEC = 0.02
"""Silence left beside the speech of a piece where it is joined: soft beginnings and ends are below the detector."""
_MOST_GAIN_DB = 6.0
"""Pieces differ by more only where one of them is broken, which is for others to notice."""
_MOST_PEAK = 0.99
SEED_BITS = 31


class SplitSynthesizer:
    """Parts texts of more than `most` characters, speaks the pieces with seeds of their own, joins their sound.

    What fits goes through as it is. The text itself is never changed.
    """

    def __init__(self, inner: Synthesizer, most: int) -> None:
        self._inner, self._most = inner, most
        self.name = inner.name

    def describe(self) -> dict[str, str]:
        return {**self._inner.describe(), "piece_characters": str(self._most)}

    def synthesize_many(self, requests: Iterable[SpeechRequest]) -> Iterator[Speech | SynthesisError]:
        waiting: deque[tuple[SpeechRequest, tuple[Piece, ...]]] = deque()

        def parts() -> Iterator[SpeechRequest]:
            for request in requests:
                pieces = split_text(request.text, self._most)
                waiting.append((request, pieces))
                yield from _requests(request, pieces)

        answers = self._inner.synthesize_many(parts())
        for first in answers:
            request, pieces = waiting.popleft()
            found = [first, *(next(answers) for _ in pieces[1:])]
            yield _joined(request, pieces, found)

    def close(self) -> None:
        self._inner.close()


def _requests(request: SpeechRequest, pieces: Sequence[Piece]) -> Iterator[SpeechRequest]:
    if len(pieces) == 1:
        yield request
        return
    for i, piece in enumerate(pieces):
        yield replace(request, text=piece.text, seed=stable_hash(request.seed, "piece", i, bits=SEED_BITS))


def _joined(
    request: SpeechRequest, pieces: Sequence[Piece], found: Sequence[Speech | SynthesisError]
) -> Speech | SynthesisError:
    if len(found) == 1:
        return found[0]
    spoken = []
    for i, result in enumerate(found):
        if isinstance(result, SynthesisError):
            message = f"piece {i + 1} of {len(found)}: {result}"
            if isinstance(result, UtteranceRejected):
                return UtteranceRejected(result.reason, message)
            return SynthesisError(message, retryable=result.retryable)
        spoken.append(result)
    if len({s.sample_rate for s in spoken}) > 1:
        return SynthesisError("the pieces of one utterance have different sample rates", retryable=True)
    joined = join(spoken, [p.joint.pause_sec for p in pieces[:-1]])
    if joined.words is not None and len(joined.words) != len(split_words(request.text)):
        return replace(joined, words=None)
    return joined


def join(spoken: Sequence[Speech], pauses: Sequence[float]) -> Speech:
    """One utterance of several, all at one sample rate.

    Silence is trimmed where two meet and replaced by a pause, and each is brought to the mean level of all. The
    silence before the first and behind the last stays.

    Args:
        pauses: seconds between each two, shape (len(spoken) - 1,).

    Returns: with word times if every piece has them.
    """
    rate = spoken[0].sample_rate
    spans = [_active(s) for s in spoken]
    known = [s for s in spans if s is not None]
    level = sum(s.level_db * s.frames for s in known) / max(1, sum(s.frames for s in known))
    parts: list[Float32] = []
    words: list[WordTime] | None = []
    position = 0
    for i, (speech, span) in enumerate(zip(spoken, spans, strict=True)):
        kept = round(_KEPT_SEC * rate)
        start = 0 if i == 0 or span is None else max(0, span.start - kept)
        end = len(speech.samples) if i == len(spoken) - 1 or span is None else min(len(speech.samples), span.end + kept)
        samples = speech.samples[start:end]
        if span is not None:
            samples = _at_level(samples, level - span.level_db)
        samples = _faded(samples, kept // 2, at_start=i > 0, at_end=i < len(spoken) - 1)
        if words is not None and speech.words is not None:
            words += [_moved(w, position - start, position, position + len(samples)) for w in speech.words]
        else:
            words = None
        parts.append(samples)
        position += len(samples)
        if i < len(pauses):
            # What was kept on both sides is part of the pause.
            silence = max(0, round(pauses[i] * rate) - 2 * kept)
            parts.append(np.zeros(silence, np.float32))
            position += silence
    return Speech(np.concatenate(parts), rate, None if words is None else tuple(words))


@dataclass(frozen=True, slots=True)
class _Active:
    """Where there is speech, in samples; how many frames are speech; their mean level."""

    start: int
    end: int
    frames: int
    level_db: float


def _active(speech: Speech) -> _Active | None:
    n = max(1, round(speech.sample_rate * _FRAME_SEC))
    frames = speech.samples[: len(speech.samples) // n * n].reshape(-1, n).astype(np.float64)
    energy = np.einsum("ij,ij->i", frames, frames) / n
    if not len(energy) or not np.isfinite(energy).all() or not energy.max() > 0:
        return None
    active: npt.NDArray[np.int64] = np.flatnonzero(energy > energy.max() * 10 ** (-BELOW_PEAK_DB / 10))
    level = 10 * float(np.log10(energy[active].mean()))
    return _Active(int(active[0]) * n, (int(active[-1]) + 1) * n, len(active), level)


def _at_level(samples: Float32, gain_db: float) -> Float32:
    gain = 10 ** (min(_MOST_GAIN_DB, max(-_MOST_GAIN_DB, gain_db)) / 20)
    peak = float(np.abs(samples).max()) if len(samples) else 0.0
    if gain > 1 and peak > 0:
        gain = max(1.0, min(gain, _MOST_PEAK / peak))
    return samples * np.float32(gain)


def _faded(samples: Float32, n: int, *, at_start: bool, at_end: bool) -> Float32:
    n = min(n, len(samples))
    ramp = np.linspace(0.0, 1.0, n + 1, dtype=np.float32)[1:]
    out = samples.copy()
    if at_start:
        out[:n] *= ramp
    if at_end:
        out[len(out) - n :] *= ramp[::-1]
    return out


def _moved(word: WordTime, by: int, first: int, last: int) -> WordTime:
    """The word in the joined sound, inside what is left of its piece."""
    start = min(max(word.start + by, first), last)
    return replace(word, start=start, end=max(start, min(word.end + by, last)))
