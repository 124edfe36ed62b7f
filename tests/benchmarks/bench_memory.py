"""Peak memory of a worker for a small and a large build. `python -m tests.benchmarks.bench_memory [SMALL LARGE]`."""

from __future__ import annotations

import multiprocessing
import resource
import sys
import tempfile
from pathlib import Path

from duplexdata.build import build
from duplexdata.config import Config, ShardConfig


def main() -> None:
    small, large = (int(x) for x in sys.argv[1:3]) if len(sys.argv) > 2 else (200, 5000)
    peaks = {n: _peak(n) for n in (small, large)}
    for n, peak in peaks.items():
        print(f"{n:6} conversations: peak of the worker {peak / 1024:.0f} MiB")
    print(f"ratio {peaks[large] / peaks[small]:.3f}")


def _peak(conversations: int) -> int:
    """KiB of resident memory at most, of one process that does the whole build by itself."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_build, (conversations,))


def _build(conversations: int) -> int:
    # The same shard size in both: by default a larger build has larger shards.
    config = Config(conversations=conversations, shards=ShardConfig(conversations=64))
    with tempfile.TemporaryDirectory() as folder:
        build(config, Path(folder) / "dataset", workers=1, report=lambda *_: None)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    main()
