"""Numbers, symbols and punctuation as they are said and written in Chinese."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType

from duplexdata.spoken.numbers import DIGIT, MAX_CARDINAL_DIGITS
from duplexdata.spoken.signs import say_signs
from duplexdata.words import CJK

_FULL_MARKS: Mapping[str, str] = MappingProxyType({",": "，", ";": "；", ":": "：", "!": "！", "?": "？", ".": "。"})
_HALF_MARK = re.compile(rf"(?<=[{CJK}])[,;:!?](?!\d)|(?<=[{CJK}])\.(?!\w)")

_DIGITS = "零一二三四五六七八九"
_SCALES = ("", "万", "亿", "万亿")
_MEASURES = "个种次天位条件名座块杯张只家项步本遍倍"
_CURRENCIES: Mapping[str, str] = MappingProxyType({"$": "美元", "€": "欧元", "£": "英镑", "¥": "元", "₹": "卢比"})
_NUMBER = r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?"
_ChineseRule = tuple[re.Pattern[str], Callable[[re.Match[str]], str]]


def _section(number: int) -> str:
    """1 to 9999 in characters."""
    said = ""
    for power, name in ((1000, "千"), (100, "百"), (10, "十"), (1, "")):
        digit, number = divmod(number, power)
        if digit:
            said += _DIGITS[digit] + name
        elif said and number and not said.endswith("零"):
            said += "零"
    return said


def _cardinal(digits: str) -> str:
    digits = digits.replace(",", "")
    if len(digits) > MAX_CARDINAL_DIGITS or (len(digits) > 1 and digits[0] == "0"):
        return _digits(digits)
    number = int(digits)
    if number == 0:
        return "零"
    said = ""
    for i in reversed(range(len(_SCALES))):
        section = number // 10_000**i % 10_000
        if said and section and section < 1000 and not said.endswith("零"):
            said += "零"
        said += _section(section) + _SCALES[i] if section else ""
    return said.removeprefix("一") if said.startswith("一十") else said


def _digits(digits: str) -> str:
    return "".join(_DIGITS[int(digit)] for digit in digits if digit.isdigit())


def _number(number: str) -> str:
    whole, _, decimals = number.partition(".")
    return _cardinal(whole) + (f"点{_digits(decimals)}" if decimals else "")


def _date(match: re.Match[str]) -> str:
    return f"{_digits(match[1])}年{_cardinal(str(int(match[2])))}月{_cardinal(str(int(match[3])))}日"


def _time(match: re.Match[str]) -> str:
    minute = "整" if match[2] == "00" else _digits(match[2]) + "分" if match[2][0] == "0" else ""
    return f"{_cardinal(str(int(match[1])))}点{minute or _cardinal(match[2]) + '分'}"


_CHINESE_NUMBERS: tuple[_ChineseRule, ...] = (
    (re.compile(r"(?<!\d)([12]\d{3})[-/](\d{1,2})[-/](\d{1,2})(?!\d)"), _date),
    (re.compile(r"(?<!\d)(\d{4})(?= ?年)"), lambda m: _digits(m[1])),
    (re.compile(r"(?<!\d)(\d{1,2}):([0-5]\d)(?!\d)"), _time),
    (re.compile(r"(?<=\d)(%?) ?[-–—~至] ?(?=[\d$¥])|(?<=\d)()[：:](?=\d)"), lambda m: f"{m[1] or ''}到"),
    (re.compile(rf"({_NUMBER}) ?%"), lambda m: f"百分之{_number(m[1])}"),
    (re.compile(rf"([$€£¥₹]) ?({_NUMBER})( ?[万亿]{{1,2}})?"),
     lambda m: f"{_number(m[2])}{(m[3] or '').strip()}{_CURRENCIES[m[1]]}"),
    (re.compile(r"(?<!\d)(\d{1,4})/(\d{1,4})(?!\d)"),
     lambda m: f"{_cardinal(m[2])}分之{_cardinal(m[1])}"),
    (re.compile(r"(?<!\d)1[3-9]\d{9}(?!\d)"), lambda m: _digits(m[0])),
    (re.compile(r"(?<![\w)）-])-(?=\d)"), lambda m: "负"),
    (re.compile(rf"(?<![\d.])2(?= ?[{_MEASURES}])"), lambda m: "两"),
    (re.compile(_NUMBER), lambda m: _number(m[0])),
    (DIGIT, lambda m: _DIGITS[int(m[0])]),
)  # fmt: skip


def _say_chinese_numbers(text: str) -> str:
    for pattern, say in _CHINESE_NUMBERS:
        text = pattern.sub(say, text)
    return text


def say_chinese(text: str) -> str:
    if DIGIT.search(text):
        text = _say_chinese_numbers(text)
    return _HALF_MARK.sub(lambda m: _FULL_MARKS[m[0]], say_signs(text, "zh"))
