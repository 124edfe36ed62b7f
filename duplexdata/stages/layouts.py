"""The emitting stage of a build: a shard's layouts into the work folder."""

from __future__ import annotations

from pathlib import Path

from duplexdata.stages.emit import emit_shard
from duplexdata.stages.encode import codes_path
from duplexdata.stages.plan import Plan
from duplexdata.stages.speak import conversations_path, grid_of
from duplexdata.stages.work import Marker, Shard, read_marker, write_marker
from duplexdata.text.vocabulary import Vocabulary, make_tokenizer


def tokenizer_folder(plan: Plan) -> Path:
    return plan.stage_folder("layouts") / "tokenizer"


def write_tokenizer(plan: Plan, codebook_size: int) -> None:
    """The dataset's tokenizer, made once before any shard is emitted."""
    folder = tokenizer_folder(plan)
    if not (folder / "tokenizer_config.json").exists():
        layout = plan.config.layout
        make_tokenizer(layout.tokenizer, codebook_size, folder, trust_remote_code=layout.trust_remote_code)


def layout_path(plan: Plan, shard: Shard, layout: str) -> Path:
    return plan.stage_folder("layouts") / layout / f"{shard.name}.parquet"


def write_layouts(plan: Plan, shard: Shard) -> Marker:
    marker = plan.stage_folder("layouts") / f"{shard.name}.done.json"
    if found := read_marker(marker, plan.layouts):
        return found
    config = plan.config
    emission = emit_shard(
        conversations_path(plan, shard),
        codes_path(plan, shard) if config.has_sound else None,
        {name: layout_path(plan, shard, name) for name in config.layout.emit},
        config.layout,
        Vocabulary.read(tokenizer_folder(plan)),
        grid_of(config),
        config.seed,
        config.shards.row_group_rows,
    )
    files = {f"{name}/{shard.name}.parquet": facts for name, facts in emission.files.items()}
    return write_marker(marker, Marker(plan.layouts, files, emission.counts, {"tokens": dict(emission.tokens)}))
