"""Quantities with a unit in words."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

from duplexdata.spoken.numbers import NUMBER


def _metric(symbol: str, name: str, prefixes: str) -> dict[str, tuple[str, str]]:
    """ "m", "meter", "kcm" gives m, km, cm, mm ... with both of their names' numbers."""
    known = {
        "Y": "yotta", "P": "peta", "T": "tera", "G": "giga", "M": "mega", "k": "kilo", "h": "hecto", "d": "deci",
        "c": "centi", "m": "milli", "μ": "micro", "µ": "micro", "n": "nano", "p": "pico",
    }  # fmt: skip
    plural = name if name in ("hertz",) else f"{name}s"
    return {symbol: (name, plural)} | {p + symbol: (known[p] + name, known[p] + plural) for p in prefixes}


def _same(*pairs: tuple[str, str, str]) -> dict[str, tuple[str, str]]:
    return {symbol: (one, many) for symbols, one, many in pairs for symbol in symbols.split("|")}


UNITS: Mapping[str, tuple[str, str]] = MappingProxyType(
    _metric("m", "meter", "kcmμµnp")
    | _metric("g", "gram", "kmμµn")
    | _metric("L", "liter", "mdcμµ")
    | _metric("Hz", "hertz", "kMGT")
    | _metric("W", "watt", "kMGTm")
    | _metric("V", "volt", "kmμµ")
    | _metric("Pa", "pascal", "kMGh")
    | _metric("Wh", "watt hour", "kMGT")
    | _metric("eV", "electronvolt", "kMGT")
    | _metric("Ω", "ohm", "kM")
    | {symbol: names for symbol, names in _metric("B", "byte", "kMGTP").items() if symbol != "B"}
    | _metric("bps", "bit per second", "kMG")
    | _same(
        ("KB", "kilobyte", "kilobytes"), ("KiB", "kibibyte", "kibibytes"), ("MiB", "mebibyte", "mebibytes"),
        ("GiB", "gibibyte", "gibibytes"), ("TiB", "tebibyte", "tebibytes"), ("Mb", "megabit", "megabits"),
        ("Gb", "gigabit", "gigabits"), ("bps|bit/s", "bit per second", "bits per second"),
        ("kbps|Kbps", "kilobit per second", "kilobits per second"),
        ("Mbps|Mbit/s", "megabit per second", "megabits per second"),
        ("Gbps|Gbit/s", "gigabit per second", "gigabits per second"),
        ("ml", "milliliter", "milliliters"), ("cl", "centiliter", "centiliters"), ("dl", "deciliter", "deciliters"),
        ("mcg|ug", "microgram", "micrograms"), ("um", "micrometer", "micrometers"), ("mA", "milliamp", "milliamps"),
        ("mAh", "milliamp hour", "milliamp hours"), ("Ah", "amp hour", "amp hours"), ("kJ", "kilojoule", "kilojoules"),
        ("MJ", "megajoule", "megajoules"), ("kN", "kilonewton", "kilonewtons"), ("kcal", "kilocalorie", "kilocalories"),
        ("cal", "calorie", "calories"), ("mol", "mole", "moles"), ("mmol", "millimole", "millimoles"),
        ("mmHg", "millimeter of mercury", "millimeters of mercury"), ("atm", "atmosphere", "atmospheres"),
        ("dB", "decibel", "decibels"), ("dBm", "dBm", "dBm"), ("ha", "hectare", "hectares"), ("MP",
        "megapixel", "megapixels"),
        ("px", "pixel", "pixels"), ("pt", "point", "points"), ("rpm|RPM", "RPM", "RPM"), ("psi|PSI", "PSI", "PSI"),
        ("dpi|DPI", "DPI", "DPI"), ("fps|FPS", "frame per second", "frames per second"),
        ("bpm|BPM", "beat per minute", "beats per minute"), ("wpm|WPM", "word per minute", "words per minute"),
        ("ppm", "part per million", "parts per million"), ("ppb", "part per billion", "parts per billion"),
        ("mph|MPH", "mile per hour", "miles per hour"), ("kph|kmh|kmph", "kilometer per hour", "kilometers per hour"),
        ("mpg", "mile per gallon", "miles per gallon"), ("lb|lbs", "pound", "pounds"), ("oz", "ounce", "ounces"),
        ("fl oz|fl. oz", "fluid ounce", "fluid ounces"), ("ft", "foot", "feet"), ("yd|yds", "yard", "yards"),
        ("mi", "mile", "miles"),
        ("gal", "gallon", "gallons"), ("qt", "quart", "quarts"), ("tbsp|Tbsp", "tablespoon", "tablespoons"),
        ("tsp", "teaspoon", "teaspoons"), ("hr|hrs", "hour", "hours"), ("min|mins", "minute", "minutes"),
        ("sec|secs", "second", "seconds"), ("ms", "millisecond", "milliseconds"), ("ns", "nanosecond", "nanoseconds"),
        ("μs|µs", "microsecond", "microseconds"), ("yr|yrs", "year", "years"), ("wk|wks", "week", "weeks"),
        ("cc", "cc", "cc"), ("sq ft|sq. ft|sqft", "square foot", "square feet"), ("sq mi|sq. mi",
        "square mile", "square miles"),
        ("sq m|sqm", "square meter", "square meters"), ("sq km", "square kilometer", "square kilometers"),
        ("sq in", "square inch", "square inches"), ("cu ft|cu. ft", "cubic foot", "cubic feet"),
        ("°C|° C", "degree Celsius", "degrees Celsius"), ("°F|° F", "degree Fahrenheit", "degrees Fahrenheit"),
        ("°", "degree", "degrees"),
    )
)  # fmt: skip
_SPACED: Mapping[str, tuple[str, str]] = MappingProxyType({"h": ("hour", "hours"), "s": ("second", "seconds")})
"""Only with a space before them, or below a slash: "the 5s" are no seconds."""
_LENGTHS = frozenset({"m", "km", "cm", "mm", "nm", "μm", "ft", "mi", "yd", "in"})
_BELOW: Mapping[str, str] = MappingProxyType(
    {"d": "day", "hour": "hour", "day": "day", "week": "week", "month": "month", "year": "year", "minute": "minute",
     "second": "second", "person": "person", "mo": "month", "in": "inch", "kWh": "kilowatt hour", "night": "night"}
)  # fmt: skip
_ALL: Mapping[str, tuple[str, str]] = MappingProxyType({**UNITS, **_SPACED})


