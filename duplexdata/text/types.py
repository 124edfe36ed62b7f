"""What layouts know of a text tokenizer: tokens with their places, and the ids of special tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

Int32 = npt.NDArray[np.int32]


class HasOffsets(Protocol):
    """What `tokenizers` returns: (start, end) characters of each token."""

    @property
    def offsets(self) -> Sequence[tuple[int, int]]: ...


class Encoded:
    """A text's tokens.

    Attributes:
        ids: int32, shape (n_tokens,).
        starts: character at which each token begins, int32, shape (n_tokens,).
    """

    __slots__ = ("_offsets", "_starts", "ids")

    def __init__(self, ids: Int32, offsets: HasOffsets) -> None:
        self.ids, self._offsets = ids, offsets
        self._starts: Int32 | None = None

    @property
    def starts(self) -> Int32:
        # Made when asked for: most texts are never cut.
        if self._starts is None:
            self._starts = np.array([a for a, _ in self._offsets.offsets], np.int32)
        return self._starts


@dataclass(frozen=True, slots=True)
class DuoTokens:
    """Ids of DUO's state tokens and of the end of an answer."""

    query: int
    non_query: int
    eos: int
