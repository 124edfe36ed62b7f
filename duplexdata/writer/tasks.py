"""What is asked of a model for each kind of text: the material, the limits, and the check of the reply. Pure but for
reading the prompts.

A task's request depends on nothing but the texts around it and the id of what it is for, so that the same build asks
for the same texts again, and finds them in the cache. A dialogue's rewrite does not even depend on the run's seed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from pydantic import BaseModel

from duplexdata.config import TextConfig, TimingConfig
from duplexdata.dialogue import Channel, Dialogue, Script, Turn, Utterance
from duplexdata.interactions import interruptible, least_interruptible_sec
from duplexdata.rng import stable_hash
from duplexdata.spoken import sentences
from duplexdata.talk import Draft
from duplexdata.words import nominal_seconds
from duplexdata.writer import checks, reply_models
from duplexdata.writer.checks import Slot, TurnSlot
from duplexdata.writer.prompts import PromptFile, filled
from duplexdata.writer.types import Check, Fault, Task

R = TypeVar("R", bound=BaseModel)

DISTRACTOR_SEC = (0.6, 5.0)
TERMINATION_SEC = (0.3, 5.0)
REQUEST_SEC = (0.8, 10.0)
"""Of a corrected request."""
RESET_SEC = (1.0, 4.0)
"""At least in all; at most besides the new request."""
SIDE_QUESTION_SEC = (0.8, 8.0)
SIDE_ANSWER_SEC = (0.6, 8.0)
CONTINUATION_SEC = (0.4, 5.0)
BRIDGE_SEC = (0.6, 6.0)
FOLLOW_UP_SEC = (0.8, 10.0)
LEAST_ANSWER_SEC = 2.0
"""Lengths of what is written, as people say such things. [ours]"""

_HISTORY = 8
"""Turns of a conversation that a model is shown at most, the last ones."""
_LONGEST_TURN = 3000
"""Characters of a source's turn that a model is shown at most: what is behind them would not fit into a spoken turn."""
_UNITS_PER_SECOND = {"en": (2.7, 2.3), "zh": (4.2, 3.6)}
"""Words (Chinese: characters) a second by which limits are told: for the fewest, for the most. A little inside the
limits that are checked."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How long turns may be, by the configuration."""

    text: TextConfig
    timing: TimingConfig

    def slot(self, prompt: PromptFile, least: float, most: float, *, user: bool = False) -> Slot:
        highest = self.text.max_query_sec if user else self.text.max_reply_sec
        return Slot(prompt.prompt.language, min(least, highest), min(most, highest), prompt.instructions)


def rewrite_task(written: Dialogue, spoken: Dialogue, prompt: PromptFile, limits: Limits) -> Task:
    """Args: spoken: `written` by rules; of its turns only as many are rewritten."""
    slots = [_turn_slot(turn, said, prompt, limits) for turn, said in zip(written.turns, spoken.turns, strict=False)]
    lines = [
        filled(prompt.phrases[s.role], {"n": str(n), **_bounds(s.slot, "low", "high")})
        for n, s in enumerate(slots, start=1)
    ]
    material = {"turns": [{"role": s.role, "text": s.written[:_LONGEST_TURN]} for s in slots]}

    def check(reply: reply_models.Rewrite) -> Fault | None:
        return checks.rewrite_fault([(t.role, t.text) for t in reply.turns], slots)

    return _task(written.id, prompt, material, {"limits": "\n".join(lines)}, reply_models.Rewrite, check)


def _turn_slot(turn: Turn, said: Turn, prompt: PromptFile, limits: Limits) -> TurnSlot:
    """A reply that can be interrupted stays so; else a rewrite may well be shorter than what rules leave."""
    language = prompt.prompt.language
    seconds = nominal_seconds(said.text, language)
    if turn.channel is Channel.USER:
        return TurnSlot("user", turn.text, said.text, limits.slot(prompt, 0.3, limits.text.max_query_sec, user=True))
    least = min(0.4 * seconds, LEAST_ANSWER_SEC)
    if interruptible(said.text, language, limits.timing):
        # Which it must be without the check's slack.
        least = least_interruptible_sec(limits.timing) + checks.SLACK_SEC
    return TurnSlot("assistant", turn.text, said.text, limits.slot(prompt, least, limits.text.max_reply_sec))


