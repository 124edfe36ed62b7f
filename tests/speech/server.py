"""A speech server of ours in its own process: bursts of 80 ms a character at 24 kHz, and the faults of real ones.

`python server.py '{"faults": [...], …}'` prints its port and serves until its stdin ends. Standard library and numpy.
Which request gets which fault is a schedule: by the number of the attempt at the same text and seed.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import io
import json
import struct
import subprocess
import sys
import urllib.request
import wave
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

RATE = 24_000
CHARACTER_SEC = 0.08
FAULTS = (
    *("status_500", "status_502", "status_503", "status_429", "status_400", "html_502"),
    *("abort_chunked", "abort_sized", "abort_before_head", "empty_body", "wrong_rate", "no_wav", "json_error"),
    *("truncated_wav", "no_samples", "slow", "drip", "reset"),
)


@dataclass(frozen=True)
class Behaviour:
    """Attributes:
    faults: what happens to the first attempts at an utterance, in turn ("" for an answer); then it is answered.
    every: only every n-th utterance (by hash) is treated so.
    by_name: an utterance whose first word is a fault's name gets that one at first.
    delay_sec: before each answer.
    capacity: answers made at a time; more are told 429. None: any number.
    voices: whether voices can be uploaded.
    forget_voices: after so many uses of an uploaded voice it is unknown, once.
    takes_seed: else a seed is refused.
    """

    faults: Sequence[str] = ()
    every: int = 1
    by_name: bool = False
    delay_sec: float = 0.0
    capacity: int | None = None
    model: str | None = "test-model"
    voices: bool = False
    forget_voices: int | None = None
    takes_seed: bool = True
    key: str | None = None
    rate: int = RATE
    slow_sec: float = 30.0
    retry_after: str | None = None
    port: int = 0


@dataclass
class State:
    behaviour: Behaviour
    attempts: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)
    voices: dict[str, tuple[bytes, str]] = field(default_factory=dict)
    uses: int = 0
    busy: int = 0
    most_busy: int = 0
    order: list[str] = field(default_factory=list)


def sound(text: str, seed: int, voice: str, rate: int = RATE) -> np.ndarray[Any, np.dtype[np.int16]]:
    """What is answered: int16, shape (n_samples,). A burst for each letter, silence for the rest."""
    digest = hashlib.sha256(f"{text}|{seed}|{voice}".encode()).digest()
    return np.concatenate([burst(digest[i % 32] % 100 if c.isalnum() else None, rate) for i, c in enumerate(text)])


@cache
def burst(number: int | None, rate: int) -> np.ndarray[Any, np.dtype[np.int16]]:
    """A character's sound; silence for None."""
    n = round(CHARACTER_SEC * rate)
    if number is None:
        return np.zeros(n, np.int16)
    time = 2 * np.pi * (120 + number) * np.arange(n) / rate
    return (6000 * (np.sin(time) + 0.5 * np.sin(5 * time)) * np.hanning(n)).astype(np.int16)


def as_wav(samples: np.ndarray[Any, np.dtype[np.int16]], rate: int) -> bytes:
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.tobytes())
    return out.getvalue()


# -- a small HTTP/1.1 server, so that it can break the rules


class Broken(Exception):
    """The connection is closed here."""


