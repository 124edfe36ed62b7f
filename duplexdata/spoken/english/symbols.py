"""Symbols of mathematics and of ordinary text in words."""

from __future__ import annotations

import re

from duplexdata.spoken.numbers import spaced
from duplexdata.spoken.rules import Rule, apply_rules

_MATHS: tuple[Rule, ...] = (
    ("(", re.compile(r"\b([fghpFP])\(([a-z\d])\)"), r"\1 of \2"),
    ("#", re.compile(r"#(?= {0,3}\d)"), "number "),
    ("#", re.compile(r"(?<=\b[A-GJ])#"), " sharp"),
    ("~", re.compile(r"~(?= {0,3}[\w$])"), "about "),
    ("^", re.compile(r"\^\(?2\)?(?!\d)"), " squared"),
    ("^", re.compile(r"\^\(?3\)?(?!\d)"), " cubed"),
    ("^", re.compile(r"(?<=[\w)])\^[({]?(?=[-\w])"), " to the power of "),
    (">", re.compile(r" {0,3}[-=]+> {0,3}"), " to "),
    ("<", re.compile(r" {0,3}<-+ {0,3}"), " "),
    ("=", re.compile(r"(?<![A-Za-z]{2})(?<=[\w)]) {0,3}<= {0,3}(?=[-\w])"), " is at most "),
    ("=", re.compile(r"(?<![A-Za-z]{2})(?<=[\w)]) {0,3}>= {0,3}(?=[-\w])"), " is at least "),
    ("=", re.compile(r" {0,3}<= {0,3}(?=[-\w])"), " at most "),
    ("=", re.compile(r" {0,3}>= {0,3}(?=[-\w])"), " at least "),
    ("=", re.compile(r" {0,3}!= {0,3}(?=[-\w])"), " is not equal to "),
    ("<", re.compile(r"(?<!\S)<(?=[-\w])"), "less than "),
    (">", re.compile(r"(?<!\S)>(?=[-\w])"), "more than "),
    ("<", re.compile(r"(?<![A-Za-z]{2})(?<=[\w)]) {0,3}< {0,3}(?=[-\w])"), " is less than "),
    (">", re.compile(r"(?<![A-Za-z]{2})(?<=[\w)]) {0,3}> {0,3}(?=[-\w])"), " is greater than "),
    ("<", re.compile(r" {0,3}< {0,3}(?=[-\w])"), " less than "),
    (">", re.compile(r" {0,3}> {0,3}(?=[-\w])"), " greater than "),
    ("=", re.compile(r"(?<=[\w)]) {0,3}=+ {0,3}"), " equals "),
    ("+", re.compile(r"\+"), " plus "),
    ("/", re.compile(r"(?<=[\d)]) / (?=[\w(])|(?<=\w) / (?=[\d(])"), " divided by "),
)
_SIGNS: tuple[Rule, ...] = (
    ("%", re.compile(r" ?%"), " percent"),
    ("‰", re.compile(r" ?‰"), " per mille"),
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
_SPACED_SLASH = re.compile(r"(?<=[^\W\d_]) / (?=[^\W\d_])")
_INNER_STOP = re.compile(r"(?<=[a-z])\.(?=([A-Z][a-z]|[a-z]{2}))")
_GREEK_NAMES = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho sigma sigma tau upsilon "
    "phi chi psi omega"
)
_GREEK = dict(zip("αβγδεζηθικλμνξοπρσςτυφχψω", _GREEK_NAMES.split(), strict=True))
_GREEK |= {letter.upper(): name for letter, name in _GREEK.items() if letter != "ς"}
_GREEK |= {"µ": "micro", "Ω": "omega", "ϕ": "phi"}
_GREEK_LETTER = re.compile(r"(?<![\u0370-\u03ff\u1f00-\u1fff])[\u0391-\u03c9µϕΩ](?![\u0370-\u03ff\u1f00-\u1fff])")


def _greek(match: re.Match[str]) -> str:
    """A letter that stands for itself; words in Greek are left alone."""
    name = _GREEK.get(match[0])
    if name is None:
        return match[0]
    return spaced(match, name)


def say_maths(text: str) -> str:
    if not text.isascii():
        text = _GREEK_LETTER.sub(_greek, text)
    if " / " in text:
        text = _SPACED_SLASH.sub(lambda m: " divided by " if "=" in _line(m) else " or ", text)
    return apply_rules(text, _MATHS)


def _line(match: re.Match[str]) -> str:
    text = match.string
    end = text.find("\n", match.end())
    return text[text.rfind("\n", 0, match.start()) + 1 : end if end >= 0 else None]


def _inner_stop(match: re.Match[str]) -> str:
    """ "end.The" lacks a space, "console.log" has a dot."""
    return ". " if match[1][0].isupper() else " dot "


def say_signs(text: str) -> str:
    if "." in text:
        text = _INNER_STOP.sub(_inner_stop, text)
    return apply_rules(text, _SIGNS)
