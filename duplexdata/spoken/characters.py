"""Characters of all scripts as the few that the rules of this package look at."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType

_CHARACTERS: Mapping[str, str] = MappingProxyType(
    {
        "\u00a0": " ", "‘": "'", "’": "'", "‛": "'", "′": "'", "…": "...", "―": "—", "‐": "-", "‑": "-",
        "‒": "–", "−": "-", "•": "\n- ", "●": "\n- ", "▪": "\n- ", "◦": "\n- ", "‣": "\n- ", "·": " ",
        "†": " ", "‡": " ", "※": " ", "×": " times ", "÷": " divided by ", "±": " plus or minus ",
        "≈": " is about ", "≤": " <= ", "≥": " >= ", "≠": " is not equal to ", "→": " to ", "⇒": " to ",
        "←": " ", "∞": " infinity ", "√": " the square root of ", "⁄": "/", "∕": "/", "№": "number ",
        "§": " section ", "¢": " cents", "™": "", "®": "", "©": "", "￥": "¥", "°": "°", "€": "€", "£": "£",
        "¥": "¥", "₹": "₹", "₩": "₩", "₽": "₽", "₪": "₪", "₿": "₿", "₺": "₺", "₱": "₱", "₫": "₫", "₴": "₴", "฿": "฿",
        "₦": "₦", "℃": "°C", "℉": "°F", "″": '"', "〇": "〇", "，": "，", "！": "！", "？": "？", "：": "：",
        "；": "；",
        "（": "（", "）": "）", "\u20e3": "", "\u2028": "\n", "\u2029": "\n\n",
    }
)  # fmt: skip


@lru_cache(maxsize=8192)
def _plain_character(ch: str) -> str:
    """What the other rules work on: digits of all scripts as ASCII, no emoji, no control characters."""
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


def plain_characters(text: str) -> str:
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if not text.isascii():
        text = text.translate({ord(ch): _plain_character(ch) for ch in set(text) if ch > "\x7f"})
    return _CONTROLS.sub("", text)
