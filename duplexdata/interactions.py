"""Source dialogues become scripts: who says what in reaction to what. No files, no sound.

Sources: arXiv 2406.15718v2 (the four interruption types and topic interweaving), 2409.11727, section 2.3
(distractors); where an LLM writes in the papers, templates and the corpus itself do here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from duplexdata.banks import Banks
from duplexdata.config import MixConfig, TimingConfig
from duplexdata.dialogue import Channel, Dialogue, Kind, Pause, Scenario, Script, Utterance
from duplexdata.errors import ScriptError
from duplexdata.rng import rng_for, stable_hash
from duplexdata.spoken import sentences
from duplexdata.talk import Cast, Draft, Talk, behind, exchanges, join, template
from duplexdata.words import nominal_seconds, split_words

RESET_DIALOGUES = 5
"""Dialogues in a reset, the first four cut. Source: arXiv 2406.15718v2."""
INTERWOVEN = (3, 5)
"""Fewest and most dialogues that are interwoven. Source: arXiv 2406.15718v2."""
OTHERS_SPEAK = frozenset({"television", "side_talk"})
"""Kinds of distractor that another person's voice says."""
MOST_PER_TOPIC = 2
"""Exchanges of each dialogue that are interwoven, so that the whole stays within a few minutes. [ours]"""
_SURE_SEC = 1.5
"""Nominal seconds that a reply must have beyond what an interruption needs: speaking rates differ."""


@dataclass(frozen=True, slots=True)
class Material:
    """What a script is made of.

    Attributes:
        dialogues: the conversation's own first, then those to borrow from; speakable, one language.
        banks: of that language; None where there are none, which leaves the scenarios that need no phrases.
    """

    dialogues: tuple[Dialogue, ...]
    banks: Banks | None
    cast: Cast


@dataclass(frozen=True, slots=True)
class Planned:
    """A script as templates and the corpus give it, and its drafts in order."""

    script: Script
    drafts: tuple[Draft, ...]


def interruptible(text: str, language: str, timing: TimingConfig) -> bool:
    """Whether a reply is long enough to be barged into and still to stop late in the negative."""
    return nominal_seconds(text, language) >= least_interruptible_sec(timing)


def least_interruptible_sec(timing: TimingConfig) -> float:
    """Nominal seconds from which a reply is `interruptible`."""
    return timing.late_delay_sec[1] + _SURE_SEC


def dialogues_needed(scenario: Scenario, rng: np.random.Generator) -> int:
    """How many source dialogues a conversation of this kind takes."""
    if scenario is Scenario.DIALOGUE_RESET:
        return RESET_DIALOGUES
    if scenario is Scenario.TOPIC_INTERWEAVING:
        return int(rng.integers(INTERWOVEN[0], INTERWOVEN[1] + 1))
    return 2 if scenario is Scenario.BACK_ON_TOPIC else 1


def fits(scenario: Scenario, dialogue: Dialogue, banks: Banks | None, timing: TimingConfig) -> bool:
    """Whether `dialogue` can be a conversation of this kind's own (first) dialogue."""
    if not scenario.interrupts:
        return True
    return banks is not None and bool(_long_replies(dialogue, timing))


def can_lend(scenario: Scenario, dialogue: Dialogue, timing: TimingConfig) -> bool:
    """Whether another conversation of this kind can borrow from `dialogue`: a reset cuts its first reply."""
    if scenario is not Scenario.DIALOGUE_RESET:
        return True
    return interruptible(exchanges(dialogue)[0][1].text, dialogue.language, timing)


def plan_script(
    asked: Scenario, material: Material, *, repeat: int, mix: MixConfig, timing: TimingConfig, seed: int
) -> Script:
    """A script of the scenario asked for, or of the nearest that the material allows (see `Script.asked`).

    Args:
        repeat: how often the same dialogue has been made into the same scenario before (its id depends on it).
    """
    return plan_drafts(asked, material, repeat=repeat, mix=mix, timing=timing, seed=seed).script


