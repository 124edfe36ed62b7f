"""A sample of a build's conversations, planned as the build would plan them, with nothing asked of anybody."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from duplexdata.config import Config
from duplexdata.forecast.writer import Measured, WriterForecast, forecast_writer
from duplexdata.stages.ingest import ingest
from duplexdata.stages.plan import make_plan
from duplexdata.stages.scripts import written_scripts
from duplexdata.stages.work import Shard, shards_of
from duplexdata.stages.writing import Scribe
from duplexdata.storage import Store
from duplexdata.writer.types import Failed, Task, Usage, Written


class MeasuringWriter:
    """A `Writer` that writes nothing: it counts what it is asked for, and templates stay."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self.measured: dict[str, Measured] = defaultdict(Measured)

    def write(self, tasks: Iterable[Task]) -> Iterator[Written | Failed]:
        for task in tasks:
            self.measured[task.prompt.name].add(task, self._config.writer, self._config.text)
            yield Failed(task.key, task.prompt.name, "not_asked", "only counted", Usage())

    def describe(self) -> dict[str, str]:
        return {}

    def close(self) -> None:
        pass


def plan_writer(
    config: Config,
    *,
    sample: int,
    workers: int,
    seconds_per_call: float | None = None,
    report: Callable[[int], None] = lambda n: None,
) -> WriterForecast | None:
    """What the writer of a build will take, from its sources' own texts; None where templates write everything.

    All sources are read as far as the build would read them, and whole shards are planned until they hold `sample`
    conversations.

    Raises: SourceError: they cannot be read.
    """
    if config.writer.model is None:
        return None
    # What a dropped conversation would have needed is asked for all the same.
    kept = replace(config, writer=replace(config.writer, on_failure="template"))
    writer = MeasuringWriter(config)
    sampled = 0
    with tempfile.TemporaryDirectory(prefix="duplexdata-plan-") as folder:
        plan = make_plan(kept, Store(Path(folder)))
        ingest(plan)
        shards = shards_of(config)
        for shard in _spread(shards):
            if sampled >= sample:
                break
            for _ in written_scripts(plan, shard, Scribe(writer, kept)):
                report(1)
            sampled += shard.slots
    return forecast_writer(
        writer.measured,
        config.writer,
        conversations=config.conversations,
        sampled=sampled,
        workers=workers,
        shards=len(shards),
        seconds_per_call=seconds_per_call,
    )


def _spread(shards: list[Shard]) -> list[Shard]:
    """The largest first, and among equals some from everywhere: small ones have small pools."""
    step = max(1, len(shards) // 8)
    order = [shard for first in range(step) for shard in shards[first::step]]
    return sorted(order, key=lambda s: -s.slots)
