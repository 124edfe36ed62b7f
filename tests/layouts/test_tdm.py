from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from strategies import Talk, embedded_vocabulary, encoded, script_of, talk_of, talks

from duplexdata.conversation import Conversation, Spoken
from duplexdata.dialogue import Channel, Kind, Utterance
from duplexdata.layouts.tdm import Message, sliced_by_clock, sliced_by_words
from duplexdata.layouts.tokens import EOS, IDLE
from duplexdata.units import SAMPLE_RATE
from duplexdata.words import word_texts

SLICE = 2 * SAMPLE_RATE


def by_words(conversation: Conversation, seed: int = 0) -> list[Message]:
    starts = [encoded(u.text).starts if u.channel is Channel.ASSISTANT else None for u in conversation.utterances]
    return sliced_by_words(conversation, starts, np.random.default_rng(seed))


def by_clock(conversation: Conversation) -> list[Message]:
    return sliced_by_clock(conversation, SLICE)


def ticks(messages: list[Message]) -> list[tuple[str, str]]:
    """(user, assistant) of each time slice."""
    return [(u, a) for (_, u), (_, a) in zip(messages[::2], messages[1::2], strict=True)]


def words(content: str) -> list[str]:
    return [] if content == IDLE else content.replace(EOS, " ").split()


def of(conversation: Conversation, channel: Channel) -> list[Spoken]:
    return [u for u in conversation.utterances if u.channel is channel]


def owners(conversation: Conversation) -> dict[str, int]:
    """The utterance of each word: no two are the same, but for those of a text that is said twice."""
    return {w: i for i, u in enumerate(conversation.utterances) for w in u.text.split()}


