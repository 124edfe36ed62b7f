"""A conversation that has happened: what was said, by whom, and when. The record of truth behind every layout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from duplexdata.dialogue import Channel, Kind, Scenario
from duplexdata.words import split_words

Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Spoken:
    """An utterance on the timeline. Times are samples from the conversation's start.

    Attributes:
        text: all of what was meant to be said.
        end: where its speech ends; the stop, if it was cut.
        word_starts, word_ends: of the words begun (`split_words(text)[: len(word_starts)]`), shape (n_words,);
            empty where nothing knows the times.
    """

    channel: Channel
    kind: Kind
    text: str
    start: int
    end: int
    cut: bool
    writer: str
    voice: str
    word_starts: Int64
    word_ends: Int64

    @property
    def addressed(self) -> bool:
        return self.kind not in (Kind.DISTRACTOR, Kind.BACKCHANNEL)

    @property
    def spoken_text(self) -> str:
        """The words begun by the end."""
        if not self.cut:
            return self.text
        spans = split_words(self.text)
        begun = len(self.word_starts)
        return self.text[: spans[begun - 1].end] if begun else ""

    def words_begun_by(self, sample: int) -> int:
        """How many words have begun before `sample`; by proportion of duration where there are no word times."""
        if len(self.word_starts):
            return int(self.word_starts.searchsorted(sample))
        n = len(split_words(self.text))
        return min(n, max(0, -(-(sample - self.start) * n // max(1, self.end - self.start))))


@dataclass(frozen=True, slots=True)
class Conversation:
    """Attributes:
    utterances: in order of start.
    n_samples: length of both channels: a whole number of blocks.
    """

    id: str
    source: str
    source_ids: tuple[str, ...]
    scenario: Scenario
    language: str
    utterances: tuple[Spoken, ...]
    n_samples: int
    user_voice: str
    assistant_voice: str
    licence: str


@dataclass(frozen=True, slots=True)
class Negative:
    """One perturbation of the assistant's timing. Source: arXiv 2606.14528, section 2.3.

    Attributes:
        kind: "turn_taking" (the reply gap) or "interruption" (the reaction delay).
        utterance: index of the reply that comes late, or that stops late.
        positive, negative: the gap or delay of the conversation and of its copy, in samples.
    """

    kind: str
    utterance: int
    positive: int
    negative: int


Span = tuple[int, int]


def answered_queries(utterances: Sequence[Spoken]) -> list[int | None]:
    """For each utterance of the assistant the index of the user's that it comes after: the last one addressed to it
    that began before it. None for the user's own, and where there is none."""
    found: list[int | None] = []
    last: int | None = None
    for i, u in enumerate(utterances):
        if u.channel is Channel.USER:
            found.append(None)
            if u.addressed:
                last = i
        else:
            # The same sample is not before it.
            earlier = last if last is None or utterances[last].start < u.start else answered_query(utterances, i)
            found.append(earlier)
    return found


def answered_query(utterances: Sequence[Spoken], reply: int) -> int | None:
    """Index of the user utterance that the assistant's utterance number `reply` comes after: the last one
    addressed to it that began before it."""
    before = [
        i
        for i, u in enumerate(utterances)
        if u.channel is Channel.USER and u.addressed and u.start < utterances[reply].start
    ]
    return before[-1] if before else None


def barge_in(utterances: Sequence[Spoken], reply: int) -> int | None:
    """Index of the interruption that cut the assistant's utterance number `reply`; None if it was not cut."""
    cut = utterances[reply]
    if not cut.cut:
        return None
    for i, u in enumerate(utterances):
        if u.kind is Kind.INTERRUPTION and cut.start < u.start < cut.end:
            return i
    return None


def negative_spans(utterances: Sequence[Spoken], negative: Negative) -> list[Span]:
    """When each utterance sounds in the negative: (start, end) in samples, in the same order.

    The user's channel stays as it is. Behind the perturbed utterance, what the assistant says up to the user's next
    turn moves as one: after a late reply by as much as the reply, after a late stop only as far as the usual gap
    behind the stop asks for. Source: specs of the timeline, "Negatives for preference pairs".
    """
    spans = [(u.start, u.end) for u in utterances]
    late = negative.negative - negative.positive
    first = negative.utterance
    if negative.kind == "interruption":
        cutter = barge_in(utterances, first)
        if cutter is None:
            raise ValueError(f"utterance {first} was not interrupted")
        stop = utterances[first].end + late
        spans[first] = (utterances[first].start, stop)
        run = _assistant_run(utterances, after=utterances[cutter].start)
        if not run:
            return spans
        gap = utterances[run[0]].start - max(utterances[cutter].end, utterances[first].end)
        late = max(0, stop + gap - utterances[run[0]].start)
    else:
        run = [first, *_assistant_run(utterances, after=utterances[first].start)]
    for i in run:
        spans[i] = (utterances[i].start + late, utterances[i].end + late)
    return spans


def _assistant_run(utterances: Sequence[Spoken], after: int) -> list[int]:
    """What the assistant begins behind the sample `after`, up to the user's next addressed utterance."""
    run = []
    for i, u in enumerate(utterances):
        if u.start <= after or not u.addressed:
            continue
        if u.channel is Channel.USER:
            break
        run.append(i)
    return run


def retimed(utterances: Sequence[Spoken], spans: Sequence[Span]) -> tuple[Spoken, ...]:
    """The utterances at other times (word times go with the start). Texts stay."""
    return tuple(
        u
        if (u.start, u.end) == (a, b)
        else replace(
            u,
            start=a,
            end=b,
            word_starts=u.word_starts + (a - u.start),
            word_ends=u.word_ends + (a - u.start),
        )
        for u, (a, b) in zip(utterances, spans, strict=True)
    )
