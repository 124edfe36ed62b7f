"""The embedded codec: one token per 80 ms, from a codebook that ships with the package.

It is there so that everything runs without a download and at next to no cost. A token says how loud the
frame is, how its spectrum moves and whether it sounds voiced: timing, energy and phonetic colour. It is no
substitute for a real speech tokenizer: it was fitted to a synthesizer's voices and has 125 bits a second
for everything. A model trained on it can learn when to speak, hardly how speech sounds.

    16 000 Hz int16, 1280 samples = one frame
    |  320  |  320  |  320  |  320  |   four sub-frames: window, power spectrum, 24 mel bands, dB   (4, 24)
    '-------'-------'-------'-------'   -> projection -> nearest of the codes 1..1023; code 0: below -60 dBFS

Tokens are those of 64-bit arithmetic. The 32-bit pass that finds nearly all of them also tells which calls
were too close to trust it with, and those few are done again. So neither the order in which a matrix
product sums nor what else is in the batch changes a token.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors

from duplexdata.codecs.base import Float32, Int16, Int32
from duplexdata.errors import CodecError
from duplexdata.units import SAMPLE_RATE

FORMAT = "duplexdata-mel/1"
FRAME = 1280
"""Samples per token: 80 ms."""
SILENCE = 0
"""The token of digital silence, and of every frame quieter than `MelSettings.silence_dbfs`."""
CODEBOOK_SIZE = 1024
DEFAULT_WEIGHTS = Path(__file__).parent.parent / "data" / "mel_codec.safetensors"

_CHUNK = 256  # frames per pass: what one step leaves is still in the cache for the next
_CLOSE_CALL = 0.5  # dB^2; between near codes, 32 bits were never seen to be wrong by more than 0.04
_DB = 10 / math.log(10)


@dataclass(frozen=True, slots=True)
class MelSettings:
    """What the weights were made for; written into the file and read back from it.

    Attributes:
        sub_frames: analysis windows per frame, side by side.
        bands: triangular mel bands between `low_hz` and `high_hz`.
        floor_dbfs: added to each band's power, so that what nobody hears does not tell codes apart.
        silence_dbfs: frames with a lower root mean square are `SILENCE`.
        taper: part of an analysis window that is faded in or out.
    """

    sub_frames: int = 4
    bands: int = 24
    low_hz: float = 60.0
    high_hz: float = 7600.0
    floor_dbfs: float = -80.0
    silence_dbfs: float = -60.0
    taper: float = 0.5

    @property
    def window_samples(self) -> int:
        return FRAME // self.sub_frames

    @property
    def silence_norm(self) -> float:
        """Euclidean norm of a frame's int16 samples at `silence_dbfs`.

        Sums of squares below 2**24 are exact in 32 bits whatever the order; that covers all up to -49 dBFS.
        """
        return 32768 * 10 ** (self.silence_dbfs / 20) * math.sqrt(FRAME)


def mel_filters(settings: MelSettings, n_fft: int) -> npt.NDArray[np.float64]:
    """Triangles of height 1 whose neighbours sum to 1, shape (n_fft // 2 + 1, bands)."""
    edges = 700 * (10 ** (_mel_edges(settings) / 2595) - 1)
    hz = np.arange(n_fft // 2 + 1)[:, None] * SAMPLE_RATE / n_fft
    rising = (hz - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - hz) / (edges[2:] - edges[1:-1])
    return np.maximum(0.0, np.minimum(rising, falling))


def _mel_edges(settings: MelSettings) -> npt.NDArray[np.float64]:
    low, high = (2595 * math.log10(1 + hz / 700) for hz in (settings.low_hz, settings.high_hz))
    return np.linspace(low, high, settings.bands + 2)


class MelAnalysis:
    """Frames to band levels, in 32 or 64 bits.

    A band's power is its share of the mean square (full scale is 1), so that bands add up to the level.
    """

    def __init__(self, settings: MelSettings, dtype: torch.dtype) -> None:
        self.settings = settings
        n = settings.window_samples
        ramp = max(1, round(n * settings.taper / 2))
        fade = 0.5 - 0.5 * np.cos(np.pi * (np.arange(ramp) + 0.5) / ramp)
        window = np.concatenate([fade, np.ones(n - 2 * ramp), fade[::-1]])
        window *= math.sqrt(2 / (n * float(np.sum(window**2)))) / 32768
        self._window = torch.from_numpy(window).to(dtype)
        # real and imaginary parts alternate in memory: doubled rows square and add them in one product
        self._filters = torch.from_numpy(np.repeat(mel_filters(settings, n), 2, axis=0)).to(dtype)
        self._floor = 10 ** (settings.floor_dbfs / 10)

    def log_power(self, samples: torch.Tensor) -> torch.Tensor:
        """Natural logarithm of floor plus band power.

        Args:
            samples: int16 values in the analysis' dtype, shape (n_frames, FRAME).

        Returns: shape (n_frames, sub_frames * bands).
        """
        n, s = len(samples), self.settings
        windows = samples.view(n, s.sub_frames, s.window_samples) * self._window
        spectrum = torch.view_as_real(torch.fft.rfft(windows))
        powers = spectrum.square_().view(n * s.sub_frames, -1) @ self._filters
        return powers.add_(self._floor).log_().view(n, s.sub_frames * s.bands)

    def levels(self, frames: Int16) -> npt.NDArray[np.float64]:
        """Band levels in dBFS, never below the floor.

        Args:
            frames: shape (n_frames, FRAME).

        Returns: shape (n_frames, sub_frames * bands).
        """
        with torch.inference_mode():
            samples = torch.from_numpy(frames).to(self._window.dtype)
            return self.log_power(samples).double().mul_(_DB).numpy()


class _Search:
    """Scores of the codes 1..1023 in one precision; the nearest code has the highest.

    Two codes' scores differ by half the difference of their squared distances.
    """

    def __init__(
        self,
        settings: MelSettings,
        projection: npt.NDArray[np.float64],
        levels: npt.NDArray[np.float64],
        dtype: torch.dtype,
    ) -> None:
        centre = levels.mean(0)
        codes = (levels - centre) @ projection
        self._dtype = dtype
        self._analysis = MelAnalysis(settings, dtype)
        self._projection = torch.from_numpy(projection * _DB).to(dtype)
        self._offset = torch.from_numpy(-centre @ projection).to(dtype)
        self._codes = torch.from_numpy(np.ascontiguousarray(codes.T)).to(dtype)
        self._bias = torch.from_numpy(-0.5 * np.sum(codes**2, axis=1)).to(dtype)

    def samples(self, frames: Int16) -> torch.Tensor:
        return torch.from_numpy(frames).to(self._dtype)

    def scores(self, samples: torch.Tensor) -> torch.Tensor:
        """Shape (n_frames, CODEBOOK_SIZE - 1)."""
        position = torch.addmm(self._offset, self._analysis.log_power(samples), self._projection)
        return torch.addmm(self._bias, position, self._codes)


class MelCodec:
    """See the module. Frames do not influence each other: a token depends on its own 1280 samples only."""

    name = "mel/1"
    sample_rate = SAMPLE_RATE
    frame_rate = Fraction(SAMPLE_RATE, FRAME)
    codebook_size = CODEBOOK_SIZE
    n_codebooks = 1
    context_samples: int | None = 0
    can_decode = True

    def __init__(self, settings: MelSettings, tensors: dict[str, torch.Tensor], weights: str = "") -> None:
        """From the values of a weights file.

        Args:
            settings: what the tensors were made for.
            tensors: `levels` (1023, sub_frames, bands) in dBFS, `projection` (sub_frames * bands, n_dims),
                `voicing` (1023, sub_frames) in [0, 1] and `pitch` (1023,) in Hz, of the codes from 1 on.
            weights: names the weights in `describe`.

        Raises: CodecError: a tensor is missing or of another shape.
        """
        n, s = CODEBOOK_SIZE - 1, settings
        shapes = {
            "levels": (n, s.sub_frames, s.bands),
            "projection": (s.sub_frames * s.bands, None),
            "voicing": (n, s.sub_frames),
            "pitch": (n,),
        }
        for key, shape in shapes.items():
            found = tuple(tensors[key].shape) if key in tensors else None
            if found is None or len(found) != len(shape):
                raise CodecError(f"mel codec: tensor {key!r} has shape {found}, expected {shape}")
            if any(want is not None and want != have for want, have in zip(shape, found, strict=True)):
                raise CodecError(f"mel codec: tensor {key!r} has shape {found}, expected {shape}")
        self.settings = settings
        self._weights = weights
        self._levels = tensors["levels"].double().numpy()
        self._voicing = tensors["voicing"].double().numpy()
        self._pitch = tensors["pitch"].double().numpy()
        projection = tensors["projection"].double().numpy()
        flat = self._levels.reshape(n, -1)
        self._fast = _Search(settings, projection, flat, torch.float32)
        self._exact = _Search(settings, projection, flat, torch.float64)

    @classmethod
    def load(cls, path: Path | None = None) -> MelCodec:
        """The codec of a weights file; the one in the package unless `path` names another.

        Raises: CodecError: the file cannot be read or is no weights file of this codec.
        """
        path = path or DEFAULT_WEIGHTS
        try:
            data = path.read_bytes()
            tensors = load_safetensors(data)
            metadata = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__", {})
            header = json.loads(metadata.get("duplexdata", "{}"))
        except (OSError, SafetensorError, ValueError) as error:
            raise CodecError(f"mel codec: {path} cannot be read ({error})") from error
        if header.get("format") != FORMAT:
            raise CodecError(f"mel codec: {path} has format {header.get('format')!r}, expected {FORMAT!r}")
        try:
            settings = MelSettings(**header["settings"])
        except (KeyError, TypeError) as error:
            raise CodecError(f"mel codec: {path} has settings that this version cannot use ({error})") from error
        return cls(settings, tensors, hashlib.sha256(data).hexdigest()[:16])

    def describe(self) -> dict[str, str]:
        return {
            "name": self.name,
            "weights": self._weights,
            "precision": "float64 decisions",
            "device": "cpu",
            "settings": json.dumps(asdict(self.settings), sort_keys=True),
        }

    def encode(self, clips: Sequence[Int16 | Float32]) -> list[Int32]:
        """Tokens of each clip, int32 (ceil(n_samples / 1280),); the last frame is filled up with zeros.

        float32 is rounded to 16 bits first, and clipped. Memory beyond the clips and tokens is bounded.

        Raises: CodecError: a clip is not one-dimensional, of another type or not finite.
        """
        results: list[Int32] = []
        buffer = np.empty((_CHUNK, FRAME), np.int16)
        filled = 0
        waiting: list[tuple[Int32, npt.NDArray[np.intp]]] = []
        for clip in clips:
            samples = _as_int16(clip)
            tokens = np.full(-(-len(samples) // FRAME), SILENCE, np.int32)
            results.append(tokens)
            for rows, target in _frames(samples, tokens):
                sounding = np.flatnonzero(rows.any(axis=1))
                while len(sounding):
                    part, sounding = np.split(sounding, [_CHUNK - filled])
                    # "clip" lets numpy write into `out` directly; the indices are in range
                    np.take(rows, part, axis=0, out=buffer[filled : filled + len(part)], mode="clip")
                    waiting.append((target, part))
                    filled += len(part)
                    if filled == _CHUNK:
                        self._deliver(buffer, waiting)
                        filled = 0
        self._deliver(buffer[:filled], waiting)
        return results

    def _deliver(self, frames: Int16, waiting: list[tuple[Int32, npt.NDArray[np.intp]]]) -> None:
        """Tokens of `frames` into the places that wait for them; empties `waiting`."""
        if len(frames):
            tokens = self._tokens(frames)
            done = 0
            for target, at in waiting:
                target[at] = tokens[done : done + len(at)]
                done += len(at)
        waiting.clear()

    def _tokens(self, frames: Int16) -> Int32:
        """int16 (n_frames, FRAME) -> int32 (n_frames,)."""
        with torch.inference_mode():
            samples = self._fast.samples(frames)
            loud = (torch.linalg.vector_norm(samples, dim=1) >= self.settings.silence_norm).numpy()
            scores = self._fast.scores(samples).numpy()
            best = scores.argmax(axis=1)
            rows = np.arange(len(frames))
            top = scores[rows, best]
            scores[rows, best] = -np.inf
            close = np.flatnonzero((top - torch.from_numpy(scores).amax(1).numpy() < _CLOSE_CALL) & loud)
            if len(close):
                exact = self._exact.scores(self._exact.samples(frames[close]))
                best[close] = exact.numpy().argmax(axis=1)
        return np.where(loud, best + 1, SILENCE).astype(np.int32)

    def decode(self, tokens: Int32) -> Float32:
        """What the tokens carry, made audible: float32 in [-1, 1], shape (n_frames * 1280,).

        Harmonics and noise under the codes' band levels, with the codes' average voicing and pitch. The same
        tokens always give the same sound, and encoding that gives nearly always the same tokens. It is some
        3 dB quieter than what was encoded, since a code holds the mean of its levels in dB. Code 0 is digital
        silence.

        Raises: CodecError: a token is no code, or the array is not one-dimensional.
        """
        codes = np.asarray(tokens)
        if codes.ndim != 1 or (codes.size and not (codes.min() >= 0 and codes.max() < CODEBOOK_SIZE)):
            found = f"{codes.shape}" + (f" in [{codes.min()}, {codes.max()}]" if codes.size else "")
            raise CodecError(f"mel codec: expected (n_frames,) tokens in [0, {CODEBOOK_SIZE}), found {found}")
        if not codes.size or not np.any(codes != SILENCE):
            return np.zeros(len(codes) * FRAME, np.float32)
        s, sounding = self.settings, codes != SILENCE
        levels = np.full((len(codes), s.sub_frames, s.bands), s.floor_dbfs)
        voicing = np.zeros((len(codes), s.sub_frames))
        pitch = np.zeros(len(codes))
        levels[sounding] = self._levels[codes[sounding] - 1]
        voicing[sounding] = self._voicing[codes[sounding] - 1]
        pitch[sounding] = self._pitch[codes[sounding] - 1]
        track = _pitch_track(pitch, voicing.mean(axis=1))
        sound = _synthesize(s, levels.reshape(-1, s.bands), voicing.reshape(-1), track)
        return np.clip(sound * _gate(sounding), -1.0, 1.0).astype(np.float32)


def _as_int16(clip: Int16 | Float32) -> Int16:
    if clip.ndim != 1:
        raise CodecError(f"mel codec: expected mono audio of shape (n_samples,), found {clip.shape}")
    if clip.dtype == np.int16:
        return np.ascontiguousarray(clip)
    if clip.dtype != np.float32:
        raise CodecError(f"mel codec: expected int16 or float32 samples, found {clip.dtype}")
    if not np.isfinite(clip).all():
        raise CodecError("mel codec: the audio holds samples that are not finite")
    return np.clip(np.rint(clip * np.float32(32768)), -32768, 32767).astype(np.int16)


def _frames(samples: Int16, tokens: Int32) -> Iterator[tuple[Int16, Int32]]:
    """The whole frames of a clip and the filled-up rest, (n, FRAME) each, with the places of their tokens."""
    whole = len(samples) // FRAME
    yield samples[: whole * FRAME].reshape(whole, FRAME), tokens[:whole]
    if whole < len(tokens):
        rest = np.zeros((1, FRAME), np.int16)
        rest[0, : len(samples) - whole * FRAME] = samples[whole * FRAME :]
        yield rest, tokens[whole:]


_HOP, _N_FFT = 80, 512  # of the synthesis: filters 5 ms apart, windows of 20 ms


def _synthesize(
    settings: MelSettings,
    levels: npt.NDArray[np.float64],
    voicing: npt.NDArray[np.float64],
    pitch: npt.NDArray[np.float64],
) -> npt.NDArray[np.float64]:
    """Excitation through a moving filter.

    Levels and voicing hold at the middle of their sub-frame and pitch at the middle of its frame; in between
    they are interpolated, also across frames, so that joints do not click.

    Args:
        levels: dBFS, shape (n_sub_frames, bands).
        voicing: shape (n_sub_frames,).
        pitch: Hz, shape (n_frames,).

    Returns: shape (n_frames * FRAME,).
    """
    n = len(pitch) * FRAME
    step = settings.window_samples
    at = np.clip((np.arange(n // _HOP + 1) * _HOP - step / 2) / step, 0, len(levels) - 1)
    left = np.minimum(at.astype(np.intp), max(len(levels) - 2, 0))
    right = np.minimum(left + 1, len(levels) - 1)
    weight = (at - left)[:, None]
    moving = (1 - weight) * levels[left] + weight * levels[right]
    voiced = (1 - weight[:, 0]) * voicing[left] + weight[:, 0] * voicing[right]

    # band levels -> power per 50 Hz of the analysis -> the same density on the synthesis' finer grid
    width = mel_filters(settings, step).sum(axis=0)
    centres = 700 * (10 ** (_mel_edges(settings)[1:-1] / 2595) - 1)
    hz = np.arange(_N_FFT // 2 + 1) * SAMPLE_RATE / _N_FFT
    power = np.maximum(10 ** (moving / 10) - 10 ** (settings.floor_dbfs / 10), 1e-12) / width
    density = 10 ** _interpolate(hz, centres, np.log10(power))

    # a mixture sounds breathy: codes that are mostly voiced count as voiced; at the top, harmonics fade out
    voiced = voiced**2 / (voiced**2 + (1 - voiced) ** 2)
    harmonic = voiced[:, None] / (1 + np.exp((hz - 4500) / 600))
    gliding = np.interp(np.arange(n), (np.arange(len(pitch)) + 0.5) * FRAME, pitch)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(n, generator=generator, dtype=torch.float64).numpy() * math.sqrt(step / 2)
    return _filter(_pulses(gliding), density * harmonic) + _filter(noise, density * (1 - harmonic))


def _interpolate(
    x: npt.NDArray[np.float64], knots: npt.NDArray[np.float64], values: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Linear along the last axis, held at the ends: (n, n_knots) -> (n, len(x))."""
    right = np.clip(np.searchsorted(knots, x), 1, len(knots) - 1)
    weight = np.clip((x - knots[right - 1]) / (knots[right] - knots[right - 1]), 0, 1)
    return values[:, right - 1] * (1 - weight) + values[:, right] * weight


def _pulses(pitch: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """All harmonics below 8 kHz at the same density, 1 per 50 Hz; pitch in Hz at each sample."""
    phase = 2 * np.pi * np.cumsum(pitch) / SAMPLE_RATE
    count = np.floor(SAMPLE_RATE / 2 / pitch)
    half = np.sin(phase / 2)
    # sum of cos(k * phase), k = 1..count, in closed form
    near = np.abs(half) < 1e-6
    total = np.where(near, count, np.sin((count + 0.5) * phase) / (2 * np.where(near, 1.0, half)) - 0.5)
    return total * np.sqrt(pitch / 25)


def _filter(sound: npt.NDArray[np.float64], density: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Give a sound of flat spectrum the power `density`, (n_samples / _HOP + 1, _N_FFT // 2 + 1)."""
    window = torch.hann_window(4 * _HOP, dtype=torch.float64)
    spectrum = torch.stft(
        torch.from_numpy(sound), _N_FFT, _HOP, 4 * _HOP, window, pad_mode="constant", return_complex=True
    )
    shaped = spectrum * torch.from_numpy(np.sqrt(density)).T
    return torch.istft(shaped, _N_FFT, _HOP, 4 * _HOP, window, length=len(sound)).numpy()


def _pitch_track(pitch: npt.NDArray[np.float64], voicing: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Pitch per frame, smoothed over a second or so and carried through what is not voiced.

    The pitch of a code is an average over many speakers: single codes jump, the average of several does not.
    """
    reach = np.arange(-8, 9)
    kernel = np.exp(-0.5 * (reach / 3.0) ** 2)
    weight = voicing + 1e-6 * (pitch > 0)
    total = np.convolve(weight, kernel)[8:-8]
    smooth = np.convolve(weight * np.log(np.maximum(pitch, 1.0)), kernel)[8:-8]
    known = total > 0
    at = np.arange(len(pitch))
    return np.exp(np.interp(at, at[known], smooth[known] / total[known]))


def _gate(sounding: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """1 in frames that sound, 0 in silent ones; the ramps, 4 ms, lie in those that sound."""
    ramp = np.arange(64) / 64
    gain = np.repeat(sounding.astype(np.float64), FRAME).reshape(-1, FRAME)
    after_silence = sounding[1:] & ~sounding[:-1]
    before_silence = sounding[:-1] & ~sounding[1:]
    gain[1:][after_silence, :64] = ramp
    gain[:-1][before_silence, -64:] = ramp[::-1]
    return gain.reshape(-1)
