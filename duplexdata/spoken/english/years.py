"""Years, decades, months and their abbreviations."""

from __future__ import annotations

import re

from duplexdata.spoken.numbers import say_cardinal, spell

MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip
MONTH = (
    r"(?:Jan(?:uary|\.)?|Feb(?:ruary|\.)?|Mar(?:ch|\.)?|Apr(?:il|\.)?|May|June?|Jun\.|July?|Jul\.|Aug(?:ust|\.)?"
    r"|Sept?(?:ember|\.)?|Oct(?:ober|\.)?|Nov(?:ember|\.)?|Dec(?:ember|\.)?)"
)
"""A month's name or its abbreviation, with or without a full stop."""
_BY_START = {name[:3]: name for name in MONTHS}


def month_name(written: str) -> str:
    return _BY_START[written[:3]]


def say_year(year: str) -> str:
    return spell(year, "en", "year").replace("oh-", "oh ")


def say_ordinal(number: str) -> str:
    return spell(str(int(number)), "en", "ordinal")


def plural_tens(two_digits: str) -> str:
    """ "80" is "eighties"."""
    said = say_cardinal(two_digits, "en")
    return f"{said[:-1]}ies" if said.endswith("y") else f"{said}s"


def say_decade(decade: str) -> str:
    """ "1990" is "nineteen nineties", "60" is "sixties", "1900" is "nineteen hundreds"."""
    if len(decade) == 4 and decade[2] == "0":
        return "two thousands" if decade[1] == "0" else say_cardinal(decade[:2], "en") + " hundreds"
    century = f"{say_cardinal(decade[:2], 'en')} " if len(decade) == 4 else ""
    tens = decade[-2:]
    return century + ("hundreds" if tens == "00" else plural_tens(tens))


# -- which four digits are a year

_COUNTED = re.compile(
    r" by \d| (?!(?:was|is|has|does|its|this|us|as|plus|always|perhaps|towards|afterwards|thus|yes"
    r"|across)\b)(?:[a-z]{2,}[a-rt-z]s|people|men|women|children)\b"
)
_OF_A_YEAR = re.compile(
    r"(?:\b(?:in|since|the|this|that|circa|year|years|early|late|mid|until|till|before|after|during|"
    r"my|our|his|her|its|their|[Ii]n|[Ss]ince|[Tt]he|[A-Z][a-z]+)|,) ?$"
)


def is_count(text: str, start: int, end: int) -> bool:
    """Whether the number at `start` to `end` counts what follows ("1250 steps") rather than naming a year."""
    return bool(_COUNTED.match(text, end)) and not _OF_A_YEAR.search(text[max(0, start - 12) : start])
