"""A part of the planned sample goes through the build's own stages: what it weighs, and what it takes."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from duplexdata.build import ShardMarkers, fused, gather, prepare
from duplexdata.config import AlignConfig, CacheConfig, CodecConfig, Config, SpeechConfig, VoicesConfig
from duplexdata.dataset import assemble
from duplexdata.forecast.clock import Clock
from duplexdata.forecast.corpus import Corpus
from duplexdata.forecast.estimates import FileSizes, file_sizes
from duplexdata.forecast.sample import Report
from duplexdata.forecast.values import Drawn, Made, Planned, Sample, Spent, total
from duplexdata.pools import Processes
from duplexdata.rng import rng_for
from duplexdata.shards import ShardWriter
from duplexdata.stages.encode import codes_path, speak_and_encode
from duplexdata.stages.layouts import layout_path, tokenizer_at_hand, write_layouts
from duplexdata.stages.plan import Plan
from duplexdata.stages.scripts import Scripted, keep_scripts, scripts_marker_path, scripts_path
from duplexdata.stages.speak import conversations_path, speak
from duplexdata.stages.work import Shard, read_marker
from duplexdata.storage import LocalFolder, Store

SPOKEN = 192
WITH_TOKENS = frozenset({"codes", "sft", "dpo"})
"""Configs that hold speech tokens; the others can be told without sound."""
LOCAL = frozenset({"espeak", "nominal", "tone"})
"""Backends that a sample is really spoken with; others are servers or GPUs."""


def stand_in(config: Config) -> Config:
    """The configuration that a sample is made with on this machine: what needs a server or a GPU is replaced."""
    speech, voices = config.speech, config.voices
    if speech.backend not in LOCAL:
        backend = "espeak" if importlib.util.find_spec("espeakng_loader") else "tone"
        speech, voices = SpeechConfig(backend, level_dbfs=speech.level_dbfs), VoicesConfig()
    return replace(
        config,
        speech=speech,
        voices=voices,
        quality=replace(config.quality, asr=None),
        cache=CacheConfig(folder="off"),
        align=AlignConfig(),
        codec=CodecConfig(),
    )


StageSpent = dict[str, Spent]


def stage_names(config: Config) -> tuple[str, ...]:
    """What is done with each shard, as the flow calls its tasks: scripts, sound, tokens, layouts."""
    if not config.has_sound:
        return ("scripts", "speech", "layouts")
    return ("scripts", "speech and codes", "layouts") if fused(config) else ("scripts", "speech", "codes", "layouts")


def through_stages(plan: Plan, shard: Shard) -> tuple[ShardMarkers, StageSpent]:
    """All stages behind the scripts, each timed."""
    spent: StageSpent = {}
    codes = None
    clock = Clock()
    if plan.config.has_sound:
        speech, codes = speak_and_encode(plan, shard)
    else:
        speech = speak(plan, shard)
    spent["speech"] = clock.spent()
    clock = Clock()
    layouts = write_layouts(plan, shard)
    spent["layouts"] = clock.spent()
    scripts = read_marker(plan.store, scripts_marker_path(plan, shard), plan.scripts, check=False)
    assert scripts is not None
    return ShardMarkers(scripts, speech, codes, layouts), spent


def speak_sample(
    corpus: Corpus, planned: Planned, most: int, workers: int, report: Report = lambda n: None
) -> Sample | None:
    """Make a part of the planned conversations, drawn at random. None where nothing could be planned.

    Args:
        most: conversations made.
        workers: processes that work on it at the same time, as far as it goes round.
    """
    # In a folder of its own: its shards have the names of others.
    plan = replace(corpus.plan, store=Store(corpus.plan.work.parent / "sample-work"))
    if not planned.drawn:
        return None
    parts = _parts(planned, most, workers, rng_for(plan.config.seed, "forecast", "spoken"))
    clock = Clock()
    prepare(plan)
    prepared = clock.spent()
    done, spent, start = _work(plan, parts, workers, report)
    shards = [_shard(i, len(parts), part) for i, part in enumerate(parts)]
    out = LocalFolder(plan.work.parent / "sample")
    clock = Clock()
    assemble(plan, shards, gather(corpus.marker, done), out)
    assembly = clock.spent()
    _, tokenizer = tokenizer_at_hand(plan)
    n = sum(map(len, parts))
    return Sample(
        made=tuple(m for i, part in enumerate(parts) for m in _made(plan, shards[i], i, part)),
        dropped=_dropped(done),
        files=len(parts),
        sizes=_sizes(plan, shards),
        scripts=sum(scripts_path(plan, s).stat().st_size for s in shards) / n,
        negatives=sum(f.bytes for d in done for name, f in d.speech.files.items() if "negatives" in name) / n,
        markers=_marker_bytes(plan, shards) / len(shards),
        dialogue=sum(f.bytes for f in corpus.marker.files.values()) / max(1, corpus.reading.rows),
        tokenizer=sum(f.bytes for f in tokenizer.files.values()),
        spent=spent,
        assembly=assembly,
        prepared=prepared,
        start=start,
        imports=_imports(),
    )


_PARTS = 4
"""Files of a sample at least, each from another shard."""


def _parts(planned: Planned, most: int, workers: int, rng: np.random.Generator) -> list[list[Drawn]]:
    """Conversations to be made, some of each of several shards, drawn at random. Files of small shards are whole."""
    shards = [s.drawn for s in planned.shards if s.drawn]
    whole = max(map(len, shards))
    n = min(len(shards), max(-(-most // whole), workers, _PARTS))
    found = []
    for i in sorted(map(int, rng.choice(len(shards), n, replace=False))):
        take = min(len(shards[i]), -(-most // n))
        found.append([shards[i][int(k)] for k in sorted(rng.choice(len(shards[i]), take, replace=False))])
    return found


def _shard(i: int, of: int, part: Sequence[Drawn]) -> Shard:
    return Shard("train", i, of, len(part), 0.0, 1.0)


def _keep(plan: Plan, shard: Shard, part: Sequence[Drawn]) -> None:
    keep_scripts(plan, shard, Scripted(tuple(d.script for d in part), (), {"fallbacks": {}, **_no_writing(plan)}))


def _no_writing(plan: Plan) -> dict[str, object]:
    return {} if plan.config.writer.model is None else {"writing": {"writers": {}, "usage": {}}}


def _work(
    plan: Plan, parts: list[list[Drawn]], workers: int, report: Report
) -> tuple[list[ShardMarkers], dict[str, tuple[Spent, Spent]], Spent]:
    """The sample's markers; by stage what it took, and what a shard with one conversation takes; a worker's start."""
    n = min(workers, len(parts))
    # In shards of their own: the first in each process also loads what it needs, the next one does not.
    first, again = ([Shard("test", i, 2 * n, 1, 0.0, 1.0) for i in range(k, k + n)] for k in (0, n))
    shards = [_shard(i, len(parts), part) for i, part in enumerate(parts)]
    for shard, part in zip([*first, *again, *shards], [*(p[:1] for p in (parts[:n] * 2)), *parts], strict=True):
        _keep(plan, shard, part)
    call: Callable[[Plan, Shard], tuple[ShardMarkers, StageSpent]] = through_stages
    clock = Clock()
    processes = Processes(n) if n > 1 else None
    threads = ThreadPoolExecutor(n, "sample")
    found: list[tuple[ShardMarkers, StageSpent]] = []

    def through(shard: Shard) -> tuple[ShardMarkers, StageSpent]:
        made: tuple[ShardMarkers, StageSpent]
        made = processes.run(call, plan, shard) if processes is not None else call(plan, shard)
        return made

    try:
        list(threads.map(through, first))
        started = clock.spent()
        clock = Clock()
        fixed = [spent for _, spent in threads.map(through, again)]
        start = started.minus(clock.spent())
        for result, part in zip(threads.map(through, shards), parts, strict=True):
            found.append(result)
            report(len(part))
    finally:
        if processes is not None:
            processes.close(at_once=len(found) < len(parts))
        threads.shutdown(cancel_futures=True)
    names = fixed[0]
    spent = {name: (total(s[name] for _, s in found), total(s[name] for s in fixed).times(1 / n)) for name in names}
    return [markers for markers, _ in found], spent, start


def _imports() -> Spent:
    """Of a Python that loads what every process of a build loads."""
    clock = Clock()
    subprocess.run([sys.executable, "-c", "import duplexdata.build"], check=True, stdout=subprocess.DEVNULL)
    return clock.spent()


# -- what was made


def _paths(plan: Plan, shard: Shard) -> dict[str, Path]:
    """Of each config's file."""
    sound = {"codes": codes_path(plan, shard)} if plan.config.has_sound else {}
    layouts = {name: layout_path(plan, shard, name) for name in plan.config.layout.emit}
    return {"conversations": conversations_path(plan, shard), **sound, **layouts}


