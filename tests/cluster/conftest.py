"""What the tests of several processes share: one Prefect server, and the build that nothing has disturbed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.runs import TWENTY_SHARDS, Run
from tests.flows.prefect_site import SET_UP, Site, installation, until


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A server with the deployments, and no worker yet."""
    pytest.importorskip("prefect", reason="the extra [prefect] is not installed")
    pytest.importorskip("espeakng_loader")
    with installation(tmp_path_factory.mktemp("prefect"), SET_UP) as site:
        yield site


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Of the local build of twenty shards: the sha256 of each file."""
    return Run(tmp_path_factory.mktemp("undisturbed"), TWENTY_SHARDS).undisturbed()


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path, TWENTY_SHARDS)


@pytest.fixture
def nothing_left(site: Site) -> Iterator[None]:
    """After the test no process of the installation runs that did not run before it."""
    before = set(site.processes())
    yield
    until(lambda: set(site.processes()) <= before, 60, f"the end of {site.processes()}, but for {before}")
