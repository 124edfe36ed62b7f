"""Sums of money in words."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

from duplexdata.spoken.numbers import NUMBER, say_cardinal, say_number, spaced

_CURRENCIES: Mapping[str, tuple[str, str, str]] = MappingProxyType(
    {
        "$": ("dollar", "dollars", "cent"), "€": ("euro", "euros", "cent"), "£": ("pound", "pounds", "penny"),
        "¥": ("yen", "yen", ""), "₹": ("rupee", "rupees", "paisa"), "₩": ("won", "won", ""),
        "₽": ("ruble", "rubles", ""), "₪": ("shekel", "shekels", ""), "₿": ("bitcoin", "bitcoins", ""),
        "₺": ("lira", "lira", ""), "₱": ("peso", "pesos", ""), "₫": ("dong", "dong", ""),
        "₴": ("hryvnia", "hryvnias", ""), "฿": ("baht", "baht", ""), "₦": ("naira", "naira", ""),
    }
)  # fmt: skip
CURRENCY_SIGNS = "".join(_CURRENCIES)
_SIGN = f"[{CURRENCY_SIGNS}]"
_NATIONS: Mapping[str, str] = MappingProxyType(
    {
        "US": "US", "U.S.": "US", "CA": "Canadian", "C": "Canadian", "AU": "Australian", "A": "Australian",
        "NZ": "New Zealand", "HK": "Hong Kong", "S": "Singapore", "SG": "Singapore", "NT": "Taiwan",
    }
)  # fmt: skip
_CODES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "USD": ("US dollar", "US dollars"), "EUR": ("euro", "euros"), "GBP": ("pound", "pounds"),
        "JPY": ("yen", "yen"), "CNY": ("yuan", "yuan"), "RMB": ("RMB", "RMB"), "INR": ("rupee", "rupees"),
        "CAD": ("Canadian dollar", "Canadian dollars"), "AUD": ("Australian dollar", "Australian dollars"),
        "CHF": ("Swiss franc", "Swiss francs"), "NZD": ("New Zealand dollar", "New Zealand dollars"),
        "SEK": ("Swedish krona", "Swedish kronor"), "NOK": ("Norwegian krone", "Norwegian kroner"),
        "DKK": ("Danish krone", "Danish kroner"), "MXN": ("Mexican peso", "Mexican pesos"),
        "BRL": ("real", "reais"), "KRW": ("won", "won"), "RUB": ("ruble", "rubles"), "BTC": ("bitcoin", "bitcoins"),
    }
)  # fmt: skip
_SMALL_PLURAL: Mapping[str, str] = MappingProxyType({"cent": "cents", "penny": "pence", "paisa": "paise"})
SCALES: Mapping[str, str] = MappingProxyType(
    {"k": "thousand", "m": "million", "mm": "million", "mn": "million", "b": "billion", "bn": "billion",
     "t": "trillion", "tn": "trillion"}
)  # fmt: skip
_AMOUNT = (
    r"(\d[\d,]*)(\.\d+)?(?:([- ]?(?:thousand|million|billion|trillion|[Mm]illion|[Bb]illion)\b)|"
    r"( ?(?:[kKmMbBtT]|bn|mn|tn|MM)\b))?"
)
_NO_WHOLE = re.compile(rf"({_SIGN})\.(?=\d)")
_RANGE = re.compile(rf"({_SIGN}) ?({NUMBER})([kKmMbB]?) ?[-–—] ?{_SIGN}?({NUMBER})(?!-|[kKmMbB]\w|(?![kKmMbB])\w)")
_FRONT = re.compile(
    rf"(?<![\w.,])(-)?(?:\b({'|'.join(map(re.escape, _NATIONS))}))?({_SIGN}) ?{_AMOUNT}(-((?:an?|per)-)?(?=[a-z]))?"
)
_BEHIND = re.compile(rf"(?<![\w.,])(-)?{_AMOUNT} ?({_SIGN})(?!\d)")
_CODE_NAMES = "|".join(_CODES)
_CODE_FRONT = re.compile(rf"\b({_CODE_NAMES}) ?\$?{_AMOUNT}(?![\w])")
_CODE_BEHIND = re.compile(rf"(?<![\w.,])\$?{_AMOUNT} ?({_CODE_NAMES})\b")
_CENTS = re.compile(r"(?<![\d.,])1 cents\b")
_ARTICLE = re.compile(r"\b(?:an?|another|each|every|per) $", re.IGNORECASE)
_NOUN = re.compile(
    r" (?!(?:and|or|per|an?|to|in|of|for|from|is|was|on|at|by|with|each|more|less|that|as|when|if|but)\b)[a-z]"
)


def _said(whole: str, decimals: str, scale: str, names: tuple[str, str, str], adjective: bool) -> str:
    one, many, small = names
    number = whole.replace(",", "")
    if scale or not small or len(decimals) not in (0, 3):
        said = say_number(number + decimals, "en")
        unit = one if adjective or (said == "one" and not scale) else many
        return " ".join(filter(None, (said, scale, unit)))
    units, cents = int(number), int(decimals[1:] or 0)
    parts = []
    if units or not cents:
        parts.append(f"{say_cardinal(number, 'en')} {one if units == 1 or adjective else many}")
    if cents:
        parts.append(f"{say_cardinal(str(cents), 'en')} {small if cents == 1 else _SMALL_PLURAL[small]}")
    return " and ".join(parts)


def _amount(match: re.Match[str], first: int, names: tuple[str, str, str], adjective: bool = False) -> str:
    """The groups whole, decimals, scale word, scale letter from `first` on, in words; a comma behind stays."""
    whole, decimals, word, letter = (match[first + i] or "" for i in range(4))
    scale = word.strip(" -").lower() or SCALES.get(letter.strip().lower(), "")
    comma = "," if whole.endswith(",") and not (decimals or scale) else ""
    return _said(whole.rstrip(","), decimals, scale, names, adjective) + comma


def _front(match: re.Match[str]) -> str:
    one, many, small = _CURRENCIES[match[3]]
    if match[2]:
        nation = _NATIONS[match[2]]
        one, many = f"{nation} {one}", f"{nation} {many}"
    text = match.string
    adjective = bool(match[8]) or bool(
        _ARTICLE.search(text[max(0, match.start() - 9) : match.start()]) and _NOUN.match(text, match.end())
    )
    said = _amount(match, 4, (one, many, small), adjective)
    behind = f" {(match[9] or '').replace('-', ' ')}" if match[8] else ""
    return spaced(match, ("minus " if match[1] else "") + said + behind)


def _behind(match: re.Match[str]) -> str:
    said = _amount(match, 2, _CURRENCIES[match[6]])
    return spaced(match, ("minus " if match[1] else "") + said)


def say_money(text: str) -> str:
    has_code = any(code in text for code in _CODES)
    has_sign = any(sign in text for sign in CURRENCY_SIGNS)
    if has_sign:
        text = _NO_WHOLE.sub(r"\g<1>0.", text)
    if has_code:
        text = _CODE_BEHIND.sub(lambda m: spaced(m, _amount(m, 1, (*_CODES[m[5]], ""))), text)
    if has_sign:
        text = _RANGE.sub(r"\2\3 to \1\4", text)
        text = _FRONT.sub(_front, text)
        text = _BEHIND.sub(_behind, text)
    if has_code:
        text = _CODE_FRONT.sub(lambda m: spaced(m, _amount(m, 2, (*_CODES[m[1]], ""))), text)
    return _CENTS.sub("one cent", text) if "cents" in text else text
