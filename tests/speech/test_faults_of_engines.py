"""Engines that hang, crash or send broken sound, caused for real: the build goes on, and every loss is counted."""

from __future__ import annotations

import io
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile as sf

from duplexdata.build import build
from duplexdata.config import CacheConfig, Config, QualityConfig, ShardConfig, SpeechConfig, VoicesConfig
from duplexdata.manifest import read_manifest
from duplexdata.speech.base import Speech, SpeechRequest
from duplexdata.speech.espeak import EspeakSynthesizer
from duplexdata.speech.voices import assistant_voice
from duplexdata.verify import verify

pytest.importorskip("espeakng_loader")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
SMALL = Config(conversations=16, shards=ShardConfig(conversations=12, test_fraction=0.25))


def _build(config: Config, out: Path) -> dict[str, Any]:
    assert build(config, out, workers=1, report=lambda *_: None)
    assert not list(verify(out))
    assert [p for p in out.parent.iterdir() if p.name.startswith(f".{out.name}")] == []
    return read_manifest(out)


def _speech(manifest: Mapping[str, Any]) -> dict[str, Any]:
    [stage] = [s for s in manifest["stages"] if s["stage"] == "speech"]
    assert stage["items_in"] == stage["items_out"] + sum(stage["dropped"].values())
    return dict(stage)


def _conversations(dataset: Path) -> dict[str, list[str]]:
    """What is said in each, by id."""
    files = sorted((dataset / "conversations").glob("*.parquet"))
    rows = [r for f in files for r in pq.read_table(f, columns=["id", "utterances"]).to_pylist()]
    return {row["id"]: [u["text"] for u in row["utterances"]] for row in rows}


def _victims(conversations: Mapping[str, list[str]], faults: tuple[str, ...]) -> dict[str, tuple[str, str]]:
    """For each fault a conversation and one of its texts that no other has."""
    texts = Counter(t for said in conversations.values() for t in said)
    own = ((c, next(t for t in said if texts[t] == 1 and len(t) > 30)) for c, said in sorted(conversations.items()))
    return dict(zip(faults, own, strict=False))


# -- espeak-ng, in its helper process


_HELPER = '''
import importlib.util, json, os, signal, sys, time
from pathlib import Path

spec = importlib.util.spec_from_file_location("helper", {helper!r})
helper = importlib.util.module_from_spec(spec)
spec.loader.exec_module(helper)
FAULTS, SEEN, MAIN = {faults!r}, Path({seen!r}), os.getpid()
speak = helper.Engine.speak

def broken(self, request):
    """Runs in the process that speaks one utterance."""
    fault = FAULTS.get(request["text"])
    if fault is None:
        return speak(self, request)
    with (SEEN / fault).open("a") as f:
        f.write("x")
    times = (SEEN / fault).stat().st_size
    if fault == "crashes" or fault == "crashes_once" and times == 1:
        os.kill(os.getpid(), signal.SIGSEGV)
    if fault == "kills_its_helper" or fault == "kills_its_helper_once" and times == 1:
        os.kill(MAIN, signal.SIGKILL)
        time.sleep(5)
    if fault in ("hangs", "hangs_once") and (fault == "hangs" or times == 1):
        time.sleep(600)
    answer = speak(self, request)
    size = int.from_bytes(answer[:4], "little")
    head, pcm = json.loads(answer[4:4 + size]), memoryview(answer[4 + size:]).cast("h")
    if fault == "silence":
        pcm = [0] * len(pcm)
    if fault == "clipped":
        pcm = [max(-32768, min(32767, 40 * s)) for s in pcm]
    if fault == "says_nothing":
        pcm = []
    if fault == "endless":
        pcm = (list(pcm) * 400)[:22050 * 600]
    import array
    pcm = array.array("h", pcm)
    return helper.frame({{**head, "n_samples": len(pcm)}}) + pcm.tobytes()

helper.Engine.speak = broken
sys.exit(helper.main())
'''
_ENGINE_FAULTS = {
    "crashes": "synthesis_failed",
    "crashes_once": None,
    "kills_its_helper": "synthesis_failed",
    "kills_its_helper_once": None,
    "hangs": "synthesis_failed",
    "hangs_once": None,
    "says_nothing": "synthesis_failed",
    "silence": "rejected_silent",
    "clipped": "rejected_clipping",
    "endless": "rejected_",
}
"""Why the conversation is dropped; None: it is not."""


def test_a_broken_engine_costs_the_conversations_it_breaks_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import duplexdata.speech.espeak as espeak

    _build(SMALL, tmp_path / "whole")
    whole = _conversations(tmp_path / "whole")
    victims = _victims(whole, tuple(_ENGINE_FAULTS))
    assert len(victims) == len(_ENGINE_FAULTS)
    (tmp_path / "seen").mkdir()
    faults = {text: fault for fault, (_, text) in victims.items()}
    script = tmp_path / "broken_helper.py"
    script.write_text(_HELPER.format(helper=str(espeak._HELPER), faults=faults, seen=str(tmp_path / "seen")))
    monkeypatch.setattr(espeak, "_HELPER", script)

    manifest = _build(replace(SMALL, speech=SpeechConfig(timeout_sec=4)), tmp_path / "broken")

    attempts = {f: (tmp_path / "seen" / f).stat().st_size for f in _ENGINE_FAULTS}
    again = {f: n for f, n in attempts.items() if f.startswith(("crashes", "kills", "hangs"))}
    # (A helper that dies takes with it what was sent behind the utterance, which is then asked for anew.)
    assert all(n >= (2 if f.endswith("_once") else 3) for f, n in again.items()), attempts
    left = _conversations(tmp_path / "broken")
    lost = {victims[f][0] for f, reason in _ENGINE_FAULTS.items() if reason}
    assert left == {c: said for c, said in whole.items() if c not in lost}
    stage = _speech(manifest)
    assert stage["items_out"] == len(whole) - len(lost)
    dropped = Counter(stage["dropped"])
    assert dropped["synthesis_failed"] == 4
    assert dropped["rejected_silent"] == dropped["rejected_clipping"] == 1
    assert dropped.total() == len(lost), "and one for the endless one"
    assert not _running(script)


