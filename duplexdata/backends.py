"""Backends by name. A heavy library is imported only when the backend that needs it is asked for."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from duplexdata.codecs.base import MEL_CODEBOOK_SIZE, SpeechTokenizer
from duplexdata.config import CacheConfig, CodecConfig, Config, SpeechConfig
from duplexdata.errors import CodecError, ConfigError
from duplexdata.speech.base import Synthesizer
from duplexdata.speech.gate import Gated, Tally, Transcriber
from duplexdata.speech.split import SplitSynthesizer

T = TypeVar("T")


def _espeak(config: SpeechConfig) -> Synthesizer:
    from duplexdata.speech.espeak import EspeakSynthesizer

    return EspeakSynthesizer(timeout_sec=config.timeout_sec)


def _nominal(config: SpeechConfig) -> Synthesizer:
    from duplexdata.speech.nominal import NominalSynthesizer

    return NominalSynthesizer()


def _tone(config: SpeechConfig) -> Synthesizer:
    from duplexdata.speech.tone import ToneSynthesizer

    return ToneSynthesizer(sample_rate=config.sample_rate, words=config.backend == "tone")


def _servers(config: SpeechConfig) -> Synthesizer:
    from duplexdata.speech.http.synthesizer import HttpSynthesizer

    started = config.backend == "cosyvoice"
    if started and not config.servers:
        raise ConfigError("speech.backend is cosyvoice, whose server only a build starts: see `serve-cosyvoice`")
    return HttpSynthesizer(
        config.servers,
        model=_cosyvoice_model(config) if started else config.model,
        key=_api_key(config),
        name=config.backend,
        sample_rate=config.sample_rate,
        in_flight=config.in_flight,
        attempts=config.request_attempts,
        timeout_sec=config.answer_timeout_sec,
        patience_sec=config.patience_sec,
        register_voices=config.register_voices,
    )


def _api_key(config: SpeechConfig) -> str | None:
    if config.api_key_env is None:
        return None
    key = os.environ.get(config.api_key_env, "")
    if not key:
        raise ConfigError(f"speech.api_key_env names the variable {config.api_key_env}, which is not set")
    return key


def _cosyvoice_model(config: SpeechConfig) -> str:
    from duplexdata.speech.cosyvoice.model import model_identity

    return model_identity(*cosyvoice_folders(config))


def cosyvoice_folders(config: SpeechConfig) -> tuple[Path, Path]:
    """The checkout and the model. Raises ConfigError: one of them is not named."""
    if not config.checkout or not config.model:
        raise ConfigError(
            "speech.backend is cosyvoice: set speech.checkout (a folder with the official code), speech.model (one "
            "with a CosyVoice 2 or 3 model) and speech.python (its environment, as `duplexdata cosyvoice-env DIR` "
            "makes it)"
        )
    return Path(config.checkout).expanduser(), Path(config.model).expanduser()


def _mel(config: CodecConfig) -> SpeechTokenizer:
    from duplexdata.codecs.mel import MelCodec

    _one_codebook(config)
    return MelCodec.load()


def _glm4voice(config: CodecConfig) -> SpeechTokenizer:
    from duplexdata.codecs.glm4voice import Glm4VoiceTokenizer

    return Glm4VoiceTokenizer.load(_checkpoint(config), device=config.device, precision=config.precision)


def _mimi(config: CodecConfig) -> SpeechTokenizer:
    from duplexdata.codecs.mimi import MimiTokenizer

    return MimiTokenizer.load(
        _checkpoint(config), device=config.device, precision=config.precision, n_codebooks=config.n_codebooks
    )


_CHECKPOINTS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    # hub id of the released weights, and the precisions there are
    "glm4voice": ("zai-org/glm-4-voice-tokenizer", ("fp32", "tf32", "fp16", "bf16")),
    "mimi": ("kyutai/mimi", ("fp32", "tf32")),
}


def _checkpoint(config: CodecConfig) -> str:
    """The checkpoint, of a configuration that can be run. Raises ConfigError: it cannot."""
    hub_id, precisions = _known(_CHECKPOINTS, config.name, "codec.name")
    if config.checkpoint is None:
        raise ConfigError(
            f"the codec {config.name} needs codec.checkpoint (--checkpoint): a folder with its released files, "
            f"or the hub id {hub_id}"
        )
    if config.precision not in precisions:
        raise ConfigError(f"codec.precision is {config.precision!r}, expected one of {', '.join(precisions)}")
    if config.name != "mimi":
        _one_codebook(config)
    return config.checkpoint


def _one_codebook(config: CodecConfig) -> None:
    if config.n_codebooks not in (None, 1):
        raise ConfigError(f"codec.n_codebooks is {config.n_codebooks}, but the codec {config.name} has one")


SYNTHESIZERS: Mapping[str, Callable[[SpeechConfig], Synthesizer]] = {
    "espeak": _espeak,
    "nominal": _nominal,
    "speech_http": _servers,
    "cosyvoice": _servers,
    "tone": _tone,
    "tone_untimed": _tone,
}
SPEECH_TOKENIZERS: Mapping[str, Callable[[CodecConfig], SpeechTokenizer]] = {
    "mel": _mel,
    "glm4voice": _glm4voice,
    "mimi": _mimi,
}


IN_PIECES = frozenset({"speech_http", "cosyvoice"})
"""Backends that sample long texts badly, or split them themselves."""
FASTER_THAN_A_CACHE = frozenset({"espeak", "nominal", "tone"})
"""Backends that synthesize in less time than a file takes to read."""


_ASR_FILES = ("*.json", "*.txt", "*.model", "model*.safetensors")
"""All that is fetched of a speech recogniser: its weights and what reads text; no code, no pickles."""


def make_synthesizer(config: Config, tally: Tally | None = None) -> Synthesizer:
    """What a run speaks with: the backend and all that stands around it.

    From the inside out: the backend; what it said before is kept (`cache`); word times are found where it gives none
    (`align`); every take is judged (`quality`), and repeated if it is bad; what servers speak is asked for in pieces
    (`speech.piece_characters`), each of which is a take of its own.

    Args:
        tally: counts the takes; None: nobody wants to know.

    Raises: ConfigError: the backend is unknown, its extra is not installed, or what is asked of it cannot be had.
    """
    engine = make_backend(config.speech)
    made = _aligned(_cached(engine, config.speech.backend, config.cache), config)
    if config.has_sound and config.quality.check:
        made = _gated(made, engine, config, tally or Tally())
    return SplitSynthesizer(made, config.speech.piece_characters) if config.speech.backend in IN_PIECES else made


def make_backend(config: SpeechConfig) -> Synthesizer:
    """The engine alone. Raises ConfigError: it is unknown, or its extra is not installed."""
    return _known(SYNTHESIZERS, config.backend, "speech.backend")(config)


def _cached(made: Synthesizer, backend: str, config: CacheConfig) -> Synthesizer:
    if config.folder == "off" or (config.folder == "auto" and backend in FASTER_THAN_A_CACHE):
        return made
    from duplexdata.speech.cache import Cached, SpeechStore, default_folder

    folder = default_folder() if config.folder == "auto" else Path(config.folder).expanduser()
    return Cached(made, SpeechStore(folder, config.max_bytes))


def _aligned(made: Synthesizer, config: Config) -> Synthesizer:
    from duplexdata.speech.align import Aligned, make_aligner, needs_aligner

    aligner = make_aligner(config.align) if config.has_sound and needs_aligner(config.speech) else None
    return made if aligner is None else Aligned(made, aligner)


def _gated(made: Synthesizer, engine: Synthesizer, config: Config, tally: Tally) -> Synthesizer:
    asr, device = config.quality.asr, config.quality.asr_device
    return Gated(made, config.quality, tally, None if asr is None else _transcriber(asr, device), engine)


@lru_cache(maxsize=1)
def _transcriber(asr: str, device: str) -> Transcriber:
    """Kept: a process speaks many shards, and a model takes long to load."""
    from duplexdata.speech.transcribe import AsrTranscriber

    return AsrTranscriber(str(_asr_folder(asr)), device)


def _asr_folder(asr: str) -> Path:
    try:
        return checkpoint_folder(asr, _ASR_FILES)
    except CodecError as error:
        raise ConfigError(f"quality.asr: {error}") from None


_START_PATIENCE_SEC = 3.0


def reported_model(config: SpeechConfig) -> str:
    """What the servers of a configuration say they serve. Raises ConfigError: they differ, or do not say;
    SpeechServerError: none answers."""
    from duplexdata.speech.http.synthesizer import HttpSynthesizer

    asked = HttpSynthesizer(
        config.servers,
        model=config.model,
        key=_api_key(config),
        sample_rate=config.sample_rate,
        start_patience_sec=_START_PATIENCE_SEC,
    )
    asked.close()
    return asked.model


def synthesizer_identity(config: SpeechConfig) -> str:
    """What tells that another engine or model speaks. No address, path or key is in it.

    Of servers that report their model, and of which none is configured, they are asked. Raises: see there; ConfigError.
    """
    if config.backend == "speech_http":
        return f"speech_http {config.model or reported_model(config)}"
    if config.backend == "cosyvoice":
        return f"cosyvoice {_cosyvoice_model(config)}"
    if config.backend != "espeak":
        return config.backend
    try:
        return f"espeak-ng ({importlib.metadata.version('espeakng-loader')})"
    except importlib.metadata.PackageNotFoundError:
        return "espeak-ng"  # the build will say which extra to install


def check_synthesizer(config: SpeechConfig) -> None:
    """Raises ConfigError, SpeechServerError: the backend cannot be had. What a build starts itself is looked for, not
    started."""
    if config.backend == "cosyvoice":
        from duplexdata.speech.cosyvoice.bridge import check_folders

        check_folders(*cosyvoice_folders(config), config.python)
    elif config.backend == "speech_http":
        reported_model(config)
    else:
        make_backend(config).close()


def speech_settings(config: SpeechConfig) -> dict[str, Any]:
    """The settings that decide on a backend's sound, for fingerprints."""
    names = ["backend", "level_dbfs", "timeout_sec"]
    if config.backend in ("speech_http", "cosyvoice"):
        names = ["backend", "level_dbfs", "piece_characters", "sample_rate"]
    if config.backend.startswith("tone"):
        names.append("sample_rate")
    return {name: getattr(config, name) for name in names}


