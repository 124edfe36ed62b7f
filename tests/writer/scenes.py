"""The recorded replies (`replies/`), each with the moment that it was written for."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from duplexdata.config import TextConfig, TimingConfig
from duplexdata.dialogue import Channel, Dialogue, Kind, Scenario, Script, Turn, Utterance
from duplexdata.spoken import speakable_dialogue
from duplexdata.talk import Draft
from duplexdata.writer.placing import place_draft, place_follow_up, place_rewrite
from duplexdata.writer.prompts import PromptFile, load_prompt
from duplexdata.writer.reply_models import FollowUp, Rewrite
from duplexdata.writer.tasks import Limits, draft_task, follow_up_task, rewrite_task
from duplexdata.writer.types import Task

REPLIES = Path(__file__).parent / "replies"
LIMITS = Limits(TextConfig(), TimingConfig())
LABEL = "m@p-00000000"


@dataclass(frozen=True)
class Recorded:
    """Attributes:
    turn: index of the turn that the reply is a reaction to.
    borrowed: id of another dialogue in the scene.
    reason: of its fault; "" for a good one.
    """

    kind: str
    dialogue: str
    turn: int
    reply: dict[str, Any]
    borrowed: str = ""
    overheard: str = ""
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.kind}-{self.dialogue}-{self.reason or self.overheard}"


def recorded(name: str) -> list[Recorded]:
    return [Recorded(**r) for r in json.loads((REPLIES / f"{name}.json").read_text(encoding="utf-8"))]


@cache
def written(id_: str) -> Dialogue:
    rows = [json.loads(line) for line in (REPLIES / "dialogues.jsonl").read_text(encoding="utf-8").splitlines()]
    row = next(r for r in rows if r["id"] == id_)
    turns = tuple(Turn(Channel(m["role"]), m["content"]) for m in row["messages"])
    return Dialogue(f"recorded/{id_}", "recorded", turns, row["language"], "CC0-1.0")


@cache
def by_rules(id_: str) -> Dialogue:
    text = LIMITS.text
    found = speakable_dialogue(
        written(id_),
        max_query_sec=text.max_query_sec,
        max_reply_sec=text.max_reply_sec,
        max_exchanges=text.max_exchanges,
    )
    assert isinstance(found, Dialogue), found
    return found


@cache
def spoken(id_: str) -> Dialogue:
    """In the recorded rewrite's words, where there is one."""
    for r in recorded("good"):
        if r.kind == "rewrite" and r.dialogue == id_:
            return place_rewrite(by_rules(id_), Rewrite.model_validate(r.reply), "m@rewrite-00000000")
    return by_rules(id_)


def moment(r: Recorded) -> str:
    """The text that a request for it is known by."""
    if r.kind == "rewrite":
        return written(r.dialogue).turns[0].text
    if r.kind == "reset":
        return spoken(r.borrowed).turns[0].text
    return spoken(r.dialogue).turns[r.turn].text


@dataclass(frozen=True)
class Scene:
    """What is asked for, and what a good reply makes of it: the texts and writers of a dialogue or script."""

    task: Task
    script: Script | None
    draft: Draft | None
    place: Callable[[BaseModel], Dialogue | Script]


def scene(r: Recorded) -> Scene:
    own = spoken(r.dialogue)
    prompt = load_prompt(r.kind, own.language)
    assert prompt is not None
    if r.kind == "rewrite":
        rules = by_rules(r.dialogue)
        task = rewrite_task(written(r.dialogue), rules, prompt, LIMITS)
        return Scene(task, None, None, lambda reply: place_rewrite(rules, _as(Rewrite, reply), LABEL))
    if r.kind == "follow_up":
        task = follow_up_task(own, len(r.reply["exchanges"]) if not r.reason else 3, prompt, LIMITS)
        return Scene(task, None, None, lambda reply: place_follow_up(own, _as(FollowUp, reply), LABEL))
    return _drafted(r, own, prompt)


