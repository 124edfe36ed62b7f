"""`duplexdata plan`: a sample of a configured build, made on this machine, and what it tells of the whole."""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from duplexdata.config import Config
from duplexdata.errors import ConfigError, SourceError
from duplexdata.forecast.build import Setting, forecast_build
from duplexdata.forecast.constants import RATED, Rates
from duplexdata.forecast.corpus import read_part
from duplexdata.forecast.sample import PLANNED, Report, as_counted, plan_sample, writer_forecast
from duplexdata.forecast.spoken import LOCAL, SPOKEN, speak_sample, stage_names, stand_in
from duplexdata.forecast.values import BuildForecast
from duplexdata.forecast.writer import WriterForecast
from duplexdata.stages.work import shards_of
from duplexdata.storage import Store

_RATE = re.compile(r"(\w+)=(\d+(?:\.\d+)?)(?:-(\d+(?:\.\d+)?))?")
_BUSY = 0.25
"""Share of the cores' time that others take, from which on a machine is called busy."""
_LOOK_SEC = 0.5


@dataclass(frozen=True, slots=True)
class Forecast:
    """Attributes:
    writer: None where templates write everything.
    """

    build: BuildForecast
    writer: WriterForecast | None

    def as_dict(self) -> dict[str, object]:
        return {"build": self.build.as_dict(), "writer": self.writer.as_dict() if self.writer else None}


def plan_build(
    config: Config,
    *,
    sample: int = SPOKEN,
    workers: int,
    gpus: int = 1,
    rates: Rates | None = None,
    dialogues: int | None = None,
    seconds_per_call: float | None = None,
    planned: int = PLANNED,
    report: Report = lambda n: None,
) -> Forecast:
    """Read a part of the sources, plan conversations from it as the build would, make some of them, tell the rest.

    No server, GPU or language model is asked: what would be is replaced (`stand_in`), at the rates that are given.

    Args:
        sample: conversations made, with sound if the build has any.
        workers, gpus: of the build.
        rates: see `forecast.constants.Rates`.
        dialogues: that the corpus will have, of which the sources are a sample; None: the sources are the corpus.
        planned: conversations planned.

    Raises: SourceError: the sources cannot be read, or no conversation can be made from them. ConfigError.
    """
    cores = os.cpu_count() or 1
    busy = _taken() > _BUSY
    made_with = stand_in(as_counted(config))
    with tempfile.TemporaryDirectory(prefix="duplexdata-plan-") as folder:
        corpus = read_part(made_with, Store(Path(folder) / "work"), dialogues)
        drawn = plan_sample(corpus, planned, report)
        made = speak_sample(corpus, drawn, sample, min(workers, cores), report)
    if made is None:
        raise SourceError(f"no conversation can be made from the sources: {dict(drawn.dropped)}")
    writer = writer_forecast(corpus, drawn, config, workers=workers, seconds_per_call=seconds_per_call)
    setting = Setting(
        shards=[s.slots for s in shards_of(config)],
        stages=stage_names(config),
        workers=workers,
        cores=cores,
        gpus=gpus,
        rates=rates or {},
        stand_in=config.speech.backend not in LOCAL,
        speaks=made_with.speech.backend,
        writer_hours=writer.hours if writer else 0.0,
        busy=busy,
    )
    return Forecast(forecast_build(config, corpus.reading, drawn, made, setting), writer)


def _taken() -> float:
    """Share of all cores' time that is taken at the moment; 0 where the system does not say."""
    try:
        before = _ticks()
        time.sleep(_LOOK_SEC)
        after = _ticks()
    except (OSError, ValueError):
        return 0.0
    spent = [b - a for a, b in zip(before, after, strict=True)]
    return 1 - sum(spent[3:5]) / max(1, sum(spent))  # the fourth and fifth: idle, and waiting for a disk


def _ticks() -> list[int]:
    with open("/proc/stat", encoding="ascii") as file:
        return [int(n) for n in file.readline().split()[1:9]]


def parse_rates(texts: Sequence[str]) -> Rates:
    """From "codes=200" or "speech=15-30". Raises ConfigError: it says something else."""
    found = {}
    for text in texts:
        match = _RATE.fullmatch(text)
        if match is None or match[1] not in RATED:
            raise ConfigError(
                f"--rate is {text!r}, expected STAGE=SECONDS or STAGE=LEAST-MOST with a stage of {', '.join(RATED)}: "
                "seconds of sound that a GPU works through in a second"
            )
        low, high = sorted((float(match[2]), float(match[3] or match[2])))
        if not low > 0:
            raise ConfigError(f"--rate is {text!r}, expected more than 0")
        found[match[1]] = (low, high)
    return found
