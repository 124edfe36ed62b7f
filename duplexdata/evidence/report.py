"""The evidence as tables and a picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from duplexdata.evidence.jobs import Job, read_judgements, reference
from duplexdata.evidence.settings import ARMS, CLAIMS, Evidence
from duplexdata.scoring import BY_NAME, Estimate, Metric, difference, summarise
from duplexdata.scoring.summary import ALL
from duplexdata.shards import new_file, write_json, write_text

SHOWN = (
    *("tt_success", "early_start", "unanswered", "latency", "isr", "overlap", "barge_in_answered", "spoke_on"),
    *("distractor_stop", "distractor_start", "unprompted_stop", "unprompted_start", "speaking"),
)
_TITLES = {**{name: arm.title for name, arm in ARMS.items()}, "recorded": "recorded assistant"}


def write_evidence(evidence: Evidence, out: Path) -> None:
    """`evidence.json`, `evidence.md` and `evidence.png` from finished jobs."""
    judged = {arm: read_judgements(out, [Job(arm, s) for s in evidence.seeds]) for arm in ARMS}
    systems = {arm: summarise(j)[ALL] for arm, j in judged.items()}
    systems["recorded"] = reference(evidence, out, "recorded").summary[ALL]
    seeds = {
        arm: {s: summarise(read_judgements(out, [Job(arm, s)]), resamples=1)[ALL] for s in evidence.seeds}
        for arm in ARMS
    }
    changes = {f"{_TITLES[a]} to {_TITLES[b]}": difference(judged[a], judged[b]) for a, b in CLAIMS}
    write_json(
        out / "evidence.json",
        {
            "settings": asdict(evidence),
            "systems": {arm: _plain(found) for arm, found in systems.items()},
            "seeds": {arm: {s: {m: e.value for m, e in x.items()} for s, x in of.items()} for arm, of in seeds.items()},
            "changes": {name: _plain(found) for name, found in changes.items()},
        },
    )
    write_text(out / "evidence.md", _markdown(evidence, systems, seeds, changes))
    _draw(out / "evidence.png", systems, seeds)


def _plain(found: Mapping[str, Estimate]) -> dict[str, Any]:
    return {name: asdict(e) for name, e in found.items()}


def _markdown(
    evidence: Evidence,
    systems: Mapping[str, Mapping[str, Estimate]],
    seeds: Mapping[str, Mapping[int, Mapping[str, Estimate]]],
    changes: Mapping[str, Mapping[str, Estimate]],
) -> str:
    arms = [*ARMS, "recorded"]
    metrics = [BY_NAME[m] for m in SHOWN if any(m in systems[a] for a in arms)]
    lines = [
        "# Evidence",
        "",
        f"{len(evidence.seeds)} seeds of each model, on up to {evidence.scored} held-out conversations; in brackets "
        "the 95 % interval of a bootstrap over conversations, all seeds together.",
        "",
        "| metric | " + " | ".join(_TITLES[a] for a in arms) + " |",
        "| --- |" + " ---: |" * len(arms),
    ]
    for metric in metrics:
        cells = [_cell(metric, systems[a].get(metric.name)) for a in arms]
        lines.append(f"| {_title(metric)} | " + " | ".join(cells) + " |")
    lines += ["", "Seed by seed:", "", "| metric | " + " | ".join(_TITLES[a] for a in ARMS) + " |"]
    lines.append("| --- |" + " ---: |" * len(ARMS))
    for metric in metrics:
        cells = [", ".join(_value(metric, e.get(metric.name)) for e in seeds[a].values()) for a in ARMS]
        lines.append(f"| {_title(metric)} | " + " | ".join(cells) + " |")
    lines += ["", "Changes, conversation by conversation:", "", "| metric | " + " | ".join(changes) + " |"]
    lines.append("| --- |" + " ---: |" * len(changes))
    for metric in metrics:
        cells = [_cell(metric, found.get(metric.name), sign="+") for found in changes.values()]
        lines.append(f"| {_title(metric)} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _title(metric: Metric) -> str:
    return metric.label + {"high": " ↑", "low": " ↓", "": ""}[metric.better]


def _value(metric: Metric, e: Estimate | None) -> str:
    if e is None:
        return "-"
    return f"{100 * e.value:.1f}" if metric.unit == "%" else f"{e.value:.2f}"


def _cell(metric: Metric, e: Estimate | None, sign: str = "") -> str:
    if e is None:
        return "-"
    if metric.unit == "%":
        return f"{100 * e.value:{sign}.1f} % ({100 * e.low:{sign}.1f} to {100 * e.high:{sign}.1f})"
    return f"{e.value:{sign}.2f} {metric.unit} ({e.low:{sign}.2f} to {e.high:{sign}.2f})".replace("  ", " ")


def _draw(
    path: Path,
    systems: Mapping[str, Mapping[str, Estimate]],
    seeds: Mapping[str, Mapping[int, Mapping[str, Estimate]]],
) -> None:
    """Bars with intervals, seeds as points."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return
    shown = ("tt_success", "isr", "overlap", "speaking")
    figure = Figure(figsize=(14, 4.2), layout="constrained")
    colours = ["#c9c9c9", "#9dbde6", "#9a9a9a", "#3b6fb6", "#7fb38a", "#2f7d3b", "#c8382e"]
    for at, name in enumerate(shown):
        axes = figure.add_subplot(1, len(shown), at + 1)
        metric = BY_NAME[name]
        scale = 100 if metric.unit == "%" else 1
        for x, (arm, colour) in enumerate(zip(ARMS, colours, strict=True)):
            if (e := systems[arm].get(name)) is None:
                continue
            error = [[scale * (e.value - e.low)], [scale * (e.high - e.value)]]
            axes.bar(x, scale * e.value, color=colour, yerr=error, capsize=4, alpha=0.85)
            points = [scale * s[name].value for s in seeds[arm].values() if name in s]
            axes.scatter([x] * len(points), points, color="black", s=12, zorder=3)
        if (e := systems["recorded"].get(name)) is not None:
            axes.axhline(scale * e.value, color="black", linestyle=":", linewidth=1)
        axes.set_xticks(range(len(ARMS)), [_TITLES[a] for a in ARMS], fontsize=8, rotation=40, ha="right")
        axes.set_title(f"{_title(metric)} ({metric.unit})", fontsize=10)
    figure.suptitle("Held-out conversations; points: seeds; dotted: the recorded assistant", fontsize=9)
    with new_file(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
