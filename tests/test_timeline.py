from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest
from strategies import GRID, TIMING, Talk, Writer, script_of, talk_of, talks

from duplexdata.conversation import Conversation, Spoken, barge_in, negative_spans, retimed
from duplexdata.dialogue import Channel, Kind, Utterance
from duplexdata.errors import ScriptError, TimelineError
from duplexdata.layouts.interleaved import text_slots
from duplexdata.timeline import Take, Timeline, anticipatory, check_channels, plan_cut
from duplexdata.units import SAMPLE_RATE, Grid, to_samples

GAP = to_samples(0.8)


def placed(talk: Talk, timeline: Timeline) -> dict[int, Spoken]:
    """By script index."""
    return dict(zip(timeline.order, timeline.conversation.utterances, strict=True))


def within(value: int, bounds: tuple[float, float]) -> bool:
    return to_samples(bounds[0]) <= value <= to_samples(bounds[1])


def turns(talk: Talk) -> list[tuple[int, Utterance]]:
    return [(i, u) for i, u in enumerate(talk.script.utterances) if u.addressed]


def uniform(values: Sequence[float], low: float, high: float) -> bool:
    assert low <= min(values) and max(values) <= high
    return bool(kstest(values, "uniform", (low, high - low)).pvalue > 0.01)


@given(talks())
def test_replies_come_0_8_seconds_after_both_channels_have_fallen_silent(talk: Talk) -> None:
    at = placed(talk, talk.scheduled())
    silent = 0
    for i, u in turns(talk):
        if u.channel is Channel.ASSISTANT:
            assert at[i].start == silent + GAP
        silent = max(silent, at[i].end)


@given(talks())
def test_queries_come_within_the_bounds_of_their_laws(talk: Talk) -> None:
    at = placed(talk, talk.scheduled())
    silent = 0
    for i, u in turns(talk):
        if u.kind is Kind.QUERY:
            assert within(at[i].start - silent, TIMING.next_turn_gap_sec if silent else TIMING.lead_in_sec)
        silent = max(silent, at[i].end)


@given(talks())
def test_an_interruption_lies_in_its_reply_and_so_do_both_stops(talk: Talk) -> None:
    at = placed(talk, talk.scheduled())
    for i, u in turns(talk):
        if u.interrupts is None:
            assert at[i].cut == (i in talk.cuts)
            continue
        reply, whole, cut = at[u.interrupts], talk.takes[u.interrupts].length, talk.cuts[u.interrupts]
        assert reply.start < at[i].start < reply.end < reply.start + whole
        assert reply.cut
        assert within(reply.end - at[i].start, TIMING.reaction_delay_sec)
        assert within(cut.late_delay, TIMING.late_delay_sec)
        assert at[i].start + cut.late_delay < reply.start + whole


@given(talks())
def test_nothing_of_one_channel_overlaps_and_everything_lies_inside(talk: Talk) -> None:
    conversation = talk.scheduled().conversation
    busy = {channel: np.zeros(conversation.n_samples, np.uint8) for channel in Channel}
    for u in conversation.utterances:
        assert 0 <= u.start < u.end <= conversation.n_samples
        busy[u.channel][u.start : u.end] += 1
    assert max(b.max() for b in busy.values()) == 1


@given(talks())
def test_utterances_are_in_order_of_start_and_none_is_lost(talk: Talk) -> None:
    timeline = talk.scheduled()
    starts = [u.start for u in timeline.conversation.utterances]
    assert starts == sorted(starts)
    assert len(timeline.order) + len(timeline.left_out) == len(talk.script.utterances)
    for i, u in placed(talk, timeline).items():
        planned = talk.script.utterances[i]
        assert (u.channel, u.kind, u.text, u.voice) == (planned.channel, planned.kind, planned.text, planned.voice)
        assert u.end - u.start == talk.takes[i].length or u.cut


@given(talks())
def test_overlays_move_nothing(talk: Talk) -> None:
    timeline, plain = talk.scheduled(), talk.without_overlays().scheduled()
    at, before = placed(talk, timeline), placed(talk, plain)
    for i, u in before.items():
        assert (at[i].start, at[i].end) == (u.start, u.end)
    assert replace(timeline.negative, utterance=timeline.order[timeline.negative.utterance]) == replace(
        plain.negative, utterance=plain.order[plain.negative.utterance]
    )


