"""Where a run's files live: a local folder, or any URL that fsspec knows (s3://, gs://, file://, memory://).

Stages read and write local files. A run whose dataset has a URL works in a scratch folder of this machine, and every
finished file is sent to the URL before the marker that vouches for it: object stores have no rename, so what has no
marker (or no manifest, for a dataset) counts as not there. Another machine of the run fetches what it needs.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from duplexdata.errors import ConfigError, StorageError
from duplexdata.files import open_regular
from duplexdata.resources import cache_folder
from duplexdata.shards import FileFacts, new_file, sha256, write_text

SCRATCH = "DUPLEXDATA_SCRATCH"
"""Environment variable: where runs on URLs keep their local files; default: the user's cache folder."""
T = TypeVar("T")


def is_url(place: str | Path) -> bool:
    return "://" in str(place)


def folder_at(place: str | Path) -> Folder:
    """The folder at a path or URL. Raises ConfigError for a URL that holds a password or has no known protocol."""
    if not is_url(place):
        return LocalFolder(Path(place).expanduser().resolve())
    url = str(place).rstrip("/")
    parts = urlsplit(url)
    if parts.scheme == "file":
        return LocalFolder(Path(parts.path))
    if parts.password or "@" in parts.netloc:
        raise ConfigError(
            f"{parts.scheme}://{parts.hostname or '…'}: a URL must hold no password; set it in the environment"
        )
    return RemoteFolder(url)


@dataclass(frozen=True)
class LocalFolder:
    """A folder of this machine. Files appear in it whole, under their final name, or not at all."""

    path: Path

    @property
    def shown(self) -> str:
        return str(self.path)

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def work(self) -> LocalFolder:
        """Beside it, so that finished files are linked and not copied."""
        return LocalFolder(self.path.with_name(f".{self.path.name}.work"))

    def size(self, name: str) -> int | None:
        """Bytes of a file; None: there is none."""
        path = self.path / name
        return path.stat().st_size if path.is_file() else None

    def names(self) -> list[str]:
        """Of what lies directly in it, hidden files left out; empty where there is no such folder."""
        if self.path.exists() and not self.path.is_dir():
            raise StorageError(f"{self.path} is a file; name a folder for the dataset")
        return sorted(p.name for p in self.path.iterdir() if not p.name.startswith(".")) if self.path.exists() else []

    def files_in(self, name: str) -> list[str]:
        """Names, with their folder, of the files of one of its folders; half-written ones too."""
        return sorted(f"{name}/{p.name}" for p in (self.path / name).glob("*") if p.is_file())

    def read(self, name: str) -> str | None:
        """A small file's text; None: there is none."""
        try:
            with open_regular(self.path / name) as file:
                return file.read().decode("utf-8")
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise StorageError(f"{self.path / name}: cannot be read ({error})") from error

    def write(self, name: str, text: str) -> None:
        write_text(self.path / name, text)

    def put(self, source: Path, name: str) -> None:
        """Link a finished file into it, or copy it."""
        target = self.path / name
        with new_file(target) as temporary:
            try:
                os.link(source, temporary)
            except OSError:  # another file system, or one without links
                shutil.copyfile(source, temporary)

    def remove(self, name: str) -> None:
        (self.path / name).unlink(missing_ok=True)

    def remove_all(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)


