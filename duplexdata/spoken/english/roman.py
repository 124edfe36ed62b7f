"""Roman numerals, where a name or a heading before them makes sure that they are numbers."""

from __future__ import annotations

import re

from duplexdata.spoken.numbers import spell

_VALUES = {"I": 1, "V": 5, "X": 10, "L": 50, "C": 100, "D": 500, "M": 1000}
_NUMERAL = r"(?=[IVXLC])(?:XC|XL|L?X{0,3})(?:IX|IV|V?I{0,3})"
"""1 to 99."""
_RULERS = (
    "Henry|Louis|George|Edward|Richard|William|James|Charles|Elizabeth|Mary|Philip|Charles|Frederick|Wilhelm|Nicholas|Alexander"
    "|Catherine|Peter|Ivan|Napoleon|Leopold|Francis|Ferdinand|Joseph|Pius|Benedict|Leo|Gregory|Clement|Innocent|Urban|Paul|John"
    "|Boniface|Ramses|Ramesses|Thutmose|Amenhotep|Ptolemy|Cleopatra|Darius|Xerxes|Cyrus|Harald|Haakon|Olaf|Gustav|Christian"
    "|Robert|David|Malcolm|Kenneth|Margaret|Isabella|Alfonso|Carlos|Juan|Pedro|Umberto|Vittorio|Emmanuel|Mehmed|Selim|Murad"
    "|Suleiman|Otto|Heinrich|Sixtus|Julius|Stephen|Justinian|Constantine|Theodosius|Tiglath-Pileser|Nebuchadnezzar|Akbar"
)
_RULER = re.compile(rf"\b((?:{_RULERS}) )({_NUMERAL})(?![\w.-](?<!\.)|\.\w)")
_TITLED = re.compile(
    rf"\b((?:King|Queen|Pope|Emperor|Empress|Tsar|Czar|Prince|Pharaoh|Sultan|Kaiser|Duke"
    rf"|Shah) (?:[A-Z][\w-]+ ){{1,2}})({_NUMERAL})(?!\w)"
)
_HEADS = (
    "World War|War|Chapter|Part|Act|Scene|Book|Volume|Vol|Section|Article|Title|Appendix|Phase|Stage|Type"
    "|Class|Grade|Level|Tier"
    "|Super Bowl|WrestleMania|Type|Schedule|Amendment|Mark|Figure|Table|Apollo|Saturn|Factor|Category|Unit"
    "|Round|Episode|Season"
    "|Division|Group|Item|Lesson|Module|Theorem|Canto|Symphony No|Vatican|Final Fantasy|Elder Scrolls"
    "|Civilization|Rocky|Titan"
)
_HEADED = re.compile(
    rf"\b((?:{_HEADS}) )({_NUMERAL})(?![\w']|\.\w)"
    r"(?!(?<= I) (?:am|was|have|had|would|will|can|could|think|need|did|do|want|know|like|love|feel|play|read|saw)\b)"
)
_TENTHS = re.compile(r"(?:Chapter|Part|Act|Scene|Book|Volume|Article|Super Bowl|Title|Fantasy|Rocky|Apollo|Section) $")
"""Behind these X is the tenth; "Type X" and "Class X" are names."""
_SMALL_HEADED = re.compile(
    r"\b((?:type|stage|phase|class|grade|level|tier|part|chapter|factor|section|act|scene|volume|category"
    r"|war) )((?:II|III|IV|VI|VII|VIII|IX|XI|XII|V(?= [a-z]))\b|I(?= (?:diabetes|error|errors|collagen|trial"
    r"|trials)\b))(?!')"
)
_LONG = re.compile(r"(?<=[a-z] )(II|III|VI|VII|VIII|IX|XI{1,3}|XIV|XV|XVI{0,3}|XIX|XXI{0,3})(?![\w'])")
_AFTER_NAME = re.compile(r"\b[A-Z][\w'-]* $")


def _value(numeral: str) -> int:
    values = [_VALUES[c] for c in numeral]
    return sum(-v if v < following else v for v, following in zip(values, [*values[1:], 0], strict=True))


def _cardinal(numeral: str, capital: bool = True) -> str:
    said = spell(str(_value(numeral)), "en", "cardinal")
    return said.capitalize() if capital else said


def _ordinal(match: re.Match[str]) -> str:
    said = "-".join(p.capitalize() for p in spell(str(_value(match[2])), "en", "ordinal").split("-"))
    return f"{match[1]}the {said}"


def _ruler(match: re.Match[str]) -> str:
    """One letter alone is a numeral only behind a title: "George V", but "Malcolm X" and "John C"."""
    if match[2] in ("I", "V", "X", "L", "C") and not _ROYAL.search(
        match.string[max(0, match.start() - 24) : match.start()]
    ):
        return match[0]
    return _ordinal(match)


_ROYAL = re.compile(r"\b(?:King|Queen|Pope|Emperor|Empress|Tsar|Czar|Prince|Kaiser|Sultan)s? $")


def _headed(match: re.Match[str]) -> str:
    if match[2] == "L" or (match[2] == "X" and not _TENTHS.search(match[1])):
        return match[0]
    return match[1] + _cardinal(match[2])


def _long(match: re.Match[str]) -> str:
    if not _AFTER_NAME.search(match.string[max(0, match.start() - 24) : match.start()]):
        return match[0]
    return _cardinal(match[1])


_ANY = re.compile(
    r" (?:[IVXLC]{2,7}(?![\w'])|[IVX](?![\w'])(?! (?:am|was|have|had|would|will|can|could|think|need|do|did"
    r"|want|know|like|feel)\b))"
)


def say_roman(text: str) -> str:
    if not _ANY.search(text):
        return text
    text = _RULER.sub(_ruler, text)
    text = _TITLED.sub(_ordinal, text)
    text = _HEADED.sub(_headed, text)
    text = _SMALL_HEADED.sub(lambda m: m[1] + _cardinal(m[2], capital=False), text)
    return _LONG.sub(_long, text)
