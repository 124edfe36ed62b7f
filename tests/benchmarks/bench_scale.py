"""Forecasts against builds: what `duplexdata plan` says of two sizes, and what builds of these sizes come to.

    python -m tests.benchmarks.bench_scale                                     # 500 and 5,000 conversations
    python -m tests.benchmarks.bench_scale --numbers 24 48 --source FILE       # smaller ones, from a file

Every forecast and every build is noted in `--folder` when it is finished; run again, the rest is done. A build that
was interrupted starts from nothing, since its time is to be measured. Ends with status 1 where a forecast is more than
20 % off, or where build time grows by more than 1.05 times what linear growth would be. Times mean something on a
machine that does nothing else (`--no-times` leaves them out); all the rest is the same on any machine.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from duplexdata.config import Config
from duplexdata.config_file import load_config, sources_override
from duplexdata.manifest import read_manifest
from duplexdata.stages.work import shards_of
from duplexdata.storage import LocalFolder

MOST_OFF = 0.2
MOST_GROWTH = 1.05
LAYOUTS = ("conversations", "codes", "sft", "dpo", "tdm", "duo")
TIME = "seconds to build"


def main() -> int:
    args = _arguments()
    folder = Path(args.folder)
    folder.mkdir(parents=True, exist_ok=True)
    given = [*(["--config", args.config] if args.config else []), "--workers", str(args.workers)]
    given += [o for s in args.source or () for o in ("--source", s)]
    _same_settings(folder, given)
    # Forecasts first: a build keeps a small machine warm.
    plans = {n: _kept(folder / f"plan-{n}.json", lambda n=n: _plan(n, given)) for n in args.numbers}
    builds = {n: _kept(folder / f"build-{n}.json", lambda n=n: _build(n, given, folder)) for n in args.numbers}
    good = True
    print(f"{'conversations':>13} {'':24} {'predicted':>16} {'measured':>16} {'ratio':>7}")
    for n in args.numbers:
        config = load_config(args.config, {"sources": sources_override(args.source), "conversations": n})
        found = builds[n] | {"shards": len(shards_of(config)), "Prefect task runs": _tasks(config)}
        for name, predicted in _predicted(plans[n]["build"]).items():
            if name == TIME and args.no_times:
                continue
            ratio = predicted / found[name] if found.get(name) else float("nan")
            off = abs(ratio - 1) > MOST_OFF
            good &= not off
            print(f"{n:13,} {name:24} {predicted:16,.2f} {found.get(name, 0):16,.2f} {ratio:7.3f}{' OFF' * off}")
        print(f"{n:13,} {'seconds to plan':24} {'':16} {plans[n]['seconds']:16,.2f}")
    if not args.no_times:
        small, large = min(args.numbers), max(args.numbers)
        growth = builds[large][TIME] / builds[small][TIME]
        linear = growth * small / large
        good &= linear <= MOST_GROWTH
        print(f"{large / small:g} x the conversations took {growth:.2f} x the time ({linear:.3f} of linear)")
    return 0 if good else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Forecasts against builds.")
    parser.add_argument("--numbers", type=int, nargs="+", default=[500, 5000], help="conversations of each build")
    parser.add_argument("--source", action="append", help="as for build; default: the bundled dialogues")
    parser.add_argument("--config", help="as for build")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", default="runs/bench-scale", help="what is finished is noted here")
    parser.add_argument("--no-times", action="store_true", help="compare sizes only")
    return parser.parse_args()


def _same_settings(folder: Path, given: Sequence[str]) -> None:
    noted = folder / "settings.json"
    if noted.exists() and json.loads(noted.read_text()) != list(given):
        raise SystemExit(f"{folder} is of other settings: name another --folder, or remove it")
    noted.write_text(json.dumps(list(given)))


def _kept(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    if not path.exists():
        text = json.dumps(make())
        part = path.with_suffix(".part")
        part.write_text(text)
        part.replace(path)
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def _plan(n: int, given: Sequence[str]) -> dict[str, Any]:
    started = time.perf_counter()
    said = json.loads(_run(["plan", "--json", "--conversations", str(n), *given]))
    return {"build": said["build"], "seconds": time.perf_counter() - started}


def _build(n: int, given: Sequence[str], folder: Path) -> dict[str, Any]:
    out = folder / f"dataset-{n}"
    work = LocalFolder(out).work.path
    for old in (out, work):
        shutil.rmtree(old, ignore_errors=True)
    started = time.perf_counter()
    _run(["build", "--out", str(out), "--keep-work", "--conversations", str(n), *given])
    seconds = time.perf_counter() - started
    found = {**_measured(read_manifest(out)), "bytes beside the dataset": _beside(work), TIME: seconds}
    for old in (out, work):
        shutil.rmtree(old)
    return found


def _beside(work: Path) -> int:
    """Bytes of a work folder that are not a dataset's as well."""
    facts = [Path(at, name).stat() for at, _, names in os.walk(work) for name in names]
    return sum(f.st_size for f in facts if f.st_nlink == 1)


def _predicted(forecast: dict[str, Any]) -> dict[str, float]:
    rows = {f"rows of {name}": forecast["rows"][name]["value"] for name in LAYOUTS if name in forecast["rows"]}
    return {
        "hours": forecast["hours"]["value"],
        "utterances": forecast["utterances"]["value"],
        **rows,
        **{f"bytes of {name}": size["value"] for name, size in forecast["bytes"].items()},
        "bytes beside the dataset": sum(forecast["work_bytes"].values()),
        "shards": forecast["shards"],
        "Prefect task runs": forecast["tasks"]["runs"],
        TIME: forecast["wall"]["total"][1] * 3600,
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
    sys.exit(main())
