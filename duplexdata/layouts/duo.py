"""Channel-division multiplexing: ordinary turns, with a state token behind everything the user is heard to say.

Source: arXiv 2409.11727, section 2. `<1>` behind a query: it is answered, a running answer is dropped where it
stood. `<2>` behind a non-query: the old answer goes on as if nothing had been said.

    channel   0 0 0 0  1 1 1   0 0 0  1 1 1 1
    token     Q Q Q <1> A A A  D D <2> A A A <eos>
    position  0 1 2 3  4 5 6   4 5 6  7 8 9 10

What arrives during an answer, and the answer's own tokens, share their prefix but do not see each other; both
count their positions from the answer's start. Behind an answer during which something came in, and between two answers
in a row, one position is left out. `attention_mask` builds the mask from `channel` and `position`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

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
        tokens: of each utterance's `spoken_text`, in order.
        special: ids of the state tokens and of <eos>.
    """
    out = _Builder()
    answer: _Answer | None = None
    state = {True: (QUERY, special.query), False: (NON_QUERY, special.non_query)}
    for u, encoded in zip(conversation.utterances, tokens, strict=True):
        if answer is not None and not (u.channel is Channel.USER and u.start < answer.utterance.end):
            answer.finish(out, special)
            answer.end(out, another=u.channel is Channel.ASSISTANT)
            answer = None
        if u.channel is Channel.ASSISTANT:
            answer = _Answer(u, encoded, out)
            continue
        at = out.top
        if answer is not None:
            answer.say(out, upto=answer.utterance.end if u.addressed else u.start)
            at = answer.hear(len(encoded.ids) + 1)
        name, id_ = state[u.addressed]
        out.add(u.spoken_text, encoded.ids, INPUT, labelled=False, at=at)
        out.add(name, np.array([id_], np.int32), INPUT, labelled=True, at=at + len(encoded.ids))
        if answer is not None and u.addressed:
            answer.end(out)
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
        self._heard = 0  # tokens that came in during it

    def hear(self, n: int) -> int:
        """Where `n` tokens that come in now begin: behind those that have come in during this answer before."""
        at = self.start + self._heard
        self._heard += n
        return at

    def end(self, out: _Builder, *, another: bool = False) -> None:
        """One position is left out if anything came in during it, or `another` answer follows at once.

        So what follows can be told from this answer's going on.
        """
        out.top += self._heard > 0 or another

    def say(self, out: _Builder, upto: int) -> None:
        """The tokens of the words begun by the sample `upto`."""
        words = self.utterance.words_begun_by(upto)
        text = self.utterance.spoken_text
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
        else:
            self._write(out, len(self.encoded.ids))
            at = self.start + self.said
            out.add(EOS, np.array([special.eos], np.int32), OUTPUT, labelled=True, at=at)

    def _write(self, out: _Builder, stop: int) -> None:
        if stop <= self.said:
            return
        starts, text = self.encoded.starts, self.utterance.spoken_text
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
    group = group_starts(channel, position)
    earlier = np.tri(n, dtype=bool)
    same = channel[:, None] == channel[None, :]
    return np.asarray(earlier & (same | (position[None, :] < group[:, None])))


def group_starts(channel: npt.NDArray[np.int8], position: Int32) -> Int32:
    """For each token the position from which on it sees nothing of the other channel."""
    starts = np.zeros(len(channel), np.int32)
    edges = np.flatnonzero(np.diff(channel, prepend=channel[:1] ^ 1) | (np.diff(position, prepend=-1) != 1)).tolist()
    answer = -1  # where the answer that may be running began; -1: none is
    answer_end, top, overlapped = 0, 0, False
    for a, b in pairwise([*edges, len(channel)]):
        first, end = int(position[a]), int(position[b - 1]) + 1
        if channel[a] == INPUT:
            # What comes in during an answer begins below the top; behind an overlapped one a position is left out.
            overlapped = answer >= 0 and (first < top or (overlapped and first == top))
            answer = answer if overlapped else -1
            starts[a:b] = answer if overlapped else first
        else:
            goes_on = overlapped and first == answer_end
            answer = answer if goes_on else first
            overlapped = goes_on
            starts[a:b], answer_end = answer, end
        top = max(top, end)
    return starts
