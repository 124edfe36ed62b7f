"""What is asked of a language model, and what comes back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import pydantic


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt file and what its reply looks like.

    Attributes:
        version: 8 hex digits that change with the file's content.
        schema: JSON Schema of the reply; servers are asked to follow it.
        reply: what every reply is validated with, whatever the server says it follows.
        max_tokens: of the reply.
    """

    name: str
    version: str
    language: str
    schema_name: str
    schema: Mapping[str, object]
    reply: type[pydantic.BaseModel]
    temperature: float
    top_p: float
    max_tokens: int


@dataclass(frozen=True, slots=True)
class Message:
    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a reply.

    Attributes:
        reason: short and of a fixed set, to be counted ("wrong_language").
        detail: a sentence that the model is shown, so that it can do better.
    """

    reason: str
    detail: str


Check: TypeAlias = Callable[[pydantic.BaseModel], Fault | None]
"""What a valid reply is still to be checked for; None: good. Raises nothing."""


@dataclass(frozen=True, slots=True)
class Task:
    """A text to be written.

    Attributes:
        key: who asks, for logs ("<conversation id>/distractor/0"); no part of the request.
        seed: sent along; two tasks of equal prompt, messages and seed are one request.
        check: called on every reply, in any thread.
    """

    key: str
    prompt: Prompt
    messages: tuple[Message, ...]
    seed: int
    check: Check


@dataclass(frozen=True, slots=True)
class Usage:
    """What replies took.

    Attributes:
        calls: replies used: one, or two with the repair. Does not depend on what was cached, nor do the tokens.
        prompt_tokens, completion_tokens: of those replies, as the server counted them (estimated where it did not).
        cached_calls: how many of the calls cost nothing because the reply was known. Differs from run to run:
            never to be written into a dataset.
        repaired: tasks whose second reply was good.
    """

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_calls: int = 0
    repaired: int = 0

    def plus(self, other: Usage) -> Usage:
        return Usage(
            self.calls + other.calls,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.cached_calls + other.cached_calls,
            self.repaired + other.repaired,
        )


@dataclass(frozen=True, slots=True)
class Written:
    """A good reply.

    Attributes:
        key, prompt: the task's key and its prompt's name.
        reply: of the task's `prompt.reply`, its check passed.
        model: as configured.
        repaired: the first reply had a fault, the second is good.
        cached: nothing was asked for it. Differs from run to run, as `usage.cached_calls` does.
    """

    key: str
    prompt: str
    reply: pydantic.BaseModel
    model: str
    repaired: bool
    cached: bool
    usage: Usage


@dataclass(frozen=True, slots=True)
class Failed:
    """No good reply.

    Attributes:
        reason: short, to be counted: one of `writer.parsing.FAULTS`, of `writer.endpoint.REFUSALS`, or the check's.
        detail: for people.
        transient: the server did not answer this one, while it answered others: another run may have it.
    """

    key: str
    prompt: str
    reason: str
    detail: str
    usage: Usage
    transient: bool = False


class Writer(Protocol):
    def write(self, tasks: Iterable[Task]) -> Iterator[Written | Failed]:
        """One outcome a task, in the tasks' order.

        Reads ahead: `tasks` must not wait for outcomes. A bounded number of tasks and outcomes is in memory.

        Raises: WriterError: the endpoint cannot be worked with. BudgetError: the budget is spent. What was
            finished by then is cached.
        """
        ...

    def describe(self) -> dict[str, str]:
        """What decides on the texts besides the tasks: plain values for the manifest. No addresses, no keys."""
        ...

    def close(self) -> None: ...
