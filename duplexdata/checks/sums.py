"""Sums over a corpus."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from duplexdata.checks.channel import heard_until
from duplexdata.checks.finding import Finding, Late, Record, Settings
from duplexdata.checks.record import cutter_of, quiet_before
from duplexdata.units import SAMPLE_RATE


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


def _close(found: object, expected: float, within: float = 1e-4) -> bool:
    return isinstance(found, int | float) and abs(found - expected) <= within
