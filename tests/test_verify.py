"""A dataset is verified as a folder: what is whole passes, each damage to its files is reported by its rule."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from duplexdata.audio import from_flac, to_flac
from duplexdata.reemit import reemit
from duplexdata.schema import arrow_schema
from duplexdata.verify import RULES, Violation, verify

Row = dict[str, Any]
TRAIN, TEST = "train-00000-of-00002.parquet", "test-00000-of-00001.parquet"
SHIFT = 16_000 * 160 // 1000


class Copy:
    """A copy of a dataset that can be damaged; files that are not touched are linked."""

    def __init__(self, of: Path, path: Path) -> None:
        self.path = path
        shutil.copytree(of, path, copy_function=os.link)

    def found(self) -> list[Violation]:
        return list(verify(self.path))

    def read(self, name: str) -> list[Row]:
        return list(pq.read_table(self.path / name).to_pylist())

    def write(self, name: str, data: bytes, *, rows: int | None = None, told: bool = True) -> None:
        """Replace a file; unless `told` is false, the manifest knows its new size and checksum."""
        path = self.path / name
        path.unlink(missing_ok=True)
        path.write_bytes(data)
        if told and name != "manifest.json":
            with self.manifest() as manifest:
                facts = manifest["files"][name]
                facts["bytes"], facts["sha256"] = len(data), hashlib.sha256(data).hexdigest()
                facts["rows"] = facts["rows"] if rows is None else rows

    def rows(self, name: str, edit: Callable[[list[Row]], list[Row] | None], schema: pa.Schema | None = None) -> None:
        """Write a Parquet file again with edited rows (in place, or the ones returned)."""
        table = pq.read_table(self.path / name)
        rows = table.to_pylist()
        rows = edit(rows) or rows
        out = pa.BufferOutputStream()
        schema = schema or table.schema
        with pq.ParquetWriter(out, schema, write_page_checksum=True) as writer:
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))
        self.write(name, out.getvalue().to_pybytes(), rows=len(rows))

    def manifest(self) -> _Edited:
        return _Edited(self)


class _Edited:
    def __init__(self, copy: Copy) -> None:
        self._copy = copy

    def __enter__(self) -> dict[str, Any]:
        self._value = json.loads((self._copy.path / "manifest.json").read_text(encoding="utf-8"))
        return self._value

    def __exit__(self, kind: object, error: object, tb: object) -> None:
        if kind is None:
            self._copy.write("manifest.json", json.dumps(self._value).encode())


@pytest.fixture
def copy(small_dataset: Path, tmp_path: Path) -> Copy:
    return Copy(small_dataset, tmp_path / "dataset")


def test_a_dataset_that_was_just_built_is_whole(small_dataset: Path) -> None:
    seen: dict[str, int] = {}

    def report(what: str, n: int) -> None:
        seen[what] = seen.get(what, 0) + n

    assert list(verify(small_dataset, report=report)) == []
    assert seen["conversations"] == 24


def test_a_copy_that_was_only_written_again_is_whole(copy: Copy) -> None:
    for config in ("conversations", "codes", "sft", "dpo", "tdm", "duo"):
        copy.rows(f"{config}/{TRAIN}", lambda rows: None)
    assert copy.found() == []


@pytest.mark.parametrize("blocks", [None, (5, 3), (13, 13)])
def test_layouts_that_were_emitted_again_are_whole(
    small_dataset: Path, tmp_path: Path, blocks: tuple[int, int] | None
) -> None:
    reemit(
        small_dataset,
        tmp_path / "again",
        tokenizer=None,
        blocks=blocks,
        slicing="clock",
        layouts=None,
        tdm_jsonl=None,
        trust_remote_code=False,
        report=lambda n: None,
    )
    assert list(verify(tmp_path / "again")) == []


# -- damages: copy -> nothing; what is done to a file is told to the manifest unless the manifest is the point


def swap_channels(copy: Copy) -> None:
    with_sound(copy, lambda x: x[:, ::-1])


def later(copy: Copy) -> None:
    with_sound(copy, lambda x: np.roll(x, SHIFT, axis=0))


def earlier(copy: Copy) -> None:
    with_sound(copy, lambda x: np.roll(x, -SHIFT, axis=0))


def with_sound(copy: Copy, change: Callable[[np.ndarray], np.ndarray]) -> None:
    def edit(rows: list[Row]) -> None:
        rows[0]["audio"]["bytes"] = to_flac(np.ascontiguousarray(change(from_flac(rows[0]["audio"]["bytes"]))))

    copy.rows(f"conversations/{TRAIN}", edit)


def sound_after_a_stop(copy: Copy) -> None:
    def edit(rows: list[Row]) -> None:
        row, u = next((r, u) for r in rows for u in r["utterances"] if u["cut"])
        sound = from_flac(row["audio"]["bytes"])
        at = round(u["end"] * 16_000) + 800
        sound[at : at + 3200, 0] = np.resize(np.array([900, -900], np.int16), 3200)
        row["audio"]["bytes"] = to_flac(sound)

    copy.rows(f"conversations/{TRAIN}", edit)


def no_audio_file(copy: Copy) -> None:
    copy.rows(f"conversations/{TRAIN}", lambda rows: rows[0]["audio"].update(bytes=b"no sound"))


def one_channel(copy: Copy) -> None:
    with_sound(copy, lambda x: x[:, 0])


def no_epad(copy: Copy) -> None:
    ids = json.loads((copy.path / "manifest.json").read_text(encoding="utf-8"))["vocabulary"]["state_tokens"]

    def edit(rows: list[Row]) -> None:
        at = rows[0]["input_ids"].index(ids["epad"])
        rows[0]["input_ids"][at] = rows[0]["labels"][at] = ids["pad"]

    copy.rows(f"sft/{TRAIN}", edit)


def one_label(copy: Copy) -> None:
    copy.rows(f"sft/{TRAIN}", lambda rows: rows[2]["labels"].__setitem__(12, -100))


def other_blocks(copy: Copy) -> None:
    copy.rows(f"sft/{TRAIN}", lambda rows: rows[0].update(n_speech=12))


def other_facts(copy: Copy) -> None:
    """Another vocabulary in a file's metadata."""
    schema = pq.read_schema(copy.path / f"sft/{TRAIN}")
    facts = json.loads(schema.metadata[b"duplexdata"])
    facts["speech_offset"] += 1
    copy.rows(f"sft/{TRAIN}", lambda rows: None, arrow_schema("sft", facts))


