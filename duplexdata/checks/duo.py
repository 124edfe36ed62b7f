"""Rows of `duo`: turns with state tokens."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from duplexdata.checks.finding import (
    IGNORED,
    Decode,
    Finding,
    Ids,
    Int32,
    Record,
    Said,
    Settings,
    Text,
    first_difference,
    unspaced,
)
from duplexdata.words import split_words


@dataclass(frozen=True, slots=True)
class Duo:
    """A row of `duo`."""

    text: str
    input_ids: Int32
    labels: Int32
    channel: npt.NDArray[np.int8]
    position: Int32


@dataclass(slots=True)
class _DuoPlan:
    """The row that the utterances give, token by token."""

    ids: list[int] = field(default_factory=list)
    loss: list[bool] = field(default_factory=list)
    channel: list[int] = field(default_factory=list)
    position: list[int] = field(default_factory=list)
    free: int = 0  # the first position that no token has

    def add(self, ids: Sequence[int], channel: int, at: int, *, loss: bool) -> None:
        self.ids += ids
        self.loss += [loss] * len(ids)
        self.channel += [channel] * len(ids)
        self.position += range(at, at + len(ids))
        self.free = max(self.free, at + len(ids))


def check_duo(record: Record, row: Duo, said: Sequence[Text], settings: Settings, decode: Decode) -> Iterator[Finding]:
    """Args:
    said: tokens of each utterance's `spoken_text`.
    """
    lengths = {len(x) for x in (row.input_ids, row.labels, row.channel, row.position)}
    if len(lengths) != 1:
        yield Finding("duo-shape", f"lists of {sorted(lengths)} tokens, expected one length")
        return
    if unspaced(decode(row.input_ids.tolist())) != unspaced(row.text):
        yield Finding("duo-text", "input_ids do not say what text says")
    ids, plan = settings.ids, duo_plan(record, said, settings.ids)
    found = row.input_ids.tolist()
    states = (ids.query, ids.non_query, ids.eos)
    if found != plan.ids:
        words, expected = ([x for x in given if x not in states] for given in (found, plan.ids))
        if words == expected:
            yield Finding("duo-state", "state tokens are not those that the utterances ask for")
        else:
            yield Finding("duo-words", "the tokens are not those of the utterances")
        return
    want = np.where(np.array(plan.loss, bool), row.input_ids, IGNORED)
    for rule, name, have, expect in (
        ("duo-labels", "label", row.labels, want),
        ("duo-channel", "channel", row.channel, np.array(plan.channel)),
        ("duo-position", "position", row.position, np.array(plan.position)),
    ):
        if (at := first_difference(have, expect)) is not None:
            yield Finding(rule, f"{name} {at} is {int(have[at])}, expected {int(expect[at])}")


def duo_plan(record: Record, said: Sequence[Text], ids: Ids) -> _DuoPlan:
    """The row, utterance by utterance.

    What comes in during an answer counts its positions from the answer's start, as the answer itself does, behind
    what has come in during it before. Behind an answer during which something came in, and between
    two answers in a row, one position is left out.
    """
    plan = _DuoPlan()
    answer: _Running | None = None
    for i, u in enumerate(record.utterances):
        if answer is not None and not (u.is_user and u.start < answer.said.end):
            answer.end(plan, ids.eos, another=not u.is_user)
            answer = None
        if not u.is_user:
            answer = _Running(u, said[i], plan.free)
            continue
        n, at = len(said[i].ids) + 1, plan.free
        if answer is not None:
            answer.say(plan, answer.said.end if u.addressed else u.start)
            at = answer.start + answer.heard
            answer.heard += n
        plan.add(said[i].ids.tolist(), 0, at, loss=False)
        plan.add([ids.query if u.addressed else ids.non_query], 0, at + n - 1, loss=True)
        if answer is not None and u.addressed:
            plan.free += 1
            answer = None
    if answer is not None:
        answer.end(plan, ids.eos)
    return plan


@dataclass(slots=True)
class _Running:
    """An answer that is being written.

    Attributes:
        start: its first position.
        written: its tokens so far.
        heard: tokens that came in during it.
    """

    said: Said
    text: Text
    start: int
    written: int = 0
    heard: int = 0

    def say(self, plan: _DuoPlan, by: int) -> None:
        """The tokens of the words begun before the sample `by`."""
        upto = tokens_said(self.said, self.text, by)
        if upto > self.written:
            plan.add(self.text.ids[self.written : upto].tolist(), 1, self.start + self.written, loss=True)
            self.written = upto

    def end(self, plan: _DuoPlan, eos: int, *, another: bool = False) -> None:
        self.say(plan, self.said.end + 1)
        if not self.said.cut:
            plan.add([eos], 1, self.start + self.written, loss=True)
        plan.free += self.heard > 0 or another


def tokens_said(u: Said, said: Text, by: int) -> int:
    """How many tokens of what was said of an utterance belong to the words begun before the sample `by`."""
    spans = split_words(u.spoken_text)
    if u.words:
        begun = sum(w.start < by for w in u.words)
    else:
        n = len(split_words(u.text))
        begun = min(n, max(0, math.ceil(Fraction((by - u.start) * n, max(1, u.end - u.start)))))
    if begun >= len(spans):
        return len(said.ids)
    stop = len(u.spoken_text[: spans[begun].start].rstrip())
    return sum(start < stop for start in said.starts.tolist())
