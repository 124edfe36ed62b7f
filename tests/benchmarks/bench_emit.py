"""Conversations per second that one core emits in all four layouts. `python -m tests.benchmarks.bench_emit [N]`."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

from duplexdata.build import build
from duplexdata.config import Config, ShardConfig
from duplexdata.stages.emit import emit_shard
from duplexdata.text.vocabulary import Vocabulary
from duplexdata.units import Grid


def main() -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    config = Config(conversations=n, shards=ShardConfig(conversations=512))
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "dataset"
        build(config, out, workers=2, report=lambda *_: None)
        shards = sorted((out / "conversations").glob("*.parquet"))
        best = 0.0
        for _ in range(6):
            vocabulary = Vocabulary.read(out / "tokenizer")  # anew: it remembers texts
            started, done = time.process_time(), 0
            for shard in shards:
                paths = {x: Path(folder) / "emitted" / x / shard.name for x in config.layout.emit}
                emission = emit_shard(
                    shard, out / "codes" / shard.name, paths, config.layout, vocabulary, Grid(), 0, 1000
                )
                done += emission.counts[0].items_in
            best = max(best, done / (time.process_time() - started))
    print(f"emitting sft, dpo, tdm and duo: {best:.0f} conversations per second of one core (best of 6)")


if __name__ == "__main__":
    main()
