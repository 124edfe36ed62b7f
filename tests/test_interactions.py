from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import some_words

from duplexdata.banks import Banks
from duplexdata.config import MixConfig, TimingConfig
from duplexdata.dialogue import Channel, Dialogue, Kind, Scenario, Script, Turn
from duplexdata.interactions import (
    Cast,
    Material,
    as_turn_taking,
    can_lend,
    dialogues_needed,
    fits,
    interruptible,
    plan_drafts,
    plan_script,
    rest_from_sentence,
    resume,
)
from duplexdata.resources import banks
from duplexdata.sources.read import read_dialogues
from duplexdata.sources.shapes import SourceSpec
from duplexdata.spoken import sentences, speakable_dialogue
from duplexdata.words import word_texts

TIMING = TimingConfig()
PLAIN = replace(MixConfig(), distractor=0.0, backchannel=0.0, pause=0.0)
CAST = Cast("ann", "bot", "eve")
U, A = Channel.USER, Channel.ASSISTANT
NEEDED = {Scenario.DIALOGUE_RESET: 5, Scenario.TOPIC_INTERWEAVING: 4, Scenario.BACK_ON_TOPIC: 2}


def english() -> Banks:
    found = banks("en")
    assert found is not None
    return found


def sentence(rng: np.random.Generator, n: int) -> str:
    return some_words(rng, n).replace(".", "").replace(";", "").replace(",", "").capitalize() + "."


def dialogue(rng: np.random.Generator, name: str, exchanges: int = 3, *, long: bool = True) -> Dialogue:
    """Queries of one sentence; replies of several, long enough to be interrupted or too short for it."""
    turns = []
    for _ in range(exchanges):
        turns.append(Turn(U, sentence(rng, int(rng.integers(3, 9)))[:-1] + "?"))
        said = [sentence(rng, int(rng.integers(5, 10))) for _ in range(4)] if long else [sentence(rng, 3)]
        turns.append(Turn(A, " ".join(said)))
    return Dialogue(f"made-up/{name}", "made-up", tuple(turns), licence=f"licence-{name}")


def material(seed: int, n: int, exchanges: int = 3, *, phrases: bool = True) -> Material:
    rng = np.random.default_rng(seed)
    dialogues = tuple(dialogue(rng, f"{seed}-{k}", exchanges) for k in range(n))
    return Material(dialogues, english() if phrases else None, CAST)


def planned(scenario: Scenario, seed: int = 0, mix: MixConfig = PLAIN, repeat: int = 0) -> tuple[Script, Material]:
    m = material(seed, NEEDED.get(scenario, 1))
    return plan_script(scenario, m, repeat=repeat, mix=mix, timing=TIMING, seed=seed), m


def shape(script: Script) -> str:
    """One letter per utterance: q(uery), r(eply), i(nterruption), c(ontinuation), d(istractor), b(ackchannel)."""
    letters = {Kind.QUERY: "q", Kind.REPLY: "r", Kind.INTERRUPTION: "i", Kind.RESUMPTION: "c", Kind.DISTRACTOR: "d"}
    return "".join(letters.get(u.kind, "b") for u in script.utterances)


def exchanges_of(d: Dialogue) -> list[tuple[str, str]]:
    return [(q.text, r.text) for q, r in zip(d.turns[::2], d.turns[1::2], strict=True)]


SEEDS = st.integers(0, 10**6)
ALL = pytest.mark.parametrize("scenario", list(Scenario))


# -- structure


@given(SEEDS)
def test_uninterrupted_is_the_dialogue_as_it_is(seed: int) -> None:
    script, m = planned(Scenario.UNINTERRUPTED, seed)
    assert [(u.channel, u.text) for u in script.utterances] == [(t.channel, t.text) for t in m.dialogues[0].turns]
    assert shape(script) == "qrqrqr"
    assert {u.writer for u in script.utterances} == {"corpus"}


