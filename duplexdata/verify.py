"""`duplexdata verify`: audits a dataset's folder and reads nothing else. Reports, never raises; streams its files."""

from __future__ import annotations

import fnmatch
import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from tokenizers import Tokenizer

from duplexdata import checks
from duplexdata.audio import from_flac
from duplexdata.checks import (
    Duo,
    Finding,
    Ids,
    Int16,
    Interleaved,
    Late,
    Pair,
    Record,
    Settings,
    Sums,
    Text,
    TextChannel,
)
from duplexdata.config import LayoutConfig, TimingConfig, fingerprint
from duplexdata.errors import DuplexDataError
from duplexdata.manifest import FORMAT, NAME
from duplexdata.schema import CODES_OF_SEVERAL, CONFIGS, arrow_schema
from duplexdata.shards import sha256
from duplexdata.units import SAMPLE_RATE

Report = Callable[[str, int], None]
"""Called with what was looked at ("files", "conversations") and how many of it."""

RULES: Mapping[str, str] = {
    # the folder
    "manifest": "manifest.json is there, of the known format, and holds all that the other checks need",
    "files": "every file that the manifest lists exists, and no other lies in the dataset's folders",
    "shards": "the shards of a split are numbered without a gap, and every config has the same ones",
    "size": "files have the size that the manifest states",
    "checksum": "files have the SHA-256 that the manifest states",
    "rows": "files have as many rows as the manifest states",
    "readable": "files can be read to their end, page checksums included",
    "counts": "per stage, items in are items out and dropped; a stage's items are the rows of its files",
    "statistics": "hours, counters, timing and token sums in the manifest are those of the rows",
    "fingerprint": "fingerprints are there, and the manifest's is that of its configuration",
    "paths": "no absolute path stands in the manifest or the tokenizer",
    "card": "the configs and splits in README.md are those of the files",
    "schema": "columns, types and the features for `datasets` are those of the config",
    "vocabulary": "manifest, file metadata and tokenizer/ agree on the vocabulary and the codec's clock",
    # all rows
    "null": "no value is missing",
    "malformed": "values are what their column stands for",
    "id-unique": "an id stands once in a config, over all splits",
    "id-unknown": "an id of a layout is one of `conversations`, in the shard of the same name",
    "id-missing": "every conversation is in every config, but for those that sft and dpo drop and count",
    "row-order": "rows come in the order of `conversations`",
    "dropped": "what sft and dpo lack cannot be laid out",
    "provenance": "a record's source, package and prompt version are the manifest's; all have one configuration",
    "split-sources": "no source dialogue is in train and in test",
    "split-voices": "no user voice is in train and in test",
    # conversations
    "times": "utterances lie inside the conversation and end after they start",
    "start-order": "utterances are in order of their start",
    "overlap": "utterances of one channel do not overlap",
    "blocks": "a conversation is a whole number of blocks long",
    "roles": "channel, kind, addressed and cut fit together; nothing is without text",
    "voice": "utterances are spoken by their channel's voice, distractors not by the assistant's",
    "spoken-text": "spoken_text is the beginning of text, up to the words begun",
    "words": "word times are of the text's words, in order, inside their utterance",
    "cut": "what is cut is what an interruption starts strictly inside of, and nothing else",
    "reaction-delay": "a barge-in's delay is within the configured bounds",
    "lead-in": "the first utterance starts within the configured bounds",
    "reply-gap": "the assistant starts the configured gap after both channels are silent, overlays or not",
    "next-turn-gap": "the user's next turn starts within the configured bounds",
    "overlay": "backchannels are heard during something that the assistant says",
    "scenario": "interruptions, resumptions, answers and sources are those of the scenario",
    "resumption": "a resumption ends with what was left of the reply",
    # the sound
    "audio": "the sound decodes: 16 kHz, two channels, as long as the record says",
    "sound-outside": "a channel is silent where none of its utterances is",
    "after-stop": "a channel is silent behind an interrupted reply's stop",
    "onset": "an utterance is heard from its start on, within 80 ms",
    "offset": "an utterance is heard until its end, within 80 ms",
    "level": "an utterance's active level is the configured one within 3 dB, unless its peak forbids it",
    "clipping": "no sample is at full scale",
    "click": "a cut reply fades out before its stop",
    # codes
    "codes-clock": "codec, frame rate and codebook are the manifest's",
    "codes-shape": "as many tokens as frames, all below the codebook's size",
    "codes-audio": "the embedded codec gives these tokens for this sound",
    "negative": "a negative's gap or delay, utterance and times follow from the record and the configured bounds",
    "negative-tokens": "a negative differs where something moved, and sounds where its timeline says so",
    # sft
    "sft-shape": "B (2N + M) tokens, N and M as configured",
    "sft-user": "the user's tokens are those of codes",
    "sft-assistant": "the assistant's tokens are those of codes, one block ahead",
    "sft-text": "the text channel is the one that utterances and tokenizer give",
    "sft-labels": "labels are -100 on the user's tokens and the tokens elsewhere",
    "sft-states": "one [ASSISTANT] and one [EPAD] for each utterance of the assistant",
    "sft-decoded": "the text channel, decoded, is the utterance's text",
    "sft-start": "a reply's start is read back within two text slots",
    "causality": "no reply is decided in a block that has not heard its query's end",
    # dpo
    "dpo-shape": "B (2N + M) tokens in both, N and M as configured",
    "dpo-labels": "labels are -100 on the user's tokens and the tokens elsewhere, in both",
    "dpo-chosen": "the chosen row is the conversation's SFT row",
    "dpo-user": "the user's tokens are the same in both",
    "dpo-text": "each utterance has the same text tokens in both, at the times of the positive and of the negative",
    "dpo-assistant": "the rejected row's speech tokens are those of the negative in codes",
    "dpo-record": "kind, positive_sec and negative_sec are those of codes",
    "dpo-timing": "the gap or delay that the text channels show is the one recorded",
    # tdm
    "tdm-turns": "messages alternate user, assistant, from the user on",
    "tdm-words": "slices hold the words of the utterances, in order",
    "tdm-eos": "<eos> stands behind just the replies that were not cut",
    "tdm-slices": "slices have the configured size",
    "tdm-idle": "the assistant is idle until the user's last slice, and answers with it",
    # duo
    "duo-shape": "the lists have one length",
    "duo-text": "input_ids decode to text",
    "duo-words": "the tokens are those of the utterances, in order",
    "duo-state": "<1> behind what is addressed to the assistant, <2> behind what is not, <eos> behind whole replies",
    "duo-labels": "labels are on state tokens and on what the assistant says",
    "duo-channel": "0 is what comes in, 1 what the assistant says",
    "duo-position": "what comes in during an answer and the answer count from the answer's start",
}
"""What is verified: rule -> what must hold."""

