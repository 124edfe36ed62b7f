"""Faults of written texts: what a model is shown so that it can mend them. Pure: texts in, a fault or None out.

Every fault has a reason, a short key that is counted, and a sentence for the model. No sentence repeats more than a
few words of the reply, and none quotes the source.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from duplexdata.spoken import UNSAYABLE, Unspeakable, sentences, speakable
from duplexdata.words import nominal_seconds
from duplexdata.writer.language import content, in_language, plain_words, primary, share, shares_run, vocabulary
from duplexdata.writer.requests import (
    QUESTION_MARKS,
    addresses_assistant,
    asks_again,
    asks_for_silence,
    new_task_in,
    request_in,
)
from duplexdata.writer.types import Fault

SLACK_SEC = 0.5
"""Beyond a limit by this much is still taken: nominal seconds are an estimate."""
_NO_LIMIT_SEC = 600.0

_LINK = re.compile(r"https?:|www\.|\S@\w+\.\w|\b\w+\.(?:com|org|net|io|cn|de|edu|gov)\b", re.IGNORECASE)
_LIST_MARK = re.compile(r"^\s*(?:[-•–—▪]\s|\(?\d{1,2}[.)、]\s?|[a-zA-Z]\)\s)")
_ASIDE = re.compile(r"[()（）【】]")
_LONG_NUMBER = re.compile(r"\d{8,}")
_EMOJI = re.compile("[\u2600-\u27bf\U0001f000-\U0001faff\ufe0f]")
_META = re.compile(
    r"^(?:sure|certainly|of course|okay|absolutely)?[,!.]?\s*(?:here(?:'s| is| are)|below is|this is) "
    r"(?:the|a|an|my|your|one) (?:\w+ ){0,3}(?:rewrit\w*|version|conversation|dialogue|sentence|bridge|distractor|"
    r"transition|request|question|reply|response)\b"
    r"|\b(?:the user says|the user said|the assistant says|the assistant said|as requested|rewritten)\b|\bjson\b"
    r"|^(?:user|assistant|text|bridge|question|answer|用户|助手|文本|回答|问题)\s*[:：]",
    re.IGNORECASE,
)
_REFUSAL = re.compile(
    r"\bas an? (?:ai|artificial|language model|large language)\b|\bi(?:'m| am) (?:just )?an? (?:ai|language model)\b|"
    r"\bi(?:'m| am) (?:sorry|afraid),? (?:but )?i (?:can't|cannot|can not|am unable|won't)\b|"
    r"\bi (?:can't|cannot|am unable to|won't) "
    r"(?:help|assist|comply|do that|fulfil|fulfill|provide|create|write|continue)\b|"
    r"作为(?:一个)?(?:人工智能|AI|语言模型)|(?:抱歉|对不起)，?我(?:无法|不能)",
    re.IGNORECASE,
)
_COPIED_WORDS = {"en": 9, "zh": 16}
"""A run of so many words that the instructions have too is no chance (ideographs count as words)."""
_TAKEN_OVER = {"en": 7, "zh": 12}
"""The same for a text that should have words of its own."""
_SAME_ANSWER = 0.8
_ENOUGH = 4
"""Stems from which on those of a text say what it is about."""


@dataclass(frozen=True, slots=True)
class Slot:
    """Where a text goes.

    Attributes:
        language: BCP 47 tag.
        least_sec, most_sec: how long it may take to say (`nominal_seconds`).
        instructions: the prompt without its material, which nothing may be copied from.
    """

    language: str
    least_sec: float
    most_sec: float
    instructions: str = ""


@dataclass(frozen=True, slots=True)
class TurnSlot:
    """Where a rewritten turn goes, and what it is made from.

    Attributes:
        role: "user" or "assistant".
        written: the source's turn.
        spoken: the same by rules, which keep its first sentences.
    """

    role: str
    written: str
    spoken: str
    slot: Slot


def as_said(text: str, language: str) -> str:
    """A text without faults as it is spoken: numbers and symbols in words, an end mark, no quotation marks.

    Raises: Unspeakable.
    """
    return speakable(text, language=language, max_seconds=_NO_LIMIT_SEC)


# -- one text


def speech_fault(text: str, slot: Slot, what: str = "the text", source: str = "") -> Fault | None:
    """What keeps any text from being spoken as it is.

    Args:
        source: what it is a rewrite of. A chat may hold an assistant's refusal, or speak of a rewritten sentence, or
            be in another language in parts: what the source has is no fault of the model.
    """
    if not any(map(str.isalnum, text)):
        return _fault("empty", f"{what} is empty; write what is said")
    if fault := _layout_fault(text, what):
        return fault
    if (found := _REFUSAL.search(text)) and not _REFUSAL.search(source):
        return _fault("refusal", f'{what} says "{found[0]}"; write only what is said in the conversation')
    if (found := _META.search(text)) and not _META.search(source):
        return _fault("about_itself", f'{what} speaks about the task ("{found[0]}"); write only what is said')
    if not in_language(text, slot.language) and in_language(source, slot.language):
        return _fault("wrong_language", f"{what} is not in the language asked for")
    if slot.instructions and shares_run(text, slot.instructions, _limit(_COPIED_WORDS, slot.language)):
        return _fault("copies_instructions", f"{what} repeats the instructions; write only what is said")
    try:
        said = as_said(text, slot.language)
    except Unspeakable as error:
        return _fault("not_speakable", f"{what} cannot be said ({error.reason}); write plain spoken sentences")
    return _length_fault(said, slot, what)


def _layout_fault(text: str, what: str) -> Fault | None:
    stripped = text.strip()
    if "\n" in stripped:
        return _fault("not_speakable", f"{what} has several lines; write one line of plain sentences")
    if found := _LINK.search(text):
        return _fault("not_speakable", f'{what} holds a link or an address ("{found[0]}"); leave it out')
    if found := _LIST_MARK.match(stripped):
        return _fault("not_speakable", f'{what} begins with the list mark "{found[0].strip()}"; write plain sentences')
    if marks := sorted(UNSAYABLE & set(text)):
        return _fault("not_speakable", f"{what} holds {' '.join(marks)}; write plain sentences without markup or code")
    if found := _ASIDE.search(text):
        return _fault("not_speakable", f"{what} holds {found[0]}; write it without brackets or stage directions")
    if found := _EMOJI.search(text):
        return _fault("not_speakable", f"{what} holds the sign {found[0]}; write words only")
    if found := _LONG_NUMBER.search(text):
        return _fault("not_speakable", f"{what} holds the number {found[0][:12]}; write numbers as they are said")
    return None


def _length_fault(said: str, slot: Slot, what: str) -> Fault | None:
    seconds = nominal_seconds(said, slot.language)
    wanted = f"{slot.least_sec:.1f} to {slot.most_sec:.1f} seconds are wanted"
    if seconds > slot.most_sec + SLACK_SEC:
        return _fault("too_long", f"{what} takes about {seconds:.1f} seconds to say, {wanted}; make it shorter")
    if seconds < slot.least_sec - SLACK_SEC:
        return _fault("too_short", f"{what} takes about {seconds:.1f} seconds to say, {wanted}; make it longer")
    return None


def _fault(reason: str, what: str) -> Fault:
    """`what` as a sentence."""
    return Fault(reason, f"{what[:1].upper()}{what[1:]}.")


def _limit(table: dict[str, int], language: str) -> int:
    return table.get(primary(language), table["en"])


def _takes_over(text: str, others: Sequence[str], language: str) -> bool:
    """Whether a text has words of another one: a long run of them, or nothing but them."""
    said = plain_words(text)
    limit = min(_limit(_TAKEN_OVER, language), len(said))
    return bool(said) and any(shares_run(text, other, limit) for other in others)


# -- the kinds


def distractor_fault(text: str, said_to: str, kind: str, heard: Sequence[str], slot: Slot) -> Fault | None:
    """Args: heard: what was said in the conversation up to the moment."""
    if fault := speech_fault(text, slot):
        return fault
    if addresses_assistant(said_to):
        return _fault("asks_assistant", "it is said to the assistant; it must be said to somebody else")
    if found := request_in(text, kind, slot.language):
        return _fault("asks_assistant", f"{found}; nothing in it may be a question or a request to the assistant")
    if _takes_over(text, heard, slot.language):
        return _fault("copies_source", "the text repeats words of the conversation; write words of its own")
    return None


def termination_fault(text: str, slot: Slot) -> Fault | None:
    if fault := speech_fault(text, slot):
        return fault
    if task := new_task_in(text, slot.language):
        return _fault("asks_more", f'the text asks for something else ("{task}"); it may only ask for silence')
    if not asks_for_silence(text, slot.language):
        return _fault("no_termination", "the text does not make clear that the assistant is to stop talking")
    return None


def regeneration_fault(
    request: str, answer: str, heard: Sequence[str], request_slot: Slot, answer_slot: Slot
) -> Fault | None:
    """Args: heard: what was said so far; the last two are the request and its answer, which is cut."""
    *_, asked, old_answer = heard
    fault = speech_fault(request, request_slot, "the request") or speech_fault(answer, answer_slot, "the answer")
    if fault:
        return fault
    language = request_slot.language
    if same_text(answer, old_answer) or same_text(answer, asked) or same_text(answer, request):
        return _fault(
            "same_answer", "the answer is the one that was cut, or the request; give a new one in other words"
        )
    before = " ".join(heard)
    if not asks_again(request, language) and not _on_topic(f"{request} {answer}", before, language):
        return _fault("off_topic", "the request has nothing to do with what was asked before; stay with the topic")
    if not _on_topic(answer, f"{before} {request}", language):
        return _fault("off_topic", "the answer has nothing to do with the request; answer the request")
    return None


def _on_topic(text: str, other: str, language: str) -> bool:
    """Whether two texts may be about the same thing: they share a word that is not common, or several that are."""
    a, b = vocabulary(text, language), vocabulary(other, language)
    return min(len(a), len(b)) < _ENOUGH or len(a & b) > 1 or bool(content(text, language) & content(other, language))


def same_text(text: str, other: str) -> bool:
    """Whether two texts are all but the same, or one is the beginning of the other."""
    a, b = plain_words(text), plain_words(other)
    shorter = min(len(a), len(b))
    if not shorter:
        return a == b
    beginning = shorter >= 5 and a[:shorter] == b[:shorter]
    return beginning or SequenceMatcher(None, a, b, autojunk=False).ratio() > _SAME_ANSWER


def reset_fault(text: str, new_request: str, slot: Slot) -> Fault | None:
    if fault := speech_fault(text, slot):
        return fault
    language = slot.language
    if share(content(new_request, language), content(text, language)) < (0.5 if primary(language) == "en" else 0.35):
        return _fault("loses_meaning", "the new request lost what it asks for; keep its words where you can")
    if plain_words(text) == plain_words(new_request):
        return _fault("no_transition", "nothing leaves the old topic; begin with a few words that do")
    return None


def back_on_topic_fault(
    question: str,
    answer: str,
    continuation: str,
    heard: Sequence[str],
    still_to_say: str,
    slots: tuple[Slot, Slot, Slot],
) -> Fault | None:
    """Args:
    heard: what was said so far; the last is the answer that is cut, all of it.
    still_to_say: what of it comes behind the continuation.
    slots: of the question, the answer and the continuation.
    """
    fault = (
        speech_fault(question, slots[0], "the question")
        or speech_fault(answer, slots[1], "the answer")
        or speech_fault(continuation, slots[2], "the continuation")
    )
    if fault:
        return fault
    language = slots[0].language
    if not _asks(question, language):
        return _fault("no_question", "the question asks nothing; ask about what was just said")
    if same_text(answer, question):
        return _fault("same_answer", "the answer is the question; answer it")
    if not _on_topic(f"{question} {answer}", " ".join(heard), language):
        return _fault("off_topic", "question and answer have nothing to do with what was just said")
    if _asks(continuation, language):
        return _fault("asks_back", "the continuation asks something; it only leads back")
    limit = _limit(_TAKEN_OVER, language)
    if still_to_say and shares_run(answer, still_to_say, limit):
        return _fault("gives_away", "the answer says what the assistant is still going to say; leave that out")
    if still_to_say and shares_run(continuation, still_to_say, limit - 2):
        return _fault("repeats_rest", "the continuation says the rest of the old answer; only lead back to it")
    return None


def interweaving_fault(bridge: str, request: str, earlier: Sequence[str], slot: Slot) -> Fault | None:
    """Args: earlier: what was said about the topic before."""
    if fault := speech_fault(bridge, slot, "the bridge"):
        return fault
    language = slot.language
    if any(mark in bridge for mark in QUESTION_MARKS):
        return _fault("asks_more", "the bridge is a question; it only leads back to the topic")
    if shares_run(bridge, request, _limit(_TAKEN_OVER, language) - 2):
        return _fault("repeats_request", "the bridge says the request, which is said behind it; only name the topic")
    topic = vocabulary(" ".join([*earlier, request]), language)
    if topic and not vocabulary(bridge, language) & topic:
        return _fault("no_topic", "the bridge does not name the topic that it comes back to")
    return None


def follow_up_fault(
    exchanges: Sequence[tuple[str, str]], wanted: int, so_far: Sequence[str], question_slot: Slot, answer_slot: Slot
) -> Fault | None:
    """Args: so_far: the texts of the conversation that is continued, the user's first."""
    if len(exchanges) != wanted:
        return _fault("wrong_count", f"{len(exchanges)} exchanges were written, exactly {wanted} are wanted")
    language = question_slot.language
    heard = list(so_far)
    for n, (question, answer) in enumerate(exchanges, start=1):
        fault = speech_fault(question, question_slot, f"question {n}") or speech_fault(
            answer, answer_slot, f"answer {n}"
        )
        if fault:
            return fault
        for text, what in ((question, "question"), (answer, "answer")):
            if any(same_text(text, other) for other in heard):
                return _fault("copies_source", f"{what} {n} was said before; write something new")
        if not _on_topic(f"{question} {answer}", " ".join(heard), language):
            return _fault("off_topic", f"exchange {n} has nothing to do with the conversation")
        heard += [question, answer]
    return None