@dataclass(frozen=True)
class RemoteFolder:
    """A folder behind a URL. A file is there once its upload has ended: object stores show no halves."""

    url: str

    @cached_property
    def _place(self) -> tuple[Any, str]:
        import fsspec

        try:
            fs, root = fsspec.core.url_to_fs(self.url)
            return fs, root
        except (ValueError, ImportError) as error:
            protocol = self.url.split("://")[0]
            hint = (
                "pip install 'duplexdata[s3]'" if protocol == "s3" else f"install what fsspec needs for {protocol}://"
            )
            raise ConfigError(f"{self.url}: {first_line(error)} ({hint})") from error

    def _try(self, what: str, call: Callable[[Any, str], T]) -> T:
        """Raises StorageError, retryable, in place of whatever the store's library raises."""
        fs, root = self._place
        try:
            return call(fs, root)
        except (StorageError, ConfigError):
            raise
        except FileNotFoundError as error:
            raise StorageError(f"{self.url}: could not {what}: {first_line(error)}") from error
        except PermissionError as error:
            raise StorageError(f"{self.url}: not allowed to {what}: {first_line(error)}") from error
        except Exception as error:  # each store has errors of its own
            raise StorageError(f"{self.url}: could not {what}: {first_line(error)}", retryable=True) from error

    def __getstate__(self) -> dict[str, str]:
        return {"url": self.url}  # connections stay in the process that made them

    def __setstate__(self, state: Mapping[str, str]) -> None:
        self.__dict__.update(state)

    @property
    def shown(self) -> str:
        return self.url

    @property
    def name(self) -> str:
        return self.url.rsplit("/", 1)[-1]

    @property
    def work(self) -> RemoteFolder:
        parent, name = self.url.rsplit("/", 1)
        return RemoteFolder(f"{parent}/.{name}.work")

    @property
    def scratch(self) -> Path:
        """This machine's folder for a run that works here."""
        base = os.environ.get(SCRATCH)
        root = Path(base) if base else cache_folder("work")
        return root / f"{self.name.strip('.')}-{hashlib.sha256(self.url.encode()).hexdigest()[:12]}"

    @property
    def single_process(self) -> bool:
        """Whether other processes would see a store of their own."""
        return self.url.startswith("memory://")

    def size(self, name: str) -> int | None:
        def look(fs: Any, root: str) -> int | None:
            try:
                found = fs.info(f"{root}/{name}")
            except FileNotFoundError:
                return None
            return int(found["size"]) if found["type"] == "file" else None

        return self._try(f"look for {name}", look)

    def names(self) -> list[str]:
        return [n for n in self._listed("") if not n.startswith(".")]

    def files_in(self, name: str) -> list[str]:
        return [f"{name}/{n}" for n in self._listed(f"/{name}")]

    def _listed(self, below: str) -> list[str]:
        def look(fs: Any, root: str) -> list[str]:
            fs.invalidate_cache()
            try:
                return sorted(n for p in fs.ls(root + below, detail=False) if (n := p.rstrip("/").rsplit("/", 1)[-1]))
            except FileNotFoundError:
                return []

        return self._try("list it", look)

    def read(self, name: str) -> str | None:
        def get(fs: Any, root: str) -> str | None:
            try:
                return bytes(fs.cat_file(f"{root}/{name}")).decode("utf-8")
            except FileNotFoundError:
                return None

        return self._try(f"read {name}", get)

    def write(self, name: str, text: str) -> None:
        def send(fs: Any, root: str) -> None:
            _make_parent(fs, f"{root}/{name}")
            fs.pipe_file(f"{root}/{name}", text.encode("utf-8"))

        self._try(f"write {name}", send)

    def put(self, source: Path, name: str) -> None:
        def send(fs: Any, root: str) -> None:
            _make_parent(fs, f"{root}/{name}")
            fs.put_file(str(source), f"{root}/{name}")

        self._try(f"write {name}", send)

    def take(self, other: RemoteFolder, source: str, name: str) -> None:
        """Copy a file of another folder of the same store, without its passing through this machine."""

        def copy(fs: Any, root: str) -> None:
            _make_parent(fs, f"{root}/{name}")
            fs.cp_file(f"{other._place[1]}/{source}", f"{root}/{name}")

        self._try(f"copy {name}", copy)

    def get(self, name: str, target: Path, facts: FileFacts | None) -> None:
        """Fetch a file, checked against what its marker says of it. Raises StorageError: it is missing or damaged."""

        def fetch(fs: Any, root: str) -> None:
            try:
                fs.get_file(f"{root}/{name}", str(temporary))
            except FileNotFoundError:
                raise StorageError(f"{self.url}/{name} is missing; run the build again") from None

        with new_file(target) as temporary:
            self._try(f"read {name}", fetch)
            if facts and (temporary.stat().st_size, sha256(temporary)) != (facts.bytes, facts.sha256):
                raise StorageError(f"{self.url}/{name} is not what was written; remove it and run the build again")

    def remove(self, name: str) -> None:
        def delete(fs: Any, root: str) -> None:
            with suppress(FileNotFoundError):
                fs.rm_file(f"{root}/{name}")

        self._try(f"remove {name}", delete)

    def remove_all(self) -> None:
        def delete(fs: Any, root: str) -> None:
            fs.invalidate_cache()
            if fs.exists(root):
                fs.rm(root, recursive=True)

        self._try("remove it", delete)


Folder = LocalFolder | RemoteFolder


def _make_parent(fs: Any, path: str) -> None:
    """Object stores have no folders; file systems behind a URL (sftp, say) do."""
    if getattr(fs, "protocol", "") not in ("s3", ("s3", "s3a"), "gs", ("gs", "gcs")):
        fs.makedirs(path.rsplit("/", 1)[0], exist_ok=True)


def first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@dataclass(frozen=True, slots=True)
class Store:
    """A run's work folder: where stages on this machine read and write, and where the run's other machines look.

    Attributes:
        local: this machine's folder.
        remote: the place behind it; None: `local` is all there is.
    """

    local: Path
    remote: RemoteFolder | None = None

    @classmethod
    def of(cls, work: Folder) -> Store:
        return cls(work.path) if isinstance(work, LocalFolder) else cls(work.scratch, work)

    def name(self, path: Path) -> str:
        return path.relative_to(self.local).as_posix()

    def publish(self, path: Path) -> None:
        """Make a finished local file visible to the run's other machines."""
        if self.remote is not None:
            self.remote.put(path, self.name(path))

    def read_text(self, path: Path) -> str | None:
        """A small file as all machines see it; None: there is none."""
        if self.remote is not None:
            return self.remote.read(self.name(path))
        try:
            return path.read_text(encoding="utf-8")
        except OSError:
            return None

    def holds(self, path: Path, facts: FileFacts, *, check: bool) -> bool:
        """Whether a file is there in full.

        Args:
            check: also read it, where it lies on this machine, and compare its checksum.
        """
        if self.remote is not None:
            # What is fetched from there is checked when it arrives.
            return self.remote.size(self.name(path)) == facts.bytes
        return _is(path, facts, check=check)

    def bring(self, path: Path, facts: FileFacts) -> Path:
        """A file of the run, fetched if this machine does not have it."""
        if self.remote is not None and not _is(path, facts, check=True):
            self.remote.get(self.name(path), path, facts)
        return path

    def remove_all(self) -> None:
        shutil.rmtree(self.local, ignore_errors=True)
        if self.remote is not None:
            self.remote.remove_all()


def _is(path: Path, facts: FileFacts, *, check: bool) -> bool:
    try:
        return path.stat().st_size == facts.bytes and (not check or sha256(path) == facts.sha256)
    except OSError:
        return False
