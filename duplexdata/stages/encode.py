"""A shard's sound becomes speech tokens: both channels, and the assistant's of the negative."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from duplexdata.backends import make_speech_tokenizer
from duplexdata.codecs.base import SpeechTokenizer
from duplexdata.conversation import negative_spans
from duplexdata.errors import CodecError
from duplexdata.records import code_columns
from duplexdata.shards import ShardWriter
from duplexdata.stages.plan import Plan
from duplexdata.stages.speak import Rendered, is_spoken, reading, speaking
from duplexdata.stages.work import Counts, Marker, Shard, read_marker, write_marker
from duplexdata.units import SAMPLE_RATE, Grid
from duplexdata.windows import windows

Tokens = np.ndarray
_WINDOW = 16
"""Conversations encoded at a time."""


def codes_path(plan: Plan, shard: Shard) -> Path:
    return plan.stage_folder("codes") / f"{shard.name}.parquet"


def encode(plan: Plan, shard: Shard) -> Marker:
    """The stage by itself: reads what `speak` wrote."""
    return is_encoded(plan, shard) or _encode(plan, shard, reading(plan, shard))


def speak_and_encode(plan: Plan, shard: Shard) -> tuple[Marker, Marker]:
    """Both stages in one pass, each conversation tokenized while its sound is at hand; the files are the same."""
    spoken = is_spoken(plan, shard)
    encoded = is_encoded(plan, shard)
    if spoken is None:
        stream = speaking(plan, shard)
        encoded = _encode(plan, shard, stream)
        for _ in stream:  # `_encode` has read it to its end: the marker is written
            raise AssertionError("conversations left over")
        spoken = is_spoken(plan, shard)
        assert spoken is not None
    return spoken, encoded or encode(plan, shard)


def is_encoded(plan: Plan, shard: Shard) -> Marker | None:
    return read_marker(_marker_path(plan, shard), plan.codes)


def _marker_path(plan: Plan, shard: Shard) -> Path:
    return plan.stage_folder("codes") / f"{shard.name}.done.json"


def _encode(plan: Plan, shard: Shard, stream: Iterable[Rendered]) -> Marker:
    tokenizer = make_speech_tokenizer(plan.config.codec)
    clock = clock_of(tokenizer)
    path = codes_path(plan, shard)
    frames = 0
    with ShardWriter(path, "codes", row_group_rows=plan.config.shards.row_group_rows, facts=clock) as writer:
        for rows in windows(stream, _WINDOW):
            user, assistant, negative = encode_window(rows, tokenizer)
            negatives = [
                (
                    r.negative,
                    tokens,
                    negative_spans(r.conversation.utterances, r.negative)[r.negative.utterance],
                )
                for r, tokens in zip(rows, negative, strict=True)
            ]
            writer.write(code_columns([r.conversation.id for r in rows], user, assistant, negatives, clock))
            frames += sum(map(len, user))
        files = {path.name: writer.close()}
    counts = Counts("codes", writer.rows, writer.rows)
    facts = {"codec": tokenizer.describe(), "frames": frames, "clock": clock}
    return write_marker(_marker_path(plan, shard), Marker(plan.codes, files, (counts,), facts))


def clock_of(tokenizer: SpeechTokenizer) -> dict[str, object]:
    """Frame rate, codebook and name of a codec, as its rows state them. Raises CodecError where they do not fit."""
    if tokenizer.sample_rate != SAMPLE_RATE or SAMPLE_RATE % tokenizer.frame_rate:
        raise CodecError(f"{tokenizer.name} runs at {tokenizer.sample_rate} Hz, expected {SAMPLE_RATE}")
    if SAMPLE_RATE / tokenizer.frame_rate != Grid().frame_samples:
        raise CodecError(f"{tokenizer.name} gives {float(tokenizer.frame_rate)} tokens a second, expected 12.5")
    if tokenizer.codebook_size > 65_536:
        raise CodecError(f"{tokenizer.name} has {tokenizer.codebook_size} codes, at most 65,536 can be stored")
    return {
        "frame_rate": float(tokenizer.frame_rate),
        "codebook_size": tokenizer.codebook_size,
        "codec": tokenizer.name,
    }


def encode_window(
    rows: tuple[Rendered, ...], tokenizer: SpeechTokenizer
) -> tuple[list[Tokens], list[Tokens], list[Tokens]]:
    """Tokens of the user's channel, of the assistant's, and of the assistant's in the negative.

    A codec that hears only its own frames encodes of a negative just what differs.
    """
    frame = int(SAMPLE_RATE / tokenizer.frame_rate)
    clips = []
    for r in rows:
        assert r.audio is not None
        clips += [np.ascontiguousarray(r.audio[:, 1]), np.ascontiguousarray(r.audio[:, 0])]
    stretches = [_stretch(r, frame, tokenizer.context_samples) for r in rows]
    clips += [r.negative_channel(a * frame, b * frame) for r, (a, b) in zip(rows, stretches, strict=True)]
    tokens = tokenizer.encode(clips)
    user, assistant = tokens[: 2 * len(rows) : 2], tokens[1 : 2 * len(rows) : 2]
    negatives = []
    for whole, part, (a, b) in zip(assistant, tokens[2 * len(rows) :], stretches, strict=True):
        late = whole.copy()
        late[a:b] = part
        negatives.append(late)
    return user, assistant, negatives


def _stretch(row: Rendered, frame: int, context: int | None) -> tuple[int, int]:
    """Frames of the negative's channel that can differ from the positive's."""
    n = row.conversation.n_samples
    if context is None:
        return 0, n // frame
    first = max(0, row.patch.start - context) // frame
    return first, min(n // frame, -(-(row.patch.start + len(row.patch.samples) + context) // frame))
