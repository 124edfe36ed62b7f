"""Whole builds of hostile sources, as a user meets them: they end well or with one line, and their counts add up."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.fuzz.hostile import IDS, LINE, TEXTS

GOOD = [[f"Where is station number {i}?", f"Number {i} is behind the park."] for i in range(8)]
BAD: dict[str, list[dict[str, Any]]] = {
    "empty_text": [{"data": ["a question", ""]}, {"data": ["", "an answer"]}],
    "no_turns": [{"data": []}],
    "no_reply": [{"data": ["only"]}],
    "wrong_type": [{"data": 5}, {"data": [1, 2]}, {"data": {"a": "b"}}],
    "missing_field": [{"text": "x"}],
    "bad_language": [{"data": ["a", "b"], "language": "../zh"}],
    "too_many_turns": [{"data": ["x", "y"] * 6000}],
    "nul_byte": [{"data": ["a", "b\0"]}],
}
UNREADABLE = {
    "not_an_object": b"null",
    "invalid_json": b"{",
    "invalid_utf8": b'{"data": ["\xff", "b"]}',
    "nested_too_deeply": b"[" * 5000,
}


def _dialogues() -> list[dict[str, Any]]:
    return [
        *({"id": "same", "data": turns} for turns in GOOD),
        *({"id": i, "data": ["Is this an id?", "It is one now."]} for i in IDS),
        *({"id": text, "data": [text, "Yes, I see."]} for text in TEXTS.values()),
        *({"data": ["Tell me more of it.", text]} for text in TEXTS.values()),
        {"data": ["How are you today?", "I am well, thank you."] * 500},
    ]


def _run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "duplexdata.cli", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert "Traceback" not in done.stderr, done.stderr[-3000:]
    return done


def _build(source: Path, out: Path) -> dict[str, dict[str, Any]]:
    """The counts of each stage."""
    done = _run("build", "--source", source, "--conversations", "4", "--workers", "1", "--out", out)
    assert done.returncode == 0, done.stderr
    stages = json.loads((out / "manifest.json").read_text(encoding="utf-8"))["stages"]
    for counts in stages:
        assert counts["items_in"] == counts["items_out"] + sum(counts["dropped"].values()), counts
    found = {counts["stage"]: counts for counts in stages}
    assert found["dialogues"]["items_in"] == found["sources"]["items_out"]
    assert {path.name for path in out.parent.iterdir()} <= {out.name, source.name}, "something lies outside of it"
    checked = _run("verify", out)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    return found


def test_a_build_of_hostile_lines_ends_well_and_accounts_for_each(tmp_path: Path) -> None:
    dialogues = _dialogues()
    rows = [*dialogues, *(row for rows in BAD.values() for row in rows)]
    (tmp_path / "x.jsonl").write_bytes(b"\n".join([*(json.dumps(r).encode() for r in rows), *UNREADABLE.values()]))
    found = _build(tmp_path / "x.jsonl", tmp_path / "out")["sources"]
    assert found["items_out"] == len(dialogues)
    assert found["dropped"] == {reason: len(rows) for reason, rows in BAD.items()} | dict.fromkeys(UNREADABLE, 1)


@pytest.mark.slow
def test_a_build_of_hostile_parquet_ends_well_and_accounts_for_each_row(tmp_path: Path) -> None:
    dialogues = _dialogues()
    bad = ("empty_text", "no_turns", "no_reply", "bad_language", "too_many_turns", "nul_byte")
    rows = [*dialogues, *(row for reason in bad for row in BAD[reason])]
    table = pa.table({
        # Parquet has no way to write half of a surrogate pair.
        "id": [None if "id" not in row else row["id"].encode("utf-8", "replace").decode() for row in rows],
        "data": [[text.encode("utf-8", "replace").decode() for text in row["data"]] for row in rows],
        "language": [row.get("language") for row in rows],
    })  # fmt: skip
    pq.write_table(table, tmp_path / "x.parquet", compression="zstd")
    found = _build(tmp_path / "x.parquet", tmp_path / "out")["sources"]
    assert found["items_out"] == len(dialogues)
    assert found["dropped"] == {reason: len(BAD[reason]) for reason in bad}


def _bomb() -> bytes:
    return gzip.compress(b"\n" * (80 << 20))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("x.jsonl", LINE.decode().encode("utf-16"), "it is in UTF-16"),
        ("x.jsonl", b"\0" * 5000, "hold no dialogue"),
        ("x.json", b"[" * 200_000, "hold no dialogue"),
        ("x.jsonl.gz", _bomb, "times its size are read"),
        ("x.parquet", b"PAR1\xff\xffPAR1", "damaged, cut off, no Parquet"),
    ],
    ids=["UTF-16", "NULs", "brackets", "gzip", "Parquet"],
)
def test_a_build_of_a_file_without_dialogues_ends_with_one_line(
    tmp_path: Path, name: str, content: bytes | Any, says: str
) -> None:
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content())
    done = _run("build", "--source", tmp_path / name, "--out", tmp_path / "out")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("duplexdata: ") and says in line
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_settings_that_swell_end_with_one_line(tmp_path: Path) -> None:
    aliases = "a0: &a0 [x, x, x, x]\n" + "".join(f"a{i}: &a{i} [{f'*a{i - 1}, ' * 10}]\n" for i in range(1, 12))
    (tmp_path / "c.yaml").write_text(aliases)
    done = _run("build", "--config", tmp_path / "c.yaml", "--out", tmp_path / "out")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "c.yaml" in line and "which is the limit" in line