def plan_drafts(
    asked: Scenario, material: Material, *, repeat: int, mix: MixConfig, timing: TimingConfig, seed: int
) -> Planned:
    """The same script as `plan_script` gives, and what in it may be written better."""
    scenario = _possible(asked, material, timing)
    own = material.dialogues[0]
    key = stable_hash(own.id, scenario, seed, repeat)
    id_ = f"{scenario.value.replace('_', '-')}-{key:016x}"
    rng = rng_for(seed, id_, "script")
    talk = _SCENARIOS[scenario](material, timing, rng)
    script = Script(
        id=id_,
        source=own.source,
        source_ids=_sources_used(scenario, material),
        scenario=scenario,
        asked=asked,
        language=own.language,
        licence=" AND ".join(sorted({d.licence for d in _used(scenario, material)})),
        user_voice=material.cast.user,
        assistant_voice=material.cast.assistant,
        utterances=tuple(talk.utterances),
    )
    script, overlays = _lay_over(_with_pause(script, mix, timing, seed), material, mix, seed)
    return Planned(script, (*talk.drafts, *overlays))


def resume(script: Script, index: int, words_begun: int) -> Script:
    """The script with the text of its resumption: the transition, then the reply from the sentence that was cut.

    Args:
        index: of the RESUMPTION.
        words_begun: words of the resumed reply that had begun when it stopped.
    """
    resumption = script.utterances[index]
    assert resumption.resumes is not None
    reply = script.utterances[resumption.resumes].text
    rest = rest_from_sentence(reply, words_begun, script.language)
    text = join(resumption.text, rest, script.language)
    done = (*script.utterances[:index], replace(resumption, text=text), *script.utterances[index + 1 :])
    return replace(script, utterances=done)


def as_turn_taking(script: Script) -> tuple[Script, tuple[int, ...]]:
    """The conversation without its interruptions, for when a reply turns out too short to be barged into.

    Returns: the script, and which utterances of the old one it has, in order. A reset's openings become queries;
    of the other scenarios the interruption and what it led to are left out.
    """
    reset = script.scenario is Scenario.DIALOGUE_RESET
    kept = []
    skipping = False
    for i, u in enumerate(script.utterances):
        if u.kind is Kind.INTERRUPTION and not reset:
            skipping = True
        elif u.kind is Kind.QUERY or not u.addressed:
            skipping = False
        if not skipping:
            kept.append(i)
    new = {old: n for n, old in enumerate(kept)}

    def moved(u: Utterance) -> Utterance:
        kind = Kind.QUERY if u.kind is Kind.INTERRUPTION else u.kind
        replies_to = None if u.replies_to is None else new.get(u.replies_to)
        over = None if u.over is None else new.get(u.over)
        return replace(u, kind=kind, interrupts=None, resumes=None, replies_to=replies_to, over=over)

    # An overlay over a reply that is gone goes with it.
    kept = [i for i in kept if (over := script.utterances[i].over) is None or over in new]
    utterances = tuple(moved(script.utterances[i]) for i in kept)
    # What was borrowed for the interruption is no longer in it.
    sources = script.source_ids if reset else script.source_ids[:1]
    plain = replace(script, scenario=Scenario.UNINTERRUPTED, source_ids=sources, utterances=utterances)
    return plain, tuple(kept)


def rest_from_sentence(text: str, words_begun: int, language: str) -> str:
    """What is left of a text of which `words_begun` words were begun, from the start of the unfinished sentence."""
    parts = sentences(text, language)
    said = 0
    for i, sentence in enumerate(parts):
        said += len(split_words(sentence))
        if said > words_begun:
            return _join_all(parts[i:], language)
    return parts[-1]


# -- one function per scenario: material -> utterances


def _uninterrupted(material: Material, timing: TimingConfig, rng: np.random.Generator) -> Talk:
    talk = Talk(material.cast)
    talk.exchanges(material.dialogues[0])
    return talk


def _topic_interweaving(material: Material, timing: TimingConfig, rng: np.random.Generator) -> Talk:
    """The dialogues' exchanges shuffled, the order inside each kept."""
    left = [exchanges(d)[:MOST_PER_TOPIC] for d in material.dialogues]
    order = rng.permutation([n for n, pairs in enumerate(left) for _ in pairs])
    talk = Talk(material.cast)
    said: dict[int, list[int]] = {}
    last = -1
    for n in map(int, order):
        query, reply = left[n].pop(0)
        bridge = ""
        if n in said and n != last and material.banks is not None:
            bridge = material.banks.transition("topic_interweaving", rng)
        if bridge:
            talk.draft("interweaving", query, earlier=tuple(said[n]))
        talk.ask(behind(bridge, query, material.dialogues[0].language))
        talk.answer(reply)
        said.setdefault(n, []).extend((len(talk.utterances) - 2, len(talk.utterances) - 1))
        last = n
    return talk


