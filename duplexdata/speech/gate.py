"""A synthesizer whose every utterance is judged before it is used, and taken again with another seed if it is bad."""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import soundfile as sf

from duplexdata.config import QualityConfig
from duplexdata.errors import ConfigError, SynthesisError, UtteranceRejected
from duplexdata.quality import likeness
from duplexdata.quality.utterance import Fault, Prompt, Utterance, Words, judge
from duplexdata.quality.wording import judge_wording
from duplexdata.rng import stable_hash
from duplexdata.speech.base import (
    Float32,
    Speech,
    SpeechRequest,
    Synthesizer,
    Voice,
    clipped_share_of,
    sample_rate_of,
    takes_seed,
)

_log = logging.getLogger(__name__)
_PROMPTS_KEPT = 512
_HEARD_TOGETHER = 8
"""Utterances that the recogniser is given at once."""
SEED_BITS = 31
"""Seeds fit every engine's integer."""


class Transcriber(Protocol):
    """A speech recogniser."""

    def transcribe(self, clips: Sequence[tuple[Float32, int, str]]) -> list[str]:
        """What is said in each clip: (mono samples, rate in Hz, BCP 47 tag)."""
        ...


@dataclass(slots=True)
class Tally:
    """Takes and what became of them, by voice: grows with every take; two of them merge.

    Every take is accepted or counted under one fault: takes = accepted + sum of faults, for every voice.

    Attributes:
        attempts: accepted utterances by the number of takes they needed.
        recast: conversations whose speaker was given another voice, by the voice given up.
    """

    takes: Counter[str] = field(default_factory=Counter)
    faults: dict[str, Counter[str]] = field(default_factory=dict)
    attempts: Counter[int] = field(default_factory=Counter)
    recast: Counter[str] = field(default_factory=Counter)

    def accept(self, voice: str, attempt: int) -> None:
        self.takes[voice] += 1
        self.attempts[attempt] += 1

    def reject(self, voice: str, reason: str) -> None:
        self.takes[voice] += 1
        self.faults.setdefault(voice, Counter())[reason] += 1

    def merge(self, other: Tally) -> None:
        self.takes.update(other.takes)
        for voice, faults in other.faults.items():
            self.faults.setdefault(voice, Counter()).update(faults)
        self.attempts.update(other.attempts)
        self.recast.update(other.recast)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, sorted; `from_dict` reads it."""
        return {
            "takes": dict(sorted(self.takes.items())),
            "faults": {voice: dict(sorted(c.items())) for voice, c in sorted(self.faults.items())},
            "attempts": {str(n): count for n, count in sorted(self.attempts.items())},
            "recast": dict(sorted(self.recast.items())),
        }

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Tally:
        return cls(
            Counter(raw["takes"]),
            {voice: Counter(c) for voice, c in raw["faults"].items()},
            Counter({int(n): count for n, count in raw["attempts"].items()}),
            Counter(raw["recast"]),
        )

    def summary(self) -> dict[str, Any]:
        """For people: the yield in all, by reason, and of each voice that lost a take."""
        faults: Counter[str] = sum(self.faults.values(), Counter())
        takes = self.takes.total()
        voices = {
            voice: {
                "takes": self.takes[voice],
                "yield": round(1 - c.total() / self.takes[voice], 4),
                "faults": dict(sorted(c.items())),
            }
            for voice, c in sorted(self.faults.items())
        }
        return {
            "takes": takes,
            "accepted": takes - faults.total(),
            "yield": round(1 - faults.total() / takes, 6) if takes else 1.0,
            "faults": dict(sorted(faults.items())),
            "attempts": {str(n): count for n, count in sorted(self.attempts.items())},
            "recast": dict(sorted(self.recast.items())),
            "voices": voices,
        }


@dataclass(frozen=True, slots=True)
class _Take:
    """A request and how often it has been tried before."""

    index: int
    request: SpeechRequest
    attempt: int = 0

    @property
    def seeded(self) -> SpeechRequest:
        return replace(self.request, seed=seed_of_attempt(self.request.seed, self.attempt))


def seed_of_attempt(seed: int, attempt: int) -> int:
    """The first take has the request's own seed."""
    return stable_hash(seed, "attempt", attempt, bits=SEED_BITS) if attempt else seed


