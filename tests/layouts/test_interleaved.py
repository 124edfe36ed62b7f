from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from math import ceil, floor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import FIRST_TEXT_ID, GRID, STATE, Talk, assistant_tokens, talks

from duplexdata.conversation import Spoken, negative_spans
from duplexdata.dialogue import Channel, Kind
from duplexdata.errors import ScriptError, TimelineError
from duplexdata.layouts.interleaved import IGNORED, assistant_slot, parse, render, reply_start, text_channel, text_slots
from duplexdata.units import SAMPLE_RATE, Grid

GRIDS = st.sampled_from([GRID, Grid(26, 13), Grid(10, 10), Grid(8, 3), Grid(5, 4, 640), Grid(12, 7, 1000)])


# -- the specification once more, slowly: seconds as fractions, and nothing shared with the package


def slow_slots(start: int, end: int, heard: int | None, grid: Grid, *, causal: bool) -> tuple[int, int]:
    s, e = Fraction(start, SAMPLE_RATE), Fraction(end, SAMPLE_RATE)
    f_s = Fraction(SAMPLE_RATE, grid.frame_samples)
    dt = grid.n_speech / f_s
    per_frame = Fraction(grid.n_text, grid.n_speech)
    j_ast = floor(floor((s - dt) * f_s) * per_frame) - 1
    j_epad = ceil(ceil((e - dt) * f_s) * per_frame)
    if causal and heard is not None:
        b = ceil(Fraction(heard, SAMPLE_RATE) / dt) - 1
        # what block b decides sounds in block b + 1 at the earliest
        if s >= (b + 1) * dt:
            j_ast = max(j_ast, b * grid.n_text)
    return j_ast, j_epad


def query_of(talk: Talk, index: int) -> int:
    """The script's index of the user utterance that the assistant's utterance `index` comes after."""
    script = talk.script.utterances
    answered = script[index].replies_to
    if answered is not None:
        return answered
    return max(i for i in range(index) if script[i].channel is Channel.USER and script[i].addressed)


def slow_channel(talk: Talk, grid: Grid, *, causal: bool) -> list[str] | str:
    """z by name: "S", "A", "P", "E", or "utterance.token"; or what is wrong with it."""
    timeline = replace(talk, grid=grid).scheduled()
    at = dict(zip(timeline.order, timeline.conversation.utterances, strict=True))
    n_blocks = timeline.conversation.n_samples // grid.block_samples - 1
    z = ["S"] * (n_blocks * grid.n_text)
    previous = -1
    for i in sorted(at, key=lambda i: at[i].start):
        u = at[i]
        if u.channel is Channel.USER:
            continue
        ast, epad = slow_slots(u.start, u.end, at[query_of(talk, i)].end, grid, causal=causal)
        if ast < 0 or ast <= previous or epad >= len(z):
            return "collision"
        z[ast] = "A"
        words = [f"{i}.{n}" for n in range(len(u.text.split()))]
        for slot in range(ast + 1, epad):
            z[slot] = words.pop(0) if words else "P"
        if words and not u.cut:
            return "overflow"
        z[epad] = "E"
        previous = epad
    return z


def by_name(talk: Talk, grid: Grid, *, causal: bool) -> list[str] | str:
    """The package's z in the same names."""
    timeline = replace(talk, grid=grid).scheduled()
    conversation = timeline.conversation
    tokens = [
        None if u.channel is Channel.USER else np.arange(len(u.text.split()), dtype=np.int32) + 1000 * (i + 1)
        for i, u in zip(timeline.order, conversation.utterances, strict=True)
    ]
    n_blocks = conversation.n_samples // grid.block_samples - 1
    try:
        z, _ = text_channel(
            conversation.utterances,
            [(u.start, u.end) for u in conversation.utterances],
            tokens,
            n_blocks,
            grid,
            STATE,
            causal=causal,
            where=conversation.id,
        )
    except TimelineError as error:
        assert conversation.id in str(error)
        return "collision"
    except ScriptError as error:
        assert error.reason == "text_overflow"
        assert conversation.id in error.detail
        return "overflow"
    names = {STATE.silence: "S", STATE.assistant: "A", STATE.pad: "P", STATE.epad: "E"}
    return [names.get(t) or f"{t // 1000 - 1}.{t % 1000}" for t in z.tolist()]


