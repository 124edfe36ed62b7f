"""What a checkpoint folder says about its own tokenizer: sizes and switches, each checked by name.

Source: `config.json` (a Whisper config with the fields `WhisperVQEncoder` adds) and
`preprocessor_config.json` (a `WhisperFeatureExtractor` config) of `zai-org/glm-4-voice-tokenizer`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, cast

from duplexdata.errors import CodecError

SAMPLE_RATE = 16_000
HOP = 160
N_FFT = 400
SAMPLES_PER_ROW = 2 * HOP
"""Samples per encoder frame (50 Hz): the hop times the stride of the second convolution."""

PoolingType = Literal["avg", "max"]


@dataclass(frozen=True, slots=True)
class Glm4VoiceConfig:
    """Sizes and switches of one checkpoint.

    Attributes:
        d_model, heads, ffn, mels, vocab: widths of the encoder, and the number of codes.
        positions: rows of the position table, in 50 Hz frames; a chunk may not be longer.
        layers: encoder layers run before the quantizer (`quantize_position`).
        pool_after: layers run before pooling, 1..layers; 0 where nothing is pooled.
        pool: frames per token (1 where nothing is pooled).
        pool_type: how a group of frames becomes one.
        block: frames per attention block at 50 Hz; None: every frame sees every valid frame.
        causal_convs: two zero frames on the left of each convolution, instead of one on either side.
        positions2_rows: rows of the (unused, but stored) position table of the quantized sequence.
        chunk_samples: samples per independently encoded chunk.
    """

    d_model: int
    heads: int
    ffn: int
    mels: int
    vocab: int
    positions: int
    layers: int
    pool_after: int
    pool: int
    pool_type: PoolingType
    block: int | None
    causal_convs: bool
    positions2_rows: int
    chunk_samples: int

    @property
    def frame_samples(self) -> int:
        """Samples per token."""
        return SAMPLES_PER_ROW * self.pool

    @property
    def frame_rate(self) -> Fraction:
        """Tokens per second."""
        return Fraction(SAMPLE_RATE, self.frame_samples)

    @property
    def conv_lead(self) -> int:
        """Zero frames before a chunk's first frame at each convolution; 2 less this follow its last."""
        return 2 if self.causal_convs else 1

    @classmethod
    def read(cls, folder: Path) -> Glm4VoiceConfig:
        """The configuration of a checkpoint folder.

        `preprocessor_config.json` may be absent: it then is the one of Whisper large-v3, with `num_mel_bins`
        bins.

        Raises: CodecError: no such file, no JSON, or a field that is missing, of the wrong type or of a value
            that this implementation does not run; named.
        """
        fields = _Fields(folder / "config.json")
        if not fields.values:
            raise CodecError(f"{fields.path}: no such file, or empty; expected the config of a WhisperVQEncoder")
        return cls.from_fields(fields, _Fields(folder / "preprocessor_config.json"))

    @classmethod
    def from_fields(cls, model: _Fields, features: _Fields) -> Glm4VoiceConfig:
        """See `read`."""
        for name in ("encoder_causal_attention", "quantize_causal_encoder"):
            model.require_value(name, model.flag(name), False)
        model.require_value("activation_function", model.values.get("activation_function", "gelu"), "gelu")
        d_model, heads = model.size("d_model"), model.size("encoder_attention_heads")
        if d_model % heads:
            raise CodecError(f"{model.path}: d_model {d_model} is no multiple of encoder_attention_heads {heads}")
        mels = model.size("num_mel_bins")
        layers = model.size("quantize_position", 16)
        if layers > model.size("encoder_layers", layers):
            raise CodecError(f"{model.path}: quantize_position {layers} lies after the last of encoder_layers")
        kernel = model.optional_size("pooling_kernel_size") or 1
        pool_after = model.size("pooling_position", 0, least=0)
        if pool_after > layers:
            raise CodecError(f"{model.path}: pooling_position {pool_after} > quantize_position {layers}")
        if kernel == 1 or pool_after == 0:
            pool, pool_after = 1, 0
        else:
            pool = kernel
        pool_type = model.values.get("pooling_type") or "max"
        if pool_type not in ("avg", "max"):
            raise CodecError(f"{model.path}: pooling_type is {pool_type!r}, expected 'avg' or 'max'")
        block = model.optional_size("quantize_causal_block_size")
        if block is not None and 0 < pool_after < layers and block < pool:
            raise CodecError(
                f"{model.path}: quantize_causal_block_size {block} is less than pooling_kernel_size {pool}, "
                "which leaves blocks of no frame after pooling"
            )
        positions = model.size("max_source_positions", 1500)

        features.require_value("sampling_rate", features.size("sampling_rate", SAMPLE_RATE), SAMPLE_RATE)
        features.require_value("hop_length", features.size("hop_length", HOP), HOP)
        features.require_value("n_fft", features.size("n_fft", N_FFT), N_FFT)
        features.require_value("feature_size", features.size("feature_size", mels), mels)
        features.require_value("do_normalize", features.flag("do_normalize"), False)
        features.require_value("padding_side", features.values.get("padding_side", "right"), "right")
        for name in ("padding_value", "dither"):
            features.require_value(name, features.values.get(name, 0.0), 0.0)

        return cls(
            d_model=d_model,
            heads=heads,
            ffn=model.size("encoder_ffn_dim"),
            mels=mels,
            vocab=model.size("quantize_vocab_size"),
            positions=positions,
            layers=layers,
            pool_after=pool_after,
            pool=pool,
            pool_type=cast(PoolingType, pool_type),
            block=block,
            causal_convs=model.flag("encoder_causal_convolution"),
            positions2_rows=-(-positions // kernel),
            chunk_samples=features.size("chunk_length", 30) * SAMPLE_RATE,
        )


class _Fields:
    """The fields of one JSON file; a file that is absent has none."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.values: Mapping[str, Any] = {}
        if not path.is_file():
            return
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CodecError(f"{path}: cannot be read as JSON: {error}") from error
        if not isinstance(values, dict):
            raise CodecError(f"{path}: found {type(values).__name__}, expected a JSON object")
        self.values = values

    def size(self, name: str, default: int | None = None, *, least: int = 1) -> int:
        value = self.values.get(name)
        if value is None:
            if default is None:
                raise CodecError(f"{self.path}: {name} is missing")
            return default
        # some feature extractor configs hold 30.0 where 30 is meant; true is no number
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise CodecError(f"{self.path}: {name} is {value!r}, expected an integer >= {least}")
        return value

    def optional_size(self, name: str) -> int | None:
        """A size that may be absent or null."""
        return None if self.values.get(name) is None else self.size(name)

    def flag(self, name: str) -> bool:
        value = self.values.get(name)
        if value is None:
            return False
        if not isinstance(value, bool):
            raise CodecError(f"{self.path}: {name} is {value!r}, expected true or false")
        return value

    def require_value(self, name: str, found: object, expected: object) -> None:
        if found != expected:
            raise CodecError(f"{self.path}: {name} is {found!r}; only {expected!r} is supported")
