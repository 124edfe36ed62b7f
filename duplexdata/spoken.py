"""Rules that turn written text into what a person would say.

Markup, code, links and emoji go; list items become sentences; symbols and numbers become words; whole
sentences are kept up to a duration. The same text always gives the same result.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import lru_cache
from types import MappingProxyType

from duplexdata.dialogue import Channel, Dialogue, Rejected, Turn
from duplexdata.errors import DuplexDataError
from duplexdata.words import CHARACTERS_PER_SECOND, CJK, nominal_seconds

UNSAYABLE = frozenset("*_#|<>{}[]\\^~`=")
"""Characters that never remain in spoken text; neither does any digit."""

_SPACELESS = frozenset({"zh", "yue", "ja"})
"""Languages whose sentences are not separated by spaces."""
_COMMA_DECIMAL = frozenset(
    {
        "cs",
        "da",
        "de",
        "es",
        "fi",
        "fr",
        "hu",
        "id",
        "it",
        "nl",
        "no",
        "pl",
        "pt",
        "ro",
        "ru",
        "sv",
        "tr",
        "uk",
    }
)
"""Languages that write 1.234,5 for what English writes 1,234.5."""


class Unspeakable(DuplexDataError):
    """A text has nothing that can be said; leave it out and count `reason`.

    Attributes:
        reason: "empty", "mostly_code", "mostly_table" or "first_sentence_too_long".
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


# --- characters ---------------------------------------------------------------------------------------------

_CHARACTERS: Mapping[str, str] = MappingProxyType(
    {
        "\u00a0": " ", "‘": "'", "’": "'", "‛": "'", "′": "'", "…": "...", "―": "—", "‐": "-", "‑": "-",
        "‒": "–", "−": "-", "•": "\n- ", "●": "\n- ", "▪": "\n- ", "◦": "\n- ", "‣": "\n- ", "·": " ",
        "†": " ", "‡": " ", "※": " ", "×": " times ", "÷": " divided by ", "±": " plus or minus ",
        "≈": " is about ", "≤": " <= ", "≥": " >= ", "≠": " is not equal to ", "→": " to ", "⇒": " to ",
        "←": " ", "∞": " infinity ", "√": " the square root of ", "⁄": "/", "∕": "/", "№": "number ",
        "§": " section ", "¢": " cents", "™": "", "®": "", "©": "", "￥": "¥", "°": "°", "€": "€", "£": "£",
        "¥": "¥", "₹": "₹", "〇": "〇", "，": "，", "！": "！", "？": "？", "：": "：", "；": "；",
        "（": "（", "）": "）", "\u20e3": "", "\u2028": "\n", "\u2029": "\n\n",
    }
)  # fmt: skip


@lru_cache(maxsize=8192)
def _plain_character(ch: str) -> str:
    """What the rules below work on: digits of all scripts as ASCII, no emoji, no control characters."""
    if ch in _CHARACTERS:
        return _CHARACTERS[ch]
    category = unicodedata.category(ch)
    if category[0] == "L" and not "！" <= ch <= "～":
        return ch
    if category == "Nd":
        return str(unicodedata.decimal(ch))
    if category in ("No", "Nl"):
        return _plain_numeral(ch)
    if "！" <= ch <= "～":
        return chr(ord(ch) - 0xFEE0)
    if category[0] == "C" or "\ufe00" <= ch <= "\ufe0f":
        return ""
    return " " if category[0] in "SZ" else ch


def _plain_numeral(ch: str) -> str:
    """Superscripts as powers, ½ and ① by their digits."""
    plain = unicodedata.normalize("NFKC", ch).replace("⁄", "/")
    if not plain.isascii() or not any(map(str.isalnum, plain)):
        digit = unicodedata.digit(ch, None)
        return "" if digit is None else f" {digit} "
    return f"^{plain}" if unicodedata.decomposition(ch).startswith("<super>") else f" {plain} "


_CONTROLS = re.compile(r"[\x00-\x08\x0e-\x1f\x7f]")


def _plain_characters(text: str) -> str:
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if not text.isascii():
        text = text.translate({ord(ch): _plain_character(ch) for ch in set(text) if ch > "\x7f"})
    return _CONTROLS.sub("", text)


# --- lines: what is prose, and what is code, a table, a list ------------------------------------------------

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
class _Prose:
    """A text without its code and tables; `code` and `table` count the characters left out."""

    blocks: list[str]
    code: int
    table: int


def _is_closed(line: str) -> bool:
    return line.endswith((".", "!", "?", ":", ";", "。", "！", "？", "：", "；", "”", '"'))


def _read_prose(text: str) -> _Prose:
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
    return _Prose(blocks, code, table)


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


# --- markup inside a line -----------------------------------------------------------------------------------

_Rule = tuple[str, re.Pattern[str], str]
"""A character that must be in the text, what to look for, what to put there."""

