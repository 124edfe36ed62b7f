"""The loop inside a block, and the random numbers that it takes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from duplexdata.decoding.cache import KeyValueCache
from duplexdata.decoding.model import LanguageModel
from duplexdata.decoding.sampling import choose
from duplexdata.decoding.values import DecodeSettings
from duplexdata.rng import rng_for
from duplexdata.units import Grid


class BlockRun:
    """The loop inside a block, for conversations that go through their blocks together.

    Attributes:
        draws: whether any slot is sampled, so that `block` needs uniform numbers.
    """

    def __init__(
        self,
        language: LanguageModel,
        grid: Grid,
        settings: DecodeSettings,
        cache: KeyValueCache,
        forced: Sequence[int],
    ) -> None:
        self._language, self._grid, self._settings, self._cache = language, grid, settings, cache
        self.draws = not (settings.text.greedy and settings.speech.greedy)
        lengths = torch.tensor(forced, device=language.device) * grid.block_tokens
        self._next = lengths[:, None]
        padding = cache.length - lengths
        self._padding = padding if bool(padding.any()) else None
        self._pending: torch.Tensor | None = None

    def block(self, user: torch.Tensor, uniform: torch.Tensor | None) -> torch.Tensor:
        """One block of the first n_rows conversations: text ids, then speech tokens, (n_rows, M + N).

        Args:
            user: speech tokens, (n_rows, N).
            uniform: (n_rows, M + N), numbers of [0, 1); None where nothing is sampled.
        """
        rows, m = user.shape[0], self._grid.n_text
        language, settings = self._language, self._settings
        new = user + language.speech.start
        if self._pending is not None:
            new = torch.cat([self._pending[:rows], new], 1)
        found = torch.empty((rows, m + self._grid.n_speech), dtype=torch.long, device=user.device)
        for slot in range(found.shape[1]):
            hidden = self._feed(new)
            chance = None if uniform is None else uniform[:, slot]
            if slot < m:
                token = choose(language.text_logits(hidden), settings.text, chance) + language.text.start
            else:
                token = choose(language.speech_logits(hidden), settings.speech, chance) + language.speech.start
            found[:, slot] = token
            new = token[:, None]
        self._pending = new
        found[:, m:] -= language.speech.start
        return found

    def _feed(self, ids: torch.Tensor) -> torch.Tensor:
        rows, new = ids.shape
        first = self._next[:rows]
        positions = first + torch.arange(new, device=ids.device)
        self._next = first + new
        mask = None
        if self._padding is not None:
            places = torch.arange(self._cache.length + new, device=ids.device)
            mask = places >= self._padding[:rows, None]
        return self._language.hidden(ids, positions, self._cache, mask)


def draws_of(seed: int, id_: str, grid: Grid, first_block: int, n_blocks: int) -> np.ndarray:
    """The uniform numbers of a conversation's blocks, (n_blocks, M + N): the same however it is decoded."""
    rng = rng_for(seed, id_, "decode")
    per_block = grid.n_text + grid.n_speech
    rng.bit_generator.advance(first_block * per_block)  # type: ignore[attr-defined]
    return rng.random((n_blocks, per_block)).astype(np.float32)
