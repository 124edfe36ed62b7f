"""Parquet of any kind: bombs, wrong schemas, damage. Memory stays bounded whatever the file says of itself."""

from __future__ import annotations

import io
import os
import random
import signal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from duplexdata.dialogue import Dialogue, Rejected
from duplexdata.errors import SourceError
from duplexdata.sources import parquet as parquet_rows
from duplexdata.sources.parquet import MAX_DECODING_BYTES
from duplexdata.sources.read import read_dialogues
from duplexdata.sources.shapes import SourceSpec
from duplexdata.sources.text_rows import MAX_ROW_BYTES
from tests.fuzz.reading import read, read_apart

MB = 1 << 20
QUESTION, ANSWER = ["Hello?"] * 3, ["Yes, hello."] * 3


def _write(path: Path, table: pa.Table, **options: object) -> Path:
    pq.write_table(table, path, **options)
    return path


def _repeated(text: str, times: int) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array([0] * times, pa.int32()), pa.array([text]))


def _messages(contents: pa.Array, turns: int) -> pa.ListArray:
    """Rows of `turns` turns each."""
    n = len(contents)
    roles = pa.DictionaryArray.from_arrays(pa.array([0, 1] * (n // 2), pa.int32()), pa.array(["user", "assistant"]))
    structs = pa.StructArray.from_arrays([roles, contents], ["role", "content"])
    return pa.ListArray.from_arrays(pa.array(range(0, n + 1, turns), pa.int32()), structs)


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("integers", pa.array([1, 2, 3])),
        ("bytes", pa.array([b"a", b"b", b"c"])),
        ("nulls", pa.nulls(3)),
        ("texts", pa.array(["a", "b", "c"])),
        ("lists of lists", pa.array([[["a"], ["b"]]] * 3)),
        ("lists of integers", pa.array([[1, 2]] * 3)),
        ("lists with nulls", pa.array([["a", None], None, [None]])),
        ("empty lists", pa.array([[], [], []], pa.list_(pa.string()))),
        ("structs", pa.array([{"a": 1}] * 3)),
        ("maps", pa.array([[("a", "b")]] * 3, pa.map_(pa.string(), pa.string()))),
        ("times", pa.array([2**62, 0, -(2**62)], pa.timestamp("ms"))),
        ("decimals", pa.array([1, 2, 3]).cast(pa.decimal128(30, 2))),
        ("times of day", pa.array([86_399, 1, 2], pa.time32("s"))),
    ],
)
def test_columns_of_other_types_are_rejected_row_by_row(tmp_path: Path, name: str, column: pa.Array) -> None:
    found = read(_write(tmp_path / "x.parquet", pa.table({"data": column})))
    assert found.error is None and found.dialogues == 0 and sum(found.rejected.values()) == 3
    assert set(found.rejected) <= {"wrong_type", "no_turns", "unreadable_value"}, found


@pytest.mark.parametrize(
    "column",
    [
        pa.array([["Hi", "Ho"]] * 3, pa.list_(pa.large_string())),
        pa.array([["Hi", "Ho"]] * 3, pa.large_list(pa.string())),
        pa.array([["Hi", "Ho"]] * 3, pa.list_(pa.string(), 2)),
        pa.array([["Hi", "Ho"]] * 3, pa.list_(pa.string_view())),
        pa.ListArray.from_arrays(pa.array([0, 2, 4, 6], pa.int32()), pa.array(["Hi", "Ho"] * 3).dictionary_encode()),
    ],
    ids=["large_string", "large_list", "fixed_size_list", "string_view", "dictionary"],
)
def test_texts_of_every_arrow_type_are_read(tmp_path: Path, column: pa.Array) -> None:
    found = read(_write(tmp_path / "x.parquet", pa.table({"data": column})))
    assert (found.dialogues, found.rejected, found.error) == (3, {}, None)


def test_a_dictionary_that_gives_way_to_plain_texts_in_mid_file_is_read(tmp_path: Path) -> None:
    contents = pa.array([f"{i} " + "word " * 80 for i in range(12_000)])
    table = pa.table({"messages": _messages(contents, 2)})
    found = read(_write(tmp_path / "x.parquet", table, row_group_size=4000, store_schema=False))
    assert (found.dialogues, found.rejected, found.error) == (6000, {}, None)


def test_an_id_that_cannot_be_a_python_value_spoils_only_its_row(tmp_path: Path) -> None:
    ids = pa.array([0, 2**62, 1], pa.timestamp("ms"))
    table = pa.table({"id": ids, "instruction": QUESTION, "output": ANSWER})
    found = read(_write(tmp_path / "x.parquet", table))
    assert (found.dialogues, found.rejected) == (2, {"unreadable_value": 1})


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "damaged, cut off, no Parquet"),
        (b"PAR1", "damaged, cut off, no Parquet"),
        (b"PAR1\0\0\0\0PAR1", "damaged, cut off, no Parquet"),
        (b"PAR1" + b"\xff" * 2000 + b"\xff\xff\xff\x7fPAR1", "damaged, cut off, no Parquet"),
        (b'{"data": ["a", "b"]}\n', "damaged, cut off, no Parquet"),
    ],
)
def test_what_is_no_parquet_is_refused(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "x.parquet").write_bytes(content)
    found = read(tmp_path / "x.parquet")
    assert found.rows == 0 and found.error is not None and "x.parquet" in found.error and says in found.error


