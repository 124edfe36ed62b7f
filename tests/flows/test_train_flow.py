"""The training flow: its parameters, a run of it, and what it says when something is wrong."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from duplexdata.errors import DatasetError
from duplexdata.training.logs import read_log

pytest.importorskip("prefect", reason="the extra [prefect] is not installed")

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def flow_module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("flow_train", ROOT / "flows/train.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["flow_train"] = module
    spec.loader.exec_module(module)
    return module


def test_the_deployment_shows_every_parameter_with_its_default(flow_module: ModuleType) -> None:
    deployments = yaml.safe_load((ROOT / "flows/prefect.yaml").read_text(encoding="utf-8"))["deployments"]
    [deployment] = [d for d in deployments if d["entrypoint"] == "flows/train.py:train"]
    properties = flow_module.train.parameters.properties
    assert deployment["parameters"] == {name: p["default"] for name, p in properties.items()}
    assert all(p["description"] for p in properties.values())


@pytest.fixture(scope="module")
def harness() -> Iterator[None]:
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.mark.slow
def test_it_trains_and_finds_a_finished_run(
    harness: None, flow_module: ModuleType, small_dataset: Path, tmp_path: Path
) -> None:
    wanted = {"dataset": str(small_dataset), "out": str(tmp_path / "run"), "steps": 2, "batch": 2, "max_tokens": 1500}
    made = flow_module.train(**wanted)
    assert made == str(tmp_path / "run" / "final")
    assert read_log(tmp_path / "run")[-1]["step"] == 2
    assert flow_module.train(**wanted) == made


@pytest.mark.slow
def test_a_wrong_dataset_is_one_clear_error(harness: None, flow_module: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match=r"no manifest\.json"):
        flow_module.train(dataset=str(tmp_path / "empty"), out=str(tmp_path / "run"))
