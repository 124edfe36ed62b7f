"""Good replies put where they belong: into a dialogue before it is planned, into a script afterwards. Pure."""

from __future__ import annotations

from dataclasses import replace

from pydantic import BaseModel

from duplexdata.dialogue import Channel, Dialogue, Pause, Script, Turn, Utterance
from duplexdata.talk import Draft, join
from duplexdata.words import split_words
from duplexdata.writer.checks import as_said
from duplexdata.writer.reply_models import (
    BackOnTopic,
    Distractor,
    FollowUp,
    Interweaving,
    Regeneration,
    Reset,
    Rewrite,
    Termination,
)


def place_rewrite(spoken: Dialogue, reply: Rewrite, label: str) -> Dialogue:
    """The dialogue in the model's words. Args: spoken: by rules, as many turns as the reply has."""
    turns = tuple(
        Turn(turn.channel, as_said(new.text, spoken.language), label)
        for turn, new in zip(spoken.turns, reply.turns, strict=True)
    )
    return replace(spoken, turns=turns)


def place_follow_up(dialogue: Dialogue, reply: FollowUp, label: str) -> Dialogue:
    """The dialogue with more exchanges."""
    more = [
        Turn(channel, as_said(text, dialogue.language), label)
        for e in reply.exchanges
        for channel, text in ((Channel.USER, e.question), (Channel.ASSISTANT, e.answer))
    ]
    return replace(dialogue, turns=(*dialogue.turns, *more))


def place_draft(script: Script, draft: Draft, reply: BaseModel, label: str, own: Dialogue) -> Script:
    """The script with a draft's texts by the model.

    Args:
        label: who wrote it, as it stands in every utterance.
        own: the conversation's own dialogue, which is all that is left of the sources where a borrowed one's text
            has been replaced.
    """
    i, language = draft.utterance, script.language

    def said(text: str) -> str:
        return as_said(text, language)

    match reply:
        case Distractor() | Termination() | Reset():
            return _with(script, {i: (said(reply.text), label)})
        case Regeneration():
            return _with(script, {i: (said(reply.request), label), i + 1: (said(reply.answer), label)})
        case BackOnTopic():
            resumption = script.utterances[i + 2]
            assert resumption.resumes is not None
            rest = script.utterances[resumption.resumes].writer
            texts = {
                i: (said(reply.question), label),
                i + 1: (said(reply.answer), label),
                i + 2: (said(reply.continuation), f"{label}+{rest}"),
            }
            return replace(_with(script, texts), source_ids=(own.id,), licence=own.licence)
        case Interweaving():
            assert draft.request is not None
            bridge = said(reply.bridge)
            text = join(bridge, draft.request.text, language)
            moved = _behind_bridge(script.utterances[i], draft.request.text, bridge)
            query = replace(moved, text=text, writer=f"{label}+{draft.request.writer}")
            return replace(script, utterances=(*script.utterances[:i], query, *script.utterances[i + 1 :]))
    raise TypeError(f"no draft becomes a {type(reply).__name__}")


def without_overlay(script: Script, index: int) -> Script:
    """The script without a distractor or backchannel. Nothing refers to one, and they are last."""
    assert not script.utterances[index].addressed
    return replace(script, utterances=(*script.utterances[:index], *script.utterances[index + 1 :]))


def _with(script: Script, texts: dict[int, tuple[str, str]]) -> Script:
    """Other texts and writers for some utterances. They are interruptions and what follows: none has a pause."""
    utterances = list(script.utterances)
    for i, (text, writer) in texts.items():
        utterances[i] = replace(utterances[i], text=text, writer=writer)
    return replace(script, utterances=tuple(utterances))


def _behind_bridge(query: Utterance, request: str, bridge: str) -> Utterance:
    """The query with its pause at the same place of the request, or at the bridge's end if it was before that."""
    if query.pause is None:
        return query
    before = len(split_words(query.text)) - len(split_words(request))
    after = max(query.pause.after_word, before - 1)
    return replace(query, pause=Pause(after - before + len(split_words(bridge)), query.pause.seconds))