@given(talks())
def test_an_overlay_is_heard_during_what_it_lies_over_else_in_the_silence_at_the_end(talk: Talk) -> None:
    timeline = talk.scheduled()
    at = placed(talk, timeline)
    last = max(u.end for i, u in at.items() if talk.script.utterances[i].addressed)
    for i, u in at.items():
        planned = talk.script.utterances[i]
        if planned.addressed:
            continue
        if planned.over is None:
            assert u.start >= last + to_samples(TIMING.next_turn_gap_sec[0])
            assert timeline.conversation.n_samples >= u.end + to_samples(TIMING.quiet_after_sec)
        else:
            assert at[planned.over].start < u.start < u.end <= at[planned.over].end


def test_an_overlay_never_comes_between_an_interruption_and_the_stop() -> None:
    # By then the floor is the user's: a "mm-hm" to a reply that has been cut makes no sense.
    for seed in range(200):
        w = Writer(np.random.default_rng(seed))
        reply = w.exchange(long=True)
        w.reply(w.user(1, Kind.INTERRUPTION, interrupts=reply))
        w.user(1, Kind.BACKCHANNEL, over=reply)
        talk = talk_of(script_of(w.utterances, f"talk-{seed}"), w.rng)
        for u in talk.scheduled().conversation.utterances:
            if not u.addressed:
                at = placed(talk, talk.scheduled())[reply]
                assert u.end <= at.start + talk.cuts[reply].onset


