"""Where sentences end."""

from __future__ import annotations

import re

SPACELESS = frozenset({"zh", "yue", "ja"})
"""Languages whose sentences are not separated by spaces."""

_END = re.compile(r"[.!?…。！？।؟]+[\"'”’)\]]*\s+")
_WIDE_END = re.compile(r"(?:[。！？!?…]+|\.(?=\s|$))[”’」』）》\"')]*\s*")
_NO_END = re.compile(
    r"(?:^|[\s(\"'“])(?:[A-Z]|Mr|Mrs|Ms|Dr|Prof|St|Mt|vs|e\.g|i\.e|Jr|Sr|approx|No|Fig|Gen|Col|Rev|Inc|Ltd|cf|al|[A-Z]\.[A-Z])\.$"
)


def _ends_here(text: str, end: re.Match[str]) -> bool:
    following = text[end.end() : end.end() + 1]
    if following.islower():
        return False
    mark = end[0].rstrip()
    return mark != "." or not _NO_END.search(text[max(0, end.start() - 12) : end.start() + 1])


def sentences(text: str, language: str) -> list[str]:
    """The sentences of a text, each with its closing punctuation.

    Joined with a space they give the text back (its ends and runs of spaces aside); in Chinese and Japanese
    they give it back joined with nothing. A full stop behind an abbreviation or an initial ends no sentence,
    nor does one that a lower-case word follows.
    """
    spaceless = language.split("-")[0].lower() in SPACELESS
    text = text.strip()
    parts: list[str] = []
    start = 0
    for end in (_WIDE_END if spaceless else _END).finditer(text):
        if spaceless or _ends_here(text, end):
            parts.append(text[start : end.end()] if spaceless else text[start : end.end()].rstrip())
            start = end.end()
    return [*parts, text[start:]] if start < len(text) else parts
