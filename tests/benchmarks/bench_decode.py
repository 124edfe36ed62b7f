"""Blocks a second that a tiny model decodes: `python -m tests.benchmarks.bench_decode DATASET [BATCH …]`.

The conversations of the dataset's test split, greedy, with a model of random weights; from the start, and behind a
forced history of half of each.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from duplexdata.decoding import DecodeSettings, DuplexDecoder, Request
from duplexdata.records import read_codes
from duplexdata.text.vocabulary import Vocabulary
from duplexdata.units import Grid

SIZE = {
    "hidden_size": 192,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
}


def main(dataset: Path, sizes: list[int]) -> None:
    vocabulary, grid = Vocabulary.read(dataset / "tokenizer"), Grid()
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(vocabulary), **SIZE))
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters, {torch.get_num_threads()} threads")
    codes = [c for path in sorted((dataset / "codes").glob("test-*.parquet")) for c in read_codes(path)]
    n, m = grid.n_speech, grid.n_text
    whole, halves = [], []
    for c in codes:
        blocks = len(c.user) // n - 1
        k = blocks // 2
        text = np.full(k * m, vocabulary.state.silence, np.int32)
        whole.append(Request(c.id, c.user[: blocks * n]))
        halves.append(Request(c.id, c.user[: (k + 6) * n], text, c.assistant[n : (k + 1) * n]))
    for size in sizes:
        decoder = DuplexDecoder(model, vocabulary, grid, DecodeSettings(batch_size=size))
        for name, requests in (("whole", whole), ("six blocks behind half of it", halves)):
            start, busy = time.perf_counter(), time.process_time()
            decoded = decoder.decode(requests)
            took, busy = time.perf_counter() - start, time.process_time() - busy
            blocks = sum(len(d.text) // m - d.forced_blocks for d in decoded)
            print(
                f"batch {size}, {len(requests)} conversations, {name}: "
                f"{blocks} blocks in {took:.1f} s, {blocks / took:.0f}/s, {blocks / busy:.0f} a second of CPU"
            )


if __name__ == "__main__":
    main(Path(sys.argv[1]), [int(x) for x in sys.argv[2:]] or [64])
