from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from hypothesis import given, settings
from strategies import DUO, Talk, Writer, embedded_vocabulary, encoded, script_of, talk_of, talks

from duplexdata.conversation import Conversation
from duplexdata.dialogue import Channel, Kind
from duplexdata.layouts.duo import OUTPUT, DuoRow, attention_mask, render
from duplexdata.layouts.interleaved import IGNORED
from duplexdata.layouts.tokens import EOS, NON_QUERY, QUERY


def orderly(talk: Talk) -> Conversation:
    return talk.scheduled().conversation


def row_of(conversation: Conversation) -> DuoRow:
    return render(conversation, [encoded(u.spoken_text) for u in conversation.utterances], DUO)


@dataclass(frozen=True, slots=True)
class Heard:
    """A token of a row: whose it is, and when it is its turn."""

    utterance: int
    id: int
    key: tuple[int, int]


def expected_tokens(conversation: Conversation) -> list[Heard]:
    """Every token in its order, from the conversation's structure alone.

    A word of the assistant stands where it begins, what the user says stands whole where it begins; but an
    interruption comes behind all that the assistant still said while it was stopping.
    """
    us = conversation.utterances
    found: list[Heard] = []
    for i, u in enumerate(us):
        words = u.text.split()
        ids = encoded(u.text).ids.tolist()
        if u.channel is Channel.ASSISTANT:
            found += [Heard(i, t, (int(s), 1)) for t, s in zip(ids[: len(u.word_starts)], u.word_starts, strict=True)]
            if not u.cut:
                assert len(u.word_starts) == len(words)
                found.append(Heard(i, DUO.eos, (u.end, 1)))
            continue
        stopped = [v.end for v in us if v.channel is Channel.ASSISTANT and v.start < u.start < v.end]
        when = stopped[0] if stopped and u.addressed else u.start
        state = DUO.query if u.addressed else DUO.non_query
        found += [Heard(i, t, (when, 0)) for t in [*ids, state]]
    return sorted(found, key=lambda h: h.key)


def concurrent(conversation: Conversation, a: int, b: int) -> bool:
    """Whether one of the two came in while the other, an answer, was running."""
    first, second = (conversation.utterances[i] for i in (a, b))
    if first.channel is second.channel:
        return False
    heard, answer = (first, second) if first.channel is Channel.USER else (second, first)
    return answer.start < heard.start < answer.end


@given(talks())
def test_a_row_is_the_conversations_words_in_their_order_each_with_its_state_token(talk: Talk) -> None:
    conversation = orderly(talk)
    row, expected = row_of(conversation), expected_tokens(conversation)
    assert row.input_ids.tolist() == [h.id for h in expected]
    outputs = [conversation.utterances[h.utterance].channel is Channel.ASSISTANT for h in expected]
    assert (row.channel == OUTPUT).tolist() == outputs
    assert len({len(x) for x in (row.input_ids, row.labels, row.channel, row.position)}) == 1


@given(talks())
def test_the_state_token_says_whether_it_was_addressed_and_eos_closes_what_was_not_cut(talk: Talk) -> None:
    us = talk.scheduled().conversation.utterances
    ids = row_of(talk.scheduled().conversation).input_ids
    assert (ids == DUO.query).sum() == sum(u.channel is Channel.USER and u.addressed for u in us)
    assert (ids == DUO.non_query).sum() == sum(not u.addressed for u in us)
    assert (ids == DUO.eos).sum() == sum(u.channel is Channel.ASSISTANT and not u.cut for u in us)


@given(talks())
def test_the_loss_is_on_state_tokens_and_on_what_the_assistant_says(talk: Talk) -> None:
    row = row_of(talk.scheduled().conversation)
    learnt = (row.channel == OUTPUT) | np.isin(row.input_ids, [DUO.query, DUO.non_query])
    assert np.array_equal(row.labels, np.where(learnt, row.input_ids, IGNORED))


@given(talks())
def test_the_text_reads_as_the_tokens(talk: Talk) -> None:
    # Spaces aside: where what the user says breaks into an answer, only `channel` shows where it begins.
    conversation = orderly(talk)
    row = row_of(conversation)
    expected = []
    words = [iter(u.text.split()) for u in conversation.utterances]
    for h in expected_tokens(conversation):
        special = {DUO.query: QUERY, DUO.non_query: NON_QUERY, DUO.eos: EOS}.get(h.id)
        expected.append(special or next(words[h.utterance]))
    assert row.text.replace(" ", "") == "".join(expected)


@given(talks())
def test_tokens_see_what_came_before_but_not_across_an_overlap(talk: Talk) -> None:
    conversation = orderly(talk)
    row, owners = row_of(conversation), [h.utterance for h in expected_tokens(conversation)]
    n = len(conversation.utterances)
    apart = np.array([[concurrent(conversation, a, b) for b in range(n)] for a in range(n)])
    expected = np.tri(len(owners), dtype=bool) & ~apart[np.ix_(owners, owners)]
    assert np.array_equal(attention_mask(row.channel, row.position), expected)


