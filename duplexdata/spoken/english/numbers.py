"""Numbers that are neither dates, money nor codes: ranges, fractions, ordinals, years and plain ones."""

from __future__ import annotations

import re
from collections.abc import Callable

from duplexdata.spoken.english.years import is_count, say_decade, say_year
from duplexdata.spoken.numbers import say_cardinal, say_number, say_numbers, spaced, spell

_Replacement = str | Callable[[re.Match[str]], str]
_EnglishRule = tuple[str, re.Pattern[str], _Replacement]

# -- what stands between two numbers

_POWER_OF_TEN = re.compile(r"(?<![\w.])(\d{1,3}(?:\.\d+)?)[eE]([+-]?)(\d{1,3})(?![\w.])")
_MIXED_HYPHEN = re.compile(r"(?<![\d/.,-])(\d{1,2})-(?=\d/\d{1,2}(?![\d/]))")
_SEASON = re.compile(r"(?<![\w.,/])((?:19|20)\d\d)/(\d\d)(?![\w/])")
_EQUATION_MINUS = re.compile(r"(?<=\d)-(?=\d+(?:\.\d+)? ?=)")
_SCORE = re.compile(
    r"\b((?:[Ww]on|[Ll]ost|[Bb]eat|[Ww]in|[Ll]oss|[Ss]core[ds]?|[Ll]ead|[Ll]ed|[Tt]ied|[Dd]efeated"
    r"|[Dd]rew)\b[^.!?\n\d]{0,40})(\d{1,3}) [-–] (\d{1,3})(?![\w.])"
)
_SPACED_RANGE = re.compile(r"(?<![\w.,])(\d{1,5}) - (\d{1,5})(?= (?!equals|is\b|and\b|plus|minus|times|-)[a-z]|%)")
_MINUS = re.compile(r"(?<=\d) - (?=\d)")
_RANGE = re.compile(r"(?<=\d)((?:st|nd|rd|th|s|%|°|am|pm)?)(?: ?[–—] ?|-)(?=[$€£]?\d)")
_NEGATIVE = re.compile(r"(?<![\w)^])-(?=\.?\d)")
_RATIO = re.compile(r"(?<=\d) ?: ?(?=\d)")
_TIMES = re.compile(r"(?<=\d) ?x ?(?=\d+(?: ?x ?\d+){0,4} equals)")
_BY = re.compile(r"(?<=\d) ?x ?(?=\d)")
_MANY_TIMES = re.compile(
    r"(?<=\d)x(?=/| (?:faster|slower|more|less|better|larger|bigger|smaller|higher|lower|as|the|per|an?"
    r"|longer|cheaper|daily|weekly)\b)"
)
_PER = re.compile(r"(?<=times)/(?=[a-z])")

# -- kinds of numbers

_SPACES = re.compile(r"(?<![\d.,])(\d{1,3})((?: \d{3})+)(?![\d,])(?=(\.\d+)?)")
_MIXED_FRACTION = re.compile(r"(?<![\d/.,])(\d{1,4})(?:[ -]+| and )(\d{1,2})/(\d{1,3})(?![\d/])(?: of an? ([a-z]+))?")
_FRACTION = re.compile(r"(?<![\d/.,])(\d{1,4})/(\d{1,4})(?![\d/])(?:(?:rd|th|nd)s?\b)?")
_OUT_OF = re.compile(
    r"(?<![\d/.,])(\d{1,3}(?:\.\d+)?)/(5|10|100)(?![\d/]|[.,]\d| of\b| (?:cup|mile|inch|teaspoon|tablespoon))"
)
_RATED = re.compile(r"\b(?:rat|scor|grade|got|gave|give|review|star)", re.IGNORECASE)
_DENOMINATORS = {2: ("half", "halves"), 4: ("quarter", "quarters")}
_MAX_FRACTION = 100
_ORDINAL = re.compile(r"(\d[\d,]*)(?:st|nd|rd|th)\b", re.IGNORECASE)
_DECADE = re.compile(r"(?<![\d.,])'?((?:1[1-9]|20)?\d0)'?s\b")
_APOSTROPHE = re.compile(r"(?<=\d)'(?=\d\d(?!\w))")
_APOSTROPHE_YEAR = re.compile(r"(?<!\w)'0(\d)\b")
_YEAR = re.compile(r"(?<![\w.,+])(1[1-9]\d\d|20\d\d)(?![\d%]|[.,]\d)")
_EARLY_YEAR = re.compile(r"\b([Ii]n|[Ss]ince|[Cc]irca|[Yy]ear|AD|[Uu]ntil) (10\d\d)(?![\w%]|[.,]\d)(?! [a-z]+s\b)")
_GLUED_YEAR = re.compile(r"(?<=[A-Z])((?:19|20)\d\d)\b")
_THOUSANDS = re.compile(r"(?<=\d)k\b|(?<=\d\d)K\b|(?<=\d)M\b|(?<=\d)bn\b|(?<=\.\d)B\b")
_HYPHENS = re.compile(r"(?<=[A-Za-z])-(?=\d)|(?<=\d)-(?=[A-Z](?:\b|\d))")


