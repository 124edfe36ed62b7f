"""What the tests of several processes share: one Prefect server, and the build that nothing has disturbed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.flows.prefect_site import SET_UP, Site, hashes, installation, plain_build

SETTINGS = {"conversations": 60, "shards": {"conversations": 3, "test_fraction": 0.2}}
"""Twenty shards of three conversations."""


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A server with the deployments, and no worker yet."""
    pytest.importorskip("prefect", reason="the extra [prefect] is not installed")
    pytest.importorskip("espeakng_loader")
    with installation(tmp_path_factory.mktemp("prefect"), SET_UP) as site:
        yield site


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Of the local build of SETTINGS: the sha256 of each file."""
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "config.yaml").write_text(json.dumps(SETTINGS))
    return plain_build(folder / "dataset", str(folder / "config.yaml"))


class Run:
    """A build of SETTINGS in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.out, self.work = folder, folder / "dataset", folder / ".dataset.work"
        self.config = folder / "config.yaml"
        self.config.write_text(json.dumps(SETTINGS))

    @property
    def parameters(self) -> dict[str, object]:
        return {"config": str(self.config), "out": str(self.out)}

    def spoken(self) -> dict[str, int]:
        """The inodes of finished files of speech, by name."""
        markers = sorted(self.work.glob("speech-*/*.done.json"))
        files = [m.with_name(m.name.replace(".done.json", ".parquet")) for m in markers]
        return {f.name: f.stat().st_ino for f in files}

    def check(self, undisturbed: dict[str, str]) -> None:
        """Every byte as undisturbed, and nothing else left."""
        assert hashes(self.out) == undisturbed
        assert sorted(p.name for p in self.folder.iterdir()) == ["config.yaml", "dataset"]
        assert {p.relative_to(self.out).as_posix() for p in self.out.rglob("*") if p.is_file()} == set(undisturbed)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)
