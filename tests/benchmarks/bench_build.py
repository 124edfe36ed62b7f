"""The build's wall time as a multiple of espeak-ng's alone. `python -m tests.benchmarks.bench_build [N] [SOURCE…]`.

One run: the build with 2 workers, then the same utterances spoken by espeak-ng and nothing else, two processes at a
time, every utterance in a forked child. That is measured twice: as plainly as it can be done (each child chooses its
voice), and with the package's own helper (a process per voice).
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from duplexdata.build import build
from duplexdata.config import Config, SourceConfig
from duplexdata.manifest import read_manifest
from duplexdata.records import read_conversations
from duplexdata.speech import espeak, espeak_helper
from duplexdata.speech.base import Speech, SpeechRequest, Voice
from duplexdata.speech.voices import assistant_voice, user_voices

HELPERS = 2
Utterance = tuple[str, str, str]
"""text, language, voice id."""


def main() -> None:
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    sources = tuple(SourceConfig(path) for path in sys.argv[2:]) or (SourceConfig(),)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "dataset"
        started = time.perf_counter()
        build(Config(conversations=n, sources=sources), out, workers=HELPERS, report=lambda *_: None)
        build_sec = time.perf_counter() - started
        hours = read_manifest(out)["statistics"]["hours"]
        utterances = [
            (u.text, c.language, u.voice)
            for path in sorted((out / "conversations").glob("*.parquet"))
            for c in read_conversations(path)
            for u in c.utterances
        ]
    plain_sec = _timed(_plain, utterances)
    helper_sec = _timed(_with_helper, utterances)
    print(f"{n} conversations, {len(utterances)} utterances, {hours:.2f} h on two channels, {HELPERS} processes")
    print(f"build                           {build_sec:8.1f} s   {hours / build_sec * 3600:7.0f} h of dialogue an hour")
    print(f"espeak-ng alone, plain children {plain_sec:8.1f} s   build / this = {build_sec / plain_sec:.2f}")
    print(f"espeak-ng alone, our helper     {helper_sec:8.1f} s   build / this = {build_sec / helper_sec:.2f}")


def _timed(speak: Callable[[list[Utterance]], int], utterances: list[Utterance]) -> float:
    started = time.perf_counter()
    with multiprocessing.get_context("spawn").Pool(HELPERS) as pool:
        spoken = pool.map(speak, [utterances[i::HELPERS] for i in range(HELPERS)], chunksize=1)
    if min(spoken) == 0:
        raise SystemExit("espeak-ng said nothing")
    return time.perf_counter() - started


def _plain(utterances: list[Utterance]) -> int:
    """Samples spoken, each utterance by a child that chooses its voice itself."""
    loader = importlib.import_module("espeakng_loader")
    engine = espeak_helper.Engine(str(loader.get_library_path()), str(loader.get_data_path()))
    voices = _voices()
    total = 0
    for text, language, voice in utterances:
        read_end, write_end = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(read_end)
            settings = dict(voices[voice].settings)
            base = settings["accent"] if language == "en" else {"zh": "cmn"}.get(language, language)
            engine.set_voice(f"{base}+{settings['variant']}")
            out = memoryview(engine.speak({"text": text, **{k: settings[k] for k in ("rate", "pitch", "range")}}))
            while out:
                out = out[os.write(write_end, out) :]
            os._exit(0)
        os.close(write_end)
        with os.fdopen(read_end, "rb") as f:
            total += len(f.read())
        os.waitpid(pid, 0)
    return total


def _with_helper(utterances: list[Utterance]) -> int:
    synthesizer = espeak.EspeakSynthesizer()
    voices = _voices()
    requests = (SpeechRequest(text, voices[voice], language) for text, language, voice in utterances)
    total = sum(len(s.samples) for s in synthesizer.synthesize_many(requests) if isinstance(s, Speech))
    synthesizer.close()
    return total


def _voices() -> dict[str, Voice]:
    return {v.id: v for v in (*user_voices(), assistant_voice())}


if __name__ == "__main__":
    main()
