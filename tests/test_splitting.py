from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duplexdata.splitting import FEWEST_WORDS, Joint, split_text
from duplexdata.words import split_words, word_texts

SENTENCES = (
    "The first train leaves at six, and it never waits. The second one is slower, but it stops at the coast. "
    "Nobody takes the third. If you want to see the harbour, sit on the left; the view is better there, they say."
)


def test_a_text_that_fits_is_one_piece_as_it_stands() -> None:
    for text in ("Yes.", "  spaced  out ", "", "...", SENTENCES):
        assert [p.text for p in split_text(text, 1000)] == [text]


def test_it_is_parted_at_ends_of_sentences_first() -> None:
    for most, beginnings in ((120, ["The first", "Nobody"]), (100, ["The first", "The second", "If"])):
        pieces = split_text(SENTENCES, most)
        assert all(p.joint is Joint.SENTENCE for p in pieces)
        assert len(pieces) == len(beginnings)
        assert all(p.text.startswith(b) for p, b in zip(pieces, beginnings, strict=True))
    assert Joint.CLAUSE in {p.joint for p in split_text(SENTENCES, 80)}


def test_then_at_clauses_then_anywhere() -> None:
    clause = "one two three four five six, seven eight nine ten eleven twelve"
    assert [p.joint for p in split_text(clause, 40)] == [Joint.CLAUSE, Joint.WORD]
    plain = clause.replace(",", "")
    assert {p.joint for p in split_text(plain, 40)} == {Joint.WORD}


def test_ideographs_count_as_four() -> None:
    text = "今天天气真好，我们一起出去散步吧。明天也许会下雨，所以最好现在就走。"
    assert len(split_text(text, 4 * len(text))) == 1
    pieces = split_text(text, 2 * len(text) + 8)
    assert len(pieces) == 2
    assert "".join(p.text for p in pieces) == text


TOKENS = ["a", "to", "word", "clause,", "end.", "什么", "don't", "–", '"so"', "x" * 60]


@given(st.lists(st.sampled_from(TOKENS), max_size=60))
def test_the_pieces_are_the_text(tokens: list[str]) -> None:
    text = " ".join(tokens)
    pieces = split_text(text, 50)
    if len(pieces) == 1:
        assert pieces[0].text == text
        return
    assert "".join("".join(p.text for p in pieces).split()) == "".join(text.split())
    assert [w for p in pieces for w in word_texts(p.text)] == word_texts(text)
    for piece in pieces:
        words = split_words(piece.text)
        assert len(piece.text) + 3 * sum(c in "什么" for c in piece.text) <= 50 or len(words) <= FEWEST_WORDS


@given(st.integers(8, 80))
def test_no_piece_is_too_short_to_speak_well(n: int) -> None:
    pieces = split_text("some words and more. " * n, 100)
    assert len(pieces) > 1
    assert min(len(split_words(p.text)) for p in pieces) >= FEWEST_WORDS


@pytest.mark.parametrize("n", [1000])
def test_long_texts_cost_little(n: int) -> None:
    pieces = split_text("word " * n, 240)
    assert len(pieces) == -(-5 * n // 240)
