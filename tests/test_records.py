from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Audio, Features, List, Value
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies import Talk, talks

from duplexdata.conversation import Conversation, negative_spans
from duplexdata.errors import ShardError
from duplexdata.records import (
    Provenance,
    code_columns,
    conversation_columns,
    conversations_from,
    read_codes,
    read_conversations,
)
from duplexdata.schema import COLUMNS, CONFIGS, DICTIONARY, arrow_schema
from duplexdata.shards import ShardWriter, batches, sha256

PROVENANCE = Provenance("CC0-1.0", "fake/1", "v1", "0123456789abcdef", "0.1.0")
CLOCK = {"frame_rate": 12.5, "codebook_size": 4096, "codec": "fake/1"}


def written(folder: Path, conversations: list[Conversation], **options: int) -> Path:
    path = folder / "train-00000-of-00001.parquet"
    with ShardWriter(path, "conversations", **options) as writer:
        for c in conversations:
            writer.write(conversation_columns([c], [c.id.encode()], [PROVENANCE]))
        writer.close()
    return path


def plain(c: Conversation) -> tuple[object, ...]:
    """Everything in it, arrays as lists: numpy's own comparison is elementwise."""
    us = [
        (u.channel, u.kind, u.text, u.spoken_text, u.start, u.end, u.cut, u.addressed, u.writer, u.voice)
        + (u.word_starts.tolist(), u.word_ends.tolist())
        for u in c.utterances
    ]
    return (*(getattr(c, f) for f in c.__dataclass_fields__ if f != "utterances"), us)


TWO = st.lists(talks(), min_size=1, max_size=3)
FILES = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@given(found=TWO, rows=st.integers(1, 4), group=st.integers(1, 3), timed=st.booleans())
@settings(FILES, max_examples=25)
def test_conversations_come_back_as_they_were(
    tmp_path: Path, found: list[Talk], rows: int, group: int, timed: bool
) -> None:
    conversations = [t.scheduled().conversation for t in found]
    if not timed:
        none = np.zeros(0, np.int64)
        conversations = [
            replace(c, utterances=tuple(replace(u, word_starts=none, word_ends=none) for u in c.utterances))
            for c in conversations
        ]
    path = written(tmp_path, conversations, row_group_rows=group)
    back = list(read_conversations(path, rows))
    assert [plain(c) for c in back] == [plain(replace(c, licence=PROVENANCE.licence)) for c in conversations]


@given(found=talks())
@settings(FILES, max_examples=10)
def test_a_slice_of_a_batch_is_read_as_that_slice(found: Talk, tmp_path: Path) -> None:
    c = found.scheduled().conversation
    several = [replace(c, id=f"c{n}", utterances=c.utterances[: n + 1]) for n in range(len(c.utterances))]
    path = written(tmp_path, several)
    batch = next(batches(path, rows=100))
    for start in range(len(several)):
        assert [plain(x) for x in conversations_from(batch.slice(start))] == [
            plain(replace(x, licence=PROVENANCE.licence)) for x in several[start:]
        ]


@given(found=talks())
@settings(FILES, max_examples=10)
def test_written_columns_say_what_the_conversation_says(found: Talk, tmp_path: Path) -> None:
    c = found.scheduled().conversation
    row = pq.read_table(written(tmp_path, [c])).to_pylist()[0]
    assert row["duration"] == c.n_samples / 16_000
    assert row["audio"] == {"bytes": c.id.encode(), "path": f"{c.id}.flac"}
    assert row["scenario"] == c.scenario.value
    assert row["source_ids"] == list(c.source_ids)
    for u, stored in zip(c.utterances, row["utterances"], strict=True):
        assert (stored["channel"], stored["kind"], stored["addressed"]) == (u.channel, u.kind, u.addressed)
        assert (stored["start"], stored["end"]) == (u.start / 16_000, u.end / 16_000)
        assert [w["text"] for w in stored["words"]] == stored["spoken_text"].split()
        assert all(u.start / 16_000 <= w["start"] <= w["end"] <= stored["end"] for w in stored["words"])


@st.composite
def code_rows(draw: st.DrawFn) -> tuple[list[np.ndarray], ...]:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    lengths = draw(st.lists(st.integers(0, 50), min_size=1, max_size=5))
    return tuple([rng.integers(0, 65_536, n).astype(np.int32) for n in lengths] for _ in range(3))


