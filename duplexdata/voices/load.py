"""Banks are read: the embedded one, a folder's, a hub dataset's. What will not do is refused, with its reason."""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf

from duplexdata.config import PromptLimits, VoicesConfig
from duplexdata.errors import ConfigError, SourceError
from duplexdata.files import open_regular, read_small
from duplexdata.names import on_one_line
from duplexdata.resources import cache_folder
from duplexdata.shards import put_in_place, temporary_name
from duplexdata.sources.text_rows import read_text_rows
from duplexdata.speech.base import Float32, Voice, VoicePrompt
from duplexdata.voices.bank import NOT_A_RECORDING, BankVoice, Fault, Refused, VoiceBank
from duplexdata.voices.deck import held_out
from duplexdata.voices.duplicates import Contour, contour, first_alike
from duplexdata.voices.embedded import embedded_voices
from duplexdata.voices.judge import Measured, judge, measure
from duplexdata.voices.rows import BadRow, BankRow, parse_bank_row

EMBEDDED = "embedded"
FILE = "voices.jsonl"
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_LONGEST_SEC = 600
"""A file that is longer is no prompt, and is not read."""
_MAX_SAMPLES = _LONGEST_SEC * 48_000 * 2
"""Of all channels: silence at any rate in many channels is a few bytes of FLAC."""
_MAX_BYTES = 4 * _MAX_SAMPLES + 1024 * 1024
"""Of a recording, 4 a sample and a header."""


@dataclass(slots=True)
class Surveyed:
    """An entry of a bank, and all that was found of it.

    Attributes:
        where: its id, or the row it stands in.
        voice: None where the row is none.
        measured: of a recording that could be read.
        faults: why it is refused; the first one is counted.
    """

    where: str
    voice: BankVoice | None
    measured: Measured | None = None
    faults: list[Fault] = field(default_factory=list)
    contour: Contour | None = None

    @property
    def accepted(self) -> bool:
        return not self.faults

    def refuse(self, reason: str, detail: str) -> None:
        self.faults.append(Fault(reason, detail))


def survey(config: VoicesConfig) -> list[Surveyed]:
    """Every entry of a bank with what speaks against it, in the bank's order.

    Raises: ConfigError: there is no such bank, or nothing in it.
    """
    if config.bank == EMBEDDED:
        return [Surveyed(v.id, v) for v in embedded_voices()]
    found = [_surveyed(row, audio, config) for row, audio in _rows(config)]
    if not found:
        raise ConfigError(f"the voice bank {config.bank} has no entries")
    _refuse_repeated(found)
    return found


def load_bank(config: VoicesConfig) -> VoiceBank:
    """The voices that may be used, with their splits.

    Raises: ConfigError: nothing usable is in it, or no voice can be the assistant.
    """
    found = survey(config)
    assistant = _assistant(found, config)
    users = [s for s in found if s.accepted and s.voice is not None and s.voice.id != assistant.id]
    for s in users:
        assert s.voice is not None
        if s.voice.split in ("assistant", "both"):
            s.refuse("other_assistant", f"its split says assistant, and {assistant.id} is it")
        elif s.voice.speaker == assistant.speaker:
            s.refuse("assistants_speaker", f"the assistant {assistant.id} is the same speaker's")
    kept = [s.voice for s in users if s.accepted and s.voice is not None]
    refused = tuple(Refused(s.where, s.faults[0]) for s in found if s.faults)
    return VoiceBank(
        name=Path(config.bank).name,
        users=_with_splits(kept, config.test_fraction),
        assistant=replace(assistant, voice=replace(assistant.voice, split="both")),
        evenly_over=config.evenly_over,
        cross_lingual=config.cross_lingual,
        refused=refused,
    )


# -- entries


