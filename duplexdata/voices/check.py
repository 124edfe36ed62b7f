"""`duplexdata voices check`: what is in a bank, what of it will do, and why the rest will not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from duplexdata.voices.judge import Measured
from duplexdata.voices.load import Surveyed


def as_json(bank: str, found: Sequence[Surveyed]) -> dict[str, Any]:
    """All of it, as plain values."""
    return {"bank": bank, **_summary(found), "voices": [_row(s) for s in found]}


def as_lines(bank: str, found: Sequence[Surveyed]) -> Iterator[str]:
    """For people: a line for each voice, then sums."""
    width = max(len(s.where) for s in found)
    for s in found:
        numbers = _numbers(s.measured) if s.measured is not None else ""
        yield f"{'ok     ' if s.accepted else 'refused'}  {s.where:{width}}  {numbers}".rstrip()
        for fault in s.faults:
            yield f"{'':9}{'':{width}}  {fault.reason}: {fault.detail}"
    summary = _summary(found)
    yield ""
    yield f"{bank}: {summary['accepted']} of {summary['found']} voices can be used"
    if summary["refused"]:
        yield "refused: " + ", ".join(f"{reason} {n}" for reason, n in summary["refused"].items())
    for key in ("language", "sex", "accent", "licence"):
        groups = summary[key]
        if groups:
            most = sorted(groups.items(), key=lambda item: (-item[1], item[0]))[:12]
            more = f", and {len(groups) - 12} others" if len(groups) > 12 else ""
            yield f"{key}: " + ", ".join(f"{name or 'not stated'} {n}" for name, n in most) + more
    if not any(s.measured for s in found) and summary["accepted"]:
        yield "no recordings in it: there was nothing to judge"


def _summary(found: Sequence[Surveyed]) -> dict[str, Any]:
    accepted = [s.voice for s in found if s.accepted and s.voice is not None]
    groups = {
        key: dict(sorted(Counter(str(getattr(v, key)) for v in accepted).items()))
        for key in ("language", "sex", "accent", "licence")
    }
    refused = Counter(s.faults[0].reason for s in found if s.faults)
    return {
        "found": len(found),
        "accepted": len(accepted),
        "refused": dict(sorted(refused.items())),
        "speakers": len({v.speaker for v in accepted}),
        **groups,
    }


def _row(s: Surveyed) -> dict[str, Any]:
    voice = s.voice
    facts = {} if voice is None else {
        key: getattr(voice, key)
        for key in ("id", "speaker", "split", "language", "sex", "accent", "licence", "consent", "source")
    }  # fmt: skip
    return {
        "where": s.where,
        "accepted": s.accepted,
        "faults": [asdict(f) for f in s.faults],
        **facts,
        "measured": None if s.measured is None else {k: _rounded(v) for k, v in asdict(s.measured).items()},
    }


def _rounded(value: float | None) -> float | None:
    return round(value, 6) if isinstance(value, float) else value


def _numbers(m: Measured) -> str:
    pace = "" if m.ms_per_character is None else f"  {m.ms_per_character:3.0f} ms/character"
    return (
        f"{m.seconds:5.2f} s  {m.sample_rate:5d} Hz  {m.level_dbfs:5.1f} dBFS  SNR {m.snr_db:3.0f} dB  "
        f"silence {m.lead_sec:.2f} + {m.tail_sec:.2f} s{pace}"
    )