def other_type(copy: Copy) -> None:
    name = f"tdm/{TRAIN}"
    schema = pq.read_schema(copy.path / name)
    copy.rows(name, lambda rows: None, schema.set(0, pa.field("id", pa.large_string())))


def no_features(copy: Copy) -> None:
    name = f"tdm/{TRAIN}"
    schema = pq.read_schema(copy.path / name)
    metadata = {k: v for k, v in schema.metadata.items() if k != b"huggingface"}
    copy.rows(name, lambda rows: None, schema.with_metadata(metadata))


def truncated(copy: Copy) -> None:
    data = (copy.path / f"sft/{TRAIN}").read_bytes()
    copy.write(f"sft/{TRAIN}", data[: len(data) // 2])


def flipped_byte(copy: Copy, *, told: bool = True) -> None:
    name = f"conversations/{TRAIN}"
    data = bytearray((copy.path / name).read_bytes())
    data[len(data) // 2] ^= 0x10
    copy.write(name, bytes(data), told=told)


def flipped_byte_untold(copy: Copy) -> None:
    flipped_byte(copy, told=False)


def flipped_token_byte(copy: Copy) -> None:
    """Inside a column of numbers, which would be read without a complaint."""
    name = f"dpo/{TRAIN}"
    data = bytearray((copy.path / name).read_bytes())
    data[len(data) // 3] ^= 0x01
    copy.write(name, bytes(data))


def shorter_untold(copy: Copy) -> None:
    name = "tokenizer/tokenizer_config.json"
    copy.write(name, (copy.path / name).read_bytes() + b"\n", told=False)


def test_voice_in_train(copy: Copy) -> None:
    voice = copy.read(f"conversations/{TEST}")[0]["user_voice"]

    def edit(rows: list[Row]) -> None:
        rows[0]["user_voice"] = voice
        for u in rows[0]["utterances"]:
            u["voice"] = voice if u["kind"] in ("query", "interruption", "backchannel") else u["voice"]

    copy.rows(f"conversations/{TRAIN}", edit)


def test_source_in_train(copy: Copy) -> None:
    source = copy.read(f"conversations/{TEST}")[0]["source_ids"][0]
    copy.rows(f"conversations/{TRAIN}", lambda rows: rows[0]["source_ids"].__setitem__(0, source))


def other_order(copy: Copy) -> None:
    copy.rows(f"codes/{TRAIN}", lambda rows: [rows[1], rows[0], *rows[2:]])


def same_id(copy: Copy) -> None:
    copy.rows(f"tdm/{TRAIN}", lambda rows: [*rows, rows[0]])


def same_id_in_test(copy: Copy) -> None:
    id_ = copy.read(f"conversations/{TRAIN}")[0]["id"]
    copy.rows(f"conversations/{TEST}", lambda rows: rows[0].update(id=id_))


def unknown_id(copy: Copy) -> None:
    copy.rows(f"duo/{TRAIN}", lambda rows: rows[0].update(id="another"))


def lost_row(copy: Copy) -> None:
    copy.rows(f"duo/{TRAIN}", lambda rows: rows[1:])


def lost_sft_row(copy: Copy) -> None:
    copy.rows(f"sft/{TRAIN}", lambda rows: rows[:-1])


def rows_untold(copy: Copy) -> None:
    lost_row(copy)
    with copy.manifest() as manifest:
        manifest["files"][f"duo/{TRAIN}"]["rows"] += 1


def no_value(copy: Copy) -> None:
    copy.rows(f"tdm/{TRAIN}", lambda rows: rows[0]["messages"][0].update(content=None))


def no_text(copy: Copy) -> None:
    copy.rows(f"conversations/{TRAIN}", lambda rows: rows[0]["utterances"][0].update(text=None))


def no_number(copy: Copy) -> None:
    copy.rows(f"conversations/{TRAIN}", lambda rows: rows[0]["utterances"][0].update(start=float("nan")))


def later_reply(copy: Copy) -> None:
    def edit(rows: list[Row]) -> None:
        reply = next(u for u in rows[0]["utterances"] if u["kind"] == "reply")
        reply["start"] += 0.2

    copy.rows(f"conversations/{TRAIN}", edit)


def other_scenario(copy: Copy) -> None:
    copy.rows(
        f"duo/{TRAIN}", lambda rows: rows[0].update(scenario="regeneration" if "reg" not in rows[0]["id"] else "x")
    )


def rejected_user_token(copy: Copy) -> None:
    copy.rows(f"dpo/{TRAIN}", lambda rows: rows[0]["rejected_input_ids"].__setitem__(26, 9000))


def swapped_pair(copy: Copy) -> None:
    def edit(rows: list[Row]) -> None:
        for what in ("input_ids", "labels"):
            a, b = f"chosen_{what}", f"rejected_{what}"
            rows[0][a], rows[0][b] = rows[0][b], rows[0][a]

    copy.rows(f"dpo/{TRAIN}", edit)


def other_gap(copy: Copy) -> None:
    copy.rows(f"dpo/{TRAIN}", lambda rows: rows[0].update(negative_sec=rows[0]["negative_sec"] + 0.5))


def other_token(copy: Copy) -> None:
    copy.rows(f"codes/{TRAIN}", lambda rows: rows[0]["user"].__setitem__(0, 5))


def other_negative(copy: Copy) -> None:
    copy.rows(f"codes/{TRAIN}", lambda rows: rows[0]["negatives"][0]["assistant"].__setitem__(0, 5))


def longer_negative(copy: Copy) -> None:
    copy.rows(f"codes/{TRAIN}", lambda rows: rows[0]["negatives"][0].update(negative_sec=9.0))


def other_word(copy: Copy) -> None:
    def edit(rows: list[Row]) -> None:
        message = next(m for m in rows[0]["messages"] if m["role"] == "user" and m["content"] != "<idle>")
        message["content"] = "Banana " + message["content"].split(" ", 1)[-1]

    copy.rows(f"tdm/{TRAIN}", edit)


def wrong_state(copy: Copy) -> None:
    ids = json.loads((copy.path / "manifest.json").read_text(encoding="utf-8"))["vocabulary"]["state_tokens"]

    def edit(rows: list[Row]) -> None:
        row = rows[0]
        at = row["input_ids"].index(ids["query"])
        row["input_ids"][at] = row["labels"][at] = ids["non_query"]
        row["text"] = row["text"].replace("<1>", "<2>", 1)

    copy.rows(f"duo/{TRAIN}", edit)


def missing_file(copy: Copy) -> None:
    (copy.path / f"codes/{TRAIN}").unlink()


def extra_file(copy: Copy) -> None:
    shutil.copyfile(copy.path / f"codes/{TRAIN}", copy.path / "codes/train-00002-of-00003.parquet")


def missing_shard(copy: Copy) -> None:
    """Of every config, and in the manifest too."""
    with copy.manifest() as manifest:
        for name in [n for n in manifest["files"] if n.endswith(TRAIN)]:
            (copy.path / name).unlink()
            del manifest["files"][name]


def edited(*path: str | int, value: object) -> Callable[[Copy], None]:
    """Change one entry of the manifest."""

    def damage(copy: Copy) -> None:
        with copy.manifest() as manifest:
            inner: Any = manifest
            for key in path[:-1]:
                inner = inner[key]
            inner[path[-1]] = value

    return damage


def no_manifest(copy: Copy) -> None:
    (copy.path / "manifest.json").unlink()


def half_a_manifest(copy: Copy) -> None:
    data = (copy.path / "manifest.json").read_bytes()
    copy.write("manifest.json", data[: len(data) // 2])


def manifest_without_timing(copy: Copy) -> None:
    with copy.manifest() as manifest:
        del manifest["config"]["timing"]


def outside(copy: Copy) -> None:
    with copy.manifest() as manifest:
        manifest["files"]["../secret.parquet"] = {"rows": 0, "bytes": 0, "sha256": ""}


def source_path(copy: Copy) -> None:
    with copy.manifest() as manifest:
        manifest["config"]["sources"][0]["path"] = "/data/of/somebody.jsonl"


def tokenizer_path(copy: Copy) -> None:
    name = "tokenizer/tokenizer_config.json"
    config = json.loads((copy.path / name).read_text(encoding="utf-8"))
    copy.write(name, json.dumps({**config, "name_or_path": "/data/of/somebody"}).encode())


def broken_tokenizer(copy: Copy) -> None:
    copy.write("tokenizer/tokenizer.json", b"{}")


def other_tokenizer(copy: Copy) -> None:
    name = "tokenizer/tokenizer.json"
    text = (copy.path / name).read_text(encoding="utf-8")
    copy.write(name, text.replace("<|audio_7|>", "<|sound_7|>").encode())


def card_without_a_config(copy: Copy) -> None:
    text = (copy.path / "README.md").read_text(encoding="utf-8")
    copy.write("README.md", text.replace("config_name: tdm", "config_name: tmd").encode(), told=False)


def card_with_another_split(copy: Copy) -> None:
    text = (copy.path / "README.md").read_text(encoding="utf-8")
    copy.write("README.md", text.replace("path: sft/test-*.parquet", "path: sft/*.parquet").encode(), told=False)


def no_card(copy: Copy) -> None:
    (copy.path / "README.md").unlink()


def other_corpus(copy: Copy) -> None:
    copy.rows(f"conversations/{TRAIN}", lambda rows: rows[0].update(source="another"))


def other_name(copy: Copy) -> None:
    copy.rows(f"conversations/{TRAIN}", lambda rows: rows[0]["audio"].update(path="another.flac"))


def other_build(copy: Copy) -> None:
    copy.rows(f"conversations/{TEST}", lambda rows: rows[0]["provenance"].update(config="0123456789abcdef"))


DAMAGES: list[tuple[str, Callable[[Copy], None]]] = [
    ("manifest", no_manifest),
    ("manifest", half_a_manifest),
    ("manifest", manifest_without_timing),
    ("manifest", outside),
    ("manifest", edited("format", value=99)),
    ("files", missing_file),
    ("files", extra_file),
    ("shards", missing_shard),
    ("size", shorter_untold),
    ("checksum", flipped_byte_untold),
    ("rows", rows_untold),
    ("readable", truncated),
    ("readable", flipped_byte),
    ("readable", flipped_token_byte),
    ("readable", broken_tokenizer),
    ("counts", edited("stages", 4, "dropped", value={"reply_too_short": 1})),
    ("counts", edited("stages", 1, value={"stage": "sources"})),
    ("counts", lost_sft_row),
    ("statistics", edited("statistics", "hours", value=5.0)),
    ("statistics", edited("statistics", "timing", "reply_gap", "mean_sec", value=0.2)),
    ("statistics", edited("tokens", "text", value=1)),
    ("fingerprint", edited("config", "seed", value=4444)),
    ("fingerprint", edited("fingerprint", value=None)),
    ("paths", source_path),
    ("paths", tokenizer_path),
    ("card", card_without_a_config),
    ("card", card_with_another_split),
    ("card", no_card),
    ("schema", other_type),
    ("schema", no_features),
    ("vocabulary", other_facts),
    ("vocabulary", other_tokenizer),
    ("vocabulary", edited("vocabulary", "speech_offset", value=7)),
    ("null", no_value),
    ("null", no_text),
    ("malformed", no_number),
    ("id-unique", same_id),
    ("id-unique", same_id_in_test),
    ("id-unknown", unknown_id),
    ("id-missing", lost_row),
    ("row-order", other_order),
    ("dropped", lost_sft_row),
    ("provenance", other_corpus),
    ("provenance", other_build),
    ("statistics", edited("licences", value=[])),
    ("split-sources", test_source_in_train),
    ("split-voices", test_voice_in_train),
    ("voices", edited("voices", 0, "seconds", value=1.0)),
    ("voices", edited("voices", value=[])),
    ("voices", edited("statistics", "voices", "users", value={})),
    ("reply-gap", later_reply),
    ("scenario", other_scenario),
    ("audio", no_audio_file),
    ("audio", one_channel),
    ("audio", other_name),
    ("sound-outside", swap_channels),
    ("onset", later),
    ("offset", earlier),
    ("after-stop", sound_after_a_stop),
    ("codes-audio", other_token),
    ("codes-audio", later),
    ("negative", longer_negative),
    ("negative-tokens", other_negative),
    ("sft-states", no_epad),
    ("sft-text", no_epad),
    ("sft-labels", one_label),
    ("sft-shape", other_blocks),
    ("dpo-user", rejected_user_token),
    ("dpo-chosen", swapped_pair),
    ("dpo-timing", other_gap),
    ("dpo-record", other_gap),
    ("tdm-words", other_word),
    ("duo-state", wrong_state),
]


def _names() -> Iterator[str]:
    for n, (rule, damage) in enumerate(DAMAGES):
        yield f"{n}-{rule}-{damage.__name__}"


@pytest.mark.slow
@pytest.mark.parametrize(("rule", "damage"), DAMAGES, ids=list(_names()))
def test_damage_is_reported_by_its_rule(copy: Copy, rule: str, damage: Callable[[Copy], None]) -> None:
    damage(copy)
    found = copy.found()
    assert rule in {v.rule for v in found}
    assert {v.rule for v in found} <= set(RULES)


def test_a_violation_names_file_and_row(copy: Copy) -> None:
    id_ = copy.read(f"sft/{TRAIN}")[2]["id"]
    one_label(copy)
    found = [(v.file, v.row, v.rule) for v in copy.found()]
    assert found == [(f"sft/{TRAIN}", id_, "sft-labels"), (f"dpo/{TRAIN}", id_, "dpo-chosen")]


def test_each_rule_is_shown_to_find_something() -> None:
    """Here or in the tests of the checks."""
    from test_checks import DAMAGES as OF_CHECKS

    assert set(RULES) - set(OF_CHECKS) - {rule for rule, _ in DAMAGES} == set()


def test_a_rule_is_named_where_it_is_found() -> None:
    """Every rule that the code reports is described, and no rule is described that nothing reports."""
    from duplexdata import checks, verify

    modules = [path for package in (checks, verify) for path in Path(package.__file__).parent.glob("*.py")]
    source = "".join(path.read_text(encoding="utf-8") for path in modules if path.name != "rules.py")
    quoted = set(re.findall(r"""["']([a-z]+(?:-[a-z]+)*)["']""", source))
    assert set(RULES) <= quoted