@given(tokens=code_rows(), rows=st.integers(1, 3), found=talks())
@settings(FILES, max_examples=25)
def test_codes_come_back_as_they_were(
    tokens: tuple[list[np.ndarray], ...], rows: int, found: Talk, tmp_path: Path
) -> None:
    user, assistant, late = tokens
    timeline = found.scheduled()
    negative = timeline.negative
    span = negative_spans(timeline.conversation.utterances, negative)[negative.utterance]
    ids = [f"c{n}" for n in range(len(user))]
    path = tmp_path / "codes.parquet"
    with ShardWriter(path, "codes", row_group_rows=2) as writer:
        writer.write(code_columns(ids, user, assistant, [(negative, t, span) for t in late], CLOCK))
        writer.close()
    back = list(read_codes(path, rows))
    assert [c.id for c in back] == ids
    for n, c in enumerate(back):
        assert np.array_equal(c.user, user[n])
        assert np.array_equal(c.assistant, assistant[n])
        assert c.user.dtype == c.assistant.dtype == np.int32
        (only,) = c.negatives
        assert only.negative == negative
        assert np.array_equal(only.assistant, late[n])
    stored = pq.read_table(path).to_pylist()[0]["negatives"][0]
    assert (stored["start"], stored["end"]) == (span[0] / 16_000, span[1] / 16_000)


# -- files

STRING, SECONDS, I32 = Value("string"), Value("float64"), Value("int32")
IDS, TOKENS = List(I32), List(Value("uint16"))
BLOCKS = {"n_blocks": I32, "n_speech": I32, "n_text": I32}
FEATURES = {
    # As the specification's tables have them, and nothing of the package.
    "conversations": Features(
        {
            "id": STRING,
            "source": STRING,
            "source_ids": List(STRING),
            "scenario": STRING,
            "language": STRING,
            "audio": Audio(decode=False),
            "duration": SECONDS,
            "utterances": List(
                {
                    **dict.fromkeys(("channel", "kind", "text", "spoken_text"), STRING),
                    "start": SECONDS,
                    "end": SECONDS,
                    "cut": Value("bool"),
                    "addressed": Value("bool"),
                    "writer": STRING,
                    "voice": STRING,
                    "words": List({"text": STRING, "start": SECONDS, "end": SECONDS}),
                }
            ),
            "user_voice": STRING,
            "assistant_voice": STRING,
            # The specification has none: what was done to the user's channel.
            "augmentation": {
                "gain_db": SECONDS,
                "room": {"rt60_sec": SECONDS, "drr_db": SECONDS, "seed": Value("int64")},
                "echo": {"delay_ms": SECONDS, "attenuation_db": SECONDS, "filtered": Value("bool")},
                "noise": {
                    "kind": STRING,
                    "snr_db": SECONDS,
                    "seed": Value("int64"),
                    "file": STRING,
                    "offset_sec": SECONDS,
                },
                "distractors": List({"utterance": I32, "acoustics": STRING, "level_db": SECONDS}),
                "scale_db": SECONDS,
            },
            "provenance": dict.fromkeys(("licence", "synthesizer", "prompt_version", "config", "package"), STRING),
        }
    ),
    "codes": Features(
        {
            "id": STRING,
            "frame_rate": SECONDS,
            "codebook_size": I32,
            "codec": STRING,
            "user": TOKENS,
            "assistant": TOKENS,
            "negatives": List(
                {
                    "kind": STRING,
                    "utterance": I32,
                    "positive_sec": SECONDS,
                    "negative_sec": SECONDS,
                    "assistant": TOKENS,
                    "start": SECONDS,
                    "end": SECONDS,
                }
            ),
        }
    ),
    "sft": Features({"id": STRING, "scenario": STRING, "input_ids": IDS, "labels": IDS, **BLOCKS}),
    "dpo": Features(
        {
            "id": STRING,
            "kind": STRING,
            "chosen_input_ids": IDS,
            "chosen_labels": IDS,
            "rejected_input_ids": IDS,
            "rejected_labels": IDS,
            "positive_sec": SECONDS,
            "negative_sec": SECONDS,
            **BLOCKS,
        }
    ),
    "tdm": Features({"id": STRING, "scenario": STRING, "messages": List({"role": STRING, "content": STRING})}),
    "duo": Features(
        {
            "id": STRING,
            "scenario": STRING,
            "text": STRING,
            "input_ids": IDS,
            "labels": IDS,
            "channel": List(Value("int8")),
            "position": IDS,
        }
    ),
}


