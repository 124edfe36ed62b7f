"""A whole text or dialogue in spoken form: its leading sentences, up to a duration."""

from __future__ import annotations

import re
from dataclasses import replace

from duplexdata.dialogue import Channel, Dialogue, Rejected, Turn
from duplexdata.errors import DuplexDataError
from duplexdata.spoken.characters import plain_characters
from duplexdata.spoken.chinese import say_chinese
from duplexdata.spoken.english import say_english
from duplexdata.spoken.markup import MULTILINE, without_addresses, without_markup
from duplexdata.spoken.numbers import DIGIT, say_numbers
from duplexdata.spoken.prose import Prose, read_prose
from duplexdata.spoken.rules import apply_rules
from duplexdata.spoken.sentence import SPACELESS, sentences
from duplexdata.spoken.signs import say_signs
from duplexdata.spoken.tidy import LEADING, tidy
from duplexdata.words import CHARACTERS_PER_SECOND, nominal_seconds


class Unspeakable(DuplexDataError):
    """A text has nothing that can be said; leave it out and count `reason`.

    Attributes:
        reason: "empty", "mostly_code", "mostly_table" or "first_sentence_too_long".
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


_MAX_LEFT_OUT = 0.6
"""A text of which more than this share is code (or a table) is not explained by the rest of it."""
_CODE_MARK = re.compile(r"[{};<>]|\w[(\[]|[a-z]_[a-z]|==|//")
_MIN_CODE_MARKS = 8
_MAX_CODE_MARKS = 0.12
"""Marks per word."""
_READ_AHEAD = 20
"""Times the budget: how much of a text is looked at. Markup and code may take up most of it."""
_KEEP_AHEAD = 2
"""Times the budget: how much prose is put into words."""
_MIN_READ = 600
"""Characters that are looked at whatever the budget."""
_MAX_REPEATS = 5
_TERMINAL = (".", "!", "?", "。", "！", "？", "।", "؟")
_CLAUSE_END = re.compile(r"[,;:，；：]")
_MIN_CLAUSE_WORDS = 3
_QUESTION = re.compile(
    r"(?:(?:what|who|whom|whose|where|when|why|how|which)\b(?!ever)|(?:can|could|would|will|should|do|does|did|is|are|was|were)"
    r" (?:you|i|we|it|he|she|they|there|the|this|that|a|an)\b)",
    re.IGNORECASE,
)


def _cut_at_space(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    cut = max(text.rfind(" ", 0, limit), text.rfind("\n", 0, limit))
    return text[: cut if cut > limit // 2 else limit]


def _check_prose(prose: Prose, has_letters: bool) -> None:
    kept = sum(map(len, prose.blocks))
    for count, reason in ((prose.code, "mostly_code"), (prose.table, "mostly_table")):
        if count and (not has_letters or count > _MAX_LEFT_OUT * (kept + prose.code + prose.table)):
            raise Unspeakable(reason, f"{count} of {kept + prose.code + prose.table} characters are left out")
    if not has_letters:
        raise Unspeakable("empty", "no letter is left")


def _check_marks(text: str) -> None:
    """Code that stands there without a fence is known by its punctuation."""
    if sum(map(text.count, "{;<(_[")) < _MIN_CODE_MARKS:
        return
    marks, words = len(_CODE_MARK.findall(text)), len(text.split())
    if marks >= _MIN_CODE_MARKS and marks > _MAX_CODE_MARKS * words:
        raise Unspeakable("mostly_code", f"{marks} marks of code in {words} words")


def _leading_blocks(blocks: list[str], limit: int) -> str:
    """As many blocks as stay below `limit` characters, at least one, which is cut if it is longer."""
    length = count = 0
    while count < len(blocks) and (length < limit or not count):
        length += len(blocks[count])
        count += 1
    return _cut_at_space("\n".join(blocks[:count]), 2 * limit)


def _closed(block: str, language: str) -> str:
    """A block with its first letter large and a mark at its end; a colon stays, for what it announces."""
    if block[0].islower() and block.isascii():
        block = block[0].upper() + block[1:]
    if block.endswith((*_TERMINAL, ":", "：")):
        return block
    bare = block.rstrip(" ,;，；、-")
    if language == "zh":
        return bare + "。"
    return bare + ("?" if language == "en" and _QUESTION.match(bare) and "," not in bare else ".")


def _say_other(text: str, language: str) -> str:
    if DIGIT.search(text):
        text = say_numbers(text, language)
    return say_signs(text, language)


def _in_words(text: str, language: str) -> str:
    """Numbers, abbreviations and symbols as a speaker of the language says them."""
    if language == "en":
        return say_english(text)
    text = without_addresses(text)
    return say_chinese(text) if language == "zh" else _say_other(text, language)


def _spoken_sentences(text: str, language: str) -> list[str]:
    result: list[str] = []
    for block in tidy(_in_words(text, language), language).split("\n"):
        block = block.strip().lstrip(LEADING)
        if block:
            closed = _closed(block, language)
            result += [s.strip() for s in sentences(closed, language) if any(map(str.isalpha, s))]
    return result


def _first_clause(sentence: str, language: str, max_seconds: float) -> str:
    """The longest beginning of a sentence that ends with a clause and fits."""
    stop = "。" if language == "zh" else "."
    for mark in reversed(list(_CLAUSE_END.finditer(sentence))):
        clause = sentence[: mark.start()]
        long_enough = len(clause) > 3 if language in SPACELESS else clause.count(" ") >= _MIN_CLAUSE_WORDS - 1
        if long_enough and nominal_seconds(clause + stop, language) <= max_seconds:
            asks = sentence.endswith("?") and _QUESTION.search(clause)
            return clause + ("?" if asks else stop)
    seconds = nominal_seconds(sentence, language)
    raise Unspeakable("first_sentence_too_long", f"{seconds:.1f} s, at most {max_seconds:g} s are wanted")


def _within(parts: list[str], language: str, max_seconds: float) -> str:
    """Leading sentences that fit together; the first one cut at a clause if it does not fit alone."""
    glue = "" if language in SPACELESS else " "
    text = ""
    for part in parts:
        longer = f"{text}{glue}{part}" if text else part
        if nominal_seconds(longer, language) > max_seconds:
            break
        text = longer
    return _without_promise(text, language) if text else _first_clause(parts[0], language, max_seconds)


def _without_promise(text: str, language: str) -> str:
    """An ending like "Here is how:" is left out, or closed where there is nothing before it."""
    if not text.endswith((":", "：")):
        return text
    *kept, last = sentences(text, language)
    glue = "" if language in SPACELESS else " "
    return glue.join(kept) or last.rstrip(":： ") + ("。" if language == "zh" else ".")


def spoken_form(text: str, *, language: str) -> str:
    """A whole text as it is said, on one line: nothing is cut, and no closing mark is added.

    For text that is prose already: a phrase, an LLM's line, one utterance. The spoken form of a spoken form is itself.

    Args:
        language: BCP 47 tag. In English the result has only letters (of any script), apostrophes and hyphens inside
            words, spaces and `.,;:!?`; elsewhere it has no digit and none of `UNSAYABLE`. It may be empty.
    """
    language = language.split("-")[0].lower()
    said = _said_once(text, language)
    for _ in range(_MAX_REPEATS):  # what a rule leaves may be another rule's: "1.A. B" is "one A. B" is "one A B"
        if (again := _said_once(said, language)) == said:
            break
        said = again
    return said


def _said_once(text: str, language: str) -> str:
    plain = apply_rules(plain_characters(text), MULTILINE)
    said = " ".join(tidy(_in_words(without_markup(plain), language), language).split())
    return said.lstrip(LEADING)


def speakable(text: str, *, language: str, max_seconds: float) -> str:
    """What a person would say for a written text: leading whole sentences that fit into `max_seconds`.

    Args:
        text: any text; of a very long one only the beginning is looked at.
        language: BCP 47 tag. English and Chinese have all rules; in others numbers are said where num2words
            knows the language (else in English), and symbols whose names we lack are left out.
        max_seconds: by `nominal_seconds`. A first sentence that is longer is cut at the end of a clause.

    Returns: one line that has a letter and ends with a mark; it has no digit and none of `UNSAYABLE`.
    Raises: Unspeakable.
    """
    language = language.split("-")[0].lower()
    budget = int(max(max_seconds, 0.0) * CHARACTERS_PER_SECOND) + 1
    read = apply_rules(plain_characters(_cut_at_space(text, max(_READ_AHEAD * budget, _MIN_READ))), MULTILINE)
    prose = read_prose(read)
    _check_prose(prose, any(map(str.isalnum, "".join(prose.blocks))))
    kept = _leading_blocks(prose.blocks, max(_KEEP_AHEAD * budget, _MIN_READ))
    _check_marks(kept)
    parts = _spoken_sentences(without_markup(kept), language)
    if len(parts) > 1 and len(kept) < sum(map(len, prose.blocks)):
        parts = parts[:-1]  # it may have been cut in its middle
    if not parts:
        raise Unspeakable("empty", "no letter is left")
    return _within(parts, language, max_seconds)


def speakable_dialogue(
    dialogue: Dialogue, *, max_query_sec: float, max_reply_sec: float, max_exchanges: int
) -> Dialogue | Rejected:
    """A dialogue in spoken form: the exchanges before the first turn that has nothing to say.

    An exchange is a user turn with its answer; a last user turn without one is left out.

    Returns: Rejected with the first turn's reason where not even one exchange is left.
    """
    turns: list[Turn] = []
    reason, detail = "no_exchange", "there is no user turn with an answer"
    last = min(len(dialogue.turns) // 2, max_exchanges) * 2
    for number, turn in enumerate(dialogue.turns[:last], start=1):
        seconds = max_query_sec if turn.channel is Channel.USER else max_reply_sec
        try:
            said = speakable(turn.text, language=dialogue.language, max_seconds=seconds)
        except Unspeakable as error:
            reason, detail = error.reason, f"turn {number}: {error.detail}"
            break
        turns.append(Turn(turn.channel, said))
    whole = len(turns) // 2 * 2
    if not whole:
        return Rejected(reason, detail, dialogue.id)
    return replace(dialogue, turns=tuple(turns[:whole]))
