"""Keys and values in buffers that are allocated once.

A cache that is put together anew for every token copies all of it for every token; here a token is written where it
belongs and a view of the filled part is handed to the attention. Rows leave from the end, which is a view as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from transformers.cache_utils import Cache, DynamicLayer


class _Layer(DynamicLayer):
    """One layer's buffers, (rows, heads, capacity, head size) each."""

    def __init__(self, owner: KeyValueCache) -> None:
        super().__init__()
        self._owner = owner
        self.length = 0
        self.key_buffer: torch.Tensor | None = None
        self.value_buffer: torch.Tensor | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        n, end = key_states.shape[0], self.length + key_states.shape[2]
        if self.key_buffer is None or self.value_buffer is None:
            self.dtype, self.device = key_states.dtype, key_states.device
            self.key_buffer, self.value_buffer = self._buffer(key_states, end), self._buffer(value_states, end)
            self.is_initialized = True
        elif end > self.key_buffer.shape[2]:
            self.key_buffer, self.value_buffer = self._larger(self.key_buffer), self._larger(self.value_buffer)
        self.key_buffer[:n, :, self.length : end] = key_states
        self.value_buffer[:n, :, self.length : end] = value_states
        self.length = end
        self.keys, self.values = self.key_buffer[:n, :, :end], self.value_buffer[:n, :, :end]
        return self.keys, self.values

    def _buffer(self, like: torch.Tensor, needed: int) -> torch.Tensor:
        return like.new_empty((self._owner.rows, like.shape[1], max(self._owner.capacity, needed), like.shape[3]))

    def _larger(self, buffer: torch.Tensor) -> torch.Tensor:
        larger = buffer.new_empty((*buffer.shape[:2], 2 * buffer.shape[2], buffer.shape[3]))
        larger[:, :, : self.length] = buffer[:, :, : self.length]
        return larger

    def get_seq_length(self) -> int:
        return self.length


class KeyValueCache(Cache):
    """Keys and values of a batch, for any model that keeps nothing else.

    Attributes:
        rows: conversations at the start; a forward pass over fewer of them uses the first.
        capacity: tokens that fit before the buffers have to grow.
    """

    def __init__(self, rows: int, capacity: int) -> None:
        super().__init__(layer_class_to_replicate=partial(_Layer, self))
        self.rows, self.capacity = rows, capacity

    @property
    def length(self) -> int:
        """Tokens in it, padding included."""
        return self.layers[0].length if self.layers else 0

    @property
    def bytes_per_token(self) -> int:
        """Of one row. Known after the first forward pass."""
        return sum(
            b.shape[1] * b.shape[3] * b.element_size()
            for layer in self.layers
            for b in (layer.key_buffer, layer.value_buffer)
            if b is not None
        )


def left_padded(rows: Sequence[tuple[KeyValueCache, int, int]], room: int) -> KeyValueCache:
    """A cache of rows taken from others, ending at the same place: (cache, row, tokens of it) each.

    Keys are position-encoded already, so that a row may stand anywhere in the buffer.

    Args:
        room: tokens that will be added.
    """
    longest = max(n for _, _, n in rows)
    cache = KeyValueCache(len(rows), longest + room)
    for i, like in enumerate(rows[0][0].layers):
        layer = _Layer(cache)
        # Zeros, as what is masked still takes part in a product: it must be finite.
        layer.key_buffer = _gathered([(c.layers[i].key_buffer, r, n) for c, r, n in rows], longest, cache.capacity)
        layer.value_buffer = _gathered([(c.layers[i].value_buffer, r, n) for c, r, n in rows], longest, cache.capacity)
        layer.dtype, layer.device = like.dtype, like.device
        layer.length, layer.is_initialized = longest, True
        layer.keys, layer.values = layer.key_buffer[:, :, :longest], layer.value_buffer[:, :, :longest]
        cache.layers.append(layer)
    return cache


def _gathered(parts: Sequence[tuple[torch.Tensor, int, int]], longest: int, capacity: int) -> torch.Tensor:
    like = parts[0][0]
    buffer = like.new_empty((len(parts), like.shape[1], capacity, like.shape[3]))
    for to, (source, row, n) in enumerate(parts):
        buffer[to, :, : longest - n] = 0
        buffer[to, :, longest - n : longest] = source[row, :, :n]
    return buffer
