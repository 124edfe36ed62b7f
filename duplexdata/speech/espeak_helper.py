"""The process that holds espeak-ng: reads requests on stdin, writes speech on stdout. Run as a script by `espeak.py`.

It stands alone (standard library only) for two reasons. espeak-ng is GPL-3.0-or-later, so the package itself never
links it: the library is loaded in this process and spoken to over a pipe. And espeak-ng repeats its bytes only in
a process that has not spoken yet (its pitch flutter runs on a static counter that nothing resets), and only with
a voice that is the first the process has chosen. So a process per voice is forked once, chooses its voice and never
speaks; every utterance is spoken by a fresh child of it. Small parents fork fast.

Frames, both ways: uint32 little-endian length, JSON of that length; in answers followed by `n_samples` int16.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import select
import signal
import struct
import sys
import time

WORD, PHONEME = 1, 7
SYNCHRONOUS = 2
PHONEME_EVENTS = 1
CHARS_UTF8 = 1
CHUNK = 1 << 20


class _EventId(ctypes.Union):
    _fields_ = [("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8)]


class _Event(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _EventId),
    ]


class _Voice(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_char_p),
        ("languages", ctypes.c_char_p),
        ("identifier", ctypes.c_char_p),
        ("gender", ctypes.c_ubyte),
        ("age", ctypes.c_ubyte),
        ("variant", ctypes.c_ubyte),
        ("xx1", ctypes.c_ubyte),
        ("score", ctypes.c_int),
        ("spare", ctypes.c_void_p),
    ]


_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(_Event))
# espeak_PARAMETER numbers
PARAMETERS = {"rate": 1, "volume": 2, "pitch": 3, "range": 4}


class Engine:
    """espeak-ng, loaded once; `speak` may be called once per process."""

    def __init__(self, library: str, data: str) -> None:
        self.lib = ctypes.CDLL(library)
        self.lib.espeak_Info.restype = ctypes.c_char_p
        self.lib.espeak_ListVoices.restype = ctypes.POINTER(ctypes.POINTER(_Voice))
        self.sample_rate = self.lib.espeak_Initialize(SYNCHRONOUS, 0, data.encode(), PHONEME_EVENTS)
        if self.sample_rate <= 0:
            raise RuntimeError(f"espeak-ng could not be initialised with its data at {data}")
        self.pcm: list[bytes] = []
        self.words: list[tuple[int, int, int]] = []
        self.pauses: list[int] = []
        self._callback = _CALLBACK(self._receive)  # kept: ctypes does not hold a reference
        self.lib.espeak_SetSynthCallback(self._callback)
        self.languages = self._languages()

    def version(self) -> str:
        return str(self.lib.espeak_Info(None).decode())

    def _languages(self) -> dict[str, str]:
        """By language tag the name of the voice file that speaks it: "fr-fr" is spoken by "fr", "en-gb" by "en"."""
        # Listing also fills espeak-ng's table of voices, which each child would otherwise read from disk again.
        voices = self.lib.espeak_ListVoices(None)
        found: dict[str, str] = {}
        i = 0
        while voices[i]:
            # the first byte is the priority of the first language
            tag = (voices[i].contents.languages or b"\0")[1:].decode().lower()
            found.setdefault(tag, (voices[i].contents.identifier or b"").decode().rsplit("/", 1)[-1])
            i += 1
        return dict(sorted(found.items()))

    def set_voice(self, name: str) -> bool:
        """At most once in a process: traces of an earlier voice change the sound of the next."""
        return bool(self.lib.espeak_SetVoiceByName(name.encode()) == 0)

    def _receive(self, wav: int | None, n: int, events: ctypes._Pointer) -> int:
        if wav and n > 0:
            self.pcm.append(ctypes.string_at(wav, 2 * n))
        i = 0
        while (kind := events[i].type) != 0:
            if kind == WORD:
                self.words.append((events[i].text_position, events[i].length, events[i].sample))
            elif kind == PHONEME and events[i].id.string.startswith(b"_"):
                self.pauses.append(events[i].sample)
            i += 1
        return 0

    def speak(self, request: dict[str, object]) -> bytes:
        for name, number in PARAMETERS.items():
            if name in request:
                self.lib.espeak_SetParameter(number, int(str(request[name])), 0)
        # Breath and noise draw from a generator that is seeded with the time of day otherwise.
        self.lib.espeak_ng_SetRandSeed(ctypes.c_long(int(str(request.get("seed", 0)))))
        text = str(request["text"]).encode()
        if self.lib.espeak_Synth(text, len(text) + 1, 0, 1, 0, CHARS_UTF8, None, None) != 0:
            return frame({"error": "espeak-ng refused the text"})
        pcm = b"".join(self.pcm)
        head = {"n_samples": len(pcm) // 2, "words": self.words, "pauses": self.pauses}
        return frame(head) + pcm


def frame(head: dict[str, object]) -> bytes:
    body = json.dumps(head).encode()
    return struct.pack("<I", len(body)) + body


def in_child(engine: Engine, request: dict[str, object], timeout: float) -> bytes:
    """What `engine.speak` returns in a process that has never spoken."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(read_end)
            view = memoryview(engine.speak(request))
            while view:
                view = view[os.write(write_end, view) :]
            status = 0
        finally:
            os._exit(status)
    os.close(write_end)
    parts: list[bytes] = []
    deadline = time.monotonic() + timeout
    poller = select.poll()
    poller.register(read_end, select.POLLIN | select.POLLHUP)
    timed_out = False
    while True:
        left = deadline - time.monotonic()
        if left <= 0 or not poller.poll(left * 1000):
            timed_out = True
            os.kill(pid, signal.SIGKILL)
            break
        part = os.read(read_end, CHUNK)
        if not part:
            break
        parts.append(part)
    os.close(read_end)
    _, status = os.waitpid(pid, 0)
    if timed_out:
        return frame({"error": f"no answer within {timeout:g} s", "retryable": True})
    if status != 0:
        return frame({"error": f"the speaking process ended with status {status}", "retryable": True})
    return b"".join(parts)


