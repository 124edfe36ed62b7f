"""The tokenizer, what rows are checked with, and the files' schema."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from tokenizers import Tokenizer

from duplexdata.augment.config import AugmentConfig
from duplexdata.checks import Ids, Settings
from duplexdata.config import LayoutConfig, TimingConfig
from duplexdata.errors import ConfigError
from duplexdata.manifest import NAME
from duplexdata.schema import CODES_OF_SEVERAL, CONFIGS, arrow_schema
from duplexdata.units import SAMPLE_RATE
from duplexdata.verify.folder import PATH, strings_in
from duplexdata.verify.rules import Violation, first_line

_FACTS = "duplexdata"
_STATES = {
    "silence": ("[SILENCE]",),
    "assistant": ("<|assistant|>", "[ASSISTANT]"),
    "pad": ("[PAD]",),
    "epad": ("[EPAD]",),
    "query": ("<1>",),
    "non_query": ("<2>",),
    "eos": ("<eos>",),
}


def read_tokenizer(dataset: Path, manifest: Mapping[str, Any]) -> tuple[Tokenizer | None, list[Violation]]:
    """The dataset's tokenizer, and where it is not as the manifest says."""
    name = "tokenizer/tokenizer.json"
    try:
        tokenizer = Tokenizer.from_file(str(dataset / name))
    except Exception as error:  # the library raises bare Exceptions
        return None, [Violation(name, None, "readable", f"cannot be read: {first_line(error)}")]
    ids = {
        key: next((i for t in names if (i := tokenizer.token_to_id(t)) is not None), None)
        for key, names in _STATES.items()
    }
    first, n = tokenizer.token_to_id("<|audio_0|>"), 0
    while first is not None and tokenizer.token_to_id(f"<|audio_{n}|>") == first + n:
        n += 1
    facts = {
        "codebook_size": n,
        "speech_offset": first,
        "state_tokens": ids,
        "vocabulary_size": tokenizer.get_vocab_size(with_added_tokens=True),
    }
    found = []
    if manifest.get("vocabulary") != facts:
        found.append(
            Violation(name, None, "vocabulary", f"holds {facts}, the manifest says {manifest.get('vocabulary')}")
        )
    for path in sorted((dataset / "tokenizer").glob("*config.json")):
        try:
            texts = list(strings_in(json.loads(path.read_text(encoding="utf-8"))))
        except (OSError, ValueError) as error:
            found.append(Violation(f"tokenizer/{path.name}", None, "readable", f"cannot be read: {first_line(error)}"))
            continue
        found += [
            Violation(f"tokenizer/{path.name}", None, "paths", f"{w} is {t!r}") for w, t in texts if PATH.match(t)
        ]
    return tokenizer, found


def read_settings(manifest: Mapping[str, Any]) -> tuple[Settings | None, list[Violation]]:
    try:
        config, vocabulary, clock = manifest["config"], manifest["vocabulary"], manifest["clock"]
        scheduled = manifest.get("scheduled_for", config["layout"])
        settings = Settings(
            timing=TimingConfig(**_tuples(config["timing"])),
            layout=LayoutConfig(**_tuples(config["layout"])),
            level_dbfs=float(config["speech"]["level_dbfs"]),
            frame=int(SAMPLE_RATE / Fraction(clock["frame_rate"])) if clock else 1280,
            codec=str(clock["codec"]) if clock else None,
            codebook_size=int(clock["codebook_size"]) if clock else 0,
            n_codebooks=int(clock.get("n_codebooks", 1)) if clock else 1,
            augment=_augment(config.get("augment")),
            scheduled_for=(int(scheduled["n_speech"]), int(scheduled["n_text"])),
            ids=Ids(
                **{name: int(vocabulary["state_tokens"][name]) for name in _STATES},
                speech_offset=int(vocabulary["speech_offset"]),
            ),
        )
        if (
            min(settings.block, *settings.scheduled_for) <= 0
            or settings.layout.n_text < 1
            or not math.isfinite(settings.level_dbfs)
        ):
            raise ValueError(f"N, M and the frame are {settings.layout}, {settings.frame}")
        sums = manifest["statistics"], manifest["tokens"], config["speech"]["backend"], manifest["stages"]
        if not isinstance(sums[0], dict) or not isinstance(sums[1], dict):
            raise TypeError("statistics and tokens are no mappings")
    except (KeyError, TypeError, ValueError, ZeroDivisionError, ConfigError) as error:
        return None, [
            Violation(NAME, None, "manifest", f"lacks what the rows are checked with ({type(error).__name__}: {error})")
        ]
    return settings, []


def _augment(raw: Mapping[str, Any] | None) -> AugmentConfig | None:
    if raw is None:
        return None
    of = {f.name: f.default_factory for f in dataclasses.fields(AugmentConfig)}
    return AugmentConfig(**{name: of[name](**_tuples(values)) for name, values in raw.items()})  # type: ignore[operator]


def _tuples(raw: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in raw.items()}


def check_schema(dataset: Path, name: str, manifest: Mapping[str, Any]) -> Iterator[Violation]:
    """Columns, metadata and the number of rows, from a file's footer."""
    config = name.split("/")[0]
    if config not in CONFIGS or not (dataset / name).is_file():
        return  # reported already
    try:
        with pq.ParquetFile(dataset / name) as file:
            schema, rows = file.schema_arrow, file.metadata.num_rows
    except (OSError, pa.ArrowException) as error:
        yield Violation(name, None, "readable", f"cannot be read: {first_line(error)}")
        return
    if rows != manifest["files"][name]["rows"]:
        yield Violation(name, None, "rows", f"{rows} rows, expected {manifest['files'][name]['rows']}")
    clock = manifest.get("clock")
    several = config == "codes" and isinstance(clock, dict) and clock.get("n_codebooks", 1) != 1
    expected = arrow_schema(CODES_OF_SEVERAL if several else config)
    for field_ in expected:
        found = schema.field(field_.name).type if field_.name in schema.names else None
        if found != field_.type:
            yield Violation(name, None, "schema", f"column {field_.name} is {found}, expected {field_.type}")
    if schema.names != expected.names:
        yield Violation(name, None, "schema", f"columns {schema.names}, expected {expected.names}")
    metadata = schema.metadata or {}
    if _json(metadata.get(b"huggingface")) != _json(expected.metadata[b"huggingface"]):
        yield Violation(name, None, "schema", "its metadata does not hold the features for `datasets`")
    stated = {"codes": manifest.get("clock"), "conversations": None}.get(config, manifest.get("vocabulary"))
    if stated is not None and _json(metadata.get(_FACTS.encode())) != stated:
        yield Violation(name, None, "vocabulary", "its metadata does not hold what the manifest says")


def _json(data: bytes | None) -> object:
    try:
        return json.loads(data) if data is not None else None
    except ValueError:
        return None