@given(talks(), st.booleans())
def test_the_text_channel_is_that_of_the_formula(talk: Talk, causal: bool) -> None:
    expected = slow_channel(talk, GRID, causal=causal)
    assert by_name(talk, GRID, causal=causal) == expected
    assert not isinstance(expected, str)


@given(talks(), GRIDS, st.booleans())
def test_so_it_is_on_every_grid(talk: Talk, grid: Grid, causal: bool) -> None:
    found, expected = by_name(talk, grid, causal=causal), slow_channel(talk, grid, causal=causal)
    # A conversation can be wrong in both ways; which one is found first is open.
    assert found == expected or (isinstance(found, str) and isinstance(expected, str))


@given(st.integers(0, 10**7), st.integers(1, 10**6), st.integers(0, 10**7), GRIDS, st.booleans())
def test_slots_are_those_of_exact_fractions(start: int, length: int, heard: int, grid: Grid, causal: bool) -> None:
    found = assistant_slot(start, start + length, heard, grid, causal=causal)
    assert found == slow_slots(start, start + length, heard, grid, causal=causal)


@given(st.integers(0, 10**6), st.integers(0, 40_000), st.integers(1, 10**6), GRIDS)
def test_a_causal_reply_is_never_decided_before_its_query_was_heard(
    heard: int, gap: int, length: int, grid: Grid
) -> None:
    start = heard + gap
    paper, _ = text_slots(start, start + length, grid)
    ast, epad = assistant_slot(start, start + length, heard, grid, causal=True)
    assert paper <= ast <= paper + 1
    assert ast < epad
    if gap >= grid.block_samples:
        block = ast // grid.n_text
        assert (block + 1) * grid.block_samples >= heard
        # and what the block says sounds no earlier than the reply
        assert (block + 1) * grid.block_samples <= start


@given(st.integers(GRID.block_samples, 10**7), st.integers(0, 30_000))
def test_the_replys_start_comes_back_within_two_slots(start: int, gap: int) -> None:
    heard = max(0, start - gap)
    for causal in (True, False):
        ast, _ = assistant_slot(start, start + 1, heard, GRID, causal=causal)
        assert abs(reply_start(ast, GRID) - start / SAMPLE_RATE) <= 0.32 + 1e-9


def runs(z: Sequence[int]) -> list[list[int]]:
    """The text tokens between each [ASSISTANT] and its [EPAD]; raises where the channel is malformed."""
    found: list[list[int]] = []
    inside, padded = False, False
    for t in map(int, z):
        if t == STATE.assistant:
            assert not inside
            found.append([])
            inside, padded = True, False
        elif t == STATE.epad:
            assert inside
            inside = False
        elif t == STATE.pad:
            assert inside
            padded = True
        elif t == STATE.silence:
            assert not inside
        else:
            assert inside
            assert not padded
            assert t >= FIRST_TEXT_ID
            found[-1].append(t)
    assert not inside
    return found


def sides(talk: Talk) -> tuple[np.ndarray, np.ndarray, dict[int, int], dict[int, int]]:
    """z of the positive and of the negative, and what each utterance kept there."""
    timeline = talk.scheduled()
    conversation = timeline.conversation
    us = conversation.utterances
    n_blocks = conversation.n_samples // GRID.block_samples - 1
    tokens = assistant_tokens(conversation)
    z, kept = text_channel(us, [(u.start, u.end) for u in us], tokens, n_blocks, GRID, STATE)
    late = negative_spans(us, timeline.negative)
    z_late, kept_late = text_channel(us, late, tokens, n_blocks, GRID, STATE, kept=kept)
    return z, z_late, kept, kept_late


