"""Chunks of audio side by side in one buffer, and the log-mel spectrum of all of them at once.

No chunk is padded to the length of another. Each has a region of its own, whose rows of 160 samples are at
the same time the rows of the spectrum and of the first convolution's input:

    samples   | 200 reflected | chunk, zeros up to L = k * 320 P | 40 reflected | 80 zeros |  next region ...
    rows      |<------------------ L / 160 rows of the spectrum ------------->| 2 gap rows |

A window of 400 samples starts at every row. The gap rows' windows reach into the next region: they mean
nothing, and give the zero frames that the convolutions want between chunks. So a window, a convolution and a
matrix product run over the whole buffer without knowing where a chunk ends, and each chunk's result is that
of the chunk alone, including the reflection at its own end.

Source: the log-mel of Whisper large-v3 (`WhisperFeatureExtractor`, arXiv 2212.04356, section 2.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from duplexdata.codecs.base import Float32, Int16
from duplexdata.codecs.glm4voice.config import HOP, N_FFT, SAMPLE_RATE, SAMPLES_PER_ROW, Glm4VoiceConfig

LEFT = N_FFT // 2
"""Reflected samples before a chunk."""
RIGHT = LEFT - HOP
"""Reflected samples after it: of the 200 that belong there, those that the last row that is kept reaches."""
TAIL = N_FFT - HOP
"""Zeros after the last region, so that its last window is whole."""

_ROWS_AT_ONCE = 8192  # rows per pass: 13 MB of windowed samples, 13 MB of spectrum


@dataclass(frozen=True)
class Packing:
    """Where the chunks of a batch lie.

    Attributes:
        samples: of each chunk, at least 1, in descending order.
        pool: 50 Hz frames per token.
    """

    samples: tuple[int, ...]
    pool: int

    @cached_property
    def tokens(self) -> tuple[int, ...]:
        """Tokens of each chunk; every one of them stands for at least one sample."""
        return tuple(-(-n // (SAMPLES_PER_ROW * self.pool)) for n in self.samples)

    @cached_property
    def frames(self) -> tuple[int, ...]:
        """50 Hz frames of each chunk, with those of the padding in its last token."""
        return tuple(count * self.pool for count in self.tokens)

    @cached_property
    def valid_frames(self) -> tuple[int, ...]:
        """Of `frames`, those that may be looked at: the ones that start before the chunk's last sample."""
        return tuple(-(-n // SAMPLES_PER_ROW) for n in self.samples)

    @property
    def n_rows(self) -> int:
        """100 Hz rows of all regions."""
        return 2 * (sum(self.frames) + len(self.frames))

    @property
    def n_samples(self) -> int:
        return self.n_rows * HOP + TAIL

    def fill(self, buffer: Int16 | Float32, chunks: Sequence[Int16 | Float32]) -> None:
        """Lays `chunks` out in `buffer`, shape (n_samples,). An int16 chunk in a float32 buffer is scaled."""
        buffer.fill(0)
        starts = accumulate((f * SAMPLES_PER_ROW + SAMPLES_PER_ROW for f in self.frames), initial=0)
        for chunk, frames, start in zip(chunks, self.frames, starts, strict=False):
            region = buffer[start : start + (frames + 1) * SAMPLES_PER_ROW]
            whole = region[LEFT : LEFT + frames * SAMPLES_PER_ROW]
            if chunk.dtype == np.int16 and buffer.dtype != np.int16:
                np.multiply(chunk, np.float32(1 / 32768), out=whole[: len(chunk)], casting="unsafe")
            else:
                whole[: len(chunk)] = chunk
            region[:LEFT] = whole[LEFT:0:-1]
            region[LEFT + len(whole) : LEFT + len(whole) + RIGHT] = whole[-2 : -2 - RIGHT : -1]


@dataclass(frozen=True)
class PackedIndex:
    """The same on the device.

    Attributes:
        row_chunk: chunk of each row, gap rows included, shape (n_rows,).
        gap_rows: shape (2 * n_chunks,).
        frame_window: which of the second convolution's windows each frame is, shape (n_frames,).
        frame_position: frame number within its chunk, shape (n_frames,).
    """

    row_chunk: Tensor
    gap_rows: Tensor
    frame_window: Tensor
    frame_position: Tensor

    @classmethod
    def of(cls, packing: Packing, device: torch.device) -> PackedIndex:
        n_chunks, n_frames = len(packing.frames), sum(packing.frames)
        frames = to_device(torch.tensor(packing.frames), device)
        chunk = torch.arange(n_chunks, device=device)
        ends = frames.cumsum(0)
        frame_chunk = torch.repeat_interleave(chunk, frames, output_size=n_frames)
        frame = torch.arange(n_frames, device=device)
        last_gap = 2 * (ends + chunk) + 1
        return cls(
            row_chunk=torch.repeat_interleave(chunk, 2 * frames + 2, output_size=packing.n_rows),
            gap_rows=torch.cat([last_gap - 1, last_gap]),
            # the two gap rows make one window of stride 2 per chunk that is no frame
            frame_window=frame + frame_chunk,
            frame_position=frame - (ends - frames)[frame_chunk],
        )


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A copy that the host does not wait for, where there is a device to wait for."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def mel_filters(n_mels: int) -> Tensor:
    """Triangular filters on the Slaney mel scale, 0 to 8000 Hz, each of area 1.

    Returns: float32, shape (N_FFT / 2 + 1, n_mels).
    """
    top = _hz_to_mel(SAMPLE_RATE / 2)
    edges = _mel_to_hz(np.linspace(0.0, top, n_mels + 2))
    bins = np.linspace(0.0, SAMPLE_RATE / 2, N_FFT // 2 + 1)
    rising = (bins[:, None] - edges[None, :-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[None, 2:] - bins[:, None]) / (edges[2:] - edges[1:-1])
    filters = np.maximum(0.0, np.minimum(rising, falling)) * (2.0 / (edges[2:] - edges[:-2]))
    return torch.from_numpy(filters.astype(np.float32))


_LINEAR_HZ_PER_MEL = 200 / 3
_LOG_FROM_HZ = 1000.0
_LOG_FROM_MEL = _LOG_FROM_HZ / _LINEAR_HZ_PER_MEL
_LOG_STEP = np.log(6.4) / 27


def _hz_to_mel(hz: float) -> float:
    if hz < _LOG_FROM_HZ:
        return hz / _LINEAR_HZ_PER_MEL
    return float(_LOG_FROM_MEL + np.log(hz / _LOG_FROM_HZ) / _LOG_STEP)


def _mel_to_hz(mel: np.ndarray) -> np.ndarray:
    above = _LOG_FROM_HZ * np.exp(_LOG_STEP * (mel - _LOG_FROM_MEL))
    return np.where(mel < _LOG_FROM_MEL, mel * _LINEAR_HZ_PER_MEL, above)


class LogMel:
    """The spectrum of a packed buffer. Always float32, whatever the encoder computes in."""

    def __init__(self, config: Glm4VoiceConfig, device: torch.device) -> None:
        self._window = torch.hann_window(N_FFT, periodic=True, device=device)
        self._filters = mel_filters(config.mels).to(device)
        # as with `Tiling`: how many rows a product has must not tell in the rows
        self._multiple = _ROWS_AT_ONCE if device.type == "cuda" else 16

    def into(self, out: Tensor, audio: Tensor, packing: Packing, index: PackedIndex) -> None:
        """Writes the spectrum of `audio`; gap rows become zero.

        Args:
            out: float32, shape (n_rows, mels).
            audio: float32 or int16 as `Packing.fill` left it, shape (n_samples,).
        """
        if audio.dtype == torch.int16:
            audio = audio.to(torch.float32).mul_(1 / 32768)
        windows = audio.as_strided((packing.n_rows, N_FFT), (HOP, 1))
        for start in range(0, packing.n_rows, _ROWS_AT_ONCE):
            part = windows[start : start + _ROWS_AT_ONCE] * self._window
            spectrum = torch.view_as_real(torch.fft.rfft(part))
            n = len(part)
            power = torch.zeros(-(-n // self._multiple) * self._multiple, N_FFT // 2 + 1, device=out.device)
            torch.sum(spectrum.square_(), -1, out=power[:n])
            out[start : start + n] = torch.mm(power, self._filters)[:n]
        out.clamp_(min=1e-10).log10_()
        loudest = out.amax(1).index_fill_(0, index.gap_rows, -torch.inf)
        floor = torch.full((len(packing.frames),), -torch.inf, device=out.device)
        floor.scatter_reduce_(0, index.row_chunk, loudest, "amax").sub_(8.0)
        torch.maximum(out, floor[index.row_chunk, None], out=out)
        out.add_(4.0).div_(4.0)
        out.index_fill_(0, index.gap_rows, 0.0)