def make_speech_tokenizer(config: CodecConfig) -> SpeechTokenizer:
    """Raises ConfigError: the codec is unknown. CodecError: its weights cannot be loaded."""
    return _known(SPEECH_TOKENIZERS, config.name, "codec.name")(config)


def codebook_size(config: CodecConfig) -> int:
    """Codes of a codebook, without loading the codec's weights, and without torch for the embedded one.

    Raises: CodecError: its checkpoint cannot be had or read.
    """
    if config.name == "mel":
        return MEL_CODEBOOK_SIZE
    if config.name == "mimi":
        from duplexdata.codecs.mimi import read_config

        return int(read_config(checkpoint_folder(_checkpoint(config)))["codebook_size"])
    if config.name == "glm4voice":
        from duplexdata.codecs.glm4voice.config import Glm4VoiceConfig

        return Glm4VoiceConfig.read(checkpoint_folder(_checkpoint(config))).vocab
    return make_speech_tokenizer(config).codebook_size


def checkpoint_folder(path_or_hub_id: str, files: Sequence[str] | None = None) -> Path:
    """Where a checkpoint's files are; those of the hub are fetched once. Raises CodecError: nowhere."""
    path = Path(path_or_hub_id).expanduser()
    if path.is_dir():
        return path
    from duplexdata.codecs.checkpoint import checkpoint_folder

    return checkpoint_folder(path_or_hub_id) if files is None else checkpoint_folder(path_or_hub_id, files)


