"""A dataset behind a URL, brought to this machine for the commands that read one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from duplexdata.errors import DatasetError
from duplexdata.manifest import NAME, parse_manifest
from duplexdata.shards import FileFacts, sha256, write_text
from duplexdata.storage import LocalFolder, folder_at


def at_hand(dataset: str | Path, *, configs: Sequence[str] | None = None, check: bool = True) -> Path:
    """The folder of a dataset. One that has a URL is fetched into the scratch folder; what is there is not again.

    Args:
        configs: fetch only these and the small files; None: all.
        check: refuse files that are not what the manifest says. Without, all are fetched anew, as they are.

    Raises: DatasetError: there is no dataset, or it is damaged; StorageError: the place cannot be read.
    """
    place = folder_at(dataset)
    if isinstance(place, LocalFolder):
        return place.path
    text = place.read(NAME)
    if text is None:
        raise DatasetError(f"{place.shown} has no {NAME}: it is no dataset of duplexdata, or its build is not finished")
    files = parse_manifest(text, f"{place.shown}/{NAME}")["files"]
    local = place.scratch
    for name, stated in files.items():
        if configs is not None and name.split("/")[0] not in (*configs, "tokenizer"):
            continue
        facts = FileFacts(**stated)
        target = local / name
        here = target.is_file() and target.stat().st_size == facts.bytes
        if not (check and here and sha256(target) == facts.sha256):
            place.get(name, target, facts if check else None)
    if (card := place.read("README.md")) is not None:
        write_text(local / "README.md", card)
    write_text(local / NAME, text)
    return local
