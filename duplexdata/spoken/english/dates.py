"""Dates and times of day in words."""

from __future__ import annotations

import re

from duplexdata.spoken.english.years import MONTH, MONTHS, month_name, say_ordinal, say_year
from duplexdata.spoken.numbers import say_cardinal

_ISO = re.compile(r"(?<![\d/-])([12]\d{3})([-/])(\d{1,2})\2(\d{1,2})(?![\d/-])(?:[T ](?=\d\d:\d\d)(\d\d):([0-5]\d))?")
_ISO_REST = re.compile(r"(?<=\x03)(?::[0-5]\d(?:\.\d+)?)?(?:Z\b|[+-]\d\d:?\d\d)?")
_SLASHED = re.compile(r"(?<![\d/])(\d{1,2})/(\d{1,2})/([12]\d{3}|\d\d)(?![\d/])")
_DOTTED = re.compile(r"(?<![\d.])(\d{1,2})\.(\d{1,2})\.([12]\d{3})(?![\d.]*\d)")
_ON = re.compile(r"\b([Oo]n|[Ss]ince|[Uu]ntil) (\d{1,2})/(\d{1,2})(?![\d/])(?! of\b)")
_DAY = r"(?:[12]\d|3[01]|0?[1-9])"
_YEAR = r"(?:1[0-9]|20)\d\d"
_MONTH_DAY = re.compile(
    rf"\b({MONTH}) ({_DAY})(?:st|nd|rd|th)?(?:( ?[-–—] ?)({_DAY})(?:st|nd|rd|th)?)?(?![\w:/%°]|[.,]\d|-)"
    rf"(,? {_YEAR}\b(?![.,]\d))?"
)
_DAY_MONTH = re.compile(
    rf"(?<![\d.,/:$€£-])(\b[Tt]he )?({_DAY})(?:st|nd|rd|th)? (?:of )?({MONTH})(?!\w)(,? {_YEAR}\b(?![.,]\d))?"
)
_MONTH_YEAR = re.compile(rf"\b({MONTH})(,?) ({_YEAR})(?![\w%]|[.,]\d)")
_WEEKDAYS = {"Mon": "Monday", "Tue": "Tuesday", "Wed": "Wednesday", "Thu": "Thursday", "Fri": "Friday",
    "Sat": "Saturday", "Sun": "Sunday"}  # fmt: skip
_WEEKDAY = re.compile(
    rf"\b(Mon|Tues?|Wed|Thu(?:rs?)?|Fri|Sat|Sun)\b\.?(?=,? (?:{MONTH}|\d{{1,2}} {MONTH})\b)|\b(Mon|Tues?|Wed"
    rf"|Thu(?:rs?)?|Fri)\.(?=,| [a-z]|$)"
)
_BARE_MONTH = re.compile(r"\b(Jan|Feb|Apr|Aug|Sept|Oct|Nov|Dec)\.(?=,| [a-z\d])")

_HALF_DAY = r" ?([AaPp])\.?[Mm]\b(?:\.(?=\s+[a-z]|[,;]|\s+(?:[A-Z]{2,4}T|ET|CT|MT|PT|GMT|UTC|[MTWFS]\w+day)\b))?"
_TIME = re.compile(rf"(?<![\d:.])(\d{{1,2}}):([0-5]\d)(?::([0-5]\d))?(?:{_HALF_DAY})?(?![\d:])")
_HOUR = re.compile(rf"(?<![\d:.,])(\d{{1,2}}){_HALF_DAY}")


def _full_date(year: str, month: str, day: str) -> str | None:
    if not (1 <= int(month) <= 12 and 1 <= int(day) <= 31):
        return None
    said = say_year(year) if len(year) == 4 else say_cardinal(year, "en") if year[0] != "0" else f"oh {year[1]}"
    return f"{MONTHS[int(month) - 1]} {say_ordinal(day)}, {said}"


def _iso(match: re.Match[str]) -> str:
    date = _full_date(match[1], match[3], match[4])
    if date is None:
        return match[0]
    return date + (f" at {match[5]}:{match[6]}\x03" if match[5] else "")


def _slashed(match: re.Match[str]) -> str:
    first, second, year = match.groups()
    return _full_date(year, first, second) or _full_date(year, second, first) or match[0]


def _on(match: re.Match[str]) -> str:
    month, day = int(match[2]), int(match[3])
    if not (1 <= month <= 12 and 1 <= day <= 31) or (month, day) == (9, 11):
        return match[0]
    return f"{match[1]} {MONTHS[month - 1]} {say_ordinal(match[3])}"


def _with_year(said: str, year: str | None) -> str:
    return said if year is None else f"{said}, {say_year(year[-4:])}"


def _month_day(match: re.Match[str]) -> str:
    said = f"{month_name(match[1])} {say_ordinal(match[2])}"
    if match[4]:
        said += f" to {say_ordinal(match[4])}"
    return _with_year(said, match[5])


def _day_month(match: re.Match[str]) -> str:
    the, day, month, year = match.groups()
    return _with_year(f"{the or 'the '}{say_ordinal(day)} of {month_name(month)}", year)


def say_dates(text: str) -> str:
    """All dates in which a month is named or three numbers stand together."""
    if "/" in text or "-" in text:
        text = _ISO.sub(_iso, text)
        if "\x03" in text:
            text = _ISO_REST.sub("", text).replace("\x03", "")
        text = _SLASHED.sub(_slashed, text)
        text = _ON.sub(_on, text)
    if "." in text:
        text = _DOTTED.sub(lambda m: _full_date(m[3], m[2], m[1]) or m[0], text)
    text = _DAY_MONTH.sub(_day_month, text)
    text = _MONTH_DAY.sub(_month_day, text)
    return _MONTH_YEAR.sub(lambda m: f"{month_name(m[1])} {say_year(m[3])}", text)


def say_short_names(text: str) -> str:
    """ "Tues.", "Mon, Jan 15" and "Feb." in full."""
    text = _WEEKDAY.sub(_weekday, text)
    return _BARE_MONTH.sub(lambda m: month_name(m[1]), text)


def _weekday(match: re.Match[str]) -> str:
    name = _WEEKDAYS[(match[1] or match[2])[:3]]
    return name + ("." if match[2] and match.end() == len(match.string) else "")


def _time(match: re.Match[str]) -> str:
    hour, minute, second, half = match.groups()
    if int(hour) > 24:
        return match[0]
    said = say_cardinal(str(int(hour)), "en")
    if minute != "00":
        said += " oh" if minute[0] == "0" else ""
        said += " " + say_cardinal(str(int(minute)), "en")
    elif not half:
        said += " o'clock" if 0 < int(hour) <= 12 else " hundred hours"
    if second and second != "00":
        said += f" and {say_cardinal(str(int(second)), 'en')} second{'' if second == '01' else 's'}"
    return said + (f" {half.upper()}M" if half else "")


def say_times(text: str) -> str:
    if ":" in text:
        text = _TIME.sub(_time, text)
    if "m" in text or "M" in text:
        text = _HOUR.sub(lambda m: f"{say_cardinal(str(int(m[1])), 'en')} {m[2].upper()}M", text)
    return text