_MULTILINE: tuple[_Rule, ...] = (
    ("<", re.compile(r"<!--.{0,3000}?-->|<(script|style)\b[^<>]{0,300}>.{0,3000}?</\1>", re.DOTALL), " "),
    ("$", re.compile(r"\$\$[^$]{1,2000}\$\$"), " "),
    (
        "\\",
        re.compile(
            r"\\\[.{0,1000}?\\\]|\\\(.{0,500}?\\\)|\\begin\{(\w+\*?)\}.{0,2000}?\\end\{\1\}", re.DOTALL
        ),
        " ",
    ),
    ("\\", re.compile(r"\\n(?![a-z])"), "\n"),
)
_INLINE: tuple[_Rule, ...] = (
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
    ("://", re.compile(r"(?:https?|ftp|file)://[^\s<>\"”，。]*[^\s<>\"”，。.,;:!?)\]]"), ""),
    ("www.", re.compile(r"\bwww\.[^\s<>\"”，。]*[^\s<>\"”，。.,;:!?)\]]"), ""),
    ("@", re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63})+"), ""),
    ("$", re.compile(r"(?<![\w$])\$(?=[^\s\d$])[^$\n]{1,200}(?<=\S)\$(?!\w)"), ""),
    ("\\", re.compile(r"\\[A-Za-z]{2,}(?:\{[^{}\n]{0,200}\}){0,3}"), ""),
    ("[", re.compile(r"(?:(?<=[^\s:])|(?<= ))\[\^?\d{1,3}\]|(?<=[^\s:])\[\d{1,3}(?:[,–-] ?\d{1,3})*\]"), ""),
    ("[", re.compile(r"\[([-\d][\d., -]*)\]"), r"\1"),
    ("(", re.compile(r"\((e?s)\)"), r"\1"),
    ("_", re.compile(r"(?<!\w)__(?=\S)([^_\n]+)__(?!\w)|(?<!\w)_(?=[^\s_])([^_\n]+)_(?!\w)"), r"\1\2"),
    ("__", re.compile(r"(?<=[.?!:])[ \t]*_{2,}(?!\w)"), ""),
    ("__", re.compile(r"(?<!\w)_{2,}(?!\w)"), " blank "),
    ("*", re.compile(r"(?<=\d) ?\* ?(?=[\d(])|(?<=\w) \* (?=\w)"), " times "),
    ("**", re.compile(r"\*\*"), ""),
    ("~~", re.compile(r"~~"), ""),
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


def _apply(text: str, rules: tuple[_Rule, ...]) -> str:
    for needle, pattern, replacement in rules:
        if needle in text:
            text = pattern.sub(replacement, text)
    return text


def _without_markup(text: str) -> str:
    if "&" in text:
        text = _ENTITY.sub(lambda m: html.unescape(m[0]), text)
    text = _apply(text, _INLINE)
    for _ in range(_MAX_NESTING):
        if "[" not in text:
            break
        text = _BRACKETED.sub("", text)
    if "#" in text:
        text = _HASHTAG.sub(lambda m: _CAMEL_HUMP.sub(" ", m[1]), text)
    if "(" in text:
        text = _SILENT_ASIDE.sub("", text)
    return _EMOTICON.sub("", text)


def _without_parentheses(text: str) -> str:
    """An aside in brackets is said between pauses."""
    if "（" in text:
        text = text.replace("（", "，").replace("）", "，")
    for _ in range(_MAX_NESTING):
        if "(" not in text:
            break
        text = _PARENTHESES.sub(lambda m: f", {m[1]}, " if any(map(str.isalnum, m[1])) else " ", text)
    return text.replace("(", " ").replace(")", " ")


# --- numbers, in any language -------------------------------------------------------------------------------

_MAX_CARDINAL_DIGITS = 15
"""Longer ones (and those with a leading zero) are read digit by digit, as a person does."""
_NUMBER = r"\d{1,3}(?:,\d{3})+(?![\d,]?\d)(?:\.\d+)?|\d+(?:\.\d+)*"
_NUMBER_RE = re.compile(rf"(?:{_NUMBER})|(?<!\d)\.\d+")
_COMMA_GROUPS = re.compile(r"(?<![\d.,])(\d{1,3}(?:\.\d{3})+|\d+)(?:,(\d+))?(?![\d,])")
_DIGIT = re.compile(r"\d")


@lru_cache(maxsize=8192)
def _num2words(number: str, language: str, form: str) -> str:
    """A plain decimal number in words; in English where the language or the form is not supported."""
    from num2words import num2words  # it loads sixty languages: only where a text has digits

    value = Decimal(number) if "." in number else int(number)
    try:
        words = num2words(value, lang=language, to=form)
    except Exception:  # languages lack forms in various ways: NotImplementedError, KeyError, IndexError ...
        if (language, form) == ("en", "cardinal"):
            raise
        return _num2words(number, "en", form if language != "en" else "cardinal")
    return str(words).replace(",", "").replace("(", "").replace(")", "")


def _digits(number: str, language: str) -> str:
    return " ".join(_num2words(digit, language, "cardinal") for digit in number if digit.isdigit())


def _cardinal(number: str, language: str) -> str:
    """Digits, with or without grouping commas; with a leading zero or very long ones digit by digit."""
    number = number.replace(",", "")
    if len(number) > _MAX_CARDINAL_DIGITS or (len(number) > 1 and number[0] == "0"):
        return _digits(number, language)
    return _num2words(number, language, "cardinal")


def _number(number: str, language: str) -> str:
    """1,234.5 and 3.14 and 1.2.3 and .5 in words."""
    whole, *rest = number.split(".")
    if len(rest) == 1 and language != "en" and len(number) <= _MAX_CARDINAL_DIGITS:
        return _num2words(f"{whole.replace(',', '') or '0'}.{rest[0]}", language, "cardinal")
    said = [_cardinal(whole or "0", language)]
    said += [_digits(part, language) if len(rest) == 1 else _cardinal(part, language) for part in rest]
    return " point ".join(said)


