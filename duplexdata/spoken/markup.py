"""Markup inside a line goes, with links and asides for the eye; other asides are set between commas."""

from __future__ import annotations

import html
import re

from duplexdata.spoken.rules import Rule, apply_rules

MULTILINE: tuple[Rule, ...] = (
    ("<", re.compile(r"<!--.{0,3000}?-->|<(script|style)\b[^<>]{0,300}>.{0,3000}?</\1>", re.DOTALL), " "),
    ("$", re.compile(r"\$\$[^$]{1,2000}\$\$"), " "),
    (
        "\\",
        re.compile(r"\\\[.{0,1000}?\\\]|\\\(.{0,500}?\\\)|\\begin\{(\w+\*?)\}.{0,2000}?\\end\{\1\}", re.DOTALL),
        " ",
    ),
    ("\\", re.compile(r"\\n(?![a-z])"), "\n"),
)
_INLINE: tuple[Rule, ...] = (
    ("`", re.compile(r"`(\w[\w .'-]{0,40})`"), r"\1"),
    ("`", re.compile(r"``?[^`\n]*``?"), ""),
    ("](", re.compile(r"!\[[^\[\]\n]*\]\([^()\n]*\)"), ""),
    ("](", re.compile(r"\[([^\[\]\n]*)\]\([^()\n]*\)"), r"\1"),
    ("<", re.compile(r"<(?:https?:|mailto:)?[\w.+-]+(?:@|//)[^<>\s]*>"), ""),
    (
        "<",
        re.compile(r"</?(?:[bius]|em|strong|span|sup|sub|a|code|font)\b[^<>\n]{0,300}>", re.IGNORECASE),
        "",
    ),
    ("<", re.compile(r"</?[a-zA-Z][^<>\n]{0,300}>"), " "),
    ("$", re.compile(r"(?<![\w$])\$(?=[^\s\d$])[^$\n]{1,200}(?<=\S)\$(?!\w)"), ""),
    ("\\", re.compile(r"(?<![\w:\\])\\[A-Za-z]{2,}(?:\{[^{}\n]{0,200}\}){0,3}"), ""),
    ("[", re.compile(r"(?:(?<=[^\s:])|(?<= ))\[\^?\d{1,3}\]|(?<=[^\s:])\[\d{1,3}(?:[,–-] ?\d{1,3})*\]"), ""),
    ("[", re.compile(r"\[([-\d][\d., -]*)\]"), r"\1"),
    ("(", re.compile(r"\((e?s)\)"), r"\1"),
    ("_", re.compile(r"(?<!\w)__(?=\S)([^_\n]+)__(?!\w)|(?<!\w)_(?=[^\s_])([^_\n]+)_(?!\w)"), r"\1\2"),
    ("__", re.compile(r"(?<=[.?!:])[ \t]*_{2,}(?!\w)"), ""),
    ("__", re.compile(r"(?<!\w)_{2,}(?!\w)"), " blank "),
    ("*", re.compile(r"(?<=[\d%)]) ?\* ?(?=[\d($])|(?<=\w) \* (?=\w)"), " times "),
    ("**", re.compile(r"\*\*"), ""),
    ("~~", re.compile(r"~~"), ""),
)
_ADDRESSES: tuple[Rule, ...] = (
    ("://", re.compile(r"(?:https?|ftp|file)://[^\s<>\"”，。]*[^\s<>\"”，。.,;:!?)\]]"), ""),
    ("www.", re.compile(r"\bwww\.[^\s<>\"”，。]*[^\s<>\"”，。.,;:!?)\]]"), ""),
    ("@", re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63})+"), ""),
)
_BRACKETED = re.compile(r"\[[^\[\]]*\]")
_ENTITY = re.compile(r"&(?:#\d{1,7}|#x[0-9a-fA-F]{1,6}|[a-zA-Z]{2,8});")
_EMOTICON = re.compile(r"(?<!\S)[:;=]['-]?[)(DPp/|](?!\S)")
_PARENTHESES = re.compile(r"[ \t]*\(([^()\n]*)\)")
_HASHTAG = re.compile(r"(?<!\w)#([A-Za-z]\w*)")
_CAMEL_HUMP = re.compile(r"(?<=[a-z])(?=[A-Z\d])")
_SILENT_ASIDE = re.compile(
    r"(?<=\S) ?\((?:(?:(?:c|ca|approx)\. ?|about |~)?\d[\d.,]*[ -]?[a-zA-Z°][^()\n+*=^]{0,30}"
    r"|\d{3,4} ?[-–] ?(?:\d{3,4}|present)|[12]\d{3})\)"
)
"""Conversions and years in brackets, "(46 cm)", "(1775-1817)": written for the eye."""
_MAX_NESTING = 4


def without_markup(text: str) -> str:
    if "&" in text:
        text = _ENTITY.sub(lambda m: html.unescape(m[0]), text)
    text = apply_rules(text, _INLINE)
    for _ in range(_MAX_NESTING):
        if "[" not in text:
            break
        text = _BRACKETED.sub("", text)
    if "#" in text:
        text = _HASHTAG.sub(lambda m: _CAMEL_HUMP.sub(" ", m[1]), text)
    if "(" in text:
        text = _SILENT_ASIDE.sub("", text)
    return _EMOTICON.sub("", text)


def without_addresses(text: str) -> str:
    """For languages in which we cannot read them out."""
    return apply_rules(text, _ADDRESSES)


def _aside(match: re.Match[str]) -> str:
    if not any(map(str.isalnum, match[1])):
        return " "
    before_mark = match.string[match.end() : match.end() + 1] in (":", ";")
    return f", {match[1]}" if before_mark else f", {match[1]}, "


def without_parentheses(text: str) -> str:
    """An aside in brackets is said between pauses."""
    if "（" in text:
        text = text.replace("（", "，").replace("）", "，")
    for _ in range(_MAX_NESTING):
        if "(" not in text:
            break
        text = _PARENTHESES.sub(_aside, text)
    return text.replace("(", " ").replace(")", " ")
