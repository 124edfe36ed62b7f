"""Reads sources in a process of its own and says what came of each: `python -m tests.fuzz.reading FILE...`"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from duplexdata.dialogue import Channel, Dialogue, Rejected
from duplexdata.errors import SourceError
from duplexdata.sources.read import read_dialogues
from duplexdata.sources.shapes import SourceSpec


@dataclass(frozen=True)
class Reading:
    """Attributes:
    error: why the reading ended early, if it did; what came before it is counted.
    grown: bytes by which this process' peak memory rose.
    children: peak bytes of any process that was started for it.
    """

    dialogues: int
    rejected: dict[str, int]
    error: str | None
    grown: int = 0
    children: int = 0

    @property
    def rows(self) -> int:
        return self.dialogues + sum(self.rejected.values())


def read(path: Path | str, **options: Any) -> Reading:
    """Everything in a source; raises AssertionError where what is read breaks a promise, and whatever is no error of
    a source."""
    rejected: Counter[str] = Counter()
    ids: set[str] = set()
    error = None
    try:
        for item in read_dialogues(SourceSpec(str(path), **options)):
            if isinstance(item, Rejected):
                check_rejected(item)
                rejected[item.reason] += 1
            else:
                check_dialogue(item)
                assert item.id not in ids, f"{item.id!r} twice"
                ids.add(item.id)
    except SourceError as refused:
        error = str(refused)
        assert error and "Traceback" not in error
    return Reading(len(ids), dict(rejected), error)


def check_dialogue(dialogue: Dialogue) -> None:
    assert len(dialogue.turns) >= 2
    for i, turn in enumerate(dialogue.turns):
        assert turn.channel is (Channel.ASSISTANT if i % 2 else Channel.USER)
        assert turn.text.strip() and "\0" not in turn.text
        turn.text.encode("utf-8")
    source, _, key = dialogue.id.partition("/")
    assert source and key and "/" not in key and "\\" not in key and key not in (".", "..")
    assert len(dialogue.id.splitlines()) == 1 and len(dialogue.id) < 500
    for text in (dialogue.id, dialogue.source, dialogue.language, dialogue.licence):
        text.encode("utf-8")
        assert text.isprintable(), ascii(text)


def check_rejected(item: Rejected) -> None:
    assert item.reason.isidentifier() and item.detail and item.where
    for text in (item.detail, item.where):
        text.encode("utf-8")
        assert len(text) < 600


def read_apart(paths: Iterable[Path], *, timeout: float) -> dict[str, Reading]:
    """By file name. Raises subprocess.TimeoutExpired: something hangs; AssertionError: see `read`."""
    paths = list(paths)
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.reading", *map(str, paths)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return {p.name: Reading(**json.loads(line)) for p, line in zip(paths, done.stdout.splitlines(), strict=True)}


def main(paths: list[str]) -> None:
    for path in paths:
        before = _peak(resource.RUSAGE_SELF)
        found = asdict(read(path))
        found["grown"] = _peak(resource.RUSAGE_SELF) - before
        found["children"] = _peak(resource.RUSAGE_CHILDREN)
        print(json.dumps(found), flush=True)


def _peak(whose: int) -> int:
    return resource.getrusage(whose).ru_maxrss * 1024


if __name__ == "__main__":
    main(sys.argv[1:])
