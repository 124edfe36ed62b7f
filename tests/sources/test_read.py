from __future__ import annotations

import gzip
import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from duplexdata.dialogue import Dialogue, Rejected
from duplexdata.errors import SourceError
from duplexdata.sources import parquet as parquet_rows
from duplexdata.sources import read, text_rows
from duplexdata.sources.read import read_dialogues, resolve_name
from duplexdata.sources.shapes import SourceSpec

ROW: dict[str, object] = {"id": "a", "data": ["Hi", "Hello"]}
LINE = json.dumps(ROW)


def write(path: Path, content: str | bytes) -> str:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def results(path: str, **options: Any) -> list[Dialogue | Rejected]:
    return list(read_dialogues(SourceSpec(path, **options)))


def kinds(path: str, **options: Any) -> list[str]:
    """The id of each dialogue, the reason of each rejection."""
    return [r.id if isinstance(r, Dialogue) else r.reason for r in results(path, **options)]


def test_bad_lines_are_rejected_one_by_one_and_the_rest_is_read(tmp_path: Path) -> None:
    lines = [LINE, "{oops", "", "[1]", '{"id": "b"}', LINE.replace('"a"', '"z"'), "\0\0"]
    path = write(tmp_path / "x.jsonl", "\n".join(lines).encode() + b'\n"\xff"\n' + b"[" * 100_000)
    assert kinds(path) == [
        "ultrachat/a",
        "invalid_json",
        "not_an_object",
        "missing_field",
        "ultrachat/z",
        "nul_byte",
        "invalid_utf8",
        "nested_too_deeply",
    ]
    bad = results(path)[1]
    assert isinstance(bad, Rejected) and bad.where == "x.jsonl, row 2"


def test_a_line_that_is_too_long_is_rejected_without_being_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_rows, "MAX_ROW_BYTES", 100_000)
    long = json.dumps({"id": "l", "data": ["x" * 5_000_000, "y"]})
    for name, text in (("x.jsonl", f"{LINE}\n{long}\n{LINE}"), ("x.json", f"[{LINE},{long},{LINE}]")):
        path = write(tmp_path / name, text)
        tracemalloc.start()
        assert kinds(path) == ["ultrachat/a", "line_too_long", "ultrachat/a~3"]
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 3_000_000


JSON_ROWS = st.lists(
    st.fixed_dictionaries(
        {"id": st.text(max_size=5), "data": st.lists(st.text(max_size=12), min_size=2, max_size=3)},
        optional={"more": st.text('"\\{}[], \n', max_size=20)},
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=60, deadline=None)
@given(JSON_ROWS, st.integers(1, 40), st.sampled_from([None, 1]), st.booleans())
def test_an_array_is_read_the_same_in_chunks_of_any_size(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[dict[str, object]],
    chunk: int,
    indent: int | None,
    ascii_only: bool,
) -> None:
    text = json.dumps(rows, indent=indent, ensure_ascii=ascii_only)
    file = tmp_path_factory.mktemp("chunks") / "x.json"
    file.write_bytes(text.encode("utf-8", "replace"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_rows, "CHUNK", chunk)
        read_rows = [row.value for row in read._read_text_file(file)]
    assert read_rows == json.loads(file.read_bytes())


def test_a_spoilt_element_spoils_only_itself(tmp_path: Path) -> None:
    path = write(tmp_path / "x.json", f"[{LINE}, {{bad}}, 5,, {LINE}]")
    assert kinds(path) == ["ultrachat/a", "invalid_json", "not_an_object", "invalid_json", "ultrachat/a~5"]


def test_a_cut_off_array_and_what_stands_behind_one_are_counted(tmp_path: Path) -> None:
    assert kinds(write(tmp_path / "x.json", f"[{LINE}, {LINE[:-5]}")) == ["ultrachat/a", "truncated"]
    assert kinds(write(tmp_path / "y.json", f"[{LINE}]]")) == ["ultrachat/a", "trailing_data"]


def test_a_json_file_may_hold_lines(tmp_path: Path) -> None:
    assert kinds(write(tmp_path / "x.json", f"\ufeff{LINE}\n{LINE}\n")) == ["ultrachat/a", "ultrachat/a~2"]


@pytest.mark.parametrize("content", ["", "[]", "\n \n", "[ ]\n"])
def test_an_empty_file_is_an_error(tmp_path: Path, content: str) -> None:
    with pytest.raises(SourceError, match=r"x\.json.*no rows"):
        results(write(tmp_path / "x.json", content))


def test_one_object_over_many_lines_is_an_error_that_says_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="expected an array"):
        results(write(tmp_path / "x.json", json.dumps({"data": [ROW]}, indent=1)))


def test_unknown_fields_in_the_first_row_are_an_error_with_file_and_fields(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"x\.jsonl, row 2: .*'question'.*alpaca"):
        results(write(tmp_path / "x.jsonl", 'oops\n{"question": 1}\n'))


def parquet(path: Path, rows: list[dict[str, object]]) -> str:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return str(path)


def test_parquet_is_read_with_row_numbers_over_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_rows, "_BATCH_ROWS", 2)
    rows: list[dict[str, object]] = [{"instruction": f"i{i}", "output": "o", "other": 1} for i in range(5)]
    rows[3]["output"] = ""
    got = results(parquet(tmp_path / "x.parquet", rows))
    assert [r.id if isinstance(r, Dialogue) else r.where for r in got] == [
        "alpaca/1",
        "alpaca/2",
        "alpaca/3",
        "x.parquet, row 4",
        "alpaca/5",
    ]