def test_files_without_rows_or_with_other_columns_are_refused(tmp_path: Path) -> None:
    none = pa.table({"data": pa.array([], pa.list_(pa.string()))})
    found = read(_write(tmp_path / "none.parquet", none))
    assert found.rows == 0 and found.error is not None and "no rows" in found.error
    found = read(_write(tmp_path / "other.parquet", pa.table({"question": QUESTION})))
    assert found.rows == 0 and found.error is not None and "of no known shape" in found.error
    twice = pa.table([pa.array(QUESTION), pa.array(ANSWER), pa.array(ANSWER)], ["instruction", "output", "output"])
    found = read(_write(tmp_path / "twice.parquet", twice))
    assert found.rows == 0 and found.error is not None and "two columns of the name 'output'" in found.error


# --- bombs --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_texts_stored_once_and_meant_often_take_bounded_memory(tmp_path: Path) -> None:
    """Files of a few kilobytes that stand for 100 GB, and whose figures all look harmless."""
    long = "x" * (4 * MB)
    flat = pa.table({"instruction": _repeated(long, 20_000), "output": _repeated("yes", 20_000)})
    _write(tmp_path / "flat.parquet", flat, compression="zstd")
    nested = pa.table({"messages": _messages(_repeated(long, 20_000), 20_000)})
    _write(tmp_path / "nested.parquet", nested, compression="zstd", store_schema=False)
    typed = pa.table({"messages": _messages(_repeated(long, 20_000), 20_000)})
    _write(tmp_path / "typed.parquet", typed, compression="zstd")
    assert all(p.stat().st_size < MB for p in tmp_path.iterdir())
    found = read_apart(sorted(tmp_path.iterdir()), timeout=240)
    for reading in found.values():
        assert reading.dialogues == 0
        assert reading.error is not None and f"takes more than {MAX_DECODING_BYTES} bytes of memory" in reading.error
        assert reading.grown < 5 * MAX_ROW_BYTES and reading.children < MAX_DECODING_BYTES + 300 * MB, reading


def test_compressed_columns_are_refused_by_what_the_file_says_of_them(tmp_path: Path) -> None:
    texts = pa.array(["x" * MB] * 100)
    table = pa.table({"instruction": texts, "output": texts, "other": ["o"] * 100})
    _write(tmp_path / "x.parquet", table, compression="zstd", use_dictionary=False)
    found = read(tmp_path / "x.parquet")
    assert found.rows == 0 and found.error is not None and "more than 200 times the file's" in found.error


def test_rows_that_are_too_long_are_rejected_and_those_between_them_read(tmp_path: Path) -> None:
    texts = pa.array(["short", "x" * (MAX_ROW_BYTES + 1), "short", "short"])
    table = pa.table({"instruction": texts, "output": pa.array(["fine"] * 4)})
    found = read(_write(tmp_path / "x.parquet", table, compression=None))
    assert (found.dialogues, found.rejected, found.error) == (3, {"line_too_long": 1}, None)


