from __future__ import annotations

import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from duplexdata.dialogue import Channel, Dialogue, Rejected, Turn
from duplexdata.sources.read import read_dialogues
from duplexdata.sources.shapes import SourceSpec
from duplexdata.spoken import UNSAYABLE, Unspeakable, sentences, speakable, speakable_dialogue
from duplexdata.words import nominal_seconds

ENGLISH = [
    # numbers
    ("We sold 1,200,034 of them", "We sold one million two hundred thousand and thirty-four of them."),
    ("It is 3.14 here", "It is three point one four here."),
    ("Version 1.2.3 is out", "Version one point two point three is out."),
    ("agent 007", "Agent zero zero seven."),
    ("It was -5°C outside", "It was minus five degrees Celsius outside."),
    ("The 1st and the 22nd", "The first and the twenty-second."),
    ("a 19th-century house", "A nineteenth-century house."),
    ("born in 1995", "Born in nineteen ninety-five."),
    ("In 2024 we moved", "In twenty twenty-four we moved."),
    ("from 1914-1918", "From nineteen fourteen to nineteen eighteen."),
    ("the 1990s and the '60s", "The nineteen nineties and the sixties."),
    ("the 1900s", "The nineteen hundreds."),
    ("July 4, 1776 was hot", "July fourth, seventeen seventy-six was hot."),
    ("on 12/25/2020", "On December twenty-fifth, twenty twenty."),
    ("on 2020-02-01", "On February first, twenty twenty."),
    ("It costs $3.50.", "It costs three dollars and fifty cents."),
    ("only $1", "Only one dollar."),
    ("£4.01 and 20€", "Four pounds and one penny and twenty euros."),
    ("a $3.5 million house", "A three point five million dollar house."),
    ("$5-10 each", "Five to ten dollars each."),
    ("$.50 each", "Fifty cents each."),
    ("50% of 3.5%", "Fifty percent of three point five percent."),
    ("at 3:30", "At three thirty."),
    ("at 3:00 sharp", "At three o'clock sharp."),
    ("at 10:05 a.m. today", "At ten oh five AM today."),
    ("at 3:30 p.m. Then we go", "At three thirty PM. Then we go."),
    ("12:30-1:30pm", "Twelve thirty to one thirty PM."),
    ("a 16:9 screen", "A sixteen to nine screen."),
    ("3-5 days", "Three to five days."),
    ("1/2 cup and 2½ cups and 3/4", "One half cup and two and a half cups and three quarters."),
    ("open 24/7", "Open twenty-four seven."),
    ("call 555-123-4567", "Call five five five, one two three, four five six seven."),
    ("10k users, 5M rows", "Ten thousand users, five million rows."),
    ("5 km at 100 km/h with 1 kg", "Five kilometers at one hundred kilometers per hour with one kilogram."),
    ("5'10\" tall", "Five foot ten tall."),
    ("H2O, 3D and MP3", "H two O, three D and MP three."),
    ("٣٤ items, ① first", "Thirty-four items, one first."),
    ("a 401(k) plan", "A four oh one K plan."),
    # arithmetic and symbols
    ("5 - 3 = 2", "Five minus three equals two."),
    ("2 + 2 * 3", "Two plus two times three."),
    ("500 / 8", "Five hundred divided by eight."),
    ("2 x 3 = 6 on a 4x4 grid", "Two times three equals six on a four by four grid."),
    ("x^2 + 10^5", "X squared plus ten to the power of five."),
    ("a < b and x >= 2", "A is less than b and x is at least two."),
    ("C++ & C#", "C plus plus and C sharp."),
    ("he/she and/or TCP/IP", "He or she and or TCP IP."),
    ("the #1 tip #BestDay ever", "The number one tip Best Day ever."),
    ("~5 miles @ noon", "About five miles at noon."),
    ("a -> b", "A to b."),
    # abbreviations
    ("pets, e.g. a cat, i.e. fun", "Pets, for example a cat, that is fun."),
    ("Cats, dogs, etc. They are nice.", "Cats, dogs, et cetera. They are nice."),
    ("Dr. Smith vs. Mr. Jones", "Doctor Smith versus Mister Jones."),
    ("St. Louis and 12 Main St.", "Saint Louis and twelve Main Street."),
    ("the U.S. economy by J.K. Rowling", "The US economy by J K Rowling."),
    ("NASA and the FBI", "NASA and the FBI."),
    # markup
    ("# Title\n\nText **bold** and *it*, __x__ and _y_", "Title. Text bold and it, x and y."),
    ("Do:\n\n1. Wash hands well, first\n2. Dry them!", "Do: Wash hands well, first. Dry them!"),
    ("- apples\n- pears\n- plums", "Apples, pears, plums."),
    ("> quoted line\n> goes on", "Quoted line goes on."),
    ("Use `print` with `num_1` and `foo(1)`", "Use print with num one and."),
    ("The sky is ____ today, isn't it? ____", "The sky is blank today, isn't it?"),
    ("See [the docs](https://a.b/c) now ![alt](x.png)", "See the docs now."),
    ("Look (https://example.com/a?b=1).", "Look."),
    ("Mail me at joe@x.org today", "Mail me at joe at x dot org today."),
    ("It is so.[1] And so [2].", "It is so. And so."),
    ("[laughs] Sure, [sighs] why not?", "Sure, why not?"),
    ("<b>Hi</b> there,<br>you &amp; me", "Hi there, you and me."),
    ("Sort [3, 1, 2]", "Sort three, one, two."),
    ("The formula $x^2$ is $$y=1$$ known", "The formula is known."),
    ("Hello 😀 world :)", "Hello world."),
    ("The World Health Organization (WHO) said", "The World Health Organization, WHO, said."),
    ("A doll of 18 inches (46 cm) is tall", "A doll of eighteen inches is tall."),
    ("Yes — no – maybe", "Yes, no, maybe."),
    ('He said "hello" and \'bye\'', "He said hello and bye."),
    ("what is the capital of france", "What is the capital of france?"),
    ("Text here:\n```py\nf(1)\n```\nIt is short, really.", "Text here. It is short, really."),
]  # fmt: skip

