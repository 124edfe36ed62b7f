"""Layouts are views: emitted from the records and the codes, without sound, for any tokenizer and any N:M."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from duplexdata.config import LayoutConfig
from duplexdata.conversation import Conversation, negative_spans
from duplexdata.dialogue import Channel
from duplexdata.errors import ScriptError, ShardError, TimelineError
from duplexdata.layouts import duo, interleaved, tdm
from duplexdata.records import Codes, read_codes, read_conversations
from duplexdata.rng import rng_for
from duplexdata.schema import COLUMNS
from duplexdata.shards import FileFacts, ShardWriter, list_array
from duplexdata.stages.work import Counts
from duplexdata.text.types import Encoded
from duplexdata.text.vocabulary import Vocabulary
from duplexdata.timeline import anticipatory
from duplexdata.units import Grid, to_samples, to_seconds
from duplexdata.windows import windows

_WINDOW = 256
NO_ROOM = "no_room"
"""Counted for conversations that do not fit into blocks other than those they were scheduled for."""


@dataclass(frozen=True, slots=True)
class Emission:
    """What a shard's layouts came to.

    Attributes:
        files: by layout.
        tokens: sums over the interleaved rows, by class: "user", "assistant", "text", "state".
        replies, anticipatory: how many there are, and how many of them start too early for this grid to have heard
            their query.
    """

    files: Mapping[str, FileFacts]
    counts: tuple[Counts, ...]
    tokens: Mapping[str, int]
    replies: int
    anticipatory: int


@dataclass(slots=True)
class _Rows:
    """Rows of one layout that wait to be written, column by column."""

    columns: dict[str, list[Any]] = field(default_factory=dict)

    def add(self, **values: Any) -> None:
        for name, value in values.items():
            self.columns.setdefault(name, []).append(value)


class Emitter:
    """Turns conversations into rows of the layouts asked for. Holds no state but the vocabulary."""

    def __init__(
        self, layout: LayoutConfig, vocabulary: Vocabulary, grid: Grid, seed: int, *, native: bool = True
    ) -> None:
        self._layout, self._vocabulary, self._grid, self._seed = layout, vocabulary, grid, seed
        self._native = native

    def rows(
        self, pairs: Sequence[tuple[Conversation, Codes | None]]
    ) -> tuple[dict[str, _Rows], dict[str, Counter[str]], Counter[str]]:
        """Rows by layout, what was dropped by layout and reason, and token counts."""
        found = {name: _Rows() for name in self._layout.emit}
        dropped: dict[str, Counter[str]] = {name: Counter() for name in self._layout.emit}
        tokens: Counter[str] = Counter()
        encoded = self._encode([c for c, _ in pairs])
        for (conversation, codes), both in zip(pairs, encoded, strict=True):
            texts, said = [whole for whole, _ in both], [spoken for _, spoken in both]
            if codes is not None and ("sft" in found or "dpo" in found):
                try:
                    self._interleaved(conversation, codes, texts, found, tokens)
                except (ScriptError, TimelineError) as error:
                    reason = self._reason(error)
                    for name in ("sft", "dpo"):
                        if name in dropped:
                            dropped[name][reason] += 1
            if "tdm" in found:
                found["tdm"].add(
                    id=conversation.id,
                    scenario=conversation.scenario.value,
                    messages=self.messages(conversation, texts),
                )
            if "duo" in found:
                row = duo.render(conversation, said, self._vocabulary.duo)
                found["duo"].add(
                    id=conversation.id,
                    scenario=conversation.scenario.value,
                    text=row.text,
                    input_ids=row.input_ids,
                    labels=row.labels,
                    channel=row.channel,
                    position=row.position,
                )
        return found, dropped, tokens

    def _reason(self, error: ScriptError | TimelineError) -> str:
        """What a conversation that cannot be laid out is counted under. A bug of the schedule is raised."""
        if isinstance(error, ScriptError) and error.reason != NO_ROOM:
            return error.reason
        if self._native:
            raise error
        return NO_ROOM

    def messages(self, conversation: Conversation, texts: Sequence[Encoded]) -> list[tdm.Message]:
        layout = self._layout
        if layout.tdm_slicing == "clock":
            return tdm.sliced_by_clock(conversation, to_samples(layout.tdm_slice_sec))
        starts = [
            e.starts if u.channel is Channel.ASSISTANT else None
            for u, e in zip(conversation.utterances, texts, strict=True)
        ]
        return tdm.sliced_by_words(
            conversation,
            starts,
            rng_for(self._seed, conversation.id, "tdm"),
            user_words=layout.tdm_user_words,
            assistant_tokens=layout.tdm_assistant_tokens,
        )

    def _encode(self, conversations: Sequence[Conversation]) -> list[list[tuple[Encoded, Encoded]]]:
        """For each utterance the tokens of its text, and of what was said of it."""
        flat = [t for c in conversations for u in c.utterances for t in (u.text, u.spoken_text)]
        tokens = iter(self._vocabulary.encode(flat))
        return [[(next(tokens), next(tokens)) for _ in c.utterances] for c in conversations]

    def _interleaved(
        self,
        conversation: Conversation,
        codes: Codes,
        texts: Sequence[Encoded],
        found: Mapping[str, _Rows],
        tokens: Counter[str],
    ) -> None:
        """The SFT row, and its preference pair; neither where one of the two cannot be."""
        grid, state = self._grid, self._vocabulary.state
        n_blocks = len(codes.user) // grid.n_speech - 1
        words = [
            e.ids if u.channel is Channel.ASSISTANT else None
            for u, e in zip(conversation.utterances, texts, strict=True)
        ]
        causal = self._layout.causality == "causal"
        spans = [(u.start, u.end) for u in conversation.utterances]
        end = max(b for _, b in spans)
        if n_blocks < 1 or end > (n_blocks + 1) * grid.block_samples:
            raise ScriptError(NO_ROOM, f"{conversation.id}: ends behind its last whole block of {grid.n_speech}")
        z, used = interleaved.text_channel(
            conversation.utterances, spans, words, n_blocks, grid, state, causal=causal, where=conversation.id
        )
        chosen = interleaved.render(codes.user, z, codes.assistant, grid, state.speech_offset)
        shape = {"n_blocks": n_blocks, "n_speech": grid.n_speech, "n_text": grid.n_text}
        pairs = []
        for item in codes.negatives if "dpo" in found else ():
            late = negative_spans(conversation.utterances, item.negative)
            if max(b for _, b in late) > (n_blocks + 1) * grid.block_samples:
                raise ScriptError(NO_ROOM, f"{conversation.id}: its negative ends behind its last whole block")
            late_z, _ = interleaved.text_channel(
                conversation.utterances, late, words, n_blocks, grid, state, causal=causal,
                where=f"{conversation.id} (negative)", kept=used,
            )  # fmt: skip
            rejected = interleaved.render(codes.user, late_z, item.assistant, grid, state.speech_offset)
            pairs.append((item.negative, rejected))
        if "sft" in found:
            found["sft"].add(
                id=conversation.id,
                scenario=conversation.scenario.value,
                input_ids=chosen.input_ids,
                labels=chosen.labels,
                **shape,
            )
        for negative, rejected in pairs:
            found["dpo"].add(
                id=conversation.id,
                kind=negative.kind,
                chosen_input_ids=chosen.input_ids,
                chosen_labels=chosen.labels,
                rejected_input_ids=rejected.input_ids,
                rejected_labels=rejected.labels,
                positive_sec=to_seconds(negative.positive),
                negative_sec=to_seconds(negative.negative),
                **shape,
            )
        spoken = sum(used.values())
        tokens.update(
            user=n_blocks * grid.n_speech,
            assistant=n_blocks * grid.n_speech,
            text=spoken,
            state=n_blocks * grid.n_text - spoken,
        )


def emit_shard(
    conversations: Path,
    codes: Path | None,
    paths: Mapping[str, Path],
    layout: LayoutConfig,
    vocabulary: Vocabulary,
    grid: Grid,
    seed: int,
    row_group_rows: int,
    *,
    native: bool = True,
) -> Emission:
    """Write a shard's layouts.

    Args:
        codes: None for a dataset without sound.
        paths: of the file of each layout in `layout.emit`.
        native: whether the conversations were scheduled for this grid. On another one some do not fit: counted.

    Raises: ShardError: records and codes are not of the same conversations.
    """
    emitter = Emitter(layout, vocabulary, grid, seed, native=native)
    dropped: dict[str, Counter[str]] = {name: Counter() for name in layout.emit}
    tokens: Counter[str] = Counter()
    seen = replies = early = 0
    with ExitStack() as stack:
        stack.enter_context(_no_collection())
        writers = {
            name: stack.enter_context(
                ShardWriter(paths[name], name, row_group_rows=row_group_rows, facts=vocabulary.facts())
            )
            for name in layout.emit
        }
        for pairs in windows(_paired(conversations, codes), _WINDOW):
            rows, lost, counted = emitter.rows(pairs)
            seen += len(pairs)
            replies += sum(u.channel is Channel.ASSISTANT for c, _ in pairs for u in c.utterances)
            early += sum(anticipatory(c, grid) for c, _ in pairs)
            tokens.update(counted)
            for name, writer in writers.items():
                dropped[name].update(lost[name])
                if rows[name].columns:
                    writer.write(_columns(name, rows[name].columns))
        files = {name: writer.close() for name, writer in writers.items()}
    counts = tuple(
        Counts(name, seen, seen - dropped[name].total(), dict(sorted(dropped[name].items()))) for name in layout.emit
    )
    return Emission(files, counts, dict(sorted(tokens.items())), replies, early)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Many small values and no cycles among them: the collector would look through them for nothing."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _paired(conversations: Path, codes: Path | None) -> Iterator[tuple[Conversation, Codes | None]]:
    if codes is None:
        for conversation in read_conversations(conversations):
            yield conversation, None
        return
    rows: Iterable[Codes] = read_codes(codes)
    other = iter(rows)
    for conversation in read_conversations(conversations):
        found = next(other, None)
        if found is None or found.id != conversation.id:
            raise ShardError(f"{codes}: row for {conversation.id} expected, found {found and found.id}")
        yield conversation, found


def _columns(name: str, columns: Mapping[str, list[Any]]) -> dict[str, Any]:
    """Lists of numpy arrays and of messages become flat list columns."""
    types = dict(COLUMNS[name])
    return {
        key: list_array(values, types[key])
        if isinstance(values[0], np.ndarray)
        else _message_array(values, types[key])
        if key == "messages"
        else values
        for key, values in columns.items()
    }


def _message_array(rows: Sequence[Sequence[tdm.Message]], type_: pa.DataType) -> pa.Array:
    offsets = np.zeros(len(rows) + 1, np.int32)
    np.cumsum([len(messages) for messages in rows], out=offsets[1:])
    flat = [message for messages in rows for message in messages]
    fields = [pa.array([role for role, _ in flat], pa.string()), pa.array([text for _, text in flat], pa.string())]
    structs = pa.StructArray.from_arrays(fields, fields=list(type_.value_type))
    return pa.ListArray.from_arrays(pa.array(offsets), structs).cast(type_)
