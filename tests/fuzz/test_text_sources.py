"""JSON and JSON lines of any kind: every row is a dialogue or rejected with its reason, or the file is refused."""

from __future__ import annotations

import gzip
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from duplexdata.dialogue import Dialogue, Rejected
from duplexdata.sources.ids import TakenIds
from duplexdata.sources.read import read_dialogues
from duplexdata.sources.shapes import MAX_DIALOGUE_CHARACTERS, MAX_TURNS, SHAPES, SourceSpec, parse_row, safe_key
from duplexdata.sources.text_rows import MAX_DEPTH, MAX_ROW_BYTES
from tests.fuzz.hostile import (
    ANY_TEXT,
    ANY_VALUE,
    IDS,
    LINE,
    TEXTS,
    broken_text_files,
    gzip_of,
    gzip_of_zeros,
    long_line,
    odd_places,
    spoilt,
)
from tests.fuzz.reading import check_dialogue, check_rejected, read, read_apart

quickly = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
MB = 1 << 20
BROKEN = dict(broken_text_files())
# What a file gives: dialogues and rejected rows; None: it is refused, with these words.
EXPECTED: dict[str, tuple[int, dict[str, int]] | str] = {
    "utf-16.jsonl": "it is in UTF-16, expected UTF-8; `iconv",
    "utf-32.jsonl": "it is in UTF-32",
    "latin-1.jsonl": (1, {"invalid_utf8": 1}),
    "bom.jsonl": (2, {}),
    "overlong.jsonl": (1, {"invalid_utf8": 1}),
    "surrogates-in-utf8.jsonl": (1, {"invalid_utf8": 1}),
    "beyond-unicode.jsonl": (1, {"invalid_utf8": 1}),
    "cut-character.jsonl": (1, {"invalid_utf8": 1}),
    "nuls.jsonl": (1, {"nul_byte": 2}),
    "escaped-nul.jsonl": (0, {"nul_byte": 1}),
    "nested.jsonl": (1, {"nested_too_deeply": 2}),
    "nested-closed.jsonl": (1, {"nested_too_deeply": 1}),
    "nested.json": (1, {"nested_too_deeply": 1}),
    "nested-open.json": (0, {"truncated": 1}),
    "huge-number.jsonl": (1, {"invalid_json": 1}),
    "numbers.jsonl": (2, {"wrong_type": 1}),
    "duplicate-keys.jsonl": (2, {}),
    "duplicate-ids.jsonl": (50, {}),
    "ids.jsonl": (2 * len(IDS), {}),
    "crlf.jsonl": (2, {}),
    "cr.jsonl": (2, {}),
    "mixed-ends.jsonl": (5, {}),
    "trailing-comma.json": (2, {"invalid_json": 1}),
    "trailing-comma.jsonl": (0, {"invalid_json": 2}),
    "two-arrays.json": (1, {"trailing_data": 1}),
    "unclosed.json": (1, {"truncated": 1}),
    "only-bracket.json": (0, {"truncated": 1}),
    "null.jsonl": (1, {"not_an_object": 1}),
    "empty.jsonl": "there are no rows in it",
    "blank.jsonl": "there are no rows in it",
    "cut.jsonl.gz": "the file is damaged or cut off",
    "no-gzip.jsonl.gz": "the file is damaged or cut off",
    "wrong-sum.jsonl.gz": "the file is damaged or cut off",
    "two-members.jsonl.gz": (2, {}),
}