OTHER = [
    ("zh", "我有2个苹果，3.5公斤。", "我有两个苹果，三点五公斤。"),
    ("zh", "1998年5月3日", "一九九八年五月三日。"),
    ("zh", "现在是3:30。", "现在是三点三十分。"),
    ("zh", "50%的人，1/2和3-5天", "百分之五十的人，二分之一和三到五天。"),
    ("zh", "共10,100元，还有100000001", "共一万零一百元，还有一亿零一。"),
    ("zh", "$3.5 和 ¥100", "三点五美元和一百元。"),
    ("zh", "今天20°C", "今天二十摄氏度。"),
    ("zh", "你好,世界. 好的!", "你好，世界。好的！"),
    ("zh", "1. 苹果很好吃，也很便宜\n2. 香蕉也一样", "苹果很好吃，也很便宜。香蕉也一样。"),
    ("zh", "- 苹果\n- 香蕉", "苹果，香蕉。"),
    ("zh", "电话13800138000", "电话一三八零零一三八零零零。"),
    ("de", "Es sind 3,50 € und 1.200 Leute", "Es sind drei Komma fünf Euro und eintausendzweihundert Leute."),
    ("fr", "J'ai 21 ans & 5 amis", "J'ai vingt et un ans et cinq amis."),
    ("xx", "Only 3.5 left", "Only three point five left."),
]  # fmt: skip


@pytest.mark.parametrize(("written", "said"), ENGLISH)
def test_english_is_written_as_it_is_said(written: str, said: str) -> None:
    assert speakable(written, language="en", max_seconds=30) == said


