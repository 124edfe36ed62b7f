"""Abbreviations, symbols and numbers as they are said in English."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

from duplexdata.spoken.english_numbers import say_english_numbers
from duplexdata.spoken.numbers import DIGIT
from duplexdata.spoken.rules import Rule, apply_rules

_ABBREVIATIONS: Mapping[str, str] = MappingProxyType(
    {
        "e.g.": "for example", "i.e.": "that is", "mr.": "Mister", "mrs.": "Missus", "ms.": "Ms",
        "dr.": "Doctor", "prof.": "Professor", "vs.": "versus", "approx.": "approximately",
        "etc.": "et cetera", "jr.": "Junior", "sr.": "Senior", "fig.": "figure", "a.m.": "AM", "p.m.": "PM",
        "no.": "number", "st.": "Saint", "mt.": "Mount", "dept.": "department", "est.": "established",
        "a.k.a.": "also known as",
    }
)  # fmt: skip
_ABBREVIATION = re.compile(
    r"\b(?:e\.g\.|i\.e\.|a\.k\.a\.|[Mm]rs?\.|[Mm]s\.|[Dd]r\.|[Pp]rof\.|vs\.|[Aa]pprox\.|etc\.|Jr\.|Sr\."
    r"|[Ff]ig\.(?= ?\d)|[Aa]\.[Mm]\.|[Pp]\.[Mm]\.|[Nn]o\.(?= ?\d)|[SM]t\.(?= [A-Z])"
    r"|[Dd]ept\.|[Ee]st\.(?= ?\d))"
)
_ENDS_SENTENCE = frozenset({"etc.", "a.m.", "p.m.", "jr.", "sr."})
_BARE_ABBREVIATION = re.compile(
    r"\b(?:[Ee]g\.?(?=,? [a-z])|vs\b|w/o\b|w/(?=\s)|b/c\b|[Ee]tc\b(?!\.)|(?:Mr|Dr|Mrs)(?= [A-Z]))"
)
_BARE: Mapping[str, str] = MappingProxyType(
    {
        "eg": "for example", "vs": "versus", "w/o": "without", "w/": "with", "b/c": "because",
        "etc": "et cetera", "mr": "Mister", "dr": "Doctor", "mrs": "Missus",
    }
)  # fmt: skip
_STREET = re.compile(r"(?<=[a-z\d] )St\.?(?= *(?:[,.;\n]|$))")
_INITIALS = re.compile(r"\b(?:[A-Z]\. ?){1,4}(?=[A-Z][A-Za-z])|\b(?:[A-Z]\.){2,}|\bPh\.D\.?")
_DOMAIN = re.compile(r"(?<=\w)\.(?=(?:com|org|net|edu|gov|io|ai)\b)")


def _expand(match: re.Match[str]) -> str:
    short = match[0].lower()
    rest = match.string[match.end() :][:2].lstrip(" ")
    ends = short in _ENDS_SENTENCE and (not rest or rest[0].isupper() or rest[0] == "\n")
    words = _ABBREVIATIONS[short]
    if match[0][0].isupper() and words[0].islower():
        words = words[0].upper() + words[1:]
    return words + ("." if ends else "")


def _initials(match: re.Match[str]) -> str:
    """ "J.K. Rowling" is "J K Rowling", "the U.S." is "the US"; a full stop that ends a text stays."""
    letters = match[0].replace(".", "").replace(" ", "")
    rest = match.string[match.end() :]
    if rest[:1].isalpha():
        return " ".join(letters) + " "
    ends = not rest.strip() or rest[0] == "\n"
    return letters + ("." if ends and match[0].endswith(".") else "") + (" " if match[0].endswith(" ") else "")


def _say_abbreviations(text: str) -> str:
    if "." in text:
        text = _STREET.sub("Street", text)
        text = _ABBREVIATION.sub(_expand, text)
        text = _INITIALS.sub(_initials, text)
        text = _DOMAIN.sub(" dot ", text)
    return _BARE_ABBREVIATION.sub(lambda m: _BARE[m[0].lower().rstrip(".")], text)


_ENGLISH_SYMBOLS: tuple[Rule, ...] = (
    ("#", re.compile(r"#(?= ?\d)"), "number "),
    ("#", re.compile(r"(?<=\b[A-GJ])#"), " sharp"),
    ("~", re.compile(r"~(?= ?[\d$])"), "about "),
    ("^", re.compile(r"\^\(?2\)?(?!\d)"), " squared"),
    ("^", re.compile(r"\^\(?3\)?(?!\d)"), " cubed"),
    ("^", re.compile(r"(?<=[\w)])\^[({]?(?=[-\w])"), " to the power of "),
    (">", re.compile(r" ?[-=]+> ?"), " to "),
    ("<", re.compile(r" ?<-+ ?"), " "),
    ("=", re.compile(r"(?<=\w) ?<= ?(?=[-\w])"), " is at most "),
    ("=", re.compile(r"(?<=\w) ?>= ?(?=[-\w])"), " is at least "),
    ("=", re.compile(r"(?<=\w) ?!= ?(?=[-\w])"), " is not equal to "),
    ("<", re.compile(r"(?<=\w) ?< ?(?=[-\w])"), " is less than "),
    (">", re.compile(r"(?<=\w) ?> ?(?=[-\w])"), " is greater than "),
    ("=", re.compile(r"(?<=[\w)]) ?=+ ?"), " equals "),
    ("+", re.compile(r"\+"), " plus "),
    ("/", re.compile(r"(?<=[\d)]) / (?=[\w(])|(?<=\w) / (?=[\d(])"), " divided by "),
)
_ENGLISH_SIGNS: tuple[Rule, ...] = (
    ("%", re.compile(r" ?%"), " percent"),
    ("&", re.compile(r" ?& ?"), " and "),
    ("@", re.compile(r"@"), " at "),
    ("$", re.compile(r"\$"), " dollars "),
    ("€", re.compile(r"€"), " euros "),
    ("£", re.compile(r"£"), " pounds "),
    ("¥", re.compile(r"¥"), " yen "),
    ("₹", re.compile(r"₹"), " rupees "),
    ("°", re.compile(r" ?°"), " degrees "),
    ("/", re.compile(r"\b([Aa]nd)/or\b"), r"\1 or"),
    ("/", re.compile(r"(?<=[a-z]) ?/ ?(?=[a-z])"), " or "),
)


def say_english(text: str) -> str:
    text = apply_rules(text, _ENGLISH_SYMBOLS)
    text = _say_abbreviations(text)
    if DIGIT.search(text):
        text = say_english_numbers(text)
    return apply_rules(text, _ENGLISH_SIGNS)
