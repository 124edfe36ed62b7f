"""A sample of a build's conversations, planned as the build would plan them, with nothing asked of anybody."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from duplexdata.augment.config import AugmentConfig
from duplexdata.build import prepare
from duplexdata.config import TEXT_LAYOUTS, Config, SpeechConfig
from duplexdata.forecast.clock import Clock
from duplexdata.forecast.corpus import Corpus
from duplexdata.forecast.values import Drawn, Planned, PlannedShard, Spent
from duplexdata.forecast.writer import Measured, WriterForecast, forecast_writer
from duplexdata.stages.ingest import read_pool
from duplexdata.stages.layouts import layout_path, write_layouts
from duplexdata.stages.plan import Plan, make_plan
from duplexdata.stages.scripts import Scripted, keep_scripts, plan_scripts
from duplexdata.stages.speak import conversations_path, speaking
from duplexdata.stages.work import Shard, shards_of
from duplexdata.stages.writing import Scribe, exchanges_drawn
from duplexdata.units import to_seconds
from duplexdata.words import nominal_seconds
from duplexdata.writer.reply_models import Exchange, FollowUp
from duplexdata.writer.types import Failed, Task, Usage, Written

Report = Callable[[int], None]
PLANNED = 5120
"""Conversations planned for a forecast: two or three milliseconds each."""
_MOST = 2048
"""Slots planned of a shard. Whole shards are planned if they are no larger: their texts repeat themselves the more
often the fewer dialogues they have, and compress the better."""
_FOLLOW_UP = ("And what about the other case, then?", "That depends. " + "It is often so in practice. " * 5)
_FOLLOW_UP_ZH = ("那另外一种情况呢？", "这要看情况。" + "实际上常常是这样的。" * 4)
"""As long as follow-ups are: about 2 and 9 seconds. [ours]"""


class MeasuringWriter:
    """A `Writer` that writes nothing: it counts what it is asked for, and templates stay.

    Follow-ups are the exception: they make conversations longer, so there are some, of the usual length.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self.measured: dict[str, Measured] = defaultdict(Measured)

    def write(self, tasks: Iterable[Task]) -> Iterator[Written | Failed]:
        for task in tasks:
            kind = task.prompt.name
            self.measured[kind].add(task, self._config.writer, self._config.text)
            if kind == "follow_up":
                yield Written(task.key, kind, self._follow_up(task), "", False, False, Usage())
            else:
                yield Failed(task.key, kind, "not_asked", "only counted", Usage())

    def _follow_up(self, task: Task) -> FollowUp:
        question, answer = _FOLLOW_UP_ZH if task.prompt.language == "zh" else _FOLLOW_UP
        more = exchanges_drawn(task.key.removesuffix("/follow_up"), self._config) - 1  # it has one
        return FollowUp(exchanges=[Exchange(question=question, answer=answer)] * max(1, more))

    def describe(self) -> dict[str, str]:
        return {}

    def close(self) -> None:
        pass


def plan_sample(corpus: Corpus, most: int, report: Report = lambda n: None) -> Planned:
    """Plan conversations of shards from all over the build until there are `most`."""
    plan = corpus.plan
    writer = MeasuringWriter(plan.config)
    silent = _silent(corpus)
    dropped: Counter[str] = Counter()
    shards: list[PlannedShard] = []
    spent = Spent()
    # Shards without a dialogue are known to make nothing.
    filled = [s for s, pool in zip(corpus.shards, corpus.pools, strict=True) if pool]
    for shard in _spread(filled):
        if sum(s.slots for s in shards) >= most:
            break
        part = replace(shard, slots=min(shard.slots, _MOST))
        clock = Clock()
        scribe = None if plan.config.writer.model is None else Scribe(writer, plan.config)
        found = plan_scripts(plan, part, scribe)
        spent = spent.plus(clock.spent())
        dropped.update(next(c.dropped for c in found.counts if c.stage == "scripts"))
        shards.append(_nominally(silent, part, found))
        report(part.slots)
    clock = Clock()
    read_pool(plan, replace(filled[0], low=0.5, high=0.5))
    chunk = clock.spent()
    return Planned(tuple(shards), dropped, writer.measured, spent.minus(chunk.times(len(shards))), chunk)


def _silent(corpus: Corpus) -> Plan:
    """The same build without sound: texts and nominal times."""
    plan = corpus.plan
    emit = tuple(name for name in plan.config.layout.emit if name in TEXT_LAYOUTS)
    layout = replace(plan.config.layout, emit=emit)
    speech = SpeechConfig(backend="nominal")
    config = replace(plan.config, speech=speech, augment=AugmentConfig(), layout=layout)
    silent = replace(make_plan(config, plan.store), ingest=plan.ingest)
    prepare(silent)
    return silent


def _nominally(silent: Plan, shard: Shard, found: Scripted) -> PlannedShard:
    """A shard's conversations at a nominal speaking rate, and what its texts weigh."""
    keep_scripts(silent, shard, found)
    made = {}
    for rendered in speaking(silent, shard):
        c = rendered.conversation
        speech_sec = sum(nominal_seconds(u.text, c.language) for u in c.utterances)
        made[c.id] = to_seconds(c.n_samples), speech_sec, len(c.utterances)
    files = {"conversations": conversations_path(silent, shard)}
    if silent.config.layout.emit:
        write_layouts(silent, shard)
        files |= {name: layout_path(silent, shard, name) for name in silent.config.layout.emit}
    return PlannedShard(
        shard.slots,
        tuple(Drawn(script, *made.get(script.id, (0.0, 0.0, 0))) for script in found.scripts),
        {name: path.stat().st_size for name, path in files.items()},
    )


def _spread(shards: list[Shard]) -> list[Shard]:
    """The largest first, and among equals some from everywhere: small ones have small pools."""
    step = max(1, len(shards) // 8)
    order = [shard for first in range(step) for shard in shards[first::step]]
    return sorted(order, key=lambda s: -s.slots)


def as_counted(config: Config) -> Config:
    """The configuration under which a sample is planned: what a dropped text would have needed is asked for all the
    same."""
    return replace(config, writer=replace(config.writer, on_failure="template"))


def writer_forecast(
    corpus: Corpus, planned: Planned, config: Config, *, workers: int, seconds_per_call: float | None = None
) -> WriterForecast | None:
    """None where templates write everything."""
    if config.writer.model is None:
        return None
    return forecast_writer(
        planned.writing,
        config.writer,
        conversations=config.conversations,
        # Shards without dialogues ask for nothing.
        sampled=round(planned.slots / corpus.reading.filled),
        workers=workers,
        shards=len(shards_of(config)),
        seconds_per_call=seconds_per_call,
    )