@pytest.mark.parametrize(("language", "written", "said"), OTHER)
def test_other_languages_are_written_as_they_are_said(language: str, written: str, said: str) -> None:
    assert speakable(written, language=language, max_seconds=30) == said


TEXTS = (
    st.text(max_size=120)
    | st.text(st.sampled_from("ab12 .,:;-/*_#|<>{}[]()\\^~`=$€%°'\"&+@\n²½Ⅳ①٣五你。！"), max_size=80)
    | st.lists(st.sampled_from([written for written, _ in ENGLISH]), max_size=4).map("\n".join)
    | st.from_regex(r"\A[\d.,:/$% -]{1,30}[a-zA-Z]{1,3}\Z")
)
LANGUAGES = st.sampled_from(["en", "en-US", "zh", "zh-CN", "de", "ja", "hi", "xx"])


@settings(max_examples=400, deadline=None)
@given(TEXTS, LANGUAGES)
def test_nothing_unsayable_and_no_digit_is_ever_left(text: str, language: str) -> None:
    try:
        said = speakable(text, language=language, max_seconds=20)
    except Unspeakable:
        return
    assert not set(said) & UNSAYABLE
    assert not any(map(str.isdigit, said))
    assert any(map(str.isalpha, said))
    assert said == said.strip() and "\n" not in said


@settings(max_examples=150, deadline=None)
@given(TEXTS, LANGUAGES, st.floats(0.5, 12))
def test_what_is_said_fits_the_budget(text: str, language: str, max_seconds: float) -> None:
    try:
        said = speakable(text, language=language, max_seconds=max_seconds)
    except Unspeakable:
        return
    assert nominal_seconds(said, language) <= max_seconds


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from([said for _, said in ENGLISH]), min_size=1, max_size=4).map(" ".join))
def test_spoken_text_stays_as_it_is(text: str) -> None:
    assert speakable(text, language="en", max_seconds=100) == text


@given(st.text(st.sampled_from('aB.!? ")Dr\n'), max_size=40) | st.text(max_size=60))
def test_sentences_give_the_text_back(text: str) -> None:
    text = " ".join(text.split())
    assert " ".join(sentences(text, "en")) == text
    assert "".join(sentences(text, "zh")) == text


@pytest.mark.parametrize(
    ("text", "language", "parts"),
    [
        ("Dr. Smith met J. K. Rowling. They spoke.", "en", ["Dr. Smith met J. K. Rowling.", "They spoke."]),
        ('"Why?" he said. "No."', "en", ['"Why?" he said.', '"No."']),
        ("It is, e.g. this, 3.5 long. Yes", "en", ["It is, e.g. this, 3.5 long.", "Yes"]),
        ("Wait... what? No!", "en", ["Wait... what?", "No!"]),
        ("你好。“好！”他说。再见", "zh", ["你好。", "“好！”", "他说。", "再见"]),
        ("", "en", []),
    ],
)
def test_sentences_end_where_a_reader_ends_them(text: str, language: str, parts: list[str]) -> None:
    assert sentences(text, language) == parts


def test_whole_sentences_are_kept_up_to_the_budget() -> None:
    text = "One two three four. Five six seven eight. Nine ten eleven twelve."
    assert speakable(text, language="en", max_seconds=4) == "One two three four. Five six seven eight."


def test_a_long_first_sentence_is_cut_at_a_clause() -> None:
    text = "This is the first clause, and this is another one that takes a lot longer to say, and more."
    assert speakable(text, language="en", max_seconds=3) == "This is the first clause."