def read_exactly(stream: int, n: int) -> bytes:
    parts = []
    while n:
        part = os.read(stream, min(n, CHUNK))
        if not part:
            return b""
        parts.append(part)
        n -= len(part)
    return b"".join(parts)


def write_all(stream: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(stream, view) :]


class VoiceProcess:
    """A process in which one voice is chosen (that reads files, so it is done once) and nobody has spoken."""

    def __init__(self, engine: Engine, voice: str, timeout: float) -> None:
        request_read, self._requests = os.pipe()
        self._done, done_write = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                _keep_only({1, 2, request_read, done_write})
                self._serve(engine, voice, timeout, request_read, done_write)
            finally:
                os._exit(0)
        os.close(request_read)
        os.close(done_write)

    @staticmethod
    def _serve(engine: Engine, voice: str, timeout: float, requests: int, done: int) -> None:
        known = engine.set_voice(voice)
        while (body := read_frame(requests)) is not None:
            if known:
                answer = in_child(engine, json.loads(body), timeout)
            else:
                answer = frame({"error": f"espeak-ng has no voice {voice!r}"})
            write_all(1, answer)
            write_all(done, b"\n")

    def speak(self, body: bytes) -> bool:
        """The answer goes to stdout; False if this process has died before it gave one."""
        try:
            write_all(self._requests, struct.pack("<I", len(body)) + body)
        except BrokenPipeError:
            return False
        return bool(os.read(self._done, 1))

    def close(self) -> None:
        os.close(self._requests)  # its reader's end of file, on which it ends
        os.close(self._done)
        os.waitpid(self.pid, 0)


class VoiceProcesses:
    """The voices in use, the least recently used ended first."""

    def __init__(self, engine: Engine, timeout: float, most: int) -> None:
        self._engine, self._timeout, self._most = engine, timeout, most
        self._by_voice: dict[str, VoiceProcess] = {}

    def speak(self, voice: str, body: bytes) -> None:
        process = self._by_voice.pop(voice, None) or VoiceProcess(self._engine, voice, self._timeout)
        if process.speak(body):
            self._by_voice[voice] = process
        else:
            process.close()
            write_all(1, frame({"error": "the voice's process has ended", "retryable": True}))
        while len(self._by_voice) > self._most:
            self._by_voice.pop(next(iter(self._by_voice))).close()


def _keep_only(wanted: set[int]) -> None:
    """Close every other descriptor: a pipe ends for its reader only when no process holds the other end."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in wanted:
            with contextlib.suppress(OSError):
                os.close(int(name))


def read_frame(stream: int) -> bytes | None:
    head = read_exactly(stream, 4)
    return read_exactly(stream, struct.unpack("<I", head)[0]) or None if head else None


def main() -> int:
    library, data, timeout, most = sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4])
    # Ctrl-C goes to the whole process group; the worker that owns this helper decides when it ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    engine = Engine(library, data)
    gc.collect()
    gc.freeze()  # keeps the collector from touching, and so copying, the pages that children share
    gc.disable()
    write_all(
        1,
        frame({"version": engine.version(), "sample_rate": engine.sample_rate, "languages": engine.languages}),
    )
    voices = VoiceProcesses(engine, timeout, most)
    while (body := read_frame(0)) is not None:
        voices.speak(str(json.loads(body)["voice"]), body)
    return 0


if __name__ == "__main__":
    sys.exit(main())