@given(talks())
def test_each_utterance_of_the_assistant_has_one_start_and_one_epad_and_its_text_between(talk: Talk) -> None:
    conversation = talk.scheduled().conversation
    z, _, kept, _ = sides(talk)
    spoken = [(i, u) for i, u in enumerate(conversation.utterances) if u.channel is Channel.ASSISTANT]
    tokens = assistant_tokens(conversation)
    found = runs(z.tolist())
    assert len(found) == len(spoken) == len(kept)
    for (i, u), text in zip(spoken, found, strict=True):
        words = tokens[i]
        assert words is not None
        assert text == words[: kept[i]].tolist()
        if u.cut:
            assert len(text) >= min(len(words), len(u.spoken_text.split()))
        else:
            assert kept[i] == len(words)


@given(talks())
def test_chosen_and_rejected_have_the_same_length_and_text_but_another_timing(talk: Talk) -> None:
    z, z_late, kept, kept_late = sides(talk)
    assert len(z) == len(z_late)
    assert kept == kept_late
    assert runs(z.tolist()) == runs(z_late.tolist())
    assert not np.array_equal(z, z_late)


@given(talks(), st.integers(0, 2**32 - 1))
@settings(max_examples=50)
def test_chosen_is_the_sft_row_and_user_tokens_are_equal(talk: Talk, seed: int) -> None:
    z, z_late, _, _ = sides(talk)
    rng = np.random.default_rng(seed)
    n = len(z) // GRID.n_text
    user, assistant, late = rng.integers(0, 4096, (3, (n + 1) * GRID.n_speech)).astype(np.int32)
    sft, chosen, rejected = (
        render(user, text, speech, GRID, STATE.speech_offset)
        for text, speech in ((z, assistant), (z, assistant), (z_late, late))
    )
    assert np.array_equal(sft.input_ids, chosen.input_ids)
    assert np.array_equal(sft.labels, chosen.labels)
    masked = rejected.labels == IGNORED
    assert np.array_equal(masked, chosen.labels == IGNORED)
    assert np.array_equal(rejected.input_ids[masked], chosen.input_ids[masked])


@st.composite
def channels(draw: st.DrawFn) -> tuple[Grid, np.ndarray, np.ndarray, np.ndarray]:
    grid = draw(GRIDS)
    blocks, beyond = draw(st.integers(1, 12)), draw(st.integers(0, 7))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    frames = (blocks + 1) * grid.n_speech + beyond
    dtype = draw(st.sampled_from([np.int32, np.uint16, np.int64]))
    user, assistant = rng.integers(0, 65_536, (2, frames)).astype(dtype)
    return grid, user, rng.integers(0, 90_000, blocks * grid.n_text).astype(np.int32), assistant


@given(channels())
def test_what_was_rendered_is_parsed_back(c: tuple[Grid, np.ndarray, np.ndarray, np.ndarray]) -> None:
    grid, user, z, assistant = c
    row = render(user, z, assistant, grid, STATE.speech_offset)
    blocks = len(z) // grid.n_text
    assert row.n_blocks == blocks
    assert len(row.input_ids) == blocks * (2 * grid.n_speech + grid.n_text)
    x, text, y = parse(row.input_ids, grid, STATE.speech_offset)
    assert np.array_equal(x, user[: blocks * grid.n_speech])
    assert np.array_equal(text, z)
    assert np.array_equal(y, assistant[grid.n_speech : (blocks + 1) * grid.n_speech])


