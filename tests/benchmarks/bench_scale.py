"""Forecasts against builds: what `duplexdata plan` says of two sizes, and what builds of these sizes come to.

    python -m tests.benchmarks.bench_scale [SMALL LARGE] [SOURCE…]

By default 500 and 5,000 conversations from the bundled dialogues, 2 workers. Everything but the times is the same on
any machine; times mean something on a machine that does nothing else.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from duplexdata.config import Config
from duplexdata.manifest import read_manifest
from duplexdata.stages.work import shards_of

WORKERS = 2
LAYOUTS = ("sft", "dpo", "tdm", "duo", "codes")


def main() -> None:
    numbers = [int(a) for a in sys.argv[1:3] if a.isdigit()]
    small, large = numbers if len(numbers) == 2 else (500, 5000)
    sources = [a for a in sys.argv[1:] if not a.isdigit()]
    options = ["--workers", str(WORKERS), *(o for s in sources for o in ("--source", s))]
    print(f"{'':8} {'':24} {'predicted':>16} {'measured':>16} {'ratio':>7}")
    seconds = {n: _compare(n, options) for n in (small, large)}
    growth = seconds[large] / seconds[small]
    print(
        f"{large / small:g} x the conversations took {growth:.2f} x the time ({growth * small / large:.3f} of linear)"
    )


def _compare(n: int, options: list[str]) -> float:
    """Prints a line for each prediction. Returns the build's seconds."""
    options = ["--conversations", str(n), *options]
    planning = time.perf_counter()
    said = _run(["plan", "--json", *options])
    planning = time.perf_counter() - planning
    forecast = json.loads(said)["build"]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "dataset"
        started = time.perf_counter()
        _run(["build", "--out", str(out), *options])
        seconds = time.perf_counter() - started
        found = _measured(read_manifest(out))
    config = Config(conversations=n)
    found |= {"shards": len(shards_of(config)), "Prefect task runs": _tasks(config), "seconds to build": seconds}
    for name, predicted in _predicted(forecast).items():
        ratio = predicted / found[name] if found[name] else float("nan")
        print(f"{n:8} {name:24} {predicted:16,.2f} {found[name]:16,.2f} {ratio:7.3f}")
    print(f"{n:8} {'seconds to plan':24} {'':16} {planning:16,.2f}")
    return seconds


def _predicted(forecast: dict[str, Any]) -> dict[str, float]:
    return {
        "hours": forecast["hours"]["value"],
        "utterances": forecast["utterances"]["value"],
        **{f"rows of {name}": forecast["rows"][name]["value"] for name in LAYOUTS},
        **{f"bytes of {name}": size["value"] for name, size in forecast["bytes"].items()},
        "shards": forecast["shards"],
        "Prefect task runs": forecast["tasks"]["runs"],
        "seconds to build": forecast["wall"]["total"][1] * 3600,
    }


def _measured(manifest: dict[str, Any]) -> dict[str, float]:
    statistics = manifest["statistics"]
    sizes: dict[str, float] = defaultdict(float)
    rows: dict[str, float] = defaultdict(float)
    for name, facts in manifest["files"].items():
        sizes[f"bytes of {name.split('/')[0]}"] += facts["bytes"]
        rows[f"rows of {name.split('/')[0]}"] += facts["rows"]
    utterances = sum(statistics["kinds"].values())
    return {"hours": statistics["hours"], "utterances": utterances, **rows, **sizes}


def _tasks(config: Config) -> float:
    """By the flow itself; not a number where Prefect is not installed."""
    if importlib.util.find_spec("prefect") is None:
        return float("nan")
    path = Path(__file__).resolve().parents[2] / "flows" / "build.py"
    spec = importlib.util.spec_from_file_location("flow_build", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return len(module.stages_of(config)) * len(shards_of(config)) + 2


def _run(arguments: list[str]) -> str:
    command = [sys.executable, "-m", "duplexdata", *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


if __name__ == "__main__":
    main()
