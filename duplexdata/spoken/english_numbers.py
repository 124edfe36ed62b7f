"""Numbers in English words: dates, times, money, units, fractions and plain ones."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType

from duplexdata.spoken.numbers import NUMBER, say_cardinal, say_digits, say_number, say_numbers, spaced, spell

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
_SCALES: Mapping[str, str] = MappingProxyType({"k": "thousand", "m": "million", "b": "billion", "bn": "billion"})
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
_DENOMINATORS: Mapping[int, tuple[str, str]] = MappingProxyType({2: ("half", "halves"), 4: ("quarter", "quarters")})
_MAX_FRACTION = 100

_UNIT_NAMES = "|".join(sorted(map(re.escape, _UNITS), key=len, reverse=True))
_UNIT = re.compile(rf"(?<![\w.,$€£¥])({NUMBER}) ?({_UNIT_NAMES})(?![\w°])")
_AMOUNT = r"(\d[\d,]*)(\.\d+)?(?:( ?(?:thousand|million|billion|trillion)\b)|([kKmMbB]|bn)\b)?"
_MONEY = re.compile(rf"(?:\b(?:US|CA|AU|A|C))?([$€£¥₹]) ?{_AMOUNT}")
_MONEY_BEHIND = re.compile(rf"(?<![\w.,]){_AMOUNT} ?([$€£₹])(?!\d)")
_MONEY_RANGE = re.compile(rf"([$€£¥₹]) ?({NUMBER}) ?[-–—] ?[$€£¥₹]?({NUMBER})(?![\w-])")
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
        return f"{say_number(whole.replace(',', '') + decimals, 'en')} {scale} {many}{comma}"
    units, cents = int(whole.replace(",", "")), int(decimals[1:] or 0)
    said = [f"{say_cardinal(whole, 'en')} {one if units == 1 else many}"] if units or not cents else []
    if cents:
        said.append(f"{say_cardinal(str(cents), 'en')} {small if cents == 1 else _SMALL_PLURAL[small]}")
    return " and ".join(said) + comma


def _date(year: str, month: str, day: str) -> str | None:
    if not (1 <= int(month) <= 12 and 1 <= int(day) <= 31):
        return None
    return f"{_MONTHS[int(month) - 1]} {spell(str(int(day)), 'en', 'ordinal')}, {_year(year)}"


def _year(year: str) -> str:
    return spell(year, "en", "year")


def _time(match: re.Match[str]) -> str:
    hour, minute, half = match[1], match[2], match[3]
    if int(hour) > 24:
        return match[0]
    said = say_cardinal(str(int(hour)), "en")
    if minute != "00":
        said += " oh" if minute[0] == "0" else ""
        said += " " + say_cardinal(str(int(minute)), "en")
    elif not half:
        said += " o'clock" if 0 < int(hour) <= 12 else " hundred hours"
    return said + (f" {half.upper()}M" if half else "")


def _simple_fraction(over: int, under: int) -> str:
    """Numerator and denominator in words; "seven over five" where nobody says the fraction's name."""
    top = say_cardinal(str(over), "en")
    if not (over < under and 1 < under <= _MAX_FRACTION):
        return f"{top} {'out of' if over == under else 'over'} {say_cardinal(str(under), 'en')}"
    name = spell(str(under), "en", "ordinal")
    singular, plural = _DENOMINATORS.get(under, (name, f"{name}s"))
    return f"{top} {singular if over == 1 else plural}"


def _mixed_fraction(match: re.Match[str]) -> str:
    part = _simple_fraction(int(match[2]), int(match[3]))
    part = f"a {part[4:]}" if part.startswith("one ") else part
    return f"{say_cardinal(match[1], 'en')} and {part}"


def _decade(decade: str) -> str:
    if len(decade) == 4 and decade[2] == "0":
        return "two thousands" if decade[1] == "0" else say_cardinal(decade[:2], "en") + " hundreds"
    century = f"{say_cardinal(decade[:2], 'en')} " if len(decade) == 4 else ""
    tens = say_cardinal(decade[-2:], "en") if decade[-2:] != "00" else "hundred"
    return century + (f"{tens[:-1]}ies" if tens.endswith("y") else f"{tens}s")


def _unit(match: re.Match[str]) -> str:
    return f"{match[1]} {_UNITS[match[2]][match[1] != '1']}"


_EnglishRule = tuple[str, re.Pattern[str], str | Callable[[re.Match[str]], str]]
_CURRENCY_SIGN = "$€£¥₹"
_ENGLISH_NUMBERS: tuple[_EnglishRule, ...] = (
    (_CURRENCY_SIGN, _NO_WHOLE, r"\g<1>0."),
    (_CURRENCY_SIGN, _MONEY_RANGE, r"\2 to \1\3"),
    (_CURRENCY_SIGN, _MONEY, lambda m: spaced(m, _amount(m, m[1], 2))),
    (_CURRENCY_SIGN, _MONEY_BEHIND, lambda m: spaced(m, _amount(m, m[5], 1))),
    ("-", _ISO_DATE, lambda m: _date(m[1], m[2], m[3]) or m[0]),
    ("/", _US_DATE, lambda m: _date(m[3], m[1], m[2]) or _date(m[3], m[2], m[1]) or m[0]),
    ("-", _PHONE, lambda m: ", ".join(say_digits(part, "en") for part in re.split(r"\D+", m[0]) if part)),
    ("-", _MINUS, " minus "),
    ("-–—", _RANGE, r"\1 to "),
    ("-", _NEGATIVE, "minus "),
    (":", _TIME, _time),
    ("mM", _HOUR, lambda m: f"{say_cardinal(m[1], 'en')} {m[2].upper()}M"),
    (":", _RATIO, " to "),
    ("'", _FEET, r"\1 foot \2 "),
    ("x", _TIMES, " times "),
    ("x", _BY, " by "),
    ("kK", _RETIREMENT_PLAN, "four oh one K"),
    ("", _UNIT, _unit),
    ("/", _MIXED_FRACTION, _mixed_fraction),
    ("/", _FRACTION, lambda m: _SPECIAL_SLASHES.get(m[0]) or _simple_fraction(int(m[1]), int(m[2]))),
    ("sndt", _ORDINAL, lambda m: spaced(m, spell(m[1].replace(",", "")[:15], "en", "ordinal"))),
    ("ruychi", _MONTH_DAY, lambda m: f"{m[1]} {spell(m[2], 'en', 'ordinal')}"),
    ("s", _DECADE, lambda m: _decade(m[1])),
    ("kKM", _THOUSANDS, lambda m: " million" if m[0] == "M" else " thousand"),
    ("", _YEAR, lambda m: _year(m[1])),
)


def say_english_numbers(text: str) -> str:
    for needles, pattern, replacement in _ENGLISH_NUMBERS:
        if not needles or any(needle in text for needle in needles):
            text = pattern.sub(replacement, text)
    return say_numbers(text, "en")