def _surveyed(row: BankRow | BadRow, audio: Path | Fault | None, config: VoicesConfig) -> Surveyed:
    """
    Args:
        audio: where the row's recording is, or why it is nowhere; None for a voice without one.
    """
    if isinstance(row, BadRow):
        return Surveyed(row.where, None, faults=[row.fault])
    found = Surveyed(row.name, _voice(row, None))
    if audio is None:
        return found
    if not config.allow_unlicensed:
        for key in ("licence", "consent"):
            if not getattr(row, key):
                found.refuse(f"no_{key}", f"its {key} is not stated; voices.allow_unlicensed would let it in")
    if config.licences and row.licence not in config.licences:
        found.refuse("licence_excluded", f"{row.licence or 'none'} is not among {', '.join(config.licences)}")
    if isinstance(audio, Fault):
        found.faults.append(audio)
        return found
    try:
        data = read_small(audio, _MAX_BYTES)
    except OSError as error:
        found.refuse("unreadable", f"cannot be read ({error.strerror or error})")
        return found
    prompt = VoicePrompt(str(audio), row.transcript, hashlib.sha256(data).hexdigest())
    found.voice = _voice(row, prompt)
    sound = read_prompt(data)
    if isinstance(sound, Fault):
        found.faults.append(sound)
    else:
        _judge(found, *sound, row, config.limits if config.check else None)
    return found


def _judge(found: Surveyed, samples: Float32, rate: int, row: BankRow, limits: PromptLimits | None) -> None:
    measured = measure(samples, rate, row.transcript, row.tag)
    if isinstance(measured, Fault):
        found.faults.append(measured)
        return
    found.measured, found.contour = measured, contour(samples, rate)
    if limits is not None:
        found.faults += judge(measured, limits)


def read_prompt_file(path: Path) -> tuple[Float32, int] | Fault:
    """`read_prompt` of a file."""
    try:
        return read_prompt(read_small(path, _MAX_BYTES))
    except OSError as error:
        return Fault("unreadable", f"cannot be read ({error.strerror or error})")


def read_prompt(data: bytes) -> tuple[Float32, int] | Fault:
    """Mono samples, shape (n,), and their rate; channels are averaged."""
    try:
        with sf.SoundFile(io.BytesIO(data)) as file:
            if file.frames > _LONGEST_SEC * file.samplerate:
                return Fault("too_long", f"{file.frames / file.samplerate:.0f} s")
            if file.frames * file.channels > _MAX_SAMPLES:
                return Fault("too_many_samples", f"{file.frames} of {file.channels} channels, at most {_MAX_SAMPLES}")
            samples = file.read(dtype="float32", always_2d=True)
            rate = int(file.samplerate)
    except (OSError, sf.LibsndfileError, RuntimeError) as error:
        return Fault("unreadable", f"cannot be read as sound ({error})")
    if rate < 1000:
        return Fault("sample_rate", f"{rate} Hz")
    return np.ascontiguousarray(samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1)), rate


def _voice(row: BankRow, prompt: VoicePrompt | None) -> BankVoice:
    recorded = bool(row.file)
    return BankVoice(
        voice=Voice(row.name, row.split, tuple(sorted(row.settings.items())), prompt),
        speaker=row.speaker or row.name,
        language=row.tag,
        sex=row.sex,
        accent=row.accent or row.settings.get("accent", ""),
        licence=row.licence or ("" if recorded else NOT_A_RECORDING),
        consent=row.consent or ("" if recorded else NOT_A_RECORDING),
        source=row.source,
    )


