"""Settings of what is done to the user's channel. Everything is off by default: every share is 0.

All bounds are our choice; each says why.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from duplexdata.errors import ConfigError

Range = tuple[float, float]
"""Bounds of a uniform law."""

GENERATED = ("white", "pink", "brown")
ACOUSTICS = ("side_talk", "background")


@dataclass(frozen=True, slots=True)
class GainConfig:
    """People sit nearer or farther; microphones differ."""

    share: float = 0.0
    """Of all conversations."""
    db: Range = (-12.0, 6.0)
    """Utterances stand at -26 dBFS, so that 6 dB hardly ever reach full scale."""

    def __post_init__(self) -> None:
        _share("gain.share", self.share)
        _range("gain.db", self.db, -40.0, 24.0)


@dataclass(frozen=True, slots=True)
class NoiseConfig:
    """One noise over the whole conversation."""

    share: float = 0.0
    """Of all conversations."""
    snr_db: Range = (5.0, 30.0)
    """Of the user's active speech, against the noise's mean power. Below 5 dB a user would speak up, at 30 dB noise is
    just heard in the silences."""
    folder: str | None = None
    """Recordings (wav, flac, ogg, also in folders inside it), drawn evenly; None: noise is generated."""
    kinds: tuple[str, ...] = GENERATED
    """Of generated noise, drawn evenly: power even over frequency, falling by 3 dB, or by 6 dB an octave."""

    def __post_init__(self) -> None:
        _share("noise.share", self.share)
        _range("noise.snr_db", self.snr_db, -20.0, 80.0)
        if not self.kinds or not set(self.kinds) <= set(GENERATED):
            raise ConfigError(f"augment.noise.kinds is {list(self.kinds)}, expected some of {', '.join(GENERATED)}")
        if self.folder is not None and not self.folder.strip():
            raise ConfigError("augment.noise.folder is empty: name a folder, or leave it out for generated noise")


@dataclass(frozen=True, slots=True)
class RoomConfig:
    """A synthetic room around everything that the user's microphone hears, the assistant's echo apart."""

    share: float = 0.0
    """Of all conversations."""
    rt60_sec: Range = (0.2, 0.8)
    """Until sound has decayed by 60 dB: from a furnished bedroom to a meeting room."""
    drr_db: Range = (0.0, 15.0)
    """Direct to reverberant energy: from the far side of a desk to a headset's distance."""

    def __post_init__(self) -> None:
        _share("room.share", self.share)
        _range("room.rt60_sec", self.rt60_sec, 0.05, 3.0)
        _range("room.drr_db", self.drr_db, -20.0, 40.0)


@dataclass(frozen=True, slots=True)
class EchoConfig:
    """The assistant heard by the user's microphone."""

    share: float = 0.0
    """Of all conversations."""
    delay_ms: Range = (100.0, 500.0)
    """Of the buffers of playback and recording, and the air between them."""
    attenuation_db: Range = (14.0, 40.0)
    """Below the assistant's own channel: 14 dB (a fifth) is a loudspeaker on the desk, at 40 dB a canceller has left
    little."""
    filtered: float = 0.5
    """Share of the echoes that come through a small loudspeaker (300 Hz to 6 kHz)."""

    def __post_init__(self) -> None:
        _share("echo.share", self.share)
        _share("echo.filtered", self.filtered)
        _range("echo.delay_ms", self.delay_ms, 0.0, 2000.0)
        _range("echo.attenuation_db", self.attenuation_db, 0.0, 80.0)


@dataclass(frozen=True, slots=True)
class DistractorConfig:
    """Where what is not said to the assistant comes from. Shares are of all distractors; the rest stay as they are."""

    side_talk: float = 0.0
    """Turned away in the same room: duller, and reflected by the walls after 45 and 120 ms."""
    background: float = 0.0
    """Far off, or a television: low-passed at 3 kHz."""
    side_talk_db: float = -8.0
    """By how much quieter than it was synthesized: a speaker at twice or three times the distance."""
    background_db: float = -15.0
    """The same, from another room or a television."""

    def __post_init__(self) -> None:
        _share("distractor.side_talk", self.side_talk)
        _share("distractor.background", self.background)
        if self.side_talk + self.background > 1 + 1e-9:
            raise ConfigError("augment.distractor: side_talk and background are shares, and add up to more than 1")
        _range("distractor.side_talk_db", (self.side_talk_db, self.side_talk_db), -40.0, 0.0)
        _range("distractor.background_db", (self.background_db, self.background_db), -40.0, 0.0)


@dataclass(frozen=True, slots=True)
class AugmentConfig:
    """What is done to the user's channel, in this order: distractors, room, gain, echo, noise."""

    gain: GainConfig = field(default_factory=GainConfig)
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    room: RoomConfig = field(default_factory=RoomConfig)
    echo: EchoConfig = field(default_factory=EchoConfig)
    distractor: DistractorConfig = field(default_factory=DistractorConfig)

    @property
    def on(self) -> bool:
        """Whether it can change anything."""
        kinds = self.gain.share, self.noise.share, self.room.share, self.echo.share
        return any(s > 0 for s in (*kinds, self.distractor.side_talk, self.distractor.background))


def _share(key: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ConfigError(f"augment.{key} is {value}, expected a share between 0 and 1")


def _range(key: str, value: Range, least: float, most: float) -> None:
    low, high = value
    if not (math.isfinite(low) and math.isfinite(high) and least <= low <= high <= most):
        found = [low, high] if low != high else low
        raise ConfigError(f"augment.{key} is {found}, expected {least:g} <= lower bound <= upper bound <= {most:g}")
