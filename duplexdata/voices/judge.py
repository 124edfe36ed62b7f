"""What a recording to clone from is like, and whether it will do. Pure functions of its samples and transcript."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from duplexdata.config import PromptLimits
from duplexdata.voices.bank import Fault, primary
from duplexdata.words import CHARACTERS_PER_SECOND, SYLLABLES_PER_SECOND

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

BELOW_PEAK_DB = 40.0
"""A 10 ms frame is speech if it is at most this far below the loudest, as in `vad`;"""
ABOVE_NOISE_DB = 10.0
"""and this far above the noise, where noise is louder than that;"""
LEAST_BELOW_PEAK_DB = 20.0
"""but 20 dB below the loudest is speech however loud the noise."""
QUIETEST = 0.05
"""Share of the frames that are taken for the noise between words."""
_CEILING, _FULL_SCALE = 0.99, 0.985
_FLAT = 3
_SILENT = 1e-10
_MOST_SNR_DB = 100.0
_BAND_BELOW_PEAK_DB = 60.0
_SYLLABIC = (("\u3040", "\u9fff"), ("\uac00", "\ud7a3"), ("\uf900", "\ufaff"), ("\U00020000", "\U0003ffff"))
"""Kana and ideographs, hangul, compatibility ideographs, rare ideographs."""
_DIGIT = 4
"""Letters that a digit is read as, about."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A recording in numbers.

    Attributes:
        level_dbfs: RMS of the frames that are speech; -inf where there is none.
        peak: largest absolute sample, 1.0 at full scale.
        clipped: share of the samples that stand at the ceiling, three or more in a row: at 0.985 of full scale, or at
            99 % of the peak, since what was clipped may have been turned down since.
        lead_sec, tail_sec: silence before the first and behind the last frame that is speech.
        snr_db: speech above the quietest frames, at most 100.
        bandwidth_hz: up to where its mean spectrum is within 60 dB of its maximum.
        ms_per_character: from the first to the last speech, for each letter or space of the transcript (an
            ideograph counts as many as it takes time, a digit as four); None without a transcript.
    """

    seconds: float
    sample_rate: int
    level_dbfs: float
    peak: float
    clipped: float
    lead_sec: float
    tail_sec: float
    snr_db: float
    bandwidth_hz: float
    ms_per_character: float | None


def measure(samples: Float32, sample_rate: int, transcript: str, language: str = "en") -> Measured | Fault:
    """
    Args:
        samples: mono, shape (n_samples,), full scale at 1.0.

    Returns: the numbers; a Fault where there is nothing to measure ("not_finite", "silent").
    """
    if not np.isfinite(samples).all():
        return Fault("not_finite", "it has samples that are no numbers")
    hop = sample_rate // 100
    energy = frame_energy(samples, hop)
    active = speech_frames(energy)
    if not active.any():
        return Fault("silent", f"its loudest sample is {float(np.abs(samples).max(initial=0)):.5f} of full scale")
    first, last = int(active.argmax()), len(active) - int(active[::-1].argmax())
    peak = float(np.abs(samples).max())
    speech = float(energy[active].mean())
    characters = spoken_length(transcript, language)
    seconds = len(samples) / sample_rate
    return Measured(
        seconds=seconds,
        sample_rate=sample_rate,
        level_dbfs=_db(speech),
        peak=peak,
        clipped=_flat(np.abs(samples) >= min(_FULL_SCALE, _CEILING * peak)) / len(samples),
        lead_sec=first * hop / sample_rate,
        tail_sec=max(0.0, seconds - last * hop / sample_rate),
        snr_db=min(_MOST_SNR_DB, _db(speech) - _db(_noise(energy))),
        bandwidth_hz=_bandwidth(samples, sample_rate, energy),
        ms_per_character=1000 * (last - first) * hop / sample_rate / characters if characters else None,
    )


def judge(m: Measured, limits: PromptLimits) -> tuple[Fault, ...]:
    """Everything that speaks against a recording; empty where it will do."""
    found: list[Fault] = []

    def within(value: float, bounds: tuple[float, float], low: str, high: str, unit: str, digits: int = 1) -> None:
        least, most = bounds
        if not least <= value <= most:
            reason = low if value < least else high
            found.append(Fault(reason, f"{value:.{digits}f} {unit}, expected {least:g} to {most:g}"))

    within(m.seconds, limits.seconds, "too_short", "too_long", "s")
    if m.sample_rate < limits.least_sample_rate:
        found.append(Fault("sample_rate", f"{m.sample_rate} Hz, expected at least {limits.least_sample_rate}"))
    elif m.bandwidth_hz < limits.least_bandwidth_hz:
        detail = f"nothing above {m.bandwidth_hz:.0f} Hz, expected up to {limits.least_bandwidth_hz:g} at least"
        found.append(Fault("bandwidth", detail))
    within(m.level_dbfs, limits.level_dbfs, "too_quiet", "too_loud", "dBFS")
    if m.clipped > limits.clipped_share:
        detail = f"{100 * m.clipped:.2f} % of its samples at its ceiling, at most {100 * limits.clipped_share:g} %"
        found.append(Fault("clipped", detail))
    edges = limits.edge_silence_sec
    within(m.lead_sec, edges, "cut_at_start", "silence_at_start", "s of silence before it", 2)
    within(m.tail_sec, edges, "cut_at_end", "silence_at_end", "s of silence behind it", 2)
    if m.snr_db < limits.least_snr_db:
        detail = f"speech {m.snr_db:.1f} dB above the noise, expected {limits.least_snr_db:g} at least"
        found.append(Fault("noisy", detail))
    if m.ms_per_character is None:
        found.append(Fault("no_transcript", "its transcript has no word"))
    else:
        unit = "ms of speech for each character of the transcript"
        within(m.ms_per_character, limits.ms_per_character, "too_fast", "too_slow", unit, 0)
    return tuple(found)


def frame_energy(samples: Float32, hop: int) -> Float64:
    """Mean square of each whole frame, shape (n_samples // hop,)."""
    frames = samples[: len(samples) // hop * hop].reshape(-1, hop).astype(np.float64)
    return np.asarray(np.einsum("ij,ij->i", frames, frames) / hop)


def speech_frames(energy: Float64) -> npt.NDArray[np.bool_]:
    """Which frames are speech; noise between words is not, unless it is about as loud."""
    if not len(energy) or (peak := float(energy.max())) <= _SILENT:
        return np.zeros(len(energy), bool)
    above_noise = min(_noise(energy) * 10 ** (ABOVE_NOISE_DB / 10), peak * 10 ** (-LEAST_BELOW_PEAK_DB / 10))
    return np.asarray(energy > max(peak * 10 ** (-BELOW_PEAK_DB / 10), above_noise))


def spoken_length(transcript: str, language: str = "en") -> float:
    """Letters, and single spaces between words, that a transcript is as long to say as."""
    per_syllable = CHARACTERS_PER_SECOND / SYLLABLES_PER_SECOND.get(primary(language), SYLLABLES_PER_SECOND["zh"])
    words = ["".join(c for c in w if c.isalnum() or unicodedata.category(c)[0] == "M") for w in transcript.split()]
    words = [w for w in words if w]
    length = float(max(0, len(words) - 1))
    for c in "".join(words):
        syllabic = any(low <= c <= high for low, high in _SYLLABIC)
        length += per_syllable if syllabic else _DIGIT if c.isdigit() else 1
    return length


def _flat(at_ceiling: npt.NDArray[np.bool_]) -> int:
    """Samples that stand in a row of at least `_FLAT`; a peak that is only high stands alone or in two."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], at_ceiling, [False])).astype(np.int8)))
    lengths = edges[1::2] - edges[::2]
    return int(lengths[lengths >= _FLAT].sum())


def _noise(energy: Float64) -> float:
    """Mean square of the quietest frames."""
    n = max(1, int(len(energy) * QUIETEST))
    return float(np.partition(energy, n - 1)[:n].mean())


def _bandwidth(samples: Float32, sample_rate: int, energy: Float64) -> float:
    n = 1 << (sample_rate // 50).bit_length()  # 20 to 40 ms
    windows = np.lib.stride_tricks.sliding_window_view(samples, n)[:: n // 2] if len(samples) >= n else samples[None]
    power = (np.abs(np.fft.rfft(windows * np.hanning(windows.shape[1]).astype(np.float32))) ** 2).mean(axis=0)
    above = np.flatnonzero(power >= power.max() * 10 ** (-_BAND_BELOW_PEAK_DB / 10))
    return float(above[-1] * sample_rate / windows.shape[1])


def _db(mean_square: float) -> float:
    return float(10 * np.log10(max(mean_square, _SILENT)))