def test_an_announcement_is_not_the_last_thing_said() -> None:
    text = "Sure. Here is the list:\n\n1. " + "a very long item " * 10
    assert speakable(text, language="en", max_seconds=5) == "Sure."


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        ("😀 ... !!", "empty"),
        ("[image]", "empty"),
        ("(https://example.com)", "empty"),
        ("```py\nprint(1)\n```", "mostly_code"),
        ("Code:\n```py\n" + "x = 1\n" * 30, "mostly_code"),
        ("using System;\nclass Program\n{\nint n = 1; // count\n}", "mostly_code"),
        ("double fade(double t) { return t * t; } double lerp(double t[], int a_b) { go(); }", "mostly_code"),
        ("| a | b |\n|---|---|\n| 1 | 2 |", "mostly_table"),
        ("word " * 200, "first_sentence_too_long"),
    ],
)
def test_a_text_with_nothing_to_say_is_refused_with_its_reason(text: str, reason: str) -> None:
    with pytest.raises(Unspeakable) as refused:
        speakable(text, language="en", max_seconds=10)
    assert refused.value.reason == reason


@pytest.mark.parametrize(
    "text",
    [
        "word " * 10_000,
        "[" * 20_000 + "a" + "]" * 20_000,
        "(" * 20_000 + "a",
        "`" * 20_000,
        "<a " * 10_000,
        "<!--" * 10_000,
        "$a " * 10_000,
        "1," * 20_000,
        "1" * 20_000,
        "if (" * 10_000,
        "a.b@" * 10_000,
        " " * 40_000 + "a",
        "_a" * 20_000,
        "1/" * 20_000,
        "| " * 20_000,
    ],
)
def test_no_text_takes_long(text: str) -> None:
    start = time.perf_counter()
    with suppress(Unspeakable):
        speakable(text, language="en", max_seconds=20)
    assert time.perf_counter() - start < 1


def dialogue(*texts: str) -> Dialogue:
    channels = (Channel.USER, Channel.ASSISTANT)
    return Dialogue("t/1", "t", tuple(Turn(channels[i % 2], text) for i, text in enumerate(texts)))


def said_of(source: Dialogue, max_exchanges: int = 4) -> Dialogue | Rejected:
    return speakable_dialogue(source, max_query_sec=15, max_reply_sec=20, max_exchanges=max_exchanges)


def test_exchanges_before_the_first_unspeakable_turn_are_kept() -> None:
    kept = said_of(dialogue("Hi?", "Hello.", "Code?", "```\nx\n```", "Thanks", "Welcome"))
    assert isinstance(kept, Dialogue)
    assert [turn.text for turn in kept.turns] == ["Hi?", "Hello."]


def test_a_last_turn_without_an_answer_and_exchanges_over_the_limit_are_left_out() -> None:
    kept = said_of(dialogue("Hi", "Yo", "And?"))
    assert isinstance(kept, Dialogue) and len(kept.turns) == 2
    kept = said_of(dialogue("Hi", "Yo", "And?", "So."), max_exchanges=1)
    assert isinstance(kept, Dialogue) and len(kept.turns) == 2


def test_a_dialogue_without_an_exchange_is_rejected_with_its_reason() -> None:
    assert said_of(dialogue("Hi")) == Rejected("no_exchange", "there is no user turn with an answer", "t/1")
    rejected = said_of(dialogue("Hi", "```\nx = 1\n```"))
    assert isinstance(rejected, Rejected)
    assert (rejected.reason, rejected.where) == ("mostly_code", "t/1")
    assert rejected.detail.startswith("turn 2: ")


@pytest.mark.parametrize("file", ["alpaca_sample.json", "ultrachat_sample.jsonl"])
def test_nearly_all_real_dialogues_can_be_said(shared_data: Path, file: str) -> None:
    results = [said_of(d) for d in read_dialogues(SourceSpec(str(shared_data / file))) if isinstance(d, Dialogue)]
    kept = [result for result in results if isinstance(result, Dialogue)]
    reasons = Counter(result.reason for result in results if isinstance(result, Rejected))
    assert len(kept) > 0.9 * len(results), reasons
    assert set(reasons) <= {"empty", "mostly_code", "mostly_table", "first_sentence_too_long"}
    for turn in (turn for one in kept for turn in one.turns):
        assert not set(turn.text) & UNSAYABLE and not any(map(str.isdigit, turn.text))
        assert turn.text.endswith((".", "!", "?"))