def follow_up_task(dialogue: Dialogue, exchanges: int, prompt: PromptFile, limits: Limits) -> Task:
    """Args: exchanges: how many are to be added."""
    question = limits.slot(prompt, *FOLLOW_UP_SEC, user=True)
    answer = limits.slot(prompt, LEAST_ANSWER_SEC, limits.text.max_reply_sec)
    heard = [t.text for t in dialogue.turns]
    values = {
        "exchanges": str(exchanges),
        **_bounds(question, "question_words_low", "question_words"),
        **_bounds(answer, "answer_words_low", "answer_words_high"),
    }

    def check(reply: reply_models.FollowUp) -> Fault | None:
        made = [(e.question, e.answer) for e in reply.exchanges]
        return checks.follow_up_fault(made, exchanges, heard, question, answer)

    material = {"conversation": _as_material(dialogue.turns)}
    return _task(dialogue.id, prompt, material, values, reply_models.FollowUp, check)


def draft_task(script: Script, draft: Draft, prompt: PromptFile, limits: Limits) -> Task:
    """What is to be written in place of a draft, as the script stands."""
    return _DRAFTS[draft.kind](script, draft, prompt, limits)


def _distractor(script: Script, draft: Draft, prompt: PromptFile, limits: Limits) -> Task:
    over = script.utterances[draft.utterance].over
    heard = _heard(script, until=None if over is None else over + 1)
    slot = limits.slot(prompt, *DISTRACTOR_SEC, user=True)
    values = {
        **_bounds(slot, "words_low", "words_high"),
        "moment": prompt.phrases["in_silence" if over is None else "over_reply"],
        "kind": prompt.phrases[draft.overheard],
    }

    def check(reply: reply_models.Distractor) -> Fault | None:
        said = [u.text for u in heard]
        return checks.distractor_fault(reply.text, reply.said_to, draft.overheard, said, slot)

    material = {"conversation": _as_material(heard)}
    return _draft_task(script, draft, prompt, material, values, reply_models.Distractor, check)


def _termination(script: Script, draft: Draft, prompt: PromptFile, limits: Limits) -> Task:
    slot = limits.slot(prompt, *TERMINATION_SEC, user=True)

    def check(reply: reply_models.Termination) -> Fault | None:
        return checks.termination_fault(reply.text, slot)

    material = {"conversation": _as_material(_heard(script, until=draft.utterance))}
    values = _bounds(slot, "words_low", "words_high")
    return _draft_task(script, draft, prompt, material, values, reply_models.Termination, check)


def _regeneration(script: Script, draft: Draft, prompt: PromptFile, limits: Limits) -> Task:
    heard = _heard(script, until=draft.utterance)
    said = [u.text for u in heard]
    request = limits.slot(prompt, *REQUEST_SEC, user=True)
    answer = limits.slot(prompt, LEAST_ANSWER_SEC, limits.text.max_reply_sec)
    following = [u.text for u in script.utterances[draft.utterance + 2 :] if u.addressed][:1]
    values = {
        **_bounds(request, "request_words_low", "request_words"),
        **_bounds(answer, "answer_words_low", "answer_words_high"),
    }

    def check(reply: reply_models.Regeneration) -> Fault | None:
        return checks.regeneration_fault(reply.request, reply.answer, said, request, answer)

    material = {"conversation": _as_material(heard), **({"next": following[0]} if following else {})}
    return _draft_task(script, draft, prompt, material, values, reply_models.Regeneration, check)


def _reset(script: Script, draft: Draft, prompt: PromptFile, limits: Limits) -> Task:
    assert draft.request is not None
    request = draft.request.text
    language = prompt.prompt.language
    most = nominal_seconds(request, language) + RESET_SEC[1]
    slot = Slot(language, RESET_SEC[0], most, prompt.instructions)

    def check(reply: reply_models.Reset) -> Fault | None:
        return checks.reset_fault(reply.text, request, slot)

    # Earlier topics say nothing on how this one is dropped.
    heard = _heard(script, until=draft.utterance)[-2:]
    material = {"conversation": _as_material(heard), "new_request": request}
    values = _bounds(slot, "words_low", "words_high")
    return _draft_task(script, draft, prompt, material, values, reply_models.Reset, check)


