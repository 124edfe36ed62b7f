"""Speech recognition with any model that `transformers` loads: CTC (wav2vec 2.0) or sequence to sequence (Whisper)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import soxr
import torch
from transformers import pipeline

from duplexdata.errors import ConfigError
from duplexdata.speech.base import Float32

_LONG_SEC = 30.0
"""Whisper's window: what is longer is read in several."""


class AsrTranscriber:
    """Greedy decoding, so that the same audio gives the same words.

    Args:
        model: a folder or hub id.
        device: "auto" (a GPU if there is one), "cpu", "cuda" (several GPUs are shared out by process) or "cuda:N".

    Raises: ConfigError: it cannot be loaded, or is no speech recogniser.
    """

    def __init__(self, model: str, device: str = "auto") -> None:
        try:
            self._pipeline = pipeline(
                "automatic-speech-recognition",
                model=model,
                device=_device(device),
                model_kwargs={"use_safetensors": True},
            )
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise ConfigError(f"quality.asr: {model} cannot be loaded as a speech recogniser: {error}") from error
        self._rate = int(self._pipeline.feature_extractor.sampling_rate)
        generation = getattr(self._pipeline.model, "generation_config", None)
        self._is_multilingual = bool(getattr(generation, "is_multilingual", False))
        self._is_whisper = self._pipeline.type == "seq2seq_whisper"

    def transcribe(self, clips: Sequence[tuple[Float32, int, str]]) -> list[str]:
        """What is said in each clip: (mono samples, rate in Hz, BCP 47 tag)."""
        found: dict[int, str] = {}
        # A call has one language, and one way to read.
        kinds = [(len(x) > _LONG_SEC * rate, self._language(tag)) for x, rate, tag in clips]
        for kind in sorted(set(kinds), key=str):
            chosen = [i for i, k in enumerate(kinds) if k == kind]
            inputs = [self._input(*clips[i][:2]) for i in chosen]
            answers = self._pipeline(inputs, batch_size=len(inputs), **self._options(*kind))
            found |= {i: str(answer["text"]) for i, answer in zip(chosen, answers, strict=True)}
        return [found[i] for i in range(len(clips))]

    def _input(self, samples: Float32, rate: int) -> dict[str, Any]:
        if rate != self._rate:
            samples = soxr.resample(samples, rate, self._rate, quality="HQ")
        return {"raw": np.ascontiguousarray(samples, np.float32), "sampling_rate": self._rate}

    def _language(self, tag: str) -> str | None:
        return tag.split("-")[0].lower() if self._is_multilingual else None

    def _options(self, is_long: bool, language: str | None) -> dict[str, Any]:
        options: dict[str, Any] = {}
        if self._is_whisper:
            options["generate_kwargs"] = {"do_sample": False, "num_beams": 1}
            if language is not None:
                options["generate_kwargs"] |= {"language": language, "task": "transcribe"}
            if is_long:
                options["return_timestamps"] = True
        return options


def _device(name: str) -> str:
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return "cpu"
    if name in ("auto", "cuda") and (count := torch.cuda.device_count()) > 1:
        return f"cuda:{os.getpid() % count}"
    return "cuda" if name == "auto" else name
