from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duplexdata.config import QualityConfig
from duplexdata.quality.wording import edits, judge_wording, plain_words

LIMITS = QualityConfig()
TEXT = "Could you tell me which train leaves for the coast at half past nine?"


def _reasons(heard: str, text: str = TEXT, language: str = "en", prompt: str | None = None) -> list[str]:
    return [f.reason for f in judge_wording(heard, text, language, LIMITS, prompt=prompt)]


@pytest.mark.parametrize(
    "heard",
    [
        TEXT,
        TEXT.upper(),
        "could you tell me which train leaves for the coast at half past nine",
        "Could you tell me, which train leaves for the coast at half-past nine?",
        "could you tell me which train leaves for the coast at half past none",  # one word of fourteen
    ],
)
def test_the_same_words_in_another_spelling_pass(heard: str) -> None:
    assert _reasons(heard) == []


def test_numbers_in_digits_are_read_as_ours_are() -> None:
    assert _reasons("we met 25 people on the 3rd day", "We met twenty-five people on the third day.") == []


@pytest.mark.parametrize(
    ("heard", "reason"),
    [
        ("", "word_error_rate"),
        ("could you tell me which train leaves", "word_error_rate"),
        ("would you tell us which train leaves for the coast at half past nine", "word_error_rate"),
        ("could you tell me which train could you tell me which train leaves for the coast", "repeated_words"),
    ],
)
def test_dropped_changed_and_repeated_words_are_found(heard: str, reason: str) -> None:
    assert reason in _reasons(heard)


def test_a_short_text_may_have_one_edit() -> None:
    assert _reasons("yes please too", "Yes, please do.") == []
    assert _reasons("yes pleas too", "Yes, please do.") == ["word_errors"]
    six = "one of us will stay here"
    assert _reasons("one of us will stay", six) == ["word_error_rate"]  # 1 of 6 is more than a tenth


def test_what_sounds_the_same_is_no_error() -> None:
    assert _reasons("al right thank you", "Alright, thank you.") == []
    assert _reasons("its a dog", "It's a dog.") == []


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_the_prompts_last_words_at_the_start_are_found(n: int) -> None:
    prompt = "The old lighthouse was painted white and green"
    leak = " ".join(prompt.split()[-n:])
    assert _reasons(f"{leak} {TEXT}", prompt=prompt)[0] == "says_prompt"
    assert "says_prompt" not in _reasons(f"{leak} {TEXT}", prompt=None)
    assert _reasons(TEXT, prompt=prompt) == []
    # words elsewhere, or at the start because the text has them there, are no leak
    assert "says_prompt" not in _reasons(f"{TEXT} {leak}", prompt=prompt)
    assert _reasons(f"{leak} {TEXT}", f"{leak} {TEXT}", prompt=prompt) == []


def test_a_repetition_that_the_text_has_is_none() -> None:
    text = "Row, row, row your boat, row, row, row your boat, gently down the stream."
    assert _reasons(text, text) == []
    assert "repeated_words" in _reasons(f"{text} row row row your boat", text)


def test_ideographs_are_words() -> None:
    text = "希望你以后能够做的比我还好呦。"
    assert plain_words(text, "zh") == list("希望你以后能够做的比我还好呦")
    assert _reasons("希望你以后能够做的比我还好哟", text, "zh") == []
    assert _reasons("希望你能够做的比我好", text, "zh") == ["word_error_rate"]


@given(st.lists(st.sampled_from("abc"), max_size=7), st.lists(st.sampled_from("abc"), max_size=7))
def test_edits_are_the_fewest(a: list[str], b: list[str]) -> None:
    def by_definition(i: int, j: int) -> int:
        if not i or not j:
            return i + j
        return min(
            by_definition(i - 1, j) + 1,
            by_definition(i, j - 1) + 1,
            by_definition(i - 1, j - 1) + (a[i - 1] != b[j - 1]),
        )

    assert edits(a, b) == by_definition(len(a), len(b))


@given(st.text(max_size=60), st.sampled_from(["en", "zh", "de", "ar"]))
def test_any_text_is_compared_with_itself_without_fault(text: str, language: str) -> None:
    assert judge_wording(text, text, language, LIMITS) == ()
