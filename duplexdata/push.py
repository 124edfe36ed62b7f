"""`duplexdata push`: a dataset goes to the Hugging Face hub in several commits, the manifest with the last one.

What has been committed is found again by its checksum, and so is what was sent and not committed yet: a push that was
interrupted is gone on with by starting it again. A repository without `manifest.json` holds no finished dataset.
"""

from __future__ import annotations

import hashlib
import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from duplexdata.errors import ConfigError, DatasetError, DuplexDataError, HubError
from duplexdata.fetch import at_hand
from duplexdata.manifest import NAME, read_manifest
from duplexdata.redact import Redactor
from duplexdata.shards import FileFacts, sha256
from duplexdata.storage import first_line

CARD = "README.md"
COMMIT_FILES, COMMIT_BYTES = 200, 5 << 30
"""At most in a commit. The hub allows some hundred commits an hour, and advises against thousands of files in one."""
_AT_ONCE = 8
"""Files handed to the client at a time, which sends five of them side by side; progress is reported in between."""
_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_KIND = "dataset"
_HUBS_OWN = (".gitattributes",)
_WAITS_SEC = (1.0, 4.0, 16.0)
"""Before what failed for a moment is tried again. What the hub asks for in `Retry-After` is kept to if it is longer."""
_LONGEST_WAIT_SEC = 300.0
"""The hub counts requests in windows of five minutes; who is to wait longer is told so instead."""
Report = Callable[[int], None]
T = TypeVar("T")
_log = logging.getLogger(__name__)


class _Busy(HubError):
    """The hub cannot be reached, or not just now. `after_sec`: how long it asks to wait, if it does."""

    def __init__(self, message: str, after_sec: float | None = None) -> None:
        super().__init__(message, retryable=True)
        self.after_sec = after_sec


@dataclass(frozen=True, slots=True)
class Pushed:
    """Attributes:
    address: of the dataset's page.
    sent, kept: files that this push has sent, and that were there already.
    commits: made by this push.
    """

    address: str
    sent: int
    kept: int
    commits: int


