"""What checks take and yield: a row's values, what rows were made with, findings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from duplexdata.augment.config import AugmentConfig
from duplexdata.config import LayoutConfig, TimingConfig
from duplexdata.units import SAMPLE_RATE

Int16 = npt.NDArray[np.int16]
Int32 = npt.NDArray[np.int32]
Span = tuple[int, int]
Decode = Callable[[Sequence[int]], str]

IGNORED = -100


@dataclass(frozen=True, slots=True)
class Finding:
    """`rule`: the key of what is broken; `detail`: where in the row, what was found and what was expected."""

    rule: str
    detail: str


class Word(NamedTuple):
    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Said:
    """An utterance with every column it has; times in samples."""

    channel: str
    kind: str
    text: str
    spoken_text: str
    start: int
    end: int
    cut: bool
    addressed: bool
    writer: str
    voice: str
    words: tuple[Word, ...]

    @property
    def is_user(self) -> bool:
        return self.channel == "user"


@dataclass(frozen=True, slots=True)
class Record:
    """A row of `conversations` without its sound; `length` in samples.

    Attributes:
        augmentation: what was done to the user's channel, as it stands in the row; None for nothing.
    """

    id: str
    source: str
    source_ids: tuple[str, ...]
    scenario: str
    language: str
    length: int
    utterances: tuple[Said, ...]
    user_voice: str
    assistant_voice: str
    provenance: Mapping[str, str]
    augmentation: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Late:
    """A negative of a row of `codes`; gaps and times in samples."""

    kind: str
    utterance: int
    positive: int
    negative: int
    start: int
    end: int
    assistant: Int32
    more: tuple[Int32, ...] = ()


@dataclass(frozen=True, slots=True)
class Tokens:
    """A row of `codes`.

    Attributes:
        user, assistant: of several codebooks the first.
        more: the others, of the user and of the assistant.
    """

    id: str
    frame_rate: float
    codebook_size: int
    codec: str
    user: Int32
    assistant: Int32
    negatives: tuple[Late, ...]
    more: tuple[tuple[Int32, ...], tuple[Int32, ...]] = ((), ())


@dataclass(frozen=True, slots=True)
class Text:
    """An utterance's text in tokens: ids, and the character at which each begins; int32, shape (n_tokens,)."""

    ids: Int32
    starts: Int32


@dataclass(frozen=True, slots=True)
class Ids:
    """Of the tokens that are not text, and the vocabulary's layout."""

    silence: int
    assistant: int
    pad: int
    epad: int
    query: int
    non_query: int
    eos: int
    speech_offset: int


@dataclass(frozen=True, slots=True)
class Settings:
    """What the manifest says that the rows were made with.

    Attributes:
        frame: samples per speech token.
        codec, codebook_size: of the speech tokenizer; None and 0 without sound.
        scheduled_for: N and M that the conversations were scheduled for; layouts may have others.
        augment: what may have been done to users' channels; None for nothing.
    """

    timing: TimingConfig
    layout: LayoutConfig
    level_dbfs: float
    frame: int
    codec: str | None
    codebook_size: int
    scheduled_for: tuple[int, int]
    ids: Ids
    n_codebooks: int = 1
    augment: AugmentConfig | None = None

    @property
    def silence_known(self) -> bool:
        """Whether the codec is the embedded one: a token depends on its own frame only, and 0 is silence."""
        return self.codec == "mel/1"

    @property
    def emitted_again(self) -> bool:
        """Whether the layouts have other blocks than the conversations were scheduled for."""
        return self.scheduled_for != (self.layout.n_speech, self.layout.n_text)

    @property
    def block(self) -> int:
        return self.layout.n_speech * self.frame


def samples_of(seconds: float) -> int:
    """The nearest sample. Raises ValueError or OverflowError for what is no number."""
    return round(seconds * SAMPLE_RATE)


def first_difference(found: npt.NDArray[Any], expected: npt.NDArray[Any]) -> int | None:
    """Index of the first place where two arrays differ, the end of the shorter one included."""
    n = min(len(found), len(expected))
    at = np.flatnonzero(found[:n] != expected[:n])
    if len(at):
        return int(at[0])
    return None if len(found) == len(expected) else max(0, n - 1)


def unspaced(text: str) -> str:
    """Without its spaces."""
    return "".join(text.split())


def name_of(i: int, u: Said) -> str:
    return f"utterance {i} ({u.kind})"


def sec(samples: int) -> str:
    return f"{samples / SAMPLE_RATE:.4f} s"
