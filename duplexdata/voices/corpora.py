"""Speech corpora as their publishers lay them out: LibriTTS and LibriTTS-R, VCTK 0.92, Common Voice."""

from __future__ import annotations

import csv
import heapq
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from duplexdata.errors import SourceError
from duplexdata.rng import stable_hash

_CLIPS_KEPT = 12
"""Clips of a Common Voice speaker that are looked at: its lists have millions of lines."""


@dataclass(frozen=True, slots=True)
class Clip:
    """A recording and what is said in it."""

    path: Path
    transcript: str


@dataclass(frozen=True, slots=True)
class CorpusSpeaker:
    """Attributes:
    id: within the corpus.
    sex, accent: as the corpus says; empty where it does not.
    held_out: whether the corpus itself keeps the speaker for testing.
    clips: lists their recordings; called when they are wanted.
    """

    id: str
    sex: str
    accent: str
    language: str
    held_out: bool
    clips: Callable[[], list[Clip]]


@dataclass(frozen=True, slots=True)
class Corpus:
    """Attributes:
    prefix: of the ids in a bank.
    consent: what the corpus states of how its speakers agreed to be recorded and published.
    """

    prefix: str
    licence: str
    consent: str
    source: str
    speakers: list[CorpusSpeaker]


def read_corpus(name: str, folder: Path, language: str | None = None) -> Corpus:
    """
    Raises: SourceError: the folder is not laid out as the corpus is; names what was looked for.
    """
    if name not in READERS:
        raise SourceError(f"{name!r} is no corpus that is known, expected one of {', '.join(READERS)}")
    if not folder.is_dir():
        raise SourceError(f"{folder} is no folder")
    corpus = READERS[name](folder, language)
    if not corpus.speakers:
        raise SourceError(f"{folder}: no speaker of {name} was found in it")
    return corpus


# -- LibriTTS: [LibriTTS/]{train,dev,test}-{clean,other}*/<speaker>/<chapter>/<utterance>.{wav,normalized.txt}


def _libritts(folder: Path, language: str | None) -> Corpus:
    subsets = sorted(p for p in folder.iterdir() if p.is_dir() and _SUBSET.match(p.name))
    if _SUBSET.match(folder.name):
        subsets = [folder]
    if not subsets:
        raise SourceError(f"{folder}: expected LibriTTS, with folders such as train-clean-100 in it")
    sexes = _libritts_sexes([folder, folder.parent] if subsets == [folder] else [folder])
    both = len({s.name.startswith("train") for s in subsets}) == 2
    restored = any(re.search(r"libritts[-_ ]?r\b", part, re.IGNORECASE) for part in (folder.name, folder.parent.name))
    speakers = [
        CorpusSpeaker(
            speaker.name,
            sexes.get(speaker.name, ""),
            "",
            language or "en",
            both and not subset.name.startswith("train"),
            lambda speaker=speaker: _libritts_clips(speaker),  # type: ignore[misc]
        )
        for subset in subsets
        for speaker in sorted(subset.iterdir())
        if speaker.is_dir() and speaker.name.isdecimal()
    ]
    return Corpus(
        "librittsr" if restored else "libritts",
        "CC-BY-4.0",
        "read for LibriVox and given to the public domain by the reader",
        "LibriTTS-R, https://www.openslr.org/141" if restored else "LibriTTS, https://www.openslr.org/60",
        speakers,
    )


_SUBSET = re.compile(r"(train|dev|test)-(clean|other)(-\d+)?$")


def _libritts_sexes(folders: list[Path]) -> dict[str, str]:
    """From speakers.tsv (tabs) or SPEAKERS.txt (bars; comments begin with a semicolon): id, sex, …"""
    for folder in folders:
        for name, separator in (("speakers.tsv", "\t"), ("SPEAKERS.txt", "|"), ("SPEAKERS.TXT", "|")):
            if (folder / name).is_file():
                lines = (folder / name).read_text(encoding="utf-8", errors="replace").splitlines()
                cells = [[c.strip() for c in line.split(separator)] for line in lines if not line.startswith(";")]
                return {c[0]: c[1] for c in cells if len(c) > 1 and c[0].isdecimal()}
    return {}


def _libritts_clips(speaker: Path) -> list[Clip]:
    found = []
    for path in sorted(speaker.glob("*/*.wav")):
        text = path.with_name(f"{path.stem}.normalized.txt")
        if text.is_file():
            found.append(Clip(path, _text_of(text)))
    return found


# -- VCTK 0.92: wav48_silence_trimmed/<speaker>/<utterance>_mic1.flac, txt/<speaker>/<utterance>.txt