@dataclass(slots=True)
class Upload:
    """A dataset that may go to a repository. Made by `prepare`.

    Attributes:
        files: all of it, in the order in which it is sent.
        missing: those that are not there yet.
        head: the branch's last commit; None: the branch, or the repository, is still to be made.
        start: the commit that a new branch starts from.
    """

    folder: Path
    files: Mapping[str, FileFacts]
    missing: Sequence[str]
    repo: str
    revision: str | None
    private: bool | None
    head: str | None
    start: str | None
    _api: Any
    _redactor: Redactor

    def run(self, report: Report, wait: Callable[[float], None] = time.sleep) -> Pushed:
        """Send what is missing. What fails for a moment is tried again a few times.

        Args:
            report: called with the number of files that have been sent since.
            wait: called with the seconds to wait before another try.

        Raises: HubError: what was committed stays, and another push goes on from there.
        """
        self._patiently(self._make_place, wait)
        shards = [n for n in self.missing if n not in (CARD, NAME)]
        last = [n for n in (CARD, NAME) if n in self.missing]
        groups = [*_groups(shards, self.files), *([last] if last else [])]
        sent = 0
        for group in groups:
            if group is last:
                self._patiently(self._look_again, wait)
            self._send(group, f"Files {sent + 1} to {sent + len(group)} of {len(self.missing)}", report, wait)
            sent += len(group)
        branch = f"/tree/{self.revision}" if self.revision else ""
        address = f"{self._api.endpoint}/datasets/{self.repo}{branch}"
        return Pushed(address, sent, len(self.files) - sent, len(groups))

    def _patiently(self, step: Callable[[], T], wait: Callable[[float], None]) -> T:
        for usual in _WAITS_SEC:
            try:
                with _plainly(self.repo, self._redactor):
                    return step()
            except _Busy as busy:
                seconds = max(usual, busy.after_sec or 0.0)
                if seconds > _LONGEST_WAIT_SEC:
                    raise
                _log.warning("trying again in %.0f s: %s", seconds, busy)
                wait(seconds)
        with _plainly(self.repo, self._redactor):
            return step()

    def _make_place(self) -> None:
        """The repository and the branch, where there are none."""
        if self.head is not None:
            return
        if self.start is None:
            self._api.create_repo(self.repo, repo_type=_KIND, private=self.private is not False, exist_ok=True)
        if self.revision:
            self._api.create_branch(
                self.repo, repo_type=_KIND, branch=self.revision, revision=self.start, exist_ok=True
            )
        self.head = self._api.repo_info(self.repo, repo_type=_KIND, revision=self.revision).sha

    def _look_again(self) -> None:
        """The manifest goes only where all that it lists is, and nothing else: somebody may have pushed meanwhile."""
        self.head, _, there = _look(self._api, self.repo, self.revision, self.private)
        gone = [n for n in self.files if n not in (CARD, NAME) and not self._is_there(there, n)]
        _check_target(self.repo, there, self.files, [n for n in self.files if not self._is_there(there, n)])
        if gone:
            raise HubError(f"{self.repo} has been changed meanwhile ({gone[0]} is another); {_AGAIN}", retryable=True)

    def _is_there(self, there: Mapping[str, Any], name: str) -> bool:
        return _is_there(there.get(name), self.folder / name, self.files[name])

    def _send(self, names: Sequence[str], message: str, report: Report, wait: Callable[[float], None]) -> None:
        from huggingface_hub import CommitOperationAdd

        additions = []
        for name in names:
            addition = CommitOperationAdd(name, self.folder / name)
            addition.upload_info.sha256 = bytes.fromhex(self.files[name].sha256)  # else it is read once more
            additions.append(addition)
        place = {"repo_type": _KIND, "revision": self.revision}
        for i in range(0, len(additions), _AT_ONCE):
            some = additions[i : i + _AT_ONCE]
            self._patiently(lambda: self._api.preupload_lfs_files(self.repo, some, free_memory=False, **place), wait)  # noqa: B023
            report(len(some))
        tries = 0

        def commit() -> str:
            nonlocal tries
            tries += 1
            if tries > 1 and (made := self._made(names)):
                return made
            return str(
                self._api.create_commit(
                    self.repo, additions, commit_message=message, parent_commit=self.head, **place
                ).oid
            )

        self.head = self._patiently(commit, wait)

    def _made(self, names: Sequence[str]) -> str | None:
        """The branch's last commit if it holds these files: a commit whose answer was lost has been made."""
        head, _, there = _look(self._api, self.repo, self.revision, self.private)
        return head if all(self._is_there(there, n) for n in names) else None


def prepare(
    dataset: str | Path,
    repo: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    report: Report = lambda n: None,
) -> Upload:
    """Check the token, the dataset and the repository, and find out what is to be sent. Nothing is changed.

    Args:
        dataset: its folder, or a URL, from which it is fetched first.
        repo: "owner/name" of a dataset repository; it need not exist.
        private: one that is made is private unless this is False; one that exists must be so already, None: either.
        revision: a branch; None: the main one.
        report: called with the number of files checked since.

    Raises:
        ConfigError: the name is none, or there is no token.
        DatasetError: there is no dataset, or it is not what its manifest says.
        HubError: the hub refuses, or the repository holds something else.
    """
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.utils import logging as client_logging
    from huggingface_hub.utils.tqdm import disable_progress_bars

    if not _REPO.fullmatch(repo):
        raise ConfigError(f"{repo!r} is no repository: expected owner/name")
    token = get_token()
    if token is None:
        raise ConfigError("there is no token for the hub: set HF_TOKEN to one that may write, or run `hf auth login`")
    disable_progress_bars()
    client_logging.set_verbosity_error()  # its warnings hold addresses that are signed, and what fails is told here
    redactor = Redactor(token)
    api = HfApi(token=token)
    folder = at_hand(dataset)
    files = _files(folder)
    with _plainly(repo, redactor):
        head, start, there = _look(api, repo, revision, private)
        if head is None and start is None:
            _check_other_kinds(api, repo)
    missing = [n for n in files if not _is_there(there.get(n), folder / n, files[n])]
    _check_target(repo, there, files, missing)
    _check_files(folder, files, report)
    return Upload(folder, files, missing, repo, revision, private, head, start, api, redactor)


