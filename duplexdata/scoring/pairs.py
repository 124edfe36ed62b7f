"""Scoring recordings: folders of `input.wav` (the user) and `output.wav` (the assistant, on the same clock).

The layout is Full-Duplex-Bench's: a folder per sample, in folders per task. What it annotates is used, the rest comes
from the sound (user's turns by VAD: silences below a second, in which the assistant does not begin, are pauses):

| file | says | from |
| --- | --- | --- |
| `interrupt.json` | `[{"timestamp": [start, end], …}]`: a barge-in; what the user says before it is a query | v1.0 |
| `turn_taking.json` | `[{"timestamp": [end, …], …}]`: the user's turn ends here | v1.0 |
| `pause.json` | `[{"timestamp": [start, end], …}, …]`: pauses in which nobody should take over | v1.0 |
| `metadata.json` | `{"timestamps": [start, end], …}`: what the folder is named after: `user_interruption`, | v1.5 |
| | `user_backchannel`, `talking_to_other`, `background_speech` | |
| none of them | every turn is a query; a turn of a second or more over the assistant's speech is a barge-in | [ours] |

Sources: Full-Duplex-Bench, arXiv 2503.04721 and 2507.23159 (files and tasks); metrics as for a dataset. Its own metrics
that need a transcript or a judge are not made here.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from duplexdata.conversation import Spoken
from duplexdata.dialogue import Channel, Kind
from duplexdata.errors import DatasetError
from duplexdata.scoring.activity import Activity, Stretch
from duplexdata.scoring.detect import VAD_RESOLUTION, Vad, make_vad
from duplexdata.scoring.events import (
    ANSWER_WITHIN,
    MARGIN,
    OVERLAP_MOST,
    SILENCE_KEPT,
    STOP_WITHIN,
    Asked,
    Asking,
)
from duplexdata.scoring.judge import judge, spoken_share
from duplexdata.scoring.score import Case, Score, worst_of
from duplexdata.scoring.summary import RESAMPLES, summarise
from duplexdata.sound_files import read_sound
from duplexdata.units import SAMPLE_RATE, to_samples

INPUT, OUTPUT = "input.wav", "output.wav"
_ANNOTATIONS = ("interrupt.json", "turn_taking.json", "pause.json", "metadata.json")
_TASKS = {
    "user_interruption": Asked.BARGE_IN,
    "user_backchannel": Asked.BACKCHANNEL,
    "talking_to_other": Asked.DISTRACTOR,
    "background_speech": Asked.DISTRACTOR,
}
_TURN_GAP = to_samples(1.0)
_SHORT = to_samples(1.0)
_KINDS = {
    Asked.BARGE_IN: Kind.INTERRUPTION,
    Asked.DISTRACTOR: Kind.DISTRACTOR,
    Asked.BACKCHANNEL: Kind.BACKCHANNEL,
}


@dataclass(frozen=True, slots=True)
class _Sample:
    id: str
    task: str
    user: Activity
    assistant: Activity


def score_pairs(
    folder: str | Path,
    *,
    vad: str = "silero",
    limit: int | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
    report: Callable[[int], None] = lambda n: None,
) -> Score:
    """Score a folder of recordings; tasks take the scenarios' place.

    Args:
        vad: "silero" or "energy" (for clean recordings).
        limit: samples at most.
        report: called after each sample.

    Raises:
        DatasetError: no pairs there, or an annotation that cannot be read.
        SourceError: a sound file that cannot be read.
    """
    root = Path(folder)
    if not root.is_dir():
        raise DatasetError(f"{root} is no folder")
    found = sorted(p.parent for p in root.rglob(OUTPUT) if (p.parent / INPUT).is_file())[:limit]
    if not found:
        raise DatasetError(f"{root}: no folder in it holds both {INPUT} and {OUTPUT}")
    detect = make_vad(vad)
    cases: list[Case] = []
    dropped: Counter[str] = Counter()
    for place in found:
        sample = _read(root, place, detect)
        moments, left_out = _moments(sample, place)
        dropped.update(left_out)
        cases += _judged(sample, moments)
        report(1)
    judgements = tuple(c.judgement for c in cases)
    facts = {"scored": "pairs", "conversations": len(found), "speech_from": f"audio, {vad}"}
    summary = summarise(judgements, seed=seed, resamples=resamples)
    return Score(summary, judgements, facts, dict(sorted(dropped.items())), worst_of(cases))


def _read(root: Path, place: Path, detect: Vad) -> _Sample:
    channels = []
    for name in (INPUT, OUTPUT):
        sound = read_sound(place / name, SAMPLE_RATE)
        channels.append(Activity.of(detect(sound), 0, len(sound), VAD_RESOLUTION))
    task = place.parent.name if place != root else place.name
    name = place.relative_to(root).as_posix()
    return _Sample(name if name != "." else place.name, task, *channels)


def _judged(sample: _Sample, moments: Sequence[Asking]) -> list[Case]:
    said = tuple(
        _spoken(_KINDS.get(e.kind, Kind.QUERY), e.start, e.end) for e in moments if e.kind is not Asked.PAUSE
    ) or tuple(_spoken(Kind.QUERY, s.start, s.end) for s in sample.user.stretches)
    last = sample.assistant.last
    whole = _asking(sample, Asked.CONVERSATION, 0, last, last)
    share = spoken_share(sample.assistant, sample.assistant, 0, last)
    found = [judge(e, sample.assistant) for e in moments]
    found.append(replace(judge(whole, sample.assistant), values={"speaking": share["speaking"]}))
    return [Case(j, said, sample.assistant) for j in found]


def _moments(sample: _Sample, place: Path) -> tuple[list[Asking], list[str]]:
    """What is asked in a sample, and what of it was left out, by reason."""
    annotations = {name: _json(place / name) for name in _ANNOTATIONS if (place / name).is_file()}
    if not annotations:
        return _plain(sample)
    found: list[Asking] = []
    left_out: list[str] = []
    for name, content in annotations.items():
        if name == "metadata.json":
            task = next((kind for key, kind in _TASKS.items() if key in sample.task), None)
            if task is None:
                left_out.append("task of no known name")
                continue
            start, end = _times(place / name, content, "timestamps", 2)
        else:
            entries = content if isinstance(content, list) else [content]
            if not entries:
                left_out.append("annotation without entries")
                continue
            if name == "pause.json":
                for entry in entries:
                    start, end = _times(place / name, entry, "timestamp", 2)
                    found.append(_asking(sample, Asked.PAUSE, start, end, end))
                continue
            if name == "turn_taking.json":
                (end,) = _times(place / name, entries[0], "timestamp", 1)
                # The turn began where the user's speech before its end did.
                start = max((s.start for s in sample.user.stretches if s.start < end), default=0)
                found.append(_query(sample, start, end, sample.assistant.last))
                continue
            start, end = _times(place / name, entries[0], "timestamp", 2)
            task = Asked.BARGE_IN
        found += [_query(sample, s.start, s.end, start) for s in _turns(sample) if s.end <= start + VAD_RESOLUTION]
        found.append(_overlap(sample, task, start, end))
    return found, left_out


def _plain(sample: _Sample) -> tuple[list[Asking], list[str]]:
    turns = list(_turns(sample))
    found: list[Asking] = []
    left_out: list[str] = []
    for turn, following in zip(turns, [*turns[1:], None], strict=True):
        if sample.assistant.at(turn.start) is None:
            limit = sample.assistant.last if following is None else following.start
            found.append(_query(sample, turn.start, turn.end, limit))
        elif turn.end - turn.start >= _SHORT:
            found.append(_overlap(sample, Asked.BARGE_IN, turn.start, turn.end))
        else:
            left_out.append("short speech over the assistant, not annotated")
    return found, left_out


def _turns(sample: _Sample) -> Iterator[Stretch]:
    """The user's stretches; pauses in which the assistant does not begin to speak are inside one."""
    turn: Stretch | None = None
    for s in sample.user.stretches:
        if turn is not None and s.start - turn.end < _TURN_GAP:
            begins = sample.assistant.next_start(turn.end)
            if begins is None or begins >= s.start:
                turn = Stretch(turn.start, s.end)
                continue
        if turn is not None:
            yield turn
        turn = s
    if turn is not None:
        yield turn