@pytest.mark.parametrize("slicing", [by_words, by_clock])
@given(talk=talks())
def test_messages_alternate_user_and_assistant_and_none_is_empty(slicing, talk: Talk) -> None:  # type: ignore[no-untyped-def]
    messages = slicing(talk.scheduled().conversation)
    assert [role for role, _ in messages] == ["user", "assistant"] * (len(messages) // 2)
    assert all(content.strip() for _, content in messages)


@given(talks(), st.integers(0, 99))
def test_by_words_each_channel_says_its_utterances_and_nothing_else(talk: Talk, seed: int) -> None:
    conversation = talk.scheduled().conversation
    found = ticks(by_words(conversation, seed))
    user = " ".join(u for u, _ in found if u != IDLE)
    assert user == " ".join(u.text for u in of(conversation, Channel.USER))
    assistant = "".join(a for _, a in found if a != IDLE)
    expected = "".join(u.spoken_text + EOS * (not u.cut) for u in of(conversation, Channel.ASSISTANT))
    assert assistant == expected


@given(talks())
def test_by_clock_each_channel_says_its_utterances_and_nothing_else(talk: Talk) -> None:
    conversation = talk.scheduled().conversation
    found = ticks(by_clock(conversation))
    for n, channel in enumerate((Channel.USER, Channel.ASSISTANT)):
        said = [w for tick in found for w in words(tick[n])]
        assert said == [w for u in of(conversation, channel) for w in u.spoken_text.split()]


@pytest.mark.parametrize("slicing", [by_words, by_clock])
@given(talk=talks())
def test_eos_closes_every_reply_that_was_not_cut_and_no_other(slicing, talk: Talk) -> None:  # type: ignore[no-untyped-def]
    conversation = talk.scheduled().conversation
    text = "".join(a for _, a in ticks(slicing(conversation)) if a != IDLE)
    whole = [u for u in of(conversation, Channel.ASSISTANT) if not u.cut]
    assert text.count(EOS) == len(whole)
    for u in whole:
        assert u.text.split()[-1] + EOS in text
    assert all(EOS not in u for u, _ in ticks(slicing(conversation)))


@given(talks(), st.integers(0, 99))
def test_by_words_the_assistant_waits_for_the_end_and_answers_in_the_users_last_slice(talk: Talk, seed: int) -> None:
    conversation = talk.scheduled().conversation
    us, owner = conversation.utterances, owners(conversation)
    found = ticks(by_words(conversation, seed))
    for i, u in enumerate(us):
        if u.channel is Channel.ASSISTANT or not u.addressed:
            continue
        mine = [t for t in found if t[0] != IDLE and owner[t[0].split()[0]] == i]
        assert all(a == IDLE for _, a in mine[:-1])
        turns = [k for k in range(i + 1, len(us)) if us[k].addressed]
        if turns and us[turns[0]].channel is Channel.ASSISTANT:
            answer = words(mine[-1][1])
            assert answer == us[turns[0]].spoken_text.split()[: len(answer)] != []
        else:
            assert mine[-1][1] == IDLE


@given(talks(), st.integers(0, 99))
def test_by_words_slices_have_four_to_six_words_and_ten_tokens(talk: Talk, seed: int) -> None:
    conversation = talk.scheduled().conversation
    owner = owners(conversation)
    found = ticks(by_words(conversation, seed))
    for n, (low, high) in enumerate([(4, 6), (10, 10)]):
        slices = [words(t[n]) for t in found if t[n] != IDLE]
        for k, s in enumerate(slices):
            last = k + 1 == len(slices) or owner[slices[k + 1][0]] != owner[s[0]]
            assert (1 if last else low) <= len(s) <= high


@given(talks(), st.integers(0, 99))
def test_by_words_an_overlay_comes_behind_what_had_begun_by_then(talk: Talk, seed: int) -> None:
    conversation = talk.scheduled().conversation
    overlays = [u for u in conversation.utterances if not u.addressed]
    assume(overlays)
    first = overlays[0]
    begins = {
        w: int(s)
        for u in of(conversation, Channel.ASSISTANT)
        for w, s in zip(u.text.split(), u.word_starts, strict=False)
    }
    found = ticks(by_words(conversation, seed))
    at = next(n for n, (u, _) in enumerate(found) if u != IDLE and u.split()[0] == first.text.split()[0])
    user_ends = [u.end for u in conversation.utterances if u.channel is Channel.USER and u.addressed]
    assume(not any(b > first.start > a for a, b in _stops(conversation)))
    for n, (user, assistant) in enumerate(found):
        if assistant != IDLE and user == IDLE and user_ends:
            assert (begins[words(assistant)[0]] < first.start) == (n < at)


def _stops(conversation: Conversation) -> list[tuple[int, int]]:
    """Each interruption's start and the stop it leads to."""
    us = conversation.utterances
    return [
        (u.start, w.end) for u in us if u.kind is Kind.INTERRUPTION for w in us if w.cut and w.start < u.start < w.end
    ]


@given(talks())
def test_by_clock_a_word_is_in_the_slice_in_which_it_begins(talk: Talk) -> None:
    conversation = talk.scheduled().conversation
    found = ticks(by_clock(conversation))
    assert len(found) == -(-conversation.n_samples // SLICE)
    for n, channel in enumerate((Channel.USER, Channel.ASSISTANT)):
        at = {w: k for k, t in enumerate(found) for w in words(t[n])}
        for u in of(conversation, channel):
            for w, start in zip(u.text.split(), u.word_starts, strict=False):
                assert at[w] == start // SLICE


def test_by_clock_two_replies_in_one_slice_are_kept_apart() -> None:
    """A reply that is cut at 6.9 s; the interruption is one short word, so that the next reply starts at 7.7 s."""
    conversation = made_of(spoken_four())
    assert [w for _, a in ticks(by_clock(conversation)) for w in words(a)] == ["one", "two", "three", "four", "five"]


def spoken_four() -> tuple[Spoken, Spoken, Spoken, Spoken]:
    def spoken(channel: Channel, kind: Kind, text: str, starts: list[float], end: float, cut: bool = False) -> Spoken:
        at = (np.array(starts) * SAMPLE_RATE).astype(np.int64)
        return Spoken(channel, kind, text, int(at[0]), int(end * SAMPLE_RATE), cut, "", "", at, at + 100)

    return (
        spoken(Channel.USER, Kind.QUERY, "hello", [0.5], 1.0),
        spoken(Channel.ASSISTANT, Kind.REPLY, "one two three lost lost", [1.8, 2.5, 6.5], 6.9, cut=True),
        spoken(Channel.USER, Kind.INTERRUPTION, "no", [5.9], 6.3),
        spoken(Channel.ASSISTANT, Kind.REPLY, "four five", [7.7, 8.3], 9.0),
    )


def made_of(utterances: tuple[Spoken, ...]) -> Conversation:
    rng = np.random.default_rng(0)
    query = Utterance(Channel.USER, Kind.QUERY, "hello", "", "")
    reply = Utterance(Channel.ASSISTANT, Kind.REPLY, "hello", "", "", replies_to=0)
    some = talk_of(script_of([query, reply]), rng).scheduled().conversation
    return replace(some, utterances=tuple(sorted(utterances, key=lambda u: u.start)), n_samples=10 * SAMPLE_RATE)


CHINESE = st.text(st.sampled_from("我们可以从头再说一遍因为这个问题很重要，。！A1 "), min_size=1, max_size=80).filter(
    lambda t: bool(word_texts(t))
)


@given(CHINESE, CHINESE, st.integers(0, 99))
@settings(max_examples=60)
def test_chinese_keeps_every_character_in_both_slicings(query: str, reply: str, seed: int) -> None:
    query, reply = query.strip(), reply.strip()
    rng = np.random.default_rng(seed)
    utterances = [
        Utterance(Channel.USER, Kind.QUERY, query, "", ""),
        Utterance(Channel.ASSISTANT, Kind.REPLY, reply, "", "", replies_to=0),
    ]
    conversation = talk_of(script_of(utterances), rng).scheduled().conversation
    starts = [e.starts for e in embedded_vocabulary().encode([query, reply])]
    for messages in (sliced_by_words(conversation, starts, rng), by_clock(conversation)):
        for n, text in enumerate((query, reply + EOS)):
            found = "".join(t[n] for t in ticks(messages) if t[n] != IDLE)
            assert re.sub(r"\s", "", found) == re.sub(r"\s", "", text)


@given(talks(overlays=False), st.integers(0, 99))
@settings(max_examples=30)
def test_with_real_tokens_slices_join_to_what_was_said(talk: Talk, seed: int) -> None:
    conversation = talk.scheduled().conversation
    starts = [e.starts for e in embedded_vocabulary().encode([u.text for u in conversation.utterances])]
    messages = sliced_by_words(conversation, starts, np.random.default_rng(seed))
    said = "".join(a for _, a in ticks(messages) if a != IDLE)
    assert said == "".join(u.spoken_text + EOS * (not u.cut) for u in of(conversation, Channel.ASSISTANT))


@given(talks(timed=False, interrupted=False))
@settings(max_examples=30)
def test_without_word_times_clock_slices_still_hold_every_word_of_uncut_utterances(talk: Talk) -> None:
    conversation = talk.scheduled().conversation
    found = ticks(by_clock(conversation))
    for n, channel in enumerate((Channel.USER, Channel.ASSISTANT)):
        said = [w for t in found for w in words(t[n])]
        assert said == [w for u in of(conversation, channel) for w in u.text.split()]
