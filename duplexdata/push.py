"""`duplexdata push`: a dataset goes to the Hugging Face hub in several commits, the manifest with the last one.

What has been committed is found again by its checksum, and so is what was sent and not committed yet: a push that was
interrupted is gone on with by starting it again. A repository without `manifest.json` holds no finished dataset.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
Report = Callable[[int], None]


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
    private: bool
    head: str | None
    start: str | None
    _api: Any
    _redactor: Redactor

    def run(self, report: Report) -> Pushed:
        """Send what is missing.

        Args:
            report: called with the number of files that have been sent since.

        Raises: HubError: what was committed stays, and another push goes on from there.
        """
        with _plainly(self.repo, self._redactor):
            self._make_place()
            shards = [n for n in self.missing if n not in (CARD, NAME)]
            last = [n for n in (CARD, NAME) if n in self.missing]
            groups = [*_groups(shards, self.files), *([last] if last else [])]
            sent = 0
            for group in groups:
                if group is last:
                    self._look_again()
                self._commit(group, f"Files {sent + 1} to {sent + len(group)} of {len(self.missing)}", report)
                sent += len(group)
        branch = f"/tree/{self.revision}" if self.revision else ""
        address = f"{self._api.endpoint}/datasets/{self.repo}{branch}"
        return Pushed(address, sent, len(self.files) - sent, len(groups))

    def _make_place(self) -> None:
        """The repository and the branch, where there are none."""
        if self.head is not None:
            return
        if self.start is None:
            self._api.create_repo(self.repo, repo_type=_KIND, private=self.private or None, exist_ok=True)
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

    def _commit(self, names: Sequence[str], message: str, report: Report) -> None:
        from huggingface_hub import CommitOperationAdd

        additions = []
        for name in names:
            addition = CommitOperationAdd(name, self.folder / name)
            addition.upload_info.sha256 = bytes.fromhex(self.files[name].sha256)  # else it is read once more
            additions.append(addition)
        for i in range(0, len(additions), _AT_ONCE):
            some = additions[i : i + _AT_ONCE]
            self._api.preupload_lfs_files(self.repo, some, repo_type=_KIND, revision=self.revision, free_memory=False)
            report(len(some))
        made = self._api.create_commit(
            self.repo, additions, commit_message=message, repo_type=_KIND, revision=self.revision,
            parent_commit=self.head,
        )  # fmt: skip
        self.head = made.oid


def prepare(
    dataset: str | Path,
    repo: str,
    *,
    private: bool = False,
    revision: str | None = None,
    report: Report = lambda n: None,
) -> Upload:
    """Check the token, the dataset and the repository, and find out what is to be sent. Nothing is changed.

    Args:
        dataset: its folder, or a URL, from which it is fetched first.
        repo: "owner/name" of a dataset repository; it need not exist.
        private: of a repository that is made; one that exists must be so already.
        revision: a branch; None: the main one.
        report: called with the number of files checked since.

    Raises:
        ConfigError: the name is none, or there is no token.
        DatasetError: there is no dataset, or it is not what its manifest says.
        HubError: the hub refuses, or the repository holds something else.
    """
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.utils import disable_progress_bars

    if not _REPO.fullmatch(repo):
        raise ConfigError(f"{repo!r} is no repository: expected owner/name")
    token = get_token()
    if token is None:
        raise ConfigError("there is no token for the hub: set HF_TOKEN to one that may write, or run `hf auth login`")
    disable_progress_bars()
    redactor = Redactor(token)
    api = HfApi(token=token)
    folder = at_hand(dataset)
    files = _files(folder)
    with _plainly(repo, redactor):
        head, start, there = _look(api, repo, revision, private)
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


def _look(api: Any, repo: str, revision: str | None, private: bool) -> tuple[str | None, str | None, dict[str, Any]]:
    """The branch's last commit, None if it is still to be made; the commit it is to start from; its files by name."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError
    from huggingface_hub.hf_api import RepoFile

    try:
        info = api.repo_info(repo, repo_type=_KIND)
    except GatedRepoError:
        raise
    except RepositoryNotFoundError:
        return None, None, {}
    if private and not info.private:
        raise HubError(f"{repo} is there and is public: make it private on the hub first, or leave out --private")
    head, start = info.sha, None
    if revision:
        try:
            head = api.repo_info(repo, repo_type=_KIND, revision=revision).sha
        except RevisionNotFoundError:
            # From where the repository was empty: the main branch may hold another dataset.
            head, start = None, api.list_repo_commits(repo, repo_type=_KIND)[-1].commit_id
    tree = api.list_repo_tree(repo, recursive=True, repo_type=_KIND, revision=head or start)
    return head, start, {f.path: f for f in tree if isinstance(f, RepoFile)}


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
        said = redactor.clean(cause.server_message or first_line(cause))
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
            return HubError(f"the hub cannot take more just now ({status}: {said}); later {_AGAIN}", retryable=True)
        return HubError(f"{repo}: the hub refuses what was sent ({status}: {said})")
    said = redactor.clean(f"{type(error).__name__}: {first_line(error)}")
    if isinstance(error, OfflineModeIsEnabled):
        return HubError(f"the hub's client is told to stay offline ({said}); unset HF_HUB_OFFLINE")
    if isinstance(error, HFValidationError):
        return HubError(f"{repo} cannot be a repository's name ({said})")
    library = type(error).__module__.partition(".")[0]
    if isinstance(error, OSError | RuntimeError) or library in ("httpx", "httpx2", "requests", "urllib3"):
        return HubError(f"{repo}: the hub cannot be reached, or broke off ({said}); {_AGAIN}", retryable=True)
    return HubError(f"{repo}: the hub answers what its client does not understand ({said})")
