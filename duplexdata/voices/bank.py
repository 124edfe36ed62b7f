"""A bank of voices as a value: who may speak in which split, and the assistant."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from duplexdata.errors import ConfigError
from duplexdata.speech.base import Voice

ANY_LANGUAGE = "mul"
"""BCP 47's tag for several languages: a voice of it speaks whatever its engine speaks."""
NOT_A_RECORDING = "not a recording"
"""Licence and consent of a voice that an engine makes up: it is nobody's."""
_SAME_LANGUAGE = {"cmn": "zh"}


@dataclass(frozen=True, slots=True)
class BankVoice:
    """A voice, and what is known of whose it is. Text that is not known is empty.

    Attributes:
        speaker: whose voice it is; several voices (prompts) may be one speaker's.
        language: BCP 47, of the recording; `ANY_LANGUAGE` where it does not matter.
        sex: "female", "male", or another word.
        consent: on what ground the speaker's voice may be cloned, in words.
        source: where the recording is from.
    """

    voice: Voice
    speaker: str
    language: str
    sex: str = ""
    accent: str = ""
    licence: str = ""
    consent: str = ""
    source: str = ""

    @property
    def id(self) -> str:
        return self.voice.id

    @property
    def split(self) -> str:
        return self.voice.split

    @property
    def is_recording(self) -> bool:
        return self.voice.prompt is not None

    def speaks(self, language: str) -> bool:
        return self.language == ANY_LANGUAGE or primary(self.language) == primary(language)


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a voice is refused: `reason` is a short key that is counted, `detail` is for people."""

    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Refused:
    """A voice that was left out. `where` names it: its id, or the row it stands in."""

    where: str
    fault: Fault

    def __str__(self) -> str:
        return f"{self.where}: {self.fault.reason}: {self.fault.detail}"


@dataclass(frozen=True, slots=True)
class VoiceBank:
    """All voices of a run. Small and picklable.

    Attributes:
        name: for people; no path.
        users: of both splits; no speaker is in two of them, and none is the assistant's.
        evenly_over: "sex", "accent": what users are drawn evenly over, each inside the one before it.
        cross_lingual: whether a language without voices is spoken by those of others.
        refused: what was in the bank and is not used.
    """

    name: str
    users: tuple[BankVoice, ...]
    assistant: BankVoice
    evenly_over: tuple[str, ...] = ("sex", "accent")
    cross_lingual: bool = False
    refused: tuple[Refused, ...] = field(default=())

    def __post_init__(self) -> None:
        splits: dict[str, BankVoice] = {}
        for user in self.users:
            other = splits.setdefault(user.speaker, user)
            if other.split != user.split:
                raise ConfigError(
                    f"the voices {other.id} ({other.split}) and {user.id} ({user.split}) are one speaker's, "
                    f"{user.speaker}: a speaker belongs to one split"
                )
        if self.assistant.speaker in splits:
            user = splits[self.assistant.speaker]
            raise ConfigError(f"the assistant {self.assistant.id} and the user {user.id} are one speaker's")
        ids = [v.id for v in self]
        if len(set(ids)) < len(ids):
            twice = sorted(i for i in set(ids) if ids.count(i) > 1)
            raise ConfigError(f"voices have the same id: {', '.join(twice[:5])}")

    def __iter__(self) -> Iterator[BankVoice]:
        """Every voice, the assistant's last."""
        yield from self.users
        yield self.assistant

    def users_of(self, split: str, language: str, *, speakers: int = 1) -> tuple[BankVoice, ...]:
        """Users of a split for a language; none where it has fewer than `speakers` of them."""
        inside = tuple(v for v in self.users if v.split == split)
        own = tuple(v for v in inside if v.speaks(language))
        for found in (own, inside) if self.cross_lingual else (own,):
            if len({v.speaker for v in found}) >= speakers:
                return found
        return ()

    # What decides on which bytes, as plain values for fingerprints. No paths.

    def casting(self) -> list[object]:
        """What decides on who speaks in which conversation."""
        rows = [[v.id, v.split, v.speaker, v.language, v.sex, v.accent] for v in self]
        return [rows, list(self.evenly_over), self.cross_lingual]

    def sounds(self) -> list[object]:
        """What decides on how they sound: settings, and the recordings by content."""
        rows: list[object] = []
        for v in self:
            prompt = v.voice.prompt
            cloned = None if prompt is None else [prompt.sha256, prompt.transcript]
            rows.append([v.id, [list(pair) for pair in v.voice.settings], cloned])
        return rows

    def facts(self) -> list[object]:
        """What is only reported."""
        left_out = [[r.where, r.fault.reason, r.fault.detail] for r in self.refused]
        return [[[v.id, v.licence, v.consent, v.source] for v in self], left_out]


def primary(language: str) -> str:
    """The primary subtag, in lower case."""
    tag = language.lower().split("-")[0]
    return _SAME_LANGUAGE.get(tag, tag)