def _spaced(match: re.Match[str], words: str) -> str:
    """`words` with a space where the match touches a letter: "3D" is "three D"."""
    before = match.string[match.start() - 1 : match.start()] if match.start() else ""
    after = match.string[match.end() : match.end() + 1]
    return f"{' ' if before.isalnum() else ''}{words}{' ' if after.isalnum() else ''}"


def _say_numbers(text: str, language: str) -> str:
    if language in _COMMA_DECIMAL:
        text = _COMMA_GROUPS.sub(lambda m: m[1].replace(".", "") + (f".{m[2]}" if m[2] else ""), text)
    return _NUMBER_RE.sub(lambda m: _spaced(m, _number(m[0], language)), text)


# --- numbers in English -------------------------------------------------------------------------------------

_MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip
_CURRENCIES: Mapping[str, tuple[str, str, str]] = MappingProxyType(
    {
        "$": ("dollar", "dollars", "cent"),
        "€": ("euro", "euros", "cent"),
        "£": ("pound", "pounds", "penny"),
        "¥": ("yen", "yen", ""),
        "₹": ("rupee", "rupees", "paisa"),
    }
)
_SMALL_PLURAL: Mapping[str, str] = MappingProxyType({"cent": "cents", "penny": "pence", "paisa": "paise"})
_SCALES: Mapping[str, str] = MappingProxyType(
    {"k": "thousand", "m": "million", "b": "billion", "bn": "billion"}
)
_UNITS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "km/h": ("kilometer per hour", "kilometers per hour"), "mph": ("mile per hour", "miles per hour"),
        "m/s": ("meter per second", "meters per second"), "kg": ("kilogram", "kilograms"),
        "km": ("kilometer", "kilometers"), "cm": ("centimeter", "centimeters"),
        "mm": ("millimeter", "millimeters"), "mg": ("milligram", "milligrams"),
        "mL": ("milliliter", "milliliters"), "ml": ("milliliter", "milliliters"), "m": ("meter", "meters"),
        "g": ("gram", "grams"), "L": ("liter", "liters"), "lb": ("pound", "pounds"),
        "lbs": ("pound", "pounds"), "oz": ("ounce", "ounces"), "ft": ("foot", "feet"),
        "tbsp": ("tablespoon", "tablespoons"), "tsp": ("teaspoon", "teaspoons"),
        "KB": ("kilobyte", "kilobytes"), "MB": ("megabyte", "megabytes"), "GB": ("gigabyte", "gigabytes"),
        "TB": ("terabyte", "terabytes"), "Hz": ("hertz", "hertz"), "kHz": ("kilohertz", "kilohertz"),
        "MHz": ("megahertz", "megahertz"), "GHz": ("gigahertz", "gigahertz"),
        "kWh": ("kilowatt hour", "kilowatt hours"), "hr": ("hour", "hours"), "hrs": ("hour", "hours"),
        "min": ("minute", "minutes"), "mins": ("minute", "minutes"), "sec": ("second", "seconds"),
        "secs": ("second", "seconds"), "°C": ("degree Celsius", "degrees Celsius"),
        "°F": ("degree Fahrenheit", "degrees Fahrenheit"), "°": ("degree", "degrees"),
    }
)  # fmt: skip
_SPECIAL_SLASHES: Mapping[str, str] = MappingProxyType({"24/7": "twenty-four seven", "9/11": "nine eleven"})
_DENOMINATORS: Mapping[int, tuple[str, str]] = MappingProxyType(
    {2: ("half", "halves"), 4: ("quarter", "quarters")}
)
_MAX_FRACTION = 100