def _files(folder: Path) -> dict[str, FileFacts]:
    """What a dataset consists of, in the order in which it is sent."""
    listed = {name: FileFacts(**facts) for name, facts in sorted(read_manifest(folder)["files"].items())}
    for name in (CARD, NAME):
        path = folder / name
        if not path.is_file():
            raise DatasetError(f"{path} is missing: run the build again")
        listed[name] = FileFacts(0, path.stat().st_size, sha256(path))
    return listed


def _check_files(folder: Path, files: Mapping[str, FileFacts], report: Report) -> None:
    for name, facts in files.items():
        path = folder / name
        if not path.is_file():
            raise DatasetError(f"{path} is missing, and {NAME} lists it: nothing was sent; run the build again")
        if path.stat().st_size != facts.bytes or sha256(path) != facts.sha256:
            raise DatasetError(
                f"{path} is not what {NAME} says of it: nothing was sent; `duplexdata verify {folder}` has more"
            )
        report(1)


def _look(
    api: Any, repo: str, revision: str | None, private: bool | None
) -> tuple[str | None, str | None, dict[str, Any]]:
    """The branch's last commit, None if it is still to be made; the commit it is to start from; its files by name."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError
    from huggingface_hub.hf_api import RepoFile

    try:
        info = api.repo_info(repo, repo_type=_KIND)
    except GatedRepoError:
        raise
    except RepositoryNotFoundError:
        return None, None, {}
    if private is not None and private != info.private:
        found, wanted = ("private", "public") if info.private else ("public", "private")
        raise HubError(f"{repo} is there and is {found}: make it {wanted} on the hub first, or leave out --{wanted}")
    head, start = info.sha, None
    if revision:
        try:
            head = api.repo_info(repo, repo_type=_KIND, revision=revision).sha
        except RevisionNotFoundError:
            # From where the repository was empty: the main branch may hold another dataset.
            head, start = None, api.list_repo_commits(repo, repo_type=_KIND)[-1].commit_id
    tree = api.list_repo_tree(repo, recursive=True, repo_type=_KIND, revision=head or start)
    return head, start, {f.path: f for f in tree if isinstance(f, RepoFile)}


def _check_other_kinds(api: Any, repo: str) -> None:
    """The hub lets a model and a dataset share a name. Where there is a model only, the name is likely a mistake."""
    for kind in ("model", "space"):
        if api.repo_exists(repo, repo_type=kind):
            raise HubError(
                f"{repo} is a {kind} and no dataset; name another repository, "
                "or make a dataset of this name on the hub first"
            )


def _is_there(found: Any, path: Path, facts: FileFacts) -> bool:
    """Whether a file of the repository is this one: large files are known by SHA-256, small ones as git knows them."""
    if found is None or found.size != facts.bytes:
        return False
    if found.lfs is not None:
        return bool(found.lfs.sha256 == facts.sha256)
    try:
        data = path.read_bytes()
    except OSError:
        return False
    return bool(found.blob_id == hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest())


def _check_target(repo: str, there: Mapping[str, Any], files: Mapping[str, FileFacts], missing: Sequence[str]) -> None:
    """Raises HubError where a push would replace or mix up what is somebody else's."""
    elsewhere = "name another repository, or a new branch with --revision"
    if NAME in there and NAME in missing:
        raise HubError(f"{repo} holds another dataset (its {NAME} is not this one's); {elsewhere}")
    foreign = sorted(n for n in there if n not in files and n not in _HUBS_OWN)
    if foreign:
        raise HubError(f"{repo} holds other files ({', '.join(foreign[:5])}); {elsewhere}")