def _vctk(folder: Path, language: str | None) -> Corpus:
    sounds = next((folder / n for n in ("wav48_silence_trimmed", "wav48") if (folder / n).is_dir()), None)
    if sounds is None or not (folder / "txt").is_dir():
        raise SourceError(f"{folder}: expected VCTK, with the folders wav48_silence_trimmed and txt in it")
    facts = _vctk_facts(folder / "speaker-info.txt")
    speakers = [
        CorpusSpeaker(
            p.name,
            *facts.get(p.name, ("", "")),
            language or "en",
            False,
            lambda p=p: _vctk_clips(p, folder / "txt" / p.name),  # type: ignore[misc]
        )
        for p in sorted(sounds.iterdir())
        if p.is_dir()
    ]
    return Corpus(
        "vctk",
        "CC-BY-4.0",
        "recorded by the speaker for the corpus, which was made for voice cloning",
        "CSTR VCTK Corpus 0.92, https://datashare.ed.ac.uk/handle/10283/3443",
        speakers,
    )


def _vctk_facts(path: Path) -> dict[str, tuple[str, str]]:
    """Sex and accent by speaker. Columns are separated by any number of spaces: ID AGE GENDER ACCENTS REGION …"""
    if not path.is_file():
        return {}
    found = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines()[1:]:
        cells = line.split()
        if len(cells) >= 4:
            # Version 0.80 writes speakers without their letter.
            name = f"p{cells[0]}" if cells[0].isdecimal() else cells[0]
            found[name] = cells[2], "" if cells[3].casefold() == "unknown" else cells[3]
    return found


def _vctk_clips(sounds: Path, texts: Path) -> list[Clip]:
    """Of the first microphone; of the only one, where files name none."""
    found = []
    for text in sorted(texts.glob("*.txt")):
        names = (f"{text.stem}_mic1.flac", f"{text.stem}.flac", f"{text.stem}.wav")
        path = next((sounds / n for n in names if (sounds / n).is_file()), None)
        if path is not None:
            found.append(Clip(path, _text_of(text)))
    return found


# -- Common Voice: <language>/validated.tsv and <language>/clips/*.mp3


def _common_voice(folder: Path, language: str | None) -> Corpus:
    listed = folder / "validated.tsv"
    if not listed.is_file() or not (folder / "clips").is_dir():
        raise SourceError(f"{folder}: expected one language of Common Voice, with validated.tsv and clips in it")
    kept: dict[str, list[tuple[int, str, str]]] = {}
    facts: dict[str, tuple[str, str, str]] = {}
    for row in _lines(listed):
        client, path, sentence = row["client_id"], row["path"], row["sentence"]
        if not client or not path or Path(path).name != path:
            continue
        # Of a speaker's clips those with the smallest hashes: the same ones in whatever order they are listed.
        heap = kept.setdefault(client, [])
        item = (-stable_hash(path), path, sentence)
        if len(heap) < _CLIPS_KEPT:
            heapq.heappush(heap, item)
        else:
            heapq.heappushpop(heap, item)
        accent = (row.get("accents") or row.get("accent") or "").split("|")[0].split(",")[0].strip()
        new = row.get("gender") or "", accent, row.get("locale") or ""
        old = facts.get(client, ("", "", ""))
        facts[client] = old[0] or new[0], old[1] or new[1], old[2] or new[2]
    tag = language or next((f[2] for f in facts.values() if f[2]), "") or folder.name
    speakers = [
        CorpusSpeaker(
            # A pseudonym of the pseudonym: 512 bits are no name to read.
            f"{stable_hash(client, bits=48):012x}",
            facts[client][0],
            facts[client][1],
            language or facts[client][2] or tag,
            False,
            lambda clips=clips: [Clip(folder / "clips" / p, s) for _, p, s in sorted(clips, reverse=True)],  # type: ignore[misc]
        )
        for client, clips in sorted(kept.items())
    ]
    return Corpus(
        f"cv-{tag.lower()}",
        "CC0-1.0",
        "recorded and given to the public domain by the speaker; who they are must not be sought out",
        "Mozilla Common Voice, https://commonvoice.mozilla.org",
        speakers,
    )


def _lines(path: Path) -> Iterator[Mapping[str, str]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
            missing = {"client_id", "path", "sentence"} - set(rows.fieldnames or ())
            if missing:
                raise SourceError(f"{path}: the columns {', '.join(sorted(missing))} are missing")
            for row in rows:
                yield {k: v for k, v in row.items() if k is not None and isinstance(v, str)} | {
                    k: row.get(k) or "" for k in ("client_id", "path", "sentence")
                }
    except (OSError, UnicodeDecodeError, csv.Error) as error:  # csv takes no cell of more than 131,072 characters
        raise SourceError(f"{path}: cannot be read ({error})") from error


def _text_of(path: Path) -> str:
    return " ".join(path.read_text(encoding="utf-8", errors="replace").split())


READERS: Mapping[str, Callable[[Path, str | None], Corpus]] = {
    "libritts": _libritts,
    "vctk": _vctk,
    "common-voice": _common_voice,
}
