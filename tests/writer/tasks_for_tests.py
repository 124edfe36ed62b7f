"""A prompt, tasks and a check that need no prompt files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydantic

from duplexdata.config import WriterConfig
from duplexdata.writer.types import Failed, Fault, Message, Prompt, Task, Written


class Line(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")
    text: str = pydantic.Field(min_length=1)
    kind: str


SCHEMA = {
    "type": "object",
    "properties": {"text": {"type": "string"}, "kind": {"enum": ["side_talk", "television"]}},
    "required": ["text", "kind"],
    "additionalProperties": False,
}
PROMPT = Prompt("line", "00000000", "en", "line", SCHEMA, Line, 0.7, 0.9, 64)


def check(reply: pydantic.BaseModel) -> Fault | None:
    assert isinstance(reply, Line)
    return Fault("wrong_words", "It says WRONG.") if "WRONG" in reply.text else None


def task(n: int, faults: str = "", prompt: Prompt = PROMPT) -> Task:
    mark = f" {{{{faults {faults}}}}}" if faults else ""
    messages = (Message("system", "Write one line."), Message("user", f"Line number {n}.{mark}"))
    return Task(f"talk-{n}/line/0", prompt, messages, n, check)


def tasks(n: int, start: int = 0) -> Iterator[Task]:
    return (task(i) for i in range(start, start + n))


def config(base_url: str, folder: Path, **settings: Any) -> WriterConfig:
    given = {
        "model": "m",
        "base_url": base_url,
        "cache": str(folder / "cache" / "replies.sqlite"),
        "timeout_sec": 10.0,
        "patience_sec": 20.0,
    }
    return WriterConfig(**(given | settings))


def reasons(outcomes: list[Written | Failed]) -> list[str]:
    """By outcome: its reason, or "" for a good one."""
    return [o.reason if isinstance(o, Failed) else "" for o in outcomes]
