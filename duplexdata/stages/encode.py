"""A shard's sound becomes speech tokens: both channels, and the assistant's of the negative."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from duplexdata.backends import device_count, make_speech_tokenizer
from duplexdata.codecs.base import Int16, SpeechTokenizer
from duplexdata.config import CodecConfig, Config
from duplexdata.conversation import Conversation, Negative, Span, negative_spans
from duplexdata.errors import CodecError, ShardError
from duplexdata.records import code_columns
from duplexdata.schema import codes_shape
from duplexdata.shards import ShardWriter
from duplexdata.stages.plan import Plan, codec_identity
from duplexdata.stages.speak import Rendered, conversations_path, is_spoken, reading, speaking
from duplexdata.stages.work import Counts, Marker, Shard, read_marker, write_marker
from duplexdata.units import SAMPLE_RATE, Grid

T = TypeVar("T")
Tokens = np.ndarray
FRAMES = 16_384
"""Frames after which a window of conversations is full: 22 minutes of sound in all channels, 42 MB."""
MOST_FRAMES = 131_072
"""The same on a GPU, where the first window is as small and each is twice the one before: two full batches."""


@dataclass(frozen=True, slots=True)
class Window:
    """Conversations to be encoded at a time: their sound, ready to be handed to the tokenizer.

    Attributes:
        clips: int16; of each conversation the user's and the assistant's channel, then of each the part of the
            assistant's channel in which its negative may have other tokens.
        stretches: first frame of that part, and the one behind its last.
    """

    conversations: tuple[Conversation, ...]
    negatives: tuple[Negative, ...]
    clips: list[Int16]
    stretches: list[tuple[int, int]]

    @classmethod
    def of(cls, rows: Iterable[Rendered], frame: int, context: int | None) -> Window:
        """
        Args:
            frame: samples per token.
            context: the tokenizer's `context_samples`. One that hears only its own frames encodes of a negative
                just what differs.
        """
        rows = tuple(rows)
        stretches = [_stretch(r, frame, context) for r in rows]
        clips = []
        for r in rows:
            assert r.audio is not None
            clips += [np.ascontiguousarray(r.audio[:, 1]), np.ascontiguousarray(r.audio[:, 0])]
        clips += [r.negative_channel(a * frame, b * frame) for r, (a, b) in zip(rows, stretches, strict=True)]
        return cls(tuple(r.conversation for r in rows), tuple(r.negative for r in rows), clips, stretches)

    @property
    def late_spans(self) -> list[Span]:
        """Of each conversation, when its negative's perturbed utterance sounds."""
        return [
            negative_spans(c.utterances, n)[n.utterance]
            for c, n in zip(self.conversations, self.negatives, strict=True)
        ]


def codes_path(plan: Plan, shard: Shard) -> Path:
    return plan.stage_folder("codes") / f"{shard.name}.parquet"


def encode(plan: Plan, shard: Shard) -> Marker:
    """The stage by itself: reads what `speak` wrote. One thread reads ahead, another writes what is done."""
    if found := is_encoded(plan, shard):
        return found
    tokenizer = tokenizer_of(plan.config)
    most = MOST_FRAMES if device_count(plan.config.codec) else FRAMES
    with ahead(windows_of(_read(plan, shard), tokenizer, most)) as windows:
        return _encode(plan, shard, tokenizer, windows, behind())


def speak_and_encode(plan: Plan, shard: Shard) -> tuple[Marker, Marker]:
    """Both stages in one pass, each conversation tokenized while its sound is at hand; the files are the same."""
    spoken = is_spoken(plan, shard)
    encoded = is_encoded(plan, shard)
    if spoken is None:
        stream = speaking(plan, shard)
        tokenizer = tokenizer_of(plan.config)
        encoded = _encode(plan, shard, tokenizer, windows_of(stream, tokenizer, FRAMES), at_once())
        for _ in stream:  # `_encode` has read it to its end: the marker is written
            raise AssertionError("conversations left over")
        spoken = is_spoken(plan, shard, check=False)
        assert spoken is not None
    return spoken, encoded or encode(plan, shard)


def _read(plan: Plan, shard: Shard) -> Iterator[Rendered]:
    try:
        yield from reading(plan, shard)
    except ValueError as error:
        path = conversations_path(plan, shard)
        raise ShardError(f"{path}: its sound cannot be read ({error}); remove it and run the build again") from error


def tokenizer_of(config: Config) -> SpeechTokenizer:
    """The codec, loaded once for all shards that a process encodes one after the other."""
    return _loaded(config.codec, codec_identity(config))


@lru_cache(maxsize=1)
def _loaded(codec: CodecConfig, identity: str) -> SpeechTokenizer:
    return make_speech_tokenizer(codec)


def release_tokenizer() -> None:
    """Give back the memory of the codec that `tokenizer_of` has kept."""
    _loaded.cache_clear()


# -- what overlaps


@contextmanager
def ahead(items: Iterator[T]) -> Iterator[Iterator[T]]:
    """The items, each made by a thread of its own while the one before is in use; never more than one ahead.

    An error in making an item is raised where that item would have come. Nothing goes on after the context.
    """
    end = object()
    with ThreadPoolExecutor(1, "reading") as thread:
        pending: deque[Future[T | object]] = deque([thread.submit(next, items, end)])

        def found() -> Iterator[T]:
            while (item := pending.popleft().result()) is not end:
                pending.append(thread.submit(next, items, end))
                yield item  # type: ignore[misc]

        try:
            yield found()
        finally:
            for future in pending:
                future.cancel()
            thread.shutdown(wait=True)
            if isinstance(items, Generator):
                items.close()


