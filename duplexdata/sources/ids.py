"""Ids that stand once in a run, whatever the files say."""

from __future__ import annotations

from array import array
from dataclasses import replace

from duplexdata.dialogue import Dialogue
from duplexdata.rng import stable_hash

_FIRST_SLOTS = 1 << 14


class TakenIds:
    """The ids of a run so far, as hashes of 64 bits: 5 million of them are 67 MB, a set of them is 450 MB."""

    def __init__(self) -> None:
        self._slots = _empty(_FIRST_SLOTS)
        """A hash lies in the first free slot from the one its last bits name; 0 is a free slot."""
        self._n = 0

    def make_unique(self, dialogue: Dialogue, number: int) -> Dialogue:
        """The dialogue, under another id if its own is taken; that id is taken from then on.

        Args:
            number: its place in the source, which is put behind an id that is taken.
        """
        id_ = dialogue.id
        while not self._take(stable_hash(id_) or 1):
            id_ = f"{id_}~{number}"
        return dialogue if id_ == dialogue.id else replace(dialogue, id=id_)

    def _take(self, key: int) -> bool:
        if not _put(self._slots, key):
            return False
        self._n += 1
        if 3 * self._n > 2 * len(self._slots):
            old, self._slots = self._slots, _empty(2 * len(self._slots))
            for other in old:
                if other:
                    _put(self._slots, other)
        return True


def _empty(n: int) -> array[int]:
    return array("Q", bytes(8 * n))


def _put(slots: array[int], key: int) -> bool:
    """False: it was there."""
    last = len(slots) - 1
    at = key & last
    while found := slots[at]:
        if found == key:
            return False
        at = (at + 1) & last
    slots[at] = key
    return True
