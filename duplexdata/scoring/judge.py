"""Whether the assistant did what was asked. Nothing here knows where the speech was found.

Limits are arXiv 2606.14528's (section 4: TT SR@3s, overlap, ISR@2s); what exactly counts is ours, and strict where a
model that decides nothing would look good otherwise. Values of a metric are pairs: what is summed, and by what the sum
is divided.

| metric | of | value |
| --- | --- | --- |
| `tt_success` | queries | 1: silent when the query ends, no start during it, first start within 3 s behind its end |
| `early_start` | queries, annotated pauses | 1: starts to speak during the query (a pause in it is no end) |
| `latency` | answered queries | seconds from the query's end to the answer's start |
| `isr` | barge-ins into its speech | 1: silent within 2 s, and silent from then on until the user has finished |
| `overlap` | the same | seconds from the barge-in to the stop, at most 6 |
| `barge_in_answered` | barge-ins to be answered | 1: it stopped, and the answer starts within 3 s behind the user |
| `spoke_on` | barge-ins that ask for silence | 1: it did not stop, or speaks again within 2 s behind the user |
| `distractor_stop`, `backchannel_stop` | those over its speech | 1: silent within 2 s of the onset (as `isr`) |
| `distractor_start`, `backchannel_start` | those in silence | 1: starts to speak until 2 s behind the end |
| `distractor_resumed` | distractors that end before the reply | 1: speaks within 3 s behind it |
| `resumed` | side questions answered | 1: speaks again within 3 s, with nobody asking |
| `unprompted_stop` | middles of replies, user silent | 1: silent within 2 s |
| `unprompted_start` | silences behind complete replies | 1: starts to speak within 3 s or before the user does |
| `speaking`, `recorded_speaking` | all the time, or what was decoded freely | share that is speech, model and record |

A barge-in, distractor or backchannel over a silent assistant is not counted (and how many were not is): there was
nothing to stop.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from duplexdata.scoring.activity import Activity, seconds
from duplexdata.scoring.events import ANSWER_WITHIN, OVERLAP_MOST, SILENCE_KEPT, STOP_WITHIN, Asked, Asking

Pair = tuple[float, float]
YES, NO = (1.0, 1.0), (0.0, 1.0)


@dataclass(frozen=True, slots=True)
class Judgement:
    """
    Attributes:
        outcome: what happened, in a word.
        counted: False where what was asked makes no sense of what the assistant did; `values` is empty then.
        values: by metric.
        badness: to find the worst cases: 0 where all is well, larger the worse.
    """

    event: Asking
    outcome: str
    counted: bool
    values: Mapping[str, Pair]
    badness: float = 0.0


def judge(event: Asking, heard: Activity) -> Judgement:
    """What the assistant did about one thing that was asked.

    Args:
        heard: the assistant's channel, known up to `event.until` or to the conversation's end.
    """
    return _JUDGES[event.kind](event, heard)


def spoken_share(heard: Activity, recorded: Activity, start: int, end: int) -> Mapping[str, Pair]:
    """Time that the assistant speaks in [start, end), and that it speaks by the record."""
    watched = seconds(max(0, end - start))
    return {
        "speaking": (seconds(heard.speech_in(start, end)), watched),
        "recorded_speaking": (seconds(recorded.speech_in(start, end)), watched),
    }


def _query(e: Asking, heard: Activity) -> Judgement:
    near = heard.resolution
    early = next((s for s in heard.stretches if e.start + near <= s.start < e.end - near), None)
    running = heard.at(e.end - near)
    answer = heard.next_start(e.end - near)
    latency = None if answer is None else max(0, answer - e.end)
    if early is not None:
        outcome = "early"
    elif running is not None and running.start < e.end - near:
        outcome = "talks over"
    elif latency is None or e.end + latency >= e.limit:
        outcome = "silent"
    else:
        outcome = "answered" if latency <= ANSWER_WITHIN else "late"
    values = {
        "tt_success": _yes(outcome == "answered"),
        "early_start": _yes(outcome == "early"),
        "unanswered": _yes(outcome in ("late", "silent")),
    }
    badness = {"answered": 0.0, "late": 2.0, "silent": 3.0, "early": 4.0, "talks over": 4.0}[outcome]
    if outcome == "answered" and latency is not None:
        values["latency"] = (seconds(latency), 1.0)
        badness = seconds(latency) / 10
    return Judgement(e, outcome, True, values, badness)


def _barge_in(e: Asking, heard: Activity) -> Judgement:
    running = heard.at(e.start)
    if running is None:
        return Judgement(e, "was silent", False, {})
    overlap = min(running.end - e.start, OVERLAP_MOST)
    stopped = running.end - e.start <= STOP_WITHIN + heard.resolution
    again = heard.next_start(running.end)
    restarted = again is not None and again < e.end - heard.resolution
    good = stopped and not restarted
    outcome = "stopped" if good else "restarted" if stopped else "talked on"
    values = {"isr": _yes(good), "overlap": (seconds(overlap), 1.0)}
    if e.kind is Asked.BARGE_IN:
        in_time = again is not None and again <= e.end + ANSWER_WITHIN and again < e.limit
        values["barge_in_answered"] = _yes(good and in_time)
    else:
        speaks = again is not None and again < min(e.end + SILENCE_KEPT, e.limit)
        values["spoke_on"] = _yes(not good or speaks)
    return Judgement(e, outcome, True, values, 0.0 if good else seconds(overlap))


def _aside(e: Asking, heard: Activity) -> Judgement:
    name = e.kind.value
    if not e.speaking:
        if _speaks_at(heard, e.start):
            return Judgement(e, "was speaking", False, {})
        starts = _starts_in(heard, e.start, min(e.end + SILENCE_KEPT, e.limit))
        outcome = "started" if starts else "kept silent"
        return Judgement(e, outcome, True, {f"{name}_start": _yes(starts)}, 2.0 * starts)
    if not _speaks_at(heard, e.start):
        return Judgement(e, "was silent", False, {})
    stops = _stops(heard, e.start)
    values = {f"{name}_stop": _yes(stops)}
    if e.goes_on:
        until = min(e.end + ANSWER_WITHIN, e.until)
        values["distractor_resumed"] = _yes(heard.speech_in(e.end, until) > 0)
    return Judgement(e, "stopped" if stops else "went on", True, values, 2.0 * stops)


def _hold(e: Asking, heard: Activity) -> Judgement:
    if not _speaks_at(heard, e.start):
        return Judgement(e, "was silent", False, {})
    stops = _stops(heard, e.start)
    return Judgement(e, "stopped" if stops else "went on", True, {"unprompted_stop": _yes(stops)}, 1.0 * stops)


def _quiet(e: Asking, heard: Activity) -> Judgement:
    if _speaks_at(heard, e.start):
        return Judgement(e, "was speaking", False, {})
    starts = _starts_in(heard, e.start, min(e.until, e.limit))
    outcome = "started" if starts else "kept silent"
    return Judgement(e, outcome, True, {"unprompted_start": _yes(starts)}, 1.0 * starts)


def _pause(e: Asking, heard: Activity) -> Judgement:
    if _speaks_at(heard, e.start):
        return Judgement(e, "was speaking", False, {})
    starts = _starts_in(heard, e.start, e.end)
    outcome = "started" if starts else "kept silent"
    return Judgement(e, outcome, True, {"early_start": _yes(starts)}, 3.0 * starts)


def _resumption(e: Asking, heard: Activity) -> Judgement:
    # The model's own side answer may end at another time than the recorded one.
    own = [s for s in heard.stretches if s.start <= e.start and s.end > e.since]
    if not own:
        return Judgement(e, "no side answer", False, {})
    end = own[-1].end
    if end >= min(e.limit, heard.last, e.start + ANSWER_WITHIN):
        return Judgement(e, "still speaking", False, {})
    again = heard.next_start(end)
    good = again is not None and again <= max(e.start, end) + ANSWER_WITHIN and again < e.limit
    return Judgement(e, "resumed" if good else "silent", True, {"resumed": _yes(good)}, 0.0 if good else 2.0)


_JUDGES: Mapping[Asked, Callable[[Asking, Activity], Judgement]] = {
    Asked.QUERY: _query,
    Asked.BARGE_IN: _barge_in,
    Asked.TERMINATION: _barge_in,
    Asked.DISTRACTOR: _aside,
    Asked.BACKCHANNEL: _aside,
    Asked.RESUMPTION: _resumption,
    Asked.HOLD: _hold,
    Asked.QUIET: _quiet,
    Asked.PAUSE: _pause,
    Asked.CONVERSATION: lambda e, heard: Judgement(e, "heard", True, {}),
}


def _yes(true: bool) -> Pair:
    return YES if true else NO


def _speaks_at(heard: Activity, time: int) -> bool:
    return heard.at(time) is not None


def _stops(heard: Activity, time: int) -> bool:
    """Whether what runs at `time` is silent within the limit."""
    running = heard.at(time)
    return running is not None and running.end - time <= STOP_WITHIN and running.end < heard.last


def _starts_in(heard: Activity, start: int, end: int) -> bool:
    again = heard.next_start(start)
    return again is not None and again < end
