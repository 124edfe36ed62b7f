"""Tokens and keys of the environment appear in nothing that a command writes: data, work folder, logs, errors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from xml.sax.saxutils import escape

import pytest
import yaml

from duplexdata.redact import Redactor, redact

CANARIES = {
    "HF_TOKEN": "hf_canaryAbCdEfGhIjKlMnOpQrStUvWxYz",
    "OPENAI_API_KEY": "sk-canary-0123456789abcdefghijklmnop",
    "AWS_SECRET_ACCESS_KEY": "canary/wJalrXUtnFEMI+K7MDENGbPxRfiCY",
    "SPEECH_KEY": "speech-canary-0123456789",
}


class _Echo(BaseHTTPRequestHandler):
    """Refuses everything, and repeats in its refusal what it was sent: the worst that a server may do."""

    protocol_version = "HTTP/1.1"

    def _refuse(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        self.rfile.read(length)
        said = "; ".join(f"{k}: {v}" for k, v in self.headers.items()) + f"; {json.dumps(CANARIES)}"
        body = json.dumps({"error": {"message": said}, "message": said, "detail": said}).encode()
        kind = "application/json"
        if "AWS4" in self.headers.get("Authorization", ""):
            said = escape(said)
            body = f"<Error><Code>AccessDenied</Code><Message>{said}</Message></Error>".encode()
            kind = "application/xml"
        self.send_response(403)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Error-Message", said)
        self.send_header("X-Error-Code", "GatedRepo")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _refuse

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def echo() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Echo) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def _run(folder: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder / "home"), "AWS_ACCESS_KEY_ID": "someone"}
    return subprocess.run(
        [sys.executable, "-m", "duplexdata", *arguments],
        env=environment | CANARIES | more, cwd=folder, capture_output=True, text=True, timeout=250, check=False,
    )  # fmt: skip


def _check(folder: Path, done: subprocess.CompletedProcess[str]) -> None:
    written = [done.stdout.encode(), done.stderr.encode()]
    written += [p.read_bytes() for p in folder.rglob("*") if p.is_file()]
    for name, canary in CANARIES.items():
        # The beginning may be a kind's mark; what is behind it is the secret.
        for part in (canary, canary[len(canary) // 2 :]):
            assert not any(part.encode() in text for text in written), name


@pytest.mark.slow
def test_a_build_holds_no_secret(tmp_path: Path) -> None:
    pytest.importorskip("espeakng_loader")
    done = _run(tmp_path, "build", "--conversations", "8", "--out", "made", "--keep-work", "--workers", "2")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "made" / "README.md").is_file() and list((tmp_path / ".made.work").rglob("*.done.json"))
    _check(tmp_path, done)


_FAILING = {
    "a source on the hub": ["build", "--source", "someone/private", "--out", "made"],
    "a tokenizer on the hub": ["emit", "DATASET", "--out", "made", "--tokenizer", "someone/private"],
    "a dataset to train on": ["train", "sft", "--dataset", "someone/private", "--out", "run"],
    "a model to train": ["train", "sft", "--dataset", "DATASET", "--model", "someone/private", "--out", "run"],
    "a voice bank on the hub": ["voices", "check", "someone/private"],
    "an object store": ["verify", "s3://bucket/dataset"],
    "an object store to build in": ["build", "--out", "s3://bucket/dataset", "--workers", "1"],
    "a language model": ["build", "--config", "writer.yaml", "--out", "made", "--workers", "1"],
    "a push": ["push", "DATASET", "someone/private"],
    "a speech server": ["build", "--config", "speech.yaml", "--out", "made", "--workers", "1"],
}


@pytest.mark.slow
@pytest.mark.parametrize("arguments", _FAILING.values(), ids=_FAILING)
def test_a_command_that_fails_shows_no_secret(
    small_dataset: Path, tmp_path: Path, echo: str, arguments: list[str], write_bank: object
) -> None:
    assert callable(write_bank)
    writer = {"model": "m", "base_url": f"{echo}/v1", "patience_sec": 2.0, "max_retries": 0}
    speech = {"backend": "speech_http", "servers": [echo], "api_key_env": "SPEECH_KEY", "patience_sec": 2.0}
    (tmp_path / "writer.yaml").write_text(yaml.safe_dump({"conversations": 8, "writer": writer}))
    voices = {"bank": str(write_bank()), "assistant": None, "check": False, "allow_unlicensed": True}
    (tmp_path / "speech.yaml").write_text(yaml.safe_dump({"conversations": 8, "speech": speech, "voices": voices}))
    given = [str(small_dataset) if a == "DATASET" else a for a in arguments]
    done = _run(tmp_path, *given, HF_ENDPOINT=echo, AWS_ENDPOINT_URL=echo, AWS_DEFAULT_REGION="us-east-1")
    assert done.returncode in (1, 2), done.stderr
    assert done.stderr.startswith("duplexdata: ") and "Traceback" not in done.stderr, done.stderr
    _check(tmp_path, done)


@pytest.mark.slow
def test_a_traceback_shows_no_secret(tmp_path: Path) -> None:
    """Bugs of ours, and libraries that put a request into their message."""
    code = (
        "import os, duplexdata.cli as c\n"
        "def broken(*a, **k):\n"
        "    try: raise KeyError(os.environ['HF_TOKEN'])\n"
        "    except KeyError as e: raise RuntimeError('sent ' + os.environ['AWS_SECRET_ACCESS_KEY']) from e\n"
        "c.app = broken\n"
        "c.main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **CANARIES}, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert done.returncode == 1 and "RuntimeError: sent [key]" in done.stderr and "KeyError" in done.stderr
    _check(tmp_path, done)


def test_what_an_environment_keeps_secret_is_known_by_its_name(tmp_path: Path) -> None:
    file = tmp_path / "key.json"
    file.write_text("{}")
    environment = {
        **CANARIES,
        "MY_PASSWORD": "correct horse",
        "aws_session_token": "session-0123456",
        "GOOGLE_KEY": str(file),
        "TOKENIZERS_PARALLELISM": "false-false",
        "KEYBOARD": "us-international",
        "API_KEY": "none",
    }
    clean = Redactor.of_environment(environment).clean
    for name in (*CANARIES, "MY_PASSWORD", "aws_session_token"):
        assert clean(f"a{environment[name]}b") == "a[key]b"
    for name in ("GOOGLE_KEY", "TOKENIZERS_PARALLELISM", "KEYBOARD", "API_KEY"):
        assert clean(environment[name]) == environment[name]


def test_a_key_that_another_begins_with_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_KEY", "0123456789")
    monkeypatch.setenv("B_KEY", "0123456789abcdef")
    assert redact("<0123456789abcdef> <0123456789>") == "<[key]> <[key]>"
    assert Redactor("0123456789").clean_bytes(b"x0123456789") == b"x[key]"
