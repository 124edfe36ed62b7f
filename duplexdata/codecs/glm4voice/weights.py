"""Reads a checkpoint's tensors: every one that the encoder needs, nothing that it does not know.

A tensor that is missing must never stay at a random value, so each is asked for by name, shape and type, and
a name that is neither needed nor known to be irrelevant is refused as well.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from duplexdata.codecs.glm4voice.config import Glm4VoiceConfig
from duplexdata.errors import CodecError

PREFIX = "model.encoder."
"""Stands before every encoder tensor in the training layout; the released layout has bare names."""

_LAYER = re.compile(r"layers\.(\d+)\.")
_STATISTICS = ("ema_count", "ema_weight")
_HASH_BYTES = 1 << 24


def expected_shapes(config: Glm4VoiceConfig) -> dict[str, tuple[int, ...]]:
    """Name (without prefix) and shape of every tensor that a checkpoint must hold."""
    d, f = config.d_model, config.ffn
    shapes: dict[str, tuple[int, ...]] = {
        "conv1.weight": (d, config.mels, 3),
        "conv1.bias": (d,),
        "conv2.weight": (d, d, 3),
        "conv2.bias": (d,),
        "embed_positions.weight": (config.positions, d),
        "codebook.weight": (config.vocab, d),
        "embed_positions2.weight": (config.positions2_rows, d),
    }
    for index in range(config.layers):
        layer = f"layers.{index}."
        for norm in ("self_attn_layer_norm", "final_layer_norm"):
            shapes[f"{layer}{norm}.weight"] = shapes[f"{layer}{norm}.bias"] = (d,)
        for projection in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes[f"{layer}self_attn.{projection}.weight"] = (d, d)
            if projection != "k_proj":
                shapes[f"{layer}self_attn.{projection}.bias"] = (d,)
        shapes[f"{layer}fc1.weight"], shapes[f"{layer}fc1.bias"] = (f, d), (f,)
        shapes[f"{layer}fc2.weight"], shapes[f"{layer}fc2.bias"] = (d, f), (d,)
    return shapes


def read_weights(folder: Path, config: Glm4VoiceConfig) -> tuple[dict[str, Tensor], str]:
    """The tensors of a checkpoint, from every `model*.safetensors` of the folder.

    Returns: tensors by name without prefix, float32, on the CPU; and the first 16 hex digits of the SHA-256
        of the files' bytes in the order of their names.
    Raises: CodecError: no such file, a damaged file, or tensors that are missing, unknown, stored twice,
        misshapen or not float32; each named.
    """
    paths = sorted(folder.glob("model*.safetensors"))
    if not paths:
        raise CodecError(f"{folder}: no model*.safetensors (other weight formats are not read)")
    shapes = expected_shapes(config)
    tensors: dict[str, Tensor] = {}
    unknown, twice, wrong = [], [], []
    for path in paths:
        try:
            with safe_open(path, framework="pt", device="cpu") as file:
                for key in file.keys():  # noqa: SIM118 (no mapping)
                    if _is_irrelevant(key, config.layers):
                        continue
                    name = key.removeprefix(PREFIX)
                    if name not in shapes:
                        unknown.append(key)
                        continue
                    if name in tensors:
                        twice.append(key)
                        continue
                    view = file.get_slice(key)
                    shape, dtype = tuple(view.get_shape()), view.get_dtype()
                    if shape != shapes[name] or dtype != "F32":
                        wrong.append(f"{key} is {dtype} {list(shape)}, expected F32 {list(shapes[name])}")
                    tensors[name] = file.get_tensor(key)
        except (OSError, SafetensorError) as error:
            raise CodecError(f"{path}: cannot be read as safetensors: {error}") from error
    missing = [name for name in shapes if name not in tensors]
    problems = [
        f"{what} {_listed(names)}"
        for what, names in (
            ("missing:", missing),
            ("unknown:", unknown),
            ("twice:", twice),
            ("wrong:", wrong),
        )
        if names
    ]
    if problems:
        raise CodecError(f"{folder}: the weights are not those of this config; {'; '.join(problems)}")
    return tensors, _digest(paths)


def _is_irrelevant(key: str, layers: int) -> bool:
    """Whether the tokens do not depend on a tensor that a checkpoint may hold all the same."""
    if not key.startswith(PREFIX) and key.startswith(("model.", "proj_out.")):
        return True
    name = key.removeprefix(PREFIX)
    if name in _STATISTICS or name.startswith("layer_norm."):
        return True
    layer = _LAYER.match(name)
    return layer is not None and int(layer[1]) >= layers


def _listed(names: list[str], most: int = 8) -> str:
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")


def _digest(paths: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(_HASH_BYTES):
                digest.update(block)
    return digest.hexdigest()[:16]