@given(channels())
def test_a_block_is_user_then_text_then_the_assistants_next_block(
    c: tuple[Grid, np.ndarray, np.ndarray, np.ndarray],
) -> None:
    grid, user, z, assistant = c
    ids = render(user, z, assistant, grid, STATE.speech_offset).input_ids.tolist()
    n, m = grid.n_speech, grid.n_text
    expected: list[int] = []
    for b in range(len(z) // m):
        expected += [STATE.speech_offset + int(t) for t in user[b * n : (b + 1) * n]]
        expected += [int(t) for t in z[b * m : (b + 1) * m]]
        expected += [STATE.speech_offset + int(t) for t in assistant[(b + 1) * n : (b + 2) * n]]
    assert ids == expected


@given(channels())
def test_labels_are_missing_exactly_on_the_users_tokens(c: tuple[Grid, np.ndarray, np.ndarray, np.ndarray]) -> None:
    grid, user, z, assistant = c
    row = render(user, z, assistant, grid, STATE.speech_offset)
    in_block = np.arange(len(row.labels)) % grid.block_tokens
    assert np.array_equal(row.labels == IGNORED, in_block < grid.n_speech)
    heard = row.labels != IGNORED
    assert np.array_equal(row.labels[heard], row.input_ids[heard])
    assert row.input_ids.dtype == row.labels.dtype == np.int32


def test_too_few_frames_are_an_error() -> None:
    z = np.zeros(10, np.int32)
    with pytest.raises(ValueError, match="frames for 2 blocks"):
        render(np.zeros(30, np.int32), z, np.zeros(29, np.int32), GRID, 0)
    with pytest.raises(ValueError, match="no whole number of blocks"):
        parse(np.zeros(26, np.int32), GRID, 0)


def test_the_papers_example_in_numbers() -> None:
    # A reply from 3.2 s to 6.0 s, by hand: floor(2.4 * 12.5) * 5 / 10 - 1 = 14, ceil(5.2 * 12.5) * 5 / 10 = 32.5.
    assert text_slots(51_200, 96_000, GRID) == (14, 33)
    # The query ends at 2.4 s, with block 2, whose first slot is 10: nothing to move.
    assert assistant_slot(51_200, 96_000, 38_400, GRID, causal=True) == (14, 33)
    # One sample later it is block 3 that has heard it: slot 15.
    assert assistant_slot(51_200, 96_000, 38_401, GRID, causal=True) == (15, 33)
    assert assistant_slot(51_200, 96_000, 38_401, GRID, causal=False) == (14, 33)
    # A reply that starts before block 4 cannot be block 3's decision: it is anticipatory and stays.
    assert assistant_slot(51_199, 96_000, 38_401, GRID, causal=True) == (13, 33)


# -- errors

NONE = np.zeros(0, np.int64)


def said(start: int, end: int, *, cut: bool = False, channel: Channel = Channel.ASSISTANT) -> Spoken:
    return Spoken(channel, Kind.REPLY, "words", start, end, cut, "", "", NONE, NONE)


def channel_of(
    *utterances: Spoken, n_tokens: int, n_blocks: int = 20, kept: dict[int, int] | None = None
) -> np.ndarray:
    tokens = [np.arange(n_tokens, dtype=np.int32) + FIRST_TEXT_ID] * len(utterances)
    spans = [(u.start, u.end) for u in utterances]
    return text_channel(utterances, spans, tokens, n_blocks, GRID, STATE, where="talk-9", kept=kept)[0]


def test_a_text_that_just_fits_has_no_pad_and_one_token_more_overflows() -> None:
    reply = said(51_200, 96_000)
    assert STATE.pad not in channel_of(reply, n_tokens=18)
    with pytest.raises(ScriptError, match="talk-9: utterance 0 has 19 text tokens for 18 slots") as error:
        channel_of(reply, n_tokens=19)
    assert error.value.reason == "text_overflow"


def test_a_cut_reply_keeps_the_tokens_that_fit() -> None:
    z = channel_of(said(51_200, 96_000, cut=True), n_tokens=50)
    assert runs(z.tolist()) == [list(range(FIRST_TEXT_ID, FIRST_TEXT_ID + 18))]


def test_a_negative_fills_what_it_has_more_of_with_pads() -> None:
    z = channel_of(said(51_200, 196_000, cut=True), n_tokens=50, kept={0: 18})
    assert runs(z.tolist()) == [list(range(FIRST_TEXT_ID, FIRST_TEXT_ID + 18))]
    assert (z == STATE.pad).sum() > 30


@pytest.mark.parametrize(
    "utterances",
    [
        (said(51_200, 96_000), said(96_000, 140_000)),  # the next starts in the slot where the last ends
        (said(51_200, 96_000), said(96_000 + 1_280, 140_000)),
        (said(12_000, 60_000),),  # would be announced before the first slot
        (said(51_200, 16 * 20_000),),  # ends behind the last slot
    ],
)
def test_colliding_and_outlying_slots_are_an_error_that_names_the_conversation(utterances: tuple[Spoken, ...]) -> None:
    with pytest.raises(TimelineError, match="talk-9"):
        channel_of(*utterances, n_tokens=1)