async def serve(state: State) -> None:
    async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await one_request(state, reader, writer):
                pass
        except (Broken, OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    server = await asyncio.start_server(connection, "127.0.0.1", state.behaviour.port, limit=1 << 20, backlog=512)
    print(server.sockets[0].getsockname()[1], flush=True)
    loop = asyncio.get_running_loop()
    await loop.run_in_executor(None, sys.stdin.buffer.read)  # ends with the process that started it


async def one_request(state: State, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    head = await reader.readuntil(b"\r\n\r\n")
    line, *rows = head.decode("latin-1").split("\r\n")
    method, path, _ = line.split(" ", 2)
    headers = {k.lower(): v.strip() for k, _, v in (row.partition(":") for row in rows if row)}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    b = state.behaviour
    if path == "/stats":
        names = ("counts", "most_busy", "order")
        found = {name: getattr(state, name) for name in names} | {"voices": len(state.voices)}
        return answer(writer, 200, json.dumps(found).encode())
    if b.key is not None and headers.get("authorization") != f"Bearer {b.key}":
        state.counts["unauthorized"] += 1
        return answer(writer, 401, error(f"the key {headers.get('authorization')} is wrong"))
    if path == "/health":
        return answer(writer, 200, json.dumps({"status": "ok", "model": b.model}).encode())
    if path == "/v1/models":
        if b.model is None:
            return answer(writer, 404, error("no such path"))
        return answer(writer, 200, json.dumps({"data": [{"id": b.model}]}).encode())
    if path == "/v1/audio/voices" and b.voices:
        if method == "GET":
            found = {"voices": list(state.voices), "uploaded_voices": [{"name": n} for n in state.voices]}
            return answer(writer, 200, json.dumps(found).encode())
        fields = form(headers["content-type"], body)
        state.counts["uploads"] += 1
        state.voices[fields["name"].decode()] = (fields["audio_sample"], fields["ref_text"].decode())
        return answer(writer, 200, b'{"success": true}')
    if path != "/v1/audio/speech" or method != "POST":
        return answer(writer, 404, error("no such path"))
    return await speech(state, writer, json.loads(body))


async def speech(state: State, writer: asyncio.StreamWriter, body: Mapping[str, Any]) -> bool:
    b = state.behaviour
    state.counts["received"] += 1
    if "seed" in body and not b.takes_seed:
        return refuse(state, writer, 422, "seed: extra inputs are not permitted")
    if not any(map(str.isalpha, body["input"])):
        return refuse(state, writer, 400, "nothing to speak")
    if "ref_audio" in body:
        voice = hashlib.sha256(base64.b64decode(body["ref_audio"].partition(",")[2])).hexdigest() + body["ref_text"]
    elif body.get("voice") in state.voices:
        state.uses += 1
        if state.uses == b.forget_voices:
            state.voices.clear()
            return refuse(state, writer, 404, "unknown voice")
        data, text = state.voices[body["voice"]]
        voice = hashlib.sha256(data).hexdigest() + text
    elif body.get("voice") == "resident":
        voice = "resident"
    else:
        return refuse(state, writer, 400, f"unknown voice {body.get('voice')}")
    if b.capacity is not None and state.busy >= b.capacity:
        return refuse(state, writer, 429, "busy", b.retry_after)
    state.busy += 1
    state.most_busy = max(state.most_busy, state.busy)
    try:
        await asyncio.sleep(b.delay_sec)
        key = f"{body['input']}|{body.get('seed')}|{voice}"
        attempt = state.attempts[key]
        state.attempts[key] += 1
        chosen = hashlib.sha256(key.encode()).digest()[0] % b.every == 0
        fault = b.faults[attempt] if chosen and attempt < len(b.faults) else ""
        wav = as_wav(sound(body["input"], body.get("seed", 0), voice, b.rate), b.rate)
        if b.by_name and attempt == 0 and body["input"].split()[0] in FAULTS:
            fault = body["input"].split()[0]
        if fault:
            state.counts[fault] += 1
            return await misbehave(state, writer, fault, wav)
        state.counts["answered"] += 1
        state.order.append(body["input"])
        return answer(writer, 200, wav, "audio/wav")
    finally:
        state.busy -= 1


async def misbehave(state: State, writer: asyncio.StreamWriter, fault: str, wav: bytes) -> bool:
    b = state.behaviour
    if fault.startswith("status_"):
        status = int(fault.removeprefix("status_"))
        return answer(writer, status, error(f"told to fail with {status}"), retry_after=b.retry_after)
    if fault == "html_502":
        return answer(writer, 502, b"<html><body>Bad Gateway</body></html>", "text/html")
    if fault == "empty_body":
        return answer(writer, 200, b"", "audio/wav")
    if fault == "wrong_rate":
        return answer(writer, 200, as_wav(np.zeros(4000, np.int16), 22_050), "audio/wav")
    if fault == "no_wav":
        return answer(writer, 200, b"\x00\x01" * 4000, "audio/wav")
    if fault == "no_samples":
        return answer(writer, 200, as_wav(np.zeros(0, np.int16), RATE), "audio/wav")
    if fault == "truncated_wav":
        return answer(writer, 200, wav[: len(wav) // 2], "audio/wav")
    if fault == "json_error":
        return answer(writer, 200, error("failed after all"))
    if fault == "slow":
        await asyncio.sleep(b.slow_sec)
        return answer(writer, 200, wav, "audio/wav")
    if fault == "drip":
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: audio/wav\r\nContent-Length: %d\r\n\r\n" % len(wav))
        for i in range(len(wav)):
            writer.write(wav[i : i + 1])
            await writer.drain()
            await asyncio.sleep(0.05)
    if fault == "abort_sized":
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: audio/wav\r\nContent-Length: %d\r\n\r\n" % len(wav))
        writer.write(wav[: len(wav) // 2])
    if fault == "abort_chunked":  # the official server: 200, a message, and the end in the middle of the body
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        text = b"Invalid file: tensor([[0.1]])"
        writer.write(b"%x\r\n%s\r\n" % (len(text), text))
    if fault == "reset":
        writer.transport.get_extra_info("socket").setsockopt(1, 13, struct.pack("ii", 1, 0))  # SO_LINGER: no goodbye
    with contextlib.suppress(OSError):
        await writer.drain()
    raise Broken


def refuse(state: State, writer: asyncio.StreamWriter, status: int, reason: str, retry: str | None = None) -> bool:
    state.counts[f"refused_{status}"] += 1
    return answer(writer, status, error(reason), retry_after=retry)


def error(message: str) -> bytes:
    return json.dumps({"error": {"message": message}}).encode()


def answer(
    writer: asyncio.StreamWriter,
    status: int,
    body: bytes,
    kind: str = "application/json",
    retry_after: str | None = None,
) -> bool:
    extra = f"Retry-After: {retry_after}\r\n" if retry_after is not None else ""
    head = f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n{extra}\r\n"
    writer.write(head.encode() + body)
    return True


def form(content_type: str, body: bytes) -> dict[str, bytes]:
    boundary = content_type.partition("boundary=")[2].strip('"').encode()
    fields = {}
    for part in (b"\r\n" + body).split(b"\r\n--" + boundary)[1:-1]:
        head, _, value = part.partition(b"\r\n\r\n")
        fields[head.partition(b'name="')[2].partition(b'"')[0].decode()] = value
    return fields


# -- as tests use it


@dataclass(frozen=True)
class Running:
    url: str
    process: subprocess.Popen[bytes]

    def stats(self) -> dict[str, Any]:
        with urllib.request.urlopen(f"{self.url}/stats", timeout=10) as found:
            return dict(json.load(found))


@contextmanager
def running(behaviour: Behaviour | None = None) -> Iterator[Running]:
    """A server in a process of its own."""
    settings = json.dumps(asdict(behaviour or Behaviour()))
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__)), settings], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        yield Running(f"http://127.0.0.1:{int(process.stdout.readline())}", process)
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


if __name__ == "__main__":
    asyncio.run(serve(State(Behaviour(**json.loads(sys.argv[1])))))
    sys.stdout.flush()
    import os

    os._exit(0)