def _simple_fraction(over: int, under: int) -> str:
    """Numerator and denominator in words; "seven over five" where nobody says the fraction's name."""
    top = say_cardinal(str(over), "en")
    if not (over < under and 1 < under <= _MAX_FRACTION):
        return f"{top} {'out of' if over == under else 'over'} {say_cardinal(str(under), 'en')}"
    name = spell(str(under), "en", "ordinal")
    singular, plural = _DENOMINATORS.get(under, (name, f"{name}s"))
    return f"{top} {singular if over == 1 else plural}"


def _mixed_fraction(match: re.Match[str]) -> str:
    part = _simple_fraction(int(match[2]), int(match[3]))
    part = f"a {part[4:]}" if part.startswith("one ") else part
    of = f" {match[4]}s" if match[4] else ""
    return f"{say_cardinal(match[1], 'en')} and {part}{of}"


def _out_of(match: re.Match[str]) -> str:
    over, under = match.groups()
    rated = bool(_RATED.search(match.string[max(0, match.start() - 40) : match.end() + 8]))
    if over == "1" or (under == "5" and not rated and "." not in over):
        return match[0]
    return f"{say_number(over, 'en')} out of {say_cardinal(under, 'en')}"


def _year(match: re.Match[str]) -> str:
    if is_count(match.string, match.start(), match.end()):
        return say_cardinal(match[1], "en")
    return say_year(match[1])


_BETWEEN: tuple[_EnglishRule, ...] = (
    ("eE", _POWER_OF_TEN, lambda m: f"{m[1]} times ten to the power of {'minus ' if m[2] == '-' else ''}{m[3]}"),
    ("-", _MIXED_HYPHEN, r"\1 "),
    ("/", _SEASON, r"\1 to \2"),
    ("-", _EQUATION_MINUS, " minus "),
    ("-–", _SCORE, r"\1\2 to \3"),
    ("-", _SPACED_RANGE, lambda m: f"{m[1]} to {m[2]}" if int(m[1]) < int(m[2]) else m[0]),
    ("-", _MINUS, " minus "),
    ("-–—", _RANGE, r"\1 to "),
    ("-", _NEGATIVE, "minus "),
)
_KINDS: tuple[_EnglishRule, ...] = (
    ("-", _NEGATIVE, "minus "),
    (":", _RATIO, " to "),
    ("x", _TIMES, " times "),
    ("x", _BY, " by "),
    ("x", _MANY_TIMES, " times"),
    ("/", _PER, " per "),
    ("/", _MIXED_FRACTION, _mixed_fraction),
    ("/", _OUT_OF, _out_of),
    ("/", _FRACTION, lambda m: _simple_fraction(int(m[1]), int(m[2]))),
    ("-", _HYPHENS, " "),
    ("sndtSNDT", _ORDINAL, lambda m: spaced(m, spell(m[1].replace(",", "")[:15], "en", "ordinal"))),
    ("s", _DECADE, lambda m: say_decade(m[1])),
    ("'", _APOSTROPHE, " "),
    ("'", _APOSTROPHE_YEAR, r"oh \1"),
    ("kKMbB", _THOUSANDS, lambda m: {"M": " million", "b": " billion", "B": " billion"}.get(m[0][0], " thousand")),
    ("", _EARLY_YEAR, lambda m: f"{m[1]} {say_year(m[2])}"),
    ("", _GLUED_YEAR, lambda m: f" {say_year(m[1])}"),
    ("", _YEAR, _year),
)


def _apply(text: str, rules: tuple[_EnglishRule, ...]) -> str:
    for needles, pattern, replacement in rules:
        if not needles or any(needle in text for needle in needles):
            text = pattern.sub(replacement, text)
    return text


def say_between(text: str) -> str:
    """Ranges, scores and minus signs, their numbers left as digits."""
    text = _SPACES.sub(_joined, text)
    return _apply(text, _BETWEEN)


def _joined(match: re.Match[str]) -> str:
    """ "1 000 000" is one number; "2 300" may be two."""
    groups = match[2].split()
    if len(groups) < 2 and match[2] != " 000":
        return match[0]
    return match[1] + "".join(groups)


def say_kinds(text: str) -> str:
    """All digits that are left."""
    return say_numbers(_apply(text, _KINDS), "en")