@pytest.mark.parametrize("name", BROKEN)
def test_every_row_of_a_broken_file_is_accounted_for(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(BROKEN[name])
    found = read(path)
    expected = EXPECTED.get(name)
    if isinstance(expected, str):
        assert found.error is not None and name in found.error and expected in found.error
    elif expected is not None:
        assert (found.dialogues, found.rejected, found.error) == (*expected, None)
    else:
        assert found.rows or (found.error is not None and name in found.error)


def _lines(data: bytes) -> list[bytes]:
    """The rows of JSON lines, by another way than the package's."""
    marks = (line.strip(b" \t").removeprefix(b"\xef\xbb\xbf") for line in data.splitlines())
    return [line for line in marks if line.strip()]


WHOLE = b"\n".join(
    [LINE, json.dumps({"data": ["é \u4f60", "\ud83d\ude00"], "id": 7}, ensure_ascii=True).encode(), LINE]
)


@quickly
@given(data=spoilt(WHOLE))
def test_spoilt_lines_give_one_result_each(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.jsonl").write_bytes(data)
    found = read(tmp_path / "x.jsonl")
    if found.error is None:
        assert found.rows == len(_lines(data))
    else:
        assert "x.jsonl" in found.error


@quickly
@given(data=spoilt(b"[" + WHOLE.replace(b"\n", b",") + b"]"))
def test_a_spoilt_array_is_read_to_its_end_or_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.json").write_bytes(data)
    found = read(tmp_path / "x.json")
    assert found.rows or (found.error is not None and "x.json" in found.error)


@quickly
@given(data=spoilt(gzip.compress(WHOLE * 20)))
def test_spoilt_gzip_is_read_or_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.jsonl.gz").write_bytes(data)
    found = read(tmp_path / "x.jsonl.gz")
    assert found.error is None or "x.jsonl.gz" in found.error


def _turns(key: str) -> st.SearchStrategy[object]:
    """Lists of turns as shape `key` has them, with anything in them."""
    names = {"messages": ("role", "content"), "conversations": ("from", "value")}
    if key not in names:
        return st.lists(ANY_TEXT | ANY_VALUE, max_size=5)
    role, text = names[key]
    roles = st.sampled_from(["user", "assistant", "system", "human", "gpt", "USER ", "tool"]) | ANY_VALUE
    return st.lists(
        st.fixed_dictionaries({}, optional={role: roles, text: ANY_TEXT | ANY_VALUE}) | ANY_VALUE, max_size=5
    )


@settings(max_examples=120, deadline=None)
@given(st.data(), st.sampled_from(sorted(SHAPES)))
def test_rows_of_any_values_are_dialogues_or_rejected(data: st.DataObject, shape: str) -> None:
    known = SHAPES[shape]
    fields = {f: _turns(f) | ANY_VALUE for f in known.required} | dict.fromkeys(known.optional, ANY_VALUE)
    row: dict[str, Any] = data.draw(st.fixed_dictionaries({}, optional=fields))
    item = parse_row(row, shape, source="s", row_number=1, language=None, licence="MIT", where="x.jsonl, row 1")
    if isinstance(item, Dialogue):
        check_dialogue(item)
    else:
        check_rejected(item)


@settings(max_examples=150, deadline=None)
@given(ANY_TEXT)
def test_a_key_is_one_printable_line_without_separators(text: str) -> None:
    key = safe_key(text)
    assert len(key) <= 120 and key.isprintable() and not set(key) & set("/\\")
    assert safe_key(key) == key and (key.strip(".") or not key)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(["a", "a~2", "a~3", "b", "a~2~3"]), max_size=200))
def test_ids_are_unique_whatever_they_were(ids: list[str]) -> None:
    taken = TakenIds()
    made = [taken.make_unique(Dialogue(i, "s", ()), n).id for n, i in enumerate(ids, 1)]
    assert len(set(made)) == len(ids)
    for n, id_ in enumerate(ids):
        assert made[n] == id_ or id_ in made[:n], "an id that was free was changed"


def test_ids_taken_long_ago_are_still_known() -> None:
    taken = TakenIds()
    for n in range(150_000):
        assert taken.make_unique(Dialogue(f"s/{n}", "s", ()), n).id == f"s/{n}"
    for n in (0, 70_000, 149_999):
        assert taken.make_unique(Dialogue(f"s/{n}", "s", ()), 5).id == f"s/{n}~5"


def test_two_sources_that_count_their_rows_alike_have_different_ids(tmp_path: Path) -> None:
    taken = TakenIds()
    ids = []
    for name in ("x", "y"):
        (tmp_path / f"{name}.jsonl").write_text('{"instruction": "a", "output": "b"}\n' * 3)
        ids += [
            d.id for d in read_dialogues(SourceSpec(str(tmp_path / f"{name}.jsonl")), taken) if isinstance(d, Dialogue)
        ]
    assert len(set(ids)) == 6 and ids[0] == "alpaca/1"


@pytest.mark.parametrize("name", TEXTS)
def test_a_text_of_any_script_is_kept_or_rejected_with_its_reason(tmp_path: Path, name: str) -> None:
    rows = [{"id": "x", "data": [TEXTS[name], "Yes, I see."]}, {"id": TEXTS[name], "data": ["Hello?", TEXTS[name]]}]
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = read(tmp_path / "x.jsonl")
    assert (found.dialogues, found.rejected) == (2, {})


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"data": ["a", ""]}, "empty_text"),
        ({"data": ["a", " \u3000\n"]}, "empty_text"),
        ({"data": ["x" * MAX_DIALOGUE_CHARACTERS, "b"]}, "dialogue_too_long"),
        ({"data": ["x"] * (MAX_TURNS + 1)}, "too_many_turns"),
        ({"data": ["a", "b\0"]}, "nul_byte"),
        ({"data": ["a", "b"], "language": "en" + "-aaaaaaaa" * 9}, "bad_language"),
        ({"data": ["a", "b"], "language": "../zh"}, "bad_language"),
        ({"data": {"a": "b"}}, "wrong_type"),
    ],
)
def test_what_is_no_dialogue_has_its_own_reason(row: dict[str, object], reason: str) -> None:
    item = parse_row(row, "ultrachat", source="s", row_number=1, language=None, licence="", where="here")
    assert isinstance(item, Rejected) and item.reason == reason


def test_how_deep_a_row_may_be_nested_does_not_depend_on_who_reads_it(tmp_path: Path) -> None:
    def row(depth: int) -> str:
        return '{"data": ["a", "b"], "more": ' + "[" * (depth - 1) + "]" * (depth - 1) + "}"

    (tmp_path / "x.jsonl").write_text(f"{row(MAX_DEPTH)}\n{row(MAX_DEPTH + 1)}\n{row(700)}\n")

    def from_deep_inside(calls: int) -> object:
        return from_deep_inside(calls - 1) if calls else read(tmp_path / "x.jsonl")

    found = read(tmp_path / "x.jsonl")
    assert (found.dialogues, found.rejected) == (1, {"nested_too_deeply": 2})
    assert from_deep_inside(300) == found


