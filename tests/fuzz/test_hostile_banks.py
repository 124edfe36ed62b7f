"""Voice banks of any kind: every row is a voice or refused with its reason, or the bank is refused in one line."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from duplexdata.config import VoicesConfig
from duplexdata.errors import ConfigError
from duplexdata.voices.bank import Fault
from duplexdata.voices.load import load_bank, read_prompt, survey
from duplexdata.voices.rows import BadRow, parse_bank_row
from tests.fuzz.hostile import ANY_TEXT, ANY_VALUE, IDS, broken_text_files, spoilt

ROW = {"id": "a", "file": "a.wav", "transcript": "A few words of it.", "language": "en", "sex": "female"}
FIELDS = ("id", "file", "audio", "transcript", "text", "language", "sex", "accent", "split", "settings", "licence")
BROKEN = dict(broken_text_files())


def _sound(format_: str = "WAV", rate: int = 16_000) -> bytes:
    out = io.BytesIO()
    sf.write(out, np.random.default_rng(0).normal(0, 0.1, rate // 4).astype(np.float32), rate, format=format_)
    return out.getvalue()


def _refused(folder: Path) -> tuple[int, str]:
    """Entries of the bank, none of which may be used, and the line that says so."""
    entries = 0
    try:
        entries = len(survey(VoicesConfig(bank=str(folder))))
        load_bank(VoicesConfig(bank=str(folder)))
    except ConfigError as error:
        assert str(error).isprintable() and len(str(error)) < 3000, ascii(str(error))
        return entries, str(error)
    raise AssertionError("the bank was taken")


@pytest.mark.parametrize("name", [name for name in BROKEN if name.endswith(".jsonl")])
def test_a_broken_list_of_voices_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / "voices.jsonl").write_bytes(BROKEN[name])
    _refused(tmp_path)


def test_every_row_of_a_hostile_bank_has_its_reason(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"RIFF" + b"\xff" * 2000)
    (tmp_path / "zeros.flac").write_bytes(b"fLaC" + b"\0" * 100)
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "folder.wav").mkdir()
    (tmp_path / "loop.wav").symlink_to("loop.wav")
    files = ["a.wav", "zeros.flac", "pipe.wav", "folder.wav", "loop.wav", "/dev/zero", "../../etc/passwd", "\ud800.wav"]
    rows = [{**ROW, "id": f"f{n}", "file": file} for n, file in enumerate(files)]
    rows += [{**ROW, "id": id_} for id_ in IDS]
    lines = [*map(json.dumps, rows), "null", "{", '"a"', "[]"]
    (tmp_path / "voices.jsonl").write_text("\n".join(lines))
    found = survey(VoicesConfig(bank=str(tmp_path)))
    assert len(found) == len(lines)
    for entry in found:
        assert entry.faults and all(fault.reason.isidentifier() for fault in entry.faults)
        assert entry.where.isprintable(), ascii(entry.where)
        assert all(fault.detail.isprintable() for fault in entry.faults), entry.faults
    entries, says = _refused(tmp_path)
    assert entries == len(lines) and says


@pytest.mark.parametrize("kind", ["pipe", "folder", "loop"])
def test_a_list_of_voices_that_is_no_file_is_refused_and_not_waited_for(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "voices.jsonl"
    {"pipe": lambda: os.mkfifo(path), "folder": path.mkdir, "loop": lambda: path.symlink_to(path)}[kind]()
    assert "cannot be read" in _refused(tmp_path)[1]


@settings(max_examples=100, deadline=None)
@given(row=st.dictionaries(st.sampled_from(FIELDS), ANY_TEXT | ANY_VALUE, max_size=8) | ANY_VALUE)
def test_rows_of_any_values_are_checked_or_refused(row: object) -> None:
    found = parse_bank_row(row, "voices.jsonl, row 1")
    if isinstance(found, BadRow):
        assert found.fault.detail.isprintable() and found.where.isprintable()
    else:
        assert found.name.isprintable() and not Path(found.file).is_absolute() and ".." not in Path(found.file).parts


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.sampled_from([_sound(), _sound("FLAC"), _sound("OGG")]).flatmap(spoilt))
def test_spoilt_recordings_are_read_or_refused(data: bytes) -> None:
    found = read_prompt(data)
    if isinstance(found, Fault):
        assert found.reason.isidentifier() and found.detail.isprintable()
    else:
        assert found[0].ndim == 1 and found[0].dtype == np.float32 and found[1] > 0
