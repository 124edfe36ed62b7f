"""What replies look like: the models that every reply is validated with, and the source of `schemas/writer-*.json`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

Said = Annotated[str, StringConstraints(strip_whitespace=True)]


class Reply(BaseModel):
    """Strict as structured outputs ask for it: every field is required, and there are no others."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class RewrittenTurn(Reply):
    role: Literal["user", "assistant"]
    text: Said = Field(description="the turn as it is said")


class Rewrite(Reply):
    """A dialogue in spoken form."""

    turns: list[RewrittenTurn] = Field(description="one for each turn of the chat, in its order")


class Exchange(Reply):
    question: Said = Field(description="what the user asks next")
    answer: Said = Field(description="what the assistant answers")


class FollowUp(Reply):
    """More of a conversation."""

    exchanges: list[Exchange] = Field(description="in the order in which they are said")


class Distractor(Reply):
    """Something overheard that is not meant for the assistant."""

    said_to: Said = Field(description="who or what it is said to, in a few words")
    text: Said = Field(description="what is said")


class Termination(Reply):
    """A request for silence."""

    text: Said = Field(description="what the user says")


class Regeneration(Reply):
    """A request put right, and its new answer."""

    request: Said = Field(description="what the user says as they break in")
    answer: Said = Field(description="the assistant's new answer")


class Reset(Reply):
    """A new request behind a transition."""

    text: Said = Field(description="what the user says: the transition and the new request")


class BackOnTopic(Reply):
    """A question on what was just said, its answer, and the way back."""

    question: Said = Field(description="what the user asks as they break in")
    answer: Said = Field(description="the assistant's answer to it")
    continuation: Said = Field(description="what the assistant says before the rest of its old answer")


class Interweaving(Reply):
    """A way back to an earlier topic."""

    bridge: Said = Field(description="what the user says before the request")


REPLIES: Mapping[str, type[Reply]] = {
    "rewrite": Rewrite,
    "follow_up": FollowUp,
    "distractor": Distractor,
    "termination": Termination,
    "regeneration": Regeneration,
    "reset": Reset,
    "back_on_topic": BackOnTopic,
    "interweaving": Interweaving,
}
"""By the prompt's name. The schemas' names have hyphens."""


def schema_file(name: str) -> str:
    return f"writer-{name.replace('_', '-')}.json"


def reply_schemas() -> dict[str, dict[str, Any]]:
    """By file name."""
    return {schema_file(name): reply.model_json_schema() for name, reply in REPLIES.items()}