def _running(script: Path) -> list[str]:
    found = []
    for line in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(line.read_text())
        except OSError:
            continue
    return [command for command in found if str(script) in command]


# -- a server that clones voices


class _Server(ThreadingHTTPServer):
    """Speaks with espeak-ng, whatever the voice; texts in `faults` get theirs."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.engine, self.lock = EspeakSynthesizer(), Lock()
        self.faults: dict[str, str] = {}
        self.seen: Counter[str] = Counter()

    def speak(self, text: str) -> np.ndarray[Any, np.dtype[np.float32]]:
        with self.lock:
            [found] = self.engine.synthesize_many([SpeechRequest(text, assistant_voice())])
        assert isinstance(found, Speech)
        return np.asarray(found.samples)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._answer(json.dumps({"data": [{"id": "broken"}]}).encode(), "application/json")

    def do_POST(self) -> None:
        text = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["input"]
        fault = self.server.faults.get(text, "")
        self.server.seen[fault] += 1
        if fault.endswith("_once"):
            fault = fault.removesuffix("_once") if self.server.seen[fault] == 1 else ""
        samples = self.server.speak(text)
        rate = self.server.engine.sample_rate
        if fault == "hangs":
            time.sleep(60)
        if fault == "silence":
            samples = np.zeros_like(samples)
        if fault == "nan":
            samples = samples.copy()
            samples[len(samples) // 2 :] = np.nan
        if fault == "infinite":
            samples = np.full_like(samples, np.inf)
        if fault == "clipped":
            samples = np.clip(40 * samples, -1, 1)
        if fault == "endless":
            counted = self.server.speak(", ".join(map(str, range(100, 200))))
            samples = np.concatenate([counted] * (1 + 120 * rate // len(counted)))
        body = io.BytesIO()
        sf.write(body, samples, rate, format="WAV", subtype="FLOAT")
        self._answer(body.getvalue(), "audio/wav")

    def _answer(self, body: bytes, kind: str) -> None:
        try:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        except OSError:  # nobody waits any more
            self.close_connection = True


@contextmanager
def _serving() -> Iterator[_Server]:
    server = _Server()
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        server.engine.close()
        thread.join()


_SERVER_FAULTS = {
    "hangs": "synthesis_failed",
    "hangs_once": None,
    "silence": "rejected_silent",
    "silence_once": None,
    "nan": "rejected_not_finite",
    "nan_once": None,
    "infinite": "rejected_not_finite",
    "clipped": "rejected_clipping",
    "clipped_once": None,
    "endless": "rejected_",
}


def test_what_a_server_sends_broken_is_asked_for_again_then_dropped(
    tmp_path: Path, write_bank: Callable[..., Path]
) -> None:
    with _serving() as server:
        config = replace(
            SMALL,
            voices=VoicesConfig(bank=str(write_bank())),
            cache=CacheConfig(folder="off"),
            quality=QualityConfig(attempts=3, leak_likeness=0.999),  # one voice says everything
            speech=SpeechConfig(
                backend="speech_http",
                servers=(f"http://127.0.0.1:{server.server_port}",),
                sample_rate=server.engine.sample_rate,
                piece_characters=5000,
                answer_timeout_sec=12,
                request_attempts=1,
            ),
        )
        before = _build(config, tmp_path / "whole")
        whole = _conversations(tmp_path / "whole")
        victims = _victims(whole, tuple(_SERVER_FAULTS))
        assert len(victims) == len(_SERVER_FAULTS)
        server.faults.update({text: fault for fault, (_, text) in victims.items()})
        manifest = _build(config, tmp_path / "broken")
        seen = server.seen
    assert {f: seen[f] for f in _SERVER_FAULTS} == {f: 3 if r else 2 for f, r in _SERVER_FAULTS.items()}
    left = _conversations(tmp_path / "broken")
    lost = {victims[f][0] for f, reason in _SERVER_FAULTS.items() if reason}
    assert set(left) == set(whole) - lost
    dropped = Counter(_speech(manifest)["dropped"]) - Counter(_speech(before)["dropped"])
    assert dropped.total() == len(lost) == 6
    assert dropped["rejected_not_finite"] == 2
    assert dropped["synthesis_failed"] == dropped["rejected_silent"] == dropped["rejected_clipping"] == 1
    takes = _faults(manifest) - _faults(before)  # espeak-ng by itself clips now and then
    assert takes["not_finite"] == 3 + 3 + 1
    assert takes["silent"] == takes["clipping"] == 3 + 1
    assert takes["synthesis_failed"] >= 3 + 1, "and more where the machine is too busy to answer in time"


def _faults(manifest: Mapping[str, Any]) -> Counter[str]:
    return Counter(manifest["statistics"]["quality"]["faults"])