_BATCH = 16
_CODEC = "mel/1"
_PATH = re.compile(r"^(/[^/\s]+/|[A-Za-z]:[\\/]|\\\\|file://|~[/\\])")
_SHARD = re.compile(r"^(train|test)-(\d{5})-of-(\d{5})\.parquet$")
_DROPPING = ("sft", "dpo")
_FACTS = "duplexdata"


@dataclass(frozen=True, slots=True)
class Violation:
    """Attributes:
    file: relative to the dataset.
    row: id or number of the row; None where it is about the file.
    """

    file: str
    row: str | int | None
    rule: str
    detail: str


def verify(dataset: Path, *, report: Report | None = None) -> Iterator[Violation]:
    """Every violation of `RULES` in a dataset's folder. Damage is reported, not raised."""
    said = report or (lambda what, n: None)
    manifest, found = _manifest(dataset)
    yield from found
    if manifest is None:
        return
    yield from _check_manifest(manifest)
    yield from _check_card(dataset, manifest["files"])
    yield from _check_files(dataset, manifest["files"], said)
    tokenizer, found = _tokenizer(dataset, manifest)
    yield from found
    settings, found = _settings(manifest)
    yield from found
    for name in sorted(manifest["files"]):
        if name.endswith(".parquet"):
            yield from _check_schema(dataset, name, manifest)
    if settings is not None and tokenizer is not None:
        yield from _Audit(dataset, manifest, settings, tokenizer, said).run()


# -- the manifest and the files


