"""A build that is disturbed, and what must be true of it afterwards."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from duplexdata.build import build
from duplexdata.config_file import load_config

TWENTY_SHARDS = {"conversations": 60, "shards": {"conversations": 3, "test_fraction": 0.2}}


def files_of(dataset: Path) -> dict[str, str]:
    """The sha256 of every file."""
    return {
        p.relative_to(dataset).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(dataset.rglob("*"))
        if p.is_file()
    }


class Run:
    """Of a configuration, in a folder of its own."""

    def __init__(self, folder: Path, settings: Mapping[str, object]) -> None:
        folder.mkdir(exist_ok=True)
        self.folder, self.out, self.work = folder, folder / "dataset", folder / ".dataset.work"
        self.config = folder / "config.yaml"
        self.config.write_text(json.dumps(settings))

    @property
    def parameters(self) -> dict[str, object]:
        return {"config": str(self.config), "out": str(self.out)}

    def undisturbed(self) -> dict[str, str]:
        """Build it in this process."""
        build(load_config(str(self.config)), self.out, workers=1, report=lambda *_: None)
        return files_of(self.out)

    def spoken(self) -> dict[str, int]:
        """The inodes of finished files of speech, by name."""
        markers = sorted(self.work.glob("speech-*/*.done.json"))
        files = [m.with_name(m.name.replace(".done.json", ".parquet")) for m in markers]
        return {f.name: f.stat().st_ino for f in files}

    def check(self, undisturbed: Mapping[str, str], kept: Mapping[str, int]) -> None:
        """Every byte as undisturbed, what was finished not made again, and nothing else left."""
        assert files_of(self.out) == undisturbed
        assert sorted(p.name for p in self.folder.iterdir()) == ["config.yaml", "dataset"]
        assert {name: (self.out / "conversations" / name).stat().st_ino for name in kept} == kept