def rewrite_fault(turns: Sequence[tuple[str, str]], slots: Sequence[TurnSlot]) -> Fault | None:
    """Args: turns: role and text of each turn that was written."""
    if len(turns) != len(slots):
        return _fault("wrong_count", f"{len(turns)} turns were written, exactly {len(slots)} are wanted")
    for n, ((role, text), wanted) in enumerate(zip(turns, slots, strict=True), start=1):
        if role != wanted.role:
            return _fault("wrong_role", f"turn {n} is the {role}'s, it must be the {wanted.role}'s")
        if fault := speech_fault(text, wanted.slot, f"turn {n}", wanted.written):
            return fault
        if fault := _meaning_fault(text, wanted, f"turn {n}"):
            return fault
    return None


def _meaning_fault(text: str, wanted: TurnSlot, what: str) -> Fault | None:
    """By the words that two texts have in common: rough, but it tells a rewrite from another text.

    An answer may leave most of an essay out, but what it says must be in there; a question must keep its point.
    """
    language = wanted.slot.language
    made, source = content(text, language), content(wanted.written, language) | content(wanted.spoken, language)
    spoken = content(wanted.spoken, language)
    loose = primary(language) != "en"  # pairs of ideographs are changed by any other wording
    if len(made) >= _ENOUGH and share(made, source) < (0.15 if loose else 0.25):
        return _fault("loses_meaning", f"{what} says something else than the chat; keep its meaning")
    least = 0.15 if loose else 0.3
    if wanted.role == "user" and len(spoken) >= _ENOUGH and share(spoken, made) < least:
        return _fault("loses_meaning", f"{what} no longer asks what the chat asks; keep its meaning")
    if len(made) < _ENOUGH and spoken and made and not made & source:
        return _fault("loses_meaning", f"{what} says something else than the chat; keep its meaning")
    return None


def _asks(text: str, language: str) -> bool:
    if any(mark in text for mark in QUESTION_MARKS):
        return True
    last = (sentences(text, language) or [text])[-1]
    return primary(language) == "zh" and last.rstrip("。！").endswith(("吗", "呢", "么"))
