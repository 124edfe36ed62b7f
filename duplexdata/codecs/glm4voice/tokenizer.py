"""GLM-4-Voice's speech tokenizer as a `SpeechTokenizer`: loading, batching, and running out of memory."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import cast, get_args

import numpy as np
import torch
from torch import Tensor

from duplexdata.codecs.base import Float32, Int16, Int32
from duplexdata.codecs.checkpoint import checkpoint_folder, pick_device
from duplexdata.codecs.glm4voice.config import SAMPLE_RATE, Glm4VoiceConfig
from duplexdata.codecs.glm4voice.features import Packing
from duplexdata.codecs.glm4voice.model import Encoder, Precision
from duplexdata.codecs.glm4voice.weights import read_weights
from duplexdata.errors import CodecError

PRECISIONS: tuple[str, ...] = get_args(Precision)
NAME = "glm-4-voice-tokenizer"
CPU_TOKENS = 1024
"""Tokens per batch on a CPU: 82 s of audio, 0.2 GB at the real size. More makes nothing faster."""
MOST_TOKENS = 65_536
"""Tokens per batch that no GPU gains from exceeding: 87 minutes of audio."""
MEMORY_SHARE = 0.8
"""Of the free memory of a GPU, what a batch may take."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Chunk:
    """A part of a clip that is encoded on its own; `at` is its first token's place in the clip's."""

    clip: int
    at: int
    audio: Int16 | Float32
    n_tokens: int


@dataclass(frozen=True, slots=True)
class _InFlight:
    """A batch whose tokens are being computed: `tokens` may be read once `done` has come."""

    chunks: list[_Chunk]
    tokens: Tensor
    done: torch.cuda.Event | None


