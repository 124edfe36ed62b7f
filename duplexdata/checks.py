"""What must hold for a row of a dataset: value -> findings. Slow, plain formulas, written from the definitions.

Nothing here is used to make a dataset, and nothing that makes one is used here: the text channel is derived again
with fractions of seconds, the negative's timeline from the recorded gaps, the sound from an energy detector. A check
yields a `Finding` for whatever it does not find as it must be; it raises nothing for a well-typed row.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from duplexdata.config import LayoutConfig, Range, TimingConfig
from duplexdata.units import SAMPLE_RATE
from duplexdata.vad import FLOOR_DBFS, FRAME, frame_energy, speech_frames, stretches
from duplexdata.words import split_words

Int16 = npt.NDArray[np.int16]
Int32 = npt.NDArray[np.int32]
Span = tuple[int, int]

NEAR = SAMPLE_RATE * 80 // 1000
"""Samples by which measured sound may be off its record: 80 ms, one speech token."""
LEVEL_DB = 3.0
_LIMITED_PEAK = 0.95
"""From here on an utterance counts as kept down by its peak."""
_NEVER_LIMITED_DBFS = -20.0
"""Peaks of speech do not stand so far above its level that they would limit it here."""
_SILENT = 0
"""The embedded codec's token of a frame without sound."""
IGNORED = -100
_USER_KINDS = ("query", "interruption", "distractor", "backchannel")
_ASSISTANT_KINDS = ("reply", "resumption")
_OVERLAYS = ("distractor", "backchannel")
_INTERRUPTIONS = {
    "uninterrupted": (0, 0),
    "topic_interweaving": (0, 0),
    "generation_termination": (1, 1),
    "regeneration": (1, 1),
    "dialogue_reset": (4, 4),
    "back_on_topic": (1, 1),
}
_SOURCES = {
    # one in which nothing could be interrupted keeps the dialogues that it was meant to be made of
    "uninterrupted": (1, 5),
    "dialogue_reset": (5, 5),
    "topic_interweaving": (3, 5),
    "back_on_topic": (2, 2),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """`rule`: the key of what is broken; `detail`: where in the row, what was found and what was expected."""

    rule: str
    detail: str


class Word(NamedTuple):
    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Said:
    """An utterance with every column it has; times in samples."""

    channel: str
    kind: str
    text: str
    spoken_text: str
    start: int
    end: int
    cut: bool
    addressed: bool
    writer: str
    voice: str
    words: tuple[Word, ...]

    @property
    def is_user(self) -> bool:
        return self.channel == "user"


@dataclass(frozen=True, slots=True)
class Record:
    """A row of `conversations` without its sound; `length` in samples."""

    id: str
    source: str
    source_ids: tuple[str, ...]
    scenario: str
    language: str
    length: int
    utterances: tuple[Said, ...]
    user_voice: str
    assistant_voice: str
    provenance: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Late:
    """A negative of a row of `codes`; gaps and times in samples."""

    kind: str
    utterance: int
    positive: int
    negative: int
    start: int
    end: int
    assistant: Int32
    more: tuple[Int32, ...] = ()


@dataclass(frozen=True, slots=True)
class Tokens:
    """A row of `codes`.

    Attributes:
        user, assistant: of several codebooks the first.
        more: the others, of the user and of the assistant.
    """

    id: str
    frame_rate: float
    codebook_size: int
    codec: str
    user: Int32
    assistant: Int32
    negatives: tuple[Late, ...]
    more: tuple[tuple[Int32, ...], tuple[Int32, ...]] = ((), ())


@dataclass(frozen=True, slots=True)
class Text:
    """An utterance's text in tokens: ids, and the character at which each begins; int32, shape (n_tokens,)."""

    ids: Int32
    starts: Int32


@dataclass(frozen=True, slots=True)
class Ids:
    """Of the tokens that are not text, and the vocabulary's layout."""

    silence: int
    assistant: int
    pad: int
    epad: int
    query: int
    non_query: int
    eos: int
    speech_offset: int


@dataclass(frozen=True, slots=True)
class Settings:
    """What the manifest says that the rows were made with.

    Attributes:
        frame: samples per speech token.
        codec, codebook_size: of the speech tokenizer; None and 0 without sound.
        scheduled_for: N and M that the conversations were scheduled for; layouts may have others.
    """

    timing: TimingConfig
    layout: LayoutConfig
    level_dbfs: float
    frame: int
    codec: str | None
    codebook_size: int
    scheduled_for: tuple[int, int]
    ids: Ids
    n_codebooks: int = 1

    @property
    def silence_known(self) -> bool:
        """Whether the codec is the embedded one: a token depends on its own frame only, and 0 is silence."""
        return self.codec == "mel/1"

    @property
    def emitted_again(self) -> bool:
        """Whether the layouts have other blocks than the conversations were scheduled for."""
        return self.scheduled_for != (self.layout.n_speech, self.layout.n_text)

    @property
    def block(self) -> int:
        return self.layout.n_speech * self.frame


# -- the record


def samples_of(seconds: float) -> int:
    """The nearest sample. Raises ValueError or OverflowError for what is no number."""
    return round(seconds * SAMPLE_RATE)


def record_of(row: Mapping[str, Any]) -> Record:
    """From plain values. Raises KeyError, TypeError or ValueError where they are not what the schema says."""
    return Record(
        id=row["id"],
        source=row["source"],
        source_ids=tuple(row["source_ids"]),
        scenario=row["scenario"],
        language=row["language"],
        length=samples_of(row["duration"]),
        utterances=tuple(_said(u) for u in row["utterances"]),
        user_voice=row["user_voice"],
        assistant_voice=row["assistant_voice"],
        provenance=row["provenance"],
    )


def _said(raw: Mapping[str, Any]) -> Said:
    words = tuple(Word(w["text"], samples_of(w["start"]), samples_of(w["end"])) for w in raw["words"])
    return Said(
        raw["channel"],
        raw["kind"],
        raw["text"],
        raw["spoken_text"],
        samples_of(raw["start"]),
        samples_of(raw["end"]),
        raw["cut"],
        raw["addressed"],
        raw["writer"],
        raw["voice"],
        words,
    )


def check_record(record: Record, settings: Settings) -> Iterator[Finding]:
    """Everything that a record says of itself."""
    if not record.utterances:
        yield Finding("roles", "no utterances")
        return
    yield from _check_times(record, settings)
    yield from _check_roles(record)
    for i, u in enumerate(record.utterances):
        yield from _check_words(i, u)
    yield from _check_cuts(record, settings.timing)
    yield from _check_gaps(record, settings.timing)
    yield from _check_scenario(record)


def _check_times(record: Record, settings: Settings) -> Iterator[Finding]:
    utterances = record.utterances
    for i, u in enumerate(utterances):
        if not 0 <= u.start < u.end <= record.length:
            yield Finding("times", f"{_name(i, u)} from {_sec(u.start)} to {_sec(u.end)} of {_sec(record.length)}")
    for (i, u), (j, v) in pairwise(enumerate(utterances)):
        if v.start < u.start:
            yield Finding("start-order", f"{_name(j, v)} starts before {_name(i, u)}")
    for channel in ("user", "assistant"):
        on = sorted((u.start, u.end, i) for i, u in enumerate(utterances) if u.channel == channel)
        for (_, end, i), (start, _, j) in pairwise(on):
            if start < end:
                yield Finding(
                    "overlap",
                    f"utterances {i} and {j} overlap on the {channel}'s channel by {_sec(end - start)}",
                )
    block = settings.scheduled_for[0] * settings.frame
    if record.length % block or record.length < 2 * block:
        yield Finding("blocks", f"{record.length} samples, expected two or more blocks of {block}")


def _check_roles(record: Record) -> Iterator[Finding]:
    for i, u in enumerate(record.utterances):
        kinds = {"user": _USER_KINDS, "assistant": _ASSISTANT_KINDS}.get(u.channel, ())
        if u.kind not in kinds:
            yield Finding("roles", f"utterance {i}: a {u.kind!r} on the channel {u.channel!r}")
        if u.addressed != (u.kind not in _OVERLAYS):
            yield Finding("roles", f"{_name(i, u)}: addressed is {u.addressed}")
        if u.cut and u.is_user:
            yield Finding("roles", f"{_name(i, u)}: the user is cut")
        if not u.text.strip():
            yield Finding("roles", f"{_name(i, u)}: without text")
        yield from _check_voice(i, u, record)


def _check_voice(i: int, u: Said, record: Record) -> Iterator[Finding]:
    if u.kind == "distractor":
        # The user may be heard saying something that is for somebody else.
        if u.voice == record.assistant_voice:
            yield Finding("voice", f"{_name(i, u)}: speaks with the assistant's voice {u.voice}")
        return
    expected = record.user_voice if u.is_user else record.assistant_voice
    if u.voice != expected:
        yield Finding("voice", f"{_name(i, u)}: speaks with {u.voice}, expected {expected}")


def _check_words(i: int, u: Said) -> Iterator[Finding]:
    spans = split_words(u.text)
    if not u.text.startswith(u.spoken_text):
        yield Finding("spoken-text", f"{_name(i, u)}: spoken_text is no beginning of text")
    elif not u.cut and u.spoken_text != u.text:
        yield Finding("spoken-text", f"{_name(i, u)}: was not cut, but spoken_text is shorter than text")
    if not u.words:
        return
    begun = len(u.words)
    if begun > len(spans) or (not u.cut and begun != len(spans)):
        yield Finding("words", f"{_name(i, u)}: {begun} word times for {len(spans)} words")
        return
    if u.cut and u.spoken_text != u.text[: spans[begun - 1].end]:
        yield Finding("spoken-text", f"{_name(i, u)}: spoken_text is not the {begun} words begun")
    for k, (w, (a, b)) in enumerate(zip(u.words, spans, strict=False)):
        if w.text != u.text[a:b]:
            yield Finding("words", f"{_name(i, u)}: word {k} is {w.text!r}, expected {u.text[a:b]!r}")
            break
    for k, w in enumerate(u.words):
        if not u.start <= w.start <= w.end <= u.end or (u.cut and w.start >= u.end):
            yield Finding("words", f"{_name(i, u)}: word {k} from {_sec(w.start)} to {_sec(w.end)} is not inside it")
            break
    for k, (v, w) in enumerate(pairwise(u.words)):
        if w.start < v.start or w.end < v.end:
            yield Finding("words", f"{_name(i, u)}: word {k + 1} comes before word {k}")
            break


def cutter_of(record: Record, reply: int) -> int | None:
    """The interruption that starts strictly inside the assistant's utterance number `reply`."""
    u = record.utterances[reply]
    for i, v in enumerate(record.utterances):
        if v.kind == "interruption" and u.start < v.start < u.end:
            return i
    return None


def _check_cuts(record: Record, timing: TimingConfig) -> Iterator[Finding]:
    cutting: Counter[int] = Counter()
    for i, u in enumerate(record.utterances):
        if u.is_user:
            continue
        cutter = cutter_of(record, i)
        if cutter is not None:
            cutting[cutter] += 1
        if u.cut != (cutter is not None):
            what = "was cut, but no interruption starts in it" if u.cut else "goes on although it is interrupted"
            yield Finding("cut", f"{_name(i, u)}: {what}")
        elif cutter is not None:
            delay = u.end - record.utterances[cutter].start
            yield from _within("reaction-delay", f"{_name(i, u)}: reaction delay", delay, timing.reaction_delay_sec)
    for i, u in enumerate(record.utterances):
        if u.kind == "interruption" and cutting[i] != 1:
            yield Finding("cut", f"{_name(i, u)}: starts inside {cutting[i]} utterances of the assistant, expected 1")


def quiet_before(record: Record, i: int) -> int | None:
    """Since when both channels have been silent when utterance `i` starts; overlays are as if not there."""
    at = record.utterances[i].start
    ends = [u.end for k, u in enumerate(record.utterances) if u.addressed and k != i and (u.start, k) < (at, i)]
    return max(ends, default=None)


def _check_gaps(record: Record, timing: TimingConfig) -> Iterator[Finding]:
    """Overlays must not have moved anything: gaps are measured as if they were not there."""
    for i, u in enumerate(record.utterances):
        if u.kind == "backchannel" and not any(v.start <= u.start < v.end for v in record.utterances if not v.is_user):
            yield Finding("overlay", f"{_name(i, u)}: not during anything that the assistant says")
        if not u.addressed or u.kind == "interruption":
            continue
        quiet = quiet_before(record, i)
        if quiet is None:
            if u.kind != "query":
                yield Finding("roles", f"{_name(i, u)}: the first that is said, expected a query")
            yield from _within("lead-in", f"{_name(i, u)}: lead-in", u.start, timing.lead_in_sec)
        elif u.is_user:
            yield from _within("next-turn-gap", f"{_name(i, u)}: gap", u.start - quiet, timing.next_turn_gap_sec)
        elif abs(u.start - quiet - samples_of(timing.reply_gap_sec)) > 1:
            yield Finding("reply-gap", f"{_name(i, u)}: gap {_sec(u.start - quiet)}, expected {timing.reply_gap_sec} s")


def _within(rule: str, what: str, samples: int, bounds: Range) -> Iterator[Finding]:
    if not samples_of(bounds[0]) - 1 <= samples <= samples_of(bounds[1]) + 1:
        yield Finding(rule, f"{what} {_sec(samples)}, expected {bounds[0]} to {bounds[1]} s")


def _check_scenario(record: Record) -> Iterator[Finding]:
    turns = [u for u in record.utterances if u.addressed]
    kinds = Counter(u.kind for u in turns)
    if record.scenario not in _INTERRUPTIONS:
        yield Finding("scenario", f"{record.scenario!r} is none")
        return
    expected = {
        "interruptions": (kinds["interruption"], _INTERRUPTIONS[record.scenario]),
        "resumptions": (kinds["resumption"], (1, 1) if record.scenario == "back_on_topic" else (0, 0)),
        "source dialogues": (len(record.source_ids), _SOURCES.get(record.scenario, (1, 1))),
    }
    for what, (found, (low, high)) in expected.items():
        if not low <= found <= high:
            yield Finding("scenario", f"{record.scenario} with {found} {what}, expected {low} to {high}")
    for u, v in pairwise(turns):
        if u.is_user and v.is_user:
            yield Finding("scenario", f"the {u.kind} at {_sec(u.start)} is not answered")
    if turns[-1].is_user != (record.scenario == "generation_termination"):
        yield Finding("scenario", f"{record.scenario} ends with the {turns[-1].channel}")
    yield from _check_resumption(record)


def _check_resumption(record: Record) -> Iterator[Finding]:
    """A resumption says at least what its reply had left to say."""
    for i, u in enumerate(record.utterances):
        cut = [v for v in record.utterances[:i] if v.cut]
        if u.kind == "resumption" and cut:
            left = _dense(cut[-1].text[len(cut[-1].spoken_text) :])
            if not _dense(u.text).endswith(left):
                yield Finding("resumption", f"{_name(i, u)}: does not end with what was left of the reply")


# -- the sound


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
        yield Finding(rule, f"the {channel}'s channel sounds from {_sec(start)} to {_sec(end)}, where nothing is said")
        break
    for i, u in on:
        yield from _check_utterance_sound(_name(i, u), u, active, sound, level, settings)


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
        yield Finding("onset", f"{name}: not heard from {_sec(u.start)} to {_sec(u.end)}")
        return
    onset, end = int(heard[0]) * FRAME, (int(heard[-1]) + 1) * FRAME
    if onset > u.start + NEAR:
        yield Finding("onset", f"{name}: heard from {_sec(onset)} on, expected {_sec(u.start)}")
    if end < _sounds_until(u) - NEAR:
        yield Finding("offset", f"{name}: heard until {_sec(end)}, expected {_sec(_sounds_until(u))}")
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


# -- the speech tokens


def check_codes(record: Record, codes: Tokens, settings: Settings) -> Iterator[Finding]:
    """Lengths, ranges and the negative; see `check_encoding` for the tokens themselves."""
    frames = record.length // settings.frame
    facts = (codes.codec, codes.frame_rate, codes.codebook_size)
    expected = (settings.codec, SAMPLE_RATE / settings.frame, settings.codebook_size)
    if facts != expected:
        yield Finding("codes-clock", f"codec, frame rate and codebook {facts}, expected {expected}")
    lists = {"user": (codes.user, *codes.more[0]), "assistant": (codes.assistant, *codes.more[1])}
    lists |= {f"negative {i}": (n.assistant, *n.more) for i, n in enumerate(codes.negatives)}
    for name, books in lists.items():
        if len(books) != settings.n_codebooks:
            yield Finding("codes-shape", f"{name}: {len(books)} codebooks, expected {settings.n_codebooks}")
        for tokens in books:
            if len(tokens) != frames:
                yield Finding("codes-shape", f"{name}: {len(tokens)} tokens, expected {frames}")
            if len(tokens) and int(tokens.max()) >= codes.codebook_size:
                yield Finding(
                    "codes-shape", f"{name}: token {int(tokens.max())} of a codebook of {codes.codebook_size}"
                )
    if len(codes.negatives) != 1:
        yield Finding("negative", f"{len(codes.negatives)} negatives, expected 1")
    for late in codes.negatives:
        yield from _check_negative(record, codes, late, settings)


def check_encoding(codes: Tokens, user: Int32, assistant: Int32) -> Iterator[Finding]:
    """The stored tokens against the ones that the sound gives."""
    for name, found, expected in (("user", codes.user, user), ("assistant", codes.assistant, assistant)):
        if len(found) == len(expected) and (at := _first_difference(found, expected)) is not None:
            yield Finding("codes-audio", f"{name}: token {at} is {int(found[at])}, its sound gives {int(expected[at])}")


def late_spans(record: Record, late: Late, timing: TimingConfig) -> list[Span]:
    """When each utterance sounds in a negative, from the two gaps that it records.

    A late reply takes along what the assistant says behind it before the user's next turn. Behind a late stop, the
    next reply waits for the usual gap.
    """
    utterances = record.utterances
    spans = [(u.start, u.end) for u in utterances]
    by = late.negative - late.positive
    moved = utterances[late.utterance]
    after = moved.start
    first = late.utterance
    if late.kind == "interruption":
        cutter = cutter_of(record, late.utterance)
        after = utterances[cutter].start if cutter is not None else moved.start
        spans[late.utterance] = (moved.start, moved.end + by)
    turns = [u.start for u in utterances if u.is_user and u.addressed and u.start > after]
    until = min(turns, default=record.length + 1)
    run = [i for i, u in enumerate(utterances) if not u.is_user and after <= u.start < until]
    if late.kind == "interruption":
        run = [i for i in run if i != late.utterance]
        if not run:
            return spans
        first = run[0]
        earliest = moved.end + by + samples_of(timing.reply_gap_sec)
        by = max(0, earliest - utterances[first].start)
    for i in run:
        spans[i] = (utterances[i].start + by, utterances[i].end + by)
    return spans


def _check_negative(record: Record, codes: Tokens, late: Late, settings: Settings) -> Iterator[Finding]:
    utterances, timing = record.utterances, settings.timing
    if late.kind not in ("turn_taking", "interruption"):
        yield Finding("negative", f"kind {late.kind!r}")
        return
    if not 0 <= late.utterance < len(utterances) or utterances[late.utterance].is_user:
        yield Finding("negative", f"utterance {late.utterance} is none of the assistant's")
        return
    name = _name(late.utterance, utterances[late.utterance])
    recorded = recorded_gap(record, late)
    if recorded is None:
        yield Finding("negative", f"{name} can have no negative of the kind {late.kind}")
        return
    if abs(recorded - late.positive) > 1:
        yield Finding("negative", f"{name}: positive_sec is {_sec(late.positive)}, the record has {_sec(recorded)}")
    turn = late.kind == "turn_taking"
    bounds = timing.late_gap_sec if turn else timing.late_delay_sec
    yield from _within("negative", f"{name}: negative_sec", late.negative, bounds)
    spans = late_spans(record, late, timing)
    if max(abs(late.start - spans[late.utterance][0]), abs(late.end - spans[late.utterance][1])) > 1:
        a, b = spans[late.utterance]
        yield Finding(
            "negative",
            f"{name}: from {_sec(late.start)} to {_sec(late.end)} in its negative, expected {_sec(a)} to {_sec(b)}",
        )
    yield from _check_late_timeline(record, late, spans, name)
    if settings.silence_known and len(late.assistant) == len(codes.assistant) == record.length // settings.frame:
        yield from _check_late_tokens(record, codes, late, spans, settings)


def recorded_gap(record: Record, late: Late) -> int | None:
    """The gap or delay that the positive has at the negative's utterance; None where it has none."""
    u = record.utterances[late.utterance]
    if late.kind == "interruption":
        cutter = cutter_of(record, late.utterance)
        return None if cutter is None or not u.cut else u.end - record.utterances[cutter].start
    quiet = quiet_before(record, late.utterance)
    return None if quiet is None or u.cut else u.start - quiet


def _check_late_timeline(record: Record, late: Late, spans: Sequence[Span], name: str) -> Iterator[Finding]:
    """The user is left alone: what moved ends before the user's next turn; nothing runs into anything."""
    own = sorted(s for u, s in zip(record.utterances, spans, strict=True) if not u.is_user)
    for (_, end), (start, _) in pairwise(own):
        if start < end:
            yield Finding("negative", f"{name}: in its negative the assistant talks over itself at {_sec(start)}")
    for i, (u, (_, end)) in enumerate(zip(record.utterances, spans, strict=True)):
        if end > record.length:
            yield Finding("negative", f"{_name(i, u)}: ends behind the conversation in the negative")
        if u.is_user or end == u.end or u.cut:
            continue
        turns = [v.start for v in record.utterances if v.is_user and v.addressed and v.start > u.start]
        if turns and end >= min(turns):
            yield Finding("negative", f"{_name(i, u)}: in the negative it runs into the user's next turn")


def _check_late_tokens(
    record: Record, codes: Tokens, late: Late, spans: Sequence[Span], settings: Settings
) -> Iterator[Finding]:
    """Same tokens where nothing moved, silence where nobody speaks, speech where the moved utterances are."""
    frame, n = settings.frame, len(late.assistant)
    changed, speaking = np.zeros(n, bool), np.zeros(n, bool)
    fade = samples_of(settings.timing.fade_sec)
    moved = []
    for u, (start, end) in zip(record.utterances, spans, strict=True):
        if u.is_user:
            continue
        speaking[start // frame : -(-end // frame)] = True
        if (start, end) == (u.start, u.end):
            continue
        moved.append((u, start, end))
        if start == u.start:
            changed[(u.end - fade) // frame : -(-end // frame)] = True
        else:
            changed[u.start // frame : -(-u.end // frame)] = True
            changed[start // frame : -(-end // frame)] = True
    other = np.flatnonzero((late.assistant != codes.assistant) & ~changed)
    if len(other):
        yield Finding("negative-tokens", f"token {other[0]} differs from the positive's, where nothing has moved")
    loud = np.flatnonzero((late.assistant != _SILENT) & ~speaking)
    if len(loud):
        yield Finding("negative-tokens", f"token {loud[0]} sounds, where the negative's timeline has silence")
    for u, start, end in moved:
        yield from _check_moved(u, start, end, codes, late, frame)


def _check_moved(u: Said, start: int, end: int, codes: Tokens, late: Late, frame: int) -> Iterator[Finding]:
    heard = np.flatnonzero(late.assistant[start // frame : -(-end // frame)] != _SILENT) + start // frame
    if not len(heard):
        yield Finding("negative-tokens", f"no sound from {_sec(start)} to {_sec(end)} in the negative")
        return
    if heard[0] > start // frame + 1:
        yield Finding("negative-tokens", f"sounds from token {heard[0]} on, expected {start // frame}")
    last = -(-end // frame) - 1
    if start != u.start:
        before = np.count_nonzero(codes.assistant[u.start // frame : -(-u.end // frame)])
        if abs(len(heard) - before) > 2 + before // 10:
            yield Finding(
                "negative-tokens",
                f"{len(heard)} tokens of the late reply sound, {before} did in the positive",
            )
        # a moved reply that was cut itself may end in a pause
        last = last if not u.cut else last - _LONGEST_PAUSE // frame
    else:
        last -= _LONGEST_PAUSE // frame  # the late stop may fall between two sentences
    if heard[-1] < last - 1:
        yield Finding("negative-tokens", f"sounds until token {heard[-1]}, expected {last}")


_LONGEST_PAUSE = SAMPLE_RATE
"""Silence between two sentences of one utterance, at most."""


# -- the text channel, from its definition


class Slots(NamedTuple):
    """Of one assistant utterance in the text channel."""

    assistant: int
    epad: int


@dataclass(frozen=True, slots=True)
class TextChannel:
    """Attributes:
    z: ids, shape (B * M,); empty where it cannot be laid out.
    kept: text tokens of each assistant utterance, by index.
    problem: why it cannot be laid out: "text_overflow", "no_room" or "collision".
    """

    z: Int32
    kept: Mapping[int, int]
    problem: str | None = None


def slots_of(start: int, end: int, heard: int, settings: Settings) -> Slots:
    """The slots of [ASSISTANT] and [EPAD].

    j_ast = floor(floor((s - dt) f) M / N) - 1, moved up to the first slot of the first block that has heard the
    user's end where the reply is not anticipatory; j_epad = ceil(ceil((e - dt) f) M / N). In exact fractions.
    """
    n, m = settings.layout.n_speech, settings.layout.n_text
    f = Fraction(SAMPLE_RATE, settings.frame)
    dt = Fraction(n) / f
    s, e, t = (Fraction(x, SAMPLE_RATE) for x in (start, end, heard))
    first = math.floor(Fraction(math.floor((s - dt) * f) * m, n)) - 1
    behind = math.ceil(Fraction(math.ceil((e - dt) * f) * m, n))
    if settings.layout.causality == "causal":
        block = math.ceil(t / dt) - 1
        if s >= (block + 1) * dt:
            first = max(first, block * m)
    return Slots(first, behind)


def heard_until(record: Record, i: int) -> int:
    """End of the user's turn that the assistant's utterance `i` comes after; 0 if there is none."""
    turns = [u for u in record.utterances if u.is_user and u.addressed and u.start < record.utterances[i].start]
    return turns[-1].end if turns else 0


def text_channel(
    record: Record,
    spans: Sequence[Span],
    tokens: Sequence[Text],
    blocks: int,
    settings: Settings,
    kept: Mapping[int, int] | None = None,
) -> TextChannel:
    """The text channel of the utterances at the times `spans`.

    Args:
        kept: text tokens that each utterance has, where another timeline has decided that.
    """
    ids = settings.ids
    z = [ids.silence] * (blocks * settings.layout.n_text)
    used: dict[int, int] = {}
    none = np.zeros(0, np.int32)
    if blocks < 1 or max((end for _, end in spans), default=0) > (blocks + 1) * settings.block:
        return TextChannel(none, used, "no_room")
    last = -1
    for i, (u, (start, end)) in enumerate(zip(record.utterances, spans, strict=True)):
        if u.is_user:
            continue
        first, behind = slots_of(start, end, heard_until(record, i), settings)
        if behind >= len(z):
            return TextChannel(none, used, "no_room")
        if first <= last or behind <= first:
            return TextChannel(none, used, "collision")
        words = tokens[i].ids.tolist()
        space = range(first + 1, behind)
        if kept is not None:
            words = words[: kept.get(i, 0)]
        elif u.cut:
            words = words[: len(space)]
        if len(words) > len(space):
            return TextChannel(none, used, "text_overflow")
        z[first] = ids.assistant
        for slot in space:
            z[slot] = ids.pad
        for slot, word in zip(space, words, strict=False):
            z[slot] = word
        z[behind] = ids.epad
        used[i], last = len(words), behind
    return TextChannel(np.array(z, np.int32), used)


def start_tolerance(settings: Settings) -> Fraction:
    """Slots by which a decoder may take a reply to start too early: two, and a little where M does not divide N."""
    n, m = settings.layout.n_speech, settings.layout.n_text
    return 2 + Fraction(m - math.gcd(n, m), n)


# -- interleaved rows


@dataclass(frozen=True, slots=True)
class Interleaved:
    """A row of `sft`, or one half of a row of `dpo`."""

    input_ids: Int32
    labels: Int32
    n_blocks: int
    n_speech: int
    n_text: int

    def parts(self) -> tuple[Int32, Int32, Int32]:
        """User tokens, text channel, assistant tokens, as they stand; shapes (B N,), (B M,), (B N,)."""
        n, m = self.n_speech, self.n_text
        grid = self.input_ids.reshape(self.n_blocks, 2 * n + m)
        return grid[:, :n].ravel(), grid[:, n : n + m].ravel(), grid[:, n + m :].ravel()


Decode = Callable[[Sequence[int]], str]


def check_shape(rule: str, row: Interleaved, frames: int, settings: Settings) -> Iterator[Finding]:
    """Lengths; whatever else is checked of a row needs them right."""
    n, m, blocks = row.n_speech, row.n_text, row.n_blocks
    if (n, m) != (settings.layout.n_speech, settings.layout.n_text):
        yield Finding(rule, f"N, M = {n}, {m}, expected {settings.layout.n_speech}, {settings.layout.n_text}")
    elif blocks != frames // n - 1 or blocks < 1:
        yield Finding(rule, f"{blocks} blocks, expected {frames // n - 1} of {frames} frames")
    elif not len(row.input_ids) == len(row.labels) == blocks * (2 * n + m):
        found = (len(row.input_ids), len(row.labels))
        yield Finding(rule, f"{found} ids and labels, expected {blocks * (2 * n + m)} for {blocks} blocks")


def check_labels(rule: str, row: Interleaved) -> Iterator[Finding]:
    """-100 on the user's tokens, the token itself elsewhere."""
    shape = (row.n_blocks, 2 * row.n_speech + row.n_text)
    labels, ids = row.labels.reshape(shape), row.input_ids.reshape(shape)
    expected = np.concatenate([np.full_like(ids[:, : row.n_speech], IGNORED), ids[:, row.n_speech :]], axis=1)
    if (at := _first_difference(labels.ravel(), expected.ravel())) is not None:
        yield Finding(rule, f"label {at} is {int(labels.ravel()[at])}, expected {int(expected.ravel()[at])}")


def check_speech(rule: str, name: str, found: Int32, codes: Int32, settings: Settings) -> Iterator[Finding]:
    """A row's speech tokens against those of `codes`."""
    expected = codes + settings.ids.speech_offset
    if (at := _first_difference(found, expected)) is not None:
        yield Finding(rule, f"{name}: speech token {at} is {int(found[at])}, expected {int(expected[at])}")


def check_sft(
    record: Record,
    row: Interleaved,
    codes: Tokens,
    tokens: Sequence[Text],
    plan: TextChannel,
    settings: Settings,
    decode: Decode,
) -> Iterator[Finding]:
    """Args:
    plan: the text channel as the record gives it.
    """
    shape = list(check_shape("sft-shape", row, len(codes.user), settings))
    if shape:
        yield from shape
        return
    user, z, assistant = row.parts()
    yield from check_speech("sft-user", "user", user, codes.user[: len(user)], settings)
    n = row.n_speech
    yield from check_speech("sft-assistant", "assistant", assistant, codes.assistant[n : n + len(assistant)], settings)
    yield from check_labels("sft-labels", row)
    yield from check_text("sft-text", z, plan)
    yield from check_states("sft-states", record, z, settings)
    found = parse_text(z, settings)
    spoken = [(i, u) for i, u in enumerate(record.utterances) if not u.is_user]
    if len(found) == len(spoken):
        for (i, u), (slots, words) in zip(spoken, found, strict=True):
            yield from _check_written(_name(i, u), u, words, decode)
            yield from _check_start(_name(i, u), u, slots, settings)
            yield from _check_causality(_name(i, u), u, heard_until(record, i), slots, settings)


def check_text(rule: str, z: Int32, plan: TextChannel) -> Iterator[Finding]:
    if plan.problem is not None:
        yield Finding(rule, f"there is a row, but its text cannot be laid out ({plan.problem})")
    elif len(z) != len(plan.z):
        yield Finding(rule, f"{len(z)} text slots, expected {len(plan.z)}")
    elif (at := _first_difference(z, plan.z)) is not None:
        yield Finding(rule, f"slot {at} holds {int(z[at])}, expected {int(plan.z[at])}")


def check_states(rule: str, record: Record, z: Int32, settings: Settings) -> Iterator[Finding]:
    spoken = sum(not u.is_user for u in record.utterances)
    starts = int(np.count_nonzero(z == settings.ids.assistant))
    ends = int(np.count_nonzero(z == settings.ids.epad))
    if not starts == ends == spoken:
        yield Finding(rule, f"{starts} [ASSISTANT] and {ends} [EPAD] for {spoken} utterances of the assistant")


def parse_text(z: Int32, settings: Settings) -> list[tuple[Slots, list[int]]]:
    """The text channel read back: slots and text tokens of each utterance; [] where it cannot be read."""
    ids = settings.ids
    starts, ends = np.flatnonzero(z == ids.assistant).tolist(), np.flatnonzero(z == ids.epad).tolist()
    if len(starts) != len(ends) or any(a >= b for a, b in zip(starts, ends, strict=True)):
        return []
    return [
        (Slots(a, b), [w for w in z[a + 1 : b].tolist() if w != ids.pad]) for a, b in zip(starts, ends, strict=True)
    ]


def _check_written(name: str, u: Said, words: Sequence[int], decode: Decode) -> Iterator[Finding]:
    written = _dense(decode(words))
    # The last token of a cut text may be part of a character.
    if (written.rstrip("\ufffd") != "" and not _dense(u.text).startswith(written.rstrip("\ufffd"))) or (
        not u.cut and written != _dense(u.text)
    ):
        yield Finding("sft-decoded", f"{name}: the text channel says {decode(words)!r}, expected {u.text!r}")


def _slot_time(slot: int, settings: Settings) -> Fraction:
    """Seconds that a slot stands for."""
    n, m = settings.layout.n_speech, settings.layout.n_text
    return (Fraction(slot * n, m) + n) * Fraction(settings.frame, SAMPLE_RATE)


def _slot_seconds(settings: Settings) -> Fraction:
    return Fraction(settings.block, settings.layout.n_text * SAMPLE_RATE)


def _check_start(name: str, u: Said, slots: Slots, settings: Settings) -> Iterator[Finding]:
    read = _slot_time(slots.assistant, settings)
    if not -start_tolerance(settings) * _slot_seconds(settings) < read - Fraction(u.start, SAMPLE_RATE) <= 0:
        yield Finding("sft-start", f"{name}: read back at {float(read):.3f} s, it starts at {_sec(u.start)}")


def _check_causality(name: str, u: Said, heard: int, slots: Slots, settings: Settings) -> Iterator[Finding]:
    if settings.layout.causality != "causal":
        return
    block = slots.assistant // settings.layout.n_text
    needed = -(-heard // settings.block) - 1
    if block < needed and u.start >= (needed + 1) * settings.block:
        yield Finding(
            "causality", f"{name}: decided in block {block}, which ends before the user does at {_sec(heard)}"
        )


# -- preference pairs


@dataclass(frozen=True, slots=True)
class Pair:
    """A row of `dpo`; gaps in samples."""

    kind: str
    chosen: Interleaved
    rejected: Interleaved
    positive: int
    negative: int


def check_pair(
    record: Record,
    pair: Pair,
    sft: Interleaved | None,
    codes: Tokens,
    tokens: Sequence[Text],
    plan: TextChannel,
    settings: Settings,
) -> Iterator[Finding]:
    """Args:
    sft: the conversation's SFT row, where the dataset has one.
    plan: the positive's text channel.
    """
    shape = [f for r in (pair.chosen, pair.rejected) for f in check_shape("dpo-shape", r, len(codes.user), settings)]
    if shape:
        yield from shape
        return
    for row in (pair.chosen, pair.rejected):
        yield from check_labels("dpo-labels", row)
    if sft is not None and not (
        np.array_equal(pair.chosen.input_ids, sft.input_ids) and np.array_equal(pair.chosen.labels, sft.labels)
    ):
        yield Finding("dpo-chosen", "the chosen row is not the conversation's SFT row")
    user, z, _ = pair.chosen.parts()
    late_user, late_z, late_assistant = pair.rejected.parts()
    if (at := _first_difference(user, late_user)) is not None:
        yield Finding("dpo-user", f"user token {at} differs between chosen and rejected")
    found, late_found = parse_text(z, settings), parse_text(late_z, settings)
    if not found or [w for _, w in found] != [w for _, w in late_found]:
        yield Finding("dpo-text", "the text tokens of chosen and rejected differ")
    if not codes.negatives or not 0 <= codes.negatives[0].utterance < len(record.utterances):
        return
    late = codes.negatives[0]
    if (pair.kind, pair.positive, pair.negative) != (late.kind, late.positive, late.negative):
        yield Finding("dpo-record", "kind, positive_sec or negative_sec is not that of the codes")
    n = pair.rejected.n_speech
    expected = late.assistant[n : n + len(late_assistant)]
    if len(expected) == len(late_assistant):
        yield from check_speech("dpo-assistant", "rejected", late_assistant, expected, settings)
    spans = late_spans(record, late, settings.timing)
    late_plan = text_channel(record, spans, tokens, pair.rejected.n_blocks, settings, plan.kept)
    yield from check_text("dpo-text", late_z, late_plan)
    yield from _check_pair_timing(record, pair, late, found, late_found, settings)


def _check_pair_timing(
    record: Record,
    pair: Pair,
    late: Late,
    found: Sequence[tuple[Slots, list[int]]],
    late_found: Sequence[tuple[Slots, list[int]]],
    settings: Settings,
) -> Iterator[Finding]:
    """The gap or delay read back from the text channels is the one that the pair records."""
    spoken = [i for i, u in enumerate(record.utterances) if not u.is_user]
    if late.utterance not in spoken or not len(found) == len(late_found) == len(spoken):
        return
    k = spoken.index(late.utterance)
    slot = _slot_seconds(settings)
    for name, (slots, _), gap in (
        ("chosen", found[k], pair.positive),
        ("rejected", late_found[k], pair.negative),
    ):
        if pair.kind == "turn_taking":
            since = quiet_before(record, late.utterance)
            read, low, high = (
                _slot_time(slots.assistant, settings),
                -start_tolerance(settings) * slot,
                Fraction(0),
            )
        else:
            cutter = cutter_of(record, late.utterance)
            since = None if cutter is None else record.utterances[cutter].start
            read, low, high = (
                _slot_time(slots.epad, settings),
                Fraction(-1, SAMPLE_RATE),
                slot + Fraction(settings.frame, SAMPLE_RATE),
            )
        if since is None:
            continue
        error = read - Fraction(since + gap, SAMPLE_RATE)
        if not low < error <= high:
            yield Finding(
                "dpo-timing",
                f"{name}: the text channel has {float(read - Fraction(since, SAMPLE_RATE)):.3f} s of "
                f"{pair.kind.replace('_', '-')}, recorded are {_sec(gap)}",
            )


# -- time slices

IDLE, EOS = "<idle>", "<eos>"


def check_tdm(
    record: Record, messages: Sequence[tuple[str, str]], tokens: Sequence[Text], settings: Settings
) -> Iterator[Finding]:
    """Args:
    messages: (role, content).
    """
    if len(messages) % 2 or any(r != ("assistant" if i % 2 else "user") for i, (r, _) in enumerate(messages)):
        yield Finding("tdm-turns", "messages do not alternate user, assistant")
        return
    user, assistant = [c for _, c in messages[::2]], [c for _, c in messages[1::2]]
    conserved = True
    for channel, slices in (("user", user), ("assistant", assistant)):
        found = _dense("".join(c for c in slices if c != IDLE))
        spoken = [u for u in record.utterances if u.channel == channel]
        expected = "".join(_dense(u.spoken_text) + _closing(u) for u in spoken)
        if found == expected:
            continue
        conserved = False
        if found.replace(EOS, "") == expected.replace(EOS, ""):
            yield Finding("tdm-eos", f"{EOS} does not stand behind just the replies that were not cut")
        else:
            yield Finding("tdm-words", f"the {channel}'s slices are not the words of its utterances")
    if not conserved:
        return
    if settings.layout.tdm_slicing == "clock":
        yield from _check_clock_slices(record, user, assistant, settings)
    else:
        yield from _check_counted_slices(record, user, assistant, tokens, settings)


def _closing(u: Said) -> str:
    return EOS if not u.is_user and not u.cut else ""


def _check_clock_slices(
    record: Record, user: Sequence[str], assistant: Sequence[str], settings: Settings
) -> Iterator[Finding]:
    """A word is in the slice in which it begins."""
    length = samples_of(settings.layout.tdm_slice_sec)
    n = -(-record.length // length)
    if len(user) != n:
        yield Finding("tdm-slices", f"{len(user)} slices of {settings.layout.tdm_slice_sec} s, expected {n}")
        return
    for channel, slices in (("user", user), ("assistant", assistant)):
        expected = [""] * n
        texts: list[list[str]] = [[] for _ in range(n)]
        for u in record.utterances:
            if u.channel != channel:
                continue
            if not u.words:
                return  # where nothing knows the words' times, any slice is as good
            for w in u.words:
                k = min(n - 1, w.start // length)
                expected[k] += _dense(w.text)
                texts[k].append(w.text)
            expected[min(n - 1, u.words[-1].start // length)] += _closing(u)
        for k, (found, dense) in enumerate(zip(slices, expected, strict=True)):
            if _dense(found.replace(IDLE, "")) != dense:
                yield Finding("tdm-slices", f"the {channel}'s slice {k} is {found!r}, its words are {dense!r}")
                return
            if not _keeps_spaces(found.replace(EOS, " "), texts[k]):
                yield Finding("tdm-words", f"the {channel}'s slice {k}, {found!r}, runs two words together")
                return


def _keeps_spaces(text: str, words: Sequence[str]) -> bool:
    """Whether the words that a space sets apart everywhere are apart in `text`."""
    alone = [w for w in words if w.isascii()]
    return [w for w in text.split() if w.isascii() and w != IDLE] == " ".join(alone).split() or not all(
        w.isascii() for w in words
    )


def _check_counted_slices(
    record: Record,
    user: Sequence[str],
    assistant: Sequence[str],
    tokens: Sequence[Text],
    settings: Settings,
) -> Iterator[Finding]:
    """Slices of so many words and tokens; the assistant waits until the user's last slice."""
    low, high = settings.layout.tdm_user_words
    at = [k for k, c in enumerate(user) if c != IDLE]
    slices = iter(at)
    ends: dict[int, list[int]] = {}  # by utterance: its ticks
    for i, u in enumerate(record.utterances):
        if not u.is_user:
            continue
        spans, done = split_words(u.text), 0
        ends[i] = []
        while done < len(spans):
            tick = next(slices, None)
            if tick is None:
                return
            upto = next(
                (
                    k
                    for k in range(done + 1, len(spans) + 1)
                    if u.text[spans[done].start : spans[k - 1].end] == user[tick]
                ),
                0,
            )
            if not upto or upto - done > high or (upto - done < low and upto < len(spans)):
                yield Finding("tdm-slices", f"{user[tick]!r} is no slice of {low} to {high} words of {_name(i, u)}")
                return
            ends[i].append(tick)
            done = upto
    pieces = [(i, p) for i, u in enumerate(record.utterances) if not u.is_user for p in _pieces(u, tokens[i], settings)]
    said = [c for c in assistant if c != IDLE]
    if said != [p for _, p in pieces]:
        k = next(
            (k for k, (a, (_, b)) in enumerate(zip(said, pieces, strict=False)) if a != b),
            min(len(said), len(pieces)),
        )
        yield Finding(
            "tdm-slices",
            f"the assistant's slice {k} is no slice of {settings.layout.tdm_assistant_tokens} tokens",
        )
    turns = [i for i, u in enumerate(record.utterances) if u.addressed]
    for i, follows in zip(turns, [*turns[1:], None], strict=True):
        if i not in ends or not ends[i]:
            continue
        *early, last = ends[i]
        if any(assistant[k] != IDLE for k in early):
            yield Finding("tdm-idle", f"the assistant speaks while {_name(i, record.utterances[i])} goes on")
        answered = (
            follows is not None and not record.utterances[follows].is_user and record.utterances[follows].spoken_text
        )
        if bool(answered) != (assistant[last] != IDLE):
            yield Finding(
                "tdm-idle",
                f"the last slice of {_name(i, record.utterances[i])} goes with {assistant[last]!r}",
            )


def _pieces(u: Said, encoded: Text, settings: Settings) -> list[str]:
    """What was said, so many tokens at a time."""
    step, said = settings.layout.tdm_assistant_tokens, u.spoken_text
    starts = encoded.starts.tolist()
    edges = [min(starts[k], len(said)) for k in range(step, len(starts), step)]
    pieces = [said[a:b] for a, b in pairwise([0, *edges, len(said)]) if a < b]
    if pieces:
        pieces[-1] += _closing(u)
    return pieces


# -- turns with state tokens


@dataclass(frozen=True, slots=True)
class Duo:
    """A row of `duo`."""

    text: str
    input_ids: Int32
    labels: Int32
    channel: npt.NDArray[np.int8]
    position: Int32


@dataclass(slots=True)
class _DuoPlan:
    """The row that the utterances give, token by token."""

    ids: list[int] = field(default_factory=list)
    loss: list[bool] = field(default_factory=list)
    channel: list[int] = field(default_factory=list)
    position: list[int] = field(default_factory=list)
    free: int = 0  # the first position that no token has

    def add(self, ids: Sequence[int], channel: int, at: int, *, loss: bool) -> None:
        self.ids += ids
        self.loss += [loss] * len(ids)
        self.channel += [channel] * len(ids)
        self.position += range(at, at + len(ids))
        self.free = max(self.free, at + len(ids))


def check_duo(record: Record, row: Duo, said: Sequence[Text], settings: Settings, decode: Decode) -> Iterator[Finding]:
    """Args:
    said: tokens of each utterance's `spoken_text`.
    """
    lengths = {len(x) for x in (row.input_ids, row.labels, row.channel, row.position)}
    if len(lengths) != 1:
        yield Finding("duo-shape", f"lists of {sorted(lengths)} tokens, expected one length")
        return
    if _dense(decode(row.input_ids.tolist())) != _dense(row.text):
        yield Finding("duo-text", "input_ids do not say what text says")
    ids, plan = settings.ids, duo_plan(record, said, settings.ids)
    found = row.input_ids.tolist()
    states = (ids.query, ids.non_query, ids.eos)
    if found != plan.ids:
        words, expected = ([x for x in given if x not in states] for given in (found, plan.ids))
        if words == expected:
            yield Finding("duo-state", "state tokens are not those that the utterances ask for")
        else:
            yield Finding("duo-words", "the tokens are not those of the utterances")
        return
    want = np.where(np.array(plan.loss, bool), row.input_ids, IGNORED)
    for rule, name, have, expect in (
        ("duo-labels", "label", row.labels, want),
        ("duo-channel", "channel", row.channel, np.array(plan.channel)),
        ("duo-position", "position", row.position, np.array(plan.position)),
    ):
        if (at := _first_difference(have, expect)) is not None:
            yield Finding(rule, f"{name} {at} is {int(have[at])}, expected {int(expect[at])}")


def duo_plan(record: Record, said: Sequence[Text], ids: Ids) -> _DuoPlan:
    """The row, utterance by utterance.

    What comes in during an answer counts its positions from the answer's start, as the answer itself does, behind
    what has come in during it before. Behind an answer during which something came in, and between
    two answers in a row, one position is left out.
    """
    plan = _DuoPlan()
    answer: _Running | None = None
    for i, u in enumerate(record.utterances):
        if answer is not None and not (u.is_user and u.start < answer.said.end):
            answer.end(plan, ids.eos, another=not u.is_user)
            answer = None
        if not u.is_user:
            answer = _Running(u, said[i], plan.free)
            continue
        n, at = len(said[i].ids) + 1, plan.free
        if answer is not None:
            answer.say(plan, answer.said.end if u.addressed else u.start)
            at = answer.start + answer.heard
            answer.heard += n
        plan.add(said[i].ids.tolist(), 0, at, loss=False)
        plan.add([ids.query if u.addressed else ids.non_query], 0, at + n - 1, loss=True)
        if answer is not None and u.addressed:
            plan.free += 1
            answer = None
    if answer is not None:
        answer.end(plan, ids.eos)
    return plan


@dataclass(slots=True)
class _Running:
    """An answer that is being written.

    Attributes:
        start: its first position.
        written: its tokens so far.
        heard: tokens that came in during it.
    """

    said: Said
    text: Text
    start: int
    written: int = 0
    heard: int = 0

    def say(self, plan: _DuoPlan, by: int) -> None:
        """The tokens of the words begun before the sample `by`."""
        upto = tokens_said(self.said, self.text, by)
        if upto > self.written:
            plan.add(self.text.ids[self.written : upto].tolist(), 1, self.start + self.written, loss=True)
            self.written = upto

    def end(self, plan: _DuoPlan, eos: int, *, another: bool = False) -> None:
        self.say(plan, self.said.end + 1)
        if not self.said.cut:
            plan.add([eos], 1, self.start + self.written, loss=True)
        plan.free += self.heard > 0 or another


def tokens_said(u: Said, said: Text, by: int) -> int:
    """How many tokens of what was said of an utterance belong to the words begun before the sample `by`."""
    spans = split_words(u.spoken_text)
    if u.words:
        begun = sum(w.start < by for w in u.words)
    else:
        n = len(split_words(u.text))
        begun = min(n, max(0, math.ceil(Fraction((by - u.start) * n, max(1, u.end - u.start)))))
    if begun >= len(spans):
        return len(said.ids)
    stop = len(u.spoken_text[: spans[begun].start].rstrip())
    return sum(start < stop for start in said.starts.tolist())


# -- sums over a corpus


@dataclass(slots=True)
class Sums:
    """What the manifest says of a corpus, counted again. Grows by one record at a time."""

    length: int = 0
    speech: Counter[str] = field(default_factory=Counter)  # by voice
    replies: int = 0
    anticipatory: int = 0
    counters: dict[str, Counter[str]] = field(
        default_factory=lambda: {name: Counter() for name in ("scenarios", "kinds", "writers", "languages", "licences")}
    )
    spreads: dict[str, list[float]] = field(default_factory=dict)  # n, sum, least, most: of seconds

    def add(self, record: Record, settings: Settings) -> None:
        self.length += record.length
        self._spread("duration", record.length)
        counters = self.counters
        counters["scenarios"][record.scenario] += 1
        counters["languages"][record.language] += 1
        counters["licences"][record.provenance["licence"]] += 1
        for i, u in enumerate(record.utterances):
            counters["kinds"][u.kind] += 1
            counters["writers"][u.writer] += 1
            self.speech[u.voice] += u.end - u.start
            if not u.is_user:
                self._reply(record, i, settings)
            elif u.kind == "query" and (quiet := quiet_before(record, i)) is not None:
                self._spread("next_turn_gap", u.start - quiet)

    def _reply(self, record: Record, i: int, settings: Settings) -> None:
        u = record.utterances[i]
        self.replies += 1
        if u.start < -(-heard_until(record, i) // settings.block) * settings.block:
            self.anticipatory += 1
        if (quiet := quiet_before(record, i)) is not None:
            self._spread("reply_gap", u.start - quiet)
        cutter = cutter_of(record, i)
        if u.cut and cutter is not None:
            v = record.utterances[cutter]
            self._spread("reaction_delay", u.end - v.start)
            self._spread("overlap", min(u.end, v.end) - v.start)
            self._spread("barge_in_point", v.start - u.start)

    def add_negative(self, late: Late) -> None:
        self._spread("late_gap" if late.kind == "turn_taking" else "late_delay", late.negative)

    def _spread(self, name: str, samples: int) -> None:
        value = samples / SAMPLE_RATE
        n, total, least, most = self.spreads.get(name, [0, 0.0, value, value])
        self.spreads[name] = [n + 1, total + value, min(least, value), max(most, value)]

    def check(self, stated: Mapping[str, Any]) -> Iterator[Finding]:
        """Against the manifest's `statistics`."""
        hour = 3600 * SAMPLE_RATE
        numbers = {
            "hours": self.length / hour,
            "speech_hours": self.speech.total() / hour,
            "anticipatory_share": self.anticipatory / max(1, self.replies),
        }
        for name, value in numbers.items():
            if not _close(stated.get(name), value):
                yield Finding("statistics", f"{name} is {stated.get(name)}, the rows give {value:.4f}")
        for name, counter in self.counters.items():
            if stated.get(name) != dict(counter):
                yield Finding(
                    "statistics",
                    f"{name} is {stated.get(name)}, the rows give {dict(sorted(counter.items()))}",
                )
        timing = stated.get("timing")
        for name, (n, total, least, most) in self.spreads.items():
            expected = {"n": n, "mean_sec": total / n, "min_sec": least, "max_sec": most}
            yield from _check_numbers(f"timing.{name}", _part(timing, name), expected)
        voices = {voice: n / SAMPLE_RATE for voice, n in self.speech.items()}
        yield from _check_numbers("voices", stated.get("voices"), {"count": len(voices)})
        yield from _check_numbers("voices.seconds", _part(stated.get("voices"), "seconds"), voices, within=0.01)


def _part(value: object, key: str) -> object:
    return value.get(key) if isinstance(value, Mapping) else None


def _check_numbers(
    where: str, stated: object, expected: Mapping[str, float], within: float = 1e-4
) -> Iterator[Finding]:
    for key, number in expected.items():
        if not _close(_part(stated, key), number, within):
            yield Finding("statistics", f"{where}.{key} is {_part(stated, key)}, the rows give {round(number, 4)}")


# -- small helpers


def _close(found: object, expected: float, within: float = 1e-4) -> bool:
    return isinstance(found, int | float) and abs(found - expected) <= within


def _first_difference(found: npt.NDArray[Any], expected: npt.NDArray[Any]) -> int | None:
    """Index of the first place where two arrays differ, the end of the shorter one included."""
    n = min(len(found), len(expected))
    at = np.flatnonzero(found[:n] != expected[:n])
    if len(at):
        return int(at[0])
    return None if len(found) == len(expected) else max(0, n - 1)


def _dense(text: str) -> str:
    """Without its spaces."""
    return "".join(text.split())


def _name(i: int, u: Said) -> str:
    return f"utterance {i} ({u.kind})"


def _sec(samples: int) -> str:
    return f"{samples / SAMPLE_RATE:.4f} s"