def positions(conversation: Conversation, row: DuoRow) -> list[list[int]]:
    """Of each utterance's tokens."""
    found: list[list[int]] = [[] for _ in conversation.utterances]
    for h, p in zip(expected_tokens(conversation), row.position.tolist(), strict=True):
        found[h.utterance].append(p)
    return found


@given(talks())
def test_positions_of_an_utterance_are_consecutive_however_many_pieces_it_is_in(talk: Talk) -> None:
    conversation = orderly(talk)
    for p in positions(conversation, row_of(conversation)):
        assert p == list(range(p[0], p[0] + len(p)))


@given(talks())
def test_what_overlaps_counts_from_the_answers_start_and_all_else_from_the_end_of_what_was(talk: Talk) -> None:
    conversation = orderly(talk)
    row = row_of(conversation)
    at = positions(conversation, row)
    order = list(dict.fromkeys(h.utterance for h in expected_tokens(conversation)))
    for n, i in enumerate(order):
        over = [a for a in order[:n] if concurrent(conversation, a, i)]
        earlier = [p for a in order[:n] for p in at[a]]
        if over:
            before = [a for a in order[:n] if a != over[0] and concurrent(conversation, a, over[0])]
            assert at[i][0] == at[over[0]][0] + sum(len(at[a]) for a in before)
        else:
            assert at[i][0] in (max(earlier, default=-1) + 1, max(earlier, default=-1) + 2)


def test_no_token_sees_one_of_its_own_position_or_a_later_one() -> None:
    for seed in range(20):
        w = Writer(np.random.default_rng(seed))
        reply = w.exchange(long=True)
        for _ in range(2):
            w.user(3, Kind.DISTRACTOR, over=reply)
        row = row_of(talk_of(script_of(w.utterances), w.rng, seed).scheduled().conversation)
        seen = attention_mask(row.channel, row.position) & ~np.eye(len(row.position), dtype=bool)
        assert not (seen & (row.position[None, :] >= row.position[:, None])).any()


@given(talks(overlays=False))
def test_without_an_overlap_positions_just_count(talk: Talk) -> None:
    if not talk.cuts:
        row = row_of(talk.scheduled().conversation)
        assert row.position.tolist() == list(range(len(row.position)))


def test_the_drawn_example() -> None:
    """channel   0 0 0 0   1 1 1   0 0 0    1 1 1 1
    position  0 1 2 3   4 5 6   4 5 6    7 8 9 10"""
    w = Writer(np.random.default_rng(0))
    query = w.user(3)
    reply = w.assistant(6, replies_to=query)
    w.user(2, Kind.DISTRACTOR, over=reply)
    # Another seed puts the distractor elsewhere; with this one three words have begun by then.
    for seed in range(200):
        conversation = talk_of(script_of(w.utterances), np.random.default_rng(1), seed).scheduled().conversation
        reply_, distractor = conversation.utterances[1], conversation.utterances[-1]
        if len(conversation.utterances) == 3 and reply_.words_begun_by(distractor.start) == 3:
            break
    row = row_of(conversation)
    assert row.channel.tolist() == [0, 0, 0, 0, 1, 1, 1, 0, 0, 0, 1, 1, 1, 1]
    assert row.position.tolist() == [0, 1, 2, 3, 4, 5, 6, 4, 5, 6, 7, 8, 9, 10]
    mask = attention_mask(row.channel, row.position)
    assert not mask[7:10, 4:7].any()
    assert not mask[10:, 7:10].any()
    assert mask[10, [0, 3, 4, 6]].all()


@given(talks())
@settings(max_examples=30)
def test_with_real_tokens_the_words_are_the_same(talk: Talk) -> None:
    conversation = talk.scheduled().conversation
    vocabulary = embedded_vocabulary()
    row = render(conversation, vocabulary.encode([u.spoken_text for u in conversation.utterances]), vocabulary.duo)
    assert row.text == row_of(conversation).text
    assert vocabulary.decode(row.input_ids.tolist()) == row.text


def test_a_cut_reply_in_chinese_holds_no_word_that_was_not_begun() -> None:
    text = "我们可以从头再说一遍，因为这个问题很重要。" * 4
    for seed in range(12):
        w = Writer(np.random.default_rng(seed))
        reply = w.exchange()
        u = w.utterances[reply]
        w.utterances[reply] = type(u)(u.channel, u.kind, text, u.writer, u.voice, replies_to=0)
        w.interruption(reply)
        talk = talk_of(script_of(w.utterances), w.rng, seed)
        conversation = talk.scheduled().conversation
        vocabulary = embedded_vocabulary()
        row = render(conversation, vocabulary.encode([u.spoken_text for u in conversation.utterances]), vocabulary.duo)
        said = vocabulary.decode(row.input_ids[row.channel == OUTPUT].tolist())
        assert said == conversation.utterances[1].spoken_text
