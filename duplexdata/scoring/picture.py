"""A score as a picture: latencies, overlaps, and timelines of the worst cases. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from duplexdata.dialogue import Channel, Kind
from duplexdata.scoring.activity import seconds
from duplexdata.scoring.events import ANSWER_WITHIN, OVERLAP_MOST, STOP_WITHIN
from duplexdata.scoring.summary import values_of
from duplexdata.shards import put_in_place, temporary_name
from duplexdata.units import to_samples

if TYPE_CHECKING:
    from duplexdata.scoring.score import Case, Score

_BEFORE, _BEHIND = to_samples(4.0), to_samples(2.0)
_COLOURS = {
    Kind.QUERY: "#3b6fb6",
    Kind.INTERRUPTION: "#c8382e",
    Kind.DISTRACTOR: "#9a9a9a",
    Kind.BACKCHANNEL: "#c9b458",
}
_RECORDED, _HEARD = "#9ec9a4", "#2f7d3b"


def write_picture(path: Path, score: Score) -> bool:
    """Draw `score` into a PNG. False where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    n = len(score.worst)
    figure = Figure(figsize=(12, 3.2 + 1.25 * n), layout="constrained")
    grid = figure.add_gridspec(1 + n, 2, height_ratios=[2.6, *[1.0] * n])
    _histogram(
        figure.add_subplot(grid[0, 0]),
        values_of(score.judgements, "latency"),
        "response latency of answered queries (s)",
        seconds(ANSWER_WITHIN),
        (0, seconds(ANSWER_WITHIN) + 0.2),
    )
    _histogram(
        figure.add_subplot(grid[0, 1]),
        values_of(score.judgements, "overlap"),
        "overlap after barge-in (s)",
        seconds(STOP_WITHIN),
        (0, seconds(OVERLAP_MOST) + 0.2),
    )
    for row, case in enumerate(score.worst, start=1):
        _timeline(figure.add_subplot(grid[row, :]), case)
    legend = "user: blue query, red barge-in, grey distractor, yellow backchannel; pale grey: not heard"
    figure.suptitle(", ".join(f"{k} {v}" for k, v in score.facts.items()) + (f"\n{legend}" if n else ""), fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(path)
    figure.savefig(temporary, dpi=100, format="png")
    put_in_place(temporary, path)
    return True


def _histogram(axis: Any, values: Sequence[float], title: str, limit: float, between: tuple[float, float]) -> None:
    axis.set_title(f"{title}, n = {len(values)}", fontsize=10)
    axis.hist(values, bins=40, range=between, color="#55708c")
    axis.axvline(limit, color="#c8382e", linestyle="--", linewidth=1)
    axis.set_xlim(between)
    if not values:
        axis.set_yticks([])
        axis.text(0.5, 0.5, "none", transform=axis.transAxes, ha="center", color="grey")


def _timeline(axis: Any, case: Case) -> None:
    """Lanes of the user, of the recorded assistant and of the one heard, around what was asked."""
    e = case.judgement.event
    start, end = max(0, e.start - _BEFORE), e.until + _BEHIND
    for u in case.utterances:
        if u.end <= start or u.start >= end:
            continue
        user = u.channel is Channel.USER
        _bar(axis, u.start, u.end, 2 if user else 1, _COLOURS.get(u.kind, _RECORDED) if user else _RECORDED)
    for s in case.heard.stretches:
        if s.end > start and s.start < end:
            _bar(axis, s.start, s.end, 0, _HEARD)
    for unknown in ((start, case.heard.first), (case.heard.last, end)):
        if unknown[0] < unknown[1]:
            axis.axvspan(*map(seconds, unknown), ymax=1 / 3, color="#eeeeee", zorder=0)
    for at in {e.start, e.end}:
        axis.axvline(seconds(at), color="black", linewidth=0.8, linestyle=":")
    axis.set_yticks([0, 1, 2], ["heard", "recorded", "user"], fontsize=7)
    axis.set_ylim(-0.5, 2.5)
    axis.set_xlim(seconds(start), seconds(end))
    axis.tick_params(axis="x", labelsize=7)
    title = f"{e.kind.value.replace('_', ' ')}: {case.judgement.outcome} ({e.conversation}, {seconds(e.start):.2f} s)"
    axis.set_title(title, fontsize=8, loc="left")


def _bar(axis: Any, start: int, end: int, lane: int, colour: str) -> None:
    axis.broken_barh([(seconds(start), seconds(end - start))], (lane - 0.35, 0.7), color=colour)
