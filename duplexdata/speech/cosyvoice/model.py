"""A CosyVoice model folder and a checkout of its code: are they complete, and which ones are they."""

from __future__ import annotations

import hashlib
from pathlib import Path

from duplexdata.errors import ConfigError

_BLOCK, _BLOCKS = 4096, 256
_WHOLE = 1 << 20
"""Files up to this size are read whole."""


def model_version(model: Path) -> int:
    """2 or 3. Raises ConfigError: the folder holds neither."""
    for version in (2, 3):
        if (model / f"cosyvoice{version}.yaml").is_file():
            needed = ["llm.pt", "flow.pt", "hift.pt", "campplus.onnx", f"speech_tokenizer_v{version}.onnx"]
            missing = [name for name in needed if not (model / name).is_file()]
            if not (model / "CosyVoice-BlankEN").is_dir():
                missing.append("CosyVoice-BlankEN/")
            if missing:
                raise ConfigError(f"{model}: a CosyVoice {version} model without {', '.join(missing)}")
            return version
    if (model / "cosyvoice.yaml").is_file():
        raise ConfigError(f"{model}: a CosyVoice 1 model; 2 and 3 are served")
    raise ConfigError(f"{model}: no CosyVoice model (neither cosyvoice2.yaml nor cosyvoice3.yaml is in it)")


def check_checkout(checkout: Path) -> None:
    """Raises ConfigError: it is not the official code."""
    if not (checkout / "cosyvoice" / "cli" / "cosyvoice.py").is_file():
        raise ConfigError(
            f"{checkout}: not a checkout of CosyVoice (cosyvoice/cli/cosyvoice.py is missing); "
            "the package of that name on the index is not the official code"
        )


def model_identity(checkout: Path, model: Path) -> str:
    """A name that follows from the model's files and the code's, wherever they lie: "cosyvoice2/NAME@HASH".

    Of large files it takes the size and 256 blocks spread over them: other training changes them all.
    Raises ConfigError: one of them is not there.
    """
    version = model_version(model)
    check_checkout(checkout)
    digest = hashlib.sha256()
    parts = (p for folder in (model, model / "CosyVoice-BlankEN") for p in folder.glob("*"))
    wanted = (".pt", ".onnx", ".yaml", ".json", ".txt", ".safetensors")
    for path in sorted(p for p in parts if p.suffix in wanted and p.is_file()):
        _add(digest, path, path.relative_to(model).as_posix())
    for path in sorted((checkout / "cosyvoice").rglob("*.py")):
        _add(digest, path, path.relative_to(checkout).as_posix())
    return f"cosyvoice{version}/{model.resolve().name}@{digest.hexdigest()[:12]}"


def _add(digest: hashlib._Hash, path: Path, name: str) -> None:
    size = path.stat().st_size
    digest.update(f"{name} {size}\0".encode())
    with path.open("rb") as file:
        if size <= _WHOLE:
            digest.update(file.read())
            return
        for start in range(0, size, max(_BLOCK, size // _BLOCKS)):
            file.seek(start)
            digest.update(file.read(_BLOCK))
