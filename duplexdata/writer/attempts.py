"""A task from its first request to its outcome: at most one repair. Pure; whoever drives it gets the replies."""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeAlias

import pydantic

from duplexdata.config import WriterConfig
from duplexdata.writer.asking import Request, first_request, repair_request
from duplexdata.writer.parsing import RawReply, parse_reply
from duplexdata.writer.types import Failed, Fault, Task, Usage, Written

Answer: TypeAlias = tuple[RawReply, bool]
"""A reply, and whether it was known already."""


class Refused(Exception):
    """The endpoint did not answer this request, and does answer others. `reason` is one of `endpoint.REFUSALS`."""

    def __init__(self, reason: str, detail: str, *, transient: bool) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail, self.transient = reason, detail, transient


Attempts: TypeAlias = Generator[Request, Answer, Written | Failed]


def attempts(task: Task, config: WriterConfig) -> Attempts:
    """Yields a request, is sent its reply or thrown a Refused; returns the outcome.

    A faulty reply is shown to the model once, with its fault.
    """
    assert config.model is not None
    usage = Usage()
    request = first_request(task, config)
    for repairing in (False, True):
        try:
            raw, cached = yield request
        except Refused as refused:
            return Failed(task.key, task.prompt.name, refused.reason, refused.detail, usage, refused.transient)
        usage = usage.plus(Usage(1, raw.prompt_tokens, raw.completion_tokens, int(cached)))
        reply = parse_reply(raw, task.prompt)
        fault = reply if isinstance(reply, Fault) else task.check(reply)
        if fault is None:
            assert not isinstance(reply, Fault)
            return _written(task, reply, config.model, repairing, usage)
        if not repairing:
            request = repair_request(task, raw.refusal or raw.text, fault, config)
    assert fault is not None
    return Failed(task.key, task.prompt.name, fault.reason, fault.detail, usage)


def _written(task: Task, reply: pydantic.BaseModel, model: str, repaired: bool, usage: Usage) -> Written:
    usage = usage.plus(Usage(repaired=int(repaired)))
    cached = usage.cached_calls == usage.calls
    return Written(task.key, task.prompt.name, reply, model, repaired, cached, usage)
