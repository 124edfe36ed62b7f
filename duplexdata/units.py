"""Seconds, samples and frames; the only place where one is turned into another.

Inside the package time is counted in integer samples at `SAMPLE_RATE`; seconds appear in the configuration, in
the written columns and nowhere between.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

SAMPLE_RATE = 16_000
"""Hz, of every rendered channel."""


def to_samples(seconds: float, sample_rate: int = SAMPLE_RATE) -> int:
    """The nearest sample; halves go up. The one rounding rule of the package."""
    return int(seconds * sample_rate + 0.5)


def to_seconds(samples: int, sample_rate: int = SAMPLE_RATE) -> float:
    return samples / sample_rate


@dataclass(frozen=True, slots=True)
class Grid:
    """The frame clock and the block structure of the interleaved layout.

    Source: arXiv 2606.14528, section 2.1 (f_s, N, M, block duration N / f_s).

    Attributes:
        n_speech: N, speech tokens per block and channel.
        n_text: M, text-channel tokens per block.
        frame_samples: samples per speech token (16 kHz / 12.5 Hz = 1280).
    """

    n_speech: int = 10
    n_text: int = 5
    frame_samples: int = 1280

    def __post_init__(self) -> None:
        if self.n_speech < 1 or self.n_text < 1 or self.frame_samples < 1:
            raise ValueError(f"N, M and the frame must be at least 1, found {self}")

    @property
    def frame_rate(self) -> Fraction:
        """Hz."""
        return Fraction(SAMPLE_RATE, self.frame_samples)

    @property
    def block_samples(self) -> int:
        return self.n_speech * self.frame_samples

    @property
    def block_tokens(self) -> int:
        """Tokens that one block has in the sequence: 2N + M."""
        return 2 * self.n_speech + self.n_text

    @property
    def slot_samples(self) -> Fraction:
        """Samples that one text slot stands for."""
        return Fraction(self.block_samples, self.n_text)
