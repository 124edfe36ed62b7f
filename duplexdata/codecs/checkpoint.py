"""Where a speech tokenizer's weights are, and what they run on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import huggingface_hub
import torch

from duplexdata.errors import CodecError

_FILES = ["config.json", "preprocessor_config.json", "model*.safetensors"]
"""All that is fetched from a hub: no code, no pickles."""


def pick_device(name: str) -> torch.device:
    """`auto`: the GPU if there is one. Raises CodecError: the name is none, or there is no such GPU."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise CodecError(f"device is {name!r}, expected auto, cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise CodecError(f"device is {name!r}, expected auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise CodecError(f"device is {name!r}, but torch sees {torch.cuda.device_count()} CUDA devices")
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    return device


def checkpoint_folder(path_or_hub_id: str, files: Sequence[str] = _FILES) -> Path:
    """A local folder, or a hub id's files of these patterns, fetched once. Raises CodecError: neither can be had."""
    path = Path(path_or_hub_id).expanduser()
    if path.is_dir():
        return path
    # what can only be a path, and ids have one slash
    if path.is_absolute() or path_or_hub_id.startswith((".", "~")) or path_or_hub_id.count("/") != 1:
        raise CodecError(f"{path_or_hub_id}: no such folder, and no id of the form owner/name")
    try:
        return Path(huggingface_hub.snapshot_download(path_or_hub_id, allow_patterns=list(files)))
    # the hub's client raises whatever its HTTP library does; all of it means that there are no files
    except Exception as error:
        raise CodecError(
            f"{path_or_hub_id}: no such folder, and not to be had from the Hugging Face hub "
            f"({type(error).__name__}: {error})"
        ) from error
