"""What a synthesizer is. Backends implement `Synthesizer`; nothing above them knows which one runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from duplexdata.errors import SynthesisError

Int16 = npt.NDArray[np.int16]
Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class VoicePrompt:
    """A recording that a voice is cloned from.

    Attributes:
        path: of the sound file, on this machine; never written into a dataset.
        transcript: the words that are said in it.
        sha256: of the file's bytes: what stands for the recording in fingerprints and caches.
    """

    path: str
    transcript: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Voice:
    """A speaker of the voice bank.

    Attributes:
        id: stable; what the columns `voice`, `user_voice`, `assistant_voice` hold.
        split: "train", "test", or "both" (the assistant's voice).
        settings: what the backend needs to speak with it, as (name, value) pairs of plain text.
        prompt: what a cloning backend needs; None for voices that an engine has of its own.
    """

    id: str
    split: str
    settings: tuple[tuple[str, str], ...] = ()
    prompt: VoicePrompt | None = None

    def setting(self, name: str, default: str = "") -> str:
        return dict(self.settings).get(name, default)


@dataclass(frozen=True, slots=True)
class SpeechRequest:
    """One utterance to be spoken: `text` in spoken form, `language` a BCP 47 tag."""

    text: str
    voice: Voice
    language: str = "en"
    seed: int = 0


@dataclass(frozen=True, slots=True)
class WordTime:
    """A word of the text and when it sounds, in samples of the sound it belongs to. `start` <= `end`.

    `estimated`: interpolated, not given by the engine.
    """

    text: str
    start: int
    end: int
    estimated: bool = False


@dataclass(frozen=True, slots=True)
class Speech:
    """A synthesized utterance.

    Attributes:
        samples: mono float32 in [-1, 1], shape (n_samples,).
        sample_rate: Hz.
        words: one per word of the text (`words.split_words`), or None if the engine gives no times.
    """

    samples: Float32
    sample_rate: int
    words: tuple[WordTime, ...] | None

    @property
    def duration(self) -> float:
        """Seconds."""
        return len(self.samples) / self.sample_rate


class Synthesizer(Protocol):
    """Speaks utterances. Not shared between processes: each worker makes its own and closes it."""

    name: str
    """Of the engine and its version, as it stands in every row's provenance."""

    def synthesize_many(self, requests: Iterable[SpeechRequest]) -> Iterator[Speech | SynthesisError]:
        """One result per request, in order. A request that fails gives its error and stops nothing."""
        ...

    def describe(self) -> dict[str, str]:
        """Engine, versions, settings: part of the fingerprint of everything made with it."""
        ...

    def close(self) -> None: ...


def takes_seed(synthesizer: Synthesizer) -> bool:
    """Whether another seed gives another take of the same words; a backend says no by `takes_seed = False`."""
    return bool(getattr(synthesizer, "takes_seed", True))


def clipped_share_of(synthesizer: Synthesizer) -> float:
    """Share of samples at full scale that an engine gives where nothing is wrong (as `clipped_share`)."""
    return float(getattr(synthesizer, "clipped_share", 0.0))


def sample_rate_of(synthesizer: Synthesizer) -> int | None:
    """Hz of everything it gives; None for one that does not state it (as `sample_rate`)."""
    rate = getattr(synthesizer, "sample_rate", None)
    return None if rate is None else int(rate)
