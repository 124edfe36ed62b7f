"""What a run has spent on a language model, shared by all its processes and kept when it is resumed.

Before a request goes out, the most it can cost is reserved; its reply settles that. So a budget is never overrun,
however many processes spend from it. What a killed process had reserved counts as spent: its requests may have been
paid for.
"""

from __future__ import annotations

import sqlite3
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from duplexdata.config import WriterConfig
from duplexdata.errors import BudgetError
from duplexdata.writer.database import Database

LEDGER = "ledger.sqlite"
"""Its name in a run's folder."""
_APPLICATION = 0x64784C65  # "dxLe"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS spent (
  prompt TEXT PRIMARY KEY, replies INTEGER NOT NULL, prompt_tokens INTEGER NOT NULL,
  completion_tokens INTEGER NOT NULL, lost INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS reserved (
  id TEXT PRIMARY KEY, owner TEXT NOT NULL, expires REAL NOT NULL,
  prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS pace (id INTEGER PRIMARY KEY CHECK (id = 0), next REAL NOT NULL);
"""
_LEASE_SEC = 30.0
_BURST_SEC = 1.0
"""What may go out at once after a pause, in seconds' worth of tokens."""


@dataclass(frozen=True, slots=True)
class Spent:
    """Of one prompt, or of all.

    Attributes:
        replies: replies that were paid for.
        lost: requests that were sent and whose replies never came whole; their likely tokens are counted.
    """

    replies: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    lost: int = 0

    def plus(self, other: Spent) -> Spent:
        return Spent(
            self.replies + other.replies,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.lost + other.lost,
        )

    def usd(self, config: WriterConfig) -> float | None:
        """None where no prices are configured."""
        return cost_usd(self.prompt_tokens, self.completion_tokens, config)


def cost_usd(prompt_tokens: int, completion_tokens: int, config: WriterConfig) -> float | None:
    """None where no prices are configured."""
    if config.usd_per_million_input is None or config.usd_per_million_output is None:
        return None
    return (
        prompt_tokens * config.usd_per_million_input + completion_tokens * config.usd_per_million_output
    ) / 1_000_000


class Ledger:
    """Safe for several processes. Raises WriterError: the file cannot be opened or written, or is damaged."""

    def __init__(self, path: Path, config: WriterConfig, *, lease_sec: float = _LEASE_SEC) -> None:
        self._config = config
        self._owner = uuid.uuid4().hex
        self._lease_sec = lease_sec
        self._refreshed = 0.0
        self._database = Database(
            path, _SCHEMA, application=_APPLICATION, setting="the run's work folder", replaceable=False
        )

    def reserve(
        self, key: str, prompt_tokens: int, completion_tokens: int, *, pace: int = 0, keep: bool = False
    ) -> float | None:
        """Set aside the most that a request can take, and give it its turn.

        Turns go by a virtual clock, as in the generic cell rate algorithm (ITU-T I.371): it runs ahead by the time
        that each request takes at the rate.

        Args:
            key: of the reservation; one that is there already is replaced.
            pace: tokens to book against `writer.tokens_per_minute`.
            keep: note it even where there is no budget, so that `settle_once` finds it.

        Returns: seconds to wait before sending it; None: there is no room, but what others have reserved may become
            free.
        Raises: BudgetError: there is no room, and nothing will become free.
        """
        budget = self._config.max_tokens is not None or self._config.max_usd is not None
        paced = self._config.tokens_per_minute is not None and pace > 0
        if not (budget or keep or paced):
            return 0.0
        now = time.time()

        def work(c: sqlite3.Connection) -> tuple[float | None, Spent | None]:
            if budget or keep:
                self._refresh(c, now)
                c.execute("DELETE FROM reserved WHERE id = ?", (key,))
                room, exhausted = self._room(c, now, prompt_tokens, completion_tokens)
                if not room:
                    return None, exhausted
                row = (key, self._owner, now + self._lease_sec, prompt_tokens, completion_tokens)
                c.execute("INSERT INTO reserved VALUES (?, ?, ?, ?, ?)", row)
            return self._turn(c, now, pace) if paced else 0.0, None

        wait_sec, exhausted = self._database.run(work, write=True)
        if exhausted is not None:
            raise BudgetError(self._told(exhausted, prompt_tokens, completion_tokens))
        return wait_sec

    def settle(self, key: str, prompt: str, spent: Spent, *, pace: int = 0) -> None:
        """Put down what a request took, and give up its reservation.

        Args:
            pace: what was booked for it; the difference is booked, too.
        """
        tokens_per_minute = self._config.tokens_per_minute
        more = spent.prompt_tokens + spent.completion_tokens - pace

        def work(c: sqlite3.Connection) -> None:
            c.execute("DELETE FROM reserved WHERE id = ?", (key,))
            _add(c, prompt, spent)
            if pace and tokens_per_minute is not None:
                c.execute("UPDATE pace SET next = next + ?", (more * 60.0 / tokens_per_minute,))

        self._database.run(work, write=True)

    def settle_once(self, key: str, spent: Mapping[str, Spent]) -> None:
        """Put down what several requests took, by prompt, unless their reservation was settled before."""

        def work(c: sqlite3.Connection) -> None:
            if c.execute("DELETE FROM reserved WHERE id = ?", (key,)).rowcount == 1:
                for prompt, one in spent.items():
                    _add(c, prompt, one)

        self._database.run(work, write=True)

    def adopt(self, key: str) -> None:
        """Take over a reservation from a process that was killed."""
        row = (self._owner, time.time() + self._lease_sec, key)
        self._database.run(
            lambda c: c.execute("UPDATE reserved SET owner = ?, expires = ? WHERE id = ?", row), write=True
        )

    def refresh(self) -> None:
        """Say that this process lives; to be called now and then."""
        now = time.time()
        if now - self._refreshed > self._lease_sec / 5:
            self._database.run(lambda c: self._refresh(c, now), write=True)

    def spent(self) -> dict[str, Spent]:
        """By prompt, without what is reserved."""
        rows = self._database.run(
            lambda c: c.execute(
                "SELECT prompt, replies, prompt_tokens, completion_tokens, lost FROM spent ORDER BY prompt"
            ).fetchall()
        )
        return {row[0]: Spent(*row[1:]) for row in rows}

    def close(self) -> None:
        self._database.close()

    def _room(
        self, c: sqlite3.Connection, now: float, prompt_tokens: int, completion_tokens: int
    ) -> tuple[bool, Spent | None]:
        """Whether there is room for so much; where there will not be any, what was spent."""
        sent, received = _sum(c, "spent")
        sent_open, received_open = _sum(c, "reserved")
        if self._fits(sent + sent_open + prompt_tokens, received + received_open + completion_tokens):
            return True, None
        sent_lost, received_lost = _sum(c, "reserved", f"WHERE expires < {now!r}")
        if self._fits(sent + sent_lost + prompt_tokens, received + received_lost + completion_tokens):
            return False, None
        return False, Spent(0, sent + sent_lost, received + received_lost)

    def _turn(self, c: sqlite3.Connection, now: float, tokens: int) -> float:
        """Book tokens against the rate. Returns: seconds until they may go out."""
        assert self._config.tokens_per_minute is not None
        row = c.execute("SELECT next FROM pace").fetchone()
        start = max(row[0] if row else 0.0, now - _BURST_SEC)
        after = start + tokens * 60.0 / self._config.tokens_per_minute
        c.execute("INSERT OR REPLACE INTO pace VALUES (0, ?)", (after,))
        return max(0.0, start - now)

    def _fits(self, prompt_tokens: int, completion_tokens: int) -> bool:
        most_tokens, most_usd = self._config.max_tokens, self._config.max_usd
        usd = cost_usd(prompt_tokens, completion_tokens, self._config)
        return (most_tokens is None or prompt_tokens + completion_tokens <= most_tokens) and (
            most_usd is None or usd is None or usd <= most_usd
        )

    def _refresh(self, c: sqlite3.Connection, now: float) -> None:
        if now - self._refreshed > self._lease_sec / 5:
            c.execute("UPDATE reserved SET expires = ? WHERE owner = ?", (now + self._lease_sec, self._owner))
            self._refreshed = now

    def _told(self, spent: Spent, prompt_tokens: int, completion_tokens: int) -> str:
        tokens = spent.prompt_tokens + spent.completion_tokens
        usd = spent.usd(self._config)
        limits = [
            f"{name} {value:,}"
            for name, value in (
                ("writer.max_tokens", self._config.max_tokens),
                ("writer.max_usd", self._config.max_usd),
            )
            if value is not None
        ]
        return (
            f"the budget for the language model is spent: {tokens:,} tokens"
            + (f", {usd:.4f} USD" if usd is not None else "")
            + f" of {' and '.join(limits)}, and what comes next may take {prompt_tokens + completion_tokens:,}"
            " tokens. All replies so far are kept: raise the limit and run the same command again to go on"
        )


def _add(c: sqlite3.Connection, prompt: str, spent: Spent) -> None:
    if spent != Spent():
        c.execute(
            "INSERT INTO spent VALUES (?, ?, ?, ?, ?) ON CONFLICT (prompt) DO UPDATE SET "
            "replies = replies + excluded.replies, prompt_tokens = prompt_tokens + excluded.prompt_tokens, "
            "completion_tokens = completion_tokens + excluded.completion_tokens, lost = lost + excluded.lost",
            (prompt, spent.replies, spent.prompt_tokens, spent.completion_tokens, spent.lost),
        )


def _sum(c: sqlite3.Connection, table: str, where: str = "") -> tuple[int, int]:
    row = c.execute(
        f"SELECT coalesce(sum(prompt_tokens), 0), coalesce(sum(completion_tokens), 0) FROM {table} {where}"
    ).fetchone()
    return int(row[0]), int(row[1])