@given(talks(), st.sampled_from([GRID, Grid(26, 13), Grid(10, 10), Grid(8, 3), Grid(5, 4, 640)]))
def test_the_length_is_whole_blocks_and_holds_both_copies_with_their_text(talk: Talk, grid: Grid) -> None:
    timeline = replace(talk, grid=grid).scheduled()
    conversation = timeline.conversation
    assert conversation.n_samples % grid.block_samples == 0
    n_slots = (conversation.n_samples // grid.block_samples - 1) * grid.n_text
    late = negative_spans(conversation.utterances, timeline.negative)
    for u, span in zip(conversation.utterances, late, strict=True):
        assert max(u.end, span[1]) <= conversation.n_samples
        if u.channel is Channel.ASSISTANT:
            assert max(text_slots(*s, grid)[1] for s in (span, (u.start, u.end))) < n_slots
        else:
            # the user channel is used up to block B
            assert u.end <= conversation.n_samples - grid.block_samples


@given(talks())
def test_the_tail_is_no_longer_than_it_has_to_be(talk: Talk) -> None:
    timeline = talk.scheduled()
    conversation = timeline.conversation
    late = negative_spans(conversation.utterances, timeline.negative)
    last = max(max(u.end for u in conversation.utterances), max(b for _, b in late))
    assert conversation.n_samples < last + to_samples(TIMING.quiet_after_sec) + 2 * GRID.block_samples


@given(talks())
def test_the_negative_leaves_the_user_alone_and_ends_before_the_users_next_turn(talk: Talk) -> None:
    timeline = talk.scheduled()
    utterances, negative = timeline.conversation.utterances, timeline.negative
    late = retimed(utterances, negative_spans(utterances, negative))
    assert [u for u in late if u.channel is Channel.USER] == [u for u in utterances if u.channel is Channel.USER]
    check_channels(replace(timeline.conversation, utterances=late))
    moved = [n for n, (u, v) in enumerate(zip(utterances, late, strict=True)) if (u.start, u.end) != (v.start, v.end)]
    assert negative.utterance in moved
    for n in moved:
        cutter = barge_in(utterances, n)
        ahead = [
            u.start
            for k, u in enumerate(utterances)
            if u.channel is Channel.USER and u.addressed and u.start > utterances[n].start and k != cutter
        ]
        assert not ahead or late[n].end < min(ahead)


@given(talks())
def test_the_negative_differs_in_one_gap_or_one_delay(talk: Talk) -> None:
    timeline = talk.scheduled()
    utterances, negative = timeline.conversation.utterances, timeline.negative
    late = retimed(utterances, negative_spans(utterances, negative))
    u, v = utterances[negative.utterance], late[negative.utterance]
    assert u.channel is Channel.ASSISTANT
    following = [
        n for n in range(negative.utterance + 1, len(utterances)) if utterances[n].channel is Channel.ASSISTANT
    ]
    if negative.kind == "turn_taking":
        assert negative.positive == GAP
        assert within(negative.negative, TIMING.late_gap_sec)
        assert v.start - u.start == v.end - u.end == negative.negative - negative.positive
        silent = max(w.end for w in utterances[: negative.utterance] if w.addressed)
        assert v.start - silent == negative.negative
    else:
        cutter = barge_in(utterances, negative.utterance)
        assert cutter is not None
        assert within(negative.negative, TIMING.late_delay_sec)
        assert v.start == u.start
        assert u.end - utterances[cutter].start == negative.positive
        assert v.end - utterances[cutter].start == negative.negative
        answers = [n for n in following if utterances[n].start > utterances[cutter].start]
        if answers:
            n = answers[0]
            assert late[n].start == max(utterances[n].start, v.end + GAP)
    for n in following:
        a, b = utterances[n], late[n]
        assert b.end - b.start == a.end - a.start
        assert b.start >= a.start


@given(talks())
def test_an_interrupted_conversation_has_an_interruption_pair_where_one_stop_can_come_late(talk: Talk) -> None:
    timeline = talk.scheduled()
    last = turns(talk)[-1][1]
    if last.kind is Kind.INTERRUPTION:
        assert timeline.negative.kind == "interruption"
    if not talk.cuts:
        assert timeline.negative.kind == "turn_taking"


@given(talks())
def test_a_cut_reply_keeps_all_of_its_text_and_the_words_begun(talk: Talk) -> None:
    at = placed(talk, talk.scheduled())
    for i, u in at.items():
        whole = talk.takes[i]
        begun = u.word_starts - u.start
        assert np.array_equal(begun, whole.word_starts[: len(begun)])
        assert u.text == talk.script.utterances[i].text
        assert u.text.startswith(u.spoken_text)
        assert len(u.spoken_text.split()) == len(begun)
        if u.cut:
            assert (u.word_starts < u.end).all()
            assert (whole.word_starts[len(begun) :] + u.start >= u.end).all()
            assert (u.word_ends <= u.end).all()
        else:
            assert u.spoken_text == u.text


@given(talks(timed=False))
def test_without_word_times_a_cut_reply_keeps_the_words_of_its_share_of_characters(talk: Talk) -> None:
    at = placed(talk, talk.scheduled())
    for reply in talk.cuts:
        u = at[reply]
        share = (u.end - u.start) / talk.takes[reply].length
        longest = max(map(len, u.text.split()))
        assert 0 <= len(u.spoken_text) - (share * len(u.text) - 1) <= longest + 2


@given(talks())
@settings(max_examples=20)
def test_the_same_talk_has_the_same_timeline(talk: Talk) -> None:
    a, b = talk.scheduled(), talk.scheduled()
    assert (a.order, a.negative, a.left_out) == (b.order, b.negative, b.left_out)
    assert [(u.start, u.end) for u in a.conversation.utterances] == [
        (u.start, u.end) for u in b.conversation.utterances
    ]


@given(talks())
def test_no_reply_of_the_usual_gap_is_anticipatory(talk: Talk) -> None:
    assert anticipatory(talk.scheduled().conversation, GRID) == 0


def test_a_reply_at_a_gap_below_a_block_counts_as_anticipatory_where_its_block_has_not_heard_the_end() -> None:
    block = GRID.block_samples
    none = np.zeros(0, np.int64)

    def early(query_end: int, reply_start: int) -> int:
        query = Spoken(Channel.USER, Kind.QUERY, "a", 0, query_end, False, "", "", none, none)
        reply = Spoken(Channel.ASSISTANT, Kind.REPLY, "b", reply_start, reply_start + 9999, False, "", "", none, none)
        return anticipatory(_conversation((query, reply), 9 * block), GRID)

    # A query that ends in block 1 is heard by the end of block 1; the reply can sound from block 2 on.
    assert early(block + 1, 2 * block - 1) == 1
    assert early(block + 1, 2 * block) == 0
    assert early(2 * block, 2 * block) == 0
    assert early(2 * block + 1, 2 * block + 2) == 1


def _conversation(utterances: tuple[Spoken, ...], n_samples: int) -> Conversation:
    writer = Writer(np.random.default_rng(0))
    writer.exchange()
    timeline = talk_of(script_of(writer.utterances), writer.rng).scheduled()
    return replace(timeline.conversation, utterances=utterances, n_samples=n_samples)


@given(talks(), st.randoms(use_true_random=False))
@settings(max_examples=30)
def test_a_collision_is_an_error_that_names_the_conversation(talk: Talk, random) -> None:  # type: ignore[no-untyped-def]
    conversation = talk.scheduled().conversation
    n = random.randrange(len(conversation.utterances))
    u = conversation.utterances[n]
    twice = replace(conversation, utterances=(*conversation.utterances[: n + 1], u, *conversation.utterances[n + 1 :]))
    with pytest.raises(TimelineError, match=conversation.id):
        check_channels(twice)
    with pytest.raises(TimelineError, match=conversation.id):
        check_channels(replace(conversation, n_samples=max(v.end for v in conversation.utterances) - 1))


def test_a_reply_too_short_for_the_late_stop_cannot_be_interrupted() -> None:
    script = script_of([])
    with pytest.raises(ScriptError) as error:
        plan_cut(script, 2, to_samples(5.4), TIMING, 0)
    assert error.value.reason == "reply_too_short"
    assert script.id in error.value.detail
    assert plan_cut(script, 2, to_samples(5.5), TIMING, 0).late_stop < to_samples(5.5)


# -- laws, on 1,000 draws each


def test_barge_in_and_both_delays_follow_their_laws() -> None:
    length = 12 * SAMPLE_RATE
    cuts = [plan_cut(script_of([], f"talk-{i}"), 2, length, TIMING, 3) for i in range(1000)]
    assert uniform([c.onset / SAMPLE_RATE for c in cuts], 0.0, 7.0)
    assert uniform([c.delay / SAMPLE_RATE for c in cuts], 0.8, 2.0)
    assert uniform([c.late_delay / SAMPLE_RATE for c in cuts], 3.0, 5.0)
    assert abs(np.corrcoef([(c.onset, c.delay, c.late_delay) for c in cuts], rowvar=False) - np.eye(3)).max() < 0.1


def test_lead_in_next_turn_gap_and_late_gap_follow_their_laws() -> None:
    query = Utterance(Channel.USER, Kind.QUERY, "hello", "made-up", "ann")
    reply = Utterance(Channel.ASSISTANT, Kind.REPLY, "hello", "made-up", "bot", replies_to=0)
    second = replace(reply, replies_to=2)
    take = Take(SAMPLE_RATE, np.zeros(1, np.int64), np.full(1, SAMPLE_RATE))
    lead_ins, gaps, late, which = [], [], [], []
    for i in range(1000):
        script = script_of([query, reply, query, second], f"talk-{i}")
        timeline = Talk(script, (take,) * 4, {}, 5).scheduled()
        us = timeline.conversation.utterances
        lead_ins.append(us[0].start / SAMPLE_RATE)
        gaps.append((us[2].start - us[1].end) / SAMPLE_RATE)
        late.append(timeline.negative.negative / SAMPLE_RATE)
        which.append(timeline.negative.utterance)
    assert uniform(lead_ins, 0.2, 1.0)
    assert uniform(gaps, 0.5, 3.0)
    assert uniform(late, 2.0, 5.0)
    assert set(which) == {1, 3}
    assert abs(np.corrcoef([lead_ins, gaps, late]) - np.eye(3)).max() < 0.1


def test_each_reply_that_can_come_late_is_as_likely() -> None:
    # The gap to the next turn is wide: every reply qualifies.
    timing = replace(TIMING, next_turn_gap_sec=(30.0, 31.0))
    query = Utterance(Channel.USER, Kind.QUERY, "hello", "made-up", "ann")
    take = Take(SAMPLE_RATE, np.zeros(1, np.int64), np.full(1, SAMPLE_RATE))
    count = np.zeros(8, int)
    for i in range(600):
        exchanges = [
            u
            for n in range(3)
            for u in (query, Utterance(Channel.ASSISTANT, Kind.REPLY, "hello", "made-up", "bot", replies_to=2 * n))
        ]
        timeline = Talk(script_of(exchanges, f"talk-{i}"), (take,) * 6, {}, 5, timing).scheduled()
        count[timeline.negative.utterance] += 1
    assert count[[1, 3, 5]].sum() == 600
    assert count[[1, 3, 5]].min() > 160
