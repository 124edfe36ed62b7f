"""Ids that stand once in a run, whatever the files say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from duplexdata.dialogue import Dialogue
from duplexdata.rng import stable_hash

_LATEST = 1 << 16
"""Ids kept as Python numbers, of some 60 bytes; older ones take 8."""


class TakenIds:
    """The ids of a run so far, as hashes: 5 million of them are 40 MB."""

    def __init__(self) -> None:
        self._latest: set[int] = set()
        self._older: npt.NDArray[np.uint64] = np.zeros(0, np.uint64)
        """Sorted."""

    def make_unique(self, dialogue: Dialogue, number: int) -> Dialogue:
        """The dialogue, under another id if its own is taken; that id is taken from then on.

        Args:
            number: its place in the source, which is put behind an id that is taken.
        """
        id_ = dialogue.id
        while not self._take(id_):
            id_ = f"{id_}~{number}"
        return dialogue if id_ == dialogue.id else replace(dialogue, id=id_)

    def _take(self, id_: str) -> bool:
        key = stable_hash(id_)
        if key in self._latest or self._is_older(key):
            return False
        self._latest.add(key)
        if len(self._latest) >= max(_LATEST, len(self._older) // 8):
            self._older = np.union1d(self._older, np.fromiter(self._latest, np.uint64, len(self._latest)))
            self._latest = set()
        return True

    def _is_older(self, key: int) -> bool:
        at = int(self._older.searchsorted(np.uint64(key)))
        return at < len(self._older) and int(self._older[at]) == key
