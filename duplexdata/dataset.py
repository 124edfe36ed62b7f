"""The dataset folder: finished shards are put together, the manifest last."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from duplexdata.card import dataset_card
from duplexdata.errors import DatasetError
from duplexdata.manifest import NAME, Markers, build_manifest, read_manifest
from duplexdata.schema import CONFIGS
from duplexdata.shards import FileFacts, put_in_place, sha256, temporary_name, write_json, write_text
from duplexdata.stages.encode import codes_path
from duplexdata.stages.layouts import layout_path, tokenizer_folder
from duplexdata.stages.plan import Plan
from duplexdata.stages.speak import conversations_path
from duplexdata.stages.work import Marker, Shard
from duplexdata.text.vocabulary import Vocabulary


def is_complete(plan: Plan, out: Path) -> bool:
    """Whether `out` holds just this run's dataset already."""
    if not (out / NAME).exists():
        return False
    manifest = read_manifest(out)
    if manifest["fingerprint"] != plan.config_fingerprint:
        return False
    return all((out / f).is_file() and (out / f).stat().st_size == x["bytes"] for f, x in manifest["files"].items())


def check_target(out: Path) -> None:
    """Raises DatasetError where `out` holds something that is not ours to replace."""
    if out.exists() and not out.is_dir():
        raise DatasetError(f"{out} is a file; name a folder for the dataset")
    if not out.exists() or (out / NAME).exists():
        return
    ours = {*CONFIGS, "tokenizer", "README.md"}
    foreign = sorted(p.name for p in out.iterdir() if p.name not in ours and not p.name.startswith("."))
    if foreign:
        raise DatasetError(f"{out} holds other files ({', '.join(foreign[:5])}); name an empty or a new folder")


def assemble(plan: Plan, shards: Sequence[Shard], markers: Markers, out: Path) -> None:
    """Put a finished run's files into `out`. Interrupted, it can be run again; the manifest is written last."""
    check_target(out)
    _remove_old(out)
    files: dict[str, FileFacts] = {}
    layouts = plan.config.layout.emit
    for i, shard in enumerate(shards):
        place(conversations_path(plan, shard), out, "conversations", markers.speech[i], files)
        if markers.codes:
            place(codes_path(plan, shard), out, "codes", markers.codes[i], files)
        for layout in layouts:
            place(layout_path(plan, shard, layout), out, layout, markers.layouts[i], files, prefix=f"{layout}/")
    copy_tokenizer(tokenizer_folder(plan), out, files)
    vocabulary = Vocabulary.read(tokenizer_folder(plan)).facts()
    finish(out, build_manifest(plan, markers, files, vocabulary), files)


def finish(out: Path, manifest: dict[str, object], files: dict[str, FileFacts]) -> None:
    """The card, then the manifest."""
    configs = [
        c for c in ("sft", "dpo", "tdm", "duo", "codes", "conversations") if any(f.startswith(f"{c}/") for f in files)
    ]
    write_text(out / "README.md", dataset_card(out.resolve().name, manifest, configs))
    write_json(out / NAME, manifest)


def place(source: Path, out: Path, config: str, marker: Marker, files: dict[str, FileFacts], prefix: str = "") -> None:
    """Link (or copy) a finished file into the dataset."""
    facts = marker.files[f"{prefix}{source.name}"]
    target = out / config / source.name
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(target)
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, temporary)
    put_in_place(temporary, target)
    files[f"{config}/{source.name}"] = facts


def copy_tokenizer(folder: Path, out: Path, files: dict[str, FileFacts]) -> None:
    for source in sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith(".")):
        target = out / "tokenizer" / source.name
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_name(target)
        shutil.copyfile(source, temporary)
        put_in_place(temporary, target)
        files[f"tokenizer/{source.name}"] = FileFacts(0, target.stat().st_size, sha256(target))


def _remove_old(out: Path) -> None:
    """Take away a dataset of another configuration: first what vouches for it, then the files it names."""
    out.mkdir(parents=True, exist_ok=True)
    if (out / NAME).exists():
        old: Mapping[str, object] = read_manifest(out)["files"]
        (out / NAME).unlink()
        for name in old:
            if ".." not in Path(name).parts and not Path(name).is_absolute():
                (out / name).unlink(missing_ok=True)
    for config in CONFIGS:
        # What an interrupted assembly left: only names of our own form.
        for path in (out / config).glob("*-of-*.parquet"):
            path.unlink()
        for path in (out / config).glob(".*.tmp"):
            path.unlink()
