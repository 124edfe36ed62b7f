"""Channel-division multiplexing: ordinary turns, with a state token behind everything the user is heard to say.

Source: arXiv 2409.11727, section 2. `<1>` behind a query: it is answered, a running answer is dropped where it
stood. `<2>` behind a non-query: the old answer goes on as if nothing had been said.

    channel   0 0 0 0  1 1 1   0 0 0  1 1 1 1
    token     Q Q Q <1> A A A  D D <2> A A A <eos>
    position  0 1 2 3  4 5 6   4 5 6  7 8 9 10

What arrives during an answer, and the answer's own tokens, share their prefix but do not see each other; both
count their positions from the answer's start. `attention_mask` builds the mask from `channel` and `position`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from duplexdata.conversation import Conversation, Spoken
from duplexdata.dialogue import Channel
from duplexdata.layouts.interleaved import IGNORED
from duplexdata.layouts.tokens import EOS, NON_QUERY, QUERY
from duplexdata.text.types import DuoTokens, Encoded
from duplexdata.words import word_starts

Int32 = npt.NDArray[np.int32]
INPUT, OUTPUT = 0, 1


@dataclass(frozen=True, slots=True)
class DuoRow:
    """Attributes:
    text: the row as it reads, state tokens written out.
    input_ids, labels, position: int32, shape (n_tokens,); labels are -100 on what the user says.
    channel: int8, shape (n_tokens,): 0 input, 1 output.
    """

    text: str
    input_ids: Int32
    labels: Int32
    channel: npt.NDArray[np.int8]
    position: Int32


class _Builder:
    """Grows the parallel lists together, so that their lengths cannot drift."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.ids: list[Int32] = []
        self.labelled: list[bool] = []
        self.channels: list[int] = []
        self.positions: list[int] = []  # of each piece's first token
        self.top = 0  # the first position that no token has

    def add(self, text: str, ids: Int32, channel: int, *, labelled: bool, at: int) -> None:
        self.texts.append(text)
        self.ids.append(ids)
        self.labelled.append(labelled)
        self.channels.append(channel)
        self.positions.append(at)
        self.top = max(self.top, at + len(ids))

    def row(self) -> DuoRow:
        lengths = np.array([len(ids) for ids in self.ids])
        ids = np.concatenate(self.ids)
        labelled = np.array(self.labelled).repeat(lengths)
        starts = lengths.cumsum() - lengths
        offsets = (np.array(self.positions) - starts).repeat(lengths)
        return DuoRow(
            "".join(self.texts),
            ids,
            np.where(labelled, ids, np.int32(IGNORED)),
            np.array(self.channels, np.int8).repeat(lengths),
            (np.arange(len(ids)) + offsets).astype(np.int32),
        )


def render(conversation: Conversation, tokens: Sequence[Encoded], special: DuoTokens) -> DuoRow:
    """One row.

    Args:
        tokens: of each utterance's `text`, in order.
        special: ids of the state tokens and of <eos>.
    """
    out = _Builder()
    utterances = conversation.utterances
    answer: _Answer | None = None
    state = {True: (QUERY, special.query), False: (NON_QUERY, special.non_query)}
    for u, encoded in zip(utterances, tokens, strict=True):
        if u.channel is Channel.ASSISTANT:
            if answer is not None:
                answer.finish(out, special)
                out.top += 1  # as below: this is another answer, which sees what came in during the last
            answer = _Answer(u, encoded, out)
            continue
        running = answer is not None and u.start < answer.utterance.end
        if answer is not None:
            if running:
                answer.say(out, upto=answer.utterance.end if u.addressed else u.start)
            else:
                answer.finish(out, special)
        at = answer.start if running and answer is not None else out.top
        name, id_ = state[u.addressed]
        out.add(u.text, encoded.ids, INPUT, labelled=False, at=at)
        out.add(name, np.array([id_], np.int32), INPUT, labelled=True, at=at + len(encoded.ids))
        if u.addressed and running:
            # One position is left out, so that a new answer can be told from the old one going on.
            out.top += 1
        if not running or u.addressed:
            answer = None
    if answer is not None:
        answer.finish(out, special)
    return out.row()


class _Answer:
    """An answer that is being written out, perhaps in pieces."""

    def __init__(self, utterance: Spoken, encoded: Encoded, out: _Builder) -> None:
        self.utterance, self.encoded = utterance, encoded
        self.start = out.top
        self.said = 0  # tokens

    def say(self, out: _Builder, upto: int) -> None:
        """The tokens of the words begun by the sample `upto`."""
        words = self.utterance.words_begun_by(upto)
        text = self.utterance.text
        begins = word_starts(text)
        if words < len(begins):
            # Up to the space before the next word, which belongs to that word's first token.
            stop = int(self.encoded.starts.searchsorted(max(0, len(text[: begins[words]].rstrip()))))
        else:
            stop = len(self.encoded.ids)
        self._write(out, stop)

    def finish(self, out: _Builder, special: DuoTokens) -> None:
        if self.utterance.cut:
            self.say(out, self.utterance.end)
            return
        self._write(out, len(self.encoded.ids))
        at = self.start + self.said
        out.add(EOS, np.array([special.eos], np.int32), OUTPUT, labelled=True, at=at)

    def _write(self, out: _Builder, stop: int) -> None:
        if stop <= self.said:
            return
        starts, text = self.encoded.starts, self.utterance.text
        a = int(starts[self.said]) if self.said else 0
        b = int(starts[stop]) if stop < len(starts) else len(text)
        out.add(text[a:b], self.encoded.ids[self.said : stop], OUTPUT, labelled=True, at=self.start + self.said)
        self.said = stop


def attention_mask(channel: npt.NDArray[np.int8], position: Int32) -> npt.NDArray[np.bool_]:
    """Which token (row) may see which (column), shape (n_tokens, n_tokens).

    A token sees every earlier one of its own channel, and of the other channel those that were there before its
    piece's group began: where the input came in during an answer, that is the answer's start.
    """
    n = len(channel)
    group = _group_starts(channel, position)
    earlier = np.tri(n, dtype=bool)
    same = channel[:, None] == channel[None, :]
    return np.asarray(earlier & (same | (position[None, :] < group[:, None])))


def _group_starts(channel: npt.NDArray[np.int8], position: Int32) -> Int32:
    """For each token the position at which what it shares no sight with begins."""
    starts = np.zeros(len(channel), np.int32)
    edges = np.flatnonzero(np.diff(channel, prepend=channel[:1] ^ 1) | (np.diff(position, prepend=-1) != 1))
    answer_start, answer_end, top = 0, -1, 0
    for a, b in zip(edges, [*edges[1:], len(channel)], strict=True):
        first = int(position[a])
        if channel[a] == OUTPUT and first == answer_end and answer_start != first and _overlapped(starts, position, int(a)):
            start = answer_start  # the old answer goes on
        else:
            start = first
        if channel[a] == OUTPUT:
            answer_start, answer_end = start, int(position[b - 1]) + 1
        starts[a:b] = start
        top = max(top, int(position[b - 1]) + 1)
    return starts


def _overlapped(starts: Int32, position: Int32, at: int) -> bool:
    """Whether the piece before `at` came in during an answer: its positions began again at an earlier one."""
    return at > 0 and bool((position[:at] > starts[at - 1]).any())