def _query(sample: _Sample, start: int, end: int, limit: int) -> Asking:
    return _asking(sample, Asked.QUERY, start, end, min(limit, end + ANSWER_WITHIN) + MARGIN, limit=limit)


def _overlap(sample: _Sample, kind: Asked, start: int, end: int) -> Asking:
    until = max(start + OVERLAP_MOST, end + ANSWER_WITHIN) + MARGIN
    if kind is not Asked.BARGE_IN:
        until = max(start + STOP_WITHIN, end + SILENCE_KEPT) + MARGIN
    return _asking(sample, kind, start, end, until, speaking=sample.assistant.at(start) is not None)


def _asking(
    sample: _Sample,
    kind: Asked,
    start: int,
    end: int,
    until: int,
    *,
    limit: int | None = None,
    speaking: bool = False,
) -> Asking:
    last = sample.assistant.last
    return Asking(
        conversation=sample.id,
        scenario=sample.task,
        kind=kind,
        utterance=-1,
        start=start,
        end=end,
        speaking=speaking,
        goes_on=False,
        limit=last if limit is None else limit,
        until=min(until, last),
        reaction=last,
    )


def _spoken(kind: Kind, start: int, end: int) -> Spoken:
    none = np.zeros(0, np.int64)
    return Spoken(Channel.USER, kind, "", start, end, False, "", "", none, none)


def _json(path: Path) -> object:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path}: cannot be read as JSON ({error})") from error


def _times(path: Path, entry: object, key: str, n: int) -> list[int]:
    """The first `n` times, in samples."""
    times = entry.get(key) if isinstance(entry, dict) else None
    given = times if isinstance(times, list) else []
    numbers = [t for t in given[:n] if isinstance(t, int | float) and t >= 0]
    if len(numbers) < n or numbers != sorted(numbers):
        raise DatasetError(f"{path}: {key} is {times!r}, expected at least {n} times in seconds, in order")
    return [to_samples(t) for t in numbers]
