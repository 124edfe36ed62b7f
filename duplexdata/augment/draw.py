"""What is done to one conversation's user channel, decided before any sound is touched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from duplexdata.augment.config import AugmentConfig, DistractorConfig, EchoConfig, NoiseConfig, Range, RoomConfig
from duplexdata.conversation import Spoken
from duplexdata.dialogue import Kind
from duplexdata.rng import rng_for, unit_interval
from duplexdata.units import to_seconds

_SEEDS = 1 << 53
"""Seeds are below this, so that a row's reader in any language has them exactly."""


@dataclass(frozen=True, slots=True)
class NoiseFile:
    """Attributes:
    name: below the folder, with "/" between its parts.
    length: in samples at 16 kHz.
    """

    name: str
    length: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Noise:
    """Attributes:
    kind: "white", "pink", "brown", or "file".
    snr_db: the user's active speech against the noise.
    seed: of generated noise.
    offset: sample of the file, at 16 kHz, that the conversation begins with.
    """

    kind: str
    snr_db: float
    seed: int | None = None
    file: str | None = None
    offset: int | None = None


@dataclass(frozen=True, slots=True)
class Room:
    """Attributes:
    rt60_sec: until the reverberation has decayed by 60 dB.
    drr_db: energy of the direct sound against that of the reverberation.
    """

    rt60_sec: float
    drr_db: float
    seed: int


@dataclass(frozen=True, slots=True)
class Echo:
    """Attributes:
    filtered: whether it comes through a small loudspeaker.
    """

    delay_ms: float
    attenuation_db: float
    filtered: bool


@dataclass(frozen=True, slots=True)
class Distance:
    """How a distractor is heard.

    Attributes:
        utterance: its index in the conversation.
        acoustics: "side_talk" or "background".
        level_db: its energy against what it was.
    """

    utterance: int
    acoustics: str
    level_db: float


@dataclass(frozen=True, slots=True)
class Augmentation:
    """All that decides on what becomes of the user's channel; None and () for what is not done."""

    gain_db: float | None = None
    room: Room | None = None
    echo: Echo | None = None
    noise: Noise | None = None
    distractors: tuple[Distance, ...] = ()

    def as_row(self, scale_db: float) -> dict[str, Any]:
        """The column `augmentation`, with the scale that kept the channel from clipping."""
        row = asdict(self)
        if self.noise is not None:
            offset = row["noise"].pop("offset")
            row["noise"]["offset_sec"] = None if offset is None else to_seconds(offset)
        return {**row, "distractors": list(row["distractors"]), "scale_db": scale_db}


def draw(
    config: AugmentConfig, seed: int, id_: str, utterances: Sequence[Spoken], files: Sequence[NoiseFile] = ()
) -> Augmentation | None:
    """Each kind has draws of its own: switching one on changes none of the others.

    Args:
        id_: the conversation's.
        files: recordings of noise, in an order that does not depend on the machine.

    Returns: None if nothing is done to it.
    """
    found = Augmentation(
        gain_db=_gain(config, seed, id_),
        room=_room(config.room, seed, id_),
        echo=_echo(config.echo, seed, id_),
        noise=_noise(config.noise, seed, id_, files),
        distractors=_distractors(config.distractor, seed, id_, utterances),
    )
    return None if found == Augmentation() else found


def _wanted(share: float, seed: int, id_: str, kind: str) -> bool:
    return unit_interval(seed, id_, f"augment: {kind}?") < share


def _uniform(bounds: Range, seed: int, id_: str, what: str) -> float:
    return float(rng_for(seed, id_, f"augment: {what}").uniform(*bounds))


def _integer(below: int, seed: int, id_: str, what: str) -> int:
    return int(rng_for(seed, id_, f"augment: {what}").integers(below))


def _gain(config: AugmentConfig, seed: int, id_: str) -> float | None:
    return _uniform(config.gain.db, seed, id_, "gain") if _wanted(config.gain.share, seed, id_, "gain") else None


def _room(config: RoomConfig, seed: int, id_: str) -> Room | None:
    if not _wanted(config.share, seed, id_, "room"):
        return None
    return Room(
        rt60_sec=_uniform(config.rt60_sec, seed, id_, "rt60"),
        drr_db=_uniform(config.drr_db, seed, id_, "drr"),
        seed=_integer(_SEEDS, seed, id_, "room"),
    )


def _echo(config: EchoConfig, seed: int, id_: str) -> Echo | None:
    if not _wanted(config.share, seed, id_, "echo"):
        return None
    return Echo(
        delay_ms=_uniform(config.delay_ms, seed, id_, "delay"),
        attenuation_db=_uniform(config.attenuation_db, seed, id_, "attenuation"),
        filtered=_wanted(config.filtered, seed, id_, "loudspeaker"),
    )


def _noise(config: NoiseConfig, seed: int, id_: str, files: Sequence[NoiseFile]) -> Noise | None:
    if not _wanted(config.share, seed, id_, "noise"):
        return None
    snr_db = _uniform(config.snr_db, seed, id_, "snr")
    if config.folder is None:
        kind = config.kinds[_integer(len(config.kinds), seed, id_, "noise kind")]
        return Noise(kind, snr_db, seed=_integer(_SEEDS, seed, id_, "noise"))
    if not files:
        raise ValueError("noise is to come from a folder, and no file of it is given")
    file = files[_integer(len(files), seed, id_, "noise file")]
    return Noise("file", snr_db, file=file.name, offset=_integer(file.length, seed, id_, "noise offset"))


def _distractors(config: DistractorConfig, seed: int, id_: str, utterances: Sequence[Spoken]) -> tuple[Distance, ...]:
    found = []
    for i, u in enumerate(utterances):
        if u.kind is not Kind.DISTRACTOR:
            continue
        drawn = unit_interval(seed, id_, i, "augment: distractor")
        if drawn < config.side_talk:
            found.append(Distance(i, "side_talk", config.side_talk_db))
        elif drawn < config.side_talk + config.background:
            found.append(Distance(i, "background", config.background_db))
    return tuple(found)
