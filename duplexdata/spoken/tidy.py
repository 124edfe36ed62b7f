"""Punctuation and spaces as in ordinary prose."""

from __future__ import annotations

import re
import unicodedata

from duplexdata.spoken.markup import without_parentheses
from duplexdata.spoken.sentence import SPACELESS
from duplexdata.words import CJK

UNSAYABLE = frozenset("*_#|<>{}[]\\^~`=")
"""Characters that never remain in spoken text; neither does any digit."""

_DASH = re.compile(r" *[—–]+ *| -+ |--+|(?<= )-(?=[^\W\d])")
_QUOTE = re.compile(r'["«»„“”]|\'(?:(?<!\w\')|(?!\w))')
_LEFT_OVER = re.compile(r"[*_#|<>{}\[\]\\^~`=/@$€£¥₹°%&+\d]+")
_NO_ENGLISH = re.compile(r"[^A-Za-z\s'.,;:!?-]+")
_LOOSE = re.compile(r"[-'](?:(?<![^\W\d_][-'])|(?![^\W\d_]))")
_SPACE = re.compile(r"[^\S\n]+")
_SPACE_BEFORE_MARK = re.compile(r" +(?=[,;:.!?，。；：！？、])")
_MARKS = re.compile(r"([,;:，；：、])(?: ?[,;:，；：、])+")
_MARK_BEFORE_END = re.compile(r"[,;:，；：、]+ ?(?=[.!?。！？])")
_MARK_AFTER_END = re.compile(r"(?<=[.!?。！？]) ?[,;:，；：、]+")
_MANY_ENDS = re.compile(r"([!?。！？])[.!?。！？]+|\.{4,}|(?<!\.)\.\.(?!\.)")
_TIGHT_MARK = re.compile(r"([,;:])(?=[^\W\d])")
_SPACE_IN_CJK = re.compile(rf"(?<=[{CJK}，。！？；：、]) +(?=[{CJK}])|(?<=[，。！？；：、]) +| +(?=[，。！？；：、])")
LEADING = " ,;:.!?-，。；：！？、)）"


def _only_letters(text: str) -> str:
    """Letters of any script, their accents, and the marks of English prose."""
    if text.isascii():
        text = _NO_ENGLISH.sub(" ", text)
    else:
        text = text.translate({ord(c): " " for c in set(text) if not _is_english(c)})
    return _LOOSE.sub(" ", text)


def _is_english(ch: str) -> bool:
    return ch in " \n'.,;:!?-" or unicodedata.category(ch)[0] in "LM"


def tidy(text: str, language: str) -> str:
    """One line per block, punctuation as in ordinary prose, none of `UNSAYABLE` and no digit."""
    text = without_parentheses(text)
    text = _DASH.sub("，" if language == "zh" else ", ", text)
    if language not in SPACELESS:
        text = _QUOTE.sub("", text)
    text = _only_letters(text) if language == "en" else _LEFT_OVER.sub(" ", text)
    text = _SPACE.sub(" ", text)
    text = _SPACE_BEFORE_MARK.sub("", text)
    text = _MARK_BEFORE_END.sub("", _MARK_AFTER_END.sub("", _MARKS.sub(r"\1", text)))
    text = _MANY_ENDS.sub(lambda m: m[1] or ("..." if len(m[0]) > 3 else "."), text)
    if language in SPACELESS:
        return _SPACE_IN_CJK.sub("", text)
    return _TIGHT_MARK.sub(r"\1 ", text)
