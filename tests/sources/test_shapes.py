from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duplexdata.dialogue import Channel, Dialogue, Rejected
from duplexdata.errors import SourceError
from duplexdata.sources.shapes import SHAPES, parse_row, recognise, safe_key

ROWS: dict[str, dict[str, object]] = {
    "ultrachat": {"id": "7", "data": ["Hi", "Hello"]},
    "ultrachat_200k": {
        "prompt": "Hi",
        "prompt_id": "7",
        "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}],
    },
    "messages": {
        "id": 7,
        "messages": [
            {"role": "system", "content": ""},
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Hello"},
        ],
    },
    "sharegpt": {
        "id": "7",
        "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}],
    },
    "alpaca": {"id": "7", "instruction": "Hi", "input": "", "output": "Hello"},
}


def parse(row: dict[str, object], shape: str, language: str | None = None) -> Dialogue | Rejected:
    return parse_row(row, shape, source="s", row_number=3, language=language, licence="MIT", where="f.json, row 3")


def test_every_shape_has_a_row_here() -> None:
    assert set(ROWS) == set(SHAPES)


@pytest.mark.parametrize("shape", ROWS)
def test_each_shape_is_recognised_and_read(shape: str) -> None:
    assert recognise(list(ROWS[shape])) == shape
    result = parse(ROWS[shape], shape)
    assert isinstance(result, Dialogue)
    assert (result.id, result.source, result.language, result.licence) == ("s/7", "s", "en", "MIT")
    assert [(t.channel, t.text) for t in result.turns] == [
        (Channel.USER, "Hi"),
        (Channel.ASSISTANT, "Hello"),
    ]


def test_unknown_fields_are_an_error_that_lists_them_and_the_shapes() -> None:
    with pytest.raises(SourceError) as error:
        recognise(["question", "answer"])
    for word in ("question", "answer", *SHAPES, "instruction", "conversations"):
        assert word in str(error.value)


def messages(*roles: str) -> dict[str, object]:
    return {"messages": [{"role": role, "content": "x"} for role in roles]}


@pytest.mark.parametrize(
    ("row", "shape", "reason", "says"),
    [
        (messages("user", "user"), "messages", "not_alternating", "turns 1 and 2"),
        (messages("assistant", "user"), "messages", "starts_with_assistant", "assistant"),
        (messages("user", "system", "assistant"), "messages", "not_alternating", "messages[1]"),
        (messages("user", "tool"), "messages", "unknown_role", "messages[1].role"),
        (messages("user"), "messages", "no_reply", "user turn"),
        (messages("system"), "messages", "no_turns", "messages"),
        ({"messages": []}, "messages", "no_turns", "messages"),
        ({"messages": "x"}, "messages", "wrong_type", "messages"),
        ({"messages": ["x"]}, "messages", "wrong_type", "messages[0]"),
        ({"messages": [{"role": "user"}]}, "messages", "missing_field", "'content'"),
        ({"messages": [{"role": None, "content": "x"}]}, "messages", "unknown_role", "None"),
        ({"data": ["a", " "]}, "ultrachat", "empty_text", "data[1]"),
        ({"data": ["a", 5]}, "ultrachat", "wrong_type", "data[1]: expected text, found 5"),
        ({"instruction": "a"}, "alpaca", "missing_field", "'output'"),
        ({"instruction": "a", "output": None}, "alpaca", "wrong_type", "output"),
        ({"instruction": "a", "output": "b", "input": 3}, "alpaca", "wrong_type", "input"),
        ({"data": ["a", "b"], "language": 3}, "ultrachat", "wrong_type", "language"),
        ({"data": ["a", "b"], "language": "?"}, "ultrachat", "bad_language", "language"),
    ],
)
def test_a_bad_row_is_rejected_with_its_reason_and_field(
    row: dict[str, object], shape: str, reason: str, says: str
) -> None:
    result = parse(row, shape)
    assert isinstance(result, Rejected)
    assert (result.reason, result.where) == (reason, "f.json, row 3")
    assert says in result.detail


def test_a_rejection_shows_little_of_the_row() -> None:
    result = parse(messages("user", "SECRET" * 100), "messages")
    assert isinstance(result, Rejected)
    assert result.detail.count("SECRET") * 6 <= 80


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from(["user", "assistant"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["role", "content", "from", "value"]), inner, max_size=3)
    ),
    max_leaves=8,
)
FIELDS = sorted({column for shape in SHAPES.values() for column in shape.columns})


@given(st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=5), st.sampled_from(sorted(SHAPES)))
def test_any_row_gives_an_alternating_dialogue_or_a_rejection(row: dict[str, object], shape: str) -> None:
    result = parse(row, shape)
    if isinstance(result, Dialogue):
        for i, turn in enumerate(result.turns):
            assert turn.channel is (Channel.USER, Channel.ASSISTANT)[i % 2]
            assert turn.text.strip()


def test_the_language_is_the_rows_then_the_sources_then_what_the_script_says() -> None:
    chinese: dict[str, object] = {"data": ["你好吗？", "我很好 ok"]}
    english: dict[str, object] = {"data": ["What does 你好 mean in English?", "Hello"]}

    def language(row: dict[str, object], configured: str | None = None) -> str:
        result = parse(row, "ultrachat", configured)
        assert isinstance(result, Dialogue)
        return result.language

    assert language(chinese | {"language": "de"}, "fr") == "de"
    assert language(chinese | {"language": "English"}) == "en"
    assert language(chinese, "fr") == "fr"
    assert language(chinese) == "zh"
    assert language(english) == "en"


@given(st.text(max_size=300))
def test_an_id_is_short_and_safe_in_a_path(text: str) -> None:
    key = safe_key(text)
    assert len(key) <= 120
    assert not set(key) & set("/\\\n\0")
    assert key not in (".", "..")


def test_long_ids_with_the_same_beginning_stay_different() -> None:
    assert safe_key("x" * 200 + "a") != safe_key("x" * 200 + "b")


def test_a_row_without_a_usable_id_is_named_by_its_number() -> None:
    for own in (None, "", "\n", True, 1.5, ".."):
        result = parse({"id": own, "data": ["a", "b"]}, "ultrachat")
        assert isinstance(result, Dialogue) and result.id == "s/3"


def test_an_alpaca_input_follows_its_instruction() -> None:
    result = parse({"instruction": "Sort.", "input": "b a", "output": "a b"}, "alpaca")
    assert isinstance(result, Dialogue) and result.turns[0].text == "Sort.\nb a"
    result = parse({"instruction": "Sort.", "input": "<noinput>", "output": "a b"}, "alpaca")
    assert isinstance(result, Dialogue) and result.turns[0].text == "Sort."


def test_halves_of_surrogate_pairs_do_not_get_through() -> None:
    result = parse({"data": ["a\ud800", "b"]}, "ultrachat")
    assert isinstance(result, Dialogue) and result.turns[0].text == "a\ufffd"