_UNIT_NAMES = "|".join(sorted(map(re.escape, _UNITS), key=len, reverse=True))
_UNIT = re.compile(rf"(?<![\w.,$€£¥])({_NUMBER}) ?({_UNIT_NAMES})(?![\w°])")
_AMOUNT = r"(\d[\d,]*)(\.\d+)?(?:( ?(?:thousand|million|billion|trillion)\b)|([kKmMbB]|bn)\b)?"
_MONEY = re.compile(rf"(?:\b(?:US|CA|AU|A|C))?([$€£¥₹]) ?{_AMOUNT}")
_MONEY_BEHIND = re.compile(rf"(?<![\w.,]){_AMOUNT} ?([$€£₹])(?!\d)")
_MONEY_RANGE = re.compile(rf"([$€£¥₹]) ?({_NUMBER}) ?[-–—] ?[$€£¥₹]?({_NUMBER})(?![\w-])")
_ISO_DATE = re.compile(r"(?<![\d/-])([12]\d{3})-(\d{1,2})-(\d{1,2})(?![\d/-])")
_US_DATE = re.compile(r"(?<![\d/])(\d{1,2})/(\d{1,2})/([12]\d{3})(?![\d/])")
_HALF_DAY = r" ?([AaPp])\.?[Mm]\b(?:\.(?=\s+[a-z]|[,;]))?"
_TIME = re.compile(rf"(?<![\d:.])(\d{{1,2}}):([0-5]\d)(?::[0-5]\d)?(?:{_HALF_DAY})?(?![\d:])")
_HOUR = re.compile(rf"(?<![\d:.])(\d{{1,2}}){_HALF_DAY}")
_RATIO = re.compile(r"(?<=\d) ?: ?(?=\d)")
_PHONE = re.compile(r"(?<![\d-])(?:\d{1,3}-)?(?:\(?\d{3}\)?[- ])?\d{3}-\d{4}(?![\d-])")
_MINUS = re.compile(r"(?<=\d) - (?=\d)")
_RANGE = re.compile(r"(?<=\d)((?:st|nd|rd|th|s|%|°|am|pm)?)(?: ?[–—] ?|-)(?=[$€£]?\d)")
_NEGATIVE = re.compile(r"(?<![\w)])-(?=[\d.])")
_MIXED_FRACTION = re.compile(r"(?<![\d/.,])(\d{1,4})[ -]+(\d{1,2})/(\d{1,3})(?![\d/])")
_FRACTION = re.compile(r"(?<![\d/.,])(\d{1,4})/(\d{1,4})(?![\d/])")
_ORDINAL = re.compile(r"(\d[\d,]*)(?:st|nd|rd|th)\b")
_DECADE = re.compile(r"(?<![\d.,])'?((?:1[1-9]|20)?\d0)'?s\b")
_YEAR = re.compile(r"(?<![\w.,+])(1[1-9]\d\d|20\d\d)(?![\d%]|[.,]\d)")
_THOUSANDS = re.compile(r"(?<=\d)k\b|(?<=\d\d)K\b|(?<=\d)M\b")
_NO_WHOLE = re.compile(r"([$€£])\.(?=\d)")
_FEET = re.compile(r"(?<!\w)([3-7])'(\d{1,2})(?:\"|\b)")
_BY = re.compile(r"(?<=\d) ?x ?(?=\d)")
_TIMES = re.compile(r"(?<=\d) ?x ?(?=\d+(?: ?x ?\d+){0,4} equals)")
_RETIREMENT_PLAN = re.compile(r"\b401 ?(?:[kK]\b|\([kK]\))")
_MONTH_DAY = re.compile(rf"\b({'|'.join(_MONTHS)}) ([12]\d|3[01]|[1-9])(?![\w:/]|[.,]\d)")


def _amount(match: re.Match[str], sign: str, first: int) -> str:
    """Money in words, from the groups whole, decimals, scale word, scale letter starting at `first`."""
    whole, decimals, word, letter = (match[first + i] or "" for i in range(4))
    one, many, small = _CURRENCIES[sign]
    scale = word.strip() or _SCALES.get(letter.lower(), "")
    whole = whole.rstrip(",")
    comma = "," if (match[first] or "").endswith(",") else ""
    if scale or not small or len(decimals) not in (0, 3):
        return f"{_number(whole.replace(',', '') + decimals, 'en')} {scale} {many}{comma}"
    units, cents = int(whole.replace(",", "")), int(decimals[1:] or 0)
    said = [f"{_cardinal(whole, 'en')} {one if units == 1 else many}"] if units or not cents else []
    if cents:
        said.append(f"{_cardinal(str(cents), 'en')} {small if cents == 1 else _SMALL_PLURAL[small]}")
    return " and ".join(said) + comma


def _date(year: str, month: str, day: str) -> str | None:
    if not (1 <= int(month) <= 12 and 1 <= int(day) <= 31):
        return None
    return f"{_MONTHS[int(month) - 1]} {_num2words(str(int(day)), 'en', 'ordinal')}, {_year(year)}"


def _year(year: str) -> str:
    return _num2words(year, "en", "year")


def _time(match: re.Match[str]) -> str:
    hour, minute, half = match[1], match[2], match[3]
    if int(hour) > 24:
        return match[0]
    said = _cardinal(str(int(hour)), "en")
    if minute != "00":
        said += " oh" if minute[0] == "0" else ""
        said += " " + _cardinal(str(int(minute)), "en")
    elif not half:
        said += " o'clock" if 0 < int(hour) <= 12 else " hundred hours"
    return said + (f" {half.upper()}M" if half else "")


def _simple_fraction(over: int, under: int) -> str:
    """Numerator and denominator in words; "seven over five" where nobody says the fraction's name."""
    top = _cardinal(str(over), "en")
    if not (over < under and 1 < under <= _MAX_FRACTION):
        return f"{top} {'out of' if over == under else 'over'} {_cardinal(str(under), 'en')}"
    name = _num2words(str(under), "en", "ordinal")
    singular, plural = _DENOMINATORS.get(under, (name, f"{name}s"))
    return f"{top} {singular if over == 1 else plural}"


def _mixed_fraction(match: re.Match[str]) -> str:
    part = _simple_fraction(int(match[2]), int(match[3]))
    part = f"a {part[4:]}" if part.startswith("one ") else part
    return f"{_cardinal(match[1], 'en')} and {part}"


def _decade(decade: str) -> str:
    if len(decade) == 4 and decade[2] == "0":
        return "two thousands" if decade[1] == "0" else _cardinal(decade[:2], "en") + " hundreds"
    century = f"{_cardinal(decade[:2], 'en')} " if len(decade) == 4 else ""
    tens = _cardinal(decade[-2:], "en") if decade[-2:] != "00" else "hundred"
    return century + (f"{tens[:-1]}ies" if tens.endswith("y") else f"{tens}s")


