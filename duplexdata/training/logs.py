"""What a run tells: JSON lines and TensorBoard, with the same names and numbers."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from duplexdata.shards import write_text

LOG = "log.jsonl"


class RunLog:
    """Appends to RUN/log.jsonl, one object a logged step, and to RUN/tensorboard/.

    Args:
        step: the steps behind the run already; what a killed run logged beyond them is taken away.
    """

    def __init__(self, run: Path, step: int) -> None:
        self._path = run / LOG
        self._keep(step)
        self._file = self._path.open("a", encoding="utf-8")
        self._board = _board(run / "tensorboard", step)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers that are not finite are left out of the lines: JSON has none."""
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        self._file.write(json.dumps({"step": step, **finite}) + "\n")
        self._file.flush()
        if self._board is not None:
            for name, value in finite.items():
                self._board.add_scalar(name, value, step)

    def _keep(self, step: int) -> None:
        if not self._path.is_file():
            return
        kept = []
        for line in self._path.read_text(encoding="utf-8").splitlines():
            try:
                if json.loads(line)["step"] <= step:
                    kept.append(line + "\n")
            except (ValueError, KeyError, TypeError):  # half a line: the run was killed while it wrote
                continue
        write_text(self._path, "".join(kept))

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._file.close()
        if self._board is not None:
            self._board.close()


def read_log(run: Path) -> list[dict[str, Any]]:
    """The logged steps of a run, in order."""
    path = run / LOG
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def _board(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:  # the extra [train] is not installed
        return None
    return SummaryWriter(str(folder), purge_step=step + 1 if step else None)
