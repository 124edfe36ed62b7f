"""A row of `conversations`, without its sound."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

from duplexdata.checks.finding import Finding, Record, Said, Settings, Word, name_of, samples_of, sec, unspaced
from duplexdata.config import Range, TimingConfig
from duplexdata.words import split_words

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
    # a question of a language model's own borrows from no other dialogue
    "back_on_topic": (1, 2),
}


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
        augmentation=row.get("augmentation"),
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
            yield Finding("times", f"{name_of(i, u)} from {sec(u.start)} to {sec(u.end)} of {sec(record.length)}")
    for (i, u), (j, v) in pairwise(enumerate(utterances)):
        if v.start < u.start:
            yield Finding("start-order", f"{name_of(j, v)} starts before {name_of(i, u)}")
    for channel in ("user", "assistant"):
        on = sorted((u.start, u.end, i) for i, u in enumerate(utterances) if u.channel == channel)
        for (_, end, i), (start, _, j) in pairwise(on):
            if start < end:
                yield Finding(
                    "overlap",
                    f"utterances {i} and {j} overlap on the {channel}'s channel by {sec(end - start)}",
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
            yield Finding("roles", f"{name_of(i, u)}: addressed is {u.addressed}")
        if u.cut and u.is_user:
            yield Finding("roles", f"{name_of(i, u)}: the user is cut")
        if not u.text.strip():
            yield Finding("roles", f"{name_of(i, u)}: without text")
        yield from _check_voice(i, u, record)


def _check_voice(i: int, u: Said, record: Record) -> Iterator[Finding]:
    if u.kind == "distractor":
        # The user may be heard saying something that is for somebody else.
        if u.voice == record.assistant_voice:
            yield Finding("voice", f"{name_of(i, u)}: speaks with the assistant's voice {u.voice}")
        return
    expected = record.user_voice if u.is_user else record.assistant_voice
    if u.voice != expected:
        yield Finding("voice", f"{name_of(i, u)}: speaks with {u.voice}, expected {expected}")


def _check_words(i: int, u: Said) -> Iterator[Finding]:
    spans = split_words(u.text)
    if not u.text.startswith(u.spoken_text):
        yield Finding("spoken-text", f"{name_of(i, u)}: spoken_text is no beginning of text")
    elif not u.cut and u.spoken_text != u.text:
        yield Finding("spoken-text", f"{name_of(i, u)}: was not cut, but spoken_text is shorter than text")
    if not u.words:
        return
    begun = len(u.words)
    if begun > len(spans) or (not u.cut and begun != len(spans)):
        yield Finding("words", f"{name_of(i, u)}: {begun} word times for {len(spans)} words")
        return
    if u.cut and u.spoken_text != u.text[: spans[begun - 1].end]:
        yield Finding("spoken-text", f"{name_of(i, u)}: spoken_text is not the {begun} words begun")
    for k, (w, (a, b)) in enumerate(zip(u.words, spans, strict=False)):
        if w.text != u.text[a:b]:
            yield Finding("words", f"{name_of(i, u)}: word {k} is {w.text!r}, expected {u.text[a:b]!r}")
            break
    for k, w in enumerate(u.words):
        if not u.start <= w.start <= w.end <= u.end or (u.cut and w.start >= u.end):
            yield Finding("words", f"{name_of(i, u)}: word {k} from {sec(w.start)} to {sec(w.end)} is not inside it")
            break
    for k, (v, w) in enumerate(pairwise(u.words)):
        if w.start < v.start or w.end < v.end:
            yield Finding("words", f"{name_of(i, u)}: word {k + 1} comes before word {k}")
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
            yield Finding("cut", f"{name_of(i, u)}: {what}")
        elif cutter is not None:
            delay = u.end - record.utterances[cutter].start
            yield from within("reaction-delay", f"{name_of(i, u)}: reaction delay", delay, timing.reaction_delay_sec)
    for i, u in enumerate(record.utterances):
        if u.kind == "interruption" and cutting[i] != 1:
            yield Finding("cut", f"{name_of(i, u)}: starts inside {cutting[i]} utterances of the assistant, expected 1")


def quiet_before(record: Record, i: int) -> int | None:
    """Since when both channels have been silent when utterance `i` starts; overlays are as if not there."""
    at = record.utterances[i].start
    ends = [u.end for k, u in enumerate(record.utterances) if u.addressed and k != i and (u.start, k) < (at, i)]
    return max(ends, default=None)


def _check_gaps(record: Record, timing: TimingConfig) -> Iterator[Finding]:
    """Overlays must not have moved anything: gaps are measured as if they were not there."""
    for i, u in enumerate(record.utterances):
        if u.kind == "backchannel" and not any(v.start <= u.start < v.end for v in record.utterances if not v.is_user):
            yield Finding("overlay", f"{name_of(i, u)}: not during anything that the assistant says")
        if not u.addressed or u.kind == "interruption":
            continue
        quiet = quiet_before(record, i)
        if quiet is None:
            if u.kind != "query":
                yield Finding("roles", f"{name_of(i, u)}: the first that is said, expected a query")
            yield from within("lead-in", f"{name_of(i, u)}: lead-in", u.start, timing.lead_in_sec)
        elif u.is_user:
            yield from within("next-turn-gap", f"{name_of(i, u)}: gap", u.start - quiet, timing.next_turn_gap_sec)
        elif abs(u.start - quiet - samples_of(timing.reply_gap_sec)) > 1:
            yield Finding(
                "reply-gap", f"{name_of(i, u)}: gap {sec(u.start - quiet)}, expected {timing.reply_gap_sec} s"
            )


def within(rule: str, what: str, samples: int, bounds: Range) -> Iterator[Finding]:
    if not samples_of(bounds[0]) - 1 <= samples <= samples_of(bounds[1]) + 1:
        yield Finding(rule, f"{what} {sec(samples)}, expected {bounds[0]} to {bounds[1]} s")


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
            yield Finding("scenario", f"the {u.kind} at {sec(u.start)} is not answered")
    if turns[-1].is_user != (record.scenario == "generation_termination"):
        yield Finding("scenario", f"{record.scenario} ends with the {turns[-1].channel}")
    yield from _check_resumption(record)


def _check_resumption(record: Record) -> Iterator[Finding]:
    """A resumption says at least what its reply had left to say."""
    for i, u in enumerate(record.utterances):
        cut = [v for v in record.utterances[:i] if v.cut]
        if u.kind == "resumption" and cut:
            left = unspaced(cut[-1].text[len(cut[-1].spoken_text) :])
            if not unspaced(u.text).endswith(left):
                yield Finding("resumption", f"{name_of(i, u)}: does not end with what was left of the reply")
