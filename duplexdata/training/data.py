"""Rows of a dataset as sequences to train on: from a folder, from the hub, in any order or as they come."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from tokenizers import Tokenizer

from duplexdata.errors import DatasetError
from duplexdata.manifest import NAME, read_manifest
from duplexdata.rng import rng_for
from duplexdata.shards import sha256
from duplexdata.training.chat import ChatFormat
from duplexdata.training.config import DataSettings
from duplexdata.training.packing import Example

Item = tuple[Example, ...]
"""What belongs together: one sequence, or the chosen and the rejected one of a pair."""

COLUMNS: Mapping[str, Sequence[str]] = {
    "sft": ("input_ids", "labels"),
    "dpo": ("chosen_input_ids", "chosen_labels", "rejected_input_ids", "rejected_labels"),
    "duo": ("input_ids", "labels", "channel", "position"),
    "tdm": ("messages",),
}


@dataclass(frozen=True, slots=True)
class DatasetFacts:
    """What a run must know of its dataset.

    Attributes:
        name: as it was given.
        fingerprint: of the manifest: changes whenever a file of the dataset does.
        tokenizer: the folder of its tokenizer.
        tokenizer_fingerprint: of the vocabulary: tokens and their ids.
        vocabulary: ids of special tokens, as in the manifest.
        n_speech, n_text: speech and text tokens of a block, N and M.
        codec: name and weights of what made the speech tokens; None: there are none.
        rows: how many, by "config/split".
    """

    name: str
    fingerprint: str
    tokenizer: Path
    tokenizer_fingerprint: str
    vocabulary: Mapping[str, Any]
    n_speech: int
    n_text: int
    codec: str | None
    rows: Mapping[str, int]

    @classmethod
    def read(cls, name: str) -> DatasetFacts:
        """
        Raises: DatasetError: `name` is no dataset of ours, here or on the hub.
        """
        if not name:
            raise DatasetError("no dataset is named: give --dataset a folder or a hub id")
        folder = Path(name) if Path(name).is_dir() else _fetch(name)
        manifest = read_manifest(folder)
        tokenizer = folder / "tokenizer"
        if not (tokenizer / "tokenizer.json").is_file():
            raise DatasetError(f"{name} has no tokenizer/tokenizer.json: it holds no rows to train on")
        _check_tokenizer(name, tokenizer, manifest["files"])
        rows: Counter[str] = Counter()
        for file, facts in manifest["files"].items():
            if file.endswith(".parquet"):
                config, _, split = file.partition("/")
                rows[f"{config}/{split.split('-')[0]}"] += int(facts["rows"])
        layout, codec = manifest["config"]["layout"], manifest["backends"]["speech_tokenizer"]
        return cls(
            name=name,
            fingerprint=hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()[:16],
            tokenizer=tokenizer,
            tokenizer_fingerprint=tokenizer_fingerprint(tokenizer),
            vocabulary=manifest["vocabulary"],
            n_speech=int(layout["n_speech"]),
            n_text=int(layout["n_text"]),
            codec=f"{codec['name']} {codec['weights']}" if codec else None,
            rows=dict(rows),
        )

    def count(self, config: str, split: str) -> int:
        """Rows of a split. Raises DatasetError: it has none, or the dataset lacks the config; says what there is."""
        found = self.rows.get(f"{config}/{split}", 0)
        if found:
            return found
        configs = sorted({key.split("/")[0] for key in self.rows} & set(COLUMNS))
        if config not in configs:
            raise DatasetError(
                f"{self.name} has no rows of {config} (it has {', '.join(configs) or 'none to train on'}); "
                f"make them with `duplexdata emit {self.name} --out DIR --layouts {config}`"
            )
        splits = sorted({key.split("/")[1] for key in self.rows if key.startswith(f"{config}/") and self.rows[key]})
        raise DatasetError(
            f"{self.name}: split {split!r} of {config} is empty (it has {', '.join(splits) or 'no rows at all'})"
        )


def _check_tokenizer(name: str, folder: Path, files: Mapping[str, Mapping[str, Any]]) -> None:
    """Its files go into every checkpoint: none may be there, or be linked there, that the manifest does not vouch for.

    Raises: DatasetError.
    """
    for path in sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith(".")):
        stated = files.get(f"tokenizer/{path.name}")
        if stated is None:
            raise DatasetError(f"{name}: tokenizer/{path.name} is not in its {NAME}; take it away")
        if sha256(path) != stated["sha256"]:
            raise DatasetError(f"{name}: tokenizer/{path.name} is not what its {NAME} says of it")


def tokenizer_fingerprint(folder: Path) -> str:
    """16 hex digits that change whenever a token gets another id."""
    tokens = Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab(with_added_tokens=True)
    return hashlib.sha256(json.dumps(tokens, sort_keys=True).encode()).hexdigest()[:16]


def _fetch(name: str) -> Path:
    """The manifest and the tokenizer of a dataset on the hub."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, repo_type="dataset", allow_patterns=[NAME, "tokenizer/*"]))
    except Exception as error:  # no such folder, no such repository, no network: one answer to all
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DatasetError(f"{name} is no folder, and cannot be had from the hub as a dataset ({why})") from error


# -- rows


class Reader:
    """Turns tables of a config into items, and drops what is too long, counted.

    Args:
        longest: tokens of a sequence that are still taken.
    """

    def __init__(self, config: str, facts: DatasetFacts, longest: int) -> None:
        self.config, self.longest = config, longest
        self.dropped: Counter[str] = Counter()
        self._size = int(facts.vocabulary["vocabulary_size"])
        self._where = facts.name
        self._chat = ChatFormat.read(facts.tokenizer) if config == "tdm" else None

    def items(self, table: pa.Table) -> list[Item]:
        """Of every row, in order; those too long included."""
        if self._chat is not None:
            return [(self._chat.example(messages),) for messages in table["messages"].to_pylist()]
        columns = {name: _arrays(table[name]) for name in COLUMNS[self.config]}
        items: list[Item] = []
        for i in range(table.num_rows):
            row = {name: column[i] for name, column in columns.items()}
            if self.config == "dpo":
                items.append(tuple(Example(row[f"{w}_input_ids"], row[f"{w}_labels"]) for w in ("chosen", "rejected")))
            else:
                items.append((Example(row["input_ids"], row["labels"], row.get("position"), row.get("channel")),))
        for item in items:
            for example in item:
                self._check(example)
        return items

    def lengths(self, table: pa.Table) -> npt.NDArray[np.int64]:
        """Tokens of each row's longest sequence."""
        if self._chat is not None:
            return np.array([len(item[0]) for item in self.items(table)], np.int64)
        names = [name for name in COLUMNS[self.config] if name.endswith("input_ids")]
        found = [np.array([len(a) for a in _arrays(table[name])], np.int64) for name in names]
        return np.max(found, axis=0) if found else np.zeros(0, np.int64)

    def fits(self, item: Item) -> bool:
        if max(map(len, item)) <= self.longest:
            return True
        self.dropped["too_long"] += 1
        return False

    def _check(self, example: Example) -> None:
        if len(example.input_ids) != len(example.labels):
            raise DatasetError(f"{self._where}: a row of {self.config} has fewer labels than tokens, or more")
        if len(example) and not 0 <= int(example.input_ids.min()) <= int(example.input_ids.max()) < self._size:
            raise DatasetError(
                f"{self._where}: a row of {self.config} has token {int(example.input_ids.max())}, its vocabulary "
                f"{self._size} tokens: rows and tokenizer/ do not belong together"
            )


def _arrays(column: pa.ChunkedArray) -> list[npt.NDArray[Any]]:
    """One numpy array a row, without a Python object per number."""
    found: list[npt.NDArray[Any]] = []
    for chunk in column.chunks:
        values = chunk.values.to_numpy(zero_copy_only=False)
        offsets = chunk.offsets.to_numpy()
        found += [values[a:b] for a, b in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)]
    return found


class Rows:
    """The steps of a run: which items each takes.

    Epoch after epoch, each in an order drawn from (seed, epoch); a step may reach into the next epoch. Reading goes
    on from any step, and gives there what an uninterrupted run would have got.

    Args:
        config: "sft", "dpo", "duo" or "tdm".
        longest: tokens of a sequence that are still taken.
    """

    def __init__(self, facts: DatasetFacts, config: str, settings: DataSettings, seed: int, longest: int) -> None:
        self.settings, self.seed = settings, seed
        self.reader = Reader(config, facts, longest)
        declared = facts.count(config, settings.split)
        self._source = _load(facts.name, config, settings)
        self._lengths: npt.NDArray[np.int64] | None = None
        if settings.streaming:
            self.kept = np.arange(min(declared, settings.limit or declared))
        else:
            lengths = np.concatenate([self.reader.lengths(t) for t in self._tables(1000)])
            fits = lengths <= longest
            self.reader.dropped["too_long"] += int((~fits).sum())
            self.kept = np.flatnonzero(fits)
            self._lengths = lengths
            if not len(self.kept):
                raise DatasetError(
                    f"{facts.name}: none of the {len(lengths)} rows of {config} has at most {longest} tokens "
                    f"(the shortest has {int(lengths.min())}); raise data.max_tokens or take a model of more positions"
                )
        self.batch = min(settings.batch, len(self.kept))

    def _tables(self, rows: int) -> Iterator[pa.Table]:
        yield from self._source.with_format("arrow").iter(batch_size=rows)

    def n_steps(self, epochs: float) -> int:
        """How many steps pass over all rows `epochs` times."""
        if self.settings.batch_tokens is None:
            return max(1, round(epochs * len(self.kept) / self.batch))
        if epochs != int(epochs):
            raise DatasetError(f"optim.epochs is {epochs}: with data.batch_tokens it must be a whole number")
        return sum(1 for _ in self._groups(int(epochs)))

    def steps(self, start: int = 0) -> Iterator[tuple[list[int], list[Item]]]:
        """Without end, from step `start` on: the rows' numbers in the split (streaming: in the stream) and items."""
        if self.settings.streaming:
            yield from self._streamed(start)
            return
        source = self._source.with_format("arrow")
        for n, group in enumerate(self._groups()):
            if n >= start:
                order = np.argsort(group, kind="stable")  # files are read forwards
                items = self.reader.items(source[np.asarray(group)[order].tolist()])
                yield group, [items[i] for i in np.argsort(order, kind="stable").tolist()]

    def rows_until(self, steps: int) -> list[int]:
        """The rows that the first `steps` steps take, each once, in order."""
        found: set[int] = set()
        for n, group in enumerate(self._groups()):
            if n == steps or len(found) == len(self.kept):
                break
            found.update(group)
        return sorted(found)

    def take(self, rows: Sequence[int]) -> list[Item]:
        return self.reader.items(self._source.with_format("arrow")[list(rows)])

    def _groups(self, epochs: int | None = None) -> Iterator[list[int]]:
        group: list[int] = []
        tokens, budget = 0, self.settings.batch_tokens
        epoch = 0
        while epochs is None or epoch < epochs:
            order = self.kept[rng_for(self.seed, f"epoch {epoch}", "order of rows").permutation(len(self.kept))]
            for row in order.tolist():
                n = int(self._lengths[row]) if self._lengths is not None else 0
                if group and (len(group) == self.batch if budget is None else tokens + n > budget):
                    yield group
                    group, tokens = [], 0
                group.append(row)
                tokens += n
            epoch += 1
        if group:
            yield group

    def _streamed(self, start: int) -> Iterator[tuple[list[int], list[Item]]]:
        group: list[tuple[int, Item]] = []
        tokens, budget, n = 0, self.settings.batch_tokens, 0
        for row, item in self._endless():
            size = sum(map(len, item))
            if group and (len(group) == self.batch if budget is None else tokens + size > budget):
                if n >= start:
                    yield [r for r, _ in group], [i for _, i in group]
                group, tokens, n = [], 0, n + 1
            group.append((row, item))
            tokens += size

    def _endless(self) -> Iterator[tuple[int, Item]]:
        """Each epoch through a buffer: a drawn one of those held goes out, the next one that comes takes its place."""
        epoch = 0
        while True:
            rng = rng_for(self.seed, f"epoch {epoch}", "shuffle buffer")
            held: list[tuple[int, Item]] = []
            found = 0
            rows = (item for table in self._tables(256) for item in self.reader.items(table))
            for row, item in enumerate(rows):
                if self.settings.limit is not None and row >= self.settings.limit:
                    break
                if not self.reader.fits(item):
                    continue
                found += 1
                if len(held) < self.settings.shuffle_buffer:
                    held.append((row, item))
                    continue
                i = int(rng.integers(len(held)))
                yield held[i]
                held[i] = (row, item)
            for i in rng.permutation(len(held)).tolist():
                yield held[i]
            if not found:
                raise DatasetError(f"no row of the stream has at most {self.reader.longest} tokens")
            epoch += 1


def _load(name: str, config: str, settings: DataSettings) -> Any:
    import datasets

    datasets.disable_progress_bars()
    try:
        found = datasets.load_dataset(name, config, split=settings.split, streaming=settings.streaming)
        found = found.select_columns(list(COLUMNS[config]))
        limit = settings.limit
        if limit is not None and not settings.streaming:
            found = found.select(range(min(limit, len(found))))
        return found
    except Exception as error:  # many kinds; all mean that the rows cannot be had
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DatasetError(f"{name}: rows of {config}/{settings.split} cannot be loaded ({why})") from error
