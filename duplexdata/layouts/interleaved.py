"""Interleaved blocks: both channels' speech tokens and a text channel in one sequence.

Source: arXiv 2606.14528, sections 2.1 (sequence), 2.2 (loss positions); causality and rounding are ours.

One block of N = 10 user tokens x, M = 5 text tokens z, N assistant tokens y; the assistant is one block ahead:

    block b        x[bN : (b+1)N]          z[bM : (b+1)M]     y[(b+1)N : (b+2)N]
    heard          b·0.8 … (b+1)·0.8 s                        (b+1)·0.8 … (b+2)·0.8 s
    label          −100                    itself             itself
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from duplexdata.conversation import Span, Spoken, answered_queries
from duplexdata.dialogue import Channel
from duplexdata.errors import ScriptError, TimelineError
from duplexdata.units import Grid

Int32 = npt.NDArray[np.int32]
IGNORED = -100
"""The label that `transformers` leaves out of the loss."""


@dataclass(frozen=True, slots=True)
class StateTokens:
    """Ids of the text channel's state tokens, and of speech token 0 (the others follow it)."""

    silence: int
    assistant: int
    pad: int
    epad: int
    speech_offset: int


@dataclass(frozen=True, slots=True)
class Row:
    """Attributes:
    input_ids, labels: int32, shape (n_blocks * (2N + M),); labels are -100 on the user's tokens.
    """

    input_ids: Int32
    labels: Int32
    n_blocks: int


def text_slots(start: int, end: int, grid: Grid) -> tuple[int, int]:
    """The slots of [ASSISTANT] and [EPAD] for an utterance from sample `start` to `end`, before causality.

    j_ast = floor(floor((s − Δt) f_s) M / N) − 1 and j_epad = ceil(ceil((e − Δt) f_s) M / N), in integers.
    """
    first = (start - grid.block_samples) // grid.frame_samples
    behind = -(-(end - grid.block_samples) // grid.frame_samples)
    return first * grid.n_text // grid.n_speech - 1, -(-behind * grid.n_text // grid.n_speech)


def assistant_slot(start: int, end: int, heard: int, grid: Grid, *, causal: bool) -> tuple[int, int]:
    """`text_slots`, with [ASSISTANT] moved up to the first block that has heard the user's end.

    Args:
        heard: sample at which the user's utterance ends that is answered.
        causal: False leaves the paper's formula alone.

    A reply that starts before any such block could speak it stays where it is (it is anticipatory).
    """
    ast, epad = text_slots(start, end, grid)
    first_block = -(-heard // grid.block_samples) - 1
    if causal and start >= (first_block + 1) * grid.block_samples:
        ast = max(ast, first_block * grid.n_text)
    return ast, epad


def text_channel(
    utterances: Sequence[Spoken],
    spans: Sequence[Span],
    tokens: Sequence[Int32 | None],
    n_blocks: int,
    grid: Grid,
    state: StateTokens,
    *,
    causal: bool = True,
    where: str = "",
    kept: dict[int, int] | None = None,
) -> tuple[Int32, dict[int, int]]:
    """z, int32 of shape (n_blocks * M,).

    Args:
        utterances: of the conversation, in order; `spans` their times (of the positive or of a negative).
        tokens: the text tokens of each assistant utterance, None for the user's.
        kept: how many tokens each utterance keeps, where that is decided already (a negative keeps the positive's).
        where: named in errors.

    Returns: z, and how many tokens each utterance kept, by index.
    Raises:
        ScriptError("text_overflow"): an utterance that was not cut has more tokens than slots.
        TimelineError: slots of two utterances collide or lie outside: a scheduling bug.
    """
    z = np.full(n_blocks * grid.n_text, state.silence, np.int32)
    used: dict[int, int] = {}
    last_epad = -1
    queries = answered_queries(utterances)
    for i, (u, (start, end)) in enumerate(zip(utterances, spans, strict=True)):
        if u.channel is not Channel.ASSISTANT:
            continue
        query = queries[i]
        heard = spans[query][1] if query is not None else 0
        ast, epad = assistant_slot(start, end, heard, grid, causal=causal)
        if not last_epad < ast < epad < len(z):
            raise TimelineError(
                f"{where}: text slots {ast} to {epad} of utterance {i}, expected behind slot {last_epad} "
                f"and below {len(z)}"
            )
        words = tokens[i]
        assert words is not None
        room = epad - ast - 1
        n = min(len(words), room) if kept is None else kept[i]
        if (n < len(words) and not u.cut) or n > room:
            raise ScriptError("text_overflow", f"{where}: utterance {i} has {len(words)} text tokens for {room} slots")
        z[ast] = state.assistant
        z[ast + 1 : ast + 1 + n] = words[:n]
        z[ast + 1 + n : epad] = state.pad
        z[epad] = state.epad
        used[i], last_epad = n, epad
    return z, used


def render(user: Int32, z: Int32, assistant: Int32, grid: Grid, speech_offset: int) -> Row:
    """The one sequence.

    Args:
        user, assistant: speech tokens, int, shape (n_frames,) with n_frames >= (B + 1) N; what is beyond is not used.
        z: the text channel, shape (B * M,).

    Raises: ValueError: too few frames for z's blocks.
    """
    n, m = grid.n_speech, grid.n_text
    blocks = len(z) // m
    if len(user) < blocks * n or len(assistant) < (blocks + 1) * n:
        raise ValueError(f"{len(user)} and {len(assistant)} frames for {blocks} blocks of {n}")
    ids = np.empty((blocks, grid.block_tokens), np.int32)
    ids[:, :n] = user[: blocks * n].reshape(blocks, n)
    ids[:, :n] += speech_offset
    ids[:, n : n + m] = z.reshape(blocks, m)
    ids[:, n + m :] = assistant[n : (blocks + 1) * n].reshape(blocks, n)
    ids[:, n + m :] += speech_offset
    labels = ids.copy()
    labels[:, :n] = IGNORED
    return Row(ids.reshape(-1), labels.reshape(-1), blocks)


def parse(input_ids: Int32, grid: Grid, speech_offset: int) -> tuple[Int32, Int32, Int32]:
    """The inverse of `render`: user tokens (B N,), text channel (B M,), assistant tokens of blocks 1 to B (B N,)."""
    n, m = grid.n_speech, grid.n_text
    if len(input_ids) % grid.block_tokens:
        raise ValueError(f"{len(input_ids)} tokens are no whole number of blocks of {grid.block_tokens}")
    ids = input_ids.reshape(-1, grid.block_tokens)
    return (
        ids[:, :n].reshape(-1) - speech_offset,
        ids[:, n : n + m].reshape(-1),
        ids[:, n + m :].reshape(-1) - speech_offset,
    )


def reply_start(slot: int, grid: Grid) -> float:
    """Seconds at which a decoder that reads [ASSISTANT] in `slot` takes the reply to start."""
    return float(slot * grid.slot_samples + grid.block_samples) / 16_000
