"""Replies that were paid for, by request, for this run and all others.

A process that is about to ask claims the request first, so that two processes do not pay for the same. A claim lasts
as long as its process refreshes it.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
import uuid
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from duplexdata.errors import WriterError
from duplexdata.resources import cache_folder
from duplexdata.writer.database import Database
from duplexdata.writer.parsing import RawReply

_APPLICATION = 0x64785265  # "dxRe"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS replies (key BLOB PRIMARY KEY, reply BLOB NOT NULL, sum INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS claims (key BLOB PRIMARY KEY, owner TEXT NOT NULL, expires REAL NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS claims_of ON claims (owner);
"""
LEASE_SEC = 20.0
"""A killed process's claims are free after this."""
_REFRESH_SEC = 4.0
_MOST_KEYS = 500


def default_path() -> Path:
    return cache_folder("replies.sqlite")


class ReplyCache:
    """Safe for several threads and processes. A damaged file is set aside; a damaged row is asked for again.

    Raises: ConfigError: the file is another program's. WriterError: it cannot be opened or written.
    """

    def __init__(self, path: Path, *, lease_sec: float = LEASE_SEC) -> None:
        self._database = Database(path, _SCHEMA, application=_APPLICATION, setting="writer.cache", replaceable=True)
        self._owner = uuid.uuid4().hex
        self._lease_sec = lease_sec
        self._stop = threading.Event()
        self._heart: threading.Thread | None = None

    def get(self, key: bytes) -> RawReply | None:
        return self.get_many([key]).get(key)

    def get_many(self, keys: Sequence[bytes]) -> dict[bytes, RawReply]:
        """Those that are known."""
        rows: list[tuple[bytes, bytes, int]] = []
        for start in range(0, len(keys), _MOST_KEYS):
            part = keys[start : start + _MOST_KEYS]
            marks = ",".join("?" * len(part))
            query = f"SELECT key, reply, sum FROM replies WHERE key IN ({marks})"
            rows += self._database.run(lambda c, q=query, p=part: c.execute(q, p).fetchall())  # type: ignore[misc]
        found, damaged = {}, []
        for key, reply, total in rows:
            if isinstance(reply, bytes) and zlib.crc32(key + reply) == total:
                found[key] = RawReply(**json.loads(reply))
            else:
                damaged.append(key)
        if damaged:
            self._database.run(lambda c: _forget(c, damaged), write=True)
        return found

    def claim(self, key: bytes) -> RawReply | bool:
        """The reply, if it is known by now; True: nobody else is asking, and we may; False: somebody is."""
        return self.get(key) or key in self.claim_many([key])

    def claim_many(self, keys: Sequence[bytes]) -> set[bytes]:
        """Those that are not known and that nobody else is asking for: we may."""
        if not keys:
            return set()
        self._beat()
        owner, now, lease = self._owner, time.time(), self._lease_sec

        def one(c: sqlite3.Connection, key: bytes) -> bool:
            if c.execute("SELECT 1 FROM replies WHERE key = ?", (key,)).fetchone():
                return False
            row = c.execute("SELECT owner, expires FROM claims WHERE key = ?", (key,)).fetchone()
            # A clock that was put back must not leave claims that last for ever.
            if row is not None and row[0] != owner and now < row[1] <= now + 10 * lease:
                return False
            c.execute("INSERT OR REPLACE INTO claims VALUES (?, ?, ?)", (key, owner, now + lease))
            return True

        return self._database.run(lambda c: {key for key in keys if one(c, key)}, write=True)

    def put(self, key: bytes, reply: RawReply) -> RawReply:
        """Keep a reply, for good when this returns, and give up the claim.

        Returns: the one to use: another process may have kept one before.
        """
        text = json.dumps(asdict(reply), ensure_ascii=False).encode("utf-8", "backslashreplace")
        total = zlib.crc32(key + text)

        def work(c: sqlite3.Connection) -> int:
            c.execute("DELETE FROM claims WHERE key = ?", (key,))
            return c.execute("INSERT OR IGNORE INTO replies VALUES (?, ?, ?)", (key, text, total)).rowcount

        if self._database.run(work, write=True) == 1:
            return RawReply(**json.loads(text))
        return self.get(key) or reply

    def release(self, keys: Iterable[bytes]) -> None:
        """Give up claims of ours."""
        mine = [(key, self._owner) for key in keys]
        if mine:
            self._database.run(
                lambda c: c.executemany("DELETE FROM claims WHERE key = ? AND owner = ?", mine), write=True
            )

    def close(self) -> None:
        self._stop.set()
        if self._heart is not None:
            self._heart.join()
            self._database.run(lambda c: c.execute("DELETE FROM claims WHERE owner = ?", (self._owner,)), write=True)
        self._database.close()

    def _beat(self) -> None:
        if self._heart is None:
            self._heart = threading.Thread(target=self._refresh, name="writer-claims", daemon=True)
            self._heart.start()

    def _refresh(self) -> None:
        while not self._stop.wait(min(_REFRESH_SEC, self._lease_sec / 4)):
            until = time.time() + self._lease_sec
            try:
                self._database.run(
                    lambda c, u=until: c.execute(  # type: ignore[misc]
                        "UPDATE claims SET expires = ? WHERE owner = ?", (u, self._owner)
                    ),
                    write=True,
                )
            except WriterError:  # a full disk: whoever puts a reply next will say so
                continue


def _forget(c: sqlite3.Connection, keys: Sequence[bytes]) -> None:
    c.executemany("DELETE FROM replies WHERE key = ?", [(key,) for key in keys])
