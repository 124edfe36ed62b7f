from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duplexdata.words import Span, nominal_seconds, split_words, word_texts

MIXED = st.text(st.sampled_from("ab1 你好。，“”\"'（）()-–…!\n\t かなé_é한"), max_size=40) | st.text(max_size=40)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Hello there, world!", ["Hello", "there,", "world!"]),
        ("  spaces   and\nlines ", ["spaces", "and", "lines"]),
        ("yes – no", ["yes –", "no"]),
        ("... well", ["... well"]),
        ("- - a", ["- - a"]),
        ("你好，世界。", ["你", "好，", "世", "界。"]),
        ("他说：“你好！”", ["他", "说：", "“你", "好！”"]),
        ("我用Python写 code。", ["我", "用", "Python", "写", "code。"]),
        ('他说"don\'t走"', ["他", "说", "\"don't", '走"']),
        ("かなカナ。", ["か", "な", "カ", "ナ。"]),
        ("안녕 세계", ["안녕", "세계"]),
        ("", []),
        ("?! …", []),
    ],
)
def test_words_are_what_a_reader_would_count(text: str, words: list[str]) -> None:
    assert word_texts(text) == words


def test_spans_are_character_offsets() -> None:
    assert split_words(" ab  c") == [Span(1, 3), Span(5, 6)]


@given(MIXED)
def test_every_character_that_is_no_space_is_in_exactly_one_word(text: str) -> None:
    words = split_words(text)
    if not any(map(str.isalnum, text)):
        assert words == []
        return
    covered = [i for word in words for i in range(word.start, word.end)]
    assert len(covered) == len(set(covered))
    assert covered == sorted(covered)
    outside = set(range(len(text))) - set(covered)
    assert all(text[i].isspace() for i in outside)


@given(MIXED)
def test_no_word_is_without_a_letter_or_digit_or_has_outer_spaces(text: str) -> None:
    for word in word_texts(text):
        assert re.search(r"[^\W_]", word)
        assert word == word.strip()


def test_splitting_takes_time_proportional_to_length() -> None:
    start = time.perf_counter()
    for text in ("你" * 100_000, "(" * 100_000, '你"' * 50_000, "a." * 50_000 + "你", "，" * 100_000):
        split_words(text)
        nominal_seconds(text)
    assert time.perf_counter() - start < 5


def test_ten_english_words_take_three_to_five_seconds() -> None:
    assert 3 < nominal_seconds("The quick brown fox jumps over the very lazy dog.") < 5


def test_chinese_is_counted_by_character_and_its_marks_as_pauses() -> None:
    assert nominal_seconds("今天天气很好。", "zh") == pytest.approx(6 / 4.2)
    assert nominal_seconds("今天，天气很好。好！", "zh") == pytest.approx(7 / 4.2 + 0.25 + 0.4)


def test_only_marks_inside_the_text_add_a_pause() -> None:
    assert nominal_seconds("one.") == pytest.approx(4 / 14.5)
    assert nominal_seconds("one, two. three.") == pytest.approx(16 / 14.5 + 0.25 + 0.4)
    assert nominal_seconds("") == 0


@given(MIXED, st.sampled_from(["en", "zh", "ja", "ko", "de-AT"]))
def test_a_duration_is_never_negative(text: str, language: str) -> None:
    assert nominal_seconds(text, language) >= 0
