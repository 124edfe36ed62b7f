"""Backends by name. A heavy library is imported only when the backend that needs it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

from duplexdata.codecs.base import MEL_CODEBOOK_SIZE, SpeechTokenizer
from duplexdata.config import CodecConfig, SpeechConfig
from duplexdata.errors import ConfigError
from duplexdata.speech.base import Synthesizer


def _espeak(config: SpeechConfig) -> Synthesizer:
    from duplexdata.speech.espeak import EspeakSynthesizer

    return EspeakSynthesizer(timeout_sec=config.timeout_sec)


def _nominal(config: SpeechConfig) -> Synthesizer:
    from duplexdata.speech.nominal import NominalSynthesizer

    return NominalSynthesizer()


def _mel(config: CodecConfig) -> SpeechTokenizer:
    from duplexdata.codecs.mel import MelCodec

    return MelCodec.load()


def _glm4voice(config: CodecConfig) -> SpeechTokenizer:
    from duplexdata.codecs.glm4voice import Glm4VoiceTokenizer

    if config.checkpoint is None:
        raise ConfigError(
            "the codec glm4voice needs codec.checkpoint (--checkpoint): a folder with its released files, "
            "or the hub id zai-org/glm-4-voice-tokenizer"
        )
    return Glm4VoiceTokenizer.load(config.checkpoint, device=config.device, precision=config.precision)


SYNTHESIZERS: Mapping[str, Callable[[SpeechConfig], Synthesizer]] = {"espeak": _espeak, "nominal": _nominal}
SPEECH_TOKENIZERS: Mapping[str, Callable[[CodecConfig], SpeechTokenizer]] = {"mel": _mel, "glm4voice": _glm4voice}


def make_synthesizer(config: SpeechConfig) -> Synthesizer:
    """Raises ConfigError: the backend is unknown, or its extra is not installed."""
    return _known(SYNTHESIZERS, config.backend, "speech.backend")(config)


def make_speech_tokenizer(config: CodecConfig) -> SpeechTokenizer:
    """Raises ConfigError: the codec is unknown. CodecError: its weights cannot be loaded."""
    return _known(SPEECH_TOKENIZERS, config.name, "codec.name")(config)


T = TypeVar("T")


def codebook_size(config: CodecConfig) -> int:
    """Codes of the codec; the embedded one's without loading it, and torch with it."""
    return MEL_CODEBOOK_SIZE if config.name == "mel" else make_speech_tokenizer(config).codebook_size


def _known(table: Mapping[str, T], name: str, key: str) -> T:
    if name not in table:
        raise ConfigError(f"{key} is {name!r}, expected one of {', '.join(table)}")
    return table[name]
