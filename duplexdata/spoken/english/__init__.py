"""English as it is said: numbers, abbreviations, symbols, addresses in words.

The steps go from what is most particular to what is plain, and each leaves to the next only what it does not know: an
address before its digits, a phone number before a range, a date before a fraction, a unit before a power. Numbers are
spelled by num2words with "and" behind hundreds. Acronyms stay in capitals: an engine knows whether it spells them.
"""

from __future__ import annotations

import re

from duplexdata.spoken.english.codes import say_addresses, say_codes
from duplexdata.spoken.english.dates import say_dates, say_short_names, say_times
from duplexdata.spoken.english.money import say_money
from duplexdata.spoken.english.numbers import say_between, say_kinds
from duplexdata.spoken.english.roman import say_roman
from duplexdata.spoken.english.short import say_abbreviations
from duplexdata.spoken.english.symbols import say_maths, say_signs
from duplexdata.spoken.english.units import say_units
from duplexdata.spoken.numbers import DIGIT

_NEW_SENTENCE = "\x02"
"""Stands behind a full stop that a number follows, whose first word will need a capital."""
_BEFORE_NUMBER = re.compile(r"([.!?][\"')\]]*)(?=\s+[^\w\s.,;:!?\x02]{0,2}\.?\d)")
_SHORT = re.compile(
    r"(?:^|[\s(\"'])(?:[A-Za-z]|no|nos|figs?|est|vol|pp|ch|sec|eq|max|min|ca|art|ed|rm|tel|op|ver|ext|approx|vs|cf|dept|apt|mt|st|ft"
    r"|jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec|mon|tues?|wed|thu(?:rs)?|fri|sat|sun|hwy|rte|e\.g|i\.e"
    r"|et al|[ap]\.m|[a-z]\.[a-z])\.$",
    re.IGNORECASE,
)
_ITEM_NUMBER = re.compile(r"(?<=[.!?:;]) \d{1,2}[.)](?= [A-Z])")
"""Of a list that is written in one line: "Wash it. 2. Dry it."; lists in lines of their own have lost theirs."""
_FIRST_LETTER = re.compile(r"\x02(\s+)(\w)")


def _mark(match: re.Match[str]) -> str:
    if match[1] == "." and _SHORT.search(match.string[max(0, match.start() - 9) : match.end()]):
        return match[1]
    return match[1] + _NEW_SENTENCE


def say_english(text: str) -> str:
    """Text of one or several lines, its markup gone and its characters plain, in words."""
    text = say_addresses(text)
    if digits := DIGIT.search(text) is not None:
        text = _ITEM_NUMBER.sub("", text)
        text = _BEFORE_NUMBER.sub(_mark, text)
        text = say_codes(text)
        text = say_dates(text)
        text = say_between(say_money(text))
        text = say_times(text)
        text = say_units(text)
    text = say_maths(text)
    text = say_abbreviations(say_short_names(text) if "." in text or digits else text)
    text = say_roman(text)
    if digits:
        text = say_kinds(text)
        if _NEW_SENTENCE in text:
            text = _FIRST_LETTER.sub(lambda m: m[1] + m[2].upper(), text).replace(_NEW_SENTENCE, "")
    return say_signs(text)