def _made(plan: Plan, shard: Shard, number: int, part: Sequence[Drawn]) -> list[Made]:
    tables = {config: pq.read_table(path) for config, path in _paths(plan, shard).items()}
    weights = {config: _weights(table) for config, table in tables.items()}
    ids, durations, audio = (tables["conversations"].column(n).to_pylist() for n in ("id", "duration", "audio"))
    seconds: dict[str, float] = dict(zip(ids, durations, strict=True))
    weights["conversations"] = {i: float(len(a["bytes"])) if a else 0.0 for i, a in zip(ids, audio, strict=True)}
    return [
        Made(
            part=number,
            planned=d,
            seconds=seconds.get(d.script.id, 0.0),
            rows={config: int(d.script.id in found) for config, found in weights.items()},
            weights={config: found.get(d.script.id, 0.0) for config, found in weights.items()},
        )
        for d in part
    ]


def _weights(table: pa.Table) -> dict[str, float]:
    """Bytes in memory of each row, by id."""
    return {id_: float(table.slice(i, 1).nbytes) for i, id_ in enumerate(table.column("id").to_pylist())}


def _sizes(plan: Plan, shards: Sequence[Shard]) -> dict[str, FileSizes]:
    paths = [_paths(plan, shard) for shard in shards]
    found = {}
    for config in WITH_TOKENS & set(paths[0]):
        files = [p[config] for p in paths]
        wholes = [(pq.read_metadata(f).num_rows, f.stat().st_size) for f in files]
        found[config] = file_sizes(wholes, [_half(plan, f, config) for f in files])
    return found


def _half(plan: Plan, file: Path, config: str) -> tuple[int, int]:
    """Rows and bytes of a file with the first half of the rows."""
    table = pq.read_table(file)
    table = table.slice(0, table.num_rows // 2)
    noted = json.loads((table.schema.metadata or {}).get(b"duplexdata", "{}"))
    every = plan.config.shards.row_group_rows
    with ShardWriter(file.with_name("half.parquet"), config, row_group_rows=every, facts=noted) as writer:
        writer.write({name: table.column(name).combine_chunks() for name in table.column_names})
        facts = writer.close()
    return facts.rows, facts.bytes


def _marker_bytes(plan: Plan, shards: Sequence[Shard]) -> int:
    names = {f"{s.name}.done.json" for s in shards}
    return sum(p.stat().st_size for p in plan.work.rglob("*.done.json") if p.name in names)


def _dropped(done: Sequence[ShardMarkers]) -> dict[str, dict[str, int]]:
    found: dict[str, Counter[str]] = {}
    for markers in done:
        for counts in (*markers.speech.counts, *markers.layouts.counts):
            found.setdefault(counts.stage, Counter()).update(counts.dropped)
    return {stage: dict(sorted(dropped.items())) for stage, dropped in found.items()}