def _manifest(dataset: Path) -> tuple[dict[str, Any] | None, list[Violation]]:
    """The manifest, if it can be worked with."""
    try:
        manifest = json.loads((dataset / NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return None, [Violation(NAME, None, "manifest", f"cannot be read: {_first_line(error)}")]
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        return None, [Violation(NAME, None, "manifest", f"is of no format that is known, expected {FORMAT}")]
    files = manifest.get("files")
    if not isinstance(files, dict) or not all(map(_is_facts, files.values())):
        return None, [Violation(NAME, None, "manifest", "files: expected rows, bytes and sha256 of each")]
    outside = [f for f in files if Path(f).is_absolute() or ".." in Path(f).parts]
    if outside:
        return None, [Violation(NAME, None, "manifest", f"files: {outside[0]} lies outside the dataset")]
    return manifest, []


def _is_facts(value: object) -> bool:
    kinds = {"rows": int, "bytes": int, "sha256": str}
    return isinstance(value, dict) and all(isinstance(value.get(name), kind) for name, kind in kinds.items())


def _check_manifest(manifest: Mapping[str, Any]) -> Iterator[Violation]:
    """What it says of itself."""

    def bad(rule: str, detail: str) -> Violation:
        return Violation(NAME, None, rule, detail)

    package, config = manifest.get("package"), manifest.get("config")
    stated = manifest.get("fingerprint")
    if not isinstance(package, str) or not isinstance(config, dict) or not isinstance(stated, str):
        yield bad("fingerprint", "package, config or fingerprint is missing")
    elif stated != (expected := _fingerprint(manifest)):
        yield bad("fingerprint", f"is {stated}, its config, made_by and package give {expected}")
    for where, text in _strings(manifest):
        if _PATH.match(text):
            yield bad("paths", f"{where} is {text!r}")
    try:
        yield from (bad("counts", detail) for detail in _check_counts(manifest))
    except (KeyError, TypeError, AttributeError) as error:
        yield bad("counts", f"stages cannot be read ({type(error).__name__}: {error})")


def _fingerprint(manifest: Mapping[str, Any]) -> str:
    """Of a dataset: from its configuration, what made it, and the package's version."""
    package = manifest["package"].split()
    return fingerprint(manifest["config"], manifest.get("made_by", {}), package[-1] if package else "")


def _check_counts(manifest: Mapping[str, Any]) -> Iterator[str]:
    rows: Counter[str] = Counter()
    for name, facts in manifest["files"].items():
        rows[name.split("/")[0]] += facts["rows"]
    stages = {s["stage"]: s for s in manifest["stages"]}
    for name, s in stages.items():
        if s["items_in"] != s["items_out"] + sum(s["dropped"].values()):
            yield f"{name}: {s['items_in']} in, {s['items_out']} out, {sum(s['dropped'].values())} dropped"
    configs = {"conversations": "speech", "codes": "codes", **{c: c for c in ("sft", "dpo", "tdm", "duo")}}
    for config, stage in configs.items():
        if rows[config] and (stage not in stages or stages[stage]["items_out"] != rows[config]):
            out = stages[stage]["items_out"] if stage in stages else None
            yield f"{stage}: {out} out, {config} has {rows[config]} rows"
    before = {
        "dialogues": "sources",
        "speech": "scripts",
        **dict.fromkeys(("codes", "sft", "dpo", "tdm", "duo"), "speech"),
    }
    for stage, source in before.items():
        if stage in stages and source in stages and stages[stage]["items_in"] != stages[source]["items_out"]:
            yield f"{stage}: {stages[stage]['items_in']} in, {stages[source]['items_out']} came out of {source}"


def _strings(value: object, where: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield where, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield where, str(key)
            yield from _strings(item, f"{where}.{key}".lstrip("."))
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from _strings(item, f"{where}[{i}]")


def _check_card(dataset: Path, files: Mapping[str, object]) -> Iterator[Violation]:
    """The YAML head names the files that are there, all of them and no others."""
    name = "README.md"
    try:
        head = (dataset / name).read_text(encoding="utf-8").split("---\n", 2)[1]
        stated = {
            c["config_name"]: {f["split"]: f["path"] for f in c["data_files"]} for c in yaml.safe_load(head)["configs"]
        }
    except (OSError, ValueError, IndexError, KeyError, TypeError, yaml.YAMLError) as error:
        yield Violation(name, None, "card", f"its head cannot be read ({type(error).__name__}: {_first_line(error)})")
        return
    there = {f.split("/")[0] for f in files if f.endswith(".parquet")}
    if set(stated) != there:
        yield Violation(name, None, "card", f"has the configs {sorted(stated)}, the files are of {sorted(there)}")
    for config, splits in stated.items():
        for split in ("train", "test"):
            pattern = splits.get(split, "")
            found = {f for f in files if fnmatch.fnmatchcase(f, str(pattern))}
            expected = {f for f in files if f.startswith(f"{config}/{split}-") and f.endswith(".parquet")}
            if found != expected or not found:
                yield Violation(
                    name, None, "card", f"{config}, {split}: {pattern!r} names {len(found)} files, not {len(expected)}"
                )


def _check_files(dataset: Path, files: Mapping[str, Any], said: Report) -> Iterator[Violation]:
    for name, facts in sorted(files.items()):
        path = dataset / name
        try:
            size = path.stat().st_size
            digest = sha256(path) if path.is_file() else ""
        except OSError as error:
            yield Violation(name, None, "files", f"is not there: {error.strerror}")
            continue
        if size != facts["bytes"]:
            yield Violation(name, None, "size", f"{size} bytes, expected {facts['bytes']}")
        if digest != facts["sha256"]:
            yield Violation(name, None, "checksum", f"SHA-256 {digest[:16]}…, expected {facts['sha256'][:16]}…")
        said("files", 1)
    for folder in (*CONFIGS, "tokenizer"):
        for path in sorted((dataset / folder).rglob("*")):
            name = path.relative_to(dataset).as_posix()
            if name not in files and not path.is_dir():
                yield Violation(name, None, "files", "is not in the manifest")
    for path in sorted(dataset.glob("*.parquet")):
        yield Violation(path.name, None, "files", "is not in the manifest")
    yield from _check_shards(files)


def _check_shards(files: Iterable[str]) -> Iterator[Violation]:
    shards: dict[str, set[str]] = {}
    for name in files:
        config, _, file = name.partition("/")
        if not file.endswith(".parquet"):
            continue
        shards.setdefault(config, set()).add(file)
        if config not in CONFIGS or not _SHARD.match(file):
            yield Violation(name, None, "shards", "is no shard of a config")
    wanted = shards.get("conversations", set())
    for split in ("train", "test"):
        parts = sorted((m for f in wanted if (m := _SHARD.match(f)) and m[1] == split), key=lambda m: m[2])
        if [(int(m[2]), int(m[3])) for m in parts] != [(i, len(parts)) for i in range(len(parts))] or not parts:
            yield Violation("conversations", None, "shards", f"{split}: {[m[0] for m in parts]} are not all")
    for config, found in sorted(shards.items()):
        if found != wanted:
            differing = sorted(found ^ wanted)
            yield Violation(config, None, "shards", f"{differing[0]} is not in both it and conversations")


# -- tokenizer, schema, settings

_STATES = {
    "silence": ("[SILENCE]",),
    "assistant": ("<|assistant|>", "[ASSISTANT]"),
    "pad": ("[PAD]",),
    "epad": ("[EPAD]",),
    "query": ("<1>",),
    "non_query": ("<2>",),
    "eos": ("<eos>",),
}


def _tokenizer(dataset: Path, manifest: Mapping[str, Any]) -> tuple[Tokenizer | None, list[Violation]]:
    """The dataset's tokenizer, and where it is not as the manifest says."""
    name = "tokenizer/tokenizer.json"
    try:
        tokenizer = Tokenizer.from_file(str(dataset / name))
    except Exception as error:  # the library raises bare Exceptions
        return None, [Violation(name, None, "readable", f"cannot be read: {_first_line(error)}")]
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
            texts = list(_strings(json.loads(path.read_text(encoding="utf-8"))))
        except (OSError, ValueError) as error:
            found.append(Violation(f"tokenizer/{path.name}", None, "readable", f"cannot be read: {_first_line(error)}"))
            continue
        found += [
            Violation(f"tokenizer/{path.name}", None, "paths", f"{w} is {t!r}") for w, t in texts if _PATH.match(t)
        ]
    return tokenizer, found


def _settings(manifest: Mapping[str, Any]) -> tuple[Settings | None, list[Violation]]:
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
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        return None, [
            Violation(NAME, None, "manifest", f"lacks what the rows are checked with ({type(error).__name__}: {error})")
        ]
    return settings, []


def _tuples(raw: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in raw.items()}


def _check_schema(dataset: Path, name: str, manifest: Mapping[str, Any]) -> Iterator[Violation]:
    """Columns, metadata and the number of rows, from a file's footer."""
    config = name.split("/")[0]
    if config not in CONFIGS or not (dataset / name).is_file():
        return  # reported already
    try:
        with pq.ParquetFile(dataset / name) as file:
            schema, rows = file.schema_arrow, file.metadata.num_rows
    except (OSError, pa.ArrowException) as error:
        yield Violation(name, None, "readable", f"cannot be read: {_first_line(error)}")
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


def _first_line(error: object) -> str:
    return (str(error).strip().splitlines() or [""])[0][:200]


# -- rows


class _Damaged(Exception):
    """A file that cannot be read (on); the violation that says so."""

    def __init__(self, violation: Violation) -> None:
        super().__init__(violation.detail)
        self.violation = violation


Row = dict[str, Any]


class _Batches:
    """A file's rows, some at a time."""

    def __init__(self, dataset: Path, name: str) -> None:
        self.name, self._path = name, dataset / name

    def of(self, columns: Sequence[str] | None, rows: int) -> Iterator[pa.RecordBatch]:
        """Raises _Damaged where the file cannot be read (on)."""
        try:
            with pq.ParquetFile(self._path, page_checksum_verification=True) as file:
                for batch in file.iter_batches(batch_size=rows, columns=columns):
                    batch.validate(full=True)
                    yield batch
        except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
            raise _Damaged(Violation(self.name, None, "readable", f"cannot be read: {_first_line(error)}")) from error


class _File:
    """The rows of a file, each a mapping of plain values; lists of numbers are arrays."""

    def __init__(self, dataset: Path, name: str) -> None:
        self.name, self._batches = name, _Batches(dataset, name)
        self.ids: list[str | None] = [i for b in self._batches.of(["id"], 4096) for i in b.column(0).to_pylist()]
        self.known = frozenset(self.ids)
        self.unread = iter(self._rows())
        self._next: tuple[int, Row] | None = None

    def _rows(self) -> Iterator[tuple[int, Row]]:
        at = 0
        for batch in self._batches.of(None, _BATCH):
            columns = [_values(c) for c in batch.columns]
            for values in zip(*columns, strict=True):
                yield at, dict(zip(batch.schema.names, values, strict=True))
                at += 1

    def row_of(self, id_: str, order: Mapping[str, int]) -> Row | None:
        """The row of `id_`, if it comes where the order of conversations has it. Called in that order."""
        while True:
            if self._next is None:
                self._next = next(self.unread, None)
                if self._next is None:
                    return None
            row = self._next[1]
            if row["id"] == id_:
                self._next = None
                return row
            if order.get(row["id"], -1) > order[id_]:
                return None
            self._next = None  # out of order, or unknown: reported by its id


def _values(column: pa.Array) -> list[Any]:
    """A column as one value per row; lists of numbers as arrays that share memory."""
    if pa.types.is_list(column.type) and pa.types.is_integer(column.type.value_type) and not _has_null(column):
        flat = column.flatten().to_numpy(zero_copy_only=False)
        edges = np.concatenate([[0], np.cumsum(column.value_lengths().to_numpy(zero_copy_only=False))]).astype(np.int64)
        flat = flat if flat.dtype == np.int8 else flat.astype(np.int32)
        return [flat[a:b] for a, b in pairwise(edges.tolist())]
    return list(column.to_pylist())


def _has_null(array: pa.Array) -> bool:
    if array.null_count:
        return True
    if pa.types.is_struct(array.type):
        return any(_has_null(child) for child in array.flatten())
    return pa.types.is_list(array.type) and _has_null(array.flatten())


def _lacks(value: object) -> bool:
    """Whether something in a row is missing."""
    # Rows are plain: no subclasses, so that comparing types is enough and several times as fast.
    kind = type(value)
    if kind is dict:
        return any(map(_lacks, value.values()))  # type: ignore[attr-defined]
    if kind is list:
        return any(map(_lacks, value))  # type: ignore[call-overload]
    return value is None


@dataclass(slots=True)
class _Seen:
    """What only the whole corpus can tell: short hashes, and sums."""

    ids: dict[str, set[int]] = field(default_factory=dict)
    sources: dict[str, set[int]] = field(default_factory=lambda: {"train": set(), "test": set()})
    voices: dict[str, set[str]] = field(default_factory=lambda: {"train": set(), "test": set()})
    sums: Sums = field(default_factory=Sums)
    tokens: Counter[str] = field(default_factory=Counter)
    made_with: str | None = None
    damaged: bool = False


def _short(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


class _Audit:
    """The rows of all shards, joined by id."""

    def __init__(
        self, dataset: Path, manifest: Mapping[str, Any], settings: Settings, tokenizer: Tokenizer, said: Report
    ) -> None:
        self._dataset, self._manifest, self._settings, self._said = dataset, manifest, settings, said
        self._tokenizer = tokenizer
        self._seen = _Seen()
        self._sound = manifest["config"]["speech"]["backend"] != "nominal"
        self._encode = _codec(manifest, settings) if self._sound else None
        self._configs = [c for c in CONFIGS if any(f.startswith(f"{c}/") for f in manifest["files"])]

    def run(self) -> Iterator[Violation]:
        names = sorted({f.split("/", 1)[1] for f in self._manifest["files"] if f.endswith(".parquet")})
        # train first: what test shares with it is reported where test has it
        for name in sorted(names, key=lambda n: (not n.startswith("train"), n)):
            yield from self._shard(name)
        if self._seen.damaged:
            return  # sums over what could be read would say nothing
        sums = [*self._seen.sums.check(self._manifest["statistics"])]
        licences = sorted(self._seen.sums.counters["licences"])
        if self._manifest.get("licences") != licences:
            sums.append(
                Finding("statistics", f"licences is {self._manifest.get('licences')}, the rows have {licences}")
            )
        if "sft" in self._configs and dict(self._seen.tokens) != self._manifest["tokens"]:
            sums.append(
                Finding("statistics", f"tokens is {self._manifest['tokens']}, sft has {dict(self._seen.tokens)}")
            )
        for f in sums:
            yield Violation(NAME, None, f.rule, f.detail)

    # -- a shard

    def _shard(self, name: str) -> Iterator[Violation]:
        files: dict[str, _File] = {}
        for config in self._configs:
            try:
                if (self._dataset / config / name).is_file():
                    files[config] = _File(self._dataset, f"{config}/{name}")
                else:
                    self._seen.damaged = True
            except _Damaged as damaged:
                self._seen.damaged = True
                yield damaged.violation
        for config, file in files.items():
            yield from self._check_ids(config, file, files)
        conversations = files.pop("conversations", None)
        if conversations is None:
            return
        order = {i: n for n, i in enumerate(conversations.ids) if i is not None}
        try:
            for rows in _grouped(conversations.unread, _BATCH):
                yield from self._window(name, conversations, files, order, rows)
                self._said("conversations", len(rows))
        except _Damaged as damaged:
            self._seen.damaged = True
            yield damaged.violation

    def _check_ids(self, config: str, file: _File, files: Mapping[str, _File]) -> Iterator[Violation]:
        seen = self._seen.ids.setdefault(config, set())
        base = files["conversations"].ids if "conversations" in files else None
        order = {i: n for n, i in enumerate(base)} if base is not None else {}
        last = -1
        for n, id_ in enumerate(file.ids):
            if id_ is None:
                continue  # reported as missing
            if _short(id_) in seen:
                yield Violation(file.name, id_, "id-unique", f"row {n} has an id that an earlier row has")
            seen.add(_short(id_))
            if base is None:
                continue
            if id_ not in order:
                yield Violation(file.name, id_, "id-unknown", f"row {n} is of no conversation of this shard")
            elif order[id_] < last:
                yield Violation(file.name, id_, "row-order", f"row {n} comes behind one that conversations has later")
            else:
                last = order[id_]
        if config not in _DROPPING and base is not None:
            for id_ in sorted({i for i in base if i} - {i for i in file.ids if i}):
                yield Violation(file.name, id_, "id-missing", "conversations has it")

    def _window(
        self,
        name: str,
        file: _File,
        files: Mapping[str, _File],
        order: Mapping[str, int],
        rows: Sequence[tuple[int, Row]],
    ) -> Iterator[Violation]:
        """Some conversations with their rows in every other config."""
        whole: list[tuple[Row, Record]] = []
        for n, row in rows:
            record, problem = _record(row)
            if problem is not None:
                self._seen.damaged = True
                yield Violation(file.name, row["id"] or n, problem.rule, problem.detail)
            if record is not None:
                whole.append((row, record))
        texts = self._tokens([r for _, r in whole])
        sounds = [self._decoded(row) for row, _ in whole]
        encoded = iter(self._encoded([s for s in sounds if isinstance(s, np.ndarray)]))
        for (_, record), tokens, sound in zip(whole, texts, sounds, strict=True):
            speech = next(encoded) if isinstance(sound, np.ndarray) else None
            yield from self._splits(name, file.name, record)
            yield from self._provenance(file.name, record)
            yield from _reported(file.name, record.id, partial(self._check_conversation, record, sound))
            joined: dict[str, Row | None] = {}
            for config, other in files.items():
                try:
                    joined[config] = other.row_of(record.id, order)
                except _Damaged as damaged:
                    self._seen.damaged = True
                    joined[config], other.unread = None, iter(())
                    yield damaged.violation
            views = _Views(self._settings, record, tokens, speech, joined, self._decode)
            for config, other in files.items():
                yield from _reported(other.name, record.id, partial(views.check, config, record.id in other.known))
            self._add(record, views)

    def _add(self, record: Record, views: _Views) -> None:
        try:
            self._seen.sums.add(record, self._settings)
            if views.codes is not None:
                for late in views.codes.negatives:
                    self._seen.sums.add_negative(late)
            if views.sft is not None:
                self._seen.tokens.update(views.token_sums())
        except Exception:  # the row is malformed, and has been reported
            self._seen.damaged = True

    def _check_conversation(self, record: Record, sound: Int16 | str | None) -> Iterator[Finding]:
        yield from checks.check_record(record, self._settings)
        if isinstance(sound, np.ndarray):
            yield from checks.check_sound(record, sound, self._settings)
        elif self._sound or sound is not None:
            yield Finding("audio", sound or "is missing")

    def _splits(self, name: str, file: str, record: Record) -> Iterator[Violation]:
        """Sources and user voices of one split are not in the other."""
        split = name.split("-")[0]
        other = "train" if split == "test" else "test"
        if split not in self._seen.sources:
            return
        for source in record.source_ids:
            if _short(source) in self._seen.sources[other]:
                yield Violation(file, record.id, "split-sources", f"{source} is in {other} too")
            self._seen.sources[split].add(_short(source))
        voices = {record.user_voice, *(u.voice for u in record.utterances if u.is_user)}
        for voice in sorted(voices):
            if voice in self._seen.voices[other]:
                yield Violation(file, record.id, "split-voices", f"the user's voice {voice} is in {other} too")
            self._seen.voices[split].add(voice)

    def _provenance(self, file: str, record: Record) -> Iterator[Violation]:
        stated = record.provenance
        backends = self._manifest.get("backends")
        prompts = backends.get("prompt_version") if isinstance(backends, dict) else None
        self._seen.made_with = self._seen.made_with or stated["config"]
        for what, found, expected in (
            ("package", f"duplexdata {stated['package']}", self._manifest.get("package")),
            ("prompt_version", stated["prompt_version"], prompts),
            ("config", stated["config"], self._seen.made_with),
        ):
            if found != expected:
                yield Violation(file, record.id, "provenance", f"{what} is {found!r}, expected {expected!r}")
        if not record.source_ids or not record.source_ids[0].startswith(f"{record.source}/"):
            yield Violation(file, record.id, "provenance", f"source {record.source!r} of {record.source_ids[:1]}")

    # -- text and sound

    def _tokens(self, records: Sequence[Record]) -> list[tuple[list[Text], list[Text]]]:
        """For each record the tokens of its utterances' texts, and of what was said of them."""
        texts = list(dict.fromkeys(t for r in records for u in r.utterances for t in (u.text, u.spoken_text)))
        encoded = self._tokenizer.encode_batch(texts, add_special_tokens=False)
        found = {t: _encoded(e) for t, e in zip(texts, encoded, strict=True)}
        return [([found[u.text] for u in r.utterances], [found[u.spoken_text] for u in r.utterances]) for r in records]

    def _decode(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode([i for i in ids if i >= 0], skip_special_tokens=False))

    def _decoded(self, row: Row) -> Int16 | str | None:
        """The sound; why it cannot be had; None where there is none and none is expected."""
        audio = row["audio"]
        if audio is None or not audio["bytes"]:
            return "is missing" if self._sound else None
        if not self._sound:
            return "is there, though the manifest names no synthesizer"
        if audio["path"] != f"{row['id']}.flac":
            return f"is named {audio['path']!r}"
        try:
            sound = from_flac(audio["bytes"])
        except (ValueError, RuntimeError, DuplexDataError) as error:
            return _first_line(error)
        if sound.ndim != 2 or sound.shape[1] != 2:
            return f"has shape {sound.shape}, expected two channels"
        return sound

    def _encoded(self, sounds: Sequence[Int16]) -> list[tuple[checks.Int32, checks.Int32] | None]:
        """The tokens of user and assistant, by the embedded codec; None where it is not the dataset's."""
        if self._encode is None:
            return [None] * len(sounds)
        tokens = self._encode([np.ascontiguousarray(s[:, c]) for s in sounds for c in (1, 0)])
        return list(zip(tokens[::2], tokens[1::2], strict=True))


def _codec(manifest: Mapping[str, Any], settings: Settings) -> Callable[[Sequence[Int16]], list[checks.Int32]] | None:
    """The embedded codec, where the dataset's tokens are its."""
    if settings.codec != _CODEC:
        return None
    from duplexdata.codecs.mel import MelCodec

    codec = MelCodec.load()
    backends = manifest.get("backends")
    stated = backends.get("speech_tokenizer") if isinstance(backends, dict) else None
    if isinstance(stated, dict) and stated.get("weights") != codec.describe()["weights"]:
        return None
    return codec.encode


def _encoded(found: Any) -> Text:
    return Text(np.array(found.ids, np.int32), np.array([a for a, _ in found.offsets], np.int32))


def _grouped(rows: Iterator[tuple[int, Row]], n: int) -> Iterator[list[tuple[int, Row]]]:
    group: list[tuple[int, Row]] = []
    for row in rows:
        group.append(row)
        if len(group) == n:
            yield group
            group = []
    if group:
        yield group


def _record(row: Row) -> tuple[Record | None, Finding | None]:
    if _lacks({k: v for k, v in row.items() if k != "audio"}):
        return None, Finding("null", "a value is missing")
    try:
        return checks.record_of(row), None
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        return None, Finding("malformed", f"{type(error).__name__}: {_first_line(error)}")


def _reported(file: str, row: str, check: Callable[[], Iterable[Finding]]) -> Iterator[Violation]:
    """What a check of one row finds. Whatever a damaged row does to the check is one more finding."""
    try:
        for f in check():
            yield Violation(file, row, f.rule, f.detail)
    except Exception as error:
        detail = f"cannot be checked further ({type(error).__name__}: {_first_line(error)})"
        yield Violation(file, row, "malformed", detail)


class _Views:
    """One conversation's rows in the configs made from it."""

    def __init__(
        self,
        settings: Settings,
        record: Record,
        texts: tuple[Sequence[Text], Sequence[Text]],
        speech: tuple[checks.Int32, checks.Int32] | None,
        rows: Mapping[str, Row | None],
        decode: checks.Decode,
    ) -> None:
        self._settings, self._record, self._speech = settings, record, speech
        self._texts, self._said = texts
        self._rows, self._decode = rows, decode
        self.codes: checks.Tokens | None = None
        self.sft: Interleaved | None = None
        self._plan: TextChannel | None = None

    def check(self, config: str, there: bool) -> Iterator[Finding]:
        """Args:
        there: whether the file has a row of this id at all (one out of order is not looked at).
        """
        row = self._rows.get(config)
        if row is None:
            if not there and config in _DROPPING:
                yield from self._check_dropped(config)
            return
        if _lacks(row):
            yield Finding("null", "a value is missing")
            return
        yield from {
            "codes": self._check_codes,
            "sft": self._check_sft,
            "dpo": self._check_dpo,
            "tdm": self._check_tdm,
            "duo": self._check_duo,
        }[config](row)

    def _check_codes(self, row: Row) -> Iterator[Finding]:
        self.codes = _codes(row)
        yield from checks.check_codes(self._record, self.codes, self._settings)
        if self._speech is not None:
            yield from checks.check_encoding(self.codes, *self._speech)

    def _text(self, codes: checks.Tokens) -> TextChannel:
        if self._plan is None:
            blocks = len(codes.user) // self._settings.layout.n_speech - 1
            spans = [(u.start, u.end) for u in self._record.utterances]
            self._plan = checks.text_channel(self._record, spans, self._texts, blocks, self._settings)
        return self._plan

    def _check_dropped(self, config: str) -> Iterator[Finding]:
        """A row that is not there must be one that cannot be."""
        if self.codes is None:
            return
        plan = self._text(self.codes)
        problems = [plan.problem]
        for late in self.codes.negatives if plan.problem is None else ():
            spans = checks.late_spans(self._record, late, self._settings.timing)
            blocks = len(self.codes.user) // self._settings.layout.n_speech - 1
            problems.append(
                checks.text_channel(self._record, spans, self._texts, blocks, self._settings, plan.kept).problem
            )
        reasons = {"text_overflow", "no_room"}
        if self._settings.emitted_again:
            reasons.add("collision")  # the timeline was made for other blocks
        if reasons.isdisjoint(problems):
            yield Finding("dropped", f"{config} has no row of it, and nothing forbids one")

    def _check_sft(self, row: Row) -> Iterator[Finding]:
        self.sft = _interleaved(row, "")
        if self.codes is not None:
            plan = self._text(self.codes)
            yield from checks.check_sft(
                self._record, self.sft, self.codes, self._texts, plan, self._settings, self._decode
            )
        yield from self._scenario(row)

    def _check_dpo(self, row: Row) -> Iterator[Finding]:
        pair = Pair(
            row["kind"],
            _interleaved(row, "chosen_"),
            _interleaved(row, "rejected_"),
            checks.samples_of(row["positive_sec"]),
            checks.samples_of(row["negative_sec"]),
        )
        if self.codes is None:
            return
        plan = self._text(self.codes)
        if self.sft is None:
            yield from checks.check_sft(
                self._record, pair.chosen, self.codes, self._texts, plan, self._settings, self._decode
            )
        yield from checks.check_pair(self._record, pair, self.sft, self.codes, self._texts, plan, self._settings)

    def _check_tdm(self, row: Row) -> Iterator[Finding]:
        messages = [(m["role"], m["content"]) for m in row["messages"]]
        yield from checks.check_tdm(self._record, messages, self._texts, self._settings)
        yield from self._scenario(row)

    def _check_duo(self, row: Row) -> Iterator[Finding]:
        duo = Duo(row["text"], row["input_ids"], row["labels"], row["channel"], row["position"])
        yield from checks.check_duo(self._record, duo, self._said, self._settings, self._decode)
        yield from self._scenario(row)

    def _scenario(self, row: Row) -> Iterator[Finding]:
        if row["scenario"] != self._record.scenario:
            yield Finding("scenario", f"{row['scenario']!r}, conversations has {self._record.scenario!r}")

    def token_sums(self) -> Counter[str]:
        """Tokens of the SFT row by class."""
        assert self.sft is not None
        layout, ids = self._settings.layout, self._settings.ids
        blocks = self.sft.n_blocks
        z = self.sft.parts()[1]
        state = int(np.isin(z, (ids.silence, ids.assistant, ids.pad, ids.epad)).sum())
        speech = blocks * layout.n_speech
        return Counter(user=speech, assistant=speech, text=len(z) - state, state=state)


def _codes(row: Row) -> checks.Tokens:
    negatives = tuple(
        Late(
            n["kind"],
            n["utterance"],
            checks.samples_of(n["positive_sec"]),
            checks.samples_of(n["negative_sec"]),
            checks.samples_of(n["start"]),
            checks.samples_of(n["end"]),
            *_books(n["assistant"]),
        )
        for n in row["negatives"]
    )
    user, assistant = _books(row["user"]), _books(row["assistant"])
    return checks.Tokens(
        row["id"],
        row["frame_rate"],
        row["codebook_size"],
        row["codec"],
        user[0],
        assistant[0],
        negatives,
        (user[1], assistant[1]),
    )


def _books(tokens: Any) -> tuple[checks.Int32, tuple[checks.Int32, ...]]:
    """The first codebook's tokens, and the others'."""
    if len(tokens) and isinstance(tokens[0], list):
        first, *others = (np.array(book, np.int32) for book in tokens)
        return first, tuple(others)
    return np.asarray(tokens, np.int32), ()


def _interleaved(row: Row, prefix: str) -> Interleaved:
    return Interleaved(
        row[f"{prefix}input_ids"], row[f"{prefix}labels"], row["n_blocks"], row["n_speech"], row["n_text"]
    )
