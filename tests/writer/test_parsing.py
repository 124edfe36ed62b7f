"""Replies at the door."""

from __future__ import annotations

import json

import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tasks_for_tests import PROMPT, Line

from duplexdata.writer.parsing import FAULTS, RawReply, parse_reply
from duplexdata.writer.types import Fault

GOOD = '{"text": "Dinner is ready, love.", "kind": "side_talk"}'


def parsed(text: str, finish: str = "stop", refusal: str | None = None) -> pydantic.BaseModel | Fault:
    return parse_reply(RawReply(text, finish, 1, 1, refusal), PROMPT)


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        f"\ufeff  {GOOD}\n\n",
        f"```json\n{GOOD}\n```",
        f"```\n{GOOD}\n```\n",
        f"```{GOOD}```",
        f"<think>Is {{this}} JSON?\n</think>\n{GOOD}",
        f"<think></think>```json\n{GOOD}\n```",
        f"so the user wants a line, hm {{}}\n</think>\n\n{GOOD}",
        f"<THINKING>x</THINKING>{GOOD}",
        GOOD + "\x00",
    ],
)
def test_what_models_put_around_json_is_taken_off(text: str) -> None:
    assert parsed(text) == Line(text="Dinner is ready, love.", kind="side_talk")


def test_raw_control_characters_in_strings_are_taken_as_they_are() -> None:
    assert parsed('{"text": "one\n\ttwo", "kind": "x"}') == Line(text="one\n\ttwo", kind="x")


@pytest.mark.parametrize(
    ("reason", "text", "finish", "refusal"),
    [
        ("refusal", "", "stop", "I cannot help with that."),
        ("refusal", GOOD, "stop", "I cannot help with that."),
        ("filtered", "", "content_filter", None),
        ("cut", GOOD[:20], "length", None),
        ("cut", "<think>on and on", "length", None),
        ("cut", "", "length", None),
        ("empty", "", "stop", None),
        ("empty", " \n\t\ufeff", "stop", None),
        ("empty", "<think>That is all.</think>", "stop", None),
        ("empty", "```json\n```", "stop", None),
        ("no_json", "Sure! " + GOOD, "stop", None),
        ("no_json", GOOD[:-1], "stop", None),
        ("no_json", GOOD + GOOD, "stop", None),
        ("no_json", "<think>never closed " + GOOD, "stop", None),
        ("no_json", '{"text": NaN, "kind": "x"}', "stop", None),
        ("no_json", "[" * 100_000, "stop", None),
        ("schema", '{"text": "\\ud800", "kind": "x"}', "stop", None),
        ("no_json", '{"text": ' + "9" * 10_000 + "}", "stop", None),
        ("schema", "[]", "stop", None),
        ("schema", "null", "stop", None),
        ("schema", '"text"', "stop", None),
        ("schema", "{}", "stop", None),
        ("schema", '{"text": "", "kind": "x"}', "stop", None),
        ("schema", '{"text": 7, "kind": "x"}', "stop", None),
        ("schema", '{"text": "a", "kind": "x", "more": 1}', "stop", None),
    ],
)
def test_each_fault_has_its_reason(reason: str, text: str, finish: str, refusal: str | None) -> None:
    fault = parsed(text, finish, refusal)
    assert isinstance(fault, Fault)
    assert fault.reason == reason
    assert fault.detail.endswith(".")
    assert reason in FAULTS


def test_the_model_is_told_where_it_broke_the_schema_and_nothing_it_wrote() -> None:
    fault = parsed(json.dumps({"text": "", "kind": 5, "SECRET-WORDS": 1}))
    assert isinstance(fault, Fault)
    assert "text: String should have at least 1 character" in fault.detail
    assert "kind: Input should be a valid string" in fault.detail


@given(st.text(), st.sampled_from(["stop", "length", "", "tool_calls", "content_filter"]))
def test_no_text_makes_it_raise(text: str, finish: str) -> None:
    assert isinstance(parsed(text, finish), Fault | Line)


_JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
)


@settings(max_examples=40)
@given(_JSON)
def test_no_json_makes_it_raise(value: object) -> None:
    assert isinstance(parsed(json.dumps(value)), Fault | Line)
