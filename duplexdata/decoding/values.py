"""What goes into a decoder and what comes out. No model here.

    block b         x[bN : (b+1)N]     z[bM : (b+1)M]           y[bN : (b+1)N]
                    user, given        text, decoded            assistant, decoded
    heard           b·Δt … (b+1)·Δt                             (b+1)·Δt … (b+2)·Δt

Source: arXiv 2606.14528, section 2.1 and algorithm 1. The assistant's tokens are counted from its block 1 on, as the
causal shift has it: token i of `Decoded.assistant` is heard `i` frames behind the end of block 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from duplexdata.errors import ConfigError
from duplexdata.layouts.interleaved import StateTokens, reply_start
from duplexdata.units import Grid

Int32 = npt.NDArray[np.int32]

START, TEXT, END = "start", "text", "end"


def _nothing() -> Int32:
    return np.zeros(0, np.int32)


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a token is taken from a distribution.

    Attributes:
        temperature: 0 takes the likeliest token; above 0 draws.
        top_p: only the likeliest tokens that together have this probability are drawn from.
    """

    temperature: float = 0.0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not self.temperature >= 0:
            raise ConfigError(f"the temperature is {self.temperature}, expected 0 (greedy) or more")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"top-p is {self.top_p}, expected above 0 and at most 1")

    @property
    def greedy(self) -> bool:
        return self.temperature == 0


@dataclass(frozen=True, slots=True)
class DecodeSettings:
    """
    Attributes:
        text, speech: for the text slots and for the assistant's speech slots. (The official code uses one setting
            for both, temperature 0.8 and top-p 0.8.)
        seed: of all draws. A conversation's draws come from (seed, its id, the block), so they do not depend on what
            it is batched with.
        batch_size: most conversations decoded at once.
        cache_bytes: memory for keys and values; fewer conversations are decoded at once where they need more.
    """

    text: Sampling = field(default_factory=Sampling)
    speech: Sampling = field(default_factory=Sampling)
    seed: int = 0
    batch_size: int = 64
    cache_bytes: int = 1 << 30

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.cache_bytes < 1:
            raise ConfigError(f"batch size and cache must be at least 1, found {self.batch_size}, {self.cache_bytes}")


@dataclass(frozen=True, slots=True)
class Request:
    """A conversation to decode.

    Attributes:
        id: decides on the draws. Requests of one id whose forced parts agree as far as both go are computed together.
        user: the user's speech tokens, int, shape (B * N,): B blocks are decoded.
        text, assistant: the forced prefix: text slots (k * M,) and assistant tokens (k * N,) of the first k <= B
            blocks, as ids of the vocabulary and as speech tokens. Empty: everything is decoded.
    """

    id: str
    user: Int32
    text: Int32 = field(default_factory=_nothing)
    assistant: Int32 = field(default_factory=_nothing)


@dataclass(frozen=True, slots=True)
class Event:
    """Something that the text channel says.

    Attributes:
        kind: "start" ([ASSISTANT]: a reply begins), "text" (what one block holds of it), "end" ([EPAD]).
        block, slot: where; the slot counts from the conversation's start.
        seconds: when it is heard, from the conversation's start: the slot's time, a block later.
        text: of "text", else "".
    """

    kind: str
    block: int
    slot: int
    seconds: float
    text: str = ""


@dataclass(frozen=True, slots=True)
class Decoded:
    """
    Attributes:
        assistant: speech tokens of blocks 0 … B - 1, forced ones first, int32, shape (B * N,).
        text: text slots, ids of the vocabulary, int32, shape (B * M,).
        forced_blocks: how many of the B were given.
        events: what the text channel says, in order, forced blocks included.
    """

    id: str
    assistant: Int32
    text: Int32
    forced_blocks: int
    events: tuple[Event, ...]


def events_of(
    text: Int32,
    grid: Grid,
    state: StateTokens,
    decode: Callable[[Sequence[int]], str],
    *,
    first_block: int = 0,
) -> tuple[Event, ...]:
    """The events of a stretch of the text channel.

    Args:
        text: slots, shape (n_blocks * M,).
        decode: text of token ids.
        first_block: which block the stretch begins with.
    """
    silent = {state.silence, state.pad}
    found: list[Event] = []
    words: list[int] = []
    m = grid.n_text
    first = first_block * m

    def event(kind: str, at: int, said: str = "") -> Event:
        return Event(kind, (first + at) // m, first + at, reply_start(first + at, grid), said)

    for i, token in enumerate(text.tolist()):
        if words and (token in silent or token in (state.assistant, state.epad) or i % m == 0):
            found.append(event(TEXT, i - len(words), decode(words)))
            words = []
        if token == state.assistant:
            found.append(event(START, i))
        elif token == state.epad:
            found.append(event(END, i))
        elif token not in silent:
            words.append(token)
    if words:
        found.append(event(TEXT, len(text) - len(words), decode(words)))
    return tuple(found)
