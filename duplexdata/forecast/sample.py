"""A sample of a build's conversations, planned as the build would plan them, with nothing asked of anybody."""

from __future__ import annotations

import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from duplexdata.config import Config, SpeechConfig
from duplexdata.dialogue import Script
from duplexdata.errors import ScriptError
from duplexdata.forecast.clock import Clock
from duplexdata.forecast.corpus import Corpus, read_part
from duplexdata.forecast.values import Drawn, Planned, PlannedShard, Spent
from duplexdata.forecast.writer import Measured, WriterForecast, forecast_writer
from duplexdata.speech.nominal import NominalSynthesizer
from duplexdata.stages.ingest import read_pool
from duplexdata.stages.plan import Plan
from duplexdata.stages.scripts import plan_scripts
from duplexdata.stages.speak import Cast, perform
from duplexdata.stages.work import Shard, shards_of
from duplexdata.stages.writing import Scribe, exchanges_drawn
from duplexdata.storage import Store
from duplexdata.units import to_seconds
from duplexdata.words import nominal_seconds
from duplexdata.writer.reply_models import Exchange, FollowUp
from duplexdata.writer.types import Failed, Task, Usage, Written

Report = Callable[[int], None]
PLANNED = 4096
"""Conversations planned for a forecast: two or three milliseconds each."""
_FEWEST, _MOST = 32, 256
"""Slots planned of a shard: its first ones, enough to have met what its pool runs short of."""
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
    dropped: Counter[str] = Counter()
    shards: list[PlannedShard] = []
    spent = Spent()
    # Shards without a dialogue are known to make nothing.
    filled = [(s, pool) for s, pool in zip(corpus.shards, corpus.pools, strict=True) if pool]
    for shard, pool in _spread(filled):
        if sum(s.slots for s in shards) >= most:
            break
        part = replace(shard, slots=min(shard.slots, max(_FEWEST, min(_MOST, 4 * pool))))
        clock = Clock()
        scribe = None if plan.config.writer.model is None else Scribe(writer, plan.config)
        found = plan_scripts(plan, part, scribe)
        spent = spent.plus(clock.spent())
        dropped.update(next(c.dropped for c in found.counts if c.stage == "scripts"))
        shards.append(PlannedShard(part.slots, tuple(_nominally(found.scripts, plan))))
        report(part.slots)
    clock = Clock()
    read_pool(plan, replace(filled[0][0], low=0.5, high=0.5))
    chunk = clock.spent()
    return Planned(tuple(shards), dropped, writer.measured, spent.minus(chunk.times(len(shards))), chunk)


def _nominally(scripts: Iterable[Script], plan: Plan) -> Iterator[Drawn]:
    """Each script with its lengths at a nominal speaking rate."""
    scripts = list(scripts)
    config = plan.config
    silent = replace(
        config,
        speech=SpeechConfig(backend="nominal"),
        layout=replace(config.layout, emit=("tdm",), tdm_slicing="words"),
    )
    cast = Cast({v.id: v.voice for v in plan.bank}, lambda language: ())
    for script, result in zip(scripts, perform(scripts, NominalSynthesizer(), cast, silent), strict=True):
        if isinstance(result, ScriptError):
            yield Drawn(script, 0.0, 0.0, 0)
            continue
        made = result[0].conversation
        speech_sec = sum(nominal_seconds(u.text, made.language) for u in made.utterances)
        yield Drawn(script, to_seconds(made.n_samples), speech_sec, len(made.utterances))


def _spread(shards: list[tuple[Shard, int]]) -> list[tuple[Shard, int]]:
    """The largest first, and among equals some from everywhere: small ones have small pools."""
    step = max(1, len(shards) // 16)
    order = [shard for first in range(step) for shard in shards[first::step]]
    return sorted(order, key=lambda s: -s[0].slots)


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


def plan_writer(
    config: Config,
    *,
    sample: int,
    workers: int,
    seconds_per_call: float | None = None,
    report: Report = lambda n: None,
) -> WriterForecast | None:
    """What the writer of a build will take, from its sources' own texts; None where templates write everything.

    Raises: SourceError: the sources cannot be read.
    """
    if config.writer.model is None:
        return None
    with tempfile.TemporaryDirectory(prefix="duplexdata-plan-") as folder:
        corpus = read_part(as_counted(config), Store(Path(folder)))
        planned = plan_sample(corpus, sample, report)
    return writer_forecast(corpus, planned, config, workers=workers, seconds_per_call=seconds_per_call)