def _unit(match: re.Match[str]) -> str:
    return f"{match[1]} {_UNITS[match[2]][match[1] != '1']}"


_EnglishRule = tuple[str, re.Pattern[str], str | Callable[[re.Match[str]], str]]
_CURRENCY_SIGN = "$€£¥₹"
_ENGLISH_NUMBERS: tuple[_EnglishRule, ...] = (
    (_CURRENCY_SIGN, _NO_WHOLE, r"\g<1>0."),
    (_CURRENCY_SIGN, _MONEY_RANGE, r"\2 to \1\3"),
    (_CURRENCY_SIGN, _MONEY, lambda m: _spaced(m, _amount(m, m[1], 2))),
    (_CURRENCY_SIGN, _MONEY_BEHIND, lambda m: _spaced(m, _amount(m, m[5], 1))),
    ("-", _ISO_DATE, lambda m: _date(m[1], m[2], m[3]) or m[0]),
    ("/", _US_DATE, lambda m: _date(m[3], m[1], m[2]) or _date(m[3], m[2], m[1]) or m[0]),
    ("-", _PHONE, lambda m: ", ".join(_digits(part, "en") for part in re.split(r"\D+", m[0]) if part)),
    ("-", _MINUS, " minus "),
    ("-–—", _RANGE, r"\1 to "),
    ("-", _NEGATIVE, "minus "),
    (":", _TIME, _time),
    ("mM", _HOUR, lambda m: f"{_cardinal(m[1], 'en')} {m[2].upper()}M"),
    (":", _RATIO, " to "),
    ("'", _FEET, r"\1 foot \2 "),
    ("x", _TIMES, " times "),
    ("x", _BY, " by "),
    ("kK", _RETIREMENT_PLAN, "four oh one K"),
    ("", _UNIT, _unit),
    ("/", _MIXED_FRACTION, _mixed_fraction),
    ("/", _FRACTION, lambda m: _SPECIAL_SLASHES.get(m[0]) or _simple_fraction(int(m[1]), int(m[2]))),
    ("sndt", _ORDINAL, lambda m: _spaced(m, _num2words(m[1].replace(",", "")[:15], "en", "ordinal"))),
    ("ruychi", _MONTH_DAY, lambda m: f"{m[1]} {_num2words(m[2], 'en', 'ordinal')}"),
    ("s", _DECADE, lambda m: _decade(m[1])),
    ("kKM", _THOUSANDS, lambda m: " million" if m[0] == "M" else " thousand"),
    ("", _YEAR, lambda m: _year(m[1])),
)


def _say_english_numbers(text: str) -> str:
    for needles, pattern, replacement in _ENGLISH_NUMBERS:
        if not needles or any(needle in text for needle in needles):
            text = pattern.sub(replacement, text)
    return _say_numbers(text, "en")


# --- numbers in Chinese -------------------------------------------------------------------------------------

_ZH_DIGITS = "零一二三四五六七八九"
_ZH_SCALES = ("", "万", "亿", "万亿")
_ZH_MEASURES = "个种次天位条件名座块杯张只家项步本遍倍"
_ZH_CURRENCIES: Mapping[str, str] = MappingProxyType(
    {"$": "美元", "€": "欧元", "£": "英镑", "¥": "元", "₹": "卢比"}
)
_ZH_NUMBER = r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?"
_ChineseRule = tuple[re.Pattern[str], Callable[[re.Match[str]], str]]


def _zh_section(number: int) -> str:
    """1 to 9999 in characters."""
    said = ""
    for power, name in ((1000, "千"), (100, "百"), (10, "十"), (1, "")):
        digit, number = divmod(number, power)
        if digit:
            said += _ZH_DIGITS[digit] + name
        elif said and number and not said.endswith("零"):
            said += "零"
    return said


def _zh_cardinal(digits: str) -> str:
    digits = digits.replace(",", "")
    if len(digits) > _MAX_CARDINAL_DIGITS or (len(digits) > 1 and digits[0] == "0"):
        return _zh_digits(digits)
    number = int(digits)
    if number == 0:
        return "零"
    said = ""
    for i in reversed(range(len(_ZH_SCALES))):
        section = number // 10_000**i % 10_000
        if said and section and section < 1000 and not said.endswith("零"):
            said += "零"
        said += _zh_section(section) + _ZH_SCALES[i] if section else ""
    return said.removeprefix("一") if said.startswith("一十") else said


def _zh_digits(digits: str) -> str:
    return "".join(_ZH_DIGITS[int(digit)] for digit in digits if digit.isdigit())


def _zh_number(number: str) -> str:
    whole, _, decimals = number.partition(".")
    return _zh_cardinal(whole) + (f"点{_zh_digits(decimals)}" if decimals else "")


def _zh_date(match: re.Match[str]) -> str:
    return f"{_zh_digits(match[1])}年{_zh_cardinal(str(int(match[2])))}月{_zh_cardinal(str(int(match[3])))}日"


def _zh_time(match: re.Match[str]) -> str:
    minute = "整" if match[2] == "00" else _zh_digits(match[2]) + "分" if match[2][0] == "0" else ""
    return f"{_zh_cardinal(str(int(match[1])))}点{minute or _zh_cardinal(match[2]) + '分'}"


