"""Speed of the embedded codec on one core: `python tests/benchmarks/bench_mel.py [--seconds 600]`."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch

from duplexdata.codecs.base import Int16
from duplexdata.codecs.mel import FRAME, MelCodec
from duplexdata.units import SAMPLE_RATE


def best_of(run: Callable[[], object], repeats: int = 5) -> float:
    """Seconds of the fastest run."""
    run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def report(what: str, seconds: float, n_samples: int) -> None:
    audio = n_samples / SAMPLE_RATE
    per_frame = seconds / (n_samples / FRAME) * 1e6
    print(f"{what:34} {audio / seconds:12,.0f} s of audio per s   {per_frame:8.2f} us/frame")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=600, help="of audio per measurement")
    seconds = parser.parse_args().seconds
    torch.set_num_threads(1)
    codec = MelCodec.load()
    rng = np.random.default_rng(0)

    def clips(n_samples: int, share: float) -> list[Int16]:
        """`seconds` of audio in clips of one length, of which a share of the frames sounds."""
        made = []
        for _ in range(max(1, seconds * SAMPLE_RATE // n_samples)):
            gain = np.repeat(rng.random(-(-n_samples // FRAME)) < share, FRAME)[:n_samples]
            made.append((rng.standard_normal(n_samples) * 1500 * gain).astype(np.int16))
        return made

    for what, n_samples, share in (
        ("sounding throughout, 60 s clips", 60 * SAMPLE_RATE, 1.0),
        ("sounding throughout, 3.01 s clips", 48_160, 1.0),
        ("40 % sounding, 60 s clips", 60 * SAMPLE_RATE, 0.4),
        ("digital silence, 60 s clips", 60 * SAMPLE_RATE, 0.0),
    ):
        batch = clips(n_samples, share)
        n = sum(map(len, batch))
        report(what, best_of(lambda batch=batch: codec.encode(batch)), n)  # type: ignore[misc]
    floats = [clip.astype(np.float32) / np.float32(32768) for clip in clips(60 * SAMPLE_RATE, 1.0)]
    report("sounding throughout, float32", best_of(lambda: codec.encode(floats)), sum(map(len, floats)))
    one = clips(3 * SAMPLE_RATE, 1.0)[0]
    report("a single clip of 3 s", best_of(lambda: codec.encode([one]), 20), len(one))
    tokens = codec.encode([one])[0]
    report("decode, 3 s", best_of(lambda: codec.decode(tokens)), len(tokens) * FRAME)


if __name__ == "__main__":
    main()
