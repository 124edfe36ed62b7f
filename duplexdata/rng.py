"""Every random draw comes from (seed, conversation id, purpose), never from a shared stream.

So a conversation is the same whatever the shard, the worker, the order, or how often a run was killed.
"""

from __future__ import annotations

import hashlib

import numpy as np


def stable_hash(*parts: object, bits: int = 64) -> int:
    """An integer below 2**bits from the parts' text; the same on every machine and in every process."""
    # Lengths are hashed too, so that ("a", "bc") and ("ab", "c") differ.
    text = "".join(f"{len(s)}:{s}" for s in map(str, parts))
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
    return int.from_bytes(digest, "big") >> (128 - bits)


def rng_for(seed: int, key: str, purpose: str) -> np.random.Generator:
    """A generator for one purpose of one conversation (or shard: `key` is whatever is being decided about)."""
    return np.random.Generator(np.random.PCG64(stable_hash(seed, key, purpose, bits=128)))


def unit_interval(*parts: object) -> float:
    """A number in [0, 1) from the parts' text; used to assign items to splits and shards."""
    return stable_hash(*parts, bits=53) / (1 << 53)
