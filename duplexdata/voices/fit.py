"""Whether a bank and what is to be spoken with it go together: one clear error at the start."""

from __future__ import annotations

from collections.abc import Mapping

from duplexdata.backends import make_backend
from duplexdata.config import Config
from duplexdata.errors import ConfigError, SynthesisError
from duplexdata.speech.base import SpeechRequest
from duplexdata.voices.bank import VoiceBank
from duplexdata.voices.load import EMBEDDED, load_bank

SPEAKS_FROM: Mapping[str, str] = {"espeak": "settings", "speech_http": "prompt", "cosyvoice": "prompt"}
"""What a backend needs of every voice; one that is not named takes any."""


def bank_for(config: Config) -> VoiceBank:
    """The bank of a run. Raises ConfigError: it cannot be read, or does not fit the run."""
    bank = load_bank(config.voices)
    check_fit(config, bank)
    return bank


def speakers_needed(config: Config) -> int:
    """Users that a split must have: who distracts is somebody else."""
    return 2 if config.mix.distractor > 0 else 1


def check_fit(config: Config, bank: VoiceBank) -> None:
    """Raises ConfigError: the backend cannot speak with these voices, or a split has too few."""
    _check_backend(config, bank)
    needed = speakers_needed(config)
    for split in ("train", "test"):
        languages = sorted({v.language for v in bank.users if v.split == split})
        if any(bank.users_of(split, language, speakers=needed) for language in languages):
            continue
        n = len({v.speaker for v in bank.users if v.split == split})
        why = "two of one language, because a distractor is somebody else (or set mix.distractor to 0)"
        refused = f"; {len(bank.refused)} voices are refused, see `duplexdata voices check`" if bank.refused else ""
        raise ConfigError(
            f"the voice bank {bank.name} has {n} user{'' if n == 1 else 's'} for {split}, expected at least "
            f"{why if needed == 2 else 'one'}: add voices, or change their split or voices.test_fraction{refused}"
        )


def _check_backend(config: Config, bank: VoiceBank) -> None:
    backend = config.speech.backend
    needs = SPEAKS_FROM.get(backend)
    without = [v.id for v in bank if needs is not None and not getattr(v.voice, needs)]
    if without and needs == "prompt":
        raise ConfigError(
            f"speech.backend {backend} clones recordings, and the voice bank {bank.name} has none for "
            f"{_some(without)}: set voices.bank to a folder of recordings (`duplexdata voices import` makes one)"
        )
    if without:
        raise ConfigError(
            f"speech.backend {backend} cannot clone, and {_some(without)} of the voice bank {bank.name} have no "
            "settings for it: take a backend that clones, or set voices.bank to embedded"
        )
    if backend == "espeak" and config.voices.bank != EMBEDDED:
        _try_voices(config, bank)


def _try_voices(config: Config, bank: VoiceBank) -> None:
    """A name that espeak-ng does not know would cost every conversation of that voice."""
    requests = [SpeechRequest("yes", v.voice) for v in bank]
    synthesizer = make_backend(config.speech)
    try:
        for request, result in zip(requests, synthesizer.synthesize_many(requests), strict=True):
            if isinstance(result, SynthesisError):
                raise ConfigError(f"the voice {request.voice.id} of the voice bank {bank.name}: {result}")
    finally:
        synthesizer.close()


def _some(ids: list[str]) -> str:
    return f"{', '.join(ids[:3])}{' and others' if len(ids) > 3 else ''}"
