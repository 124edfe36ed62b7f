"""Algorithm 1 over many conversations at once.

Per block: the user's N tokens in one forward pass (with the last token of the block before, which has not been fed
yet), then M text slots and N speech slots, one forward pass each.

Source: arXiv 2606.14528, algorithm 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch

from duplexdata.decoding.cache import KeyValueCache, left_padded
from duplexdata.decoding.model import LanguageModel
from duplexdata.decoding.run import BlockRun, draws_of
from duplexdata.decoding.stream import DuplexStream
from duplexdata.decoding.values import Decoded, DecodeSettings, Int32, Request, events_of
from duplexdata.errors import CheckpointError
from duplexdata.text.vocabulary import Vocabulary
from duplexdata.units import Grid

_PREFILL_TOKENS = 8192
"""Most tokens of a forward pass over given history: bounds what lies between the layers."""


@dataclass(frozen=True, slots=True)
class _Job:
    """A request with its place in the answer. `forced` and `free` are blocks."""

    at: int
    request: Request
    forced: int
    free: int


class DuplexDecoder:
    """Decodes conversations with a causal language model, block by block with a cache of keys and values.

    Greedy results do not depend on the batch but for the rounding of floating-point sums; draws do not at all.

    Args:
        model: any causal language model of `transformers` whose vocabulary is the dataset's.
        vocabulary: the dataset's (`Vocabulary.read(dataset / "tokenizer")`).
        grid: the dataset's N and M.

    Raises: CheckpointError: the model's vocabulary is too small, or it keeps another state than keys and values.
    """

    def __init__(
        self, model: Any, vocabulary: Vocabulary, grid: Grid | None = None, settings: DecodeSettings | None = None
    ) -> None:
        self.language = model if isinstance(model, LanguageModel) else LanguageModel(model, vocabulary)
        self.vocabulary, self.grid = vocabulary, grid or Grid()
        self.settings = settings or DecodeSettings()

    @classmethod
    def load(
        cls,
        checkpoint: str | Path,
        vocabulary: Vocabulary,
        grid: Grid | None = None,
        settings: DecodeSettings | None = None,
        *,
        device: str = "auto",
        precision: str = "auto",
        trust_remote_code: bool = False,
    ) -> DuplexDecoder:
        """From a folder or hub id. Raises CheckpointError: it cannot be loaded, or belongs to another vocabulary."""
        language = LanguageModel.load(
            checkpoint, vocabulary, device=device, precision=precision, trust_remote_code=trust_remote_code
        )
        return cls(language, vocabulary, grid, settings)

    @property
    def max_blocks(self) -> int | None:
        """Blocks that the model's positions are enough for; None where nothing limits them."""
        most = self.language.max_tokens
        return None if most is None else most // self.grid.block_tokens

    def decode(self, requests: Sequence[Request], report: Callable[[int], None] = lambda n: None) -> list[Decoded]:
        """The conversations, in the order of the requests.

        Args:
            report: called with the number of conversations done, batch by batch.

        Raises:
            ValueError: a request's arrays have lengths that do not belong together.
            CheckpointError: a conversation is longer than the positions that the model knows.
        """
        jobs = [self._job(i, r) for i, r in enumerate(requests)]
        answers: dict[int, Decoded] = {}
        for batch, cache in self._batches(jobs):
            for job, text, speech in self._run(batch, cache):
                answers[job.at] = self._decoded(job, text, speech)
            report(len(batch))
        return [answers[i] for i in range(len(jobs))]

    def stream(self, id: str = "stream") -> DuplexStream:
        """A conversation that is decoded as it happens; `id` decides on its draws."""
        return DuplexStream(self, id, self.settings)

    def _job(self, at: int, r: Request) -> _Job:
        n, m = self.grid.n_speech, self.grid.n_text
        blocks, forced = len(r.user) // n, len(r.text) // m
        if len(r.user) % n or len(r.text) != forced * m or len(r.assistant) != forced * n or forced > blocks:
            raise ValueError(
                f"{r.id}: {len(r.user)} user tokens, {len(r.text)} forced text slots and {len(r.assistant)} forced "
                f"assistant tokens, expected whole blocks of {n}, {m} and {n}, not more forced than there are"
            )
        if self.max_blocks is not None and blocks > self.max_blocks:
            raise CheckpointError(
                f"{r.id} has {blocks} blocks of {self.grid.block_tokens} tokens, the model has positions for "
                f"{self.language.max_tokens} tokens"
            )
        return _Job(at, r, forced, blocks - forced)

    # -- what is decoded together

    def _batches(self, jobs: Sequence[_Job]) -> Iterator[tuple[list[_Job], KeyValueCache]]:
        """Conversations that start at about the same place, with the cache of what they start behind."""
        tokens, size = self.grid.block_tokens, self.settings.batch_size
        most = max(1, self.settings.cache_bytes // self.language.bytes_per_token)
        fresh = sorted((j for j in jobs if not j.forced), key=lambda j: -j.free)
        while fresh:
            n = min(size, max(1, most // (max(1, fresh[0].free) * tokens)))
            yield fresh[:n], KeyValueCache(n, fresh[0].free * tokens)
            fresh = fresh[n:]
        for group, histories in self._prefilled([j for j in jobs if j.forced], most // 2):
            group = sorted(group, key=lambda j: j.forced)
            while group:
                longest = max(j.forced + j.free for j in group[:size]) * tokens
                batch = sorted(group[: max(1, min(size, most // 2 // longest))], key=lambda j: -j.free)
                rows = [(*histories[j.at], j.forced * tokens) for j in batch]
                yield batch, left_padded(rows, batch[0].free * tokens)
                group = group[len(batch) :]

    def _prefilled(
        self, jobs: Sequence[_Job], most: int
    ) -> Iterator[tuple[list[_Job], dict[int, tuple[KeyValueCache, int]]]]:
        """Groups of requests, and where each one's history has been computed: (cache, row) by place.

        A history is computed once for all requests that begin with it.
        """
        tokens = self.grid.block_tokens
        shared = sorted(_shared(jobs), key=lambda group: -group[0].forced)
        while shared:
            # As many as fit, the longest first.
            n = max(1, min(len(shared), most // (shared[0][0].forced * tokens)))
            group, shared = shared[:n], shared[n:]
            histories: dict[int, tuple[KeyValueCache, int]] = {}
            at = 0
            while at < len(group):
                rows = max(1, _PREFILL_TOKENS // (group[at][0].forced * tokens))
                part = group[at : at + rows]
                cache = self._prefill([same[0] for same in part])
                histories |= {j.at: (cache, row) for row, same in enumerate(part) for j in same}
                at += rows
            yield [j for same in group for j in same], histories

    def _prefill(self, jobs: Sequence[_Job]) -> KeyValueCache:
        """The forced blocks of conversations, longest first, in one forward pass.

        What stands behind the end of a shorter one is computed too and never read.
        """
        length = jobs[0].forced * self.grid.block_tokens
        ids = np.zeros((len(jobs), length), np.int64)
        for row, job in zip(ids, jobs, strict=True):
            known = self._sequence(job)
            row[: len(known)] = known
        cache = KeyValueCache(len(jobs), length)
        positions = torch.arange(length, device=self.language.device).expand(len(jobs), -1)
        self.language.hidden(torch.from_numpy(ids).to(self.language.device), positions, cache, None)
        return cache

    def _sequence(self, job: _Job) -> Int32:
        """The one sequence of the forced blocks."""
        n, k, r = self.grid.n_speech, job.forced, job.request
        offset = self.vocabulary.state.speech_offset
        parts = (r.user[: k * n].reshape(k, -1) + offset, r.text.reshape(k, -1), r.assistant.reshape(k, -1) + offset)
        return np.concatenate(parts, axis=1).reshape(-1)

    # -- decoding

    def _run(self, batch: Sequence[_Job], cache: KeyValueCache) -> Iterator[tuple[_Job, Int32, Int32]]:
        """Decode jobs, those of most free blocks first: (job, text slots, assistant tokens) each, without the forced
        ones."""
        run = BlockRun(self.language, self.grid, self.settings, cache, [j.forced for j in batch])
        free = batch[0].free
        n, m = self.grid.n_speech, self.grid.n_text
        user = np.zeros((len(batch), free * n), np.int64)
        draws = np.zeros((len(batch), free, n + m), np.float32) if run.draws else None
        for i, job in enumerate(batch):
            user[i, : job.free * n] = job.request.user[job.forced * n :]
            if draws is not None:
                draws[i, : job.free] = draws_of(self.settings.seed, job.request.id, self.grid, job.forced, job.free)
        heard = torch.from_numpy(user).to(self.language.device).view(len(batch), free, n)
        uniform = None if draws is None else torch.from_numpy(draws).to(self.language.device)
        found = torch.zeros((len(batch), free, m + n), dtype=torch.long, device=self.language.device)
        active = len(batch)
        for b in range(free):
            while batch[active - 1].free <= b:
                active -= 1
            found[:active, b] = run.block(heard[:active, b], None if uniform is None else uniform[:active, b])
        tokens = found.cpu().numpy().astype(np.int32)
        for i, job in enumerate(batch):
            text, speech = tokens[i, : job.free, :m], tokens[i, : job.free, m:]
            yield job, text.reshape(-1), speech.reshape(-1)

    def _decoded(self, job: _Job, text: Int32, speech: Int32) -> Decoded:
        r = job.request
        whole = np.concatenate([r.text, text]).astype(np.int32)
        events = events_of(whole, self.grid, self.vocabulary.state, self.vocabulary.decode)
        return Decoded(r.id, np.concatenate([r.assistant, speech]).astype(np.int32), whole, job.forced, events)


def _shared(jobs: Sequence[_Job]) -> list[list[_Job]]:
    """Jobs in groups of one history: of each group the first has the longest, and the others' are beginnings of it."""
    found: list[list[_Job]] = []
    for _, group in groupby(sorted(jobs, key=lambda j: (j.request.id, -j.forced)), key=lambda j: j.request.id):
        same: list[list[_Job]] = []
        for job in group:
            home = next((g for g in same if _begins(g[0].request, job.request)), None)
            if home is None:
                same.append([job])
            else:
                home.append(job)
        found += same
    return found


def _begins(longer: Request, shorter: Request) -> bool:
    forced = len(shorter.assistant)  # as many user tokens
    return all(
        np.array_equal(a[: len(b)], b)
        for a, b in (
            (longer.text, shorter.text),
            (longer.assistant, shorter.assistant),
            (longer.user[:forced], shorter.user[:forced]),
        )
    )
