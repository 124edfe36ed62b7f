"""What a forecast is told from (a part of the sources, conversations planned from it, some of these made), and what it
says. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

from duplexdata.dialogue import Script
from duplexdata.forecast.constants import Constant
from duplexdata.forecast.estimates import Estimate, FileSizes
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
        spent: on reading `rows`, and before on what is done once: opening the sources, loading what reads them.
    """

    rows: int
    dialogues: int
    expected: int
    whole: bool
    filled: float
    spent: Spent
    opening: Spent


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


# -- what it says


@dataclass(frozen=True, slots=True)
class GpuStage:
    """Attributes:
    audio_hours: that it works through.
    rate: seconds of sound a second; None: nobody has said, and nothing was measured.
    hours: of GPUs, least and most; None without a rate.
    """

    stage: str
    audio_hours: Estimate
    rate: Constant | None
    hours: tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class Tasks:
    """Prefect's share.

    Attributes:
        runs: task runs in all.
        submit_hours: that one process takes to hand them all out, while others work.
        largest: of one flow run.
        database_bytes: by which the server's database grows.
        shard_conversations: `shards.conversations` with which a run would have at most `MOST_TASKS`; None: it has.
        file_bytes: of the largest file then.
        parts: `engine.parts` of a pool that would do it as well.
    """

    runs: int
    submit_hours: float
    largest: int
    database_bytes: int
    shard_conversations: int | None
    file_bytes: int | None
    parts: int | None


@dataclass(frozen=True, slots=True)
class Wall:
    """Hours by the clock.

    Attributes:
        fixed: that no worker shortens: start, sources, putting the dataset together.
        workers: of the CPU's stages; gpus: of the slowest GPU stage, least and most; writer: of the language model.
        total: least and most. GPUs and CPUs work at the same time, the model before them. None: a rate is missing.
    """

    fixed: float
    workers: float
    gpus: tuple[float, float] | None
    writer: float
    total: tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class BuildForecast:
    """Attributes:
    planned, spoken: conversations of the sample.
    made: conversations of the dataset; dropped: the others, by reason.
    rows, bytes, rows_dropped: by config.
    work_bytes: beside the dataset while it is built, by what it is.
    cpu_hours: by stage, as this machine took for the sample.
    constants: that were not told from the sample.
    remarks: what the numbers rest on.
    """

    conversations: int
    workers: int
    n_gpus: int
    reading: Reading
    planned: int
    spoken: int
    made: Estimate
    dropped: Mapping[str, int]
    hours: Estimate
    speech_hours: Estimate
    utterances: Estimate
    rows: Mapping[str, Estimate]
    rows_dropped: Mapping[str, Mapping[str, int]]
    bytes: Mapping[str, Estimate]
    work_bytes: Mapping[str, float]
    shards: int
    files: int
    cpu_hours: Mapping[str, float]
    gpu: tuple[GpuStage, ...]
    tasks: Tasks
    wall: Wall
    constants: tuple[Constant, ...]
    remarks: tuple[str, ...]

    @property
    def total_bytes(self) -> Estimate:
        found = Estimate(0.0)
        for size in self.bytes.values():
            found = found.plus(size)
        return found

    def as_dict(self) -> dict[str, object]:
        """Plain values."""
        return {**asdict(self), "total_bytes": asdict(self.total_bytes)}