def _names(symbols: Mapping[str, object]) -> str:
    return "|".join(sorted(map(re.escape, symbols), key=len, reverse=True))


_POWER = r"(?:\^\(?(-?[23])\)?|(?<=m)([23])(?!\w))?"
_UNIT = re.compile(
    rf"(?<![\w.,$€£¥^])({NUMBER})(?:(-| ?)({_names(UNITS)})|( )({_names(_SPACED)}))(?![^\W\d_]){_POWER}"
    rf"(?:/({_names({**_ALL, **_BELOW})})(?![^\W\d_]){_POWER})?(?![\w°])(\.(?=,? [a-z]|,))?"
)
_PER = re.compile(
    r"(?<=[a-z])/(hour|day|week|month|year|minute|second|person|night|mile|gallon|hr|mo|yr|wk|min|sec|kg|lb"
    r"|oz|km|sq ft)\b"
)
_PER_NAMES = {"hr": "hour", "mo": "month", "yr": "year", "wk": "week", "min": "minute", "sec": "second",
              "kg": "kilogram", "lb": "pound", "oz": "ounce", "km": "kilometer", "sq ft": "square foot"}  # fmt: skip
_PER_BEFORE = re.compile(
    r"(?:\b(?:dollars?|euros?|pounds?|cents?|pence|yen|rupees?|percent|times|calls|requests|tokens|words|million|thousand)"
    r"|\d[\d.,]* ?[a-z]{2,})$"
)
_FEET_INCHES = re.compile(r"(?<![\w'])(\d{1,3})' ?(\d{1,2})(?:\"|''|(?!\w|'))")
_FEET = re.compile(r"(?<![\w'])(\d{1,3})'(?= (?:tall|long|wide|high|deep|by|x)\b)")
_INCHES = re.compile(r"(?<![\w.'])(\d{1,3}(?:\.\d+)?|\d/\d)\"(?=([^\"]*\"[^\"]*\")*[^\"]*$)")
_INCHES_WORD = re.compile(r"(?<![\w.])(\d{1,3}(?:\.\d+)?) ?in\.(?=,? [a-z])")
_KELVIN = re.compile(r"(?<![\w.,])(\d{2,}(?:\.\d+)?) K(?!\w)(?! run| race)")
_COORDINATE = re.compile(
    r"(\d{1,3}(?:\.\d+)?) ?°(?: ?(\d{1,2}(?:\.\d+)?)'(?: ?(\d{1,2}(?:\.\d+)?)(?:\"|''))?)? ?([NSEW])\b"
)
_HEMISPHERES = {"N": "north", "S": "south", "E": "east", "W": "west"}
_HOURS_MINUTES = re.compile(r"(?<![\w.,])(\d{1,3}) ?h(?:rs?)? ?(\d{1,2}) ?m(?:in)?\b")
_ARTICLE = re.compile(r"\b(?:an?|another|each|every|per) $", re.IGNORECASE)
_NOUN = re.compile(
    r" (?!(?:and|or|per|an?|to|in|of|for|from|is|was|are|on|at|by|with|each|more|less|that|as|when|if|but"
    r"|then|away|later|ago)\b)[a-z]"
)


