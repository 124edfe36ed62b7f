"""What a forecast is told from: a part of the sources, conversations planned from it, and some of these made. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from duplexdata.dialogue import Script
from duplexdata.forecast.estimates import FileSizes
from duplexdata.forecast.writer import Measured


@dataclass(frozen=True, slots=True)
class Spent:
    """Seconds of CPU, and seconds by the clock."""

    cpu: float = 0.0
    wall: float = 0.0

    def plus(self, other: Spent) -> Spent:
        return Spent(self.cpu + other.cpu, self.wall + other.wall)

    def minus(self, other: Spent) -> Spent:
        """Never below nothing: what is subtracted was measured another time."""
        return Spent(max(0.0, self.cpu - other.cpu), max(0.0, self.wall - other.wall))

    def times(self, factor: float) -> Spent:
        return Spent(self.cpu * factor, self.wall * factor)


def total(all_spent: Iterable[Spent]) -> Spent:
    found = Spent()
    for spent in all_spent:
        found = found.plus(spent)
    return found


@dataclass(frozen=True, slots=True)
class Reading:
    """
    Attributes:
        rows, dialogues: read, and usable.
        expected: rows that the build itself will read.
        whole: whether everything that the build will read was read.
        filled: share of the conversations whose shard has any dialogue.
        spent: on reading `rows`.
    """

    rows: int
    dialogues: int
    expected: int
    whole: bool
    filled: float
    spent: Spent


@dataclass(frozen=True, slots=True)
class Drawn:
    """A conversation that was planned, and what it comes to at a nominal speaking rate.

    Attributes:
        seconds: of the conversation; 0 where it cannot be scheduled.
        speech_sec: of all that is said in it, before anything is cut.
    """

    script: Script
    seconds: float
    speech_sec: float
    utterances: int


@dataclass(frozen=True, slots=True)
class PlannedShard:
    """The first `slots` conversations of a shard.

    Attributes:
        sizes: bytes of its files without sound: `conversations`, and the layouts that need none.
    """

    slots: int
    drawn: tuple[Drawn, ...]
    sizes: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Planned:
    """
    Attributes:
        dropped: conversations asked for and not planned, by reason.
        writing: what a language model is asked for, by kind; empty without a model.
        spent: on planning, chunks apart.
        chunk: time to look through one chunk of the sources for one shard's dialogues.
    """

    shards: tuple[PlannedShard, ...]
    dropped: Mapping[str, int]
    writing: Mapping[str, Measured]
    spent: Spent
    chunk: Spent

    @property
    def slots(self) -> int:
        return sum(s.slots for s in self.shards)

    @property
    def drawn(self) -> list[Drawn]:
        return [d for s in self.shards for d in s.drawn]


@dataclass(frozen=True, slots=True)
class Made:
    """One planned conversation after the stages. What it did not become is 0.

    Attributes:
        part: of the sample; the conversations of a part are from one shard.
        seconds: of the conversation.
        rows: by config, 0 or 1 each.
        weights: of its row in each config: bytes in memory, for how much rows differ; of `conversations` those of
            its sound.
    """

    part: int
    planned: Drawn
    seconds: float
    rows: Mapping[str, int]
    weights: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Sample:
    """
    Attributes:
        dropped: of each stage or layout, by reason.
        files: of each config.
        sizes: of the files that hold speech tokens, by config.
        scripts, negatives: bytes of a conversation's in the work folder.
        markers: bytes of a shard's.
        dialogue: bytes of a row of the sources in the work folder.
        tokenizer: bytes of the dataset's.
        spent: by stage: on the whole sample, and on a shard with a single conversation.
        assembly: of the sample's files to a dataset.
        prepared: what all shards share.
        start: of the worker processes, with all that they load.
        imports: of the process that starts them.
    """

    made: tuple[Made, ...]
    dropped: Mapping[str, Mapping[str, int]]
    files: int
    sizes: Mapping[str, FileSizes]
    scripts: float
    negatives: float
    markers: float
    dialogue: float
    tokenizer: int
    spent: Mapping[str, tuple[Spent, Spent]]
    assembly: Spent
    prepared: Spent
    start: Spent
    imports: Spent