_CHINESE_NUMBERS: tuple[_ChineseRule, ...] = (
    (re.compile(r"(?<!\d)([12]\d{3})[-/](\d{1,2})[-/](\d{1,2})(?!\d)"), _zh_date),
    (re.compile(r"(?<!\d)(\d{4})(?= ?年)"), lambda m: _zh_digits(m[1])),
    (re.compile(r"(?<!\d)(\d{1,2}):([0-5]\d)(?!\d)"), _zh_time),
    (re.compile(r"(?<=\d)(%?) ?[-–—~至] ?(?=[\d$¥])|(?<=\d)()[：:](?=\d)"), lambda m: f"{m[1] or ''}到"),
    (re.compile(rf"({_ZH_NUMBER}) ?%"), lambda m: f"百分之{_zh_number(m[1])}"),
    (re.compile(rf"([$€£¥₹]) ?({_ZH_NUMBER})( ?[万亿]{{1,2}})?"),
     lambda m: f"{_zh_number(m[2])}{(m[3] or '').strip()}{_ZH_CURRENCIES[m[1]]}"),
    (re.compile(r"(?<!\d)(\d{1,4})/(\d{1,4})(?!\d)"),
     lambda m: f"{_zh_cardinal(m[2])}分之{_zh_cardinal(m[1])}"),
    (re.compile(r"(?<!\d)1[3-9]\d{9}(?!\d)"), lambda m: _zh_digits(m[0])),
    (re.compile(r"(?<![\w)）-])-(?=\d)"), lambda m: "负"),
    (re.compile(rf"(?<![\d.])2(?= ?[{_ZH_MEASURES}])"), lambda m: "两"),
    (re.compile(_ZH_NUMBER), lambda m: _zh_number(m[0])),
    (_DIGIT, lambda m: _ZH_DIGITS[int(m[0])]),
)  # fmt: skip


def _say_chinese_numbers(text: str) -> str:
    for pattern, say in _CHINESE_NUMBERS:
        text = pattern.sub(say, text)
    return text


# --- abbreviations and symbols ------------------------------------------------------------------------------

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
    return (
        letters + ("." if ends and match[0].endswith(".") else "") + (" " if match[0].endswith(" ") else "")
    )


def _say_abbreviations(text: str) -> str:
    if "." in text:
        text = _STREET.sub("Street", text)
        text = _ABBREVIATION.sub(_expand, text)
        text = _INITIALS.sub(_initials, text)
        text = _DOMAIN.sub(" dot ", text)
    return _BARE_ABBREVIATION.sub(lambda m: _BARE[m[0].lower().rstrip(".")], text)


_ENGLISH_SYMBOLS: tuple[_Rule, ...] = (
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
_ENGLISH_SIGNS: tuple[_Rule, ...] = (
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
_SIGNS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "zh": {"%": "百分号", "&": "和", "+": "加", "=": "等于", "°C": "摄氏度", "°": "度", "$": "美元",
               "€": "欧元", "£": "英镑", "¥": "元", " times ": "乘", " divided by ": "除以", "/": "、",
               "<": "小于", ">": "大于", " to ": "到"},
        "de": {"%": " Prozent", "&": " und ", "+": " plus ", "=": " gleich ", "€": " Euro", "$": " Dollar",
               "°": " Grad"},
        "fr": {"%": " pour cent", "&": " et ", "+": " plus ", "=": " égale ", "€": " euros",
               "$": " dollars", "°": " degrés"},
        "es": {"%": " por ciento", "&": " y ", "+": " más ", "=": " igual a ", "€": " euros",
               "$": " dólares", "°": " grados"},
        "it": {"%": " per cento", "&": " e ", "+": " più ", "=": " uguale a ", "€": " euro",
               "$": " dollari", "°": " gradi"},
    }
)  # fmt: skip


def _say_signs(text: str, language: str) -> str:
    """Symbols in another language than English, where we know their names; the others are left out."""
    for sign, words in _SIGNS.get(language, {}).items():
        if sign in text:
            text = text.replace(sign, words)
    return text


def _say_english(text: str) -> str:
    text = _apply(text, _ENGLISH_SYMBOLS)
    text = _say_abbreviations(text)
    if _DIGIT.search(text):
        text = _say_english_numbers(text)
    return _apply(text, _ENGLISH_SIGNS)


def _say_chinese(text: str) -> str:
    if _DIGIT.search(text):
        text = _say_chinese_numbers(text)
    return _HALF_MARK.sub(lambda m: _FULL_MARKS[m[0]], _say_signs(text, "zh"))


def _say_other(text: str, language: str) -> str:
    if _DIGIT.search(text):
        text = _say_numbers(text, language)
    return _say_signs(text, language)


def _in_words(text: str, language: str) -> str:
    """Numbers, abbreviations and symbols as a speaker of the language says them."""
    if language == "en":
        return _say_english(text)
    return _say_chinese(text) if language == "zh" else _say_other(text, language)


# --- tidying up ---------------------------------------------------------------------------------------------

