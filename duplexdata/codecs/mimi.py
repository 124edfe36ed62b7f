"""Mimi, the codec of Moshi: 12.5 frames per second, in several codebooks, from a checkpoint for `transformers`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import soxr
import torch
import transformers
from torch import Tensor
from transformers.utils import logging

from duplexdata.codecs.base import Float32, Int16, Int32
from duplexdata.codecs.checkpoint import checkpoint_folder, pick_device
from duplexdata.codecs.glm4voice.model import matmul_precision
from duplexdata.errors import CodecError

NAME = "mimi"
SAMPLE_RATE = 16_000
FRAME = 1280
"""Samples per frame."""
CODEBOOKS = 8
"""Those that Moshi reads and writes."""
PRECISIONS = ("fp32", "tf32")


class MimiTokenizer:
    """Tokens of Mimi, 12.5 frames per second; the first codebook is the semantic one, the others refine its sound.

    Every clip is encoded by itself, so that its tokens are a function of the clip alone: in a batch, rounding depends
    on the batch's shape, and what flips one code changes all finer ones of the frame. Clips are long enough to keep
    a device busy one at a time.

    The model hears 24 kHz; clips come at 16 kHz and are resampled here. The last frame is filled with zeros.

    Source: arXiv 2410.00037, section 3.3; checkpoint `kyutai/mimi`.
    """

    name = NAME
    sample_rate = SAMPLE_RATE
    frame_rate = Fraction(SAMPLE_RATE, FRAME)
    context_samples: int | None = None
    can_decode = True

    def __init__(self, model: Any, *, n_codebooks: int, weights: str, device: torch.device, precision: str) -> None:
        """See `load`; `weights` names the checkpoint's content in `describe`."""
        self.codebook_size = int(model.config.codebook_size)
        self.n_codebooks = n_codebooks
        self._model = model
        self._rate = int(model.config.sampling_rate)
        self._frame = int(self._rate / self.frame_rate)
        self._weights, self._device, self._precision = weights, device, precision

    @classmethod
    def load(
        cls, path_or_hub_id: str, *, device: str = "auto", precision: str = "fp32", n_codebooks: int | None = None
    ) -> MimiTokenizer:
        """Reads a checkpoint.

        Args:
            path_or_hub_id: a folder with `config.json` and `model*.safetensors`, or the id of a repository on the
                Hugging Face hub, of which only such files are fetched. No code and no pickle is read from either.
            device: "cpu", "cuda", "cuda:1"; "auto" is CUDA where there is one.
            precision: of products: "fp32", or "tf32" (on a CPU the same).
            n_codebooks: how many of the model's, coarse to fine; by default 8, or all where there are fewer.

        Raises: CodecError: nothing there, weights that are not whole, or a model of another clock; says which.
        """
        if precision not in PRECISIONS:
            raise CodecError(f"precision is {precision!r}, expected one of {', '.join(PRECISIONS)} for {NAME}")
        where = pick_device(device)
        folder = checkpoint_folder(path_or_hub_id)
        config = read_config(folder)
        found = int(config["num_quantizers"])
        n = min(CODEBOOKS, found) if n_codebooks is None else n_codebooks
        if not 1 <= n <= found:
            raise CodecError(f"{folder}: {n} codebooks asked for, it has {found} (num_quantizers)")
        model = _read_model(folder)
        frame_rate = Fraction(model.config.frame_rate).limit_denominator(1000)
        if frame_rate != cls.frame_rate or model.config.audio_channels != 1:
            raise CodecError(
                f"{folder}: {float(frame_rate)} frames a second of {model.config.audio_channels} channels, "
                f"expected {float(cls.frame_rate)} of 1"
            )
        model.to(where, torch.float32).eval()
        return cls(model, n_codebooks=n, weights=_digest(folder), device=where, precision=precision)

    @torch.inference_mode()
    def encode(self, clips: Sequence[Int16 | Float32]) -> list[Int32]:
        """Tokens of each clip; see `SpeechTokenizer.encode`.

        Raises: CodecError: a clip that is not mono int16 or float32 or holds a number that is not finite, or one
            that does not fit into memory.
        """
        found: list[Tensor] = []
        for number, clip in enumerate(clips):
            audio = self._prepared(number, clip)
            try:
                # queued: the device works on one clip while the next is resampled
                found.append(self._codes(audio))
            except torch.OutOfMemoryError as error:
                raise CodecError(f"out of memory on {self._device} with a clip of {len(clip)} samples") from error
        return [self._shaped(codes.cpu().numpy()) for codes in found]

    @torch.inference_mode()
    def decode(self, tokens: Int32) -> Float32:
        """Sound from tokens, 16 kHz. Raises CodecError where they are not of this codec's shape and range."""
        codes = np.atleast_2d(tokens)
        if codes.ndim != 2 or len(codes) != self.n_codebooks:
            raise CodecError(f"tokens of shape {tokens.shape}, expected {self.n_codebooks} codebooks")
        n_frames = codes.shape[1]
        if not n_frames:
            return np.zeros(0, np.float32)
        if codes.min() < 0 or codes.max() >= self.codebook_size:
            raise CodecError(f"tokens from {codes.min()} to {codes.max()}, expected 0 to {self.codebook_size - 1}")
        with _products(self._precision):
            batch = torch.from_numpy(codes.astype(np.int64))[None].to(self._device)
            audio = self._model.decode(batch).audio_values[0, 0].float().cpu().numpy()
        return _fitted(soxr.resample(audio, self._rate, SAMPLE_RATE, quality="HQ"), n_frames * FRAME)

    def describe(self) -> dict[str, str]:
        """Name, codebooks, weights (SHA-256 of the files, shortened), precision, kind of device, versions."""
        return {
            "name": NAME,
            "codebooks": str(self.n_codebooks),
            "weights": self._weights,
            "precision": self._precision,
            "device": self._device.type,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "soxr": soxr.__version__,
        }

    def _prepared(self, number: int, clip: Int16 | Float32) -> Float32:
        """At the model's rate, whole frames."""
        if not isinstance(clip, np.ndarray) or clip.ndim != 1 or clip.dtype not in (np.int16, np.float32):
            found = f"{clip.dtype} {clip.shape}" if isinstance(clip, np.ndarray) else type(clip).__name__
            raise CodecError(f"clip {number} is {found}, expected int16 or float32 of shape (n_samples,)")
        x = clip.astype(np.float32) / np.float32(32768) if clip.dtype == np.int16 else clip.astype(np.float32)
        if not np.isfinite(x).all():
            raise CodecError(f"clip {number} holds samples that are not finite")
        n_frames = -(-len(clip) // FRAME)
        resampled = soxr.resample(x, SAMPLE_RATE, self._rate, quality="HQ") if len(x) else x
        return _fitted(resampled, n_frames * self._frame)

    def _codes(self, audio: Float32) -> Tensor:
        """Shape (n_codebooks, n_frames), on the device."""
        n_frames = len(audio) // self._frame
        if not n_frames:
            return torch.zeros(self.n_codebooks, 0, dtype=torch.int32)
        batch = torch.from_numpy(audio)[None, None].to(self._device)
        with _products(self._precision):
            codes: Tensor = self._model.encode(batch, num_quantizers=self.n_codebooks).audio_codes[0]
        if codes.shape != (self.n_codebooks, n_frames):
            raise CodecError(f"{NAME} gave codes of shape {tuple(codes.shape)} for {n_frames} frames")
        return codes.to(torch.int32)

    def _shaped(self, codes: Int32) -> Int32:
        return codes if self.n_codebooks > 1 else codes[0]


def read_config(folder: Path) -> Mapping[str, Any]:
    """The checkpoint's `config.json`, with `codebook_size` and `num_quantizers` in any case.

    Raises: CodecError: there is none, or it is another model's.
    """
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CodecError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(config, dict) or config.get("model_type") != "mimi":
        found = config.get("model_type") if isinstance(config, dict) else type(config).__name__
        raise CodecError(f"{path}: model_type is {found!r}, expected 'mimi'")
    return {"codebook_size": 2048, "num_quantizers": 32, **config}


def _read_model(folder: Path) -> Any:
    """Raises CodecError: tensors that are missing would silently be random, those of another shape do not fit."""
    with _quiet():
        try:
            model, loading = transformers.MimiModel.from_pretrained(
                folder, use_safetensors=True, trust_remote_code=False, local_files_only=True, output_loading_info=True
            )
        # whatever it makes of a config or of weights that it cannot use
        except Exception as error:
            raise CodecError(f"{folder}: cannot be loaded as Mimi: {type(error).__name__}: {error}") from error
    missing = sorted(loading["missing_keys"])
    if missing:
        listed = ", ".join(missing[:8]) + (f" and {len(missing) - 8} more" if len(missing) > 8 else "")
        raise CodecError(f"{folder}: the weights are not whole; missing: {listed}")
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars and no reports on the terminal: what matters is raised."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


@contextmanager
def _products(precision: str) -> Iterator[None]:
    """Products and convolutions of this precision inside, and by the same method each time."""
    tf32 = precision == "tf32"
    with (
        torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=tf32),
        matmul_precision(tf32),
    ):
        yield


def _fitted(audio: Float32, n: int) -> Float32:
    """Cut or filled up with zeros to `n` samples: resampling rounds the length."""
    out = np.zeros(n, np.float32)
    out[: len(audio)] = audio[:n]
    return out


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.glob("model*.safetensors")):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]
