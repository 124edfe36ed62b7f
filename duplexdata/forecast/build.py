"""What a build will come to and take: from a sample of it to all of it. Pure.

Errors are those of sampling. What stands in for a server or a GPU, and rates that are given, add their own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from duplexdata.config import Config
from duplexdata.forecast.constants import (
    CACHE_BYTES,
    CHUNK,
    CODECS,
    MOST_TASKS,
    SUBMIT_FAR_SEC,
    SUBMIT_SEC,
    TASK_BYTES,
    Constant,
    Rates,
    gpu_rate,
)
from duplexdata.forecast.estimates import Cluster, Estimate, makespan, per_slot, ratio
from duplexdata.forecast.values import (
    BuildForecast,
    Drawn,
    GpuStage,
    Planned,
    Reading,
    Sample,
    Spent,
    Tasks,
    Wall,
)


@dataclass(frozen=True, slots=True)
class Setting:
    """Where and with what a build would run.

    Attributes:
        shards: slots of each shard of the build.
        cores: of the machine that made the sample.
        stages: what is done with each shard, by the flow's names.
        stand_in: whether the sample was spoken by another backend than the configured one.
        speaks: what it was spoken by.
    """

    shards: Sequence[int]
    stages: Sequence[str]
    workers: int
    cores: int
    gpus: int
    rates: Rates
    stand_in: bool
    speaks: str
    writer_hours: float = 0.0
    busy: bool = False


def forecast_build(
    config: Config, reading: Reading, planned: Planned, sample: Sample, setting: Setting
) -> BuildForecast:
    """
    Args:
        planned, sample: of the build that `config` describes, or of one that is alike.
    """
    whole = _Whole(config, reading, planned, sample, setting)
    configs = sorted({name for m in sample.made for name in m.rows})
    rows = {name: whole.count(name) for name in configs}
    size = {name: whole.size(name) for name in configs}
    cpu = whole.spent()
    gpu = whole.gpu()
    made = rows["conversations"]
    return BuildForecast(
        conversations=config.conversations,
        workers=setting.workers,
        n_gpus=setting.gpus,
        reading=reading,
        planned=planned.slots,
        spoken=len(sample.made),
        made=made,
        dropped=whole.dropped(),
        hours=whole.seconds.times(1 / 3600),
        speech_hours=whole.speech.times(1 / 3600),
        utterances=whole.planned_total(lambda d: d.utterances).by(whole.surviving),
        rows=rows,
        rows_dropped=whole.rows_dropped(),
        bytes={**size, "tokenizer": Estimate(float(sample.tokenizer))},
        work_bytes=whole.work_bytes(made),
        shards=len(setting.shards),
        files=len(setting.shards) * len(size),
        cpu_hours={stage: spent.cpu / 3600 for stage, spent in cpu.items()},
        gpu=gpu,
        tasks=_tasks(config, setting, size["conversations"].value),
        wall=whole.wall(cpu, gpu),
        constants=whole.constants(gpu),
        remarks=whole.remarks(),
    )


class _Whole:
    """A sample and what it is a sample of."""

    def __init__(self, config: Config, reading: Reading, planned: Planned, sample: Sample, setting: Setting) -> None:
        self._config, self._reading, self._planned = config, reading, planned
        self._sample, self._setting = sample, setting
        # What a stand-in could not say well enough tells nothing of the backend that it stands in for.
        self._made = [m for m in sample.made if m.seconds > 0 or not setting.stand_in]
        self._parts = [m.part for m in self._made]
        self._slots = config.conversations * reading.filled
        self._shards = round(len(setting.shards) * reading.filled)
        self._population = max(planned.slots, round(self._slots))
        self._nominal = self.planned_total(lambda d: d.seconds)
        self._n = max(1, len(sample.made))
        self._lengths = [m.seconds if setting.stand_in else m.planned.seconds for m in self._made]
        # A server's voice is not the stand-in's: the nominal rate is as good a guess as any.
        paced = self._ratio([m.seconds for m in self._made], [m.planned.seconds for m in self._made])
        self._pace = Estimate(1.0) if setting.stand_in else paced
        self.seconds = self._nominal.by(self._pace)
        self.speech = self.planned_total(lambda d: d.speech_sec).by(self._pace)
        self.surviving = self._share([int(m.seconds > 0) for m in self._made])

    def _ratio(self, made: Sequence[float], planned: Sequence[float]) -> Estimate:
        return ratio(made, planned, self._slots, self._parts)

    def _share(self, made: Sequence[int]) -> Estimate:
        return self._ratio([float(n) for n in made], [1.0] * len(made))

    def planned_total(self, value: Callable[[Drawn], float]) -> Estimate:
        """Of all conversations as planned, at the nominal speaking rate."""
        shards = self._planned.shards
        clusters = [Cluster(s.slots, sum(value(d) for d in s.drawn)) for s in shards]
        values = [value(d) for s in shards for d in s.drawn]
        values += [0.0] * (self._planned.slots - len(values))
        return per_slot(clusters, self._population, values).times(self._slots)

    def count(self, name: str) -> Estimate:
        """Rows of a config."""
        return self.planned_total(lambda d: 1.0).by(self._share([m.rows[name] for m in self._made]))

    def size(self, name: str) -> Estimate:
        """Bytes of a config."""
        if name in self._sample.sizes:
            return self._with_tokens(name)
        clusters = [Cluster(s.slots, s.sizes[name]) for s in self._planned.shards]
        texts = per_slot(clusters, self._population).times(self._slots).by(self.surviving)
        if name != "conversations":
            return texts
        sound = self._ratio([m.weights[name] for m in self._made], self._lengths)
        return texts.plus(self._nominal.by(sound))

    def _with_tokens(self, name: str) -> Estimate:
        sizes, made = self._sample.sizes[name], self._made
        weight = sum(m.weights[name] for m in made)
        rows = sum(m.rows[name] for m in made)
        scale = sizes.per_row * rows / weight if weight else 0.0
        held = self._nominal.by(self._ratio([m.weights[name] * scale for m in made], self._lengths))
        every = self._config.shards.row_group_rows
        filled = self._shards / max(1, len(self._setting.shards))
        # Groups that are smaller than the sample's files are in these already.
        groups = filled * sum(-(-n // every) if every >= sizes.rows else 1 for n in self._setting.shards)
        return held.times(self._codec_factor(name)).plus(Estimate(groups * sizes.per_group))

    def _codec_factor(self, name: str) -> float:
        """Tokens of the configured codec against those of the one that the sample was made with."""
        codec = self._config.codec
        if codec.name not in CODECS:
            return 1.0
        bits, codebooks = CODECS[codec.name]
        kept = (codec.n_codebooks or codebooks) if name == "codes" else 1
        return bits / CODECS["mel"][0] * kept

    # -- what is lost

    def dropped(self) -> dict[str, int]:
        slots = max(1, self._planned.slots)
        found = {reason: round(n / slots * self._slots) for reason, n in self._planned.dropped.items()}
        if empty := round(self._config.conversations - self._slots):
            found["no_dialogue"] = found.get("no_dialogue", 0) + empty
        lost = {} if self._setting.stand_in else self._sample.dropped.get("speech", {})
        for reason, n in lost.items():
            found[reason] = found.get(reason, 0) + round(n / self._n * self._slots)
        return {reason: n for reason, n in sorted(found.items()) if n}

    def rows_dropped(self) -> dict[str, dict[str, int]]:
        return {
            layout: {reason: round(n / self._n * self._slots) for reason, n in dropped.items()}
            for layout, dropped in self._sample.dropped.items()
            if layout != "speech" and dropped
        }

    # -- what it takes

    def spent(self) -> dict[str, Spent]:
        """On all stages, by stage."""
        sample, reading, planned = self._sample, self._reading, self._planned
        chunks = max(1, math.ceil(reading.expected / CHUNK))
        found = {
            "sources": reading.opening.plus(reading.spent.times(reading.expected / max(1, reading.rows))),
            "scripts": planned.spent.times(self._slots / max(1, planned.slots)).plus(
                planned.chunk.times(chunks * self._shards)
            ),
        }
        for stage, (whole, one) in sample.spent.items():
            found[self._named(stage)] = self._scaled(whole, one)
        found["dataset"] = sample.assembly.times(self._shards / sample.files)
        return found

    def _named(self, stage: str) -> str:
        return stage if stage != "speech" else next(s for s in self._setting.stages if s.startswith("speech"))

    def _scaled(self, whole: Spent, one: Spent) -> Spent:
        """`whole` = files * fixed + n * each, `one` = fixed + each."""
        sample = self._sample
        nominal = sum(m.planned.seconds for m in sample.made)
        rest = whole.minus(one.times(sample.files)).times(1 / max(1, self._n - sample.files))
        each, fixed = (rest, one.minus(rest)) if self._n > sample.files else (whole.times(1 / self._n), Spent())
        per_second = each.times(self._n / nominal) if nominal else Spent()
        return fixed.times(self._shards).plus(per_second.times(self._nominal.value))

    def gpu(self) -> tuple[GpuStage, ...]:
        config = self._config
        found = []
        if self._setting.stand_in:
            found.append(self._gpu_stage("speech", self.speech))
        if config.has_sound and config.codec.name != "mel":
            # Both channels, and the assistant's of the negative again: these codecs hear everything at once.
            found.append(self._gpu_stage("codes", self.seconds.times(3)))
        if config.has_sound and config.quality.check and config.quality.asr is not None:
            found.append(self._gpu_stage("asr", self.speech))
        return tuple(found)

    def _gpu_stage(self, stage: str, seconds: Estimate) -> GpuStage:
        rate = gpu_rate(stage, self._config.speech.backend, self._setting.rates)
        hours = seconds.times(1 / 3600)
        if rate is None:
            return GpuStage(stage, hours, None, None)
        return GpuStage(stage, hours, rate, (hours.value / rate.most, hours.value / rate.least))

    def wall(self, spent: Mapping[str, Spent], gpu: Sequence[GpuStage]) -> Wall:
        sample, setting = self._sample, self._setting
        started = max(sample.start.wall, spent["sources"].wall + sample.prepared.wall)
        fixed = (sample.imports.wall + started + spent["dataset"].wall) / 3600
        # On a busy machine the clock says little; CPU seconds are what workers take if they are alone.
        shard_stages = sum(
            s.cpu if setting.busy else s.wall for stage, s in spent.items() if stage not in ("sources", "dataset")
        )
        slots = sum(setting.shards)
        jobs = [shard_stages * n / slots for n in setting.shards]
        workers = makespan(jobs, setting.workers) / 3600
        known = [g.hours for g in gpu if g.hours is not None]
        slowest = (max(h[0] for h in known), max(h[1] for h in known)) if known else (0.0, 0.0)
        gpus = (slowest[0] / max(1, setting.gpus), slowest[1] / max(1, setting.gpus)) if gpu else None
        total = None
        if len(known) == len(gpu):
            low, high = (fixed + setting.writer_hours + max(workers, g) for g in gpus or (0.0, 0.0))
            total = (low, high)
        return Wall(fixed, workers, gpus if known else None, setting.writer_hours, total)

    # -- what it weighs beside the dataset

    def work_bytes(self, made: Estimate) -> dict[str, float]:
        sample, config = self._sample, self._config
        found = {
            "sources": sample.dialogue * self._reading.expected,
            "scripts": sample.scripts * made.value,
            "negatives": sample.negatives * made.value,
            "markers": sample.markers * len(self._setting.shards),
        }
        if self._caches:
            held = self.speech.value / 3600 * CACHE_BYTES.most
            found["speech cache"] = min(float(config.cache.max_bytes), held)
        return found

    def constants(self, gpu: Sequence[GpuStage]) -> tuple[Constant, ...]:
        """What was not told from the sample."""
        cache = (CACHE_BYTES,) if self._caches else ()
        return (*(g.rate for g in gpu if g.rate is not None), *cache, TASK_BYTES, _submit(self._config), MOST_TASKS)

    @property
    def _caches(self) -> bool:
        return self._setting.stand_in and self._config.cache.folder != "off"

    def remarks(self) -> tuple[str, ...]:
        config, reading, setting = self._config, self._reading, self._setting
        found = []
        if not reading.whole:
            found.append(
                f"sources: told from their first {reading.rows:,} rows; the build reads {reading.expected:,}, taken to "
                "be like them"
            )
        if reading.filled < 1:
            found.append(
                f"{1 - reading.filled:.0%} of the conversations are in shards without a dialogue: the sources are too "
                "small for so many shards (set shards.conversations higher, or name more sources)"
            )
        if setting.stand_in:
            found.append(
                f"{config.speech.backend}: lengths at a nominal speaking rate; bytes and CPU as {setting.speaks} "
                "speaks the sample; every utterance taken once"
            )
        if config.codec.name != "mel" and config.has_sound:
            found.append(
                f"codec {config.codec.name}: bytes of tokens by their bits, told from the embedded codec's; the CPU "
                "that feeds a GPU is not foreseen"
            )
        if config.writer.model is not None:
            found.append("texts of the language model are taken to be as long as those of templates and rules")
            found.append("GPU-hours of writing are not known: they are its server's; tokens stand below")
        if config.quality.on_failure == "drop" and config.quality.check and setting.stand_in:
            found.append("utterances that fail the quality checks are not foreseen")
        if setting.workers > setting.cores:
            found.append(f"workers are taken to have a core each, like the {setting.cores} of this machine")
        if setting.busy:
            found.append("this machine was busy: the time of workers is told from CPU-hours, the least that it can be")
        return tuple(found)


def _tasks(config: Config, setting: Setting, conversation_bytes: float) -> Tasks:
    n, stages = len(setting.shards), len(setting.stages)
    runs = n * stages + 2  # ingest and assemble
    largest = runs
    if config.engine.kind == "pool":
        parts = min(config.engine.parts, n)
        runs += parts
        largest = max(parts + 2, -(-n // parts) * stages)
    wanted = None
    if largest > MOST_TASKS.most:
        # One more than fits, because each split ends in a shard of its own.
        wanted = _rounded_up(config.conversations / ((MOST_TASKS.most - 2) // stages - 1))
    return Tasks(
        runs=runs,
        submit_hours=runs * _submit(config).most / 3600,
        largest=largest,
        database_bytes=round(runs * TASK_BYTES.most),
        shard_conversations=wanted,
        file_bytes=None if wanted is None else round(conversation_bytes / config.conversations * wanted),
        parts=None if wanted is None else math.ceil(n * stages / MOST_TASKS.most),
    )


def _submit(config: Config) -> Constant:
    return SUBMIT_FAR_SEC if config.engine.kind in ("dask", "ray") else SUBMIT_SEC


def _rounded_up(value: float) -> int:
    """To two digits."""
    step = 10 ** max(0, math.floor(math.log10(max(1.0, value))) - 1)
    return math.ceil(value / step) * step