_FULL_MARKS: Mapping[str, str] = MappingProxyType(
    {",": "，", ";": "；", ":": "：", "!": "！", "?": "？", ".": "。"}
)
_HALF_MARK = re.compile(rf"(?<=[{CJK}])[,;:!?](?!\d)|(?<=[{CJK}])\.(?!\w)")
_DASH = re.compile(r" *[—–]+ *| -+ |--+|(?<= )-(?=[^\W\d])")
_QUOTE = re.compile(r'["«»„“”]|(?<!\w)\'|\'(?!\w)')
_LEFT_OVER = re.compile(r"[*_#|<>{}\[\]\\^~`=/@$€£¥₹°%&+\d]+")
_SPACE = re.compile(r"[^\S\n]+")
_SPACE_BEFORE_MARK = re.compile(r" +(?=[,;:.!?，。；：！？、])")
_MARKS = re.compile(r"([,;:，；：、])(?: ?[,;:，；：、])+")
_MARK_BEFORE_END = re.compile(r"[,;:，；：、]+ ?(?=[.!?。！？])")
_MARK_AFTER_END = re.compile(r"(?<=[.!?。！？]) ?[,;:，；：、]+")
_MANY_ENDS = re.compile(r"([!?。！？])[.!?。！？]+|\.{4,}|(?<!\.)\.\.(?!\.)")
_TIGHT_MARK = re.compile(r"([,;:])(?=[^\W\d])")
_SPACE_IN_CJK = re.compile(
    rf"(?<=[{CJK}，。！？；：、]) +(?=[{CJK}])|(?<=[，。！？；：、]) +| +(?=[，。！？；：、])"
)
_LEADING = " ,;:.!?-，。；：！？、)）"


def _tidy(text: str, language: str) -> str:
    """One line per block, punctuation as in ordinary prose, none of `UNSAYABLE` and no digit."""
    text = _without_parentheses(text)
    text = _DASH.sub("，" if language == "zh" else ", ", text)
    if language not in _SPACELESS:
        text = _QUOTE.sub("", text)
    text = _SPACE.sub(" ", _LEFT_OVER.sub(" ", text))
    text = _SPACE_BEFORE_MARK.sub("", text)
    text = _MARK_BEFORE_END.sub("", _MARK_AFTER_END.sub("", _MARKS.sub(r"\1", text)))
    text = _MANY_ENDS.sub(lambda m: m[1] or ("..." if len(m[0]) > 3 else "."), text)
    if language in _SPACELESS:
        return _SPACE_IN_CJK.sub("", text)
    return _TIGHT_MARK.sub(r"\1 ", text)


# --- sentences ----------------------------------------------------------------------------------------------

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
    spaceless = language.split("-")[0].lower() in _SPACELESS
    text = text.strip()
    parts: list[str] = []
    start = 0
    for end in (_WIDE_END if spaceless else _END).finditer(text):
        if spaceless or _ends_here(text, end):
            parts.append(text[start : end.end()] if spaceless else text[start : end.end()].rstrip())
            start = end.end()
    return [*parts, text[start:]] if start < len(text) else parts


# --- a whole text -------------------------------------------------------------------------------------------

_MAX_LEFT_OUT = 0.6
"""A text of which more than this share is code (or a table) is not explained by the rest of it."""
_CODE_MARK = re.compile(r"[{};<>]|\w[(\[]|[a-z]_[a-z]|==|//")
_MIN_CODE_MARKS = 8
_MAX_CODE_MARKS = 0.12
"""Marks per word."""
_READ_AHEAD = 20
"""Times the budget: how much of a text is looked at. Markup and code may take up most of it."""
_KEEP_AHEAD = 2
"""Times the budget: how much prose is put into words."""
_MIN_READ = 600
"""Characters that are looked at whatever the budget."""
_TERMINAL = (".", "!", "?", "。", "！", "？", "।", "؟")
_CLAUSE_END = re.compile(r"[,;:，；：]")
_MIN_CLAUSE_WORDS = 3
_QUESTION = re.compile(
    r"(?:(?:what|who|whom|whose|where|when|why|how|which)\b(?!ever)|(?:can|could|would|will|should|do|does|did|is|are|was|were)"
    r" (?:you|i|we|it|he|she|they|there|the|this|that|a|an)\b)",
    re.IGNORECASE,
)