def _refuse_repeated(found: list[Surveyed]) -> None:
    """Ids that stand twice, recordings that are there twice, speakers of two splits: the first one stays."""
    ids: set[str] = set()
    for s in found:
        if s.voice is not None and s.voice.id in ids:
            s.refuse("duplicate_id", "an entry before it has this id")
        if s.voice is not None:
            ids.add(s.voice.id)
    whole = [s for s in found if s.accepted and s.contour is not None]
    alike = first_alike([s.contour for s in whole if s.contour is not None])
    for s, first in zip(whole, alike, strict=True):
        if first is not None:
            s.refuse("duplicate_audio", f"the same recording as {whole[first].where}")
    splits: dict[str, Surveyed] = {}
    for s in found:
        if not s.accepted or s.voice is None or not s.voice.split:
            continue
        first_of = splits.setdefault(s.voice.speaker, s)
        if first_of.voice is not None and first_of.voice.split != s.voice.split:
            detail = f"its speaker {s.voice.speaker} is in {first_of.voice.split} as {first_of.where}"
            s.refuse("speaker_in_two_splits", detail)


def _assistant(found: list[Surveyed], config: VoicesConfig) -> BankVoice:
    usable = [s.voice for s in found if s.accepted and s.voice is not None]
    if not usable:
        reasons = Counter(s.faults[0].reason for s in found if s.faults)
        counts = ", ".join(f"{n} x {reason}" for reason, n in reasons.most_common())
        raise ConfigError(
            f"the voice bank {config.bank} has no voice that can be used ({counts}); "
            f"`duplexdata voices check {config.bank}` says why of each"
        )
    if config.assistant is not None:
        for s in found:
            if s.voice is not None and s.voice.id == config.assistant:
                if s.faults:
                    raise ConfigError(f"voices.assistant: {Refused(s.where, s.faults[0])}")
                return s.voice
        raise ConfigError(f"voices.assistant is {config.assistant!r}, and no voice of {config.bank} has this id")
    marked = [v for v in usable if v.split in ("assistant", "both")]
    if not marked:
        raise ConfigError(
            f"no voice of {config.bank} is the assistant's: set voices.assistant to the id of one "
            f"(such as {', '.join(v.id for v in usable[:3])}); no user will have it"
        )
    return marked[0]


def _with_splits(users: list[BankVoice], fraction: float) -> tuple[BankVoice, ...]:
    """Splits for those whose entry names none: their speaker's, if another entry of it does; else drawn."""
    stated = {v.speaker: v.split for v in users if v.split}
    test = held_out([v for v in users if v.speaker not in stated], fraction)
    return tuple(
        v
        if v.split
        else replace(v, voice=replace(v.voice, split=stated.get(v.speaker, "test" if v.speaker in test else "train")))
        for v in users
    )


# -- where rows come from


def _rows(config: VoicesConfig) -> Iterator[tuple[BankRow | BadRow, Path | Fault | None]]:
    folder = Path(os.path.expanduser(config.bank))
    local = os.path.isdir(folder)
    if os.path.lexists(folder / FILE):
        yield from _folder_rows(folder)
    elif local or (not os.path.lexists(folder) and _HUB_ID.fullmatch(config.bank)):
        yield from _hub_rows(config, local=local)
    else:
        shown = on_one_line(config.bank)
        raise ConfigError(f"voices.bank: {shown} is neither a folder with {FILE} nor the id of a hub dataset")


def _folder_rows(folder: Path) -> Iterator[tuple[BankRow | BadRow, Path | Fault | None]]:
    for number, raw in bank_file_rows(folder / FILE):
        where = f"{FILE}, row {number}"
        if isinstance(raw, Fault):
            yield BadRow(where, raw), None
            continue
        row = parse_bank_row(raw, where)
        if isinstance(row, BadRow) or not row.file:
            yield row, None
        elif os.path.isfile(folder / row.file):
            yield row, _inside(folder.resolve() / row.file, [folder])
        else:
            yield row, Fault("missing_file", f"{on_one_line(row.file)} is not there")


