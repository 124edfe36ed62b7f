"""The HTTP of the bridge: the part of OpenAI's speech API that cloning servers share, health, and metrics."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from duplexdata.speech.cosyvoice.pool import Job, Pool
from duplexdata.speech.cosyvoice.requests import Prompts, Refused, parse_multipart, parse_speech
from duplexdata.speech.wav import write_wav

logger = logging.getLogger(__name__)

_LARGEST_BODY = 24 << 20
_IDLE_SEC = 120.0
_RETRY_AFTER_SEC = 1


class Front(ThreadingHTTPServer):
    """Answers as soon as it is bound: 503 until `pool` is open.

    Args:
        wait_sec: how long a request may wait and be spoken, all in all.
    """

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, host: str, port: int, pool: Pool, prompts: Prompts, model: str, wait_sec: float) -> None:
        self.pool, self.prompts, self.model, self.wait_sec = pool, prompts, model, wait_sec
        self.started = int(time.time())
        self.is_open = False
        self._counts: Counter[tuple[str, str]] = Counter()
        self._seconds: Counter[str] = Counter()
        self._lock = threading.Lock()
        super().__init__((host, port), _Handler)

    def count(self, endpoint: str, status: int) -> None:
        with self._lock:
            self._counts[endpoint, str(status)] += 1

    def add_seconds(self, audio: float, spent: float) -> None:
        with self._lock:
            self._seconds["audio"] += audio  # type: ignore[assignment]
            self._seconds["spent"] += spent  # type: ignore[assignment]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""
        logger.debug("a connection broke off", exc_info=True)

    def health(self) -> tuple[int, dict[str, object]]:
        pool, hello = self.pool, self.pool.hello
        status = "broken" if pool.broken else "ok" if self.is_open and pool.ready else "starting"
        found: dict[str, object] = {
            "status": status,
            "model": self.model,
            "processes": pool.size,
            "ready": pool.ready,
            "busy": pool.busy,
            "queued": pool.queued,
        }
        for name in ("version", "sample_rate", "device", "difference", "overridden", "torch", "transformers"):
            if name in hello:
                found[name] = hello[name]
        if pool.broken:
            found["reason"] = pool.broken
        return (200 if status == "ok" else 503), found

    def metrics(self) -> str:
        pool = self.pool
        with self._lock:
            counts, seconds = dict(self._counts), dict(self._seconds)
        speech = {status: n for (endpoint, status), n in counts.items() if endpoint == "speech"}
        lines = _metric("requests_total", "counter", "Requests by endpoint and HTTP status.", {
            f'endpoint="{endpoint}",status="{status}"': n for (endpoint, status), n in sorted(counts.items())
        })  # fmt: skip
        errors = sum(n for status, n in speech.items() if status != "200")
        plain = (
            ("errors_total", "counter", "Requests for speech that were not answered with sound.", errors),
            ("audio_seconds_total", "counter", "Seconds of sound made.", seconds.get("audio", 0)),
            ("synthesis_seconds_total", "counter", "Seconds from request to sound.", seconds.get("spent", 0)),
            ("restarts_total", "counter", "Processes started again.", pool.counts["restarts"]),
            ("retries_total", "counter", "Utterances tried again by another process.", pool.counts["retried"]),
            ("queue_length", "gauge", "Utterances that wait.", pool.queued),
            ("busy_processes", "gauge", "Processes that speak.", pool.busy),
            ("ready_processes", "gauge", "Processes that can speak.", pool.ready),
            ("processes", "gauge", "Processes in all.", pool.size),
        )
        for name, kind, text, value in plain:
            lines += _metric(name, kind, text, {"": value})
        return "\n".join(lines) + "\n"


def _metric(name: str, kind: str, text: str, values: dict[str, float]) -> list[str]:
    full = f"duplexdata_bridge_{name}"
    rows = [f"{full}{{{labels}}} {value:g}" if labels else f"{full} {value:g}" for labels, value in values.items()]
    return [f"# HELP {full} {text}", f"# TYPE {full} {kind}", *rows]


class _Handler(BaseHTTPRequestHandler):
    server: Front
    protocol_version = "HTTP/1.1"
    server_version = "duplexdata"
    disable_nagle_algorithm = True  # head and body are two writes
    timeout = _IDLE_SEC

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if path == "/health":
            status, found = self.server.health()
            self._json("health", status, found)
        elif path == "/metrics":
            self._send("metrics", 200, self.server.metrics().encode(), "text/plain; version=0.0.4; charset=utf-8")
        elif path == "/v1/models":
            row = {"id": self.server.model, "object": "model", "created": self.server.started, "owned_by": "local"}
            self._json("models", 200, {"object": "list", "data": [row]})
        elif path == "/v1/audio/voices":
            names = self.server.prompts.names()
            self._json("voices", 200, {"voices": names, "uploaded_voices": [{"name": n} for n in names]})
        else:
            self._fail("other", 404, f"there is no {path}")

    def do_POST(self) -> None:
        path = urlsplit(self.path).path
        known = {"/v1/audio/speech": ("speech", self._speech), "/v1/audio/voices": ("voices", self._voice)}
        endpoint, work = known.get(path, ("other", None))
        try:
            body = self._body()
            if work is None:
                raise Refused(f"there is no {path}", 404)
            work(body)
        except Refused as error:
            self._fail(endpoint, error.status, str(error))

    def _body(self) -> bytes:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal():
            self.close_connection = True
            raise Refused("Content-Length is missing", 411)
        if int(length) > _LARGEST_BODY:
            self.close_connection = True
            raise Refused(f"a body of {length} bytes, at most {_LARGEST_BODY} are taken", 413)
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            self.close_connection = True
            raise Refused("the body broke off")
        return body

    def _voice(self, body: bytes) -> None:
        fields = parse_multipart(self.headers.get("Content-Type", ""), body)
        if "name" not in fields or "audio_sample" not in fields:
            raise Refused("name or audio_sample is missing")
        name = fields["name"].decode("utf-8", "replace")
        self.server.prompts.add(fields["audio_sample"], fields.get("ref_text", b"").decode("utf-8", "replace"), name)
        self._json("voices", 200, {"success": True, "voice": {"name": name}})

    def _speech(self, raw: bytes) -> None:
        server, started = self.server, time.monotonic()
        body = parse_speech(raw, server.model)
        prompt = server.prompts.of(body)
        if not server.is_open:
            return self._fail("speech", 503, "the model is being loaded", _RETRY_AFTER_SEC)
        if server.pool.broken:
            return self._fail("speech", 503, "no process can be started")
        job = Job(
            {
                "text": body.input,
                "ref_text": prompt.transcript,
                "prompt": str(prompt.path),
                "voice": prompt.key,
                "seed": body.seed,
                "speed": body.speed,
            }
        )
        if not server.pool.submit(job):
            return self._fail("speech", 429, "too many requests wait", _RETRY_AFTER_SEC)
        if not job.done.wait(server.wait_sec):
            job.abandoned = True
            return self._fail("speech", 503, f"it was not spoken within {server.wait_sec:g} s", _RETRY_AFTER_SEC)
        if "refused" in job.answer:
            return self._fail("speech", 400, str(job.answer["refused"]))
        if "failed" in job.answer:
            return self._fail("speech", 500, str(job.answer["failed"]))
        rate = int(str(job.answer["sample_rate"]))
        samples = np.frombuffer(job.pcm, np.int16)
        server.add_seconds(len(samples) / rate, time.monotonic() - started)
        self._send("speech", 200, write_wav(samples, rate), "audio/wav")

    def _json(self, endpoint: str, status: int, found: object, retry_after: int | None = None) -> None:
        self._send(endpoint, status, json.dumps(found).encode(), "application/json", retry_after)

    def _fail(self, endpoint: str, status: int, message: str, retry_after: int | None = None) -> None:
        kind = "invalid_request_error" if status < 500 and status != 429 else "server_error"
        self._json(endpoint, status, {"error": {"message": message, "type": kind, "code": status}}, retry_after)

    def _send(self, endpoint: str, status: int, body: bytes, kind: str, retry_after: int | None = None) -> None:
        self.server.count(endpoint, status)
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        if retry_after is not None:
            self.send_header("Retry-After", str(retry_after))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        logger.debug(format, *args)