class Glm4VoiceTokenizer:
    """Speech tokens of the GLM-4-Voice tokenizer, 12.5 per second with the released configuration.

    A clip is cut into chunks of 30 s, each encoded as if it were alone. So a token depends on everything in
    its chunk up to the end of its block of 4 s, and on how loud the loudest sound of the chunk is.

    Source: arXiv 2412.02612, section 2.1; checkpoint `zai-org/glm-4-voice-tokenizer`.

    Attributes:
        config: sizes and switches of the checkpoint.
        token_budget: tokens per batch; None until it is measured, on a GPU before the first batch.
    """

    name = NAME
    sample_rate = SAMPLE_RATE
    n_codebooks = 1
    context_samples: int | None = None
    can_decode = False

    def __init__(
        self, encoder: Encoder, *, weights: str, precision: Precision, token_budget: int | None = None
    ) -> None:
        """See `load`; `weights` names the checkpoint's content in `describe`."""
        if token_budget is not None and token_budget < 1:
            raise CodecError(f"token_budget is {token_budget}, expected at least 1")
        self.config = encoder.config
        self.frame_rate: Fraction = self.config.frame_rate
        self.codebook_size: int = self.config.vocab
        self._encoder = encoder
        self._weights = weights
        self._precision = precision
        self._device = encoder.device
        if token_budget is None and self._device.type != "cuda":
            token_budget = CPU_TOKENS
        self.token_budget = token_budget

    @classmethod
    def load(
        cls,
        path_or_hub_id: str,
        *,
        device: str = "auto",
        precision: str = "fp32",
        token_budget: int | None = None,
    ) -> Glm4VoiceTokenizer:
        """Reads a checkpoint.

        Args:
            path_or_hub_id: a folder with `config.json` and `model*.safetensors`, or the id of a repository on
                the Hugging Face hub, of which only such files are fetched. No code and no pickle is read from
                either.
            device: "cpu", "cuda", "cuda:1"; "auto" is CUDA where there is one.
            precision: of matrix products: "fp32"; "tf32" (on a CPU the same as fp32); "fp16" or "bf16" with
                weights and products in 16 bits. The log-mel spectrum, LayerNorm, the residual stream and the
                quantizer are float32 in all of them. Tokens near a tie differ between precisions.
            token_budget: tokens per batch, padding excluded; by default what the memory that is free allows,
                measured with a first small batch on a GPU. Tokens do not depend on it.

        Raises: CodecError: nothing there, or a config or tensors that cannot be run; says which.
        """
        if precision not in PRECISIONS:
            raise CodecError(f"precision is {precision!r}, expected one of {', '.join(PRECISIONS)}")
        where = pick_device(device)
        folder = checkpoint_folder(path_or_hub_id)
        config = Glm4VoiceConfig.read(folder)
        tensors, digest = read_weights(folder, config)
        known = cast(Precision, precision)
        encoder = Encoder(config, tensors, where, known)
        return cls(encoder, weights=digest, precision=known, token_budget=token_budget)

    def encode(self, clips: Sequence[Int16 | Float32]) -> list[Int32]:
        """Tokens of each clip; see `SpeechTokenizer.encode`.

        Raises: CodecError: a clip that is not mono int16 or float32 or holds a number that is not finite; one
            chunk that does not fit into memory; or an encoder that gave numbers that are not finite (fp16
            overflows).
        """
        chunks, n_tokens = self._cut(clips)
        out = [np.zeros(n, np.int32) for n in n_tokens]
        # alike lengths side by side; and the longest first, so that memory runs out at once or not at all
        waiting = deque(sorted(chunks, key=lambda chunk: -len(chunk.audio)))
        if waiting and self.token_budget is None:
            self.token_budget = self._measure_budget()
        in_flight: _InFlight | None = None
        while waiting or in_flight:
            # the next batch is laid out and handed to the device while that still works on the last one
            launched = self._launch(waiting) if waiting else None
            if in_flight:
                self._collect(in_flight, out)
            in_flight = launched
        return out

    def decode(self, tokens: Int32) -> Float32:
        """Not possible: raises CodecError."""
        raise CodecError(f"{NAME} has no decoder: its tokens become sound in a model of their own (can_decode)")

    def describe(self) -> dict[str, str]:
        """Name, weights (SHA-256 of the files, shortened), precision, kind of device, torch version."""
        return {
            "name": NAME,
            "weights": self._weights,
            "precision": self._precision,
            "device": self._device.type,
            "torch": torch.__version__,
        }

    def _cut(self, clips: Sequence[Int16 | Float32]) -> tuple[list[_Chunk], list[int]]:
        """Chunks of all clips, and the number of tokens of each clip."""
        size, frame = self.config.chunk_samples, self.config.frame_samples
        chunks, totals = [], []
        for number, clip in enumerate(clips):
            if not isinstance(clip, np.ndarray) or clip.ndim != 1 or clip.dtype not in (np.int16, np.float32):
                found = f"{clip.dtype} {clip.shape}" if isinstance(clip, np.ndarray) else type(clip).__name__
                raise CodecError(f"clip {number} is {found}, expected int16 or float32 of shape (n_samples,)")
            if clip.dtype == np.float32 and not np.isfinite(clip).all():
                raise CodecError(f"clip {number} holds samples that are not finite")
            at = 0
            for start in range(0, len(clip), size):
                audio = clip[start : start + size]
                n_tokens = -(-len(audio) // frame)
                n_frames = n_tokens * self.config.pool
                if n_frames > self.config.positions:
                    raise CodecError(
                        f"clip {number} needs {n_frames} frames in one chunk; the checkpoint has "
                        f"max_source_positions {self.config.positions}"
                    )
                chunks.append(_Chunk(number, at, audio, n_tokens))
                at += n_tokens
            totals.append(at)
        return chunks, totals

    def _launch(self, waiting: deque[_Chunk]) -> _InFlight | None:
        """Takes a batch off the left of `waiting` and starts it.

        Returns: None where it did not fit: it then is back in its place, and the budget half of what it had.
        """
        assert self.token_budget is not None
        chunks = [waiting.popleft()]
        n_tokens = chunks[0].n_tokens
        while waiting and n_tokens + waiting[0].n_tokens <= self.token_budget:
            chunks.append(waiting.popleft())
            n_tokens += chunks[-1].n_tokens
        try:
            return self._start(chunks)
        except torch.OutOfMemoryError as error:
            if len(chunks) == 1:
                size = f"a single chunk of {len(chunks[0].audio)} samples"
                raise CodecError(f"out of memory on {self._device} with {size}: {error}") from error
        # outside of the handler, where the failed call's tensors are no longer held
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        waiting.extendleft(reversed(chunks))
        self.token_budget = max(1, n_tokens // 2)
        _log.warning("out of memory with %d tokens in a batch; going on with %d", n_tokens, self.token_budget)
        return None

    def _start(self, chunks: list[_Chunk]) -> _InFlight:
        packing = Packing(tuple(len(chunk.audio) for chunk in chunks), self.config.pool)
        all_int16 = all(chunk.audio.dtype == np.int16 for chunk in chunks)
        on_cuda = self._device.type == "cuda"
        audio = torch.empty(packing.n_samples, dtype=torch.int16 if all_int16 else torch.float32, pin_memory=on_cuda)
        packing.fill(audio.numpy(), [chunk.audio for chunk in chunks])
        if not on_cuda:
            return _InFlight(chunks, self._encoder.encode(audio, packing), None)
        with torch.cuda.device(self._device):
            tokens = self._encoder.encode(audio.to(self._device, non_blocking=True), packing)
            # queued right behind the batch: reading it later does not wait for the batch that follows
            host = torch.empty(tokens.shape, dtype=tokens.dtype, pin_memory=True)
            host.copy_(tokens, non_blocking=True)
            done = torch.cuda.Event()
            done.record()
        return _InFlight(chunks, host, done)

    def _collect(self, batch: _InFlight, out: list[Int32]) -> None:
        """Waits for a batch and puts its tokens where they belong."""
        if batch.done is not None:
            batch.done.synchronize()
        tokens = batch.tokens.numpy()
        start = 0
        for chunk in batch.chunks:
            part = tokens[start : start + chunk.n_tokens]
            if (part < 0).any():
                raise CodecError(
                    f"clip {chunk.clip}: the encoder's output is not finite in {self._precision}; "
                    "use bf16, tf32 or fp32"
                )
            out[chunk.clip][chunk.at : chunk.at + chunk.n_tokens] = part
            start += chunk.n_tokens

    def _measure_budget(self) -> int:
        """Tokens per batch that fit into the GPU's free memory, from what one tile's worth of tokens takes.

        The batch is run twice: what the first run allocates for good (handles, workspaces) is no part of it.
        """
        frames = self._encoder.tiling.rows
        longest = min(self.config.chunk_samples // self.config.frame_samples, self.config.positions // self.config.pool)
        n_tokens = max(1, frames // self.config.pool // longest) * longest
        silence = np.zeros(longest * self.config.frame_samples, np.int16)
        chunks = [_Chunk(0, 0, silence, longest) for _ in range(n_tokens // longest)]
        device = self._device
        try:
            self._start(chunks)
            torch.cuda.synchronize(device)
            torch.cuda.reset_peak_memory_stats(device)
            before = torch.cuda.memory_allocated(device)
            self._start(chunks)
            torch.cuda.synchronize(device)
        except torch.OutOfMemoryError:
            _log.warning("little memory is free on %s: one chunk per batch", device)
            return longest
        per_token = (torch.cuda.max_memory_allocated(device) - before) / n_tokens
        # what the caching allocator holds without using it is free as well
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        free = torch.cuda.mem_get_info(device)[0] + unused
        fitting = int(free * MEMORY_SHARE / per_token)
        tile = frames // self.config.pool
        budget = min(MOST_TOKENS, max(longest, fitting // tile * tile))
        _log.info("%.0f kB per token, %.1f GB free: %d tokens per batch", per_token / 1e3, free / 1e9, budget)
        return budget