def bank_file_rows(path: Path) -> Iterator[tuple[int, Mapping[str, object] | Fault]]:
    """The rows of a `voices.jsonl` with their numbers from 1; in the place of one that is no JSON object, why.

    Raises: ConfigError: the file cannot be read.
    """
    try:
        with open_regular(path) as file:
            for row in read_text_rows(file, on_one_line(str(path)), may_be_array=False):
                bad = Fault("bad_row", f"{row.reason}: {row.detail}")
                yield row.number, bad if row.value is None else row.value
    except SourceError as error:
        raise ConfigError(str(error)) from error
    except OSError as error:
        raise ConfigError(f"{on_one_line(str(path))}: cannot be read ({error.strerror or error})") from error


def _hub_rows(config: VoicesConfig, *, local: bool) -> Iterator[tuple[BankRow | BadRow, Path | Fault | None]]:
    """Recordings are kept in a cache folder, by content."""
    from datasets import Audio, load_dataset

    try:
        splits = load_dataset(os.path.expanduser(config.bank) if local else config.bank, config.name)
    except Exception as error:  # the library raises whatever its parts do
        first = (str(error).strip().splitlines() or [""])[0][:200]
        raise ConfigError(f"voices.bank: {config.bank} cannot be loaded: {type(error).__name__}: {first}") from error
    places = [Path(config.bank).expanduser()] if local else _hub_places(config.bank)
    for split in sorted(splits):
        rows = splits[split]
        column = next((c for c in ("audio", "file") if c in rows.column_names), None)
        if column is not None and isinstance(rows.features[column], Audio):
            rows = rows.cast_column(column, Audio(decode=False))
        for number, raw in enumerate(rows):
            yield _hub_row(dict(raw), column, f"{split}, row {number}", places)


def _hub_places(name: str) -> list[Path]:
    """Where the library keeps the files of a hub dataset, and what it unpacks of archives."""
    from datasets import config
    from huggingface_hub.constants import HF_HUB_CACHE

    return [Path(HF_HUB_CACHE) / f"datasets--{name.replace('/', '--')}", Path(config.DOWNLOADED_DATASETS_PATH)]


def _inside(path: Path, places: list[Path]) -> Path | Fault:
    """The file, if it lies in one of the folders, links followed: a row must not name other files of this machine."""
    if path.is_symlink():  # a folder that the hub's client has made consists of links into its cache
        from huggingface_hub.constants import HF_HUB_CACHE

        places = [*places, Path(HF_HUB_CACHE)]
    if any(path.resolve().is_relative_to(place.resolve()) for place in places):
        return path
    return Fault("outside", "its recording lies outside the bank; copy it there")


def _hub_row(
    raw: dict[str, Any], column: str | None, where: str, places: list[Path]
) -> tuple[BankRow | BadRow, Path | Fault | None]:
    """
    Args:
        places: folders that a recording which is not in the row itself may lie in.
    """
    audio = raw.pop(column, None) if column is not None else None
    if not isinstance(audio, Mapping):
        row = parse_bank_row(raw, where)
        if isinstance(row, BadRow) and audio is not None:
            detail = f"{column} is a {type(audio).__name__}, expected a column of Audio"
            row = BadRow(row.where, Fault("bad_row", detail))
        return row, None
    data, path = audio.get("bytes"), str(audio.get("path") or "")
    name = Path(path.replace("\\", "/")).name or "recording"
    for key in ("file", "path", "file_name"):
        raw.pop(key, None)
    row = parse_bank_row({**raw, "file": name}, where)
    if isinstance(row, BadRow):
        return row, None
    if data is None and path and Path(path).is_file():
        file = _inside(Path(path).absolute(), places)
        if isinstance(file, Fault):
            return row, file
        data = file.read_bytes()
    if data is None:
        return row, Fault("missing_file", "its recording is not in the dataset")
    return row, _kept(data, Path(name).suffix)


def _kept(data: bytes, suffix: str) -> Path:
    path = cache_folder("voices") / f"{hashlib.sha256(data).hexdigest()}{suffix}"
    if not path.is_file() or path.stat().st_size != len(data):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_name(path)
        temporary.write_bytes(data)
        put_in_place(temporary, path)
    return path
