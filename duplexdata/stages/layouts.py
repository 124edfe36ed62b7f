"""The emitting stage of a build: a shard's layouts into the work folder."""

from __future__ import annotations

from pathlib import Path

from duplexdata.shards import FileFacts, sha256
from duplexdata.stages.emit import emit_shard
from duplexdata.stages.encode import codes_marker_path, codes_path
from duplexdata.stages.plan import Plan
from duplexdata.stages.speak import conversations_path, grid_of, marker_path
from duplexdata.stages.work import Marker, Shard, at_hand, read_marker, write_marker
from duplexdata.text.vocabulary import Vocabulary, make_tokenizer


def write_tokenizer(plan: Plan, codebook_size: int) -> Marker:
    """The dataset's tokenizer, made once before any shard is emitted."""
    marker = _tokenizer_marker(plan)
    if found := read_marker(plan.store, marker, plan.layouts):
        return found
    folder, layout = marker.parent / "tokenizer", plan.config.layout
    make_tokenizer(layout.tokenizer, codebook_size, folder, trust_remote_code=layout.trust_remote_code)
    return write_marker(plan.store, marker, Marker(plan.layouts, tokenizer_files(folder)))


def tokenizer_files(folder: Path) -> dict[str, FileFacts]:
    """Of a tokenizer's folder, by their names in a dataset."""
    made = sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    return {f"tokenizer/{p.name}": FileFacts(0, p.stat().st_size, sha256(p)) for p in made}


def _tokenizer_marker(plan: Plan) -> Path:
    return plan.stage_folder("layouts") / "tokenizer.done.json"


def tokenizer_at_hand(plan: Plan) -> tuple[Path, Marker]:
    """The tokenizer's folder, on this machine, and what its files are."""
    marker = _tokenizer_marker(plan)
    return marker.parent / "tokenizer", at_hand(plan.store, marker, plan.layouts)


def layout_path(plan: Plan, shard: Shard, layout: str) -> Path:
    return plan.stage_folder("layouts") / layout / f"{shard.name}.parquet"


def layouts_marker_path(plan: Plan, shard: Shard) -> Path:
    return plan.stage_folder("layouts") / f"{shard.name}.done.json"


def write_layouts(plan: Plan, shard: Shard) -> Marker:
    marker = layouts_marker_path(plan, shard)
    if found := read_marker(plan.store, marker, plan.layouts):
        return found
    config = plan.config
    at_hand(plan.store, marker_path(plan, shard), plan.speech)
    if config.has_sound:
        at_hand(plan.store, codes_marker_path(plan, shard), plan.codes)
    tokenizer, _ = tokenizer_at_hand(plan)
    emission = emit_shard(
        conversations_path(plan, shard),
        codes_path(plan, shard) if config.has_sound else None,
        {name: layout_path(plan, shard, name) for name in config.layout.emit},
        config.layout,
        Vocabulary.read(tokenizer),
        grid_of(config),
        config.seed,
        config.shards.row_group_rows,
    )
    files = {f"{name}/{shard.name}.parquet": facts for name, facts in emission.files.items()}
    return write_marker(
        plan.store, marker, Marker(plan.layouts, files, emission.counts, {"tokens": dict(emission.tokens)})
    )
