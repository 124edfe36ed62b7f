"""Synthesized speech becomes takes of one rate and loudness; takes become the two channels; channels become FLAC."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile as sf
import soxr

from duplexdata.conversation import Conversation, Int64, Span
from duplexdata.dialogue import Channel, Pause
from duplexdata.errors import ScriptError
from duplexdata.speech.base import Speech
from duplexdata.timeline import Take
from duplexdata.units import SAMPLE_RATE, to_samples
from duplexdata.vad import FRAME, frame_energy, speech_frames

Int16 = npt.NDArray[np.int16]
Float32 = npt.NDArray[np.float32]
_EDGE = SAMPLE_RATE // 500
"""Samples over which a take begins and ends from nothing: 2 ms, so that nothing clicks."""
_MOST_PEAK = 0.97


@dataclass(frozen=True, slots=True)
class Recording:
    """A take with its sound: int16 at 16 kHz, shape (take.length,)."""

    take: Take
    samples: Int16


def record(speech: Speech, *, level_dbfs: float, pause: Pause | None = None) -> Recording:
    """Resample, trim the silence at both ends, bring to one level.

    Args:
        level_dbfs: RMS over the frames that are speech; lower only where a peak would clip.
        pause: a silence to put behind one of the words; needs word times.

    Raises: ScriptError("silent_speech"): no sound in it; ("bad_samples"): not finite.
    """
    x = speech.samples
    if speech.sample_rate != SAMPLE_RATE:
        x = soxr.resample(x, speech.sample_rate, SAMPLE_RATE, quality="HQ")
    energy = frame_energy(x)
    if not np.isfinite(energy).all():
        raise ScriptError("bad_samples", "the synthesizer gave samples that are no numbers")
    active = speech_frames(energy)
    if not active.any():
        raise ScriptError("silent_speech", "the synthesizer gave only silence")
    first = int(active.argmax()) * FRAME
    last = (len(active) - int(active[::-1].argmax())) * FRAME
    samples = _to_int16(x[first:last], float(energy[active].mean()), level_dbfs)
    starts, ends = _word_times(speech, first, len(samples))
    if pause is not None and len(starts) > pause.after_word + 1:
        samples, starts, ends = _insert_pause(samples, starts, ends, pause)
    return Recording(Take(len(samples), starts, ends), samples)


def _to_int16(x: Float32, mean_square: float, level_dbfs: float) -> Int16:
    gain = 10 ** (level_dbfs / 20) / mean_square**0.5
    gain = min(gain, _MOST_PEAK / max(float(x.max()), -float(x.min())))
    scaled = x * np.float32(gain * 32767)
    np.rint(scaled, out=scaled)
    _fade(scaled, _EDGE, at_start=True)
    _fade(scaled, _EDGE)
    return scaled.astype(np.int16)


def _fade(x: Float32 | Int16, n: int, *, at_start: bool = False) -> None:
    """Ramp the first or last `n` samples, in place."""
    ramp = _ramp(min(n, len(x)))
    if at_start:
        x[: len(ramp)] = (x[: len(ramp)] * ramp).astype(x.dtype)
    else:
        x[len(x) - len(ramp) :] = (x[len(x) - len(ramp) :] * ramp[::-1]).astype(x.dtype)


@cache
def _ramp(n: int) -> Float32:
    return np.linspace(0.0, 1.0, n + 1, dtype=np.float32)[1:]


def _word_times(speech: Speech, first: int, length: int) -> tuple[Int64, Int64]:
    """In samples at 16 kHz from the trimmed start."""
    times = np.array([(w.start, w.end) for w in speech.words or ()], np.float64).reshape(-1, 2)
    scaled = np.rint(times * (SAMPLE_RATE / speech.sample_rate)).astype(np.int64) - first
    scaled = scaled.clip(0, length)
    return scaled[:, 0], scaled[:, 1]


def _insert_pause(samples: Int16, starts: Int64, ends: Int64, pause: Pause) -> tuple[Int16, Int64, Int64]:
    """A digital silence between two words; the words behind it come later."""
    w = pause.after_word
    at = int(ends[w] + starts[w + 1]) // 2
    n = to_samples(pause.seconds)
    before, behind = samples[:at].copy(), samples[at:].copy()
    _fade(before, _EDGE)
    _fade(behind, _EDGE, at_start=True)
    starts, ends = starts.copy(), ends.copy()
    starts[w + 1 :] += n
    ends[w + 1 :] += n
    ends[: w + 1] = ends[: w + 1].clip(max=at)
    return np.concatenate([before, np.zeros(n, np.int16), behind]), starts, ends


def render(
    conversation: Conversation,
    recordings: Sequence[Recording],
    fade: int,
    channels: Sequence[Channel] = tuple(Channel),
) -> Int16:
    """The two channels, int16, shape (n_samples, 2): column 0 the assistant, column 1 the user (Moshi's order).

    Args:
        recordings: one per utterance of the conversation, in its order.
        fade: samples over which a cut utterance fades out, ending at its stop.
        channels: those to fill; the others stay silent.
    """
    out = np.zeros((conversation.n_samples, 2), np.int16)
    for u, r in zip(conversation.utterances, recordings, strict=True):
        if u.channel in channels:
            column = out[:, 1 if u.channel is Channel.USER else 0]
            _lay(column, r.samples, u.start, u.end, fade)
    return out


def render_assistant(
    conversation: Conversation, recordings: Sequence[Recording], spans: Sequence[Span], fade: int
) -> Int16:
    """The assistant's channel with its utterances at other times (a negative's), int16, shape (n_samples,)."""
    out = np.zeros(conversation.n_samples, np.int16)
    for u, r, (start, end) in zip(conversation.utterances, recordings, spans, strict=True):
        if u.channel is Channel.ASSISTANT:
            _lay(out, r.samples, start, end, fade)
    return out


def _lay(channel: Int16, samples: Int16, start: int, end: int, fade: int) -> None:
    channel[start:end] = samples[: end - start]
    if end - start < len(samples):
        _fade(channel[start:end], fade)


def to_flac(samples: Int16) -> bytes:
    """16 kHz FLAC of int16 samples, shape (n,) or (n, channels)."""
    # Into memory that libsndfile sees as a file: through a Python object every FLAC frame would cost a call.
    fd = os.memfd_create("flac")
    # The fastest level: higher ones save 5 % of the bytes for twice the time.
    sf.write(os.dup(fd), samples, SAMPLE_RATE, format="FLAC", subtype="PCM_16", compression_level=0.0, closefd=True)
    with open(fd, "rb") as out:
        out.seek(0)
        return out.read()


def from_flac(data: bytes) -> Int16:
    """int16, shape (n,) or (n, channels). Raises ValueError where the bytes are no 16 kHz audio."""
    try:
        samples, rate = sf.read(io.BytesIO(data), dtype="int16")
    except sf.LibsndfileError as error:
        raise ValueError(f"not decodable as audio: {error}") from error
    if rate != SAMPLE_RATE:
        raise ValueError(f"the audio is at {rate} Hz, expected {SAMPLE_RATE}")
    return samples


def load_audio(row: Mapping[str, Any]) -> tuple[Float32, int]:
    """The two channels of a row of `conversations`.

    Returns: float32 in [-1, 1], shape (2, n_samples): index 0 the assistant, 1 the user; and the rate in Hz.
    Raises: ValueError: the row has no audio (a dataset made without sound).
    """
    audio = row["audio"]
    if not audio or not audio.get("bytes"):
        raise ValueError(f"row {row.get('id')!r} has no audio")
    samples = from_flac(audio["bytes"])
    return np.ascontiguousarray(samples.T.astype(np.float32) / 32768), SAMPLE_RATE
