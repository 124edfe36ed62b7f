"""Requests in flight: how much faster 16 are than one. `python -m tests.benchmarks.bench_speech_http [DELAY_SEC] [N]`.

The server is a process that answers each request after a delay, however many there are: a stand-in for a GPU that has
room. Each utterance has 40 characters (3.2 s of sound, 154 kB), each voice is uploaded once.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile as sf

from duplexdata.speech.base import Speech, SpeechRequest, Voice, VoicePrompt
from duplexdata.speech.http.synthesizer import HttpSynthesizer
from tests.speech.server import Behaviour, running


def main() -> None:
    delay = float(sys.argv[1]) if len(sys.argv) > 1 else 0.15
    n = int(sys.argv[2]) if len(sys.argv) > 2 else 60
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "prompt.wav"
        sf.write(path, 0.1 * np.random.default_rng(0).standard_normal(5 * 24_000), 24_000)
        for register in (True, False):
            rates = {k: measure(k, delay, n if k == 1 else 10 * n, path, register) for k in (1, 16)}
            how = "voices uploaded once" if register else "recording with every request"
            print(f"{how}: 1 in flight {rates[1]:.2f}/s, 16 in flight {rates[16]:.2f}/s: {rates[16] / rates[1]:.2f} x")


def measure(in_flight: int, delay: float, n: int, prompt: Path, register: bool) -> float:
    """Utterances a second."""
    voice = Voice("v", "train", (), VoicePrompt(str(prompt), "the words of the prompt", ""))
    with running(Behaviour(delay_sec=delay, voices=register)) as server:
        spoken = HttpSynthesizer([server.url], in_flight=in_flight)
        requests = [SpeechRequest(f"utterance number {i:06d} of a good many.", voice, seed=i) for i in range(n)]
        started = time.perf_counter()
        found = sum(isinstance(s, Speech) for s in spoken.synthesize_many(requests))
        seconds = time.perf_counter() - started
        spoken.close()
    if found != n:
        raise SystemExit(f"{found} of {n} were spoken")
    return n / seconds


if __name__ == "__main__":
    main()
