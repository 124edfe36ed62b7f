"""What layouts know of a text tokenizer: tokens with their places, and the ids of special tokens."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Int32 = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Encoded:
    """A text's tokens.

    Attributes:
        ids: int32, shape (n_tokens,).
        starts: character at which each token begins, int32, shape (n_tokens,).
    """

    ids: Int32
    starts: Int32


@dataclass(frozen=True, slots=True)
class DuoTokens:
    """Ids of DUO's state tokens and of the end of an answer."""

    query: int
    non_query: int
    eos: int