def _cut_at_space(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    cut = max(text.rfind(" ", 0, limit), text.rfind("\n", 0, limit))
    return text[: cut if cut > limit // 2 else limit]


def _check_prose(prose: _Prose, has_letters: bool) -> None:
    kept = sum(map(len, prose.blocks))
    for count, reason in ((prose.code, "mostly_code"), (prose.table, "mostly_table")):
        if count and (not has_letters or count > _MAX_LEFT_OUT * (kept + prose.code + prose.table)):
            raise Unspeakable(reason, f"{count} of {kept + prose.code + prose.table} characters are left out")
    if not has_letters:
        raise Unspeakable("empty", "no letter is left")


def _check_marks(text: str) -> None:
    """Code that stands there without a fence is known by its punctuation."""
    if sum(map(text.count, "{;<(_[")) < _MIN_CODE_MARKS:
        return
    marks, words = len(_CODE_MARK.findall(text)), len(text.split())
    if marks >= _MIN_CODE_MARKS and marks > _MAX_CODE_MARKS * words:
        raise Unspeakable("mostly_code", f"{marks} marks of code in {words} words")


def _leading_blocks(blocks: list[str], limit: int) -> str:
    """As many blocks as stay below `limit` characters, at least one, which is cut if it is longer."""
    length = count = 0
    while count < len(blocks) and (length < limit or not count):
        length += len(blocks[count])
        count += 1
    return _cut_at_space("\n".join(blocks[:count]), 2 * limit)


def _closed(block: str, language: str) -> str:
    """A block with its first letter large and a mark at its end; a colon stays, for what it announces."""
    if block[0].islower() and block.isascii():
        block = block[0].upper() + block[1:]
    if block.endswith((*_TERMINAL, ":", "：")):
        return block
    bare = block.rstrip(" ,;，；、-")
    if language == "zh":
        return bare + "。"
    return bare + ("?" if language == "en" and _QUESTION.match(bare) and "," not in bare else ".")


def _spoken_sentences(text: str, language: str) -> list[str]:
    result: list[str] = []
    for block in _tidy(_in_words(text, language), language).split("\n"):
        block = block.strip().lstrip(_LEADING)
        if block:
            closed = _closed(block, language)
            result += [s.strip() for s in sentences(closed, language) if any(map(str.isalpha, s))]
    return result


def _first_clause(sentence: str, language: str, max_seconds: float) -> str:
    """The longest beginning of a sentence that ends with a clause and fits."""
    stop = "。" if language == "zh" else "."
    for mark in reversed(list(_CLAUSE_END.finditer(sentence))):
        clause = sentence[: mark.start()]
        long_enough = (
            len(clause) > 3 if language in _SPACELESS else clause.count(" ") >= _MIN_CLAUSE_WORDS - 1
        )
        if long_enough and nominal_seconds(clause + stop, language) <= max_seconds:
            asks = sentence.endswith("?") and _QUESTION.search(clause)
            return clause + ("?" if asks else stop)
    seconds = nominal_seconds(sentence, language)
    raise Unspeakable("first_sentence_too_long", f"{seconds:.1f} s, at most {max_seconds:g} s are wanted")


def _within(parts: list[str], language: str, max_seconds: float) -> str:
    """Leading sentences that fit together; the first one cut at a clause if it does not fit alone."""
    glue = "" if language in _SPACELESS else " "
    text = ""
    for part in parts:
        longer = f"{text}{glue}{part}" if text else part
        if nominal_seconds(longer, language) > max_seconds:
            break
        text = longer
    return _without_promise(text, language) if text else _first_clause(parts[0], language, max_seconds)


def _without_promise(text: str, language: str) -> str:
    """An ending like "Here is how:" is left out, or closed where there is nothing before it."""
    if not text.endswith((":", "：")):
        return text
    *kept, last = sentences(text, language)
    glue = "" if language in _SPACELESS else " "
    return glue.join(kept) or last.rstrip(":： ") + ("。" if language == "zh" else ".")


def speakable(text: str, *, language: str, max_seconds: float) -> str:
    """What a person would say for a written text: leading whole sentences that fit into `max_seconds`.

    Args:
        text: any text; of a very long one only the beginning is looked at.
        language: BCP 47 tag. English and Chinese have all rules; in others numbers are said where num2words
            knows the language (else in English), and symbols whose names we lack are left out.
        max_seconds: by `nominal_seconds`. A first sentence that is longer is cut at the end of a clause.

    Returns: one line that has a letter and ends with a mark; it has no digit and none of `UNSAYABLE`.
    Raises: Unspeakable.
    """
    language = language.split("-")[0].lower()
    budget = int(max(max_seconds, 0.0) * CHARACTERS_PER_SECOND) + 1
    read = _apply(_plain_characters(_cut_at_space(text, max(_READ_AHEAD * budget, _MIN_READ))), _MULTILINE)
    prose = _read_prose(read)
    _check_prose(prose, any(map(str.isalnum, "".join(prose.blocks))))
    kept = _leading_blocks(prose.blocks, max(_KEEP_AHEAD * budget, _MIN_READ))
    _check_marks(kept)
    parts = _spoken_sentences(_without_markup(kept), language)
    if len(parts) > 1 and len(kept) < sum(map(len, prose.blocks)):
        parts = parts[:-1]  # it may have been cut in its middle
    if not parts:
        raise Unspeakable("empty", "no letter is left")
    return _within(parts, language, max_seconds)


def speakable_dialogue(
    dialogue: Dialogue, *, max_query_sec: float, max_reply_sec: float, max_exchanges: int
) -> Dialogue | Rejected:
    """A dialogue in spoken form: the exchanges before the first turn that has nothing to say.

    An exchange is a user turn with its answer; a last user turn without one is left out.

    Returns: Rejected with the first turn's reason where not even one exchange is left.
    """
    turns: list[Turn] = []
    reason, detail = "no_exchange", "there is no user turn with an answer"
    last = min(len(dialogue.turns) // 2, max_exchanges) * 2
    for number, turn in enumerate(dialogue.turns[:last], start=1):
        seconds = max_query_sec if turn.channel is Channel.USER else max_reply_sec
        try:
            said = speakable(turn.text, language=dialogue.language, max_seconds=seconds)
        except Unspeakable as error:
            reason, detail = error.reason, f"turn {number}: {error.detail}"
            break
        turns.append(Turn(turn.channel, said))
    whole = len(turns) // 2 * 2
    if not whole:
        return Rejected(reason, detail, dialogue.id)
    return replace(dialogue, turns=tuple(turns[:whole]))
