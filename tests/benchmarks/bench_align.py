"""Error and speed of word times for voices that give none: `python tests/benchmarks/bench_align.py DATA`.

Truth is espeak-ng's own: real text is spoken by the 64 user voices, whose word times are known, and aligned as if they
were not. "as spoken" is what the voices say; "distorted" is the same with other tempi, pauses between words, a room and
noise at 25 dB, which also shift pitch and formants.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from duplexdata.config import AlignConfig
from duplexdata.dialogue import Dialogue
from duplexdata.sources.read import read_dialogues
from duplexdata.sources.shapes import SourceSpec
from duplexdata.speech.align import Aligner, CharacterAligner, make_aligner
from duplexdata.speech.base import Speech, SpeechRequest, WordTime
from duplexdata.speech.espeak import EspeakSynthesizer
from duplexdata.speech.voices import user_voices
from duplexdata.spoken import Unspeakable, speakable


def real_texts(data: Path, n: int, max_seconds: float = 12.0) -> list[str]:
    found: dict[str, None] = {}
    for file in ("alpaca_sample.json", "ultrachat_200k_sample.parquet"):
        dialogues = [d for d in read_dialogues(SourceSpec(str(data / file))) if isinstance(d, Dialogue)]
        for turn in (turn for dialogue in dialogues for turn in dialogue.turns):
            try:
                found[speakable(turn.text, language="en", max_seconds=max_seconds)] = None
            except Unspeakable:
                continue
    texts = sorted(found)
    return [texts[i] for i in np.random.default_rng(0).permutation(len(texts))[:n]]


def spoken_by_users(texts: Sequence[str]) -> tuple[list[SpeechRequest], list[Speech]]:
    voices = user_voices()
    requests = [SpeechRequest(text, voices[i % len(voices)]) for i, text in enumerate(texts)]
    synthesizer = EspeakSynthesizer(voices_kept=8)
    try:
        spoken = list(synthesizer.synthesize_many(requests))
    finally:
        synthesizer.close()
    assert all(isinstance(s, Speech) for s in spoken)
    return requests, [s for s in spoken if isinstance(s, Speech)]


def distorted(speech: Speech, rng: np.random.Generator) -> Speech:
    """Stretches at another tempo, pauses between words, a room and noise; the word times moved along."""
    assert speech.words is not None
    rate, n = speech.sample_rate, len(speech.samples)
    cuts = [0, *((a.end + b.start) // 2 for a, b in pairwise(speech.words)), n]
    parts: list[np.ndarray] = []
    before: list[int] = []
    behind: list[int] = []
    at, tempo = 0, rng.uniform(0.8, 1.25)
    for start, end in pairwise(cuts):
        if end <= start:
            continue
        if rng.random() < 0.3:
            tempo = rng.uniform(0.8, 1.25)
        length = max(1, int((end - start) / tempo))
        places = np.linspace(start, end - 1, length)
        parts.append(np.interp(places, np.arange(n), speech.samples))
        before += [start, end - 1]
        behind += [at, at + length - 1]
        at += length
        if end < n and rng.random() < 0.12:
            pause = int(rng.uniform(0.15, 0.7) * rate)
            parts.append(np.zeros(pause))
            at += pause
    dry = np.concatenate(parts)
    room = np.exp(-np.arange(rate // 4) / (0.05 * rate)) * rng.standard_normal(rate // 4) * 0.08
    room[0] = 1.0
    size = len(dry) + len(room)
    wet = np.fft.irfft(np.fft.rfft(dry, size) * np.fft.rfft(room, size), size)[: len(dry)]
    wet += rng.standard_normal(len(wet)) * float((wet**2).mean() ** 0.5) * 10 ** (-25 / 20)

    def moved(sample: int) -> int:
        return int(np.interp(sample, before, behind))

    words = tuple(WordTime(w.text, moved(w.start), moved(max(w.start, w.end - 1)), w.estimated) for w in speech.words)
    return Speech((wet / max(1.0, np.abs(wet).max())).astype(np.float32), rate, words)


def errors(
    aligner: Aligner, requests: Sequence[SpeechRequest], spoken: Sequence[Speech]
) -> tuple[np.ndarray, np.ndarray]:
    """Milliseconds, found minus true, of all starts and all ends; words whose truth is interpolated are left out."""
    starts, ends = [], []
    for request, speech in zip(requests, spoken, strict=True):
        for found, true in zip(aligner.word_times(request, speech), speech.words or (), strict=True):
            if not true.estimated:
                starts.append((found.start - true.start) / speech.sample_rate * 1000)
                ends.append((found.end - true.end) / speech.sample_rate * 1000)
    return np.abs(starts), np.abs(ends)


def _report(
    name: str, kind: str, aligner: Aligner, requests: Sequence[SpeechRequest], spoken: Sequence[Speech]
) -> None:
    start, busy = time.perf_counter(), time.process_time()
    found = errors(aligner, requests, spoken)
    took, busy = ((t / len(spoken) * 1000) for t in (time.perf_counter() - start, time.process_time() - busy))
    numbers = "  ".join(
        f"{what}: median {np.median(e):4.0f}, 90 % {np.percentile(e, 90):4.0f}, 99 % {np.percentile(e, 99):4.0f} ms"
        for what, e in zip(("starts", "ends"), found, strict=True)
    )
    print(f"{name:20} {kind:10} {numbers}  ({len(found[0])} words, {took:.1f} ms an utterance, {busy:.1f} of it here)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with alpaca_sample.json and ultrachat_200k_sample.parquet")
    parser.add_argument("--utterances", type=int, default=500)
    parser.add_argument("--model", help="a CTC model's folder or hub id, to be measured as well")
    arguments = parser.parse_args()
    requests, spoken = spoken_by_users(real_texts(arguments.data, arguments.utterances))
    rng = np.random.default_rng(1)
    harder = [distorted(s, rng) for s in spoken]
    seconds = [s.duration for s in spoken]
    print(f"{len(spoken)} utterances of {np.mean(seconds):.1f} s on average")
    aligners: list[Aligner | None] = [make_aligner(AlignConfig(method="espeak")), CharacterAligner()]
    if arguments.model:
        aligners.insert(0, make_aligner(AlignConfig(method="ctc", model=arguments.model)))
    for aligner in aligners:
        assert aligner is not None
        _report(aligner.name, "as spoken", aligner, requests, spoken)
        _report(aligner.name, "distorted", aligner, requests, harder)
        chosen = [i for i, s in enumerate(seconds) if 3.5 <= s <= 4.5]
        if chosen:
            _report(aligner.name, "about 4 s", aligner, [requests[i] for i in chosen], [spoken[i] for i in chosen])
        aligner.close()


if __name__ == "__main__":
    main()
