"""One run at a time works on a dataset."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from duplexdata.errors import DatasetError
from duplexdata.storage import Folder, Store

logger = logging.getLogger(__name__)
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


@contextmanager
def claimed(out: Folder) -> Iterator[None]:
    """Have the dataset for oneself inside the context. However the process ends, the system gives the claim up.

    The claim is a locked file beside the work folder of this machine. Where a file system knows no locks, and between
    machines that write to one URL, nothing is locked: runs of the same configuration write the same bytes there.

    Raises: DatasetError: another run is at work on it.
    """
    work = Store.of(out.work).local
    path = work.with_name(f"{work.name.removesuffix('.work')}.lock")
    try:
        lock = _lock(path, out.shown)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        logger.warning("%s knows no locks: start one run at a time on %s", path.parent, out.shown)
        yield
        return
    try:
        yield
    finally:
        if _stands_at(lock, path):
            path.unlink(missing_ok=True)
        os.close(lock)


def _lock(path: Path, shown: str) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(lock, 32).decode("ascii", "replace").strip() or "?"
            os.close(lock)
            raise DatasetError(
                f"another run is at work on {shown} (process {holder}): wait until it has ended, or stop it"
            ) from None
        except OSError:
            os.close(lock)
            raise
        if _stands_at(lock, path):
            break
        os.close(lock)  # that of a run which has just ended, and taken its file away
    with suppress(OSError):  # a full disk: the number is for people only
        os.ftruncate(lock, 0)
        os.write(lock, str(os.getpid()).encode())
    return lock


def _stands_at(lock: int, path: Path) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(lock), path.stat())
    return False
