"""No sound at all: durations and word times from a nominal speaking rate, for the text-only layouts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from duplexdata.errors import SynthesisError
from duplexdata.speech.base import Speech, SpeechRequest, WordTime
from duplexdata.units import SAMPLE_RATE, to_samples
from duplexdata.words import nominal_seconds, split_words


class NominalSynthesizer:
    """Words share an utterance's nominal duration by their characters. The samples are silence of that length."""

    name = "nominal"
    takes_seed = False

    def synthesize_many(self, requests: Iterable[SpeechRequest]) -> Iterator[Speech | SynthesisError]:
        for request in requests:
            n = to_samples(nominal_seconds(request.text, request.language))
            spans = split_words(request.text)
            if not spans or not n:
                yield SynthesisError(f"nothing to say in {request.text[:40]!r}")
                continue
            total = spans[-1].end
            words = tuple(
                WordTime(request.text[s.start : s.end], n * s.start // total, n * s.end // total, estimated=True)
                for s in spans
            )
            yield Speech(np.zeros(n, np.float32), SAMPLE_RATE, words)

    def describe(self) -> dict[str, str]:
        return {"name": self.name}

    def close(self) -> None:
        pass
