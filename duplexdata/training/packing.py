"""Packs: several conversations in one sequence, none of which sees another.

    pack       c c c c c a a a b b .
    segments   |- c ---| |a -| |b|       attention and positions begin anew in each
    labels     shifted: position i holds what comes at i + 1, the last of each conversation nothing

Which conversations make a step does not depend on the number of devices nor on the size of packs, so neither
changes what is learned.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from duplexdata.layouts.interleaved import IGNORED
from duplexdata.training.classes import TokenTable

Int32 = npt.NDArray[np.int32]
Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Example:
    """One sequence to train on.

    Attributes:
        input_ids, labels: int32, shape (n_tokens,); labels are -100 where nothing is to be learned, and not shifted.
        position: int32, shape (n_tokens,); None: 0, 1, 2 …
        channel: int8, shape (n_tokens,), of `duo` rows; None: every token sees all before it.
    """

    input_ids: Int32
    labels: Int32
    position: Int32 | None = None
    channel: npt.NDArray[np.int8] | None = None

    def __len__(self) -> int:
        return len(self.input_ids)


@dataclass(frozen=True, slots=True)
class Pack:
    """Sequences behind one another. Shapes in tokens, padding included.

    Attributes:
        input_ids, position: int32, (n_tokens,).
        starts: where each sequence begins, and the end of the last, (n_sequences + 1,).
        channel: int8 (n_tokens,), or None where no sequence has one.
        predicting: the positions whose next token is learned, int64, (n_learned,), in order.
        labels: those next tokens, int64, (n_learned,).
        weights: of them, float32, (n_learned,).
        of: which sequence each belongs to, int64, (n_learned,).
    """

    input_ids: Int32
    position: Int32
    starts: npt.NDArray[np.int64]
    channel: npt.NDArray[np.int8] | None
    predicting: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    weights: Float32
    of: npt.NDArray[np.int64]

    @property
    def n_real(self) -> int:
        return int(self.starts[-1])

    @property
    def n_sequences(self) -> int:
        return len(self.starts) - 1


def plan_packs(lengths: Sequence[int], capacity: int, devices: int = 1) -> list[list[int]]:
    """Deal sequences into packs of at most `capacity` tokens: as few as best-fit needs, evenly filled.

    Args:
        lengths: of the sequences, each at most `capacity`.
        devices: the number of packs is a multiple of it, so that all have the same number of them; pack i is
            device `i % devices`'s.

    Returns: indices of each pack's sequences. Packs beyond the number of sequences are empty.
    Source: longest first, best fit; then longest first into the emptiest (Graham's rule) where that fits too.
    """
    if not lengths:
        return []
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    if lengths[order[0]] > capacity:
        raise ValueError(f"a sequence of {lengths[order[0]]} tokens for packs of {capacity}")
    packs = _best_fit(order, lengths, capacity)
    n = -(-len(packs) // devices) * devices
    even = _evenly(order, lengths, n)
    if max(sum(lengths[i] for i in pack) for pack in even) <= capacity:
        return even
    return packs + [[] for _ in range(n - len(packs))]


def _best_fit(order: Sequence[int], lengths: Sequence[int], capacity: int) -> list[list[int]]:
    packs: list[list[int]] = []
    room: list[int] = []
    for i in order:
        fits = [(space, p) for p, space in enumerate(room) if space >= lengths[i]]
        if fits:
            _, p = min(fits)
            packs[p].append(i)
            room[p] -= lengths[i]
        else:
            packs.append([i])
            room.append(capacity - lengths[i])
    return packs


def _evenly(order: Sequence[int], lengths: Sequence[int], n: int) -> list[list[int]]:
    packs: list[list[int]] = [[] for _ in range(n)]
    heap = [(0, p) for p in range(n)]
    for i in order:
        filled, p = heapq.heappop(heap)
        packs[p].append(i)
        heapq.heappush(heap, (filled + lengths[i], p))
    return packs


def make_pack(examples: Sequence[Example], table: TokenTable, multiple: int = 1) -> Pack:
    """Put sequences behind one another.

    Args:
        multiple: the pack is padded to a multiple of this many tokens, which kernels of GPUs like.
    """
    starts = np.zeros(len(examples) + 1, np.int64)
    np.cumsum([len(e) for e in examples], out=starts[1:])
    real = int(starts[-1])
    n = max(1, -(-real // multiple)) * multiple
    ids, position = np.zeros(n, np.int32), np.zeros(n, np.int32)
    channel = np.zeros(n, np.int8) if any(e.channel is not None for e in examples) else None
    following = np.full(n, IGNORED, np.int32)
    for e, a, b in zip(examples, starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        ids[a:b] = e.input_ids
        position[a:b] = np.arange(b - a) if e.position is None else e.position
        if channel is not None and e.channel is not None:
            channel[a:b] = e.channel
        following[a : b - 1] = e.labels[1:]
    position[real:] = np.arange(n - real)
    weights = table.weights(following)
    predicting = np.flatnonzero(following != IGNORED)
    return Pack(
        input_ids=ids,
        position=position,
        starts=starts,
        channel=channel,
        predicting=predicting,
        labels=following[predicting].astype(np.int64),
        weights=weights[predicting],
        of=np.searchsorted(starts, predicting, side="right") - 1,
    )