_BLOCK, _BLOCKS = 4096, 256


def checkpoint_identity(config: CodecConfig) -> str:
    """A hash that tells a checkpoint from another, wherever it lies, at a cost that does not grow with its size.

    Of the weights' files it takes the size, the header and 256 blocks spread over the rest: other training changes
    them all. Raises CodecError: the checkpoint cannot be had.
    """
    if config.name not in _CHECKPOINTS:
        return config.checkpoint or ""
    return _folder_identity(checkpoint_folder(_checkpoint(config)))


def asr_identity(asr: str | None) -> str:
    """The same of the model that hears what was said; "" where none does. Raises ConfigError: it cannot be had."""
    try:
        return "" if asr is None else _folder_identity(_asr_folder(asr))
    except CodecError as error:
        raise ConfigError(f"quality.asr: {error}") from None


def _folder_identity(folder: Path) -> str:
    digest = hashlib.sha256()
    try:
        for path in sorted([*folder.glob("*config.json"), *folder.glob("model*.safetensors")]):
            size = path.stat().st_size
            digest.update(f"{path.name} {size} ".encode())
            with path.open("rb") as file:
                header = int.from_bytes(file.read(8), "little") + 8 if path.suffix == ".safetensors" else size
                file.seek(0)
                digest.update(file.read(min(header, size)))
                for start in range(header, size, max(_BLOCK, (size - header) // _BLOCKS)):
                    file.seek(start)
                    digest.update(file.read(_BLOCK))
    except OSError as error:
        raise CodecError(f"{folder}: cannot be read: {error}") from error
    return digest.hexdigest()[:16]


def device_count(config: CodecConfig) -> int:
    """GPUs that the codec runs on; 0 where it computes on the CPU."""
    if config.name == "mel" or config.device == "cpu":
        return 0
    import torch

    count = torch.cuda.device_count()
    return min(count, 1) if ":" in config.device else count


def _known(table: Mapping[str, T], name: str, key: str) -> T:
    if name not in table:
        raise ConfigError(f"{key} is {name!r}, expected one of {', '.join(table)}")
    return table[name]
