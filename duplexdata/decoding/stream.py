"""One conversation as it happens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from duplexdata.decoding.cache import KeyValueCache
from duplexdata.decoding.run import BlockRun
from duplexdata.decoding.values import DecodeSettings, Event, Int32, events_of
from duplexdata.errors import CheckpointError
from duplexdata.rng import rng_for

if TYPE_CHECKING:
    from duplexdata.decoding.decoder import DuplexDecoder

_BLOCKS = 128
"""Room for this many blocks at first; it doubles when they are full."""


@dataclass(frozen=True, slots=True)
class Step:
    """What the assistant does in answer to a block of the user's.

    Attributes:
        assistant: speech tokens to be heard during the next block, int32, shape (N,).
        text: text slots, ids of the vocabulary, int32, shape (M,).
        events: what the text slots say.
    """

    assistant: Int32
    text: Int32
    events: tuple[Event, ...]


class DuplexStream:
    """A conversation that goes on. Made by `DuplexDecoder.stream`.

    Blocks pushed one by one give what `DuplexDecoder.decode` gives for all of them.
    """

    def __init__(self, decoder: DuplexDecoder, id_: str, settings: DecodeSettings) -> None:
        self._decoder, self._grid = decoder, decoder.grid
        self._rng = rng_for(settings.seed, id_, "decode")
        cache = KeyValueCache(1, _BLOCKS * decoder.grid.block_tokens)
        self._run = BlockRun(decoder.language, decoder.grid, settings, cache, [0])
        self.n_blocks = 0

    def push(self, user: Int32) -> Step:
        """
        Args:
            user: the next block's speech tokens, shape (N,).

        Raises:
            ValueError: another number of tokens.
            CheckpointError: the conversation has become longer than the positions that the model knows.
        """
        n, m = self._grid.n_speech, self._grid.n_text
        if np.shape(user) != (n,):
            raise ValueError(f"the user's block has shape {np.shape(user)}, expected ({n},)")
        most = self._decoder.max_blocks
        if most is not None and self.n_blocks >= most:
            raise CheckpointError(f"the model has positions for {most} blocks, and the conversation has gone on")
        device = self._decoder.language.device
        chance = torch.from_numpy(self._rng.random((1, n + m)).astype(np.float32)).to(device)
        heard = torch.from_numpy(np.asarray(user, np.int64)[None]).to(device)
        found = self._run.block(heard, chance if self._run.draws else None)[0].cpu().numpy().astype(np.int32)
        text, assistant = found[:m], found[m:]
        vocabulary = self._decoder.vocabulary
        events = events_of(text, self._grid, vocabulary.state, vocabulary.decode, first_block=self.n_blocks)
        self.n_blocks += 1
        return Step(assistant, text, events)
