"""Recorded replies of every kind: read, checked, and put in their place; faulty ones are refused for their reason."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise

import pytest
from scenes import LABEL, Recorded, recorded, scene, spoken

from duplexdata.config import WRITINGS
from duplexdata.dialogue import Dialogue, Script
from duplexdata.spoken import UNSAYABLE
from duplexdata.writer.parsing import RawReply, parse_reply
from duplexdata.writer.types import Fault

GOOD, FAULTY = recorded("good"), recorded("faulty")


def raw(r: Recorded) -> RawReply:
    return RawReply(json.dumps(r.reply, ensure_ascii=False), "stop", 100, 50)


def texts(value: Dialogue | Script) -> list[tuple[str, str]]:
    items = value.turns if isinstance(value, Dialogue) else value.utterances
    return [(i.text, i.writer) for i in items]


def strings(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [s for item in items for s in strings(item)]


def test_every_kind_is_recorded_good_and_faulty() -> None:
    assert set(Counter(r.kind for r in GOOD)) == set(Counter(r.kind for r in FAULTY)) == set(WRITINGS)
    assert len(GOOD) >= 25 and len(FAULTY) >= 25
    assert len({r.reason for r in FAULTY}) >= 15


@pytest.mark.parametrize("r", GOOD, ids=str)
def test_a_good_reply_passes_and_its_words_are_said_by_the_model(r: Recorded) -> None:
    s = scene(r)
    reply = parse_reply(raw(r), s.task.prompt)
    assert not isinstance(reply, Fault), reply
    assert s.task.check(reply) is None
    placed = texts(s.place(reply))
    by_model = " ".join(text for text, writer in placed if LABEL in writer)
    for text in strings({k: v for k, v in r.reply.items() if k != "said_to"}):
        if text not in ("user", "assistant"):
            assert text.rstrip(".,?!。，？！").replace("'", "") in by_model.replace("'", "")
    for text, _ in placed:
        assert not UNSAYABLE & set(text) and not any(c.isdigit() for c in text)


@pytest.mark.parametrize("r", [r for r in GOOD if r.kind not in ("rewrite", "follow_up")], ids=str)
def test_what_a_model_did_not_write_stays(r: Recorded) -> None:
    s = scene(r)
    assert s.script is not None
    reply = parse_reply(raw(r), s.task.prompt)
    assert not isinstance(reply, Fault)
    placed = s.place(reply)
    assert isinstance(placed, Script)
    changed = {"regeneration": 2, "back_on_topic": 3}.get(r.kind, 1)
    pairs = list(zip(s.script.utterances, placed.utterances, strict=True))
    assert sum(old != new for old, new in pairs) == changed
    for old, new in pairs:
        assert (old.channel, old.kind, old.voice) == (new.channel, new.kind, new.voice)
        assert (old.replies_to, old.interrupts, old.resumes, old.over) == (
            (new.replies_to, new.interrupts, new.resumes, new.over)
        )
    # A side question of the model's own borrows nothing.
    assert placed.source_ids == (s.script.source_ids[:1] if r.kind == "back_on_topic" else s.script.source_ids)


@pytest.mark.parametrize("r", FAULTY, ids=str)
def test_a_faulty_reply_is_refused_for_its_reason(r: Recorded) -> None:
    s = scene(r)
    reply = parse_reply(raw(r), s.task.prompt)
    assert not isinstance(reply, Fault), reply
    fault = s.task.check(reply)
    assert fault is not None
    assert fault.reason == r.reason, fault.detail
    assert not fault.detail[0].islower() and fault.detail.endswith(".")


def test_a_rewritten_dialogue_alternates_and_keeps_who_speaks() -> None:
    for r in GOOD:
        if r.kind in ("rewrite", "follow_up"):
            s = scene(r)
            reply = parse_reply(raw(r), s.task.prompt)
            assert not isinstance(reply, Fault)
            placed = s.place(reply)
            assert isinstance(placed, Dialogue)
            assert all(a.channel is not b.channel for a, b in pairwise(placed.turns))
            assert len(placed.turns) == len(spoken(r.dialogue).turns) + 2 * len(r.reply.get("exchanges", ()))
