"""What is read by its characters: addresses, files, phone numbers, versions and other codes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

from duplexdata.spoken.numbers import say_cardinal, say_digits

# -- addresses and files

_FINE_TAIL = re.compile(r"[A-Za-z0-9/_.~-]{1,40}")
_MAX_TAIL = 30
"""Characters of a path that somebody would read out."""
_HOST = r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,5}[A-Za-z]{2,18}"
_IN_BRACKETS = re.compile(r"[ \t]*[(\[]<?(?:https?://|www\.)[^()\[\]\s]*[)\]]")
_WEB = re.compile(
    rf"\b(?:https?|ftp)://(?:www\.)?({_HOST}|[^\s/?#<>]{{1,80}})(?::\d+)?([/?#][^\s<>\"”，。]*)?|\bwww\.({_HOST})([/?#][^\s<>\"”，。]*)?"
)
_MAIL = re.compile(rf"(?<![\w.+-])([\w](?:[\w.+-]{{0,62}}[\w])?)@({_HOST})(?![\w@])")
_DOMAINS = "com|org|net|edu|gov|mil|io|ai|co|info|biz|dev|app|tv|ly"
_DOMAIN = re.compile(
    rf"(?<![\w.@/\\-])((?:[A-Za-z0-9][\w-]{{0,40}}\.){{1,3}}(?:co|ac|gov|org|com)\.(?:uk|au|nz|za|jp|br|in)|(?:[A-Za-z0-9][\w-]{{0,40}}\.){{1,4}}(?:{_DOMAINS}))"
    r"(?![\w@-])((?:/[\w.~-]*[\w/])*)"
)
_EXTENSIONS = (
    "pdf|docx?|xlsx?|pptx?|txt|csv|tsv|json|ya?ml|xml|html?|css|jsx?|tsx?|py|ipynb|java|cpp|rb|rs|php|sh|bat|sql|md|log|ini|cfg"
    "|toml|jpe?g|png|gif|svg|bmp|webp|mp3|mp4|wav|flac|avi|mov|mkv|zip|tar|gz|rar|exe|dll|iso|apk|parquet|psd"
)
_FILE = re.compile(rf"(?<![\w@.\\-])((?:~?\.{{0,2}}/)?(?:[\w-]+/)*[\w-]+(?:\.[\w-]+)*)\.({_EXTENSIONS})(?![\w@/-])")
_BARE_EXTENSION = re.compile(rf"(?<![\w.])\.({_EXTENSIONS}|NET|com|org|net|edu|gov)\b(?!\.)")
_PATH = re.compile(r"(?<![\w.:/\\<])(~|\.{1,2})?((?:/[A-Za-z_][\w.-]*)+)(/(?!\w))?(?![\w/])")
_DRIVE = re.compile(r"\b([A-Z]):((?:\\[\w .-]*\w)+)\\?")
_EXTENSION_NAMES: Mapping[str, str] = MappingProxyType(
    {"jpg": "JPEG", "jpeg": "JPEG", "mp3": "MP3", "mp4": "MP4", "yml": "YAML", "yaml": "YAML"}
    | {e: e for e in ("py", "zip", "doc", "java", "md", "log", "exe", "tar", "bat", "com", "org", "net", "edu",
        "gov", "toml", "parquet")}
)  # fmt: skip
_SPELLED = frozenset({"uk", "io", "ai", "tv", "au", "nz", "za", "jp", "br", "ly"})
_INNER_DOT = re.compile(r"\.[A-Za-z]")
_MARKS: Mapping[str, str] = MappingProxyType({".": "dot", "/": "slash", "-": "dash", "_": "underscore",
    "~": "tilde", "+": "plus"})  # fmt: skip
_MARK = re.compile(r"[./_~+-]")
_TRAILING = ".,;:!?)]}'\"*"


def _read_out(address: str, *, dash: bool = True) -> str:
    """ "a-b.co/x" is "a dash b dot co slash x"."""
    said = _MARK.sub(lambda m: f" {_MARKS[m[0]]} " if dash or m[0] != "-" else "-", address)
    return " ".join(said.split())


def _host(name: str) -> str:
    parts = name.split(".")
    parts[1:] = [p.upper() if p in _SPELLED else p for p in parts[1:]]
    return _read_out(".".join(parts))


def _web(match: re.Match[str]) -> str:
    host, tail = match[1] or match[3], match[2] or match[4] or ""
    rest = ""
    while (tail if tail else host)[-1:] in _TRAILING and len(host) > 1:
        if tail:
            tail, rest = tail[:-1], tail[-1] + rest
        else:
            host, rest = host[:-1], host[-1] + rest
    return _host(host) + _tail(tail) + rest


def _tail(tail: str) -> str:
    tail = tail.rstrip("/")
    if not tail or len(tail) > _MAX_TAIL or not _FINE_TAIL.fullmatch(tail):
        return ""
    return " " + _read_out(tail)


def _file(match: re.Match[str]) -> str:
    extension = match[2]
    stem = match[1].replace("_", " ") if "/" not in match[1] else match[1]
    said = _read_out(stem, dash=False)
    return f"{said} dot {_EXTENSION_NAMES.get(extension, extension.upper())}"


def _extension(match: re.Match[str]) -> str:
    return f"dot {_EXTENSION_NAMES.get(match[1], match[1].upper())}"


def _path(match: re.Match[str]) -> str:
    start, path = match[1] or "", match[2]
    if not start and path.count("/") < 2:
        return match[0]
    return f"{_read_out(start)} {_read_out(path, dash=False)}".strip()


def say_addresses(text: str) -> str:
    """Web and mail addresses, domains, files and paths; of a long address only the host is said."""
    if "://" in text or "www." in text:
        text = _WEB.sub(_web, _IN_BRACKETS.sub("", text))
    if "@" in text:
        text = _MAIL.sub(lambda m: f"{_read_out(m[1])} at {_host(m[2])}", text)
    if "." in text and _INNER_DOT.search(text):
        text = _DOMAIN.sub(lambda m: _host(m[1]) + _tail(m[2]), text)
        text = _FILE.sub(_file, text)
        text = _BARE_EXTENSION.sub(_extension, text)
    if "/" in text:
        text = _PATH.sub(_path, text)
    if "\\" in text:
        text = _DRIVE.sub(lambda m: f"{m[1]} colon{m[2]}".replace("\\", " backslash "), text)
    return text


# -- phone numbers and other strings of digits

_PHONE = re.compile(
    r"(?<![\w.,$€£-])(?:(\d{1,2})[-. ])?(?:\((\d{3})\)[-. ]?|(\d{3})[-. ])(\d{3})[-. ](\d{4})(?![\w-]|[.,]\d)"
)
_ABROAD = re.compile(r"(?<![\w)+^])\+(\d{1,3}(?:[ -]\(?\d{1,5}\)?){2,5})(?![\w-])")
_LOCAL = re.compile(r"(?<![\d.,$€£-])(\d{3})-(\d{4})(?![\d-]|[.,]\d)")
_LETTERED = re.compile(r"\b1-(8)(?:00|88|77|66|55|44|33)-([A-Z]{3,}(?:-[A-Z]+)*)\b")
_EMERGENCY = re.compile(
    r"\b([Cc]all(?:ed|ing)?|[Dd]ial(?:ed|ing)?) (911|999|112|988|411|311)\b|\b(911|999|112)(?= (?:call"
    r"|operator|emergency|dispatch))"
)
_GROUPS = re.compile(r"(?<![\w-])\d{1,5}(?:-\d{1,7}){3,}(?![\w-])|(?<![\w-])\d{3}-\d{2}-\d{4}(?![\w-])")
_CARD = re.compile(r"(?<![\w.,])\d{4}(?: \d{4}){2,4}(?![\w.,]*\d)")
_SECRET = re.compile(
    r"\b(PIN|(?:[Zz]ip|ZIP|[Pp]ostal|[Aa]rea|[Pp]ass|[Ee]rror|[Aa]ccess|[Dd]oor)[ -]?[Cc]odes?|[Pp]ostcode"
    r"|[Pp]asscode|[Pp]assword|[Ee]xtension|[Ee]xt\."
    r"|[Aa]ccount(?: number)?|[Ss]erial number|[Oo]rder number|[Tt]racking number|[Cc]onfirmation number)"
    r"((?: is| number|:| #)? ?)(\d{3,12})\b(?![.,]?\d)(?! [a-z]+s\b)"
)
_IP = re.compile(r"(?<![\d.])(\d{1,3})\.(\d{1,3})\.(\d{1,3})\.(\d{1,3})(?![\d.]*\d)")
_BY_HUNDREDS = re.compile(
    r"\b([Ff]light|Boeing|Airbus|[Rr]oute|[Hh]ighway|[Hh]wy|[Ii]nterstate|[Rr]oom|[Ss]uite|[Aa]partment|[Aa]pt|Area|[Bb]us|[Tt]rain|Porsche|Unit)"
    r"( |\. | [A-Z]{2} )(\d{3,4})\b(?![.,]\d)"
)
_ISOTOPE = re.compile(r"(?<=[A-Z][a-z]{3})([a-z]*)-(\d{3})(?![\w.-])")
_DIGITS_WANTED = re.compile(r"\D+")

# -- versions and names with digits

_VERSION = re.compile(r"\bv(?:er)?\.? ?(\d+(?:\.\d+)*)\b|\bV(\d+(?:\.\d+)+)\b")
_SOFTWARE = re.compile(
    r"\b((?:[Vv]ersions?|[Rr]elease|Python|iOS|iPadOS|macOS|Android|Ubuntu|Debian|Fedora|Java|PHP|Ruby|Node|Chrome|Firefox|Windows"
    r"|Django|PyTorch|TensorFlow|CUDA|GCC|OpenSSL|Kubernetes|Postgres(?:QL)?|MySQL|Go|Rust|Swift|Kotlin|Bootstrap|Angular|React"
    r"|Unity|[Kk]ernel|Linux|Claude|Llama|Gemini|GPT|Minecraft)[ -])(\d{1,3}(?:\.\d{1,3})+)(?![\w.]*\d)"
)
_TO_NAMES = re.compile(r"\b(B2B|B2C|C2C|C2B|B2G|D2C|P2P|M2M|V2V|V2X|E2E|G2C|O2O)\b")
_FIXED: tuple[tuple[str, re.Pattern[str], str], ...] = (
    ("24/7", re.compile(r"\b24/7(?:/365)?\b"), "twenty-four seven"),
    ("9/11", re.compile(r"\b9/11\b(?!/)"), "nine eleven"),
    ("50/50", re.compile(r"\b50/50\b"), "fifty-fifty"),
    ("20/20", re.compile(r"\b20/20\b(?!/)"), "twenty twenty"),
    ("401", re.compile(r"\b401 ?(?:[kK]\b|\([kK]\))"), "four oh one K"),
    ("-12", re.compile(r"\bK-12\b"), "K through twelve"),
    ("-to-", re.compile(r"(?<=\d)-to-(?=\d)"), " to "),
    ("-in-", re.compile(r"(?<=\d)-in-(?=\d)"), " in "),
    ("-on-", re.compile(r"(?<=\d)-on-(?=\d)"), " on "),
    (" time", re.compile(r"\b(\d{1,2})/([248])(?= time\b)"), r"\1 \2"),
)


def _groups(text: str) -> str:
    return ", ".join(say_digits(part, "en") for part in _DIGITS_WANTED.split(text) if part)


def _local(match: re.Match[str]) -> str:
    """Seven digits are a phone number unless both groups are round: "500-1000 words"."""
    first, second = match.groups()
    if first[-1] == second[-1] == "0" and int(first) < int(second):
        return match[0]
    return _groups(match[0])


def _emergency(match: re.Match[str]) -> str:
    return f"{match[1]} {say_digits(match[2], 'en')}" if match[1] else say_digits(match[3], "en")


def _secret(match: re.Match[str]) -> str:
    name = match[1] if not match[1].lower().startswith("ext.") else "extension"
    return f"{name}{match[2].replace('#', 'number')}{say_digits(match[3], 'en')}"


def by_hundreds(number: str) -> str:
    """ "747" is "seven forty-seven", "101" is "one oh one", "1234" is "twelve thirty-four"."""
    head, tail = number[:-2], number[-2:]
    if len(number) < 3 or number[0] == "0":
        return say_cardinal(number, "en")
    if tail == "00":
        return say_cardinal(number, "en") if number[-3] == "0" else f"{say_cardinal(head, 'en')} hundred"
    last = f"oh {say_cardinal(tail[1], 'en')}" if tail[0] == "0" else say_cardinal(tail, "en")
    return f"{say_cardinal(head, 'en')} {last}"


def _ip(match: re.Match[str]) -> str:
    if max(map(int, match.groups())) > 255:
        return match[0]
    return " dot ".join(by_hundreds(part) for part in match.groups())


def _version(number: str) -> str:
    return " point ".join(say_cardinal(part, "en") for part in number.split("."))


def say_codes(text: str) -> str:
    """Phone numbers, versions and the like; the text has digits."""
    for needle, pattern, words in _FIXED:
        if needle in text:
            text = pattern.sub(words, text)
    if "+" in text:
        text = _ABROAD.sub(lambda m: f"plus {_groups(m[1])}", text)
    if "1-8" in text:
        text = _LETTERED.sub(lambda m: f"one eight {_TOLL_FREE[m[0][3:5]]} {m[2].replace('-', ' ')}", text)
    if "." in text:
        text = _IP.sub(_ip, text)
    text = _PHONE.sub(lambda m: _groups(m[0]), text)
    if "-" in text:
        text = _GROUPS.sub(lambda m: m[0] if _is_date(m[0]) else _groups(m[0]), text)
        text = _LOCAL.sub(_local, text)
    text = _CARD.sub(lambda m: _groups(m[0]), text)
    text = _EMERGENCY.sub(_emergency, text)
    text = _SECRET.sub(_secret, text)
    text = _BY_HUNDREDS.sub(lambda m: f"{m[1]}{m[2]}{by_hundreds(m[3])}", text)
    if "-" in text:
        text = _ISOTOPE.sub(lambda m: f"{m[1]} {by_hundreds(m[2])}", text)
    text = _TO_NAMES.sub(lambda m: m[0].replace("2", " to "), text)
    text = _VERSION.sub(lambda m: f"version {_version(m[1] or m[2])}", text)
    return _SOFTWARE.sub(lambda m: m[1].replace("-", " ") + _version(m[2]), text)


_TOLL_FREE = {"00": "hundred", "88": "eighty-eight", "77": "seventy-seven", "66": "sixty-six", "55": "fifty-five",
              "44": "forty-four", "33": "thirty-three"}  # fmt: skip


def _is_date(text: str) -> bool:
    parts = text.split("-")
    return len(parts) == 3 and len(parts[0]) == 4
