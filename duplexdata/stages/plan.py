"""What a run is made of: the fingerprint and folder of every stage, from the configuration."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from duplexdata import __version__
from duplexdata.augment.noise import NoiseFolder, folder_name, noise_folder
from duplexdata.backends import asr_identity, checkpoint_identity, speech_settings, synthesizer_identity
from duplexdata.config import (
    AlignConfig,
    CacheConfig,
    Config,
    EngineConfig,
    SourceConfig,
    SpeechConfig,
    as_dict,
    fingerprint,
)
from duplexdata.errors import ConfigError
from duplexdata.names import on_one_line
from duplexdata.resources import data_file, folder
from duplexdata.shards import sha256
from duplexdata.speech.align import aligner_name, needs_aligner
from duplexdata.storage import Store
from duplexdata.voices.bank import VoiceBank
from duplexdata.voices.fit import bank_for
from duplexdata.writer.prompts import prompt_versions

# Raised whenever a change of the code changes a stage's bytes.
INGEST, SCRIPTS, SPEECH, CODES, LAYOUTS = 1, 2, 2, 1, 1
WRITING = 1


@dataclass(frozen=True, slots=True)
class Plan:
    """A run, resolved. Small and picklable: tasks are given it whole.

    Attributes:
        config_fingerprint: of the configuration without local paths; stands in every row and in the manifest.
        made_by: versions and hashes of all that made it besides the configuration, as (name, value) pairs.
        noise: the recordings that are added to the user's channel, where the configuration names some.
    """

    config: Config
    store: Store
    bank: VoiceBank
    ingest: str
    scripts: str
    speech: str
    codes: str
    layouts: str
    config_fingerprint: str
    record_fingerprint: str
    made_by: tuple[tuple[str, str], ...]
    synthesizer: str
    prompt_version: str
    noise: NoiseFolder | None = None

    @property
    def work(self) -> Path:
        """The run's folder on this machine."""
        return self.store.local

    def stage_folder(self, stage: str) -> Path:
        return self.store.local / f"{stage}-{getattr(self, stage)}"

    def with_speech(self, speech: SpeechConfig) -> Plan:
        """The same run with settings of the speech backend that decide on nothing: servers started for it, say."""
        return replace(self, config=replace(self.config, speech=speech))


def make_plan(config: Config, store: Store) -> Plan:
    public = public_config(config)
    prompts = prompt_version()
    synthesizer = synthesizer_identity(config.speech)
    bank = bank_for(config)
    codec = [as_dict(public.codec), codec_identity(config)]
    tokenizer = _tokenizer_identity(config)
    grid = [config.layout.n_speech, config.layout.n_text]

    ingest = ingest_fingerprint(config)
    planned = [config.seed, config.conversations, config.text, config.mix, config.timing, config.shards]
    writer = writer_identity(config)
    written = [writer] if writer else []
    scripts = fingerprint("scripts", SCRIPTS, ingest, *planned, prompts, bank.casting(), *written)
    heard_by = asr_identity(config.quality.asr)
    aligned_by = aligner_identity(config)
    spoken = [speech_settings(config.speech), public.quality, heard_by, grid, synthesizer, bank.sounds()]
    spoken += [aligned_by] if aligned_by else []
    noise = noise_folder(config.augment)
    noises = fingerprint(noise.identity()) if noise is not None else ""
    augmented = [as_dict(public.augment), noises] if config.augment.on else []
    spoken += augmented
    speech = fingerprint("speech", SPEECH, scripts, *spoken)
    codes = fingerprint("codes", CODES, speech, codec)
    layouts = fingerprint("layouts", LAYOUTS, codes, config.layout, tokenizer)
    made_by = {
        "stages": fingerprint([INGEST, SCRIPTS, SPEECH, CODES, LAYOUTS]),
        "prompts": prompts,
        "voices": fingerprint(bank.casting(), bank.sounds(), bank.facts()),
        "synthesizer": synthesizer,
        "codec": codec_identity(config),
        "tokenizer": tokenizer,
        **({"asr": heard_by} if heard_by else {}),
        **({"aligner": aligned_by} if aligned_by else {}),
        **({"noise": noises} if noises else {}),
        **({"writer": writer} if writer else {}),
    }
    recorded = (*public.sources, public.text, public.mix, public.timing, public.quality)
    return Plan(
        config=config,
        store=store,
        bank=bank,
        ingest=ingest,
        scripts=scripts,
        speech=speech,
        codes=codes,
        layouts=layouts,
        config_fingerprint=dataset_fingerprint(published(config), made_by),
        made_by=tuple(made_by.items()),
        record_fingerprint=fingerprint(
            [as_dict(x) for x in recorded],
            [as_dict(public.voices), speech_settings(public.speech)],
            [public.seed, public.conversations, as_dict(public.shards), grid, *written],
            *([aligned_by] if aligned_by else []),
            *augmented,
        ),
        synthesizer=synthesizer,
        prompt_version=prompts,
        noise=noise,
    )