def _drafted(r: Recorded, own: Dialogue, prompt: PromptFile) -> Scene:
    utterances, draft = _SCRIPTS[r.kind](r, own)
    script = Script(
        id=f"{r.kind}-0000000000000000",
        source=own.source,
        source_ids=(own.id, *([spoken(r.borrowed).id] if r.borrowed else [])),
        scenario=Scenario.UNINTERRUPTED,
        asked=Scenario.UNINTERRUPTED,
        language=own.language,
        licence="CC0-1.0",
        user_voice="ann",
        assistant_voice="bot",
        utterances=tuple(utterances),
    )
    task = draft_task(script, draft, prompt, LIMITS)
    return Scene(task, script, draft, lambda reply: place_draft(script, draft, reply, LABEL, own))


def _as(kind: type[Any], reply: BaseModel) -> Any:
    assert isinstance(reply, kind)
    return reply


def _said(turns: tuple[Turn, ...]) -> list[Utterance]:
    return [
        Utterance(t.channel, Kind.QUERY, t.text, t.writer, "ann")
        if t.channel is Channel.USER
        else Utterance(t.channel, Kind.REPLY, t.text, t.writer, "bot", replies_to=i - 1)
        for i, t in enumerate(turns)
    ]


def _cut(text: str, reply: int, writer: str = "template") -> Utterance:
    return Utterance(Channel.USER, Kind.INTERRUPTION, text, writer, "ann", interrupts=reply)


def _overheard(r: Recorded, own: Dialogue) -> tuple[list[Utterance], Draft]:
    said = _said(own.turns)
    over = Utterance(Channel.USER, Kind.DISTRACTOR, "Something.", "template", "eve", over=r.turn)
    return [*said, over], Draft("distractor", len(said), overheard=r.overheard)


def _termination(r: Recorded, own: Dialogue) -> tuple[list[Utterance], Draft]:
    said = _said(own.turns[: r.turn + 1])
    return [*said, _cut("Stop talking, please.", r.turn)], Draft("termination", len(said))


def _regeneration(r: Recorded, own: Dialogue) -> tuple[list[Utterance], Draft]:
    said = _said(own.turns[: r.turn + 1])
    again = Utterance(Channel.ASSISTANT, Kind.REPLY, said[-1].text, "corpus", "bot", replies_to=len(said))
    rest = _said(own.turns[r.turn + 1 :])
    return [*said, _cut("Once more, please.", r.turn), again, *rest], Draft("regeneration", len(said))


def _reset(r: Recorded, own: Dialogue) -> tuple[list[Utterance], Draft]:
    said = _said(own.turns[: r.turn + 1])
    query, reply = spoken(r.borrowed).turns[:2]
    answer = Utterance(Channel.ASSISTANT, Kind.REPLY, reply.text, reply.writer, "bot", replies_to=len(said))
    cut = _cut(f"Never mind that. {query.text}", r.turn, "template+corpus")
    return [*said, cut, answer], Draft("reset", len(said), query)


def _back_on_topic(r: Recorded, own: Dialogue) -> tuple[list[Utterance], Draft]:
    said = _said(own.turns[: r.turn + 1])
    answer = Utterance(Channel.ASSISTANT, Kind.REPLY, "Yes, it is.", "corpus", "bot", replies_to=len(said))
    resumption = Utterance(Channel.ASSISTANT, Kind.RESUMPTION, "Back to it.", "template+corpus", "bot", resumes=r.turn)
    return [*said, _cut("Is it?", r.turn, "template+corpus"), answer, resumption], Draft("back_on_topic", len(said))


def _interweaving(r: Recorded, own: Dialogue) -> tuple[list[Utterance], Draft]:
    said = _said((*own.turns[:2], *spoken(r.borrowed).turns[:2], own.turns[2], own.turns[3]))
    return said, Draft("interweaving", 4, own.turns[2], earlier=(0, 1))


_SCRIPTS: dict[str, Callable[[Recorded, Dialogue], tuple[list[Utterance], Draft]]] = {
    "distractor": _overheard,
    "termination": _termination,
    "regeneration": _regeneration,
    "reset": _reset,
    "back_on_topic": _back_on_topic,
    "interweaving": _interweaving,
}
