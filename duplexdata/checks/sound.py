"""The sound of a row of `conversations`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from duplexdata.checks.finding import Finding, Int16, Record, Said, Settings, name_of, samples_of, sec
from duplexdata.units import SAMPLE_RATE, to_samples
from duplexdata.vad import FLOOR_DBFS, FRAME, frame_energy, speech_frames, stretches

NEAR = SAMPLE_RATE * 80 // 1000
"""Samples by which measured sound may be off its record: 80 ms, one speech token."""
LEVEL_DB = 3.0
_LIMITED_PEAK = 0.95
"""From here on an utterance counts as kept down by its peak."""
_NEVER_LIMITED_DBFS = -20.0
"""Peaks of speech do not stand so far above its level that they would limit it here."""
_MOST_AUGMENTED = 0.97
"""Of full scale: an augmented channel is scaled down to this."""
_LAST_REFLECTION = to_samples(0.12)
"""How far behind its end side talk is heard."""


@dataclass(frozen=True, slots=True)
class _Heard:
    """What was done to a channel, as its row says.

    Attributes:
        gain_db: of all its utterances.
        covered: whether noise, an echo or a room may sound where nothing is said.
        distances: acoustics and level of distractors, by utterance.
    """

    gain_db: float = 0.0
    covered: bool = False
    distances: Mapping[int, tuple[str, float]] = field(default_factory=dict)


def _heard(record: Record) -> _Heard:
    found = record.augmentation
    if found is None:
        return _Heard()
    return _Heard(
        (found["gain_db"] or 0.0) + found["scale_db"],
        any(found[kind] is not None for kind in ("room", "echo", "noise")),
        {d["utterance"]: (d["acoustics"], d["level_db"]) for d in found["distractors"]},
    )


def check_sound(record: Record, audio: Int16, settings: Settings) -> Iterator[Finding]:
    """Both channels against the record.

    Of an augmented row the assistant's channel is checked as any other. The user's must have its length, stay below
    0.97 of full scale, and let every utterance be heard from start to end (distractors from afar: be heard at all),
    the gain taken off. Only where there is no room, echo or noise is it also looked at for silence outside the
    utterances (behind side talk: after its last reflection) and for the level of each: what was added covers both.

    Args:
        audio: int16, shape (n_samples, 2): assistant, user.
    """
    if audio.shape != (record.length, 2):
        yield Finding("audio", f"shape {audio.shape}, expected ({record.length}, 2)")
        return
    for column, channel in enumerate(("assistant", "user")):
        sound = np.ascontiguousarray(audio[:, column])
        on = [(i, u) for i, u in enumerate(record.utterances) if u.channel == channel]
        heard = _heard(record) if channel == "user" else _Heard()
        yield from _check_channel(channel, sound, on, heard, settings)
        peak = int(np.abs(sound.astype(np.int32)).max(initial=0))
        if channel == "user" and record.augmentation is not None and peak > round(_MOST_AUGMENTED * 32768):
            yield Finding("clipping", f"the user's channel is augmented and goes above {_MOST_AUGMENTED} of full scale")


def _check_channel(
    channel: str, sound: Int16, on: Sequence[tuple[int, Said]], heard: _Heard, settings: Settings
) -> Iterator[Finding]:
    level = sound.astype(np.float32)
    level /= np.float32(32768 * 10 ** (heard.gain_db / 20))
    active = frame_energy(level) > 10 ** (FLOOR_DBFS / 10)
    if len(sound) and (int(sound.max()) == 32767 or int(sound.min()) == -32768):
        yield Finding("clipping", f"the {channel}'s channel touches full scale")
    outside = active.copy()
    for i, u in on:
        reflected = _LAST_REFLECTION if heard.distances.get(i, ("",))[0] == "side_talk" else 0
        outside[u.start // FRAME : -(-(u.end + reflected) // FRAME)] = False
    for start, end in stretches(outside).tolist() if not heard.covered else ():
        before = [u for _, u in on if u.end <= start + FRAME]
        rule = "after-stop" if before and before[-1].cut else "sound-outside"
        yield Finding(rule, f"the {channel}'s channel sounds from {sec(start)} to {sec(end)}, where nothing is said")
        break
    for i, u in on:
        distance = heard.distances.get(i)
        yield from _check_utterance_sound(name_of(i, u), u, active, sound, level, heard, distance, settings)


def _check_utterance_sound(
    name: str,
    u: Said,
    active: npt.NDArray[np.bool_],
    sound: Int16,
    level: npt.NDArray[np.float32],
    how: _Heard,
    distance: tuple[str, float] | None,
    settings: Settings,
) -> Iterator[Finding]:
    heard = np.flatnonzero(active[max(0, u.start // FRAME) : -(-u.end // FRAME)]) + u.start // FRAME
    own = level[max(0, u.start) : u.end]
    if not len(heard):
        yield Finding("onset", f"{name}: not heard from {sec(u.start)} to {sec(u.end)}")
        return
    onset, end = int(heard[0]) * FRAME, (int(heard[-1]) + 1) * FRAME
    # From afar it may begin and end below what counts as sound.
    if distance is None and onset > u.start + NEAR:
        yield Finding("onset", f"{name}: heard from {sec(onset)} on, expected {sec(u.start)}")
    if distance is None and end < _sounds_until(u) - NEAR:
        yield Finding("offset", f"{name}: heard until {sec(end)}, expected {sec(_sounds_until(u))}")
    energy = frame_energy(own)
    speech = speech_frames(energy)
    if speech.any() and not how.covered:
        afar = distance[1] if distance is not None else 0.0
        found = 10 * math.log10(float(energy[speech].mean())) - afar
        # What stands far off may have been limited by a peak that its filters took away.
        limited = float(np.abs(own).max()) >= _LIMITED_PEAK or distance is not None
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
