"""Requests: what tells them apart, and how servers are asked for JSON."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tasks_for_tests import PROMPT, SCHEMA, config, task

from duplexdata.writer.asking import first_request, is_strict, repair_request
from duplexdata.writer.types import Fault, Message

CONFIG = config("http://127.0.0.1:1/v1", Path("/nowhere"))
TASK = task(1)


@pytest.mark.parametrize(
    ("other_task", "settings"),
    [
        (replace(TASK, messages=(*TASK.messages, Message("user", "x"))), {}),
        (replace(TASK, messages=(Message("user", TASK.messages[0].content), *TASK.messages[1:])), {}),
        (replace(TASK, seed=2), {}),
        (replace(TASK, prompt=replace(PROMPT, schema={**SCHEMA, "title": "x"})), {}),
        (replace(TASK, prompt=replace(PROMPT, schema_name="other")), {}),
        (replace(TASK, prompt=replace(PROMPT, temperature=0.1)), {}),
        (replace(TASK, prompt=replace(PROMPT, top_p=0.1)), {}),
        (replace(TASK, prompt=replace(PROMPT, max_tokens=65)), {}),
        (TASK, {"model": "other"}),
        (TASK, {"structured": "json_object"}),
        (TASK, {"temperature": 0.2}),
        (TASK, {"omit": ("seed",)}),
    ],
)
def test_whatever_a_reply_depends_on_makes_another_request(other_task, settings) -> None:
    one = first_request(TASK, CONFIG)
    assert first_request(other_task, replace(CONFIG, **settings)).key != one.key
    assert len(one.key) == 32


@pytest.mark.parametrize(
    "settings",
    [
        {"base_url": "http://elsewhere/v1"},
        {"in_flight": 1},
        {"mode": "batch"},
        {"timeout_sec": 1.0},
        {"max_tokens": 5},
        {"api_key_env": "OTHER"},
        {"on_failure": "drop"},
    ],
)
def test_whatever_a_reply_does_not_depend_on_makes_the_same_request(settings) -> None:
    assert first_request(TASK, replace(CONFIG, **settings)) == first_request(TASK, CONFIG)
    assert first_request(replace(TASK, key="somebody else's"), CONFIG) == first_request(TASK, CONFIG)


def test_a_repair_shows_the_reply_and_its_fault_and_keeps_roles_alternating() -> None:
    request = repair_request(TASK, "I like trains", Fault("wrong", "It is about trains."), CONFIG)
    roles = [m["role"] for m in request.body["messages"]]  # type: ignore[attr-defined]
    texts = [m["content"] for m in request.body["messages"]]  # type: ignore[attr-defined]
    assert roles == ["system", "user", "assistant", "user"]
    assert texts[2] == "I like trains" and "It is about trains." in texts[3]
    empty = repair_request(TASK, " \n", Fault("empty", "It is empty."), CONFIG)
    assert empty.body["messages"][2]["content"].strip()  # type: ignore[index]
    endless = repair_request(TASK, "x" * 1_000_000, Fault("no_json", "It is no JSON."), CONFIG)
    assert endless.text_bytes < 10_000


@pytest.mark.parametrize(
    ("structured", "expected"),
    [
        ("json_schema", {"type": "json_schema"}),
        ("json_object", {"type": "json_object"}),
        ("json_object_schema", {"type": "json_object", "schema": SCHEMA}),
        ("none", None),
    ],
)
def test_the_model_is_told_the_schema_one_way_or_another(structured: str, expected: dict[str, object] | None) -> None:
    request = first_request(TASK, replace(CONFIG, structured=structured))
    asked = request.body.get("response_format")
    told = '"additionalProperties": false' in request.body["messages"][0]["content"]  # type: ignore[index]
    if structured == "json_schema":
        assert asked["json_schema"] == {"name": "line", "schema": SCHEMA, "strict": True}  # type: ignore[index]
        assert not told
    else:
        assert asked == expected
        assert told


def test_the_schema_gets_a_system_message_where_there_is_none() -> None:
    bare = replace(TASK, messages=(Message("user", "hello"),))
    request = first_request(bare, replace(CONFIG, structured="none"))
    assert [m["role"] for m in request.body["messages"]] == ["system", "user"]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("schema", "strict"),
    [
        (SCHEMA, True),
        ({**SCHEMA, "additionalProperties": True}, False),
        ({**SCHEMA, "required": ["text"]}, False),
        ({"type": "array", "items": SCHEMA}, True),
        ({"$defs": {"a": {"type": "object", "properties": {}}}, "type": "string"}, False),
        ({"type": "string"}, True),
    ],
)
def test_strict_is_asked_for_only_where_the_schema_allows_it(schema: dict[str, object], strict: bool) -> None:
    assert is_strict(schema) is strict


@given(st.text(), st.text(), st.integers())
def test_a_request_can_be_made_of_any_text_and_its_bound_holds_for_byte_tokens(a: str, b: str, seed: int) -> None:
    request = first_request(replace(TASK, messages=(Message("system", a), Message("user", b)), seed=seed), CONFIG)
    assert request.most_prompt_tokens > len((a + b).encode()) + 2 * 10
    assert 0 <= request.body["seed"] < 1 << 31  # type: ignore[operator]
    assert request.likely_prompt_tokens <= request.most_prompt_tokens
