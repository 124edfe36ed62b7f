"""What a speech tokenizer is. Backends implement `SpeechTokenizer`; nothing above them knows which one runs."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Protocol

import numpy as np
import numpy.typing as npt

Int16 = npt.NDArray[np.int16]
Int32 = npt.NDArray[np.int32]
Float32 = npt.NDArray[np.float32]

MEL_CODEBOOK_SIZE = 1024
"""Codes of the embedded codec; stands here so that it can be known without torch."""


class SpeechTokenizer(Protocol):
    """A codec states its own clock.

    Attributes:
        name: codec and version, as it stands in the `codec` column ("mel/1", "glm-4-voice-tokenizer").
        sample_rate: Hz of the audio it takes.
        frame_rate: tokens per second (exact).
        codebook_size: tokens are below it.
        n_codebooks: K.
        context_samples: how far a sample's influence on the tokens reaches beyond its own frame, in samples to
            either side; None where it reaches anywhere (attention over the clip). A caller may re-encode only
            what changed where it is a number.
        can_decode: whether `decode` works.
    """

    name: str
    sample_rate: int
    frame_rate: Fraction
    codebook_size: int
    n_codebooks: int
    context_samples: int | None
    can_decode: bool

    def encode(self, clips: Sequence[Int16 | Float32]) -> list[Int32]:
        """Tokens of each clip.

        Args:
            clips: mono audio at `sample_rate`, shape (n_samples,) each, any lengths; int16 stands for x / 32768.
                The whole list may be batched at will: tokens never depend on what else is in it.

        Returns: int32 arrays, shape (n_frames,) with n_frames = ceil(n_samples / frame), or
            (n_codebooks, n_frames) where n_codebooks > 1.
        """
        ...

    def decode(self, tokens: Int32) -> Float32:
        """Sound from tokens, shape (n_frames * frame,), for listening. Raises CodecError if `can_decode` is false."""
        ...

    def describe(self) -> dict[str, str]:
        """Name, weights, precision, device kind: part of the fingerprint of everything made with it."""
        ...
