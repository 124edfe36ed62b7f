"""What the manifest and the card say of a corpus: hours, and how its gaps, overlaps and delays are distributed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from duplexdata.conversation import Conversation, Negative, answered_query, barge_in
from duplexdata.dialogue import Channel, Kind
from duplexdata.timeline import anticipatory
from duplexdata.units import Grid

QUANTITIES = (
    "duration",
    "reply_gap",
    "next_turn_gap",
    "reaction_delay",
    "overlap",
    "barge_in_point",
    "late_gap",
    "late_delay",
)


@dataclass(slots=True)
class Spread:
    """Count, sum, sum of squares, extremes: of samples, in integers, so that shards add up exactly."""

    n: int = 0
    total: int = 0
    squares: int = 0
    least: int = 0
    most: int = 0

    def add(self, value: int) -> None:
        self.least = value if not self.n else min(self.least, value)
        self.most = value if not self.n else max(self.most, value)
        self.n += 1
        self.total += value
        self.squares += value * value

    def merge(self, other: Spread) -> None:
        if other.n:
            self.least = other.least if not self.n else min(self.least, other.least)
            self.most = other.most if not self.n else max(self.most, other.most)
        self.n += other.n
        self.total += other.total
        self.squares += other.squares


@dataclass(slots=True)
class Statistics:
    """Grows by one conversation at a time; two of them merge."""

    spreads: dict[str, Spread] = field(default_factory=lambda: {name: Spread() for name in QUANTITIES})
    counters: dict[str, Counter[str]] = field(
        default_factory=lambda: {name: Counter() for name in ("scenarios", "kinds", "writers", "languages", "licences")}
    )
    speech: Counter[str] = field(default_factory=Counter)  # samples by voice
    replies: int = 0
    anticipatory: int = 0

    def add(self, conversation: Conversation, negative: Negative, grid: Grid) -> None:
        utterances = conversation.utterances
        add = {name: spread.add for name, spread in self.spreads.items()}
        add["duration"](conversation.n_samples)
        quiet: int | None = None
        for i, u in enumerate(utterances):
            self.counters["kinds"][u.kind] += 1
            self.counters["writers"][u.writer] += 1
            self.speech[u.voice] += u.end - u.start
            if not u.addressed:
                continue
            if u.channel is Channel.ASSISTANT:
                self.replies += 1
                cutter = barge_in(utterances, i)
                if cutter is not None:
                    onset = utterances[cutter].start
                    add["reaction_delay"](u.end - onset)
                    add["overlap"](min(u.end, utterances[cutter].end) - onset)
                    add["barge_in_point"](onset - u.start)
                if quiet is not None and utterances[answered_query(utterances, i) or 0].end <= quiet:
                    add["reply_gap"](u.start - quiet)
            elif u.kind is Kind.QUERY and quiet is not None:
                add["next_turn_gap"](u.start - quiet)
            quiet = max(quiet or 0, u.end)
        add["late_gap" if negative.kind == "turn_taking" else "late_delay"](negative.negative)
        self.counters["scenarios"][conversation.scenario] += 1
        self.counters["languages"][conversation.language] += 1
        self.counters["licences"][conversation.licence] += 1
        self.anticipatory += anticipatory(conversation, grid)

    def merge(self, other: Statistics) -> None:
        for name, spread in other.spreads.items():
            self.spreads[name].merge(spread)
        for name, counter in other.counters.items():
            self.counters[name].update(counter)
        self.speech.update(other.speech)
        self.replies += other.replies
        self.anticipatory += other.anticipatory

    def as_dict(self) -> dict[str, Any]:
        return {
            "spreads": {k: [s.n, s.total, s.squares, s.least, s.most] for k, s in self.spreads.items()},
            "counters": {k: dict(sorted(c.items())) for k, c in self.counters.items()},
            "speech": dict(sorted(self.speech.items())),
            "replies": self.replies,
            "anticipatory": self.anticipatory,
        }

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Statistics:
        return cls(
            {k: Spread(*v) for k, v in raw["spreads"].items()},
            {k: Counter(v) for k, v in raw["counters"].items()},
            Counter(raw["speech"]),
            raw["replies"],
            raw["anticipatory"],
        )

    def summary(self) -> dict[str, Any]:
        """For people: seconds, hours and shares."""
        seconds = 1 / 16_000
        spreads = {}
        for name, s in self.spreads.items():
            if s.n:
                mean = s.total / s.n
                variance = max(0.0, s.squares / s.n - mean * mean)
                spreads[name] = {
                    "n": s.n,
                    "mean_sec": round(mean * seconds, 4),
                    "std_sec": round(variance**0.5 * seconds, 4),
                    "min_sec": round(s.least * seconds, 4),
                    "max_sec": round(s.most * seconds, 4),
                }
        return {
            "hours": round(self.spreads["duration"].total * seconds / 3600, 4),
            "speech_hours": round(self.speech.total() * seconds / 3600, 4),
            **{name: dict(sorted(c.items())) for name, c in self.counters.items()},
            "timing": spreads,
            "anticipatory_share": round(self.anticipatory / self.replies, 6) if self.replies else 0.0,
            "voices": {
                "count": len(self.speech),
                "seconds": {v: round(n * seconds, 2) for v, n in sorted(self.speech.items())},
            },
        }
