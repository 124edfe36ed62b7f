"""Abbreviations and initials in full."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

_ALWAYS: Mapping[str, str] = MappingProxyType(
    {
        "e.g.": "for example", "i.e.": "that is", "mr.": "Mister", "mrs.": "Missus", "ms.": "Ms",
        "messrs.": "Messieurs",
        "prof.": "Professor", "vs.": "versus", "approx.": "approximately", "etc.": "et cetera", "jr.": "Junior",
        "sr.": "Senior", "dept.": "department", "a.k.a.": "also known as", "al.": "al", "govt.": "government",
        "assn.": "association", "misc.": "miscellaneous", "incl.": "including", "esp.": "especially", "ave.": "Avenue",
        "blvd.": "Boulevard", "rd.": "Road", "hwy.": "Highway", "inc.": "Incorporated", "corp.": "Corporation",
        "ltd.": "Limited", "bros.": "Brothers", "univ.": "University", "viz.": "namely", "cf.": "compare",
        "avg.": "average", "temp.": "temperature", "appt.": "appointment", "apt.": "apartment",
        "tbsp.": "tablespoons", "mfg.": "manufacturing", "intl.": "international", "natl.": "national",
        "p.s.": "PS", "r.i.p.": "RIP", "co.": "Company", "abbr.": "abbreviation", "asst.": "assistant",
    }
)  # fmt: skip
_BEFORE_NUMBER: Mapping[str, str] = MappingProxyType(
    {
        "no.": "number", "nos.": "numbers", "fig.": "figure", "figs.": "figures", "est.": "established",
        "vol.": "volume", "pp.": "pages", "p.": "page", "ch.": "chapter", "sec.": "section", "eq.": "equation",
        "max.": "maximum", "min.": "minimum", "ca.": "circa", "c.": "circa", "art.": "article", "ed.": "edition",
        "rm.": "room", "tel.": "telephone", "op.": "opus", "ver.": "version",
    }
)  # fmt: skip
_BEFORE_NAME: Mapping[str, str] = MappingProxyType(
    {
        "dr.": "Doctor", "st.": "Saint", "mt.": "Mount", "ft.": "Fort", "gen.": "General", "col.": "Colonel",
        "capt.": "Captain", "cpt.": "Captain", "lt.": "Lieutenant", "sgt.": "Sergeant", "rev.": "Reverend",
        "hon.": "Honorable", "gov.": "Governor", "sen.": "Senator", "rep.": "Representative",
        "pres.": "President", "prof.": "Professor",
        "cmdr.": "Commander", "maj.": "Major", "adm.": "Admiral", "supt.": "Superintendent", "fr.": "Father",
    }
)  # fmt: skip
_BEHIND_NAME: Mapping[str, str] = MappingProxyType(
    {
        "dr.": "Drive", "st.": "Street", "ln.": "Lane", "ct.": "Court", "pl.": "Place", "sq.": "Square",
        "pkwy.": "Parkway",
    }
)  # fmt: skip
_NEEDS_CAPITAL = ("co.", "inc.", "corp.", "ltd.", "bros.", "ave.", "rd.", "blvd.", "hwy.")
_WITH_STOP = re.compile(r"(?<![\w.])[A-Za-z]+\.(?:[A-Za-z]\.){0,2}(?![A-Za-z]\.)")
"""Whatever may be an abbreviation: a word with a full stop, or letters with one each."""
_NUMBER_BEHIND = re.compile(r" ?#?\d")
_NAME_BEHIND = re.compile(r" ?[A-Z]")
_STREET_BEHIND = re.compile(r" [A-Z][a-z]+(?:'s)? (?:St|Dr)\b")
_PLACE_BARE = re.compile(r"(?<=\d )([A-Z]\w+) (St|Ave|Blvd|Rd|Dr)(?=[,.;\n]|$)")
_CAPITALISED_BEFORE = re.compile(r"(?:\d(?:st|nd|rd|th)?|\b[A-Z][\w']*|first|second|third|\w+th) $")
_ENDS_SENTENCE = frozenset(
    {"etc.", "a.m.", "p.m.", "jr.", "sr.", "al.", "inc.", "corp.", "ltd.", "co.", "bros.", "ave.", "blvd.", "rd.",
     "hwy.", "dept.", "govt.", "misc.", "univ."}
)  # fmt: skip
_STARTERS = (
    "The|This|That|These|Those|It|He|She|We|You|They|I|In|On|At|And|But|So|Or|If|As|For|To|My|Your|His|Her|Our|Their|A|An|"
    "When|Where|What|Who|Why|How|Then|There|Here|No|Not|Yes|Please|Also|However|After|Before|While|With|Is|Are|Was|Do|Does|Did|Let"
)
_STARTER = re.compile(rf"(?:{_STARTERS})\b")

_BARE_ABBREVIATION = re.compile(
    r"\b(?:[Ee]g\.?(?=,? [a-z])|[Ee]\.g\b(?!\.)|[Ii]\.e\b(?!\.)|vs\b|[Vv]s\b(?= )|w/o\b|w/(?=\s)|w/(?=[a-z])"
    r"|s/he\b|n/a\b|b/c\b"
    r"|[Ee]tc\b(?!\.)|(?:Mr|Dr|Mrs)(?= [A-Z])|St(?= [A-Z][a-z]+)(?!\.)|[Aa]ka\b|approx\b)"
)
_BARE: Mapping[str, str] = MappingProxyType(
    {
        "eg": "for example", "e.g": "for example", "i.e": "that is", "vs": "versus", "w/o": "without",
        "w/": "with", "b/c": "because", "s/he": "she or he", "n/a": "N A", "st": "Saint",
        "etc": "et cetera", "mr": "Mister", "dr": "Doctor", "mrs": "Missus", "aka": "also known as",
        "approx": "approximately",
    }
)  # fmt: skip
_BARE_NEEDLES = tuple("eg e.g i.e vs w/ b/c s/he n/a tc Mr Dr St Eg ka approx Ave Blvd Rd I.e E.g".split()) + (" v",)
_CASE = re.compile(r"(?<=[a-z]) v\.? (?=[A-Z][a-z])")
_DOTTED = re.compile(r"(?<![\w.])(?:[A-Z]\.){2,}(?!\w)|\bPh\.D\b\.?|\bM\.?Sc\.(?=[ ,]|$)|\bB\.?Sc\.(?=[ ,]|$)")
_INITIALS = re.compile(r"(?<![\w.])(?:[A-Z]\. ?){2,4}(?=[A-Z][a-z])")
_MIDDLE = re.compile(r"(?:(?<=[a-z] )|(?<=^)|(?<=[.!?,;:] ))([A-Z])\. (?=[A-Z][a-z]+)")


def _keeps_stop(rest: str) -> bool:
    """Whether a sentence ends behind an abbreviation."""
    rest = rest[:24].lstrip(" \x02")
    return not rest or rest[0] == "\n" or (rest[0].isupper() and bool(_STARTER.match(rest)))


def _with_case(written: str, words: str) -> str:
    return words[0].upper() + words[1:] if written[0].isupper() and words[0].islower() else words


def _expand(match: re.Match[str]) -> str:
    written, text = match[0], match.string
    short, end = written.lower(), match.end()
    before = text[max(0, match.start() - 24) : match.start()]
    capital = written[0].isupper()
    if capital and short in _BEHIND_NAME and _is_place(before, text, end, short):
        return _BEHIND_NAME[short] + ("." if _keeps_stop(text[end:]) else "")
    if capital and short in _BEFORE_NAME and _NAME_BEHIND.match(text, end):
        return _BEFORE_NAME[short] + ("" if text[end] == " " else " ")
    if short in _BEFORE_NUMBER and _NUMBER_BEHIND.match(text, end):
        words = _BEFORE_NUMBER[short]
        return _with_case(written, words) if short in ("fig.", "figs.", "vol.", "ch.", "sec.", "eq.") else words
    if (
        short not in _ALWAYS
        or (short in _NEEDS_CAPITAL and not capital)
        or (short == "al." and not before.endswith("et "))
    ):
        return written
    rest = text[end:]
    ends = (short in _ENDS_SENTENCE and _keeps_stop(rest)) or not rest.strip(" \x02")
    return _with_case(written, _ALWAYS[short]) + ("." if ends else "")


def _is_place(before: str, text: str, end: int, short: str) -> bool:
    """ "St. Louis" is a saint; "Main St." and "Main St. The" are streets."""
    if not _CAPITALISED_BEFORE.search(before):
        return False
    rest = text[end : end + 24]
    if short in _BEFORE_NAME and _NAME_BEHIND.match(rest) and not _STARTER.match(rest.lstrip(" ")):
        return False
    return not _STREET_BEHIND.match(rest)


def _dotted(match: re.Match[str]) -> str:
    """ "the U.S. economy" is "the US economy"; a full stop that ends a sentence stays."""
    letters = match[0].replace(".", "").replace(" ", "")
    ends = match[0].endswith(".") and _keeps_stop(match.string[match.end() :])
    return letters + ("." if ends else "")


def _initials(match: re.Match[str]) -> str:
    return " ".join(match[0].replace(".", " ").split()) + " "


def _middle(match: re.Match[str]) -> str:
    """ "George W. Bush"; but "So do I. You" and "plan B. Then" end a sentence."""
    text, letter = match.string, match[1]
    rest = text[match.end() :]
    before = text[: match.start()].rstrip().rpartition(" ")[2]
    named = before[:1].isupper() or not before or before[-1] in ".!?,;:"
    if letter == "I" or not named or _STARTER.match(rest):
        return match[0]
    return f"{letter} "


_BARE_PLACES = {"St": "Street", "Ave": "Avenue", "Blvd": "Boulevard", "Rd": "Road", "Dr": "Drive"}


def say_abbreviations(text: str) -> str:
    if "." in text:
        text = _WITH_STOP.sub(_expand, text)
        text = _INITIALS.sub(_initials, text)
        text = _DOTTED.sub(_dotted, text)
        text = _MIDDLE.sub(_middle, text)
    if not any(short in text for short in _BARE_NEEDLES):
        return text
    text = _CASE.sub(" versus ", text)
    text = _PLACE_BARE.sub(lambda m: f"{m[1]} {_BARE_PLACES[m[2]]}", text)
    return _BARE_ABBREVIATION.sub(_bare, text)


def _bare(match: re.Match[str]) -> str:
    words = _with_case(match[0], _BARE[match[0].lower().rstrip(".")])
    return words + (" " if match[0] == "w/" and match.string[match.end()].isalpha() else "")
