"""The sound of a row of `conversations`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from duplexdata.checks.finding import Finding, Int16, Record, Said, Settings, name_of, samples_of, sec
from duplexdata.units import SAMPLE_RATE
from duplexdata.vad import FLOOR_DBFS, FRAME, frame_energy, speech_frames, stretches

NEAR = SAMPLE_RATE * 80 // 1000
"""Samples by which measured sound may be off its record: 80 ms, one speech token."""
LEVEL_DB = 3.0
_LIMITED_PEAK = 0.95
"""From here on an utterance counts as kept down by its peak."""
_NEVER_LIMITED_DBFS = -20.0
"""Peaks of speech do not stand so far above its level that they would limit it here."""


def check_sound(record: Record, audio: Int16, settings: Settings) -> Iterator[Finding]:
    """Both channels against the record.

    Args:
        audio: int16, shape (n_samples, 2): assistant, user.
    """
    if audio.shape != (record.length, 2):
        yield Finding("audio", f"shape {audio.shape}, expected ({record.length}, 2)")
        return
    for column, channel in enumerate(("assistant", "user")):
        sound = np.ascontiguousarray(audio[:, column])
        on = [(i, u) for i, u in enumerate(record.utterances) if u.channel == channel]
        yield from _check_channel(channel, sound, on, settings)


def _check_channel(channel: str, sound: Int16, on: Sequence[tuple[int, Said]], settings: Settings) -> Iterator[Finding]:
    level = sound.astype(np.float32)
    level /= np.float32(32768)
    active = frame_energy(level) > 10 ** (FLOOR_DBFS / 10)
    if len(sound) and (int(sound.max()) == 32767 or int(sound.min()) == -32768):
        yield Finding("clipping", f"the {channel}'s channel touches full scale")
    outside = active.copy()
    for _, u in on:
        outside[u.start // FRAME : -(-u.end // FRAME)] = False
    for start, end in stretches(outside).tolist():
        before = [u for _, u in on if u.end <= start + FRAME]
        rule = "after-stop" if before and before[-1].cut else "sound-outside"
        yield Finding(rule, f"the {channel}'s channel sounds from {sec(start)} to {sec(end)}, where nothing is said")
        break
    for i, u in on:
        yield from _check_utterance_sound(name_of(i, u), u, active, sound, level, settings)


def _check_utterance_sound(
    name: str,
    u: Said,
    active: npt.NDArray[np.bool_],
    sound: Int16,
    level: npt.NDArray[np.float32],
    settings: Settings,
) -> Iterator[Finding]:
    heard = np.flatnonzero(active[max(0, u.start // FRAME) : -(-u.end // FRAME)]) + u.start // FRAME
    own = level[max(0, u.start) : u.end]
    if not len(heard):
        yield Finding("onset", f"{name}: not heard from {sec(u.start)} to {sec(u.end)}")
        return
    onset, end = int(heard[0]) * FRAME, (int(heard[-1]) + 1) * FRAME
    if onset > u.start + NEAR:
        yield Finding("onset", f"{name}: heard from {sec(onset)} on, expected {sec(u.start)}")
    if end < _sounds_until(u) - NEAR:
        yield Finding("offset", f"{name}: heard until {sec(end)}, expected {sec(_sounds_until(u))}")
    energy = frame_energy(own)
    speech = speech_frames(energy)
    if speech.any():
        found = 10 * math.log10(float(energy[speech].mean()))
        limited = float(np.abs(own).max()) >= _LIMITED_PEAK
        # What limits a reply that was cut may lie behind the cut.
        least = min(settings.level_dbfs, _NEVER_LIMITED_DBFS) if u.cut else settings.level_dbfs
        if found > settings.level_dbfs + LEVEL_DB or (found < least - LEVEL_DB and not limited):
            yield Finding("level", f"{name}: {found:.1f} dBFS, expected {settings.level_dbfs:.1f}")
    tenth = samples_of(settings.timing.fade_sec) // 10
    if u.cut and tenth:
        tail, peak = (
            np.abs(sound[u.end - tenth : u.end].astype(np.int32)),
            np.abs(sound[u.start : u.end].astype(np.int32)),
        )
        if tail.max(initial=0) > 0.1 * peak.max(initial=0) + 1:
            yield Finding("click", f"{name}: {int(tail.max())} of 32768 right before its stop, expected it faded out")


def _sounds_until(u: Said) -> int:
    """Sample up to which an utterance is surely heard: its end; one that was cut may have stopped between words."""
    if not u.cut:
        return u.end
    if len(u.words) > 1:
        return min(u.words[-1].start, u.words[-2].end)
    return u.start