def _generation_termination(material: Material, timing: TimingConfig, rng: np.random.Generator) -> Talk:
    """The conversation ends with the request: the assistant stops and says nothing more."""
    target = _pick_reply(material.dialogues[0], timing, rng)
    talk = Talk(material.cast)
    talk.exchanges(material.dialogues[0], upto=target + 1)
    talk.draft("termination")
    talk.interrupt(template(_banks(material).transition("generation_termination", rng)))
    return talk


def _regeneration(material: Material, timing: TimingConfig, rng: np.random.Generator) -> Talk:
    """Asked for the same again, the assistant starts its reply over; then the dialogue goes on."""
    own = material.dialogues[0]
    target = _pick_reply(own, timing, rng)
    talk = Talk(material.cast)
    talk.exchanges(own, upto=target + 1)
    talk.draft("regeneration")
    talk.interrupt(template(_banks(material).transition("regeneration", rng)))
    talk.answer(exchanges(own)[target][1])
    talk.exchanges(own, since=target + 1)
    return talk


def _dialogue_reset(material: Material, timing: TimingConfig, rng: np.random.Generator) -> Talk:
    """Each dialogue but the last is cut in a reply; the next one's opening comes behind a transition."""
    talk = Talk(material.cast)
    banks = _banks(material)
    own, *others = material.dialogues
    talk.exchanges(own, upto=_pick_reply(own, timing, rng) + 1)
    for dialogue in others:
        query, reply = exchanges(dialogue)[0]
        transition = banks.transition("dialogue_reset", rng)
        if transition:
            talk.draft("reset", query)
        talk.interrupt(behind(transition, query, banks.language))
        talk.answer(reply)
    return talk


def _back_on_topic(material: Material, timing: TimingConfig, rng: np.random.Generator) -> Talk:
    """A side question mid-reply, its answer, and the rest of the reply; then the dialogue goes on."""
    own, other = material.dialogues[:2]
    banks = _banks(material)
    target = _pick_reply(own, timing, rng)
    talk = Talk(material.cast)
    talk.exchanges(own, upto=target + 1)
    resumed = len(talk.utterances) - 1
    query, reply = exchanges(other)[0]  # a later one may need what came before it
    talk.draft("back_on_topic")
    talk.interrupt(behind(banks.transition("back_on_topic", rng), query, banks.language))
    # A side question gets a short answer: the reply's first sentence.
    talk.answer(replace(reply, text=sentences(reply.text, own.language)[0]))
    talk.resume(banks.transition("resumption", rng), resumed)
    talk.exchanges(own, since=target + 1)
    return talk


_SCENARIOS: Mapping[Scenario, Callable[[Material, TimingConfig, np.random.Generator], Talk]] = {
    Scenario.UNINTERRUPTED: _uninterrupted,
    Scenario.TOPIC_INTERWEAVING: _topic_interweaving,
    Scenario.GENERATION_TERMINATION: _generation_termination,
    Scenario.REGENERATION: _regeneration,
    Scenario.DIALOGUE_RESET: _dialogue_reset,
    Scenario.BACK_ON_TOPIC: _back_on_topic,
}


# -- what is laid over


def _with_pause(script: Script, mix: MixConfig, timing: TimingConfig, seed: int) -> Script:
    """Now and then a query holds a silence at a clause boundary, longer than a reply gap at times."""
    rng = rng_for(seed, script.id, "pause")
    if rng.random() >= mix.pause:
        return script
    places = [(i, w) for i, u in enumerate(script.utterances) if u.kind is Kind.QUERY for w in _clause_ends(u.text)]
    if not places:
        return script
    i, word = places[int(rng.integers(len(places)))]
    paused = replace(script.utterances[i], pause=Pause(word, float(rng.uniform(*timing.pause_sec))))
    return replace(script, utterances=(*script.utterances[:i], paused, *script.utterances[i + 1 :]))