@pytest.mark.parametrize("config", CONFIGS)
def test_the_schema_is_the_one_that_datasets_would_write(config: str) -> None:
    theirs, ours = FEATURES[config].arrow_schema, arrow_schema(config)
    assert ours.equals(theirs)
    assert ours.metadata == theirs.metadata
    assert Features.from_arrow_schema(ours) == FEATURES[config]


def values(type_: pa.DataType, n: int = 2) -> object:
    """Some value of a type."""
    if pa.types.is_struct(type_):
        return {f.name: values(f.type, n) for f in type_}
    if pa.types.is_list(type_):
        return [values(type_.value_type, k) for k in range(n + 1)]
    if pa.types.is_string(type_):
        return f"text {n}"
    if pa.types.is_binary(type_):
        return b"bytes"
    return bool(n) if pa.types.is_boolean(type_) else n


def some(config: str, rows: int) -> dict[str, list[object]]:
    return {name: [values(type_) for _ in range(rows)] for name, type_ in COLUMNS[config]}


@pytest.mark.parametrize("config", CONFIGS)
def test_exactly_the_leaves_of_the_list_are_dictionary_encoded(config: str, tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    with ShardWriter(path, config) as writer:
        writer.write(some(config, 50))
        writer.close()
    group = pq.ParquetFile(path).metadata.row_group(0)
    columns = [group.column(i) for i in range(group.num_columns)]
    encoded = {c.path_in_schema for c in columns if "RLE_DICTIONARY" in c.encodings}
    assert encoded == set(DICTIONARY[config])
    # FLAC does not get smaller.
    assert {c.path_in_schema for c in columns if c.compression != "ZSTD"} <= {"audio.bytes"}
    assert all(c.has_offset_index and c.has_column_index for c in columns)


def test_a_flipped_bit_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    with ShardWriter(path, "tdm") as writer:
        writer.write(some("tdm", 200))
        writer.close()
    column = pq.ParquetFile(path).metadata.row_group(0).column(0)
    data = bytearray(path.read_bytes())
    data[column.data_page_offset + column.total_compressed_size // 2] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises((OSError, pa.ArrowException), match=r"(?i)crc"):
        pq.read_table(path, page_checksum_verification=True)


@given(sizes=st.lists(st.integers(0, 7), min_size=1, max_size=8), group=st.integers(1, 5))
@settings(FILES, max_examples=25)
def test_row_groups_have_the_size_asked_for_whatever_was_written_at_a_time(
    sizes: list[int], group: int, tmp_path: Path
) -> None:
    path = tmp_path / "x.parquet"
    with ShardWriter(path, "tdm", row_group_rows=group) as writer:
        for n in sizes:
            writer.write(some("tdm", n))
        facts = writer.close()
    found = pq.ParquetFile(path).metadata
    groups = [found.row_group(i).num_rows for i in range(found.num_row_groups)]
    assert sum(groups) == found.num_rows == facts.rows == sum(sizes)
    assert all(n == group for n in groups[:-1])
    assert (facts.bytes, facts.sha256) == (path.stat().st_size, sha256(path))


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        with ShardWriter(tmp_path / name, "codes", facts={"b": 1, "a": 2}) as writer:
            writer.write(some("codes", 9))
            writer.close()
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_an_aborted_writer_leaves_no_file(tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    with pytest.raises(Stop), ShardWriter(tmp_path / "x.parquet", "tdm", row_group_rows=1) as writer:
        writer.write(some("tdm", 3))
        assert list(tmp_path.iterdir()) != [tmp_path / "x.parquet"]
        raise Stop
    assert list(tmp_path.iterdir()) == []


def test_an_aborted_writer_leaves_the_older_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    path.write_bytes(b"older")
    with pytest.raises(KeyError), ShardWriter(path, "tdm") as writer:
        writer.write({"id": ["a"]})
    assert [p.name for p in tmp_path.iterdir()] == ["x.parquet"]
    assert path.read_bytes() == b"older"


def test_a_file_is_there_only_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "x.parquet"
    with ShardWriter(path, "tdm") as writer:
        writer.write(some("tdm", 3))
        assert not path.exists()
        writer.close()
        assert [p.name for p in path.parent.iterdir()] == ["x.parquet"]


@pytest.mark.parametrize("damage", ["missing", "truncated", "garbage"])
def test_a_damaged_file_is_an_error_that_names_it(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    if damage != "missing":
        with ShardWriter(path, "tdm") as writer:
            writer.write(some("tdm", 3))
            writer.close()
        path.write_bytes(path.read_bytes()[:-20] if damage == "truncated" else b"no parquet at all")
    with pytest.raises(ShardError, match=r"x\.parquet"):
        list(batches(path))
