"""Conversations to and from their columns. Flat arrays both ways: a corpus has millions of words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa

from duplexdata.conversation import Conversation, Negative, Spoken
from duplexdata.dialogue import Channel, Kind, Scenario
from duplexdata.schema import COLUMNS, SHAPES, UTTERANCE, codes_shape
from duplexdata.shards import batches, list_array
from duplexdata.units import SAMPLE_RATE, to_samples, to_seconds
from duplexdata.words import word_texts

_UTTERANCES = pa.list_(UTTERANCE)
_WORDS = UTTERANCE.field("words").type


@dataclass(frozen=True, slots=True)
class Provenance:
    """What a row of `conversations` says of its making (each utterance names its own writer)."""

    licence: str
    synthesizer: str
    prompt_version: str
    config: str
    package: str


def conversation_columns(
    conversations: Sequence[Conversation],
    audio: Sequence[bytes | None],
    provenance: Sequence[Provenance],
    augmentations: Sequence[Mapping[str, Any] | None] | None = None,
) -> dict[str, pa.Array | list[Any]]:
    """
    Args:
        augmentations: what was done to each user's channel (`Augmentation.as_row`); None: nothing to any.
    """
    return {
        "id": [c.id for c in conversations],
        "source": [c.source for c in conversations],
        "source_ids": [list(c.source_ids) for c in conversations],
        "scenario": [c.scenario.value for c in conversations],
        "language": [c.language for c in conversations],
        "audio": [
            None if a is None else {"bytes": a, "path": f"{c.id}.flac"}
            for c, a in zip(conversations, audio, strict=True)
        ],
        "duration": [to_seconds(c.n_samples) for c in conversations],
        "utterances": _utterance_column(conversations),
        "user_voice": [c.user_voice for c in conversations],
        "assistant_voice": [c.assistant_voice for c in conversations],
        "augmentation": list(augmentations) if augmentations is not None else [None] * len(conversations),
        "provenance": [asdict(p) for p in provenance],
    }


def _utterance_column(conversations: Sequence[Conversation]) -> pa.Array:
    flat = [u for c in conversations for u in c.utterances]
    fields = {
        "channel": pa.array([u.channel.value for u in flat], pa.string()),
        "kind": pa.array([u.kind.value for u in flat], pa.string()),
        "text": pa.array([u.text for u in flat], pa.string()),
        "spoken_text": pa.array([u.spoken_text for u in flat], pa.string()),
        "start": pa.array(np.array([u.start for u in flat], np.float64) / SAMPLE_RATE),
        "end": pa.array(np.array([u.end for u in flat], np.float64) / SAMPLE_RATE),
        "cut": pa.array([u.cut for u in flat], pa.bool_()),
        "addressed": pa.array([u.addressed for u in flat], pa.bool_()),
        "writer": pa.array([u.writer for u in flat], pa.string()),
        "voice": pa.array([u.voice for u in flat], pa.string()),
        "words": _word_column(flat),
    }
    structs = pa.StructArray.from_arrays(list(fields.values()), fields=list(UTTERANCE))
    return pa.ListArray.from_arrays(_offsets([len(c.utterances) for c in conversations]), structs).cast(_UTTERANCES)


def _word_column(flat: Sequence[Spoken]) -> pa.Array:
    texts = [w for u in flat if len(u.word_starts) for w in word_texts(u.text)[: len(u.word_starts)]]
    none = np.zeros(0, np.int64)
    starts = np.concatenate([none, *(u.word_starts for u in flat)]).astype(np.float64) / SAMPLE_RATE
    ends = np.concatenate([none, *(u.word_ends for u in flat)]).astype(np.float64) / SAMPLE_RATE
    structs = pa.StructArray.from_arrays(
        [pa.array(texts, pa.string()), pa.array(starts), pa.array(ends)], fields=list(_WORDS.value_type)
    )
    return pa.ListArray.from_arrays(_offsets([len(u.word_starts) for u in flat]), structs).cast(_WORDS)


def _offsets(lengths: Sequence[int]) -> pa.Array:
    offsets = np.zeros(len(lengths) + 1, np.int32)
    np.cumsum(lengths, out=offsets[1:])
    return pa.array(offsets)


RECORD_COLUMNS = [name for name, _ in COLUMNS["conversations"] if name not in ("audio", "augmentation", "provenance")]


_LEAVES = (
    *("channel", "kind", "text", "start", "end", "cut", "writer", "voice"),
    *("words.list.element.start", "words.list.element.end"),
)


def read_conversations(path: Path, rows: int = 256) -> Iterator[Conversation]:
    """The records of a file of `conversations`, without the sound."""
    # Leaves, not columns: the words' texts are most of a record, and follow from the utterances'.
    plain = [name for name in RECORD_COLUMNS if name != "utterances"]
    leaves = [f"utterances.list.element.{name}" for name in _LEAVES]
    for batch in batches(path, [*plain, *leaves, "provenance.licence"], rows):
        yield from conversations_from(batch)


def conversations_from(batch: pa.RecordBatch) -> list[Conversation]:
    """The rows of a batch that has `RECORD_COLUMNS` (and `provenance`, of which the licence is read)."""
    plain = {
        name: batch.column(name).to_pylist()
        for name in ("id", "source", "source_ids", "scenario", "language", "user_voice", "assistant_voice")
    }
    licences = batch.column("provenance").field("licence").to_pylist()
    lengths = np.rint(batch.column("duration").to_numpy() * SAMPLE_RATE).astype(np.int64).tolist()
    column = batch.column("utterances")
    bounds = column.offsets.to_numpy().tolist()
    utterances = _spoken(column.values)
    return [
        Conversation(
            id=plain["id"][i],
            source=plain["source"][i],
            source_ids=tuple(plain["source_ids"][i]),
            scenario=Scenario(plain["scenario"][i]),
            language=plain["language"][i],
            utterances=tuple(utterances[bounds[i] : bounds[i + 1]]),
            n_samples=lengths[i],
            user_voice=plain["user_voice"][i],
            assistant_voice=plain["assistant_voice"][i],
            licence=licences[i],
        )
        for i in range(batch.num_rows)
    ]


_CHANNELS = {c.value: c for c in Channel}
_KINDS = {k.value: k for k in Kind}


def _spoken(structs: pa.StructArray) -> list[Spoken]:
    field = structs.field
    words = field("words")
    bounds = words.offsets.to_numpy().tolist()
    # `.values` ignores the offset of a slice, and so do the bounds: they agree.
    starts = np.rint(words.values.field("start").to_numpy() * SAMPLE_RATE).astype(np.int64)
    ends = np.rint(words.values.field("end").to_numpy() * SAMPLE_RATE).astype(np.int64)
    columns = zip(
        field("channel").to_pylist(),
        field("kind").to_pylist(),
        field("text").to_pylist(),
        np.rint(field("start").to_numpy() * SAMPLE_RATE).astype(np.int64).tolist(),
        np.rint(field("end").to_numpy() * SAMPLE_RATE).astype(np.int64).tolist(),
        field("cut").to_pylist(),
        field("writer").to_pylist(),
        field("voice").to_pylist(),
        bounds,
        bounds[1:],
        strict=False,
    )
    return [
        Spoken(_CHANNELS[c], _KINDS[k], text, start, end, cut, writer, voice, starts[a:b], ends[a:b])
        for c, k, text, start, end, cut, writer, voice, a, b in columns
    ]


def code_columns(
    ids: Sequence[str],
    user: Sequence[np.ndarray],
    assistant: Sequence[np.ndarray],
    negatives: Sequence[tuple[Negative, np.ndarray, tuple[int, int]]],
    clock: Mapping[str, object],
) -> dict[str, pa.Array | list[Any]]:
    """Columns of `codes`, in the shape (`codes_shape`) that the clock's number of codebooks asks for.

    Args:
        user, assistant: tokens of each conversation, (n_frames,), or (n_codebooks, n_frames) of several codebooks.
        negatives: for each conversation its negative, the assistant's tokens in it, and the perturbed utterance's
            start and end there, in samples.
        clock: `frame_rate`, `codebook_size` and `codec`, and `n_codebooks` where there may be several.
    """
    n = len(ids)
    of = dict(SHAPES[codes_shape(cast(int, clock.get("n_codebooks", 1)))])
    element = of["negatives"].value_type
    found = [x for x, _, _ in negatives]
    structs = pa.StructArray.from_arrays(
        [
            pa.array([x.kind for x in found], pa.string()),
            pa.array([x.utterance for x in found], pa.int32()),
            pa.array([to_seconds(x.positive) for x in found], pa.float64()),
            pa.array([to_seconds(x.negative) for x in found], pa.float64()),
            _token_array([tokens for _, tokens, _ in negatives], element.field("assistant").type),
            pa.array([to_seconds(a) for _, _, (a, _) in negatives], pa.float64()),
            pa.array([to_seconds(b) for _, _, (_, b) in negatives], pa.float64()),
        ],
        fields=list(element),
    )
    return {
        "id": list(ids),
        "frame_rate": [clock["frame_rate"]] * n,
        "codebook_size": [clock["codebook_size"]] * n,
        "codec": [clock["codec"]] * n,
        "user": _token_array(user, of["user"]),
        "assistant": _token_array(assistant, of["assistant"]),
        "negatives": pa.ListArray.from_arrays(_offsets([1] * n), structs).cast(of["negatives"]),
    }


def _token_array(tokens: Sequence[np.ndarray], type_: pa.DataType) -> pa.Array:
    if not pa.types.is_list(type_.value_type):
        return list_array(tokens, type_)
    books = list_array([book for several in tokens for book in several], type_.value_type)
    return pa.ListArray.from_arrays(_offsets([len(several) for several in tokens]), books).cast(type_)


@dataclass(frozen=True, slots=True)
class NegativeCodes:
    negative: Negative
    assistant: np.ndarray


@dataclass(frozen=True, slots=True)
class Codes:
    """A row of `codes`: speech tokens, int32, shape (n_frames,) each; of several codebooks the first."""

    id: str
    user: np.ndarray
    assistant: np.ndarray
    negatives: tuple[NegativeCodes, ...]


def read_codes(path: Path, rows: int = 256) -> Iterator[Codes]:
    columns = ["id", "user", "assistant", "negatives"]
    for batch in batches(path, columns, rows):
        yield from codes_from(batch)


def codes_from(batch: pa.RecordBatch) -> list[Codes]:
    ids = batch.column("id").to_pylist()
    user, assistant = _first_book(batch.column("user")), _first_book(batch.column("assistant"))
    column = batch.column("negatives")
    bounds = column.offsets.to_numpy().tolist()
    structs = column.values
    negatives = [
        NegativeCodes(Negative(kind, utterance, to_samples(positive), to_samples(negative)), tokens)
        for kind, utterance, positive, negative, tokens in zip(
            structs.field("kind").to_pylist(),
            structs.field("utterance").to_pylist(),
            structs.field("positive_sec").to_pylist(),
            structs.field("negative_sec").to_pylist(),
            _first_book(structs.field("assistant")),
            strict=True,
        )
    ]
    return [
        Codes(ids[i], user[i], assistant[i], tuple(negatives[bounds[i] : bounds[i + 1]])) for i in range(batch.num_rows)
    ]


def _first_book(column: pa.ListArray) -> list[np.ndarray]:
    if not pa.types.is_list(column.type.value_type):
        return _lists(column)
    books = _lists(column.values)
    return [books[first] for first in column.offsets.to_numpy()[:-1].tolist()]


def _lists(column: pa.ListArray) -> list[np.ndarray]:
    flat = column.values.to_numpy().astype(np.int32)
    bounds = column.offsets.to_numpy().tolist()
    return [flat[a:b] for a, b in pairwise(bounds)]