def test_rows_of_millions_of_nothings_are_rejected(tmp_path: Path) -> None:
    nothing = pa.ListArray.from_arrays(pa.array([0, 2, 3_000_002], pa.int32()), pa.nulls(3_000_002, pa.string()))
    _write(tmp_path / "x.parquet", pa.table({"data": nothing}))
    found = read_apart([tmp_path / "x.parquet"], timeout=120)["x.parquet"]
    assert found.rejected == {"wrong_type": 1, "line_too_long": 1}
    assert found.grown < 5 * MAX_ROW_BYTES


@pytest.mark.slow
def test_a_batch_that_takes_too_long_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_rows, "_MAX_BATCH_SECONDS", 1)
    n = 60_000_000
    nothing = pa.ListArray.from_arrays(pa.array([0, n], pa.int32()), pa.nulls(n, pa.string()))
    found = read(_write(tmp_path / "x.parquet", pa.table({"data": nothing})))
    assert found.error is not None and "takes more than 1 s" in found.error


# --- damage -------------------------------------------------------------------------------------------------


def _whole(compression: str) -> bytes:
    rows = [
        {
            "id": f"{i}",
            "messages": [{"role": "user", "content": f"{i} hello " * 3}, {"role": "assistant", "content": "yes " * 5}],
        }
        for i in range(300)
    ]
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), out, row_group_size=100, compression=compression)
    return out.getvalue()


def _damaged(rng: random.Random, whole: bytes) -> bytes:
    data = bytearray(whole)
    if rng.random() < 0.2:
        return bytes(data[: rng.randrange(len(data))])
    for _ in range(rng.choice((1, 1, 2, 8))):
        near_end = rng.random() < 0.5  # where the file describes itself
        at = len(data) - 1 - rng.randrange(2000) if near_end else rng.randrange(len(data))
        data[at] ^= 1 << rng.randrange(8)
    return bytes(data)


def _check_damaged(folder: Path, seed: int, n: int) -> None:
    rng = random.Random(seed)
    compression = ("snappy", "zstd", "none", "gzip")[seed % 4]
    whole = _whole(compression)
    for i in range(n):
        (folder / f"{i:03}.parquet").write_bytes(_damaged(rng, whole))
    for name, reading in read_apart(sorted(folder.iterdir()), timeout=60 + 10 * n).items():
        assert reading.error is None or name in reading.error
        assert reading.grown < 20 * MAX_ROW_BYTES, (seed, name, reading)
        assert reading.children < MAX_DECODING_BYTES + 300 * MB, (seed, name, reading)


def test_damaged_files_are_read_or_refused(tmp_path: Path) -> None:
    _check_damaged(tmp_path, 0, 8)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 9))
def test_many_damaged_files_are_read_or_refused(tmp_path: Path, seed: int) -> None:
    _check_damaged(tmp_path, seed, 60)


def test_the_process_that_decodes_ends_with_the_reading(tmp_path: Path) -> None:
    contents = pa.array(["word " * 2000] * 10_000)
    path = _write(
        tmp_path / "x.parquet", pa.table({"messages": _messages(contents, 2)}), compression=None, use_dictionary=False
    )
    rows = read_dialogues(SourceSpec(str(path)))
    assert isinstance(next(rows), Dialogue)
    children = _children()
    assert children
    rows.close()  # type: ignore[attr-defined]
    assert not children & _children()


def _children() -> set[str]:
    return set(Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split())


def test_a_decoder_that_is_killed_is_an_error_of_the_source(tmp_path: Path) -> None:
    contents = pa.array(["word " * 2000] * 10_000)
    path = _write(
        tmp_path / "x.parquet", pa.table({"messages": _messages(contents, 2)}), compression=None, use_dictionary=False
    )
    before = _children()
    rows = read_dialogues(SourceSpec(str(path)))
    assert isinstance(next(rows), Dialogue | Rejected)
    (child,) = _children() - before
    os.kill(int(child), signal.SIGKILL)
    with pytest.raises(SourceError, match=r"x\.parquet: the file is damaged.*\(status -9\)"):
        list(rows)
