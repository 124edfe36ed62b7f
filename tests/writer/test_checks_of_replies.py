"""What replies are refused for, by many small examples; and that good speech is not refused."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duplexdata.config import TextConfig
from duplexdata.dialogue import Channel, Dialogue, Turn
from duplexdata.resources import banks, data_file
from duplexdata.spoken import UNSAYABLE, Unspeakable, speakable_dialogue
from duplexdata.writer.checks import (
    Slot,
    TurnSlot,
    as_said,
    interweaving_fault,
    regeneration_fault,
    reset_fault,
    rewrite_fault,
    same_text,
    speech_fault,
    termination_fault,
)
from duplexdata.writer.language import content, in_language, plain_words, shares_run
from duplexdata.writer.prompts import load_prompt
from duplexdata.writer.requests import asks_again, asks_for_silence, request_in

SLOT = Slot("en", 0.3, 20.0)
ZH = Slot("zh", 0.3, 20.0)


def bundled(language: str) -> list[Dialogue]:
    rows = [json.loads(line) for line in data_file("corpus.jsonl").read_text(encoding="utf-8").splitlines()]
    text = TextConfig()
    found = []
    for row in rows:
        if row["language"] == language:
            turns = tuple(Turn(Channel(m["role"]), m["content"]) for m in row["messages"])
            spoken = speakable_dialogue(
                Dialogue(row["id"], "bundled", turns, language),
                max_query_sec=text.max_query_sec,
                max_reply_sec=text.max_reply_sec,
                max_exchanges=text.max_exchanges,
            )
            if isinstance(spoken, Dialogue):
                found.append(spoken)
    return found


@pytest.mark.parametrize("language", ["en", "zh"])
def test_what_people_say_in_the_bundled_corpus_is_not_refused(language: str) -> None:
    prompt = load_prompt("rewrite", language)
    assert prompt is not None
    slot = Slot(language, 0.1, 20.0, prompt.instructions)
    texts = [t.text for d in bundled(language) for t in d.turns]
    assert len(texts) > 15
    refused = {t: f for t in texts if (f := speech_fault(t, slot))}
    assert not refused


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_dialogue_by_rules_is_a_rewrite_without_a_fault_and_no_other_dialogues(language: str) -> None:
    dialogues = bundled(language)
    for d, other in zip(dialogues, [*dialogues[1:], dialogues[0]], strict=True):
        slots = [TurnSlot(t.channel.value, t.text, t.text, Slot(language, 0.1, 20.0)) for t in d.turns]
        assert rewrite_fault([(t.channel.value, t.text) for t in d.turns], slots) is None
        n = min(len(d.turns), len(other.turns))
        fault = rewrite_fault([(t.channel.value, t.text) for t in other.turns[:n]], slots[:n])
        assert fault is not None and fault.reason == "loses_meaning", (d.id, other.id)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_phrases_of_the_banks_pass_where_they_belong(language: str) -> None:
    bank = banks(language)
    assert bank is not None
    slot = Slot(language, 0.2, 8.0)
    for phrase in bank.transitions["generation_termination"]:
        assert termination_fault(phrase, slot) is None, phrase
    for phrase in bank.transitions["regeneration"]:
        assert asks_again(phrase, language), phrase
        assert not request_in_for_the_assistant(phrase, language) or asks_again(phrase, language)
    for phrase in filter(None, bank.transitions["dialogue_reset"]):
        request = "How do I bake bread with rye flour?" if language == "en" else "怎样用黑麦面粉烤面包？"
        assert reset_fault(f"{phrase} {request}", request, slot) is None, phrase


def request_in_for_the_assistant(text: str, language: str) -> bool:
    return request_in(text, "thinking_aloud", language) is not None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        ("  … ", "empty"),
        ("First this.\nThen that.", "not_speakable"),
        ("- Buy milk and bread.", "not_speakable"),
        ("1. Buy milk and bread.", "not_speakable"),
        ("Use **bold** words here.", "not_speakable"),
        ("Look at https://example.org for more.", "not_speakable"),
        ("Look at example.com for more.", "not_speakable"),
        ("Write to ann@example.org about it.", "not_speakable"),
        ("Call print{x} in a loop.", "not_speakable"),
        ("Well (laughs) that went fine.", "not_speakable"),
        ("That is great 😀 news.", "not_speakable"),
        ("The number is 4915112345678.", "not_speakable"),
        ("Sure, here is the rewritten conversation.", "about_itself"),
        ("Assistant: it rains.", "about_itself"),
        ("As an AI language model I have no home.", "refusal"),
        ("I'm sorry, but I can't help with that.", "refusal"),
        ("Das ist eine gute Idee und wir machen es so.", "wrong_language"),
        ("C'est une bonne idée et nous le ferons.", "wrong_language"),
        ("这是一个好主意。", "wrong_language"),
        ("Это хорошая идея.", "wrong_language"),
        ("That is a long story about the house. " * 12, "too_long"),
    ],
)
def test_what_cannot_be_said_as_it_is_is_refused(text: str, reason: str) -> None:
    fault = speech_fault(text, SLOT)
    assert fault is not None and fault.reason == reason


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("It takes 20 minutes.", "It takes twenty minutes."),
        ("About 3.5% of it.", "About three point five percent of it."),
        ('He said "fine" and left', "He said fine and left."),
    ],
)
def test_numbers_and_quotation_marks_are_put_right_and_not_refused(text: str, said: str) -> None:
    assert speech_fault(text, SLOT) is None
    assert as_said(text, "en") == said


@given(st.text(max_size=120))
def test_what_is_taken_can_be_said(text: str) -> None:
    if speech_fault(text, SLOT) is None:
        said = as_said(text, "en")
        assert said and not UNSAYABLE & set(said) and not any(c.isdecimal() for c in said)
    else:
        with suppress(Unspeakable):  # and nothing else
            as_said(text, "en")


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("What time is it?", "side_talk"),
        ("Tell me about volcanoes.", "thinking_aloud"),
        ("Can you repeat that.", "phone_call"),
        ("Please explain that again.", "side_talk"),
        ("Hey Siri, stop.", "television"),
        ("I want you to stop now.", "side_talk"),
        ("Wait, stop talking.", "thinking_aloud"),
        ("Give me the short version.", "reading_aloud"),
        ("No, that's not what I asked.", "thinking_aloud"),
        ("You said it was red.", "thinking_aloud"),
        ("How do I bake bread.", "side_talk"),
        ("Go on.", "side_talk"),
        ("Thank you, that helps.", "thinking_aloud"),
    ],
)
def test_what_could_be_meant_for_the_assistant_is_no_distractor(text: str, kind: str) -> None:
    assert request_in(text, kind, "en") is not None


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Tell your brother his taxi's outside, Maya.", "side_talk"),
        ("Mom, give me the blue cup.", "child_or_pet"),
        ("Tonight at nine, what happened to the two brothers.", "television"),
        ("List three reasons why the river froze.", "reading_aloud"),
        ("Where did I leave those scissors.", "thinking_aloud"),
        ("Yes, Daniel, I'll be there at six.", "phone_call"),
    ],
)
def test_what_is_clearly_for_others_is_one(text: str, kind: str) -> None:
    assert request_in(text, kind, "en") is None


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("现在几点了？", "side_talk"),
        ("告诉我红茶怎么泡。", "side_talk"),
        ("你刚才说什么来着。", "thinking_aloud"),
        ("继续说。", "phone_call"),
    ],
)
def test_the_same_in_chinese(text: str, kind: str) -> None:
    assert request_in(text, kind, "zh") is not None


def test_silence_is_asked_for_in_many_ways() -> None:
    assert all(asks_for_silence(t, "en") for t in ("Enough!", "Shh, the baby's asleep.", "That'll do, thanks."))
    assert not asks_for_silence("How interesting, the moon again.", "en")
    assert asks_for_silence("够了。", "zh") and not asks_for_silence("真有意思。", "zh")


def test_an_answer_that_begins_like_the_old_one_is_the_same() -> None:
    old = "Feed it twice a day with flour and water and keep it warm."
    assert same_text("Feed it twice a day with flour and water.", old)
    assert same_text(old.upper(), old)
    assert not same_text("Flour, water, warmth, and a little patience.", old)
    slots = (Slot("en", 0.3, 10.0), Slot("en", 0.3, 20.0))
    fault = regeneration_fault("Once more, please.", old, ["How do I feed my starter?", old], *slots)
    assert fault is not None and fault.reason == "same_answer"


def test_a_bridge_names_the_topic_in_whatever_form() -> None:
    earlier = ["How do I bake sourdough?", "Slowly, in a hot oven."]
    assert interweaving_fault("Back to baking for a moment.", "How hot is hot?", earlier, SLOT) is None
    fault = interweaving_fault("Back to the giraffes.", "How hot is hot?", earlier, SLOT)
    assert fault is not None and fault.reason == "no_topic"


@given(st.lists(st.sampled_from("one two three four red green blue".split()), max_size=14), st.integers(1, 6))
def test_a_shared_run_is_found_wherever_it_is(words: list[str], n: int) -> None:
    text = " ".join(words)
    other = f"Before that, {text.upper()}, and behind."
    assert shares_run(text, other, n) == (len(words) >= n)
    assert not shares_run(text, "nothing of that is here", 1)
    assert plain_words(text) == words


def test_forms_of_a_word_are_one_stem_and_numbers_are_none() -> None:
    assert content("The chains are slipping.", "en") & content("A chain slipped.", "en") >= {"chain", "slip"}
    assert content("two hundred and fifty", "en") == frozenset()
    assert content("泡绿茶", "zh") == {"泡绿", "绿茶"}


@pytest.mark.parametrize(
    ("text", "language", "is_so"),
    [
        ("I don't know what it is about the sea.", "en", True),
        ("Okay.", "en", True),
        ("Ja, das ist nicht so einfach mit dem Auto.", "en", False),
        ("No sé qué es lo que hay en la casa.", "en", False),
        ("我不知道。", "zh", True),
        ("这个 Python 程序很好用。", "zh", True),
        ("これは日本語の文章です。", "zh", False),
        ("I don't know.", "zh", False),
        ("Egal was.", "de", True),
    ],
)
def test_languages_are_told_by_script_and_common_words(text: str, language: str, is_so: bool) -> None:
    assert in_language(text, language) == is_so


def test_faults_show_the_model_no_more_than_a_few_words_of_anything() -> None:
    secret = "my very own secret sentence about the blue giraffe in the garden"
    slots = [TurnSlot("user", secret, secret, SLOT)]
    for text in (
        "Das ist gar nicht so und das weiß ich.",
        secret * 9,
        f"- {secret}",
        "",
        "Bananas grow on trees in warm lands.",
    ):
        fault = rewrite_fault([("user", text)], slots)
        assert fault is not None
        assert len(fault.detail) < 200 and "giraffe" not in fault.detail
    assert ZH.language == "zh"