def ingest_fingerprint(config: Config) -> str:
    """Changes with the sources' files."""
    return fingerprint("ingest", INGEST, [_identity(s) for s in config.sources], dialogues_wanted(config))


def dataset_fingerprint(config: Mapping[str, object], made_by: Mapping[str, str]) -> str:
    """Of a dataset: from what its manifest says under `config` and `made_by`."""
    return fingerprint(dict(config), dict(made_by), __version__)


def public_config(config: Config) -> Config:
    """The configuration as it may be published: local paths become names; no device, server, cache or key is named."""

    def name(path: str | None) -> str | None:
        return on_one_line(Path(path).name) if path is not None and os.path.exists(path) else path

    sources = tuple(replace(s, path=name(s.path) or s.path) for s in config.sources)
    codec = replace(config.codec, checkpoint=name(config.codec.checkpoint), device="auto")
    layout = replace(config.layout, tokenizer=name(config.layout.tokenizer) or config.layout.tokenizer)
    voices = replace(config.voices, bank=name(config.voices.bank) or config.voices.bank)
    speech = replace(SpeechConfig(model=name(config.speech.model)), **speech_settings(config.speech))
    quality = replace(config.quality, asr=name(config.quality.asr), asr_device="auto")
    align = AlignConfig(config.align.method, name(config.align.model))
    noise = replace(config.augment.noise, folder=folder_name(config.augment.noise.folder))
    writer = config.writer.public_part()
    if writer.model is not None:
        writer = replace(writer, model=model_name(writer.model))
    return replace(
        config,
        sources=sources,
        voices=voices,
        speech=speech,
        quality=quality,
        align=align,
        augment=replace(config.augment, noise=noise),
        cache=CacheConfig(),
        codec=codec,
        layout=layout,
        writer=writer,
        engine=EngineConfig(),
    )


def published(config: Config) -> dict[str, object]:
    """`public_config` as plain values, as it stands in the manifest. What is not used is not in it."""
    plain = as_dict(public_config(config))
    if config.writer.model is None:
        del plain["writer"]
    if not config.augment.on:
        del plain["augment"]
    return plain


def model_name(model: str) -> str:
    """A language model's name as it may be published: a folder's without what is above it."""
    return Path(model).name if model.startswith(("/", "~", "./", "../")) else model


def writer_identity(config: Config) -> str:
    """What decides on the texts of a language model, its replies apart; "" where templates write everything."""
    deciding = config.writer.deciding_part()
    if not deciding:
        return ""
    versions = {key: v for key, v in prompt_versions().items() if key.split("/")[1] in config.writer.write}
    return fingerprint("writing", WRITING, deciding, versions)


def prompt_version() -> str:
    """8 hex digits that change with any phrase bank."""
    digest = hashlib.sha256()
    for path in sorted(folder("prompts").rglob("*")):
        if path.is_file() and path.suffix == ".yaml":
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:8]


def aligner_identity(config: Config) -> str:
    """Where word times come from if the backend gives none; "" where it gives them. Raises ConfigError: no model."""
    if not (config.has_sound and needs_aligner(config.speech)):
        return ""
    if (name := aligner_name(config.align)) != "ctc":
        return name
    try:
        return f"ctc {asr_identity(config.align.model)}"
    except ConfigError as error:
        raise ConfigError(f"align.model: {str(error).removeprefix('quality.asr: ')}") from None


def dialogues_wanted(config: Config) -> int:
    """Dialogues to read in all: enough for every scenario, not the whole of a corpus of millions."""
    return max(400, round(config.conversations * config.text.dialogues_per_conversation))


def _identity(source: SourceConfig) -> list[object]:
    """The source as configured, and what tells that its file has changed."""
    path = data_file("corpus.jsonl") if source.path == "bundled" else Path(source.path)
    files = sorted(p for p in path.rglob("*") if p.is_file()) if os.path.isdir(path) else [path]
    stats = []
    for file in files:
        with suppress(OSError, ValueError):  # nothing of that name, or not any more: reading it will say so
            found = file.stat()
            stats.append((file.name, found.st_size, 0 if source.path == "bundled" else found.st_mtime_ns))
    return [as_dict(source), stats]


def codec_identity(config: Config) -> str:
    """What tells that the speech tokenizer's weights have changed. Raises CodecError: they cannot be had."""
    if config.codec.name == "mel":
        return sha256(data_file("mel_codec.safetensors"))
    return checkpoint_identity(config.codec) if config.has_sound else ""


def _tokenizer_identity(config: Config) -> str:
    path = data_file("tokenizer") if config.layout.tokenizer == "embedded" else Path(config.layout.tokenizer)
    file = path / "tokenizer.json"
    return sha256(file) if os.path.isfile(file) else config.layout.tokenizer