def _back_on_topic(script: Script, draft: Draft, prompt: PromptFile, limits: Limits) -> Task:
    heard = _heard(script, until=draft.utterance)
    # Where the reply will be cut is not known yet: what it begins with is said in most cases.
    said = [u.text for u in heard]
    just_said, *rest = sentences(heard[-1].text, script.language)
    still_to_say = ("" if script.language.startswith("zh") else " ").join(rest)
    slots = (
        limits.slot(prompt, *SIDE_QUESTION_SEC, user=True),
        limits.slot(prompt, *SIDE_ANSWER_SEC),
        limits.slot(prompt, *CONTINUATION_SEC),
    )
    values = {
        **_bounds(slots[0], "question_words_low", "question_words"),
        **_bounds(slots[1], "answer_words_low", "answer_words"),
        **_bounds(slots[2], "continuation_words_low", "continuation_words"),
    }

    def check(reply: reply_models.BackOnTopic) -> Fault | None:
        return checks.back_on_topic_fault(reply.question, reply.answer, reply.continuation, said, still_to_say, slots)

    material = {"conversation": _as_material(heard), "just_said": just_said, "still_to_say": still_to_say}
    return _draft_task(script, draft, prompt, material, values, reply_models.BackOnTopic, check)


def _interweaving(script: Script, draft: Draft, prompt: PromptFile, limits: Limits) -> Task:
    assert draft.request is not None
    request = draft.request.text
    earlier = [script.utterances[i] for i in draft.earlier]
    slot = limits.slot(prompt, *BRIDGE_SEC, user=True)

    def check(reply: reply_models.Interweaving) -> Fault | None:
        return checks.interweaving_fault(reply.bridge, request, [u.text for u in earlier], slot)

    material = {
        "earlier": _as_material(earlier),
        "just_now": _as_material(_heard(script, until=draft.utterance)[-2:]),
        "request": request,
    }
    values = _bounds(slot, "words_low", "words_high")
    return _draft_task(script, draft, prompt, material, values, reply_models.Interweaving, check)


_DRAFTS: dict[str, Callable[[Script, Draft, PromptFile, Limits], Task]] = {
    "distractor": _distractor,
    "termination": _termination,
    "regeneration": _regeneration,
    "reset": _reset,
    "back_on_topic": _back_on_topic,
    "interweaving": _interweaving,
}


# -- small helpers


def _heard(script: Script, until: int | None) -> list[Utterance]:
    """What is said to each other up to an utterance; all of it without one."""
    return [u for u in script.utterances[:until] if u.addressed]


def _as_material(turns: Sequence[Turn | Utterance]) -> list[dict[str, str]]:
    return [{"role": t.channel.value, "text": t.text[:_LONGEST_TURN]} for t in turns[-_HISTORY:]]


def _bounds(slot: Slot, low: str, high: str) -> dict[str, str]:
    """A slot's limits in words, as a model can keep to them."""
    slow, fast = _UNITS_PER_SECOND[slot.language]
    return {low: str(max(1, round(slot.least_sec * slow))), high: str(max(3, int(slot.most_sec * fast)))}


def _draft_task(
    script: Script,
    draft: Draft,
    prompt: PromptFile,
    material: Mapping[str, object],
    values: Mapping[str, str],
    kind: type[R],
    check: Callable[[R], Fault | None],
) -> Task:
    # The script's id holds the run's seed: the same moment of another run is another draw.
    return _task(f"{script.id}/{draft.utterance}", prompt, material, values, kind, check)


def _task(
    whose: str,
    prompt: PromptFile,
    material: Mapping[str, object],
    values: Mapping[str, str],
    kind: type[R],
    check: Callable[[R], Fault | None],
) -> Task:
    key = f"{whose}/{prompt.prompt.name}"
    seed = stable_hash(key, bits=31)
    return Task(key, prompt.prompt, prompt.messages(material, values), seed, _checked(kind, check))


def _checked(kind: type[R], check: Callable[[R], Fault | None]) -> Check:
    def checked(reply: BaseModel) -> Fault | None:
        assert isinstance(reply, kind)
        return check(reply)

    return checked