def _clause_ends(text: str) -> list[int]:
    spans = split_words(text)
    return [
        w
        for w, s in enumerate(spans[:-1])
        if text[s.start : s.end].rstrip("\"'”’").endswith(tuple(",;:.?!，；：。？！、"))
    ]


def _lay_over(script: Script, material: Material, mix: MixConfig, seed: int) -> tuple[Script, tuple[Draft, ...]]:
    """Distractors and backchannels, behind the utterances that make the timeline."""
    if material.banks is None:
        return script, ()
    rng = rng_for(seed, script.id, "overlays")
    drafts: tuple[Draft, ...] = ()
    replies = [i for i, u in enumerate(script.utterances) if u.channel is Channel.ASSISTANT]
    over: list[Utterance] = []
    draws = rng.random(3)
    if draws[0] < mix.distractor:
        where = None if draws[1] < mix.distractor_in_silence else replies[int(rng.integers(len(replies)))]
        context = " ".join(u.text for u in script.utterances if u.kind is Kind.QUERY)
        found = material.banks.distractor(context, rng)
        # Only what somebody else is heard to say has another voice: the rest is the user's own, said elsewhere.
        voice = material.cast.bystander if found.kind in OTHERS_SPEAK else material.cast.user
        drafts = (Draft("distractor", len(script.utterances), overheard=found.kind),)
        over.append(_overlay(Kind.DISTRACTOR, found.text, voice, where))
    # One overlay per reply, so that each finds room.
    free = [i for i in replies if i not in {u.over for u in over}]
    if draws[2] < mix.backchannel and free:
        where = free[int(rng.integers(len(free)))]
        text = material.banks.backchannels[int(rng.integers(len(material.banks.backchannels)))]
        over.append(_overlay(Kind.BACKCHANNEL, text, material.cast.user, where))
    return replace(script, utterances=(*script.utterances, *over)), drafts


def _overlay(kind: Kind, text: str, voice: str, over: int | None) -> Utterance:
    return Utterance(Channel.USER, kind, text, "template", voice, over=over)


# -- small helpers


def _long_replies(dialogue: Dialogue, timing: TimingConfig) -> list[int]:
    return [n for n, (_, r) in enumerate(exchanges(dialogue)) if interruptible(r.text, dialogue.language, timing)]


def _pick_reply(dialogue: Dialogue, timing: TimingConfig, rng: np.random.Generator) -> int:
    long = _long_replies(dialogue, timing)
    return long[int(rng.integers(len(long)))]


def _possible(asked: Scenario, material: Material, timing: TimingConfig) -> Scenario:
    """The scenario asked for, else the plainest one that the material allows."""
    own = material.dialogues[0]
    if not fits(asked, own, material.banks, timing):
        return Scenario.UNINTERRUPTED
    enough = {
        Scenario.DIALOGUE_RESET: RESET_DIALOGUES,
        Scenario.TOPIC_INTERWEAVING: INTERWOVEN[0],
        Scenario.BACK_ON_TOPIC: 2,
    }
    if len(material.dialogues) < enough.get(asked, 1):
        return Scenario.UNINTERRUPTED
    if asked is Scenario.DIALOGUE_RESET and not all(
        interruptible(exchanges(d)[0][1].text, d.language, timing) for d in material.dialogues[1:-1]
    ):
        return Scenario.UNINTERRUPTED
    return asked


def _used(scenario: Scenario, material: Material) -> Sequence[Dialogue]:
    several = (Scenario.DIALOGUE_RESET, Scenario.TOPIC_INTERWEAVING, Scenario.BACK_ON_TOPIC)
    return material.dialogues if scenario in several else material.dialogues[:1]


def _sources_used(scenario: Scenario, material: Material) -> tuple[str, ...]:
    return tuple(d.id for d in _used(scenario, material))


def _banks(material: Material) -> Banks:
    if material.banks is None:
        raise ScriptError("no_phrases", f"no phrase bank for the language {material.dialogues[0].language!r}")
    return material.banks


def _join_all(parts: Sequence[str], language: str) -> str:
    return ("" if language.split("-")[0] in ("zh", "ja") else " ").join(parts)
