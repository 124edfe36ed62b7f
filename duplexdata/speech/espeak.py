"""The default synthesizer: espeak-ng in a helper process, with exact word times. Needs the extra `[espeak]`."""

from __future__ import annotations

import importlib.util
import json
import os
import struct
import subprocess
import sys
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import IO

import numpy as np

from duplexdata.errors import ConfigError, SynthesisError
from duplexdata.speech.base import Speech, SpeechRequest, WordTime
from duplexdata.words import Span, split_words

_AHEAD_BYTES = 16_384
"""Requests sent before their answers are read: the helper is never idle, and the pipe (64 KiB) never full."""
_AHEAD = 4
_LONGEST = 8_000
"""Characters of one utterance: about eight minutes."""
_ATTEMPTS = 3
_HELPER = Path(__file__).with_name("espeak_helper.py")
_PRIMARY = {"zh": "cmn", "no": "nb"}


class EspeakSynthesizer:
    """Speaks through `espeak_helper.py`. One per worker process.

    Voice settings: `accent` (used for English: "en-us", "en-029", …), `variant` ("f1", "m3", …), and the numbers
    `rate` (words a minute), `pitch` and `range` (0 to 99).
    """

    takes_seed = False
    """A seed changes the breath of some voices, never what is said or how."""
    clipped_share = 0.01
    """Share of samples at full scale that its loudest variant (paul) reaches by itself, in a short word."""

    def __init__(self, *, timeout_sec: float = 30.0, voices_kept: int = 6) -> None:
        self._timeout, self._voices_kept = timeout_sec, voices_kept
        self._library, self._data = _engine_paths()
        self._process: subprocess.Popen[bytes] | None = None
        hello = self._start()
        self.name = f"espeak-ng/{hello['version']}"
        self.sample_rate = int(str(hello["sample_rate"]))
        languages = hello["languages"]
        assert isinstance(languages, dict)
        self.languages: dict[str, str] = languages

    def describe(self) -> dict[str, str]:
        return {"name": self.name, "sample_rate": str(self.sample_rate)}

    def synthesize_many(self, requests: Iterable[SpeechRequest]) -> Iterator[Speech | SynthesisError]:
        waiting: deque[tuple[SpeechRequest, bytes | None]] = deque()
        try:
            yield from self._answers(requests, waiting)
        finally:
            if waiting:  # given up before its end: what is still to come belongs to nobody
                self._drop_process()

    def _answers(
        self, requests: Iterable[SpeechRequest], waiting: deque[tuple[SpeechRequest, bytes | None]]
    ) -> Iterator[Speech | SynthesisError]:
        ahead = 0
        for request in requests:
            body = self._encode(request)
            waiting.append((request, body))
            if body is not None and not self._send(body):
                # The helper is gone: `_finish` starts it again and repeats what was waiting.
                ahead = 0
            ahead += len(body or b"")
            while len(waiting) > _AHEAD or ahead > _AHEAD_BYTES:
                ahead -= len(waiting[0][1] or b"")
                yield self._finish(waiting)
        while waiting:
            yield self._finish(waiting)

    def close(self) -> None:
        if self._process is not None:
            _stdin(self._process).close()
            try:
                self._process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            _stdout(self._process).close()
            self._process = None

    def espeak_language(self, language: str) -> str | None:
        """espeak-ng's name of a BCP 47 tag, None if it does not speak it."""
        tag = language.lower()
        primary = tag.split("-")[0]
        known = (tag, _PRIMARY.get(primary, primary), f"{primary}-{primary}")
        return next((self.languages[name] for name in known if name in self.languages), None)

    # -- the pipe

    def _start(self) -> dict[str, object]:
        arguments = [self._library, self._data, str(self._timeout), str(self._voices_kept)]
        self._process = subprocess.Popen(
            [sys.executable, "-I", str(_HELPER), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={"PATH": os.environ.get("PATH", ""), "LANG": "C.UTF-8"},
        )
        head = self._read_head()
        if head is None:
            raise SynthesisError("espeak-ng's helper process ended at start-up; see its message above")
        return head

    def _encode(self, request: SpeechRequest) -> bytes | None:
        """The request's frame; None where there is no voice for its language."""
        voice = request.voice
        if request.language.lower().split("-")[0] == "en":
            base: str | None = voice.setting("accent", "en-us")
        else:
            base = self.espeak_language(request.language)
        if base is None or len(request.text) > _LONGEST:
            return None
        message: dict[str, object] = {
            "text": request.text,
            "voice": f"{base}+{voice.setting('variant', 'm1')}",
        }
        message |= {k: int(voice.setting(k)) for k in ("rate", "pitch", "range") if voice.setting(k)}
        message["seed"] = request.seed
        body = json.dumps(message).encode()
        return struct.pack("<I", len(body)) + body

    def _send(self, body: bytes) -> bool:
        if self._process is None:
            return False
        try:
            stdin = _stdin(self._process)
            stdin.write(body)
            stdin.flush()
        except (BrokenPipeError, OSError):
            self._drop_process()
            return False
        return True

    def _read_head(self) -> dict[str, object] | None:
        stdout = _stdout(self._process)
        size = stdout.read(4)
        if len(size) < 4:
            return None
        body = stdout.read(struct.unpack("<I", size)[0])
        head = json.loads(body) if body else None
        return head if isinstance(head, dict) else None

    def _drop_process(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            _stdout(self._process).close()
            self._process = None

    def _finish(self, waiting: deque[tuple[SpeechRequest, bytes | None]]) -> Speech | SynthesisError:
        """The answer to the first that waits. A helper that died is started again, a few times."""
        request, body = waiting.popleft()
        if body is None:
            if len(request.text) > _LONGEST:
                return SynthesisError(
                    f"a text of {len(request.text)} characters, at most {_LONGEST} are spoken at once"
                )
            return SynthesisError(f"espeak-ng has no voice for the language {request.language!r}")
        error = SynthesisError("no attempt was made")
        for _ in range(_ATTEMPTS):
            if self._process is None:
                self._start()
                for again in (body, *(b for _, b in waiting if b is not None)):
                    self._send(again)
            result = self._receive(request)
            if isinstance(result, Speech) or not result.retryable:
                return result
            error = result
            # What was sent behind it is answered too late to matter: start anew, in order.
            self._drop_process()
        return error

    def _receive(self, request: SpeechRequest) -> Speech | SynthesisError:
        if self._process is None:
            return SynthesisError("espeak-ng's helper process has ended", retryable=True)
        head = self._read_head()
        if head is None:
            return SynthesisError("espeak-ng's helper process has ended", retryable=True)
        if "error" in head:
            return SynthesisError(f"espeak-ng: {head['error']}", retryable=bool(head.get("retryable")))
        n = int(str(head["n_samples"]))
        pcm = _stdout(self._process).read(2 * n)
        if len(pcm) < 2 * n:
            return SynthesisError("espeak-ng's helper process has ended", retryable=True)
        if n == 0:
            return SynthesisError(f"espeak-ng said nothing for {request.text[:40]!r}")
        samples = np.multiply(np.frombuffer(pcm, np.int16), np.float32(1 / 32768), dtype=np.float32)
        words, pauses = head["words"], head["pauses"]
        assert isinstance(words, list)
        assert isinstance(pauses, list)
        return Speech(samples, self.sample_rate, word_times(request.text, words, pauses, n))


def word_times(
    text: str, events: Sequence[Sequence[int]], pauses: Sequence[int], n_samples: int
) -> tuple[WordTime, ...]:
    """espeak-ng's events as times of our own words.

    Args:
        events: (1-based character position, length, sample) of each word event, in order.
        pauses: sample at which each pause begins.
        n_samples: length of the utterance.

    Returns: one per `split_words(text)`, in order, not overlapping. A word's end is the first pause behind its
        start, else the next word's start. Words without an event (frequent pairs are merged into one, numbers give
        events at odd places) share their neighbours' time by characters and are marked `estimated`.
    """
    spans = split_words(text)
    starts: list[int | None] = [None] * len(spans)
    begins = [s.start for s in spans]
    for position, _, sample in events:
        i = max(0, bisect_right(begins, position - 1) - 1)
        if starts and starts[i] is None:
            starts[i] = sample
    if starts and starts[0] is None:
        starts[0] = 0
    known = [i for i, s in enumerate(starts) if s is not None] + [len(spans)]
    found: list[WordTime] = []
    for first, behind in pairwise(known):
        start = starts[first] or 0
        limit = n_samples if behind == len(spans) else max(start, starts[behind] or 0)
        # The pause that ends the word: the first one after it began. A merged group ends at its last pause.
        inside = pauses[bisect_right(pauses, start) : bisect_right(pauses, limit)]
        end = min(inside[0] if inside and behind == first + 1 else inside[-1] if inside else limit, limit)
        found += _share(text, spans[first:behind], start, end)
    return tuple(found)


def _share(text: str, spans: Sequence[Span], start: int, end: int) -> list[WordTime]:
    """The words of one event: all of its time for one, by characters for several."""
    lengths = [s.end - s.start for s in spans]
    total, passed, times = sum(lengths), 0, []
    for n, (span, length) in enumerate(zip(spans, lengths, strict=True)):
        a = start + (end - start) * passed // total
        passed += length
        b = start + (end - start) * passed // total
        times.append(WordTime(text[span.start : span.end], a, b, estimated=n > 0))
    return times


def _engine_paths() -> tuple[str, str]:
    """Of the library and its data. Only looked up: the library is loaded by the helper, never here."""
    if importlib.util.find_spec("espeakng_loader") is None:
        raise ConfigError("the espeak-ng voices need an extra: pip install 'duplexdata[espeak]'")
    import espeakng_loader

    return str(espeakng_loader.get_library_path()), str(espeakng_loader.get_data_path())


def _stdin(process: subprocess.Popen[bytes] | None) -> IO[bytes]:
    assert process is not None and process.stdin is not None
    return process.stdin


def _stdout(process: subprocess.Popen[bytes] | None) -> IO[bytes]:
    assert process is not None and process.stdout is not None
    return process.stdout
