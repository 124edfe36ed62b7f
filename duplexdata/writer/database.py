"""SQLite files that several processes write to, and that survive any of them being killed."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from duplexdata.errors import ConfigError, WriterError

T = TypeVar("T")
_LOG = logging.getLogger(__name__)
_BUSY_SEC = 60.0
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


class Database:
    """One file. WAL: a process that is killed leaves either all of a transaction or nothing.

    Every commit outlives the process; a power cut may take the last ones, never the file.

    Args:
        application: 32-bit number that tells our files from other programs'.
        setting: the setting that names the file, for errors.
        replaceable: whether a damaged file is set aside and begun anew; else it is an error.

    Raises: ConfigError: the file is another program's. WriterError: it cannot be opened.
    """

    def __init__(self, path: Path, schema: str, *, application: int, setting: str, replaceable: bool) -> None:
        self.path = path
        self._schema, self._application, self._setting, self._replaceable = schema, application, setting, replaceable
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        with self._told():
            path.parent.mkdir(parents=True, exist_ok=True)
        self.run(lambda _: None)

    def run(self, work: Callable[[sqlite3.Connection], T], *, write: bool = False) -> T:
        """Do `work` with the connection; with `write`, in one transaction that no other process can cut in on.

        `work` is done again if the file turned out damaged, so it must not have effects of its own.
        """
        with self._lock, self._told():
            try:
                return self._once(work, write)
            except sqlite3.DatabaseError as error:
                if not _is_damage(error):
                    raise
                self.close()
                if not self._replaceable:
                    raise WriterError(
                        f"{self.path} is damaged ({error}); move it away to begin anew, and mind that what was spent "
                        "until now is then no longer known"
                    ) from None
                self._set_aside(error)
                return self._once(work, write)

    def close(self) -> None:
        with self._lock:
            if self._connection is not None:
                with contextlib.suppress(sqlite3.Error):
                    self._connection.close()
            self._connection = None

    def _once(self, work: Callable[[sqlite3.Connection], T], write: bool) -> T:
        connection = self._connection = self._connection or self._open()
        if not write:
            return work(connection)
        connection.execute("BEGIN IMMEDIATE")
        try:
            result = work(connection)
            connection.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            raise
        return result

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=_BUSY_SEC, isolation_level=None, check_same_thread=False)
        try:
            (found,) = connection.execute("PRAGMA application_id").fetchone()
            (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
            if found != self._application and (found or tables):
                raise ConfigError(f"{self.path} is another program's database; name another file in {self._setting}")
            _patiently(connection, "PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute(f"PRAGMA application_id = {self._application}")
            connection.executescript(self._schema)
        except BaseException:
            connection.close()
            raise
        return connection

    def _set_aside(self, error: sqlite3.DatabaseError) -> None:
        """Give a damaged file another name, unless another process has done so meanwhile."""
        with self.path.with_name(self.path.name + ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if self._is_sound():
                return
            n = 1
            while (aside := self.path.with_name(f"{self.path.name}.damaged-{n}")).exists():
                n += 1
            for suffix in ("-wal", "-shm"):
                with contextlib.suppress(FileNotFoundError):
                    self.path.with_name(self.path.name + suffix).replace(aside.with_name(aside.name + suffix))
            with contextlib.suppress(FileNotFoundError):
                self.path.replace(aside)
            _LOG.warning("%s is damaged (%s): kept as %s, and begun anew", self.path, error, aside.name)

    def _is_sound(self) -> bool:
        try:
            connection = sqlite3.connect(self.path, timeout=_BUSY_SEC, isolation_level=None)
            try:
                return bool(connection.execute("PRAGMA quick_check(1)").fetchone()[0] == "ok")
            finally:
                connection.close()
        except sqlite3.DatabaseError as error:
            if _is_damage(error):
                return False
            raise

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Errors of the disk as ours."""
        try:
            yield
        except sqlite3.OperationalError as error:
            raise WriterError(
                f"{self.path}: {error}; make room there, or name another file in {self._setting}", retryable=True
            ) from None
        except OSError as error:
            raise WriterError(f"{self.path}: {error.strerror or error}; name another file in {self._setting}") from None


def _patiently(connection: sqlite3.Connection, statement: str) -> None:
    """Changing a new file to WAL fails at once while another process does the same, whatever the timeout."""
    until = time.monotonic() + _BUSY_SEC
    while True:
        try:
            connection.execute(statement)
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
        time.sleep(0.01)


def _is_damage(error: sqlite3.DatabaseError) -> bool:
    return (getattr(error, "sqlite_errorcode", 0) & 0xFF) in _DAMAGED
