"""Tasks as requests to an OpenAI-compatible endpoint. Pure: a request's key and bounds follow from its body alone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

from duplexdata.config import WriterConfig
from duplexdata.writer.types import Fault, Message, Prompt, Task

_FORMAT = b"duplexdata request 1\n"
_TOKENS_PER_MESSAGE = 16  # role and separators: more than any chat template adds
_TOKENS_PER_REQUEST = 64
_SHOWN = 4000
"""Characters of a faulty reply that the model is shown."""


@dataclass(frozen=True, slots=True)
class Request:
    """One call of the chat API.

    Attributes:
        prompt: name of the prompt, for counts; no part of the body.
        body: the call's fields, plain values.
        key: 32 bytes that differ whenever the body does: model, messages, schema, sampling and seed. The endpoint's
            address is not in it: a model that moves to another host stays the same model.
        text_bytes: UTF-8 bytes of all that is sent for the model to read.
    """

    prompt: str
    body: Mapping[str, object]
    key: bytes
    text_bytes: int
    n_messages: int
    max_tokens: int

    @property
    def most_prompt_tokens(self) -> int:
        """No tokenizer in use makes more tokens of a text than it has bytes."""
        return self.text_bytes + _TOKENS_PER_MESSAGE * self.n_messages + _TOKENS_PER_REQUEST

    @property
    def likely_prompt_tokens(self) -> int:
        return likely_tokens(self.text_bytes) + self.n_messages * 4


def likely_tokens(text_bytes: int) -> int:
    """Of a text: 4 bytes a token is usual for English, 3 for most other languages; the larger count is taken."""
    return -(-text_bytes // 3)


def first_request(task: Task, config: WriterConfig) -> Request:
    return _request(task.prompt, task.messages, task.seed, config)


def repair_request(task: Task, reply: str, fault: Fault, config: WriterConfig) -> Request:
    """The same conversation, with the faulty reply and what is wrong with it. Chat templates want roles to alternate,
    so an empty reply is shown too."""
    shown = reply if len(reply) <= _SHOWN else reply[:_SHOWN] + " …"
    ask = f"That reply cannot be used: {fault.detail} Write it again, as the one JSON object that was asked for."
    messages = (*task.messages, Message("assistant", shown.strip() or "(nothing)"), Message("user", ask))
    return _request(task.prompt, messages, task.seed, config)


def _request(prompt: Prompt, messages: tuple[Message, ...], seed: int, config: WriterConfig) -> Request:
    assert config.model is not None
    if config.structured != "json_schema":
        messages = _with_schema(messages, prompt.schema)
    temperature = prompt.temperature if config.temperature is None else config.temperature
    body: dict[str, object] = {
        "model": config.model,
        "messages": [{"role": m.role, "content": m.content} for m in messages],
        "max_tokens": prompt.max_tokens,
        "temperature": temperature,
        "top_p": prompt.top_p,
        "seed": seed & 0x7FFFFFFF,  # some servers hold it in 32 bits
    }
    for name in config.omit:
        del body[name]
    if (response_format := _response_format(prompt, config.structured)) is not None:
        body["response_format"] = response_format
    text = json.dumps(body, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    encoded = text.encode("utf-8", "surrogatepass")
    return Request(
        prompt=prompt.name,
        body=body,
        key=hashlib.sha256(_FORMAT + encoded).digest(),
        text_bytes=len(encoded),
        n_messages=len(messages),
        max_tokens=prompt.max_tokens,
    )


def _response_format(prompt: Prompt, structured: str) -> dict[str, object] | None:
    if structured == "none":
        return None
    if structured == "json_object":
        return {"type": "json_object"}
    if structured == "json_object_schema":
        return {"type": "json_object", "schema": prompt.schema}
    return {
        "type": "json_schema",
        "json_schema": {"name": prompt.schema_name, "schema": prompt.schema, "strict": is_strict(prompt.schema)},
    }


def is_strict(schema: object) -> bool:
    """Whether strict structured outputs take it: every object names all its properties as required, and no others.

    https://platform.openai.com/docs/guides/structured-outputs
    """
    if isinstance(schema, list | tuple):
        return all(is_strict(item) for item in schema)
    if not isinstance(schema, Mapping):
        return True
    if schema.get("type") == "object" or "properties" in schema:
        names = schema.get("properties", {})
        required = schema.get("required", ())
        if schema.get("additionalProperties") is not False or not isinstance(names, Mapping):
            return False
        if not isinstance(required, list | tuple) or set(required) != set(names):
            return False
    return all(is_strict(value) for value in schema.values())


def _with_schema(messages: tuple[Message, ...], schema: Mapping[str, object]) -> tuple[Message, ...]:
    """Where the endpoint does not show the model the schema, the system message does."""
    told = "Reply with one JSON object that follows this JSON Schema, and with nothing else:\n" + json.dumps(
        schema, sort_keys=True, ensure_ascii=False
    )
    if messages and messages[0].role == "system":
        return (Message("system", f"{messages[0].content}\n\n{told}"), *messages[1:])
    return (Message("system", told), *messages)
