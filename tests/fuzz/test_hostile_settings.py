"""Settings of any kind: each document is a configuration that can be worked with, or refused in one line."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import typing
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from duplexdata.config import Config, SourceConfig, check
from duplexdata.config_file import PRESETS, dump_config, load_config
from duplexdata.errors import ConfigError
from duplexdata.yaml_values import MAX_BYTES, MAX_DEPTH, MAX_NODES, BadYaml, parse_yaml
from tests.fuzz.hostile import ANY_TEXT, ANY_VALUE, BIDI, EMOJI, spoilt

quickly = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
BILLION = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 10)
)
REFUSED: dict[str, tuple[bytes, str]] = {
    "aliases that stand for a billion values": (BILLION.encode(), f"more than {MAX_NODES} values"),
    "merges that do": (BILLION.replace("[", "{<<: [").replace("]", "]}").encode(), "line "),
    "an alias inside of itself": (b"mix: &a {pause: *a}", "stands inside what it stands for"),
    "nested flow": (b"sources: " + b"[" * 100_000, f"more than {MAX_DEPTH} levels"),
    "nested blocks": ("\n".join(f"{' ' * i}a:" for i in range(1000)).encode(), f"more than {MAX_DEPTH} levels"),
    "nested dashes": (b"- " * 5000 + b"a", f"more than {MAX_DEPTH} levels"),
    "many values": (b"sources: [" + b"a," * (MAX_NODES + 1) + b"]", f"more than {MAX_NODES} values"),
    "a megabyte": (b"# " + b"x" * MAX_BYTES, "which is the limit"),
    "latin-1": ("voices: {bank: Größe}".encode("latin-1"), "utf-8"),
    "utf-16": ("seed: 1".encode("utf-16"), "utf-8"),
    "a NUL": (b"seed: 1\0", "cannot be read as YAML"),
    "an escaped NUL": (b'voices: {bank: "a\\0b"}', "voices.bank holds a NUL character"),
    "controls": (b"seed: \x1b[31m", "cannot be read as YAML"),
    "a key twice": (b"seed: 1\nseed: 2", "'seed' stands twice"),
    "a list": (b"- seed", "expected a mapping"),
    "a text": (b"seed", "expected a mapping"),
    "Python's tags": (b"seed: !!python/object/apply:os.system ['true']", "could not determine a constructor"),
    "other tags": (b"seed: !Ref x", "could not determine a constructor"),
    "a list as a key": (b"[a, b]: 1", "cannot be read as YAML"),
    "two documents": (b"seed: 1\n---\nseed: 2", "expected a single document"),
    "no date": (b"seed: 2024-02-31", "cannot be read"),
    "a date": (b"seed: 2024-02-28", "seed"),
    "a huge number": (b"seed: " + b"9" * 3000, "seed"),
    "a number of too many digits": (b"seed: " + b"9" * 100_000, "cannot be read"),
    "no number": (b"align: {margin_sec: .nan}", "align"),
    "infinity": (b"timing: {reply_gap_sec: .inf}", "timing.reply_gap_sec"),
    "no conversations": (b"conversations: -1", "conversations"),
    "too many": (b"conversations: 9000000000000000000", "conversations"),
    "an unknown key": (b"conversation: 3", "did you mean conversations?"),
    "an unprintable key": (b'"\\e[31m": 3', "unknown key \\x1b[31m"),
    "a long key": (b"? " + b"k" * 100_000 + b"\n: 3", "unknown key kkk"),
    "a list for a mapping": (b"mix: [1, 2]", "mix"),
    "a mapping for a number": (b"seed: {a: 1}", "seed"),
    "sources that are a text": (b"sources: bundled", "sources is 'bundled', expected a list"),
    "an unknown preset": (b"preset: [a]", "preset"),
    "a huge value": (b"voices: {bank: " + b"x" * 100_000 + b"}", "voices.bank"),
    "tabs": (b"mix:\n\tpause: 1", "cannot be read as YAML: line 2"),
    "never closed": (b'seed: "', "cannot be read as YAML"),
    "cut": (dump_config(Config()).encode()[:-4] + b"\n {", "cannot be read as YAML"),
}  # fmt: skip


def _load(path: Path) -> Config | str:
    """The settings, or the line that refuses them."""
    try:
        config = load_config(str(path))
        check(config)
    except ConfigError as error:
        shown = str(error)
        assert shown and len(shown) < 3000 and shown.isprintable(), ascii(shown)[:500]
        return shown
    return config


@pytest.mark.parametrize("name", REFUSED)
def test_a_hostile_document_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    content, says = REFUSED[name]
    path = tmp_path / "c.yaml"
    path.write_bytes(content)
    found = _load(path)
    assert isinstance(found, str) and says in found, found


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xef\xbb\xbfseed: 7",
        b"# nothing\n",
        b"mix: &a {pause: 0.5}\ntiming: {}",
        b"preset: duo\n",
        b'voices: {bank: "\\ud83d"}',
    ],
)
def test_an_unusual_document_that_is_right_is_taken(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "c.yaml").write_bytes(content)
    assert isinstance(_load(tmp_path / "c.yaml"), Config)


def test_places_that_are_no_files_are_refused_and_nothing_is_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    odd = ["pipe.yaml", "loop.yaml", "gone.yaml", "n" * 300, "a\0b", "\ud800", ".", "\u202egnp.yaml"]
    for path in [*(tmp_path / name for name in odd), Path("/dev/zero")]:
        assert isinstance(_load(path), str)


# --- any document -------------------------------------------------------------------------------------------


def _settings_of(type_: type) -> st.SearchStrategy[dict[str, Any]]:
    """Mappings with some of the keys that a group of settings has, and any values."""
    hints = typing.get_type_hints(type_)
    fields: dict[str, st.SearchStrategy[Any]] = {}
    for field in dataclasses.fields(type_):
        inner = hints[field.name]
        deeper = dataclasses.is_dataclass(inner) and isinstance(inner, type)
        if field.name == "sources":
            fields[field.name] = st.lists(_settings_of(SourceConfig), max_size=2) | ANY_VALUE
        else:
            fields[field.name] = (_settings_of(inner) | ANY_VALUE) if deeper else _LIKELY | ANY_VALUE
    return st.lists(st.sampled_from(sorted(fields)), max_size=2, unique=True).flatmap(
        lambda names: st.fixed_dictionaries({name: fields[name] for name in names})
    )


_NUMBERS = st.sampled_from([0, 1, -1, 0.5, 1e-300, 1e300, float("nan"), float("inf"), 2**63, 10**40, True])
_LIKELY = _NUMBERS | st.tuples(_NUMBERS, _NUMBERS).map(list) | ANY_TEXT


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(values=_settings_of(Config))
def test_values_of_any_kind_are_settings_or_refused_in_one_line(tmp_path: Path, values: dict[str, Any]) -> None:
    path = tmp_path / "c.yaml"
    # JSON is YAML, and writes lone halves of surrogate pairs and infinities as a hostile writer would.
    path.write_text(json.dumps(values))
    found = _load(path)
    if isinstance(found, Config):
        path.write_text(dump_config(found), encoding="utf-8")
        assert load_config(str(path)) == found


@quickly
@given(document=spoilt((dump_config(Config())[:600] + "\nx: &a [1, {b: *a}]\n").encode()))
def test_spoilt_documents_are_settings_or_refused_in_one_line(tmp_path: Path, document: bytes) -> None:
    (tmp_path / "c.yaml").write_bytes(document)
    _load(tmp_path / "c.yaml")


_PIECES = """a seed : - ? [ ] { } , &a *a !!int !!set !!omap !!binary !!timestamp !!float <<: | >- " ' \\ %YAML --- ...
    0x 1_0 1:30 ~ .inf .nan 2024-01-01 = # @ ! !<x>""".split()
