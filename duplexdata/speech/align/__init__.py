"""Word times for voices that give none: an aligner around a synthesizer."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np

from duplexdata.config import AlignConfig, SpeechConfig
from duplexdata.errors import ConfigError, SynthesisError
from duplexdata.speech.align.base import Aligner, AlignmentError, CharacterAligner
from duplexdata.speech.base import Speech, SpeechRequest, Synthesizer

__all__ = ["Aligned", "Aligner", "AlignmentError", "CharacterAligner", "aligner_name", "make_aligner", "needs_aligner"]


class Aligned:
    """A synthesizer whose utterances all have word times: its own where it gives them, estimated ones elsewhere.

    An utterance that the aligner cannot do (a language that espeak-ng does not speak, a recording that says something
    else) gets its time shared out by characters; both are counted in `counts`.
    """

    def __init__(self, inner: Synthesizer, aligner: Aligner) -> None:
        self._inner, self._aligner = inner, aligner
        self._fallback = CharacterAligner()
        self.name = f"{inner.name}+{aligner.name}"
        self.counts: Counter[str] = Counter()
        """Utterances by where their word times are from: "engine", the aligner's name, "characters"."""

    def __getattr__(self, name: str) -> object:
        # What a backend says of itself beside the protocol: its sample rate, whether it takes seeds ...
        return getattr(self.__dict__["_inner"], name)

    def synthesize_many(self, requests: Iterable[SpeechRequest]) -> Iterator[Speech | SynthesisError]:
        asked: deque[SpeechRequest] = deque()

        def remembered() -> Iterator[SpeechRequest]:
            for request in requests:
                asked.append(request)
                yield request

        for result in self._inner.synthesize_many(remembered()):
            yield self._with_words(asked.popleft(), result)

    def _with_words(self, request: SpeechRequest, result: Speech | SynthesisError) -> Speech | SynthesisError:
        if isinstance(result, SynthesisError):
            return result
        if result.words is not None:
            self.counts["engine"] += 1
            return result
        if not np.isfinite(result.samples).all():
            return result  # whoever judges the sound will refuse it
        try:
            words = self._aligner.word_times(request, result)
            self.counts[self._aligner.name] += 1
        except AlignmentError:
            words = self._fallback.word_times(request, result)
            self.counts[self._fallback.name] += 1
        return replace(result, words=words)

    def describe(self) -> dict[str, str]:
        return self._inner.describe() | {f"align_{k}": v for k, v in self._aligner.describe().items()}

    def close(self) -> None:
        try:
            self._aligner.close()
        finally:
            self._inner.close()


GIVES_WORD_TIMES = frozenset({"espeak", "nominal"})
"""Backends whose engine knows when each word begins and ends."""


def needs_aligner(config: SpeechConfig) -> bool:
    """Whether a backend gives no word times of its own. Where it does, `align` decides on nothing."""
    return config.backend not in GIVES_WORD_TIMES


def has_espeak() -> bool:
    return importlib.util.find_spec("espeakng_loader") is not None


def aligner_name(config: AlignConfig) -> str:
    """What `make_aligner` would make, without making it: part of a fingerprint. "" where it makes none."""
    method = _method(config)
    if method == "espeak":
        return f"dtw-espeak-ng-{importlib.metadata.version('espeakng-loader')}" if has_espeak() else "dtw-espeak-ng"
    return {"none": "", "ctc": "ctc"}.get(method, method)


def _method(config: AlignConfig) -> str:
    if config.method != "auto":
        return config.method
    if config.model is not None:
        return "ctc"
    return "espeak" if has_espeak() else "characters"


def make_aligner(config: AlignConfig) -> Aligner | None:
    """The aligner that the configuration asks for; None where it asks for none.

    "auto": a CTC model where one is named, else espeak-ng's rendering where the extra is installed, else characters.

    Raises: ConfigError: the extra is not installed, or the model cannot be had.
    """
    method = _method(config)
    if method == "none":
        return None
    if method == "ctc":
        if config.model is None:
            raise ConfigError("align.method 'ctc' needs align.model: a folder or hub id of a CTC model")
        from duplexdata.speech.align.ctc import CtcAligner

        return CtcAligner.load(config.model, config.device)
    if method == "espeak":
        from duplexdata.speech.align.reference import ReferenceAligner
        from duplexdata.speech.espeak import EspeakSynthesizer

        if not has_espeak():
            raise ConfigError("align.method 'espeak' needs an extra: pip install 'duplexdata[espeak]'")
        return ReferenceAligner(EspeakSynthesizer, aligner_name(config).removeprefix("dtw-"))
    return CharacterAligner()
