"""Replies at the door: a valid value, or what is wrong with them. Pure."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import NoReturn

import pydantic

from duplexdata.writer.types import Fault, Prompt

FAULTS = ("refusal", "filtered", "cut", "empty", "no_json", "schema")
"""Reasons found here; a task's own check has others."""

_THOUGHT = re.compile(r"^\s*<(think|thinking|reasoning)>.*?</\1>", re.DOTALL | re.IGNORECASE)
_OPEN_THOUGHT = re.compile(r"^\s*<(think|thinking|reasoning)>", re.IGNORECASE)
_REST_OF_THOUGHT = re.compile(r"^.*</(?:think|thinking|reasoning)>", re.DOTALL | re.IGNORECASE)
_FENCE = re.compile(r"^\s*```[\w-]*[ \t]*\n?(.*?)\n?[ \t]*```\s*$", re.DOTALL)
_SHOWN_FAULTS = 3


@dataclass(frozen=True, slots=True)
class RawReply:
    """What an endpoint replied, as it is cached.

    Attributes:
        finish: its finish_reason.
        prompt_tokens, completion_tokens: as it counted them, or estimated.
    """

    text: str
    finish: str
    prompt_tokens: int
    completion_tokens: int
    refusal: str | None = None


def parse_reply(raw: RawReply, prompt: Prompt) -> pydantic.BaseModel | Fault:
    """Validate against the prompt's model. Takes code fences and thoughts off, and control characters in strings."""
    if raw.refusal:
        return Fault("refusal", "It is a refusal, and the task is harmless.")
    if raw.finish == "content_filter":
        return Fault("filtered", "A content filter took it out; write something harmless.")
    if raw.finish == "length":
        return Fault("cut", f"It was cut off at the limit of {prompt.max_tokens} tokens; be shorter.")
    text = bare(raw.text)
    if not text:
        return Fault("empty", "It is empty.")
    try:
        value = json.loads(text, strict=False, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return Fault("no_json", "It is no JSON.")
    try:
        return prompt.reply.model_validate(value)
    except pydantic.ValidationError as error:
        return Fault("schema", f"It does not follow the JSON Schema: {_told(error)}.")
    except RecursionError:
        return Fault("schema", "It does not follow the JSON Schema: it is nested too deeply.")


def bare(text: str) -> str:
    """A reply without what models put around JSON: thoughts before it, a code fence around it."""
    text, found = _THOUGHT.subn("", text, count=1)
    if not found and not _OPEN_THOUGHT.match(text) and not text.lstrip().startswith(("{", "`")):
        # Chat templates that open the thought themselves leave the model only its end.
        text = _REST_OF_THOUGHT.sub("", text, count=1)
    if fenced := _FENCE.match(text):
        text = fenced[1]
    return text.strip("\ufeff \t\r\n\x00")


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _told(error: pydantic.ValidationError) -> str:
    """The first faults by place, without what was found there."""
    faults = error.errors(include_url=False, include_context=False, include_input=False)
    told = [f"{'.'.join(map(str, f['loc'])) or 'the whole'}: {f['msg']}" for f in faults[:_SHOWN_FAULTS]]
    more = f" and {len(faults) - _SHOWN_FAULTS} more" if len(faults) > _SHOWN_FAULTS else ""
    return "; ".join(told) + more
