"""`duplexdata emit`: a dataset's layouts for another tokenizer, block size or slicing, from its records and codes."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from duplexdata.claim import claimed
from duplexdata.config import Config, LayoutConfig
from duplexdata.config_file import load_config
from duplexdata.dataset import check_target, copy_tokenizer, finish, place, put_tokenizer
from duplexdata.errors import DatasetError
from duplexdata.manifest import read_manifest
from duplexdata.shards import FileFacts, batches, new_file
from duplexdata.stages.emit import Emission, emit_shard
from duplexdata.stages.layouts import tokenizer_files
from duplexdata.stages.plan import dataset_fingerprint, published
from duplexdata.stages.work import Marker, sum_counts
from duplexdata.storage import LocalFolder, Store
from duplexdata.text.vocabulary import Vocabulary, make_tokenizer
from duplexdata.units import Grid


def reemit(
    dataset: Path,
    out: Path,
    *,
    tokenizer: str | None,
    blocks: tuple[int, int] | None,
    slicing: str | None,
    layouts: tuple[str, ...] | None,
    tdm_jsonl: Path | None,
    trust_remote_code: bool,
    report: Callable[[int], None],
) -> None:
    """Write a whole dataset to `out`: records and codes linked, layouts made anew.

    Args:
        tokenizer, blocks, slicing, layouts: None keeps the dataset's own.
        tdm_jsonl: file for the rows of `tdm`, train first, as Duplex-UltraChat publishes them.

    Raises: DatasetError, ConfigError, TokenizerError.
    """
    old = read_manifest(dataset)
    if out.resolve() == dataset.resolve():
        raise DatasetError("--out is the dataset itself; name another folder")
    target = LocalFolder(out.resolve())
    check_target(target)
    config = _new_config(old, tokenizer, blocks, slicing, layouts, trust_remote_code)
    with claimed(target):
        _write(dataset, old, target, config, tokenizer, trust_remote_code, report)
    if tdm_jsonl is not None:
        write_tdm_jsonl(out, tdm_jsonl)


def _write(
    dataset: Path,
    old: dict[str, Any],
    target: LocalFolder,
    config: Config,
    tokenizer: str | None,
    trust_remote_code: bool,
    report: Callable[[int], None],
) -> None:
    layout = config.layout
    shutil.rmtree(target.path, ignore_errors=True)
    work = target.work.path
    shutil.rmtree(work, ignore_errors=True)
    files: dict[str, FileFacts] = {}
    try:
        folder = work / "tokenizer"
        if tokenizer is None:
            copy_tokenizer(dataset, old, folder)
        else:
            make_tokenizer(tokenizer, _codebook(old), folder, trust_remote_code=trust_remote_code)
        vocabulary = Vocabulary.read(folder)
        put_tokenizer(folder, tokenizer_files(folder), target, files)
        emitted = _emit_all(dataset, old, work, target, layout, vocabulary, config, files, report)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    finish(target, _new_manifest(old, config, files, vocabulary, emitted), files)


def _new_config(
    old: dict[str, Any],
    tokenizer: str | None,
    blocks: tuple[int, int] | None,
    slicing: str | None,
    layouts: tuple[str, ...] | None,
    trust_remote_code: bool,
) -> Config:
    config = load_config(None, old["config"])
    layout = config.layout
    name = Path(tokenizer).name if tokenizer is not None and Path(tokenizer).exists() else tokenizer
    layout = replace(
        layout,
        tokenizer=name or layout.tokenizer,
        n_speech=blocks[0] if blocks else layout.n_speech,
        n_text=blocks[1] if blocks else layout.n_text,
        tdm_slicing=slicing or layout.tdm_slicing,
        emit=layouts or layout.emit,
        trust_remote_code=trust_remote_code,
    )
    return replace(config, layout=layout)


def _codebook(old: dict[str, Any]) -> int:
    return int(old["clock"]["codebook_size"] if old["clock"] else old["vocabulary"]["codebook_size"])


def _emit_all(
    dataset: Path,
    old: dict[str, Any],
    work: Path,
    out: LocalFolder,
    layout: LayoutConfig,
    vocabulary: Vocabulary,
    config: Config,
    files: dict[str, FileFacts],
    report: Callable[[int], None],
) -> list[Emission]:
    found: list[Emission] = []
    store = Store(work)
    grid = Grid(layout.n_speech, layout.n_text)
    scheduled = Grid(**old["scheduled_for"])
    for name in sorted(f for f in old["files"] if f.startswith("conversations/")):
        shard = Path(name).name
        codes = dataset / "codes" / shard
        paths = {x: work / x / shard for x in layout.emit}
        emission = emit_shard(
            dataset / name, codes if codes.exists() else None, paths, layout, vocabulary, grid, config.seed,
            config.shards.row_group_rows, native=grid == scheduled,
        )  # fmt: skip
        for kept in ("conversations", "codes"):
            if f"{kept}/{shard}" in old["files"]:
                facts = FileFacts(**old["files"][f"{kept}/{shard}"])
                place(store, dataset / kept / shard, out, kept, Marker("", {shard: facts}), files)
        for x, path in paths.items():
            place(store, path, out, x, Marker("", {shard: emission.files[x]}), files)
        found.append(emission)
        report(emission.counts[0].items_in if emission.counts else 0)
    return found


def _new_manifest(
    old: dict[str, Any],
    config: Config,
    files: dict[str, FileFacts],
    vocabulary: Vocabulary,
    emitted: Sequence[Emission],
) -> dict[str, Any]:
    tokens: Counter[str] = Counter()
    for emission in emitted:
        tokens.update(emission.tokens)
    counts = sum_counts([c for emission in emitted for c in emission.counts])
    replies = sum(e.replies for e in emitted)
    share = round(sum(e.anticipatory for e in emitted) / replies, 6) if replies else 0.0
    kept = [s for s in old["stages"] if s["stage"] not in ("sft", "dpo", "tdm", "duo")]
    # The tokenizer's files are listed with their hashes: that is what it was.
    made_by = {**old["made_by"], "tokenizer": files["tokenizer/tokenizer.json"].sha256}
    return {
        **old,
        "config": published(config),
        "made_by": made_by,
        "fingerprint": dataset_fingerprint(published(config), made_by),
        "vocabulary": vocabulary.facts(),
        "files": {name: asdict(facts) for name, facts in sorted(files.items())},
        "stages": [*kept, *(asdict(c) for c in counts)],
        "statistics": {**old["statistics"], "anticipatory_share": share},
        "tokens": dict(sorted(tokens.items())),
    }


def write_tdm_jsonl(dataset: Path, path: Path) -> None:
    """`{"output": [{"role", "content"}, …]}` a line."""
    with new_file(path) as temporary, temporary.open("w", encoding="utf-8") as out:
        for split in ("train", "test"):
            for file in sorted((dataset / "tdm").glob(f"{split}-*.parquet")):
                for batch in batches(file, ["messages"]):
                    for messages in batch.column("messages").to_pylist():
                        out.write(json.dumps({"output": messages}, ensure_ascii=False) + "\n")
