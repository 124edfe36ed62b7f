from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from duplexdata.banks import TRANSITIONS, Banks, Distractor, topic_words
from duplexdata.resources import banks
from duplexdata.words import word_texts

LANGUAGES = ("en", "zh")


def bank(language: str) -> Banks:
    found = banks(language)
    assert found is not None
    return found


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_phrase_can_be_said(language: str) -> None:
    found = bank(language)
    phrases = [p for name in TRANSITIONS for p in found.transitions[name]]
    for phrase in [*(p for p in phrases if p), *found.backchannels, *(d.text for d in found.distractors)]:
        assert phrase == phrase.strip()
        assert word_texts(phrase)
    assert set(found.transitions) == set(TRANSITIONS)


@pytest.mark.parametrize("language", LANGUAGES)
def test_only_transitions_that_lead_into_a_question_may_be_empty(language: str) -> None:
    found = bank(language)
    empty = {name for name in TRANSITIONS if "" in found.transitions[name]}
    assert empty <= {"dialogue_reset", "topic_interweaving", "back_on_topic"}


@pytest.mark.parametrize("language", LANGUAGES)
def test_there_are_at_least_as_many_transitions_as_in_the_paper(language: str) -> None:
    found = bank(language)
    least = {"generation_termination": 11, "regeneration": 15, "dialogue_reset": 18}
    for name, n in least.items():
        assert len(found.transitions[name]) >= n
        assert len(set(found.transitions[name])) == len(found.transitions[name])


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_drawn_distractor_has_no_placeholder_left(language: str) -> None:
    found = bank(language)
    rng = np.random.default_rng(0)
    context = {"en": "How do I bake a sourdough loaf with rye flour?", "zh": "怎样用黑麦面粉烤酸面包？"}[language]
    drawn = {found.distractor(context, rng).text for _ in range(600)}
    assert len(drawn) > 100
    for text in drawn:
        assert not re.search("[{}]", text)
        assert text[0] == text[0].upper()


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_context_without_a_topic_gets_a_distractor_without_one(language: str) -> None:
    found = bank(language)
    assert topic_words("", language) == ()
    about = {d.text.replace("{name}", "N").replace("{pet}", "P").upper() for d in found.distractors}
    rng = np.random.default_rng(1)
    for _ in range(200):
        text = found.distractor("", rng).text
        for name in found.names:
            text = text.replace(name, "N")
        for pet in found.pets:
            text = text.replace(pet, "P")
        assert text.upper() in about or "{" not in text


def test_a_distractor_speaks_of_what_is_talked_about() -> None:
    only = Banks("en", {}, (Distractor("side_talk", "{topic} again, {name}, and the {pet}"),), (), ("Ada",), ("cat",))
    rng = np.random.default_rng(0)
    assert only.distractor("Tell me about the volcano", rng) == Distractor(
        "side_talk", "Volcano again, Ada, and the cat"
    )


@given(st.text(max_size=200), st.sampled_from(["en", "zh", "de", "zh-TW"]))
def test_topics_are_words_of_the_text_and_at_most_three(text: str, language: str) -> None:
    found = topic_words(text, language)
    assert len(set(found)) == len(found) <= 3
    assert all(word in text.lower() or word in text for word in found)
    assert found == topic_words(text, language)


@pytest.mark.parametrize(
    ("text", "language", "topic"),
    [
        ("How does a volcano work? I saw a volcano once.", "en", "volcano"),
        ("What should I feed my hamster?", "en", "hamster"),
        ("请问怎么学习书法？", "zh", "书法"),
    ],
)
def test_the_topic_is_what_a_person_would_say_it_is(text: str, language: str, topic: str) -> None:
    assert any(topic in word for word in topic_words(text, language))


def test_the_primary_tag_decides_and_unknown_languages_have_no_bank() -> None:
    assert banks("zh-TW") == banks("zh")
    assert banks("EN-gb") == banks("en")
    assert banks("xx") is None
    assert banks("../en") is None
