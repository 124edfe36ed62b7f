"""`duplexdata voices import`: a bank from a speech corpus, the best recordings of each speaker."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf
import soxr

from duplexdata.config import PromptLimits
from duplexdata.errors import ConfigError, SourceError
from duplexdata.rng import rng_for
from duplexdata.shards import put_in_place, temporary_name, write_text
from duplexdata.speech.base import Float32, Voice
from duplexdata.stages.work import Counts
from duplexdata.voices.bank import BankVoice, Fault
from duplexdata.voices.corpora import Clip, Corpus, CorpusSpeaker, read_corpus
from duplexdata.voices.deck import dealt, held_out
from duplexdata.voices.judge import Measured, judge, measure
from duplexdata.voices.load import FILE, bank_file_rows, read_prompt_file
from duplexdata.voices.rows import BadRow, parse_bank_row

_BEST_SEC = 6.0
"""In the middle of what CosyVoice clones well from, 3 to 10 s."""
_TRIES = 8
"""Recordings of a speaker that are read for each one wanted."""
_EDGE_SEC = 0.15
"""Silence kept at both ends."""
_LEVEL_DBFS, _MOST_PEAK = -26.0, 0.8
"""Of the prompts written: what a clone of them comes out at. Source: CosyVoice, issue 400."""
_MOST_RATE = 24_000
"""Hz; CosyVoice 2 and 3 work at it. Higher rates are brought down, lower ones left as they are."""
_ENOUGH_SNR_DB = 40.0
_EVERY = 100


@dataclass(frozen=True, slots=True)
class ImportSettings:
    """Attributes:
    limit: speakers at most, evenly over sex and accent; None: all.
    consent: None: what the corpus states.
    """

    per_speaker: int = 1
    limit: int | None = None
    test_fraction: float = 0.2
    seed: int = 0
    language: str | None = None
    consent: str | None = None
    limits: PromptLimits = field(default_factory=PromptLimits)

    def __post_init__(self) -> None:
        if not 0 < self.test_fraction < 1:
            raise ConfigError(f"--test-fraction is {self.test_fraction}, expected between 0 and 1")


@dataclass(frozen=True, slots=True)
class Imported:
    """Attributes:
    counts: of speakers.
    voices, train, test: recordings written, in all and by split.
    """

    counts: Counts
    voices: int
    train: int
    test: int


@dataclass(frozen=True, slots=True)
class _Chosen:
    clip: Clip
    samples: Float32
    rate: int
    measured: Measured


def import_corpus(
    name: str, folder: Path, out: Path, settings: ImportSettings, report: Callable[[str], None] = lambda line: None
) -> Imported:
    """Write a bank, or add to one: `voices.jsonl` last, so an interrupted import leaves the old bank as it was.

    The same corpus and settings give the same bytes.

    Raises: SourceError: the corpus cannot be read, or no speaker has a usable recording. ConfigError.
    """
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} is a file; name a folder for the bank")
    corpus = read_corpus(name, folder, settings.language)
    speakers = {f"{corpus.prefix}-{s.id}": s for s in corpus.speakers}
    dropped: Counter[str] = Counter()
    found: dict[str, list[_Chosen]] = {}

    def take(voice: BankVoice) -> bool:
        best = _best(speakers[voice.id], settings)
        if isinstance(best, Fault):
            dropped[best.reason] += 1
            return False
        found[voice.id] = best
        return True

    order = rng_for(settings.seed, corpus.prefix, "import")
    voices: list[BankVoice] = []
    rows: list[dict[str, str]] = []
    for voice in islice(dealt(_as_voices(speakers), ("sex", "accent"), order, take), settings.limit):
        voices.append(voice)
        rows += [_write(out, corpus, voice, i, c, settings) for i, c in enumerate(found.pop(voice.id))]
        if len(voices) % _EVERY == 0:
            report(f"{len(voices)} speakers")
    if not rows:
        reasons = ", ".join(f"{n} x {reason}" for reason, n in dropped.most_common())
        raise SourceError(f"{folder}: no speaker has a recording that can be cloned from ({reasons})")
    test = _test_speakers(corpus, voices, settings)
    for row in rows:
        row["split"] = "test" if row["speaker"] in test else "train"
    left = len(corpus.speakers) - len(voices) - dropped.total()
    dropped.update({"not_needed": left} if left else {})
    _write_rows(out, rows)
    splits = Counter(row["split"] for row in rows)
    counts = Counts("speakers", len(corpus.speakers), len(voices), dict(sorted(dropped.items())))
    return Imported(counts, len(rows), splits["train"], splits["test"])


def _as_voices(speakers: Mapping[str, CorpusSpeaker]) -> list[BankVoice]:
    """
    Args:
        speakers: by the id that they get in the bank.
    """
    found = []
    for id_, s in speakers.items():
        row = parse_bank_row(
            {"id": id_, "file": "x", "language": s.language, "sex": s.sex, "accent": s.accent}, f"speaker {s.id}"
        )
        if isinstance(row, BadRow):
            raise SourceError(f"{row.where}: {row.fault.detail}")
        found.append(BankVoice(Voice(id_, ""), id_, row.language, row.sex, row.accent))
    return found


def _test_speakers(corpus: Corpus, voices: list[BankVoice], settings: ImportSettings) -> frozenset[str]:
    """Those whom the corpus itself keeps for testing, where it does; else a share of those taken."""
    kept = {f"{corpus.prefix}-{s.id}" for s in corpus.speakers if s.held_out}
    own = frozenset(v.speaker for v in voices if v.speaker in kept)
    return own or held_out(voices, settings.test_fraction)


def _best(speaker: CorpusSpeaker, settings: ImportSettings) -> list[_Chosen] | Fault:
    """Up to `per_speaker` recordings, the best first; the commonest fault where none will do."""
    limits, faults = settings.limits, Counter[str]()
    clips = [(abs(seconds - _BEST_SEC), c) for c in speaker.clips() if (seconds := _seconds(c.path)) is not None]
    if not clips:
        return Fault("no_recordings", speaker.id)
    found: list[_Chosen] = []
    ranked = sorted(clips, key=lambda item: (item[0], item[1].path.name))
    for _, clip in ranked[: _TRIES * settings.per_speaker]:
        chosen = _prepared(clip, speaker.language, limits)
        if isinstance(chosen, Fault):
            faults[chosen.reason] += 1
        else:
            found.append(chosen)
    if not found:
        reason = min(faults, key=lambda r: (-faults[r], r))
        return Fault(reason, speaker.id)
    found.sort(key=lambda c: (-_score(c.measured), c.clip.path.name))
    return found[: settings.per_speaker]


def _score(m: Measured) -> float:
    """Quiet rooms first (up to where more does not matter), then lengths near the best; in decibels, about."""
    return min(m.snr_db, _ENOUGH_SNR_DB) - 3 * abs(m.seconds - _BEST_SEC)


def _seconds(path: Path) -> float | None:
    try:
        info = sf.info(path)
        return float(info.frames / info.samplerate)
    except (OSError, sf.LibsndfileError, RuntimeError):
        return None


def _prepared(clip: Clip, language: str, limits: PromptLimits) -> _Chosen | Fault:
    """The recording trimmed, resampled and levelled, if it was good before and is after."""
    if any(c.isdigit() for c in clip.transcript):
        return Fault("digits", clip.transcript)  # how they were read is not written
    sound = read_prompt_file(clip.path)
    if isinstance(sound, Fault):
        return sound
    samples, rate = sound
    before = measure(samples, rate, clip.transcript, language)
    if isinstance(before, Fault):
        return before
    # What is mended here does not count: its length, level, and longer silence.
    mended = {"too_long", "too_short", "too_quiet", "too_loud", "silence_at_start", "silence_at_end"}
    for fault in judge(before, limits):
        if fault.reason not in mended:
            return fault
    samples = _trimmed(samples, rate, before)
    if rate > _MOST_RATE:
        samples, rate = soxr.resample(samples, rate, _MOST_RATE, quality="HQ").astype(np.float32), _MOST_RATE
    samples = _levelled(samples, before.level_dbfs)
    after = measure(samples, rate, clip.transcript, language)
    if isinstance(after, Fault):
        return after
    faults = judge(after, limits)
    return faults[0] if faults else _Chosen(clip, samples, rate, after)


def _trimmed(samples: Float32, rate: int, m: Measured) -> Float32:
    first = max(0, round((m.lead_sec - _EDGE_SEC) * rate))
    last = len(samples) - max(0, round((m.tail_sec - _EDGE_SEC) * rate))
    return samples[first:last]


def _levelled(samples: Float32, level_dbfs: float) -> Float32:
    gain = 10 ** ((_LEVEL_DBFS - level_dbfs) / 20)
    gain = min(gain, _MOST_PEAK / float(np.abs(samples).max()))
    return samples * np.float32(gain)


def _write(
    out: Path, corpus: Corpus, voice: BankVoice, number: int, chosen: _Chosen, settings: ImportSettings
) -> dict[str, str]:
    """The sound file; returns its row."""
    id_ = voice.id if number == 0 else f"{voice.id}-{number + 1}"
    path = out / "recordings" / f"{id_}.wav"
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(path)
    sf.write(temporary, chosen.samples, chosen.rate, format="WAV", subtype="PCM_16")
    put_in_place(temporary, path)
    return {
        "id": id_,
        "file": f"recordings/{id_}.wav",
        "transcript": chosen.clip.transcript,
        "language": voice.language,
        "speaker": voice.speaker,
        "sex": voice.sex,
        "accent": voice.accent,
        "licence": corpus.licence,
        "consent": corpus.consent if settings.consent is None else settings.consent,
        "source": corpus.source,
    }


def _write_rows(out: Path, rows: list[dict[str, str]]) -> None:
    """The bank's own rows stay, but for those with an id that is new."""
    new = {row["id"] for row in rows}
    kept: list[dict[str, Any]] = []
    if (out / FILE).is_file():
        for number, old in bank_file_rows(out / FILE):
            if isinstance(old, Fault):
                raise ConfigError(f"{out / FILE}, row {number}: is no JSON object; mend or remove it first")
            if old.get("id") not in new:
                kept.append(dict(old))
    ordered = sorted([*kept, *rows], key=lambda row: str(row.get("id", "")))
    write_text(out / FILE, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ordered))
