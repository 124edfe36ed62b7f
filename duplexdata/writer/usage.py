"""Counts of what was written. Those of a tally do not depend on what was cached: they may stand in a dataset."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from duplexdata.config import WriterConfig
from duplexdata.writer.ledger import LEDGER, Ledger, Spent, cost_usd
from duplexdata.writer.types import Failed, Written

_SUMMED = ("items", "written", "repaired", "replies", "prompt_tokens", "completion_tokens")


@dataclass(slots=True)
class Tally:
    """Outcomes by prompt: items = written + failed, always.

    Two runs of one configuration have the same tally, whether their replies were paid for or known: it counts the
    replies that were used and their tokens, not requests. What was spent is the ledger's.
    """

    counts: dict[str, Counter[str]] = field(default_factory=dict)
    failed: dict[str, Counter[str]] = field(default_factory=dict)

    def add(self, outcome: Written | Failed) -> None:
        counts = self.counts.setdefault(outcome.prompt, Counter())
        counts["items"] += 1
        counts["replies"] += outcome.usage.calls
        counts["prompt_tokens"] += outcome.usage.prompt_tokens
        counts["completion_tokens"] += outcome.usage.completion_tokens
        if isinstance(outcome, Written):
            counts["written"] += 1
            counts["repaired"] += outcome.repaired
        else:
            self.failed.setdefault(outcome.prompt, Counter())[outcome.reason] += 1

    def merge(self, facts: Mapping[str, Any]) -> None:
        """Add what another tally's `facts` say."""
        for prompt, values in facts.items():
            counts = self.counts.setdefault(prompt, Counter())
            for name in _SUMMED:
                counts[name] += values[name]
            self.failed.setdefault(prompt, Counter()).update(values["failed"])

    def facts(self) -> dict[str, dict[str, Any]]:
        """Plain values, in the order of the prompts' names."""
        return {
            prompt: {
                **{name: counts[name] for name in _SUMMED},
                "failed": dict(sorted((k, n) for k, n in self.failed.get(prompt, {}).items() if n)),
            }
            for prompt, counts in sorted(self.counts.items())
        }

    def nominal_usd(self, config: WriterConfig) -> float | None:
        """What all of it costs where nothing is known yet; None without prices. Rounded to a millionth."""
        prompt, completion = (sum(c[n] for c in self.counts.values()) for n in ("prompt_tokens", "completion_tokens"))
        cost = cost_usd(prompt, completion, config)
        return None if cost is None else round(cost, 6)


def read_spending(run: Path, config: WriterConfig) -> dict[str, Any] | None:
    """What a run has really spent until now, None if it has asked for nothing.

    Args:
        run: as `open_writer` was given it.
    """
    path = run / LEDGER
    if not path.exists():
        return None
    ledger = Ledger(path, config)
    try:
        return spending(ledger.spent(), config)
    finally:
        ledger.close()


def spending(spent: Mapping[str, Spent], config: WriterConfig) -> dict[str, Any]:
    """What a run has really spent, for its report beside the dataset: never for the dataset itself."""
    whole = Spent()
    for one in spent.values():
        whole = whole.plus(one)
    return {
        "replies_paid": whole.replies,
        "prompt_tokens": whole.prompt_tokens,
        "completion_tokens": whole.completion_tokens,
        "lost": whole.lost,
        "usd": whole.usd(config),
        "by_prompt": {
            name: {
                "replies_paid": s.replies,
                "prompt_tokens": s.prompt_tokens,
                "completion_tokens": s.completion_tokens,
            }
            for name, s in sorted(spent.items())
        },
    }
