"""The quality gate's false alarms and its cost. `python -m tests.benchmarks.bench_quality [N] [SOURCE…]`.

N utterances as builds say them, from real text (the bundled corpus, or the sources named), spoken by espeak-ng in all
its voices and with nothing wrong: whatever is refused is a false alarm. Then what the gate adds to a build's
processor time: the same build with and without it, in one process, twice each in turn.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from duplexdata.build import build
from duplexdata.config import Config, QualityConfig, SourceConfig
from duplexdata.quality.utterance import Fault, Utterance, Words, judge
from duplexdata.speech.base import Speech, SpeechRequest
from duplexdata.speech.espeak import EspeakSynthesizer
from duplexdata.speech.voices import assistant_voice, user_voices
from duplexdata.stages.ingest import ingest
from duplexdata.stages.plan import make_plan
from duplexdata.stages.scripts import read_scripts, write_scripts
from duplexdata.stages.work import shards_of

BUILT = 60
"""Conversations of the builds that are compared."""
LIMITS = QualityConfig(clipped_share=EspeakSynthesizer.clipped_share)
"""As the gate has them around espeak-ng."""


def main() -> None:
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    sources = tuple(SourceConfig(path) for path in sys.argv[2:]) or (SourceConfig(),)
    torch.set_num_threads(1)
    alarms: Counter[str] = Counter()
    refused = 0
    total = seconds = spent = 0.0
    for utterance in utterances(n, sources):
        started = time.process_time()
        faults = judge(utterance, LIMITS)
        spent += time.process_time() - started
        total += 1
        seconds += len(utterance.samples) / utterance.rate
        refused += bool(faults)
        alarms.update(f.reason for f in faults)
        if faults:
            print(f"  {', '.join(map(str, faults))}: {utterance.text[:100]}")
    print(f"{total:.0f} utterances, {seconds / total:.2f} s each: {refused} refused ({100 * refused / total:.2f} %)")
    print(f"by check: {dict(alarms) or 'none'}")
    print(f"judging: {1e3 * spent / total:.2f} ms an utterance, {1e3 * spent / seconds:.3f} ms a second of speech")
    times = {True: 0.0, False: 0.0}
    for check in (True, False, False, True):
        times[check] += _build_sec(sources, check)
    more = times[True] / times[False] - 1
    print(f"builds of {BUILT} conversations, processor time: {times[True] / 2:.2f} s with the gate, ", end="")
    print(f"{times[False] / 2:.2f} s without: {100 * more:+.1f} %")


def utterances(n: int, sources: tuple[SourceConfig, ...]) -> Iterator[Utterance]:
    """What builds say, spoken well."""
    synthesizer = EspeakSynthesizer()
    try:
        asked = list(islice((r for r in _requests(n, sources) if r.text), n))
        for request, speech in zip(asked, synthesizer.synthesize_many(iter(asked)), strict=True):
            assert isinstance(speech, Speech) and speech.words is not None
            starts = np.array([w.start for w in speech.words], np.int64)
            words = Words(tuple(w.text for w in speech.words), starts, any(w.estimated for w in speech.words))
            text, language = request.text, request.language
            yield Utterance(speech.samples, speech.sample_rate, text, language, words, None, synthesizer.sample_rate)
    finally:
        synthesizer.close()


def _requests(n: int, sources: tuple[SourceConfig, ...]) -> Iterator[SpeechRequest]:
    config = Config(conversations=max(20, n // 3), sources=sources)
    voices = {v.id: v for v in (*user_voices(), assistant_voice())}
    with tempfile.TemporaryDirectory() as folder:
        plan = make_plan(config, Path(folder))
        ingest(plan)
        for shard in shards_of(config):
            write_scripts(plan, shard)
            for script in read_scripts(plan, shard):
                for u in script.utterances:
                    yield SpeechRequest(u.text, voices[u.voice], script.language)


def faults_of(utterance: Utterance) -> tuple[Fault, ...]:
    return judge(utterance, LIMITS)


def _build_sec(sources: tuple[SourceConfig, ...], check: bool) -> float:
    """Processor seconds of this process and its children."""
    config = Config(conversations=BUILT, sources=sources)
    with tempfile.TemporaryDirectory() as folder:
        before = _used()
        quality = replace(config.quality, check=check)
        build(replace(config, quality=quality), Path(folder) / "dataset", workers=1, report=lambda *_: None)
        return _used() - before


def _used() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


if __name__ == "__main__":
    main()
