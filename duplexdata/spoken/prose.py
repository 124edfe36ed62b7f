"""What of a text is prose, and what is code, a table, a list."""

from __future__ import annotations

import re
from dataclasses import dataclass

_FENCE = re.compile(r"(?:`{3,}|~{3,})")
_RULE = re.compile(r"[-*_=~#|:+\s]{3,}$")
_LIST_MARK = re.compile(
    r"(?:[-*+–—]|\(?\d{1,2}[.):]|\d{3}[.)]|\(?[a-zA-Z]\)|\(?[ivx]{1,4}\)|[a-dA-D]\.)"
    r"\s+(?=\S)(?!\d{3}-)(?:\[[ xX]\]\s+)?"
    r"|\d{1,2}[.)](?=[A-Z])"
)
_HEADING = re.compile(r"#{1,6}\s+")
_CODE_LINE = re.compile(
    r"""(?x)\s*(?:
      (?:async\s+)?def\s+\w+\(.* | class\s+\w+\s*[:({].* | import\s+[\w.]+(?:\s+as\s+\w+)?;?$ | @\w+(?:\(.*)?$
    | from\s+[\w.]+\s+import\s.* | return\b[^.?!]*[;()=\[\]+*/].* | return;?$ | print(?:f|ln)?\s?\(.*
    | (?:if|for|while|elif|else|try|except|with|switch)\b[^.?!]*[({=\[<>].*[:{]$ | (?:else|try|finally):$
    | \#include\b.* | \#!.* | (?:var|let|const)\s+\w+\s*=.* | (?:public|private|protected|static)\s.*[({;]$
    | function\s*\w*\(.*\{.* | [\w.]+\s*[-+*/]?=\s*[^=]*[()\[\]{;].* | [\w.]+\([^()]*\)[;:{]$
    | [^.?!]*[()=\[\]<>\w][;{]$(?<=[)\]=>;{]) (?<=\){|\);|\];|\ {|>;|};) | [{}\[\]();,]+$
    | (?:SELECT|INSERT\s+INTO|UPDATE|DELETE\s+FROM|CREATE\s+TABLE|ALTER\s+TABLE)\s.*
    | </?[a-zA-Z!][^<>]*>.*</?\w+>$
    | (?:using|namespace|package)\s+[\w.]+;?$ | class\s+\w+$ | [^.?!]*=[^.?!]*;$ | .*[;{}()]\s*//.*
    | (?:SELECT|FROM|WHERE|VALUES|GROUP\s+BY|ORDER\s+BY|(?:(?:LEFT|INNER)\s+)?JOIN)\b[^.?!]*$
    | [.\#]?[\w-]+\s*\{ | [\w-]+:\s*[^;]+;$ | \$\s+\w.* | //.*
    )"""
)
_MAX_CODE_LINE = 240
"""Characters; prose is longer, and the pattern is slow on it."""
_CONTINUES = re.compile(r"[a-z,;)]")
_COMMA = re.compile("[,，、]")
_SHORT_ITEM = 30
"""Characters."""
_WRAP_COLUMN = 60
"""A line at least this long without a full stop goes on in the next one; a shorter one stands for itself."""


@dataclass(frozen=True, slots=True)
class Prose:
    """A text without its code and tables; `code` and `table` count the characters left out."""

    blocks: list[str]
    code: int
    table: int


def _is_closed(line: str) -> bool:
    return line.endswith((".", "!", "?", ":", ";", "。", "！", "？", "：", "；", "”", '"'))


def read_prose(text: str) -> Prose:
    """Headings, list items, paragraphs, each as one block without its marks."""
    blocks: list[str] = []
    code = table = 0
    fenced = False
    after = ""
    for line in text.split("\n"):
        stripped = line.strip()
        if _FENCE.match(stripped):
            code += len(stripped)
            fenced ^= not (len(stripped) > 6 and stripped.endswith(stripped[:3]))
            after = ""
            _close_promise(blocks)
        elif fenced or (len(stripped) <= _MAX_CODE_LINE and _CODE_LINE.match(stripped)):
            code += len(stripped)
            after = ""
            _close_promise(blocks)
        elif not stripped or _RULE.match(stripped):
            after = ""
        elif stripped.count("|") >= 2:
            table += len(stripped)
            after = ""
            _close_promise(blocks)
        else:
            after = _add_line(blocks, stripped.lstrip("> "), after)
    return Prose(blocks, code, table)


def _close_promise(blocks: list[str]) -> None:
    """What is left out here does not follow any more: "as below:" ends as a sentence."""
    if blocks and blocks[-1].endswith((":", "：")):
        blocks[-1] = blocks[-1][:-1] + ("." if blocks[-1][-1] == ":" else "。")


def _is_short_item(item: str) -> bool:
    return len(item) <= _SHORT_ITEM and not _is_closed(item) and not _COMMA.search(item)


def _add_item(blocks: list[str], item: str, after: str) -> None:
    """Short items in a row are said as one enumeration, others as sentences."""
    if after == "item" and _is_short_item(item) and _is_short_item(blocks[-1].rpartition(", ")[2]):
        blocks[-1] = f"{blocks[-1]}, {item}"
    else:
        blocks.append(item)


def _add_line(blocks: list[str], line: str, after: str) -> str:
    """Put a line of prose into the last block or a new one.

    `after` says what the last block is, "" where nothing can be added to it. Returns that for the next line.
    """
    if heading := _HEADING.match(line):
        blocks.append(line[heading.end() :].rstrip("# "))
        return ""
    if mark := _LIST_MARK.match(line):
        _add_item(blocks, line[mark.end() :], after)
        return "item"
    if after and (
        blocks[-1].endswith((",", "，"))
        or (not _is_closed(blocks[-1]) and (_CONTINUES.match(line) or len(blocks[-1]) >= _WRAP_COLUMN))
    ):
        blocks[-1] = f"{blocks[-1]} {line}"
    elif line:
        blocks.append(line)
    return "text"
