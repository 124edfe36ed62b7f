"""Files that others made, opened so that none of them hangs, swells, or garbles a message."""

from __future__ import annotations

import errno
import gzip
import io
import os
import stat
from pathlib import Path
from typing import IO

MAX_EXPANSION = 200
"""Times its own size that a compressed file may hold. Text comes to 3 to 20 times, zeros to 1,000."""
ALWAYS_ALLOWED = 64 * 1024 * 1024
"""Bytes that a compressed file may hold however small it is: they harm nobody."""


def open_regular(path: Path | str) -> IO[bytes]:
    """
    Raises: OSError: it cannot be opened, or is no regular file: a pipe that nobody writes to is waited for for ever,
        a device may never end.
    """
    try:
        found = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except ValueError as error:  # a NUL in it, or half of a surrogate pair
        raise OSError(errno.EINVAL, f"this cannot be a file's name ({error})") from None
    if not stat.S_ISREG(os.fstat(found).st_mode):
        os.close(found)
        raise OSError(errno.EINVAL, "it is a folder, a pipe or a device; a regular file is expected", str(path))
    return os.fdopen(found, "rb")


def read_small(path: Path | str, most: int) -> bytes:
    """A regular file of at most so many bytes, whole. Raises OSError: see `open_regular`; or it is larger."""
    with open_regular(path) as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise OSError(errno.EFBIG, f"it has more than {most} bytes, which is the limit", str(path))
    return data


class TooMuchInside(OSError):
    """A compressed file holds far more than its size lets expect."""


def most_inside(size: int) -> int:
    """Bytes that a compressed file of `size` bytes may hold."""
    return max(ALWAYS_ALLOWED, MAX_EXPANSION * size)


def open_gzip(file: IO[bytes]) -> IO[bytes]:
    """What a gzip file holds. Reading raises TooMuchInside where that is more than `most_inside` of its size."""
    return io.BufferedReader(_Inside(file))


class _Inside(io.RawIOBase):
    def __init__(self, file: IO[bytes]) -> None:
        size = os.fstat(file.fileno()).st_size
        self._inside, self._left, self._size = gzip.GzipFile(fileobj=file), most_inside(size), size

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        # What is read twice counts twice: only ever the beginning is.
        return self._inside.seek(offset, whence)

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        n = self._inside.readinto(buffer)
        self._left -= n
        if self._left < 0:
            raise TooMuchInside(
                f"it has {self._size} bytes, and more than {most_inside(self._size)} come out of them: "
                f"at most {MAX_EXPANSION} times its size are read, unless it is less than {ALWAYS_ALLOWED} bytes; "
                "unpack it yourself if it is what you want"
            )
        return n
