"""The values that run through the pipeline before there is any sound: one frozen type per stage."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class Channel(StrEnum):
    USER = "user"
    ASSISTANT = "assistant"


class Kind(StrEnum):
    """What an utterance does in the conversation."""

    QUERY = "query"
    REPLY = "reply"
    INTERRUPTION = "interruption"
    """A barge-in: takes the floor from a running reply."""
    DISTRACTOR = "distractor"
    """Heard by the microphone, not addressed to the assistant (arXiv 2409.11727, section 2.3)."""
    BACKCHANNEL = "backchannel"
    """A listener's token ("mm-hm"): addressed to nobody's floor, changes nothing."""
    RESUMPTION = "resumption"
    """The assistant going on with a reply it had been cut in."""


OVERLAYS = frozenset({Kind.DISTRACTOR, Kind.BACKCHANNEL})
"""Kinds that are laid over a finished timeline and move nothing on it."""


class Scenario(StrEnum):
    """What happens in a conversation. Source: arXiv 2406.15718v2 (data construction), 2606.14528."""

    UNINTERRUPTED = "uninterrupted"
    TOPIC_INTERWEAVING = "topic_interweaving"
    GENERATION_TERMINATION = "generation_termination"
    REGENERATION = "regeneration"
    DIALOGUE_RESET = "dialogue_reset"
    BACK_ON_TOPIC = "back_on_topic"

    @property
    def interrupts(self) -> bool:
        return self in INTERRUPTIONS


INTERRUPTIONS = frozenset(
    {Scenario.GENERATION_TERMINATION, Scenario.REGENERATION, Scenario.DIALOGUE_RESET, Scenario.BACK_ON_TOPIC}
)


@dataclass(frozen=True, slots=True)
class Turn:
    """Attributes:
    writer: who wrote the text: "corpus", or a model's name and the prompt's version.
    """

    channel: Channel
    text: str
    writer: str = "corpus"


@dataclass(frozen=True, slots=True)
class Dialogue:
    """A source dialogue as it was read: turns alternate user, assistant, …, starting with the user.

    Attributes:
        id: unique within its corpus and stable between runs, prefixed by the corpus ("ultrachat/12").
        source: the corpus' short name.
        language: BCP 47 tag; decides on voices, banks and how numbers are read.
        licence: of the corpus, as stated by the user or known for it; "unknown" where neither.
    """

    id: str
    source: str
    turns: tuple[Turn, ...]
    language: str = "en"
    licence: str = "unknown"


@dataclass(frozen=True, slots=True)
class Rejected:
    """A row or an item that was left out, and why. `reason` is a short key (counted), `detail` is for people."""

    reason: str
    detail: str
    where: str
    """File and row ("alpaca.json, row 17"), or the id of the item."""


@dataclass(frozen=True, slots=True)
class Pause:
    """A silence inside an utterance, behind its word number `after_word` (from 0)."""

    after_word: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Utterance:
    """One stretch of speech, planned: what is said, by whom, and what it is a reaction to.

    Attributes:
        text: what is spoken, in spoken form. Empty for a RESUMPTION until the cut is known (see `resumes`).
        replies_to: index of the user utterance that a REPLY answers; decides on causality.
        interrupts: index of the reply that an INTERRUPTION barges into.
        resumes: index of the reply that a RESUMPTION goes on with; `text` is then only the transition, and
            the rest of the reply is appended once it is known how far the reply got.
        over: index of the utterance that an overlay is heard during; None for one heard in the silence at the end.
        writer: who wrote the text: "corpus", "template", or a model's name and the prompt's version.
        voice: id in the voice bank.
    """

    channel: Channel
    kind: Kind
    text: str
    writer: str
    voice: str
    replies_to: int | None = None
    interrupts: int | None = None
    resumes: int | None = None
    over: int | None = None
    pause: Pause | None = None

    @property
    def addressed(self) -> bool:
        return self.kind not in OVERLAYS


@dataclass(frozen=True, slots=True)
class Script:
    """A conversation as text: its utterances in the order in which they start, overlays last.

    Attributes:
        id: a function of source ids, scenario and seed.
        asked: the scenario that was drawn for it; `scenario` is what it became (they differ where no reply
            was long enough to be interrupted).
    """

    id: str
    source: str
    source_ids: tuple[str, ...]
    scenario: Scenario
    asked: Scenario
    language: str
    licence: str
    user_voice: str
    assistant_voice: str
    utterances: tuple[Utterance, ...] = field(default=())
