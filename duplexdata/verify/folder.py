"""The manifest, the card and the files of a dataset's folder."""

from __future__ import annotations

import fnmatch
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from duplexdata.config import fingerprint
from duplexdata.files import open_regular
from duplexdata.manifest import FORMAT, NAME, is_facts
from duplexdata.names import lies_inside
from duplexdata.schema import CONFIGS
from duplexdata.shards import sha256
from duplexdata.verify.rules import Report, Violation, first_line
from duplexdata.yaml_values import parse_yaml

PATH = re.compile(r"^(/[^/\s]+/|[A-Za-z]:[\\/]|\\\\|file://|~[/\\])")
_SHARD = re.compile(r"^(train|test)-(\d{5})-of-(\d{5})\.parquet$")


def read_manifest(dataset: Path) -> tuple[dict[str, Any] | None, list[Violation]]:
    """The manifest, if it can be worked with."""
    try:
        with open_regular(dataset / NAME) as file:
            manifest = json.loads(file.read().decode("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        return None, [Violation(NAME, None, "manifest", f"cannot be read: {first_line(error)}")]
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        return None, [Violation(NAME, None, "manifest", f"is of no format that is known, expected {FORMAT}")]
    files = manifest.get("files")
    if not isinstance(files, dict) or not all(map(is_facts, files.values())):
        return None, [Violation(NAME, None, "manifest", "files: expected rows, bytes and sha256 of each")]
    outside = [f for f in files if not lies_inside(f)]
    if outside:
        return None, [Violation(NAME, None, "manifest", f"files: {outside[0]!r} lies outside the dataset")]
    return manifest, []


def check_manifest(manifest: Mapping[str, Any]) -> Iterator[Violation]:
    """What it says of itself."""

    def bad(rule: str, detail: str) -> Violation:
        return Violation(NAME, None, rule, detail)

    package, config = manifest.get("package"), manifest.get("config")
    stated = manifest.get("fingerprint")
    if not isinstance(package, str) or not isinstance(config, dict) or not isinstance(stated, str):
        yield bad("fingerprint", "package, config or fingerprint is missing")
    elif stated != (expected := _fingerprint(manifest)):
        yield bad("fingerprint", f"is {stated}, its config, made_by and package give {expected}")
    for where, text in strings_in(manifest):
        if PATH.match(text):
            yield bad("paths", f"{where} is {text!r}")
    try:
        yield from (bad("counts", detail) for detail in _check_counts(manifest))
    except (KeyError, TypeError, AttributeError) as error:
        yield bad("counts", f"stages cannot be read ({type(error).__name__}: {error})")


def _fingerprint(manifest: Mapping[str, Any]) -> str:
    """Of a dataset: from its configuration, what made it, and the package's version."""
    package = manifest["package"].split()
    return fingerprint(manifest["config"], manifest.get("made_by", {}), package[-1] if package else "")


def _check_counts(manifest: Mapping[str, Any]) -> Iterator[str]:
    rows: Counter[str] = Counter()
    for name, facts in manifest["files"].items():
        rows[name.split("/")[0]] += facts["rows"]
    stages = {s["stage"]: s for s in manifest["stages"]}
    for name, s in stages.items():
        if s["items_in"] != s["items_out"] + sum(s["dropped"].values()):
            yield f"{name}: {s['items_in']} in, {s['items_out']} out, {sum(s['dropped'].values())} dropped"
    configs = {"conversations": "speech", "codes": "codes", **{c: c for c in ("sft", "dpo", "tdm", "duo")}}
    for config, stage in configs.items():
        if rows[config] and (stage not in stages or stages[stage]["items_out"] != rows[config]):
            out = stages[stage]["items_out"] if stage in stages else None
            yield f"{stage}: {out} out, {config} has {rows[config]} rows"
    before = {
        "dialogues": "sources",
        "speech": "scripts",
        **dict.fromkeys(("codes", "sft", "dpo", "tdm", "duo"), "speech"),
    }
    for stage, source in before.items():
        if stage in stages and source in stages and stages[stage]["items_in"] != stages[source]["items_out"]:
            yield f"{stage}: {stages[stage]['items_in']} in, {stages[source]['items_out']} came out of {source}"


def strings_in(value: object, where: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield where, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield where, str(key)
            yield from strings_in(item, f"{where}.{key}".lstrip("."))
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from strings_in(item, f"{where}[{i}]")


def check_card(dataset: Path, files: Mapping[str, object]) -> Iterator[Violation]:
    """The YAML head names the files that are there, all of them and no others."""
    name = "README.md"
    try:
        with open_regular(dataset / name) as file:
            head = file.read().decode("utf-8").split("---\n", 2)[1]
        stated = {
            c["config_name"]: {f["split"]: f["path"] for f in c["data_files"]} for c in parse_yaml(head)["configs"]
        }
    except (OSError, ValueError, IndexError, KeyError, TypeError) as error:
        yield Violation(name, None, "card", f"its head cannot be read ({type(error).__name__}: {first_line(error)})")
        return
    there = {f.split("/")[0] for f in files if f.endswith(".parquet")}
    if set(stated) != there:
        yield Violation(name, None, "card", f"has the configs {sorted(stated)}, the files are of {sorted(there)}")
    for config, splits in stated.items():
        for split in ("train", "test"):
            pattern = splits.get(split, "")
            found = {f for f in files if fnmatch.fnmatchcase(f, str(pattern))}
            expected = {f for f in files if f.startswith(f"{config}/{split}-") and f.endswith(".parquet")}
            if found != expected or not found:
                yield Violation(
                    name, None, "card", f"{config}, {split}: {pattern!r} names {len(found)} files, not {len(expected)}"
                )


def check_files(dataset: Path, files: Mapping[str, Any], said: Report) -> Iterator[Violation]:
    for name, facts in sorted(files.items()):
        path = dataset / name
        try:
            size = path.stat().st_size
            digest = sha256(path) if path.is_file() else ""
        except OSError as error:
            yield Violation(name, None, "files", f"is not there: {error.strerror}")
            continue
        if size != facts["bytes"]:
            yield Violation(name, None, "size", f"{size} bytes, expected {facts['bytes']}")
        if digest != facts["sha256"]:
            yield Violation(name, None, "checksum", f"SHA-256 {digest[:16]}…, expected {facts['sha256'][:16]}…")
        said("files", 1)
    for folder in (*CONFIGS, "tokenizer"):
        for path in sorted((dataset / folder).rglob("*")):
            name = path.relative_to(dataset).as_posix()
            if name not in files and not path.is_dir():
                yield Violation(name, None, "files", "is not in the manifest")
    for path in sorted(dataset.glob("*.parquet")):
        yield Violation(path.name, None, "files", "is not in the manifest")
    yield from _check_shards(files)


def _check_shards(files: Iterable[str]) -> Iterator[Violation]:
    shards: dict[str, set[str]] = {}
    for name in files:
        config, _, file = name.partition("/")
        if not file.endswith(".parquet"):
            continue
        shards.setdefault(config, set()).add(file)
        if config not in CONFIGS or not _SHARD.match(file):
            yield Violation(name, None, "shards", "is no shard of a config")
    wanted = shards.get("conversations", set())
    for split in ("train", "test"):
        parts = sorted((m for f in wanted if (m := _SHARD.match(f)) and m[1] == split), key=lambda m: m[2])
        if [(int(m[2]), int(m[3])) for m in parts] != [(i, len(parts)) for i in range(len(parts))] or not parts:
            yield Violation("conversations", None, "shards", f"{split}: {[m[0] for m in parts]} are not all")
    for config, found in sorted(shards.items()):
        if found != wanted:
            differing = sorted(found ^ wanted)
            yield Violation(config, None, "shards", f"{differing[0]} is not in both it and conversations")
