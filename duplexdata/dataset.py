"""The dataset folder: finished shards are put together, the manifest last."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from duplexdata.card import dataset_card
from duplexdata.errors import DatasetError
from duplexdata.manifest import NAME, Markers, build_manifest, parse_manifest
from duplexdata.schema import CONFIGS
from duplexdata.shards import FileFacts, sha256
from duplexdata.stages.encode import codes_path
from duplexdata.stages.layouts import layout_path, tokenizer_at_hand
from duplexdata.stages.plan import Plan
from duplexdata.stages.speak import conversations_path
from duplexdata.stages.work import Marker, Shard
from duplexdata.storage import Folder, RemoteFolder, Store
from duplexdata.text.vocabulary import Vocabulary


def is_complete(plan: Plan, out: Folder) -> bool:
    """Whether `out` holds just this run's dataset already."""
    text = out.read(NAME)
    if text is None:
        return False
    manifest = parse_manifest(text, f"{out.shown}/{NAME}")
    if manifest["fingerprint"] != plan.config_fingerprint:
        return False
    return all(out.size(name) == facts["bytes"] for name, facts in manifest["files"].items())


def check_target(out: Folder) -> None:
    """Raises DatasetError where `out` holds something that is not ours to replace."""
    there = out.names()
    if NAME in there:
        return
    ours = {*CONFIGS, "tokenizer", "README.md"}
    if foreign := [name for name in there if name not in ours]:
        raise DatasetError(f"{out.shown} holds other files ({', '.join(foreign[:5])}); name an empty or a new folder")


def assemble(plan: Plan, shards: Sequence[Shard], markers: Markers, out: Folder) -> None:
    """Put a finished run's files into `out`. Interrupted, it can be run again; the manifest is written last."""
    check_target(out)
    if is_complete(plan, out):
        return  # another machine's run of the same dataset was faster
    _remove_old(out)
    files: dict[str, FileFacts] = {}
    for i, shard in enumerate(shards):
        place(plan.store, conversations_path(plan, shard), out, "conversations", markers.speech[i], files)
        if markers.codes:
            place(plan.store, codes_path(plan, shard), out, "codes", markers.codes[i], files)
        for layout in plan.config.layout.emit:
            path = layout_path(plan, shard, layout)
            place(plan.store, path, out, layout, markers.layouts[i], files, prefix=f"{layout}/")
    tokenizer, made = tokenizer_at_hand(plan)
    put_tokenizer(tokenizer, made.files, out, files)
    finish(out, build_manifest(plan, markers, files, Vocabulary.read(tokenizer).facts()), files)


def finish(out: Folder, manifest: dict[str, object], files: Mapping[str, FileFacts]) -> None:
    """The card, then the manifest."""
    configs = [
        c for c in ("sft", "dpo", "tdm", "duo", "codes", "conversations") if any(f.startswith(f"{c}/") for f in files)
    ]
    out.write("README.md", dataset_card(out.name, manifest, configs))
    out.write(NAME, json.dumps(manifest, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def place(
    store: Store,
    source: Path,
    out: Folder,
    config: str,
    marker: Marker,
    files: dict[str, FileFacts],
    prefix: str = "",
) -> None:
    """Put a finished file into the dataset: linked on one machine, copied inside one object store."""
    facts = marker.files[f"{prefix}{source.name}"]
    name = f"{config}/{source.name}"
    if store.remote is not None and isinstance(out, RemoteFolder):
        out.take(store.remote, store.name(source), name)
    else:
        out.put(store.bring(source, facts), name)
    files[name] = facts


def put_tokenizer(folder: Path, made: Mapping[str, FileFacts], out: Folder, files: dict[str, FileFacts]) -> None:
    """
    Args:
        made: the tokenizer's files, as "tokenizer/name"; `folder` holds them.
    """
    for name, facts in sorted(made.items()):
        out.put(folder.parent / name, name)
        files[name] = facts


def copy_tokenizer(dataset: Path, manifest: Mapping[str, Any], folder: Path) -> None:
    """Copy a dataset's tokenizer: what its manifest lists and nothing else that lies, or is linked, there.

    Raises: DatasetError: a file is missing, or not what the manifest says.
    """
    folder.mkdir(parents=True)
    for name in sorted(n for n in manifest["files"] if n.startswith("tokenizer/")):
        source, stated = dataset / name, manifest["files"][name]
        try:
            found = sha256(source)
        except OSError as error:
            raise DatasetError(f"{source} cannot be read ({error.strerror})") from error
        if found != stated["sha256"]:
            raise DatasetError(f"{source} is not what {NAME} says of it; `duplexdata verify {dataset}` has more")
        target = folder / name.removeprefix("tokenizer/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)


def _remove_old(out: Folder) -> None:
    """Take away a dataset of another configuration: first what vouches for it, then the files it names."""
    if (text := out.read(NAME)) is not None:
        old: Mapping[str, object] = parse_manifest(text, f"{out.shown}/{NAME}")["files"]
        out.remove(NAME)
        for name in old:
            if name.split("/")[0] in (*CONFIGS, "tokenizer"):  # a manifest says what it likes
                out.remove(name)
    for config in CONFIGS:
        # What an interrupted assembly left: only names of our own form.
        for name in out.files_in(config):
            file = PurePosixPath(name)
            if file.match("*-of-*.parquet") or file.match(".*.tmp"):
                out.remove(name)