class Gated:
    """Passes good utterances on, in order. A bad one is asked for again, with another seed, beside those that follow.

    Of the backend `inner` it needs nothing but `synthesize_many`; one that takes no seeds gets one attempt. An
    utterance without a good take gives `UtteranceRejected`.

    Args:
        tally: counts every take.
        transcriber: hears what was said; None: only the sound is judged.
        engine: what says of itself whether it takes seeds, and the like; None: `inner`.
    """

    def __init__(
        self,
        inner: Synthesizer,
        limits: QualityConfig,
        tally: Tally,
        transcriber: Transcriber | None = None,
        engine: Synthesizer | None = None,
    ) -> None:
        engine = engine or inner
        self._inner, self._tally, self._transcriber = inner, tally, transcriber
        self._limits = replace(limits, clipped_share=max(limits.clipped_share, clipped_share_of(engine)))
        self.name, self.takes_seed, self.sample_rate = inner.name, takes_seed(engine), sample_rate_of(engine)
        self._attempts = limits.attempts if self.takes_seed else 1
        self._prompts: OrderedDict[str, Prompt] = OrderedDict()

    def describe(self) -> dict[str, str]:
        return self._inner.describe()

    def close(self) -> None:
        self._inner.close()

    def synthesize_many(self, requests: Iterable[SpeechRequest]) -> Iterator[Speech | SynthesisError]:
        rounds = _Rounds(requests)
        unheard: list[tuple[_Take, Speech]] = []
        while True:
            for result in self._inner.synthesize_many(rounds.requests()):
                take = rounds.sent.popleft()
                faults = self._faults(take.request, result)
                if faults or self._transcriber is None or isinstance(result, SynthesisError):
                    self._settle(rounds, take, result, faults)
                else:
                    unheard.append((take, result))
                    if len(unheard) >= _HEARD_TOGETHER:
                        self._hear(rounds, unheard)
                yield from rounds.ready()
            self._hear(rounds, unheard)
            yield from rounds.ready()
            if rounds.over:
                return

    def _settle(self, rounds: _Rounds, take: _Take, result: Speech | SynthesisError, faults: Sequence[Fault]) -> None:
        """Keep a take, or have it repeated, or give it up."""
        request, left = take.request, self._attempts - take.attempt - 1
        if isinstance(result, SynthesisError):
            self._tally.reject(request.voice.id, "synthesis_failed")
            if not result.retryable or not left:
                rounds.done[take.index] = result
                return
        elif not faults:
            self._tally.accept(request.voice.id, take.attempt + 1)
            rounds.done[take.index] = result
            return
        else:
            self._tally.reject(request.voice.id, faults[0].reason)
            said = ", ".join(map(str, faults))
            _log.info("voice %s, take %d of %r: %s", request.voice.id, take.attempt + 1, request.text[:60], said)
            if not left:
                message = f"no take of {take.attempt + 1} was good, the last: {said}"
                rounds.done[take.index] = UtteranceRejected(faults[0].reason, message)
                return
        rounds.repeat(take)

    def _faults(self, request: SpeechRequest, result: Speech | SynthesisError) -> tuple[Fault, ...]:
        if isinstance(result, SynthesisError):
            return ()
        words = None
        if result.words:
            starts = np.array([w.start for w in result.words], np.int64)
            words = Words(tuple(w.text for w in result.words), starts, any(w.estimated for w in result.words))
        prompt = self._prompt(request.voice)
        utterance = Utterance(
            result.samples, result.sample_rate, request.text, request.language, words, prompt, self.sample_rate
        )
        return judge(utterance, self._limits)

    def _hear(self, rounds: _Rounds, unheard: list[tuple[_Take, Speech]]) -> None:
        """What passes for sound is judged by its words."""
        if not unheard or self._transcriber is None:
            return
        clips = [(speech.samples, speech.sample_rate, take.request.language) for take, speech in unheard]
        for (take, speech), heard in zip(unheard, self._transcriber.transcribe(clips), strict=True):
            request = take.request
            prompt = request.voice.prompt.transcript if request.voice.prompt else None
            faults = judge_wording(heard, request.text, request.language, self._limits, prompt=prompt)
            self._settle(rounds, take, speech, faults)
        unheard.clear()

    def _prompt(self, voice: Voice) -> Prompt | None:
        if voice.prompt is None:
            return None
        found = self._prompts.get(voice.prompt.sha256)
        if found is None:
            found = Prompt(_prompt_features(voice.id, voice.prompt.path), voice.prompt.transcript)
            self._prompts[voice.prompt.sha256] = found
            if len(self._prompts) > _PROMPTS_KEPT:
                self._prompts.popitem(last=False)
        self._prompts.move_to_end(voice.prompt.sha256)
        return found


def _prompt_features(voice: str, path: str) -> Float32:
    try:
        samples, rate = sf.read(path, dtype="float32", always_2d=True)
    except (OSError, sf.LibsndfileError) as error:
        raise ConfigError(f"voice {voice!r}: its prompt cannot be read: {error}") from None
    return likeness.features(samples.mean(axis=1), rate)


class _Rounds:
    """Requests go out, first those to repeat; results come back in the order of the requests."""

    def __init__(self, requests: Iterable[SpeechRequest]) -> None:
        self._source = iter(requests)
        self._asked = self._given = 0
        self._again: deque[_Take] = deque()
        self._exhausted = False
        self.sent: deque[_Take] = deque()
        self.done: dict[int, Speech | SynthesisError] = {}

    @property
    def over(self) -> bool:
        return self._exhausted and not self._again

    def requests(self) -> Iterator[SpeechRequest]:
        """Ends where there is nothing to ask for now; repeats that come up later are for another round."""
        while take := self._next():
            self.sent.append(take)
            yield take.seeded

    def _next(self) -> _Take | None:
        if self._again:
            return self._again.popleft()
        request = next(self._source, None)
        if request is None:
            self._exhausted = True
            return None
        self._asked += 1
        return _Take(self._asked - 1, request)

    def repeat(self, take: _Take) -> None:
        self._again.append(replace(take, attempt=take.attempt + 1))

    def ready(self) -> Iterator[Speech | SynthesisError]:
        while self._given in self.done:
            self._given += 1
            yield self.done.pop(self._given - 1)