def test_places_that_are_no_files_are_refused_and_nothing_is_waited_for(tmp_path: Path) -> None:
    for path, says in odd_places(tmp_path):
        found = read(path)
        assert found.rows == 0 and found.error is not None and says in found.error, path
        assert found.error.isprintable()


def test_a_folder_with_a_link_to_nowhere_is_refused_and_not_read_in_part(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(LINE)
    (tmp_path / "b.jsonl").symlink_to("gone")
    found = read(tmp_path)
    assert found.rows == 0 and found.error is not None and "b.jsonl: the link leads nowhere" in found.error


def test_a_file_that_vanishes_is_an_error_that_names_it(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_bytes(LINE)
    rows = read_dialogues(SourceSpec(str(tmp_path)))
    next(rows)
    (tmp_path / "b.jsonl").unlink()
    with pytest.raises(Exception, match=r"b\.jsonl: cannot be read \(No such file"):
        list(rows)


def test_names_that_no_terminal_can_print_are_shown_by_their_escapes(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path)
    for name in (b"\xff\x1b[31m.jsonl", "\u202e.jsonl".encode()):
        Path(os.fsdecode(folder + b"/" + name)).write_bytes(LINE + b"\nnonsense")
    found = read(tmp_path)
    assert found.dialogues == 2 and found.rejected == {"invalid_json": 2}


@pytest.mark.slow
def test_lines_of_any_length_take_bounded_memory(tmp_path: Path) -> None:
    long_line(tmp_path / "line.jsonl", 100 * MB)
    (tmp_path / "element.json").write_bytes(b"[" + (tmp_path / "line.jsonl").read_bytes().replace(b"\n", b",") + b"]")
    (tmp_path / "brackets.json").write_bytes(b"[" + LINE + b"," + b"[" * (100 * MB))
    gzip_of_zeros(tmp_path / "zeros.jsonl.gz", 60 * MB)
    found = read_apart(sorted(tmp_path.iterdir()), timeout=120)
    for name in ("line.jsonl", "element.json"):
        assert (found[name].dialogues, found[name].rejected) == (2, {"line_too_long": 1})
    assert found["brackets.json"].rejected == {"truncated": 1}
    assert found["zeros.jsonl.gz"].rejected == {"line_too_long": 1}
    assert all(f.grown < 5 * MAX_ROW_BYTES for f in found.values()), found


def test_a_gzip_bomb_is_refused_by_a_stated_limit(tmp_path: Path) -> None:
    gzip_of_zeros(tmp_path / "zeros.jsonl.gz", 100 * MB)
    found = read_apart([tmp_path / "zeros.jsonl.gz"], timeout=120)["zeros.jsonl.gz"]
    assert found.error is not None and "at most 200 times its size are read" in found.error
    assert found.grown < 5 * MAX_ROW_BYTES


@pytest.mark.slow
def test_bombs_of_ten_gigabytes_are_refused_in_bounded_memory(tmp_path: Path) -> None:
    gzip_of_zeros(tmp_path / "zeros.jsonl.gz", 10_240 * MB)
    gzip_of_zeros(tmp_path / "zeros.json.gz", 10_240 * MB)
    gzip_of(tmp_path / "ends.jsonl.gz", lambda: (b"\n" * MB for _ in range(500)))
    found = read_apart(sorted(tmp_path.iterdir()), timeout=1200)
    for reading in found.values():
        assert reading.error is not None and "at most 200 times its size are read" in reading.error
        assert reading.grown < 5 * MAX_ROW_BYTES


@pytest.mark.slow
def test_the_largest_row_that_is_read_takes_bounded_memory(tmp_path: Path) -> None:
    """What JSON can make of a row's bytes is some thirty times as much."""
    for name, item in {"lists": b"[]", "objects": b'{"":0}', "texts": b'"a"', "numbers": b"1e1"}.items():
        items = (item + b",") * ((MAX_ROW_BYTES - 100) // (len(item) + 1)) + item
        (tmp_path / f"{name}.jsonl").write_bytes(b'{"data": [' + items + b"]}\n" + LINE)
    found = read_apart(sorted(tmp_path.iterdir()), timeout=600)
    assert all(f.rejected in ({"too_many_turns": 1}, {"wrong_type": 1}) for f in found.values()), found
    assert all(f.grown < 50 * MAX_ROW_BYTES for f in found.values()), found


@pytest.mark.slow
@settings(max_examples=2000, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=spoilt(WHOLE), suffix=st.sampled_from([".jsonl", ".json"]))
def test_many_spoilt_files_are_read_or_refused_quickly(tmp_path: Path, data: bytes, suffix: str) -> None:
    (tmp_path / f"x{suffix}").write_bytes(data)
    started = time.process_time()
    read(tmp_path / f"x{suffix}")
    assert time.process_time() - started < 5