_YAML = st.lists(st.sampled_from([*_PIECES, ": ", "- ", ", ", "\n", "\n  ", " ", "\t", EMOJI, BIDI]), max_size=14).map(
    "".join
)


@settings(max_examples=200, deadline=None)
@given(_YAML | st.text(max_size=40))
def test_any_text_is_values_or_bad_yaml(text: str) -> None:
    """What PyYAML itself would take, it is taken as."""
    try:
        found = parse_yaml(text)
    except BadYaml as error:
        assert str(error) and str(error).isprintable()
    else:
        assert repr(found) == repr(yaml.safe_load(text))


@pytest.mark.parametrize("preset", [None, *PRESETS])
def test_settings_are_the_same_after_being_written_and_read(tmp_path: Path, preset: str | None) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(dump_config(load_config(preset)), encoding="utf-8")
    assert load_config(str(path)) == load_config(preset)


_MEASURED = """
import resource, sys
from duplexdata.config_file import load_config
from duplexdata.errors import ConfigError
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sys.argv[1:]:
    try:
        load_config(path)
    except ConfigError:
        pass
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_bombs_take_bounded_memory_and_time(tmp_path: Path) -> None:
    bombs = [content for content, _ in REFUSED.values()]
    bombs.append(b"x: [" + b"[" * 30 + b"]" * 30 + b"]\n" + b"#" * (MAX_BYTES - 100))
    bombs.append(b"seed: " + b"1_" * (MAX_BYTES // 2 - 10))
    bombs.append(b"x: {" + b"a: 1, " * (MAX_BYTES // 8) + b"}")
    paths = []
    for n, content in enumerate(bombs):
        paths.append(tmp_path / f"{n}.yaml")
        paths[-1].write_bytes(content)
    done = subprocess.run(
        [sys.executable, "-c", _MEASURED, *map(str, paths)], capture_output=True, text=True, timeout=120, check=True
    )
    assert int(done.stdout) * 1024 < 200 * MAX_BYTES
