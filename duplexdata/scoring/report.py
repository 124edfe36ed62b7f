"""A score as a table, as markdown and as JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from duplexdata.scoring.activity import seconds
from duplexdata.scoring.score import Case, Score
from duplexdata.scoring.summary import ALL, BY_NAME, METRICS, Estimate, Metric, not_counted, quantiles, values_of
from duplexdata.shards import write_json, write_text

if TYPE_CHECKING:
    from rich.table import Table

_ARROW = {"high": " ↑", "low": " ↓", "": ""}
TABLE_WIDTH = 150
_FEW, _MANY = 0.5, 1.5
"""Of the recorded assistant's share of speech: outside, a model's other numbers mislead."""


def write_report(score: Score, out: Path) -> list[Path]:
    """`score.json`, `score.md` and `score.png` (with matplotlib) into the folder `out`. Returns what was written."""
    from duplexdata.scoring.picture import write_picture

    write_json(out / "score.json", as_json(score))
    write_text(out / "score.md", as_markdown(score))
    written = [out / "score.json", out / "score.md"]
    if write_picture(out / "score.png", score):
        written.append(out / "score.png")
    return written


def as_json(score: Score) -> dict[str, object]:
    """Plain values: everything but the worst cases' channels."""
    return {
        "facts": dict(score.facts),
        "dropped": dict(score.dropped),
        "metrics": {
            scenario: {
                name: {
                    "value": _finite(e.value),
                    "low": _finite(e.low),
                    "high": _finite(e.high),
                    "n": e.n,
                    "conversations": e.conversations,
                }
                for name, e in metrics.items()
            }
            for scenario, metrics in score.summary.items()
        },
        "moments": not_counted(score.judgements),
        "latency_sec": quantiles(values_of(score.judgements, "latency")),
        "overlap_sec": quantiles(values_of(score.judgements, "overlap")),
        "remarks": remarks(score),
        "worst": [_case(c) for c in score.worst],
    }


def as_markdown(score: Score) -> str:
    scenarios = list(score.summary)
    lines = [
        "# Score",
        "",
        *(f"- {name.replace('_', ' ')}: {value}" for name, value in score.facts.items()),
        "",
        "Shares in %, times in seconds; in brackets the 95 % interval (bootstrap over conversations), behind it the "
        "number of values. ↑ higher is better, ↓ lower is.",
        "",
        "| metric | " + " | ".join(s.replace("_", " ") for s in scenarios) + " |",
        "| --- |" + " ---: |" * len(scenarios),
    ]
    for metric in _present(score):
        cells = [_cell(metric, score.summary[s].get(metric.name)) for s in scenarios]
        lines.append(f"| {_title(metric)} | " + " | ".join(cells) + " |")
    lines += ["", "| asked | moments | counted | not counted |", "| --- | ---: | ---: | --- |"]
    for kind, counts in not_counted(score.judgements).items():
        why = ", ".join(f"{k} {v}" for k, v in counts.items() if k not in ("asked", "counted")) or "-"
        lines.append(f"| {kind.replace('_', ' ')} | {counts['asked']} | {counts['counted']} | {why} |")
    if score.dropped:
        lines += ["", "Left out: " + ", ".join(f"{k} {v}" for k, v in score.dropped.items())]
    return "\n".join([*lines, "", *(f"**{r}**" for r in remarks(score)), ""])


def as_table(score: Score, *, scenarios: bool = True) -> Table:
    """For a terminal: all conversations with intervals; scenarios without, if wanted (`TABLE_WIDTH` columns)."""
    from rich.table import Table

    names = [s for s in score.summary if s != ALL] if scenarios else []
    table = Table(title=", ".join(f"{k} {v}" for k, v in score.facts.items()), title_justify="left")
    table.add_column("metric", no_wrap=True)
    table.add_column("all [95 %]  n", justify="right", no_wrap=True)
    for s in names:
        table.add_column(s.replace("_", "\n"), justify="right", no_wrap=True)
    for metric in _present(score):
        estimates = [score.summary[s].get(metric.name) for s in names]
        cells = ["" if e is None else _number(metric, e.value) for e in estimates]
        table.add_row(_title(metric), _cell(metric, score.summary[ALL].get(metric.name)), *cells)
    return table


def remarks(score: Score) -> list[str]:
    """What a reader of the numbers must know."""
    found = []
    metrics = score.summary[ALL]
    spoken, recorded = metrics.get("speaking"), metrics.get("recorded_speaking")
    if spoken is not None and recorded is not None and recorded.value > 0:
        share = spoken.value / recorded.value
        if not _FEW <= share <= _MANY:
            much = "little" if share < 1 else "much"
            good = "ISR, overlap and wrong starts" if share < 1 else "wrong stops"
            found.append(
                f"The assistant speaks {100 * spoken.value:.0f} % of the time, the recorded one "
                f"{100 * recorded.value:.0f} %: {good} look good because it speaks so {much}."
            )
    for kind, counts in not_counted(score.judgements).items():
        if counts["counted"] < counts["asked"] / 2:
            found.append(
                f"Only {counts['counted']} of {counts['asked']} moments of the kind {kind.replace('_', ' ')} "
                "could be counted."
            )
    return found


def _present(score: Score) -> Sequence[Metric]:
    return [m for m in METRICS if m.name in score.summary[ALL]]


def _title(metric: Metric) -> str:
    unit = f", {metric.unit}" if metric.unit else ""
    return f"{metric.label}{unit}{_ARROW[metric.better]}"


def _number(metric: Metric, value: float) -> str:
    if math.isnan(value):
        return "-"
    return f"{100 * value:.1f}" if metric.unit == "%" else f"{value:.2f}"


def _cell(metric: Metric, e: Estimate | None) -> str:
    if e is None:
        return "-"
    return f"{_number(metric, e.value)} [{_number(metric, e.low)}, {_number(metric, e.high)}] {e.n}"


def _case(case: Case) -> dict[str, object]:
    e = case.judgement.event
    return {
        "conversation": e.conversation,
        "scenario": e.scenario,
        "asked": e.kind.value,
        "start_sec": seconds(e.start),
        "end_sec": seconds(e.end),
        "outcome": case.judgement.outcome,
        "values": {k: a / b for k, (a, b) in case.judgement.values.items() if b and BY_NAME[k].better},
        "speech_sec": [[seconds(s.start), seconds(s.end)] for s in case.heard.stretches],
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
