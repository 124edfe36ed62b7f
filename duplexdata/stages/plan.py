"""What a run is made of: the fingerprint and folder of every stage, from the configuration."""

from __future__ import annotations

import hashlib
import importlib.metadata
from dataclasses import dataclass, replace
from pathlib import Path

from duplexdata import __version__
from duplexdata.config import Config, SourceConfig, as_dict, fingerprint
from duplexdata.resources import data_file, folder
from duplexdata.shards import sha256

# Raised whenever a change of the code changes a stage's bytes.
INGEST, SCRIPTS, SPEECH, CODES, LAYOUTS = 1, 1, 1, 1, 1


@dataclass(frozen=True, slots=True)
class Plan:
    """A run, resolved. Small and picklable: tasks are given it whole.

    Attributes:
        config_fingerprint: of the configuration without local paths; stands in every row and in the manifest.
        synthesizer, codec: what the backends call themselves, with versions.
    """

    config: Config
    work: Path
    ingest: str
    scripts: str
    speech: str
    codes: str
    layouts: str
    config_fingerprint: str
    record_fingerprint: str
    synthesizer: str
    prompt_version: str

    def stage_folder(self, stage: str) -> Path:
        return self.work / f"{stage}-{getattr(self, stage)}"


def make_plan(config: Config, work: Path) -> Plan:
    public = public_config(config)
    prompts = prompt_version()
    ingest = fingerprint("ingest", INGEST, [_identity(s) for s in config.sources], _read_limit(config))
    scripts = fingerprint(
        "scripts", SCRIPTS, ingest, config.seed, config.conversations, config.text, config.mix, config.timing,
        as_dict(config.shards), prompts,
    )  # fmt: skip
    synthesizer = describe_synthesizer(config)
    grid = [config.layout.n_speech, config.layout.n_text]
    speech = fingerprint("speech", SPEECH, scripts, config.speech, config.timing, grid, synthesizer)
    codes = fingerprint("codes", CODES, speech, config.codec, _codec_identity(config))
    layouts = fingerprint("layouts", LAYOUTS, codes, config.layout, _tokenizer_identity(config))
    record = replace(public, layout=replace(public.layout, emit=(), tokenizer="", causality="causal"))
    return Plan(
        config=config,
        work=work,
        ingest=ingest,
        scripts=scripts,
        speech=speech,
        codes=codes,
        layouts=layouts,
        config_fingerprint=fingerprint(public, __version__),
        record_fingerprint=fingerprint(
            [
                as_dict(x)
                for x in (
                    *record.sources,
                    record.text,
                    record.mix,
                    record.timing,
                    record.speech,
                    record.shards,
                )
            ],
            [record.seed, record.conversations, grid],
        ),
        synthesizer=synthesizer,
        prompt_version=prompts,
    )


def public_config(config: Config) -> Config:
    """The configuration as it may be published: local paths become file names."""

    def name(path: str | None) -> str | None:
        return Path(path).name if path is not None and Path(path).exists() else path

    sources = tuple(replace(s, path=name(s.path) or s.path) for s in config.sources)
    codec = replace(config.codec, checkpoint=name(config.codec.checkpoint))
    layout = replace(config.layout, tokenizer=name(config.layout.tokenizer) or config.layout.tokenizer)
    return replace(config, sources=sources, codec=codec, layout=layout)


def prompt_version() -> str:
    """8 hex digits that change with any phrase bank."""
    digest = hashlib.sha256()
    for path in sorted(folder("prompts").rglob("*")):
        if path.is_file() and path.suffix in (".yaml", ".md"):
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:8]


def describe_synthesizer(config: Config) -> str:
    if config.speech.backend != "espeak":
        return config.speech.backend
    try:
        return f"espeak-ng ({importlib.metadata.version('espeakng-loader')})"
    except importlib.metadata.PackageNotFoundError:
        return "espeak-ng"  # the build will say which extra to install


def _read_limit(config: Config) -> int:
    return dialogues_wanted(config)


def dialogues_wanted(config: Config) -> int:
    """Dialogues to read in all: enough for every scenario, not the whole of a corpus of millions."""
    return max(400, round(config.conversations * config.text.dialogues_per_conversation))


def _identity(source: SourceConfig) -> list[object]:
    """The source as configured, and what tells that its file has changed."""
    path = data_file("corpus.jsonl") if source.path == "bundled" else Path(source.path)
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path] if path.exists() else []
    stats = [(p.name, p.stat().st_size, 0 if source.path == "bundled" else p.stat().st_mtime_ns) for p in files]
    return [as_dict(source), stats]


def _codec_identity(config: Config) -> str:
    if config.codec.name == "mel":
        return sha256(data_file("mel_codec.safetensors"))
    return config.codec.checkpoint or ""


def _tokenizer_identity(config: Config) -> str:
    path = data_file("tokenizer") if config.layout.tokenizer == "embedded" else Path(config.layout.tokenizer)
    file = path / "tokenizer.json"
    return sha256(file) if file.is_file() else config.layout.tokenizer
