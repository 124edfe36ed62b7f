"""Classes of tokens: what the loss is weighted and reported by.

Source: arXiv 2606.14528, section 2.2, equation 5.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from duplexdata.layouts.interleaved import IGNORED
from duplexdata.training.config import LossWeights

CLASSES = ("silence", "state", "text", "pad", "speech")
SILENCE, STATE, TEXT, PAD, SPEECH = range(len(CLASSES))


@dataclass(frozen=True, slots=True)
class TokenTable:
    """What each id of a vocabulary is.

    Attributes:
        class_of: index into CLASSES, int8, shape (vocabulary_size,).
        weight_of: of equation 5, float32, shape (vocabulary_size,).
    """

    class_of: npt.NDArray[np.int8]
    weight_of: npt.NDArray[np.float32]

    @classmethod
    def make(cls, vocabulary: Mapping[str, Any], weights: LossWeights) -> TokenTable:
        """
        Args:
            vocabulary: as in a dataset's manifest.
        """
        size, state = int(vocabulary["vocabulary_size"]), vocabulary["state_tokens"]
        first, n = int(vocabulary["speech_offset"]), int(vocabulary["codebook_size"])
        class_of = np.full(size, TEXT, np.int8)
        class_of[first : first + n] = SPEECH
        class_of[[state[name] for name in ("assistant", "epad", "query", "non_query", "eos")]] = STATE
        class_of[state["silence"]] = SILENCE
        class_of[state["pad"]] = PAD
        weight_of = np.full(size, weights.other, np.float32)
        weight_of[state["silence"]] = weights.silence
        weight_of[state["assistant"]] = weights.assistant
        weight_of[state["epad"]] = weights.epad
        return cls(class_of, weight_of)

    @property
    def size(self) -> int:
        return len(self.class_of)

    def weights(self, labels: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
        """Of each label, 0 where it is -100; same shape."""
        return np.where(labels == IGNORED, np.float32(0), self.weight_of[np.maximum(labels, 0)])
