"""A forecast as lines for people. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from duplexdata.forecast.constants import Constant
from duplexdata.forecast.estimates import Estimate
from duplexdata.forecast.values import BuildForecast, GpuStage, Tasks, Wall
from duplexdata.forecast.writer import WriterForecast

_UNITS = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
_ROWS_OF = ("sft", "dpo", "tdm", "duo", "codes")


def build_lines(found: BuildForecast) -> Iterator[str]:
    yield (
        f"{found.conversations:,} conversations, told from {found.planned:,} planned and {found.spoken:,} made; "
        "± one standard error of the sample"
    )
    yield _line("made", _count(found.made), _reasons(found.dropped))
    yield _line("conversation", _hours(found.hours), f"{_hours(found.speech_hours)} of speech in it")
    yield _line("utterances", _count(found.utterances))
    for name in _ROWS_OF:
        if name in found.rows:
            yield _line(f"rows of {name}", _count(found.rows[name]), _reasons(found.rows_dropped.get(name, {})))
    for name, size in sorted(found.bytes.items(), key=lambda item: -item[1].value):
        yield _line(f"bytes of {name}", _size(size))
    yield _line("dataset", _size(found.total_bytes), f"{found.shards:,} shards, {found.files:,} files")
    work = ", ".join(f"{name} {bytes_text(n)}" for name, n in found.work_bytes.items())
    yield _line("work folder", bytes_text(sum(found.work_bytes.values())), f"{work}; the dataset's files are links")
    cpu = ", ".join(f"{stage} {_number(hours)}" for stage, hours in found.cpu_hours.items())
    yield _line("CPU-hours", _number(sum(found.cpu_hours.values())), cpu)
    for stage in found.gpu:
        how = "" if stage.rate else f"; never measured: --rate {stage.stage}=X, seconds of sound a second"
        yield _line(f"GPU-hours, {stage.stage}", _gpu(stage), f"{_hours(stage.audio_hours)} of sound{how}")
    if not found.gpu:
        yield _line("GPU-hours", "0", "nothing runs on one")
    yield from _tasks(found.tasks)
    yield _wall(found.wall, found.workers, found.n_gpus)
    yield "measured on the sample: all but what follows"
    for constant in found.constants:
        yield f"- {_constant(constant)}"
    for remark in found.remarks:
        yield f"- {remark}"


def writer_lines(found: WriterForecast) -> Iterator[str]:
    yield f"{found.model}, {found.mode}: {found.conversations:,} conversations, told from {found.sampled:,}"
    yield f"{'text':16} {'texts':>11} {'calls':>11} {'tokens in':>15} {'tokens out':>13}"
    for k in (*found.kinds, found.total):
        yield f"{k.kind:16} {k.texts:11,} {k.calls:11,} {k.prompt_tokens:15,} {k.completion_tokens:13,}"
    cost = "unknown (set writer.usd_per_million_input and _output)" if found.usd is None else f"{found.usd:,.2f} USD"
    at_most = "at most " if found.mode == "batch" else ""
    yield f"cost: {cost}; time: {at_most}{found.hours:,.2f} h at {found.seconds_per_call:.1f} s a call"
    yield "estimated: 4 characters or 1 ideograph a token, every 20th reply repaired, no reply known already"
    for setting in found.over_budget:
        yield f"over budget: {setting} will stop this run before its end"


def bytes_text(size: float) -> str:
    for unit, name in _UNITS:
        if size >= unit:
            return f"{size / unit:,.1f} {name}"
    return f"{size:.0f} B"


def _line(what: str, value: str, more: str = "") -> str:
    return f"{what:22} {value:>24}   {more}".rstrip()


def _error(found: Estimate) -> str:
    return f" ± {found.relative:.1%}" if found.error else ""


def _count(found: Estimate) -> str:
    return f"{round(found.value):,}{_error(found)}"


def _hours(found: Estimate) -> str:
    return f"{_number(found.value)} h{_error(found)}"


def _size(found: Estimate) -> str:
    return f"{bytes_text(found.value)}{_error(found)}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:,.3g}"


def _span(span: tuple[float, float]) -> str:
    low, high = map(_number, span)
    return low if low == high else f"{low} to {high}"


def _reasons(dropped: Mapping[str, int]) -> str:
    return "dropped: " + ", ".join(f"{reason} {n:,}" for reason, n in dropped.items()) if dropped else ""


def _gpu(stage: GpuStage) -> str:
    if stage.hours is None or stage.rate is None:
        return "not known"
    return f"{_span(stage.hours)}"


def _constant(of: Constant) -> str:
    return f"{of.name}: {_span((of.least, of.most))} {of.unit}".rstrip() + f"; {of.how} ({of.source})"


def _tasks(tasks: Tasks) -> Iterator[str]:
    one_run = "" if tasks.largest == tasks.runs else f"at most {tasks.largest:,} in one run; "
    yield _line(
        "Prefect task runs",
        f"{tasks.runs:,}",
        f"{one_run}its database grows by {bytes_text(tasks.database_bytes)}; handing them out takes "
        f"{_number(tasks.submit_hours)} h",
    )
    if tasks.shard_conversations is not None and tasks.file_bytes is not None:
        yield (
            f"- more than 2,000 tasks in a run: set shards.conversations to {tasks.shard_conversations:,} (files of up "
            f"to {bytes_text(tasks.file_bytes)}), or engine.kind to pool with engine.parts {tasks.parts}"
        )


def _wall(wall: Wall, workers: int, gpus: int) -> str:
    parts = [
        f"{_number(wall.workers)} by {workers} worker{'s' * (workers > 1)}",
        f"{_number(wall.fixed)} before and after",
    ]
    if wall.gpus is not None:
        parts.append(f"{_span(wall.gpus)} by {gpus} GPU{'s' * (gpus > 1)} at the same time")
    if wall.writer:
        parts.append(f"{_number(wall.writer)} by the language model first")
    total = "not known" if wall.total is None else f"{_span(wall.total)} h"
    return _line("time", total, ", ".join(parts))
