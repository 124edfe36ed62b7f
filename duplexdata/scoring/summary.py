"""From judgements to numbers with confidence intervals.

Judgements of one conversation are not independent of each other, conversations are: intervals come from a bootstrap
over conversations (2.5 and 97.5 %). Several runs of one model (seeds) are put together by concatenating their
judgements: a conversation that is drawn is drawn with all its runs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from duplexdata.rng import rng_for
from duplexdata.scoring.events import Asked
from duplexdata.scoring.judge import Judgement

Float64 = npt.NDArray[np.float64]
ALL = "all"
RESAMPLES = 2000
_TAIL = 0.025


@dataclass(frozen=True, slots=True)
class Metric:
    """Attributes:
    better: "high", "low", or "" where neither is.
    unit: "%" (a share), "s", or "".
    """

    name: str
    label: str
    better: str
    unit: str


METRICS = (
    Metric("tt_success", "TT SR@3s", "high", "%"),
    Metric("early_start", "starts during the query", "low", "%"),
    Metric("unanswered", "no answer within 3 s", "low", "%"),
    Metric("latency", "response latency", "low", "s"),
    Metric("isr", "ISR@2s", "high", "%"),
    Metric("overlap", "overlap after barge-in", "low", "s"),
    Metric("barge_in_answered", "answers behind a barge-in", "high", "%"),
    Metric("spoke_on", "speaks on when asked for silence", "low", "%"),
    Metric("distractor_stop", "stops at a distractor", "low", "%"),
    Metric("distractor_start", "starts at a distractor", "low", "%"),
    Metric("distractor_resumed", "speaks behind a distractor", "high", "%"),
    Metric("backchannel_stop", "stops at a backchannel", "low", "%"),
    Metric("backchannel_start", "starts at a backchannel", "low", "%"),
    Metric("resumed", "resumes behind a side answer", "high", "%"),
    Metric("unprompted_stop", "stops with nobody interrupting", "low", "%"),
    Metric("unprompted_start", "starts with nobody asking", "low", "%"),
    Metric("speaking", "speaks", "", "%"),
    Metric("recorded_speaking", "recorded assistant speaks", "", "%"),
)
BY_NAME: Mapping[str, Metric] = {m.name: m for m in METRICS}


@dataclass(frozen=True, slots=True)
class Estimate:
    """A metric over some conversations: sum by sum, with its interval.

    Attributes:
        n: how many values are in it; `conversations`: of how many conversations.
    """

    value: float
    low: float
    high: float
    n: int
    conversations: int


Summary = Mapping[str, Mapping[str, Estimate]]
"""By scenario ("all" first), by metric; what nothing was counted of is left out."""


def summarise(judgements: Sequence[Judgement], *, seed: int = 0, resamples: int = RESAMPLES) -> Summary:
    """Every metric, of all conversations and of each scenario."""
    scenarios = sorted({j.event.scenario for j in judgements})
    groups = {ALL: list(judgements)} | {s: [j for j in judgements if j.event.scenario == s] for s in scenarios}
    return {name: _estimates(group, seed, name, resamples) for name, group in groups.items()}


def difference(
    first: Sequence[Judgement], second: Sequence[Judgement], *, seed: int = 0, resamples: int = RESAMPLES
) -> Mapping[str, Estimate]:
    """Second less first, metric by metric, of two systems judged on the same conversations.

    Conversations are drawn for both at once, so that what is hard for both does not widen the interval.
    """
    ids = sorted({j.event.conversation for j in (*first, *second)})
    a, b = _table(first, ids), _table(second, ids)
    weights = _weights(len(ids), seed, "difference", resamples)
    found = {}
    for name in BY_NAME:
        if name not in a or name not in b:
            continue
        value = _ratio(*(x.sum(0) for x in b[name][:2])) - _ratio(*(x.sum(0) for x in a[name][:2]))
        drawn = _ratio(*(weights @ x for x in b[name][:2])) - _ratio(*(weights @ x for x in a[name][:2]))
        found[name] = Estimate(float(value), *_interval(drawn), a[name][2] + b[name][2], len(ids))
    return found


def quantiles(values: Iterable[float]) -> dict[str, float]:
    """Smallest, quartiles, 90 % and largest; empty where there are none."""
    given = np.fromiter(values, np.float64)
    if not len(given):
        return {}
    points = {"min": 0.0, "p25": 0.25, "median": 0.5, "p75": 0.75, "p90": 0.9, "max": 1.0}
    return {name: float(np.quantile(given, q)) for name, q in points.items()}


def values_of(judgements: Iterable[Judgement], metric: str) -> list[float]:
    """A metric's values one by one."""
    return [j.values[metric][0] for j in judgements if metric in j.values]


def not_counted(judgements: Iterable[Judgement]) -> dict[str, dict[str, int]]:
    """By kind: how many there were, how many were counted, and why others were not."""
    found: dict[str, dict[str, int]] = {}
    for j in judgements:
        if j.event.kind is Asked.CONVERSATION:
            continue
        counts = found.setdefault(j.event.kind.value, {"asked": 0, "counted": 0})
        counts["asked"] += 1
        key = "counted" if j.counted else j.outcome
        counts[key] = counts.get(key, 0) + 1
    return dict(sorted(found.items()))


def _estimates(group: Sequence[Judgement], seed: int, name: str, resamples: int) -> dict[str, Estimate]:
    ids = sorted({j.event.conversation for j in group})
    table = _table(group, ids)
    weights = _weights(len(ids), seed, name, resamples)
    found = {}
    for metric in BY_NAME:
        if metric not in table:
            continue
        above, below, n = table[metric]
        value = float(_ratio(above.sum(0), below.sum(0)))
        low, high = _interval(_ratio(weights @ above, weights @ below))
        counted = int((below > 0).sum())
        share_of_moments = BY_NAME[metric].unit == "%" and BY_NAME[metric].better
        if share_of_moments and value in (0.0, 1.0):
            # All draws are alike then, and say nothing of what more conversations would show.
            beyond = _TAIL ** (1 / counted)
            low, high = (beyond, 1.0) if value else (0.0, 1 - beyond)
        found[metric] = Estimate(value, low, high, n, counted)
    return found


def _table(judgements: Sequence[Judgement], ids: Sequence[str]) -> dict[str, tuple[Float64, Float64, int]]:
    """By metric: sums above and below the line, one of each conversation, and how many values."""
    place = {id_: i for i, id_ in enumerate(ids)}
    found: dict[str, tuple[Float64, Float64, int]] = {}
    for j in judgements:
        at = place[j.event.conversation]
        for metric, (above, below) in j.values.items():
            if not below > 0:
                continue
            sums = found.get(metric) or (np.zeros(len(ids)), np.zeros(len(ids)), 0)
            sums[0][at] += above
            sums[1][at] += below
            found[metric] = (sums[0], sums[1], sums[2] + 1)
    return found


def _weights(n: int, seed: int, name: str, resamples: int) -> Float64:
    """How often each conversation is drawn, (resamples, n)."""
    rng = rng_for(seed, name, "bootstrap")
    return rng.multinomial(n, np.full(n, 1 / n), size=resamples).astype(np.float64)


def _ratio(above: Float64, below: Float64) -> Float64:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.divide(above, below))


def _interval(drawn: Float64) -> tuple[float, float]:
    known = drawn[np.isfinite(drawn)]
    if not len(known):
        return math.nan, math.nan
    low, high = np.quantile(known, [_TAIL, 1 - _TAIL])
    return float(low), float(high)
