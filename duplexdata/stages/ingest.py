"""Sources are read once, in one pass, and sorted for the shards: each finds its own dialogues without the others'."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from duplexdata.dialogue import Channel, Dialogue, Rejected, Turn
from duplexdata.errors import SourceError
from duplexdata.rng import stable_hash
from duplexdata.shards import FileFacts, new_file, sha256
from duplexdata.sources.ids import TakenIds
from duplexdata.sources.read import read_dialogues
from duplexdata.sources.shapes import SourceSpec
from duplexdata.stages.plan import Plan, dialogues_wanted, ingest_fingerprint
from duplexdata.stages.work import Counts, Marker, Shard, at_hand, read_marker, write_marker

_CHUNK = 20_000
_CHUNK_CHARACTERS = 256 * 1024 * 1024
"""Dialogues sorted at a time, and characters of them: bound the memory, whatever the corpus."""
_ROW_GROUP = 512
_SCHEMA = pa.schema(
    [
        ("u", pa.float64()),
        ("key", pa.string()),
        ("id", pa.string()),
        ("source", pa.string()),
        ("language", pa.string()),
        ("licence", pa.string()),
        ("turns", pa.list_(pa.string())),
    ]
)
_EXAMPLES = 20


def ingest(plan: Plan) -> Marker:
    """Read all sources into chunks sorted by `u`, the place of a dialogue's text in the unit interval.

    Equal texts have equal `u`, so duplicates meet in one shard; train and test are parts of the interval.
    """
    where = plan.stage_folder("ingest")
    marker = where / "done.json"
    if found := read_marker(plan.store, marker, plan.ingest):
        return found
    dropped: Counter[str] = Counter()
    examples: list[str] = []
    files: dict[str, FileFacts] = {}
    rows: list[tuple[float, str, Dialogue]] = []
    kept = characters = 0
    for item in _all_sources(plan):
        if isinstance(item, Rejected):
            dropped[item.reason] += 1
            if len(examples) < _EXAMPLES:
                examples.append(f"{item.where}: {item.reason}: {item.detail}")
            continue
        kept += 1
        rows.append((*_place(item), item))
        characters += sum(len(turn.text) for turn in item.turns)
        if len(rows) == _CHUNK or characters >= _CHUNK_CHARACTERS:
            _write_chunk(where, rows, files)
            rows, characters = [], 0
    if rows:
        _write_chunk(where, rows, files)
    if not kept:
        reasons = ", ".join(f"{n} x {r}" for r, n in dropped.most_common()) or "no rows"
        raise SourceError(f"the sources hold no dialogue that can be used ({reasons}); first: {examples[:1]}")
    if ingest_fingerprint(plan.config) != plan.ingest:
        raise SourceError("a source was changed while it was read; run the build again", retryable=True)
    counts = Counts("sources", kept + dropped.total(), kept, dict(sorted(dropped.items())))
    return write_marker(plan.store, marker, Marker(plan.ingest, files, (counts,), {"rejected": examples}))


def _all_sources(plan: Plan) -> Iterator[Dialogue | Rejected]:
    """Every source, each up to its share of what the run can use."""
    sources = plan.config.sources
    share = -(-dialogues_wanted(plan.config) // len(sources))
    taken = TakenIds()
    for source in sources:
        limit = share if source.limit is None else min(share, source.limit)
        yield from read_dialogues(
            SourceSpec(source.path, source.name, source.split, source.language, source.licence, limit), taken
        )


def _place(dialogue: Dialogue) -> tuple[float, str]:
    key = stable_hash(*(t.text for t in dialogue.turns), bits=128)
    return (key >> 75) / (1 << 53), f"{key:032x}"


def _write_chunk(where: Path, rows: list[tuple[float, str, Dialogue]], files: dict[str, FileFacts]) -> None:
    where.mkdir(parents=True, exist_ok=True)
    rows.sort(key=lambda r: (r[0], r[1], r[2].id))
    table = pa.table(
        {
            "u": [u for u, _, _ in rows],
            "key": [key for _, key, _ in rows],
            "id": [d.id for _, _, d in rows],
            "source": [d.source for _, _, d in rows],
            "language": [d.language for _, _, d in rows],
            "licence": [d.licence for _, _, d in rows],
            "turns": [[t.text for t in d.turns] for _, _, d in rows],
        },
        schema=_SCHEMA,
    )
    path = where / f"chunk-{len(files):05d}.parquet"
    with new_file(path) as temporary:
        pq.write_table(table, temporary, compression="zstd", row_group_size=_ROW_GROUP)
    files[path.name] = FileFacts(table.num_rows, path.stat().st_size, sha256(path))


def read_pool(plan: Plan, shard: Shard) -> tuple[list[Dialogue], int]:
    """A shard's own dialogues, in an order that depends on nothing but them, and how many duplicates there were."""
    where = plan.stage_folder("ingest")
    chunks = at_hand(plan.store, where / "done.json", plan.ingest).files
    found: dict[str, Dialogue] = {}
    duplicates = 0
    for path in sorted(where / name for name in chunks):
        # Only the row groups whose `u` overlaps the shard's are read.
        table = pq.read_table(path, filters=[("u", ">=", shard.low), ("u", "<", shard.high)])
        for row in table.to_pylist():
            if row["key"] in found:
                duplicates += 1
            else:
                found[row["key"]] = _dialogue(row)
    return [found[key] for key in sorted(found)], duplicates


def _dialogue(row: dict[str, object]) -> Dialogue:
    texts = row["turns"]
    assert isinstance(texts, list)
    turns = tuple(Turn(Channel.ASSISTANT if i % 2 else Channel.USER, t) for i, t in enumerate(texts))
    return Dialogue(str(row["id"]), str(row["source"]), turns, str(row["language"]), str(row["licence"]))
