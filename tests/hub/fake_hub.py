"""A hub to push to: the endpoints of the Hugging Face hub that uploads and `load_dataset` use, as strict as it is.

Run as a process of its own (`FakeHub`). It keeps everything in memory and answers questions about it at /stats.
Objects must have the SHA-256 that they are named after, commits must know their parent and may name only objects that
are there, and only a token that may write to an owner writes there.

Settings, as JSON: `tokens` (token -> owners it may write to), `multipart` (bytes above which objects are sent in
parts), `part` (bytes of one), `page` (files of a page of the tree), `stall_after` (objects after which uploads are
left unanswered), `fail` (a list: `what`, a regular expression of "METHOD path", is answered with `status` and
`headers` the first `times`), `lose` (like `fail`: it is done as asked, and the connection breaks before the answer),
`others` (names of models and spaces: "models/owner/name").
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

_TEXT_AT_MOST = 10 << 20
SIGNED = "?Expires=600&Signature=0123456789abcdef"
"""Addresses to upload to hold what lets one write there."""
_WHEN = "2026-01-01T00:00:00.000Z"


@dataclass
class File:
    size: int
    oid: str
    content: bytes | None = None
    """None: it is the object `sha256`."""
    sha256: str = ""

    def facts(self, path: str) -> dict[str, Any]:
        found: dict[str, Any] = {"type": "file", "path": path, "size": self.size, "oid": self.oid}
        if self.sha256:
            found["lfs"] = {"oid": self.sha256, "size": self.size, "pointerSize": 134}
        return found


@dataclass
class Repo:
    private: bool
    commits: dict[str, tuple[str, dict[str, File]]] = field(default_factory=dict)
    """Message and files by commit, the oldest first."""
    branches: dict[str, str] = field(default_factory=dict)

    def commit(self, branch: str, message: str, files: dict[str, File]) -> str:
        oid = hashlib.sha1(f"{branch}{len(self.commits)}{message}".encode()).hexdigest()
        self.commits[oid] = message, files
        self.branches[branch] = oid
        return oid


class Refusal(Exception):
    def __init__(
        self,
        status: int,
        message: str,
        code: str = "",
        headers: dict[str, str] | None = None,
        more: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.headers, self.more = status, code, headers or {}, more or {}


class Hub:
    """Everything that there is."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = {"tokens": {}, "multipart": 1 << 40, "part": 1 << 20, "page": 1000, "others": [], **settings}
        self.repos: dict[str, Repo] = {}
        self.objects: dict[str, bytes] = {}
        self.parts: dict[str, dict[int, bytes]] = {}
        self.uploads: Counter[str] = Counter()
        self.requests: Counter[str] = Counter()
        self.lock = threading.RLock()

    def repo(self, name: str) -> Repo:
        if name not in self.repos:
            raise Refusal(404, "Repository not found", "RepoNotFound")
        return self.repos[name]

    def commit_of(self, name: str, revision: str) -> str:
        repo = self.repo(name)
        found = repo.branches.get(revision) or (revision if revision in repo.commits else None)
        if found is None:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return found

    def files(self, name: str, revision: str) -> dict[str, File]:
        return self.repo(name).commits[self.commit_of(name, revision)][1]

    def bytes_of(self, file: File) -> bytes:
        return self.objects[file.sha256] if file.content is None else file.content

    def stats(self) -> dict[str, Any]:
        with self.lock:
            return {
                "uploads": dict(self.uploads),
                "requests": dict(self.requests),
                "repos": {
                    name: {
                        "private": r.private,
                        "branches": {b: sorted(r.commits[c][1]) for b, c in r.branches.items()},
                        "commits": [[message, sorted(files)] for message, files in r.commits.values()],
                    }
                    for name, r in self.repos.items()
                },
            }

    # -- what may be asked for: each gets the match, the query and the body, and gives a JSON value

    def create(self, owners: list[str], body: dict[str, Any]) -> Any:
        name = f"{body['organization']}/{body['name']}"
        if body["organization"] not in owners:
            raise Refusal(403, f"You don't have the rights to create a dataset under the namespace {name}")
        assert body["type"] == "dataset"
        if name in self.repos:
            raise Refusal(409, "You already created this dataset repo", more={"url": f"{self.url}/datasets/{name}"})
        self.repos[name] = repo = Repo(body.get("visibility") == "private" or bool(body.get("private")))
        content = b"*.parquet filter=lfs diff=lfs merge=lfs -text\n"
        repo.commit("main", "initial commit", {".gitattributes": File(len(content), _git(content), content)})
        return {"url": f"{self.url}/datasets/{name}", "name": name}

    url = ""

    def info(self, name: str, revision: str) -> Any:
        files = self.files(name, revision)
        return {
            "id": name, "author": name.split("/")[0], "sha": self.commit_of(name, revision), "lastModified": _WHEN,
            "private": self.repo(name).private, "gated": False, "disabled": False, "downloads": 0, "likes": 0,
            "tags": [], "siblings": [{"rfilename": path} for path in files],
        }  # fmt: skip

    def tree(self, name: str, revision: str, path: str, recursive: bool) -> list[Any]:
        files = self.files(name, revision)
        below = {p: f for p, f in files.items() if not path or p.startswith(f"{path}/")}
        if path and not below:
            raise Refusal(404, f"{path} does not exist on {revision!r}", "EntryNotFound")
        start = len(path) + 1 if path else 0
        found = [f.facts(p) for p, f in sorted(below.items()) if recursive or "/" not in p[start:]]
        folders = {p[: start + p[start:].index("/")] for p in below if "/" in p[start:]}
        return [{"type": "directory", "path": p, "size": 0, "oid": _git(p.encode())} for p in sorted(folders)] + found

    def paths_info(self, name: str, revision: str, paths: list[str]) -> Any:
        files = self.files(name, revision)
        found: list[Any] = []
        for path in paths:
            if path in files:
                found.append(files[path].facts(path))
            elif any(p.startswith(f"{path}/") for p in files):
                found.append({"type": "directory", "path": path, "size": 0, "oid": _git(path.encode())})
        return found

    def preupload(self, name: str, revision: str, asked: list[dict[str, Any]]) -> Any:
        files = self.files(name, revision)
        found = []
        for file in asked:
            binary = b"\0" in base64.b64decode(file["sample"]) or file["size"] > _TEXT_AT_MOST
            mode = "lfs" if binary or file["path"].endswith(".parquet") else "regular"
            there = files.get(file["path"])
            oid = (there.sha256 or there.oid) if there else None
            found.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        return {"files": found}

    def batch(self, body: dict[str, Any]) -> Any:
        assert body["operation"] == "upload" and body["hash_algo"] == "sha256"
        return {"transfer": "basic", "objects": [self._action(**o) for o in body["objects"]]}

    def _action(self, oid: str, size: int) -> Any:
        known: dict[str, Any] = {"oid": oid, "size": size}
        if oid in self.objects:
            return known
        upload: dict[str, Any] = {"href": f"{self.url}/lfs/{oid}{SIGNED}"}
        if size > self.settings["multipart"]:
            n, part = -(-size // self.settings["part"]), self.settings["part"]
            urls = {str(i + 1): f"{self.url}/lfs/{oid}/part/{i + 1}{SIGNED}" for i in range(n)}
            upload = {"href": f"{self.url}/lfs/{oid}/complete", "header": {"chunk_size": str(part), **urls}}
        return {**known, "actions": {"upload": upload, "verify": {"href": f"{self.url}/lfs/{oid}/verify"}}}

    def put(self, oid: str, data: bytes) -> None:
        if hashlib.sha256(data).hexdigest() != oid:
            raise Refusal(400, "the content has another SHA-256")
        self.objects[oid] = data
        self.uploads[oid] += 1

    def complete(self, oid: str, body: dict[str, Any]) -> Any:
        assert [p["etag"] for p in body["parts"]] == [f'"{p["partNumber"]}"' for p in body["parts"]]
        parts = self.parts.pop(oid)
        self.put(oid, b"".join(parts[p["partNumber"]] for p in body["parts"]))
        return {}

    def commit(self, name: str, branch: str, lines: list[dict[str, Any]]) -> Any:
        repo, head = self.repo(name), self.commit_of(name, branch)
        header = lines[0]["value"]
        if header.get("parentCommit", head) != head:
            raise Refusal(412, "A commit has happened since. Please refresh and try again.")
        files = dict(repo.commits[head][1])
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                content = base64.b64decode(value["content"])
                files[value["path"]] = File(len(content), _git(content), content)
            elif line["key"] == "lfsFile":
                if len(self.objects.get(value["oid"], b"")) != value["size"] or value["oid"] not in self.objects:
                    raise Refusal(400, f"Your push was rejected because LFS pointers of {value['path']} are missing")
                files[value["path"]] = File(value["size"], _git(value["oid"].encode()), None, value["oid"])
            else:
                raise Refusal(400, f"{line['key']} is not known")
        oid = repo.commit(branch, header["summary"], files)
        return {"success": True, "commitOid": oid, "commitUrl": f"{self.url}/datasets/{name}/commit/{oid}"}

    def branch(self, name: str, branch: str, body: dict[str, Any]) -> Any:
        repo = self.repo(name)
        if branch in repo.branches:
            raise Refusal(409, "Reference already exists")
        repo.branches[branch] = self.commit_of(name, body.get("startingPoint") or "main")
        return {}


def _git(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


_NAME = r"(?P<name>[\w.-]+/[\w.-]+)"
_API = rf"/api/datasets/{_NAME}(?:/(?P<kind>[a-z-]+)/(?P<revision>[^/]+)(?:/(?P<path>.+))?)?"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub
    _lost = False

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        found = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            found += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return found

    def _owners(self, writing_to: str | None = None) -> list[str]:
        given = self.headers.get("Authorization", "").removeprefix("Bearer ")
        owners = self.hub.settings["tokens"].get(given)
        if owners is None and (given or writing_to):
            raise Refusal(401, "Invalid credentials in Authorization header")
        if writing_to is not None and writing_to.split("/")[0] not in owners:
            raise Refusal(403, "Forbidden: you must use a write token for this repository")
        return list(owners or [])

    def _writer(self) -> list[str]:
        if not (owners := self._owners()):
            raise Refusal(401, "Invalid credentials in Authorization header")
        return owners

    def _serve(self) -> None:
        url = urlsplit(self.path)
        path, query = unquote(url.path), parse_qs(url.query)
        what = f"{self.command} {path}"
        try:
            with self.hub.lock:
                self.hub.requests[re.sub(r"[0-9a-f]{40,64}", "HASH", what)] += 1
                for fault in self.hub.settings.get("fail", []):
                    if re.search(fault["what"], what) and fault.setdefault("times", 1) > 0:
                        fault["times"] -= 1
                        self._body()
                        more = fault.get("headers", {})
                        raise Refusal(fault["status"], f"as told: {fault['status']}", fault.get("code", ""), more)
                for fault in self.hub.settings.get("lose", []):
                    if re.search(fault["what"], what) and fault["times"] > 0:
                        fault["times"] -= 1
                        self._lost = True
            self._route(path, query)
        except Refusal as refusal:
            why = {"X-Error-Message": str(refusal), "X-Error-Code": refusal.code, **refusal.headers}
            self._send(refusal.status, {"error": str(refusal), **refusal.more}, why)
        except (BrokenPipeError, ConnectionError):
            pass

    def _route(self, path: str, query: dict[str, list[str]]) -> None:
        hub, stall = self.hub, self.hub.settings.get("stall_after")
        if self.command == "PUT" and (found := re.fullmatch(r"/lfs/(\w+)(?:/part/(\d+))?", path)):
            if stall is not None and len(hub.uploads) >= stall:
                time.sleep(3600)
            data = self._body()
            with hub.lock:
                if found[2]:
                    hub.parts.setdefault(found[1], {})[int(found[2])] = data
                else:
                    hub.put(found[1], data)
            return self._send(200, None, {"ETag": f'"{found[2] or 1}"'})
        if found := re.fullmatch(rf"/datasets/{_NAME}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", path):
            return self._resolve(**found.groupdict())
        if path == "/stats":
            return self._send(200, hub.stats())
        if path == "/settings":
            hub.settings.update(json.loads(self._body()))
            return self._send(200, {})
        raw = self._body()
        with hub.lock:
            self._api(path, query, raw)

    def _api(self, path: str, query: dict[str, list[str]], raw: bytes) -> None:
        hub = self.hub
        if path == "/api/validate-yaml":
            return self._send(200, {"errors": [], "warnings": []})
        if path == "/api/repos/create":
            return self._send(200, hub.create(self._writer(), json.loads(raw)))
        if found := re.fullmatch(rf"/datasets/{_NAME}\.git/info/lfs/objects/batch", path):
            self._owners(found["name"])
            return self._send(200, hub.batch(json.loads(raw)))
        if found := re.fullmatch(r"/lfs/(\w+)/(complete|verify)", path):
            if found[2] == "complete":
                return self._send(200, hub.complete(found[1], json.loads(raw)))
            return self._send(200 if found[1] in hub.objects else 404, {})
        if found := re.fullmatch(rf"/api/((?:models|spaces)/{_NAME})", path):
            if found[1] not in hub.settings["others"]:
                raise Refusal(404, "Repository not found", "RepoNotFound")
            return self._send(200, {"id": found["name"], "sha": "0" * 40, "private": False, "tags": [], "siblings": []})
        found = re.fullmatch(_API, path)
        if found is None:
            raise Refusal(404, f"{path} is not known here")
        name, kind, revision = found["name"], found["kind"], found["revision"] or "main"
        writing: dict[str, Callable[[], Any]] = {
            "preupload": lambda: hub.preupload(name, revision, json.loads(raw)["files"]),
            "commit": lambda: hub.commit(name, revision, [json.loads(line) for line in raw.splitlines()]),
            "branch": lambda: hub.branch(name, revision, json.loads(raw or b"{}")),
        }
        if kind in writing:
            self._owners(name)
            return self._send(200, writing[kind]())
        owners = self._owners()
        if hub.repo(name).private and name.split("/")[0] not in owners:
            raise Refusal(404, "Repository not found", "RepoNotFound")
        if kind in (None, "revision"):
            return self._send(200, hub.info(name, revision))
        if kind == "commits":
            hub.commit_of(name, revision)
            commits = hub.repo(name).commits.items()
            found_ = [{"id": c, "title": m, "message": "", "date": _WHEN, "authors": []} for c, (m, _) in commits]
            return self._send(200, found_[::-1])
        if kind == "paths-info":
            paths = json.loads(raw)["paths"] if raw[:1] == b"{" else parse_qs(raw.decode())["paths"]
            return self._send(200, hub.paths_info(name, revision, paths))
        if kind == "tree":
            recursive = query.get("recursive", ["false"])[0].lower() in ("true", "1")
            entries = hub.tree(name, revision, found["path"] or "", recursive)
            at, page = int(query.get("cursor", ["0"])[0]), hub.settings["page"]
            more = {}
            if at + page < len(entries):
                rest = f"{hub.url}{urlsplit(self.path).path}?recursive={recursive}&cursor={at + page}"
                more = {"Link": f'<{rest}>; rel="next"'}
            return self._send(200, entries[at : at + page], more)
        raise Refusal(404, f"{path} is not known here")

    def _resolve(self, name: str, revision: str, path: str) -> None:
        hub = self.hub
        with hub.lock:
            commit, files = hub.commit_of(name, revision), hub.files(name, revision)
            if path not in files:
                raise Refusal(404, "Entry not found", "EntryNotFound")
            data, file = hub.bytes_of(files[path]), files[path]
        headers = {"X-Repo-Commit": commit, "ETag": f'"{file.sha256 or file.oid}"', "Accept-Ranges": "bytes"}
        status = 200
        if wanted := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            first, last = int(wanted[1]), min(int(wanted[2] or len(data) - 1), len(data) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
            data, status = data[first : last + 1], 206
        self._send(status, data, headers)

    def _send(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        if self._lost:
            self.close_connection = True
            return
        data = value if isinstance(value, bytes) else b"" if value is None else json.dumps(value).encode()
        self.send_response(status)
        for key, text in (headers or {}).items():
            if text:
                self.send_header(key, text)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    do_GET = do_HEAD = do_POST = do_PUT = _serve


class FakeHub:
    """The hub in a process of its own, as a context manager."""

    def __init__(self, **settings: Any) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, json.dumps(settings)], stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()

    def stats(self) -> dict[str, Any]:
        with urllib.request.urlopen(f"{self.url}/stats", timeout=10) as reply:
            return dict(json.load(reply))

    def set(self, **settings: Any) -> None:
        request = urllib.request.Request(f"{self.url}/settings", json.dumps(settings).encode())
        urllib.request.urlopen(request, timeout=10).close()

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> FakeHub:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()
        assert self._process.stdout is not None
        self._process.stdout.close()


def main() -> None:
    Handler.hub = Hub(json.loads(sys.argv[1]))
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Handler.hub.url = f"http://127.0.0.1:{server.server_port}"
        print(Handler.hub.url, flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
