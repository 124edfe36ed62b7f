"""The table of spoken forms, and what holds for any text."""

from __future__ import annotations

import csv
import unicodedata
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from duplexdata.dialogue import Dialogue
from duplexdata.sources.read import read_dialogues
from duplexdata.sources.shapes import SourceSpec
from duplexdata.spoken import Unspeakable, speakable, spoken_form

with Path(__file__).with_name("english_cases.tsv").open(encoding="utf-8", newline="") as table:
    CASES = [
        (row["written"], row["spoken"], row["class"])
        for row in csv.DictReader(table, delimiter="\t", quoting=csv.QUOTE_NONE)
    ]
CLASSES = Counter(kind for _, _, kind in CASES)


def test_the_table_is_large_and_has_no_case_twice() -> None:
    assert len(CASES) >= 300
    assert len({written for written, _, _ in CASES}) == len(CASES)
    assert min(CLASSES.values()) >= 4


@pytest.mark.parametrize("kind", sorted(CLASSES))
def test_what_is_written_is_said_as_the_table_says(kind: str) -> None:
    wrong = {
        written: (found, spoken)
        for written, spoken, of in CASES
        if of == kind and (found := spoken_form(written, language="en")) != spoken
    }
    assert not wrong


@pytest.mark.parametrize("kind", sorted(CLASSES))
def test_the_table_says_the_same_inside_a_sentence(kind: str) -> None:
    """Nothing hangs on a case being a text of its own."""
    wrong = {}
    for written, spoken, of in CASES:
        if (
            of == kind
            and not written.endswith((".", "!", "?", "…"))
            and not written.startswith("[")
            and ":)" not in written
        ):
            found = spoken_form(f"so we say {written}, and then more words", language="en")
            if found != f"so we say {spoken}, and then more words":
                wrong[written] = found
    assert not wrong


PIECES = (
    st.text(max_size=30)
    | st.text(st.sampled_from("ab12 .,:;-/*_#|<>{}[]()\\^~`=$€%°'\"&+@\n²½Ⅳ①٣五²！"), max_size=40)
    | st.sampled_from([written for written, _, _ in CASES])
    | st.from_regex(r"\A[\d.,:/$% -]{1,12}[a-zA-Z]{1,3}\Z")
    | st.sampled_from(
        ["Dr.", "St.", "No.", "I", "II", "X", "vs", "etc", "eg", "w/", "a.m.", "U.S.", "v", "St", "'s", "'"]
    )
)
TEXTS = st.lists(PIECES, max_size=6).flatmap(
    lambda parts: st.sampled_from(["", " ", ". ", "\n"]).map(lambda g: g.join(parts))
)


def is_sayable(ch: str) -> bool:
    return ch in " '.,;:!?-" or unicodedata.category(ch)[0] in "LM"


@settings(max_examples=300, deadline=None)
@given(TEXTS)
@example("a" * 200 + " 5'10\" " * 30)
def test_only_letters_and_marks_of_prose_are_ever_left(text: str) -> None:
    said = spoken_form(text, language="en")
    assert not [ch for ch in said if not is_sayable(ch)]
    for n, ch in enumerate(said):
        if ch in "'-":
            around = said[n - 1 : n] + said[n + 1 : n + 2]
            assert len(around) == 2 and all(unicodedata.category(c)[0] in "LM" for c in around)
    assert said == " ".join(said.split())


@settings(max_examples=300, deadline=None)
@given(TEXTS)
def test_the_spoken_form_of_a_spoken_form_is_itself(text: str) -> None:
    said = spoken_form(text, language="en")
    assert spoken_form(said, language="en") == said


def test_other_languages_say_no_address_and_keep_their_own_numbers() -> None:
    assert spoken_form("我有2个 https://example.com 苹果", language="zh") == "我有两个苹果"
    assert spoken_form("Es sind 3,50 € bei a@b.de", language="de") == "Es sind drei Komma fünf Euro bei"


@pytest.mark.parametrize("file", ["alpaca_sample.json", "ultrachat_200k_sample.parquet"])
def test_real_text_is_said_without_digits_and_said_again_the_same(shared_data: Path, file: str) -> None:
    dialogues = [d for d in read_dialogues(SourceSpec(str(shared_data / file))) if isinstance(d, Dialogue)]
    said = []
    for turn in (turn for dialogue in dialogues for turn in dialogue.turns):
        try:
            said.append(speakable(turn.text, language="en", max_seconds=20))
        except Unspeakable:
            continue
    assert said
    for text in said:
        assert all(map(is_sayable, text)), text
        assert spoken_form(text, language="en") == text
