"""The rows of all shards, joined by id."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from duplexdata import checks
from duplexdata.audio import from_flac
from duplexdata.checks import Finding, Int16, Record, Settings, Sums, Text
from duplexdata.errors import DuplexDataError
from duplexdata.manifest import NAME
from duplexdata.schema import CONFIGS
from duplexdata.verify.rows import BATCH, Damaged, File, Row, lacks
from duplexdata.verify.rules import Report, Violation, first_line
from duplexdata.verify.views import DROPPING, Views
from duplexdata.verify.voices import check_voices

_CODEC = "mel/1"


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


class Audit:
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
        sums += check_voices(self._manifest, self._seen.sums.speech, self._seen.voices)
        for f in sums:
            yield Violation(NAME, None, f.rule, f.detail)

    # -- a shard

    def _shard(self, name: str) -> Iterator[Violation]:
        files: dict[str, File] = {}
        for config in self._configs:
            try:
                if (self._dataset / config / name).is_file():
                    files[config] = File(self._dataset, f"{config}/{name}")
                else:
                    self._seen.damaged = True
            except Damaged as damaged:
                self._seen.damaged = True
                yield damaged.violation
        for config, file in files.items():
            yield from self._check_ids(config, file, files)
        conversations = files.pop("conversations", None)
        if conversations is None:
            return
        order = {i: n for n, i in enumerate(conversations.ids) if i is not None}
        try:
            for rows in _grouped(conversations.unread, BATCH):
                yield from self._window(name, conversations, files, order, rows)
                self._said("conversations", len(rows))
        except Damaged as damaged:
            self._seen.damaged = True
            yield damaged.violation

    def _check_ids(self, config: str, file: File, files: Mapping[str, File]) -> Iterator[Violation]:
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
        if config not in DROPPING and base is not None:
            for id_ in sorted({i for i in base if i} - {i for i in file.ids if i}):
                yield Violation(file.name, id_, "id-missing", "conversations has it")

    def _window(
        self,
        name: str,
        file: File,
        files: Mapping[str, File],
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
                except Damaged as damaged:
                    self._seen.damaged = True
                    joined[config], other.unread = None, iter(())
                    yield damaged.violation
            views = Views(self._settings, record, tokens, speech, joined, self._decode)
            for config, other in files.items():
                yield from _reported(other.name, record.id, partial(views.check, config, record.id in other.known))
            self._add(record, views)

    def _add(self, record: Record, views: Views) -> None:
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
        yield from checks.check_augmentation(record, self._settings)
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
            return first_line(error)
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
    if lacks({k: v for k, v in row.items() if k not in ("audio", "augmentation")}):
        return None, Finding("null", "a value is missing")
    try:
        return checks.record_of(row), None
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        return None, Finding("malformed", f"{type(error).__name__}: {first_line(error)}")


def _reported(file: str, row: str, check: Callable[[], Iterable[Finding]]) -> Iterator[Violation]:
    """What a check of one row finds. Whatever a damaged row does to the check is one more finding."""
    try:
        for f in check():
            yield Violation(file, row, f.rule, f.detail)
    except Exception as error:
        detail = f"cannot be checked further ({type(error).__name__}: {first_line(error)})"
        yield Violation(file, row, "malformed", detail)
