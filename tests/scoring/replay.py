"""A language model that knows every conversation of a dataset by heart.

It keeps the tokens themselves as its keys, finds the conversation whose user tokens it has heard, and says what stands
next in that conversation's row: a decoder that feeds it anything but the right token at the right place gets nonsense.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from duplexdata.layouts.interleaved import Row, render
from duplexdata.scoring.held_out import Split
from duplexdata.units import Grid


class Replay(torch.nn.Module):
    """
    Args:
        rows: sequences of token ids, by conversation.
    """

    def __init__(self, rows: Mapping[str, np.ndarray], vocabulary_size: int, grid: Grid) -> None:
        super().__init__()
        self._grid, self._size = grid, vocabulary_size
        self._rows: dict[tuple[int, ...], list[torch.Tensor]] = {}
        for row in rows.values():
            self._rows.setdefault(self._beginning(row), []).append(torch.from_numpy(np.asarray(row, np.int64)))
        self._embeddings = torch.nn.Embedding(vocabulary_size, 1)
        self.config = SimpleNamespace()

    def get_input_embeddings(self) -> torch.nn.Embedding:
        return self._embeddings

    def get_output_embeddings(self) -> None:
        return None

    def forward(
        self,
        input_ids: torch.Tensor,
        past_key_values: Any,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        **_: Any,
    ) -> SimpleNamespace:
        keys = input_ids[:, None, :, None].double()
        heard = past_key_values.update(keys, keys, 0)[0][:, 0, :, 0].long()
        logits = torch.zeros(len(heard), 1, self._size)
        for i, tokens in enumerate(heard):
            known = tokens if attention_mask is None else tokens[attention_mask[i]]
            if position_ids is not None:
                assert int(position_ids[i, -1]) == len(known) - 1, "positions count real tokens"
            logits[i, 0, self._next(known)] = 1
        return SimpleNamespace(logits=logits)

    def _next(self, known: torch.Tensor) -> int:
        n, width = self._grid.n_speech, self._grid.block_tokens
        of_user = torch.arange(len(known)) % width < n
        for row in self._rows.get(self._beginning(known.tolist()), []):
            if len(row) > len(known) and torch.equal(row[: len(known)][of_user], known[of_user]):
                return int(row[len(known)])
        return 0

    def _beginning(self, row: Sequence[int]) -> tuple[int, ...]:
        return tuple(map(int, row[: self._grid.n_speech]))


def recorded_rows(held: Split) -> dict[str, np.ndarray]:
    """What the assistant said, as sequences."""
    return {t.record.id: _row(held, t.codes.user, t.text, t.codes.assistant).input_ids for t in held.talks}


def negative_rows(held: Split) -> dict[str, np.ndarray]:
    """The same text at the recorded time, and the speech of the rejected row."""
    return {t.record.id: _row(held, t.codes.user, t.text, t.codes.negatives[0].assistant).input_ids for t in held.talks}


def silent_rows(held: Split, silent_token: int) -> dict[str, np.ndarray]:
    return {
        t.record.id: _row(held, t.codes.user, t.text, np.full_like(t.codes.assistant, silent_token)).input_ids
        for t in held.talks
    }


def _row(held: Split, user: np.ndarray, text: np.ndarray | None, assistant: np.ndarray) -> Row:
    n, m = held.grid.n_speech, held.grid.n_text
    state = held.vocabulary.state
    z = np.full((len(user) // n - 1) * m, state.silence, np.int32) if text is None else text
    return render(user, z, assistant, held.grid, state.speech_offset)
