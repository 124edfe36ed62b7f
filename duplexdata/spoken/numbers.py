"""Numbers in words, in any language that num2words knows."""

from __future__ import annotations

import re
from decimal import Decimal
from functools import lru_cache

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
MAX_CARDINAL_DIGITS = 15
"""Longer ones (and those with a leading zero) are read digit by digit, as a person does."""
NUMBER = r"\d{1,3}(?:,\d{3})+(?![\d,]?\d)(?:\.\d+)?|\d+(?:\.\d+)*"
_NUMBER_RE = re.compile(rf"(?:{NUMBER})|(?<!\d)\.\d+")
_COMMA_GROUPS = re.compile(r"(?<![\d.,])(\d{1,3}(?:\.\d{3})+|\d+)(?:,(\d+))?(?![\d,])")
DIGIT = re.compile(r"\d")


@lru_cache(maxsize=8192)
def spell(number: str, language: str, form: str) -> str:
    """A plain decimal number in words; in English where the language or the form is not supported."""
    from num2words import num2words  # it loads sixty languages: only where a text has digits

    value = Decimal(number) if "." in number else int(number)
    try:
        words = num2words(value, lang=language, to=form)
    except Exception:  # languages lack forms in various ways: NotImplementedError, KeyError, IndexError ...
        if (language, form) == ("en", "cardinal"):
            raise
        return spell(number, "en", form if language != "en" else "cardinal")
    return str(words).replace(",", "").replace("(", "").replace(")", "")


def say_digits(number: str, language: str) -> str:
    return " ".join(spell(digit, language, "cardinal") for digit in number if digit.isdigit())


def say_cardinal(number: str, language: str) -> str:
    """Digits, with or without grouping commas; with a leading zero or very long ones digit by digit."""
    number = number.replace(",", "")
    if len(number) > MAX_CARDINAL_DIGITS or (len(number) > 1 and number[0] == "0"):
        return say_digits(number, language)
    return spell(number, language, "cardinal")


def say_number(number: str, language: str) -> str:
    """1,234.5 and 3.14 and 1.2.3 and .5 in words."""
    whole, *rest = number.split(".")
    if not whole and language == "en":
        return f"point {say_digits(rest[0], language)}"
    if len(rest) == 1 and language != "en" and len(number) <= MAX_CARDINAL_DIGITS:
        return spell(f"{whole.replace(',', '') or '0'}.{rest[0]}", language, "cardinal")
    said = [say_cardinal(whole or "0", language)]
    said += [say_digits(part, language) if len(rest) == 1 else say_cardinal(part, language) for part in rest]
    return " point ".join(said)


def spaced(match: re.Match[str], words: str) -> str:
    """`words` with a space where the match touches a letter: "3D" is "three D"."""
    before = match.string[match.start() - 1 : match.start()] if match.start() else ""
    after = match.string[match.end() : match.end() + 1]
    return f"{' ' if before.isalnum() else ''}{words}{' ' if after.isalnum() else ''}"


def say_numbers(text: str, language: str) -> str:
    if language in _COMMA_DECIMAL:
        text = _COMMA_GROUPS.sub(lambda m: m[1].replace(".", "") + (f".{m[2]}" if m[2] else ""), text)
    return _NUMBER_RE.sub(lambda m: spaced(m, say_number(m[0], language)), text)