def test_a_parquet_text_that_is_no_utf8_is_rejected_alone(tmp_path: Path) -> None:
    bad = pa.array([b"a", b"\xff", b"c"]).cast(pa.binary()).view(pa.string())
    table = pa.table({"instruction": bad, "output": ["x", "y", "z"]})
    pq.write_table(table, tmp_path / "x.parquet")
    assert kinds(str(tmp_path / "x.parquet")) == ["alpaca/1", "invalid_utf8", "alpaca/3"]


@pytest.mark.parametrize("kept", [0, 10, 200])
def test_a_damaged_file_is_an_error_that_names_it(tmp_path: Path, kept: int) -> None:
    whole = Path(parquet(tmp_path / "w.parquet", [{"instruction": "i", "output": "o"}] * 50)).read_bytes()
    with pytest.raises(SourceError, match=r"x\.parquet"):
        results(write(tmp_path / "x.parquet", whole[:kept]))
    zipped = gzip.compress("".join(f"{LINE} {i}" for i in range(2000)).encode())
    with pytest.raises(SourceError, match=r"x\.jsonl\.gz"):
        results(write(tmp_path / "x.jsonl.gz", zipped[:kept]))


def test_gzip_is_read_like_the_file_inside(tmp_path: Path) -> None:
    assert kinds(write(tmp_path / "x.jsonl.gz", gzip.compress(LINE.encode()))) == ["ultrachat/a"]
    assert kinds(write(tmp_path / "x.json.gz", gzip.compress(f"[{LINE}]".encode()))) == ["ultrachat/a"]


def test_a_folder_gives_its_files_in_order_with_ids_kept_apart(tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    write(tmp_path / "b.jsonl", LINE)
    write(tmp_path / "a.json", f"[{LINE}]")
    write(tmp_path / "c" / "b.jsonl", LINE)
    write(tmp_path / "notes.txt", "no")
    assert kinds(str(tmp_path)) == ["ultrachat/a-a", "ultrachat/b-a", "ultrachat/c_b-a"]


def test_names_and_licences_are_the_users_then_the_corpus_then_the_files(tmp_path: Path) -> None:
    row = json.dumps({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]})
    path = write(tmp_path / "my talks.jsonl", row)
    assert kinds(path) == ["my talks/1"]
    assert kinds(path, name="t/k") == ["t_k/1"]
    assert resolve_name(SourceSpec(path)) == "my talks"
    first = results(path, licence="CC0-1.0")[0]
    assert isinstance(first, Dialogue) and first.licence == "CC0-1.0"
    first = results(path)[0]
    assert isinstance(first, Dialogue) and first.licence == "unknown"


def test_no_more_rows_than_the_limit_are_read(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", f"{LINE}\noops\n{LINE}\n")
    assert kinds(path, limit=2) == ["ultrachat/a", "invalid_json"]


@pytest.mark.parametrize("path", ["nowhere.jsonl", "./a/b", "data/rows.jsonl", "nowhere", ""])
def test_a_path_that_is_not_there_is_an_error_with_the_fix(path: str) -> None:
    with pytest.raises(SourceError, match="no such file or folder; give"):
        results(path)


def test_a_folder_or_file_of_other_kinds_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="in this folder"):
        results(str(tmp_path))
    with pytest.raises(SourceError, match="ends with"):
        results(write(tmp_path / "x.csv", "a,b"))


def test_a_hub_id_is_streamed_and_its_licence_known(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked: list[object] = []

    def load(name: str, config: str | None, **options: object) -> Iterator[dict[str, object]]:
        asked.append((name, config, options))
        return iter([{"instruction": "a", "input": "", "output": "b"}])

    monkeypatch.setattr(datasets, "load_dataset", load)
    first = results("tatsu-lab/alpaca", split="test")[0]
    assert isinstance(first, Dialogue)
    assert (first.id, first.licence) == ("alpaca/1", "CC-BY-NC-4.0")
    assert kinds("some/thing:part") == ["alpaca/1"]
    assert asked == [
        ("tatsu-lab/alpaca", None, {"split": "test", "streaming": True}),
        ("some/thing", "part", {"split": "train", "streaming": True}),
    ]


def test_a_hub_that_does_not_answer_is_an_error_that_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import datasets

    def load(*args: object, **options: object) -> None:
        raise ConnectionError("offline")

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(SourceError, match=r"org/name: .*offline.*without a network"):
        results("org/name")


def test_the_bundled_corpus_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    got = results("bundled")
    assert all(isinstance(r, Dialogue) for r in got)
    ids = [r.id for r in got if isinstance(r, Dialogue)]
    assert len(set(ids)) == len(ids) and all(i.startswith("bundled/") for i in ids)
    assert {r.licence for r in got if isinstance(r, Dialogue)} == {"Apache-2.0"}


@pytest.mark.parametrize(
    ("file", "count", "source"),
    [
        ("alpaca_sample.json", 500, "alpaca"),
        ("ultrachat_sample.jsonl", 70, "ultrachat"),
        ("ultrachat_200k_sample.parquet", 70, "ultrachat"),
    ],
)
def test_every_row_of_the_real_samples_is_read(shared_data: Path, file: str, count: int, source: str) -> None:
    got = results(str(shared_data / file))
    assert len(got) == count
    assert all(isinstance(r, Dialogue) and r.source == source for r in got)
    assert len({r.id for r in got if isinstance(r, Dialogue)}) == count


def test_both_forms_of_the_same_corpus_give_the_same_turns(shared_data: Path) -> None:
    lines = results(str(shared_data / "ultrachat_sample.jsonl"))
    columns = results(str(shared_data / "ultrachat_200k_sample.parquet"))
    assert [r.turns for r in lines if isinstance(r, Dialogue)] == [r.turns for r in columns if isinstance(r, Dialogue)]