@given(SEEDS)
def test_interweaving_takes_up_each_dialogue_in_turn_and_keeps_the_order_inside_each(seed: int) -> None:
    script, m = planned(Scenario.TOPIC_INTERWEAVING, seed)
    assert shape(script) == "qr" * (len(script.utterances) // 2)
    replies = [u.text for u in script.utterances if u.channel is A]
    for d in m.dialogues:
        own = [r for _, r in exchanges_of(d)[:2]]
        assert [r for r in replies if r in own] == own
    assert len(replies) == 2 * len(m.dialogues)
    queries = {r: q for d in m.dialogues for q, r in exchanges_of(d)}
    seen: list[str] = []
    topic = {r: d.id for d in m.dialogues for _, r in exchanges_of(d)}
    for u, reply in zip(script.utterances[::2], script.utterances[1::2], strict=True):
        # A bridge only where a topic that was left is taken up again.
        back = topic[reply.text] in seen[:-1] and seen[-1] != topic[reply.text]
        assert u.text.lower().endswith(queries[reply.text].lower())
        assert back or u.text == queries[reply.text]
        seen.append(topic[reply.text])


@given(SEEDS)
def test_a_termination_is_the_end(seed: int) -> None:
    script, m = planned(Scenario.GENERATION_TERMINATION, seed)
    assert shape(script) == "qr" * (shape(script).count("q")) + "i"
    assert script.utterances[-1].interrupts == len(script.utterances) - 2
    assert script.utterances[-1].text in english().transitions["generation_termination"]
    assert script.utterances[-1].writer == "template"
    said = [u.text for u in script.utterances[:-1]]
    assert said == [t.text for t in m.dialogues[0].turns[: len(said)]]


@given(SEEDS)
def test_a_regeneration_has_the_reply_again_from_its_start_and_then_goes_on(seed: int) -> None:
    script, m = planned(Scenario.REGENERATION, seed)
    at = shape(script).index("i")
    us = script.utterances
    assert us[at].interrupts == at - 1
    assert us[at].text in english().transitions["regeneration"]
    assert us[at + 1].text == us[at - 1].text
    assert us[at + 1].replies_to == at
    rest = [*us[:at], *us[at + 2 :]]
    assert [u.text for u in rest] == [t.text for t in m.dialogues[0].turns]


@given(SEEDS)
def test_a_reset_opens_five_dialogues_and_cuts_the_first_four(seed: int) -> None:
    script, m = planned(Scenario.DIALOGUE_RESET, seed)
    assert shape(script).endswith("qr" + "ir" * 4)
    for n, u in enumerate(script.utterances):
        if u.kind is Kind.INTERRUPTION:
            assert u.interrupts == n - 1
            assert script.utterances[n + 1].replies_to == n
    openings = [u.text for u in script.utterances if u.kind is Kind.INTERRUPTION]
    for d, opening in zip(m.dialogues[1:], openings, strict=True):
        assert opening.lower().endswith(d.turns[0].text.lower())
    replies = [u.text for u in script.utterances if u.channel is A]
    assert replies[-4:] == [d.turns[1].text for d in m.dialogues[1:]]
    assert all(interruptible(r, "en", TIMING) for r in replies[:-1][-4:])


@given(SEEDS)
def test_a_reset_begins_with_an_opening_not_in_the_middle_of_a_dialogue(seed: int) -> None:
    script, m = planned(Scenario.DIALOGUE_RESET, seed)
    assert script.utterances[0].text == m.dialogues[0].turns[0].text


@given(SEEDS)
def test_back_on_topic_answers_in_a_sentence_and_resumes_the_reply_that_was_cut(seed: int) -> None:
    script, m = planned(Scenario.BACK_ON_TOPIC, seed)
    at = shape(script).index("i")
    us = script.utterances
    assert shape(script)[at : at + 3] == "irc"
    assert us[at].interrupts == us[at + 2].resumes == at - 1
    question, answer = next((q, r) for q, r in exchanges_of(m.dialogues[1]) if us[at].text.lower().endswith(q.lower()))
    assert us[at + 1].text == sentences(answer, "en")[0]
    assert us[at + 2].text in english().transitions["resumption"]
    rest = [*us[:at], *us[at + 3 :]]
    assert [u.text for u in rest] == [t.text for t in m.dialogues[0].turns]
    assert question


@ALL
@given(seed=SEEDS)
@settings(max_examples=30)
def test_what_is_cut_is_long_enough_and_links_point_where_they_should(scenario: Scenario, seed: int) -> None:
    script, _ = planned(scenario, seed, MixConfig())
    us = script.utterances
    for n, u in enumerate(us):
        assert (u.interrupts is not None) == (u.kind is Kind.INTERRUPTION)
        assert (u.resumes is not None) == (u.kind is Kind.RESUMPTION)
        assert (u.replies_to is not None) == (u.kind is Kind.REPLY)
        for link in (u.interrupts, u.resumes):
            assert link is None or us[link].kind is Kind.REPLY
        if u.interrupts is not None:
            assert interruptible(us[u.interrupts].text, "en", TIMING)
        if u.replies_to is not None:
            assert us[u.replies_to].channel is U
            assert u.replies_to < n
        if u.over is not None:
            assert us[u.over].channel is A
    addressed = [u.addressed for u in us]
    assert addressed == sorted(addressed, reverse=True)


@ALL
@given(seed=SEEDS)
@settings(max_examples=30)
def test_every_word_comes_from_the_dialogues_or_the_banks(scenario: Scenario, seed: int) -> None:
    script, m = planned(scenario, seed, MixConfig())
    spoken = {t.text.lower() for d in m.dialogues for t in d.turns}
    spoken |= {s.lower() for d in m.dialogues for t in d.turns for s in sentences(t.text, "en")}
    bank = english()
    phrases = {p.lower() for name in bank.transitions.values() for p in name} | {b.lower() for b in bank.backchannels}
    for u in script.utterances:
        text = u.text.lower()
        if u.kind is Kind.DISTRACTOR:
            # Made from a template; the words that fill it are the context's or the bank's.
            assert u.writer == "template"
        elif u.writer == "corpus":
            assert text in spoken
        elif u.writer == "template" or u.kind is Kind.RESUMPTION:
            assert text in phrases
        else:
            assert u.writer == "template+corpus"
            assert any(text == f"{p} {s}" for p in phrases if p and text.startswith(p) for s in spoken)


@ALL
@given(seed=SEEDS)
@settings(max_examples=30)
def test_sources_are_those_whose_words_are_in_it(scenario: Scenario, seed: int) -> None:
    script, m = planned(scenario, seed)
    said = " ".join(u.text.lower() for u in script.utterances)
    heard = {
        d.id for d in m.dialogues if any(s.lower() in said for t in d.turns for s in sentences(t.text, d.language))
    }
    assert heard == set(script.source_ids)
    assert len(set(script.source_ids)) == len(script.source_ids)
    assert script.source_ids[0] == m.dialogues[0].id
    assert set(script.licence.split(" AND ")) == {d.licence for d in m.dialogues if d.id in heard}


@ALL
@given(seed=SEEDS)
@settings(max_examples=20)
def test_who_speaks_is_the_cast(scenario: Scenario, seed: int) -> None:
    script, _ = planned(scenario, seed, MixConfig())
    for u in script.utterances:
        if u.kind is Kind.BACKCHANNEL:
            assert u.voice == "ann"
        elif u.kind is not Kind.DISTRACTOR:
            assert u.voice == ("ann" if u.channel is U else "bot")
        assert u.voice in ("ann", "bot", "eve")
    assert (script.user_voice, script.assistant_voice) == ("ann", "bot")


# -- ids and determinism


def test_ids_are_stable() -> None:
    # A change here changes every dataset.
    rng = np.random.default_rng(0)
    m = Material((replace(dialogue(rng, "x"), id="made-up/x"),), english(), CAST)
    script = plan_script(Scenario.REGENERATION, m, repeat=0, mix=PLAIN, timing=TIMING, seed=0)
    assert script.id == "regeneration-6222f1ec5539a1c7"


def test_ids_differ_between_dialogues_scenarios_repeats_and_seeds() -> None:
    ids = [
        plan_script(s, material(d, 5), repeat=r, mix=PLAIN, timing=TIMING, seed=seed).id
        for s in Scenario
        for d in range(5)
        for r in range(3)
        for seed in range(3)
    ]
    assert len(set(ids)) == len(ids)


@ALL
@given(seed=SEEDS)
@settings(max_examples=20)
def test_the_same_request_gives_the_same_script(scenario: Scenario, seed: int) -> None:
    assert planned(scenario, seed, MixConfig())[0] == planned(scenario, seed, MixConfig())[0]


@ALL
@given(seed=SEEDS)
@settings(max_examples=20)
def test_overlays_and_pauses_change_nothing_else(scenario: Scenario, seed: int) -> None:
    plain, _ = planned(scenario, seed)
    busy, _ = planned(scenario, seed, replace(MixConfig(), distractor=1.0, backchannel=1.0, pause=1.0))
    n = len(plain.utterances)
    assert tuple(replace(u, pause=None) for u in busy.utterances[:n]) == plain.utterances
    assert all(not u.addressed for u in busy.utterances[n:])
    assert plain.id == busy.id


# -- drafts


@ALL
@given(seed=SEEDS)
@settings(max_examples=30)
def test_drafts_are_the_lines_that_templates_wrote(scenario: Scenario, seed: int) -> None:
    m = material(seed, NEEDED.get(scenario, 1))
    mix = replace(MixConfig(), distractor=1.0)
    found = plan_drafts(scenario, m, repeat=0, mix=mix, timing=TIMING, seed=seed)
    us = found.script.utterances
    assert found.script == plan_script(scenario, m, repeat=0, mix=mix, timing=TIMING, seed=seed)
    by_template = {n for n, u in enumerate(us) if u.channel is U and u.writer.startswith("template")}
    backchannels = {n for n, u in enumerate(us) if u.kind is Kind.BACKCHANNEL}
    assert {d.utterance for d in found.drafts} == by_template - backchannels
    kinds = {"generation_termination": "termination", "dialogue_reset": "reset", "topic_interweaving": "interweaving"}
    for d in found.drafts:
        u = us[d.utterance]
        expected = "distractor" if u.kind is Kind.DISTRACTOR else kinds.get(scenario.value, scenario.value)
        assert d.kind == expected
        assert (d.request is not None) == (d.kind in ("reset", "interweaving"))
        if d.request is not None:
            assert u.text.lower().endswith(d.request.text.lower())
        for n in d.earlier:
            assert n < d.utterance
        if d.kind == "interweaving":
            # What was said about the topic before is of the dialogue that the request is of.
            of = next(x for x in m.dialogues if d.request in x.turns)
            texts = {t.text.lower() for t in of.turns}
            assert d.earlier and {us[n].text.lower() for n in d.earlier if us[n].channel is A} <= texts
        assert bool(d.overheard) == (d.kind == "distractor")


def test_the_writer_of_a_dialogues_turns_is_that_of_its_utterances() -> None:
    for scenario in Scenario:
        m = material(7, NEEDED.get(scenario, 1))
        marked = tuple(
            replace(d, turns=tuple(replace(t, writer=f"m@p-{n}") for t in d.turns)) for n, d in enumerate(m.dialogues)
        )
        plain = plan_script(scenario, m, repeat=0, mix=PLAIN, timing=TIMING, seed=7)
        script = plan_script(scenario, replace(m, dialogues=marked), repeat=0, mix=PLAIN, timing=TIMING, seed=7)
        assert [u.text for u in script.utterances] == [u.text for u in plain.utterances]
        for u, old in zip(script.utterances, plain.utterances, strict=True):
            assert "corpus" not in u.writer
            assert ("@" in u.writer) == ("corpus" in old.writer)
            assert u.writer.startswith("template") == old.writer.startswith("template")


# -- what falls short


@given(SEEDS)
def test_without_a_long_reply_there_is_no_interruption(seed: int) -> None:
    short = dialogue(np.random.default_rng(seed), "short", long=False)
    m = Material((short,) * 5, english(), CAST)
    for scenario in Scenario:
        script = plan_script(scenario, m, repeat=0, mix=PLAIN, timing=TIMING, seed=seed)
        assert fits(scenario, short, english(), TIMING) == (not scenario.interrupts)
        assert script.asked is scenario
        if scenario.interrupts:
            assert script.scenario is Scenario.UNINTERRUPTED
            assert script.id.startswith("uninterrupted-")
    assert not can_lend(Scenario.DIALOGUE_RESET, short, TIMING)
    assert can_lend(Scenario.BACK_ON_TOPIC, short, TIMING)


def test_without_phrases_only_turn_taking_is_left_and_nothing_is_laid_over() -> None:
    mix = replace(MixConfig(), distractor=1.0, backchannel=1.0)
    for scenario in Scenario:
        m = material(3, NEEDED.get(scenario, 1), phrases=False)
        script = plan_script(scenario, m, repeat=0, mix=mix, timing=TIMING, seed=0)
        assert script.scenario is (Scenario.UNINTERRUPTED if scenario.interrupts else scenario)
        assert all(u.addressed and u.writer == "corpus" for u in script.utterances)


@pytest.mark.parametrize("scenario", [s for s in Scenario if s in NEEDED])
def test_with_too_few_dialogues_it_becomes_uninterrupted(scenario: Scenario) -> None:
    least = 3 if scenario is Scenario.TOPIC_INTERWEAVING else NEEDED[scenario]
    for n, expected in ((least - 1, Scenario.UNINTERRUPTED), (least, scenario)):
        script = plan_script(scenario, material(1, n), repeat=0, mix=PLAIN, timing=TIMING, seed=0)
        assert script.scenario is expected
        assert len(script.source_ids) == (n if expected is scenario else 1)


def test_each_scenario_takes_as_many_dialogues_as_the_paper_says() -> None:
    rng = np.random.default_rng(0)
    drawn = {s: Counter(dialogues_needed(s, rng) for _ in range(300)) for s in Scenario}
    assert set(drawn[Scenario.TOPIC_INTERWEAVING]) == {3, 4, 5}
    assert min(drawn[Scenario.TOPIC_INTERWEAVING].values()) > 70
    assert set(drawn[Scenario.DIALOGUE_RESET]) == {5}
    assert set(drawn[Scenario.BACK_ON_TOPIC]) == {2}
    assert set(drawn[Scenario.REGENERATION]) == {1}


# -- shares


def test_overlays_and_pauses_have_their_shares() -> None:
    n = 1500
    mix = MixConfig()
    scripts = [planned(Scenario.UNINTERRUPTED, seed, mix)[0] for seed in range(n)]
    kinds = Counter(u.kind for s in scripts for u in s.utterances)
    silent = sum(u.kind is Kind.DISTRACTOR and u.over is None for s in scripts for u in s.utterances)
    assert abs(kinds[Kind.DISTRACTOR] / n - mix.distractor) < 0.04
    assert abs(silent / kinds[Kind.DISTRACTOR] - mix.distractor_in_silence) < 0.08
    # Some find their reply taken by a distractor.
    assert -0.04 < kinds[Kind.BACKCHANNEL] / n - mix.backchannel < 0.03


def test_a_pause_is_at_a_clause_boundary_inside_a_query() -> None:
    mix = replace(PLAIN, pause=1.0)
    turns = (Turn(U, "Well, tell me: what is rye, and why? Thanks."), Turn(A, "A grain."))
    paused = Counter()
    for seed in range(200):
        m = Material((Dialogue(f"d/{seed}", "d", turns),), english(), CAST)
        script = plan_script(Scenario.UNINTERRUPTED, m, repeat=0, mix=mix, timing=TIMING, seed=seed)
        pause = script.utterances[0].pause
        assert pause is not None
        assert script.utterances[1].pause is None
        assert TIMING.pause_sec[0] <= pause.seconds <= TIMING.pause_sec[1]
        paused[word_texts(turns[0].text)[pause.after_word]] += 1
    assert set(paused) == {"Well,", "me:", "rye,", "why?"}
    plain = Dialogue("d/0", "d", (Turn(U, "What is rye?"), Turn(A, "A grain.")))
    script = plan_script(
        Scenario.UNINTERRUPTED, Material((plain,), None, CAST), repeat=0, mix=mix, timing=TIMING, seed=0
    )
    assert script.utterances[0].pause is None


def test_thinking_aloud_is_the_users_own_voice() -> None:
    bank = english()
    own = {d.text for d in bank.distractors if d.kind == "thinking_aloud" and "{" not in d.text}
    mix = replace(PLAIN, distractor=1.0)
    heard = [
        u
        for seed in range(300)
        for u in planned(Scenario.UNINTERRUPTED, seed, mix)[0].utterances
        if u.kind is Kind.DISTRACTOR and u.text in own
    ]
    assert heard
    assert {u.voice for u in heard} == {"ann"}


# -- resuming


@given(SEEDS, st.integers(0, 60))
def test_what_is_resumed_begins_with_the_unfinished_sentence(seed: int, begun: int) -> None:
    rng = np.random.default_rng(seed)
    parts = [sentence(rng, int(rng.integers(1, 9))) for _ in range(int(rng.integers(1, 6)))]
    text = " ".join(parts)
    rest = rest_from_sentence(text, begun, "en")
    assert text.endswith(rest)
    n, left = len(word_texts(text)), len(word_texts(rest))
    assert left >= 1
    if begun < n:
        # nothing is skipped, and no more than one sentence is said twice
        assert n - left <= begun
        assert begun < n - left + len(word_texts(sentences(rest, "en")[0]))


def test_in_chinese_too() -> None:
    assert rest_from_sentence("我很好。你呢？再见。", 4, "zh") == "你呢？再见。"
    assert rest_from_sentence("我很好。你呢？再见。", 3, "zh") == "你呢？再见。"
    assert rest_from_sentence("我很好。你呢？再见。", 2, "zh") == "我很好。你呢？再见。"


@given(SEEDS, st.integers(0, 25))
def test_a_resumption_is_its_transition_and_the_rest(seed: int, begun: int) -> None:
    script, _ = planned(Scenario.BACK_ON_TOPIC, seed)
    index = shape(script).index("c")
    done = resume(script, index, begun)
    before, after = script.utterances[index].text, done.utterances[index].text
    assert after.startswith(before)
    cut = script.utterances[script.utterances[index].resumes or 0].text
    assert cut.lower().endswith(after[len(before) :].strip().lower())
    assert [u for n, u in enumerate(done.utterances) if n != index] == [
        u for n, u in enumerate(script.utterances) if n != index
    ]


# -- real dialogues


def test_real_dialogues_make_every_scenario(shared_data: Path) -> None:
    found: list[Dialogue] = []
    for d in read_dialogues(SourceSpec(str(shared_data / "ultrachat_sample.jsonl"), limit=60)):
        if isinstance(d, Dialogue):
            spoken = speakable_dialogue(d, max_query_sec=15.0, max_reply_sec=20.0, max_exchanges=4)
            if isinstance(spoken, Dialogue) and can_lend(Scenario.DIALOGUE_RESET, spoken, TIMING):
                found.append(spoken)
    assert len(found) > 10
    for n, scenario in enumerate(Scenario):
        some = Material(tuple(found[n : n + NEEDED.get(scenario, 1)]), english(), CAST)
        script = plan_script(scenario, some, repeat=0, mix=MixConfig(), timing=TIMING, seed=0)
        assert script.scenario is scenario
        assert all(word_texts(u.text) for u in script.utterances)


def test_without_its_interruptions_a_conversation_keeps_its_turns_and_their_order() -> None:
    for scenario in (s for s in Scenario if s.interrupts):
        script, _ = planned(scenario, 3)
        plain, kept = as_turn_taking(script)
        assert plain.scenario is Scenario.UNINTERRUPTED and plain.asked is scenario
        assert [u.text for u in plain.utterances] == [script.utterances[i].text for i in kept]
        assert {u.kind for u in plain.utterances} <= {Kind.QUERY, Kind.REPLY, Kind.DISTRACTOR, Kind.BACKCHANNEL}
        turns = [u.channel for u in plain.utterances if u.addressed]
        assert turns == [U, A] * (len(turns) // 2)
        assert all(u.replies_to == i - 1 for i, u in enumerate(plain.utterances) if u.kind is Kind.REPLY)
        assert len(plain.source_ids) == (5 if scenario is Scenario.DIALOGUE_RESET else 1)