_SURE_NOUN = re.compile(r" (?:dash|race|sprint|relay|freestyle|hurdles|bag|jug|screen|display|monitor|camera|lens)\b")


def is_adjective(text: str, start: int, end: int) -> bool:
    """Whether the quantity at `start` to `end` stands before its noun: "a 5 km run"."""
    if _SURE_NOUN.match(text, end):
        return True
    return bool(_ARTICLE.search(text[max(0, start - 9) : start]) and _NOUN.match(text, end))


def _powered(symbol: str, power: str, name: str) -> str:
    if not power:
        return name
    if power in ("2", "3") and symbol in _LENGTHS:
        return f"{'square' if power == '2' else 'cubic'} {name}"
    return name + {"2": " squared", "3": " cubed"}.get(power.lstrip("-"), "")


def _unit(match: re.Match[str]) -> str:
    number, text = match[1], match.string
    symbol = match[3] or match[5]
    one_half = match.start() > 0 and text[match.start() - 1] == "/"
    singular = (
        number == "1"
        or one_half
        or (match[2] == "-" and text[match.end() : match.end() + 2].lstrip(" -")[:1].isalpha())
        or is_adjective(text, match.start(), match.end())
    )
    one, many = _ALL[symbol]
    said = _powered(symbol, match[6] or match[7] or "", one if singular else many)
    if below := match[8]:
        name = _BELOW.get(below) or _ALL[below][0]
        said += f" per {_powered(below, match[9] or match[10] or '', name)}"
    return f"{number} {said}"


def _feet_inches(match: re.Match[str]) -> str:
    if int(match[2]) > 11:
        return f"{match[1]} minutes {match[2]} seconds "
    return f"{match[1]} foot {match[2]} "


def _inches(match: re.Match[str]) -> str:
    before = match.string[: match.start()]
    if before.count('"') % 2:
        return match[0]
    single = match[1] == "1" or is_adjective(match.string, match.start(), match.end())
    return f"{match[1]} {'inch' if single else 'inches'}"


def _per(match: re.Match[str]) -> str:
    if not _PER_BEFORE.search(match.string[max(0, match.start() - 24) : match.start()]):
        return match[0]
    return f" per {_PER_NAMES.get(match[1], match[1])}"


def _coordinate(match: re.Match[str]) -> str:
    degrees, minutes, seconds, side = match.groups()
    parts = [f"{degrees} degrees"]
    parts += [f"{n} {name}" for n, name in ((minutes, "minutes"), (seconds, "seconds")) if n]
    return f"{', '.join(parts)} {_HEMISPHERES[side]}"


def say_units(text: str) -> str:
    """Units in words, their numbers left as digits: "5 km/h" is "5 kilometers per hour"."""
    if "'" in text:
        text = text if "°" in text else _FEET_INCHES.sub(_feet_inches, text)
        text = _FEET.sub(r"\1 feet", text)
    if "°" in text:
        text = _COORDINATE.sub(_coordinate, text)
    if '"' in text:
        text = _INCHES.sub(_inches, text)
    text = _INCHES_WORD.sub(r"\1 inches", text)
    text = _HOURS_MINUTES.sub(_hours_minutes, text)
    text = _KELVIN.sub(r"\1 kelvin", text)
    text = _UNIT.sub(_unit, text)
    return _PER.sub(_per, text) if "/" in text else text


def _hours_minutes(match: re.Match[str]) -> str:
    hours, minutes = (f"{n} {name}{'' if n == '1' else 's'}" for n, name in ((match[1], "hour"), (match[2], "minute")))
    return f"{hours} {minutes}"