def _groups(names: Sequence[str], files: Mapping[str, FileFacts]) -> Iterator[list[str]]:
    """What goes into one commit."""
    group: list[str] = []
    size = 0
    for name in names:
        if group and (len(group) == COMMIT_FILES or size + files[name].bytes > COMMIT_BYTES):
            yield group
            group, size = [], 0
        group.append(name)
        size += files[name].bytes
    if group:
        yield group


@contextmanager
def _plainly(repo: str, redactor: Redactor) -> Iterator[None]:
    """What the hub's client raises becomes a line that says what to do."""
    try:
        yield
    except DuplexDataError:
        raise
    except Exception as error:  # the client's, its HTTP library's, and the system's
        raise _told(repo, error, redactor) from error


_AGAIN = "run the same command again: it goes on from here"


def _told(repo: str, error: Exception, redactor: Redactor) -> HubError:
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled, RepositoryNotFoundError

    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, HfHubHTTPError):
        cause = cause.__cause__  # an upload's error is wrapped
    if isinstance(cause, HfHubHTTPError) and cause.response is not None:
        status = cause.response.status_code
        said = _speakable(cause.server_message or first_line(cause), redactor)
        if status == 401 and not isinstance(cause, RepositoryNotFoundError):
            return HubError(f"the hub refuses the token (401: {said}); make a new one that may write, and set HF_TOKEN")
        if status in (401, 403, 404):
            return HubError(
                f"{repo}: the token may not write there, or the owner is unknown ({status}: {said}); "
                "it needs the right to write to this owner's datasets"
            )
        if status in (409, 412):
            return HubError(f"{repo} has been changed meanwhile ({status}: {said}); {_AGAIN}", retryable=True)
        if status == 429 or status >= 500:
            after = _asked_wait(cause.response.headers)
            when = "later" if after is None else f"in {after:.0f} s or later"
            return _Busy(f"the hub cannot take more just now ({status}: {said}); {when} {_AGAIN}", after)
        return HubError(f"{repo}: the hub refuses what was sent ({status}: {said})")
    said = _speakable(f"{type(error).__name__}: {first_line(error)}", redactor)
    if isinstance(error, OfflineModeIsEnabled):
        return HubError(f"the hub's client is told to stay offline ({said}); unset HF_HUB_OFFLINE")
    if isinstance(error, HFValidationError):
        return HubError(f"{repo} cannot be a repository's name ({said})")
    library = type(error).__module__.partition(".")[0]
    if isinstance(error, OSError | RuntimeError) or library in ("httpx", "httpx2", "requests", "urllib3"):
        return _Busy(f"{repo}: the hub cannot be reached, or broke off ({said}); {_AGAIN}")
    return HubError(f"{repo}: the hub answers what its client does not understand ({said})")


def _speakable(text: str, redactor: Redactor) -> str:
    """One line without keys. Whoever knows the query of an address to upload to may write there."""
    return redactor.clean(re.sub(r"(https?://[^\s?'\"<>]+)\?[^\s'\"<>]*", r"\1?[…]", " ".join(text.split())))


def _asked_wait(headers: Mapping[str, str]) -> float | None:
    """Seconds, from `Retry-After` or, where nothing remains, `RateLimit: "api";r=0;t=55`; None: it does not say."""
    plain = re.fullmatch(r"\s*(\d{1,6})\s*", headers.get("Retry-After", ""))
    limit = re.search(r";\s*r=0;\s*t=(\d{1,6})", headers.get("RateLimit", ""))
    found = plain or limit
    return float(found[1]) if found else None