@contextmanager
def behind() -> Iterator[Callable[[Callable[[], None]], None]]:
    """Calls made by a thread of its own, in order; each waits for the one before, whose error it then raises."""
    last: Future[None] | None = None

    def call(what: Callable[[], None]) -> None:
        nonlocal last
        if last is not None:
            last.result()
        last = thread.submit(what)

    with ThreadPoolExecutor(1, "writing") as thread:
        yield call
        if last is not None:
            last.result()


@contextmanager
def at_once() -> Iterator[Callable[[Callable[[], None]], None]]:
    """Like `behind`, without a thread."""
    yield lambda what: what()


def windows_of(stream: Iterable[Rendered], tokenizer: SpeechTokenizer, most: int) -> Iterator[Window]:
    """Windows of at least `FRAMES` frames in all channels, the last one excepted; later ones larger, up to `most`.

    Tokens do not depend on windows, nor on the order of clips in them (tokenizers put alike lengths together).
    """
    frame = int(SAMPLE_RATE / tokenizer.frame_rate)
    waiting: list[Rendered] = []
    frames, full = 0, FRAMES
    for row in stream:
        waiting.append(row)
        frames += 3 * (row.conversation.n_samples // frame)
        if frames >= full:
            yield Window.of(waiting, frame, tokenizer.context_samples)
            waiting = []
            frames, full = 0, min(2 * full, most)
    if waiting:
        yield Window.of(waiting, frame, tokenizer.context_samples)


# -- the stage


def is_encoded(plan: Plan, shard: Shard, *, check: bool = True) -> Marker | None:
    return read_marker(plan.store, codes_marker_path(plan, shard), plan.codes, check=check)


def codes_marker_path(plan: Plan, shard: Shard) -> Path:
    return plan.stage_folder("codes") / f"{shard.name}.done.json"


def _encode(
    plan: Plan,
    shard: Shard,
    tokenizer: SpeechTokenizer,
    windows: Iterable[Window],
    writing: AbstractContextManager[Callable[[Callable[[], None]], None]],
) -> Marker:
    clock = clock_of(tokenizer)
    path = codes_path(plan, shard)
    shape = codes_shape(tokenizer.n_codebooks)
    frames = 0
    with ShardWriter(path, shape, row_group_rows=plan.config.shards.row_group_rows, facts=clock) as writer:
        with writing as write:
            for window in windows:
                found = encode_window(window, tokenizer)
                write(partial(_write, writer, window, found, clock))
                frames += sum(tokens.shape[-1] for tokens in found[0])
        files = {path.name: writer.close()}
    counts = Counts("codes", writer.rows, writer.rows)
    facts = {"codec": tokenizer.describe(), "frames": frames, "clock": clock}
    return write_marker(plan.store, codes_marker_path(plan, shard), Marker(plan.codes, files, (counts,), facts))


def _write(
    writer: ShardWriter,
    window: Window,
    found: tuple[list[Tokens], list[Tokens], list[Tokens]],
    clock: Mapping[str, object],
) -> None:
    user, assistant, late = found
    negatives = list(zip(window.negatives, late, window.late_spans, strict=True))
    writer.write(code_columns([c.id for c in window.conversations], user, assistant, negatives, clock))


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
        "n_codebooks": tokenizer.n_codebooks,
        "codec": tokenizer.name,
    }


def encode_clips(clips: Sequence[Int16], tokenizer: SpeechTokenizer) -> list[Tokens]:
    """Tokens of each clip. Where a device's memory does not do for all, the halves are taken one after the other.

    Raises: CodecError: it does not do for a single clip.
    """
    import torch

    try:
        return list(tokenizer.encode(clips))
    except torch.OutOfMemoryError as error:
        if len(clips) == 1:
            seconds = len(clips[0]) / SAMPLE_RATE
            raise CodecError(
                f"{tokenizer.name}: the device's memory does not do for one clip of {seconds:.0f} s: free some, "
                "take codec.precision fp16, shorter conversations (text.max_reply_sec), or codec.device cpu"
            ) from error
    # Out of the except block: the error's frames hold the tensors that were in the way.
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    half = len(clips) // 2
    return encode_clips(clips[:half], tokenizer) + encode_clips(clips[half:], tokenizer)


def encode_window(window: Window, tokenizer: SpeechTokenizer) -> tuple[list[Tokens], list[Tokens], list[Tokens]]:
    """Tokens of the user's channel, of the assistant's, and of the assistant's in the negative."""
    n = len(window.conversations)
    tokens = encode_clips(window.clips, tokenizer)
    user, assistant = tokens[: 2 * n : 2], tokens[1 : 2 * n : 2]
    negatives = []
    for whole, part, (a, b) in zip(assistant, tokens[2 * n :], window.stretches, strict=True):
        late = whole.copy()
        late[..., a:b] = part
        negatives.append(late)
    return user, assistant, negatives


def _stretch(row: Rendered, frame: int, context: int | None) -> tuple[int, int]:
    """Frames of the negative's channel that can differ from the positive's."""
    n = row.conversation.n_samples
    if context is None:
        return 0, n // frame
    first = max(0, row.patch.start - context) // frame
    return first, min(n // frame, -(-(row.patch.start + len(row.patch.samples) + context) // frame))
