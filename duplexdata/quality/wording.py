"""What a speech recogniser heard, against what should have been said."""

from __future__ import annotations

import contextlib
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence

from duplexdata.config import QualityConfig
from duplexdata.quality.utterance import Fault
from duplexdata.spoken import Unspeakable, speakable
from duplexdata.words import word_texts

_N_GRAM = 3
"""Words that come again by mistake, not by chance."""
_LONGEST_SEC = 600.0


def judge_wording(
    heard: str, text: str, language: str, limits: QualityConfig, *, prompt: str | None = None
) -> tuple[Fault, ...]:
    """What is wrong with the words, the most telling first.

    Args:
        heard: the recogniser's text, in any spelling: numbers in digits are read as ours are.
        prompt: transcript of the recording that the voice is cloned from.
    """
    there, wanted = plain_words(heard, language), plain_words(text, language)
    return (
        *_check_prompt(there, wanted, plain_words(prompt, language) if prompt else [], limits),
        *_check_repeats(there, wanted),
        *_check_errors(there, wanted, limits),
    )


def plain_words(text: str, language: str) -> list[str]:
    """Words in lower case, numbers spelled out, without marks; an ideograph is a word."""
    with contextlib.suppress(Unspeakable):  # then it is compared as it stands
        text = speakable(text, language=language, max_seconds=_LONGEST_SEC)
    text = unicodedata.normalize("NFKC", text).casefold().replace("'", "").replace("’", "")
    bare = "".join(c if c.isalnum() or unicodedata.category(c).startswith("M") else " " for c in text)
    return word_texts(bare)


def edits(a: Sequence[str], b: Sequence[str]) -> int:
    """Words to insert, delete or replace (Levenshtein)."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, start=1):
        above, row[0] = row[0], i
        for j, y in enumerate(b, start=1):
            above, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, above + (x != y))
    return row[-1]


def _check_prompt(
    there: Sequence[str], wanted: Sequence[str], prompt: Sequence[str], limits: QualityConfig
) -> Iterator[Fault]:
    """A clone that goes on with its prompt begins with the prompt's last words."""
    for n in range(min(limits.prompt_words, len(prompt)), 0, -1):
        end = list(prompt[-n:])
        if list(there[:n]) == end and list(wanted[:n]) != end:
            yield Fault("says_prompt", n, 0)
            return


def _check_repeats(there: Sequence[str], wanted: Sequence[str]) -> Iterator[Fault]:
    found, meant = _n_grams(there), _n_grams(wanted)
    most = max((n for gram, n in found.items() if n > max(1, meant[gram])), default=0)
    if most:
        yield Fault("repeated_words", most, 1)


def _n_grams(words: Sequence[str]) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[i : i + _N_GRAM]) for i in range(len(words) - _N_GRAM + 1))


def _check_errors(there: Sequence[str], wanted: Sequence[str], limits: QualityConfig) -> Iterator[Fault]:
    if "".join(there) == "".join(wanted):
        return  # "all right" and "alright" sound the same
    wrong = edits(there, wanted)
    if len(wanted) < limits.short_words:
        if wrong > 1:
            yield Fault("word_errors", wrong, 1)
    elif wrong / len(wanted) > limits.word_error:
        yield Fault("word_error_rate", wrong / len(wanted), limits.word_error)
