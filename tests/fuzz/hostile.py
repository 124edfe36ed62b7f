"""Files and texts that nobody would write on purpose, made by code."""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from hypothesis import strategies as st

ROW: dict[str, object] = {"id": "a", "data": ["Hi there", "Hello to you"]}
LINE = json.dumps(ROW).encode()
BIDI = "\u202e\u2066right to left\u2069\u202c"
EMOJI = "👩\u200d🚀🏳️\u200d🌈\U0001f9d1\U0001f3fd"

TEXTS: Mapping[str, str] = {
    "emoji": f"{EMOJI} {EMOJI}",
    "emoji and words": f"What a day {EMOJI}! Shall we go to the sea {EMOJI} tomorrow?",
    "arabic": "مرحبا، كيف حالك اليوم؟ أريد أن أتحدث عن الطقس.",
    "hebrew and english": "שלום, what does שלום mean in English?",
    "bidi controls": f"Please read {BIDI} aloud, and then stop.",
    "only punctuation": "?!… — «»\"'()[]{};:,." * 20,
    "one kind of bracket": "(" * 3000,
    "table bars": "|" * 3000,
    "fence": "```" * 1000,
    "zero width": "\u200b\u200c\u200d\ufeff" * 10,
    "combining": "e" + "\u0301" * 2000 + " is a letter",
    "ten thousand words": "word and another one, " * 5000,
    "one word of 60,000 letters": "a" * 60_000,
    "digits": "1234567890" * 500,
    "url": "https://example.org/" + "a/b?c=d&" * 800,
    "controls": "bell\x07 tab\t vertical\x0b form\x0c escape\x1b[31mred\x1b[0m done",
    "line separators": "one\u2028two\u2029three\x85four\rfive\r\nsix",
    "lone surrogate": "half \ud83d of a pair",
    "private use": "\ue000\uf8ff\U000f0000 nothing known",
    "noncharacter": "\ufffe\uffff\U0010ffff and so on",
    "mathematical": "𝓗𝓮𝓵𝓵𝓸 𝟙𝟚𝟛 ½ ² ⅷ ①",
    "chinese": "你好！今天的天气怎么样？我想出去走走，可是外面在下雨。",
    "thai": "สวัสดีครับ วันนี้อากาศเป็นอย่างไรบ้าง",
    "format marks": "{topic} {name} {0} {} %s %(x)s ${HOME} `id`",
    "markup": "<script>alert(1)</script> [x](javascript:y) # head\n* item\n> quote",
    "state tokens": "[ASSISTANT] <|im_end|> <s> [EPAD] </s> [SILENCE]",
    "spaces": " \u00a0\u2003 x \u3000 ",
}  # fmt: skip
IDS = (
    "../../etc/passwd",
    "a/b\\c",
    "..",
    ".",
    "a\x00b\n\r\x1b[2J",
    "\u202egnp.exe",
    EMOJI,
    "x" * 100_000,
    "",
    " ",
    "\u2028",
    "nul",
    "~2",
)


def broken_text_files() -> Iterator[tuple[str, bytes]]:
    """(name, content). Each is either refused whole, or gives a result for each of its rows."""
    text = LINE.decode()
    for encoding in ("utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-7"):
        yield f"{encoding}.jsonl", f"{text}\n{text}\n".encode(encoding)
    yield "latin-1.jsonl", '{"data": ["Größe", "ja"]}\n'.encode("latin-1") + LINE
    yield "bom.jsonl", b"\xef\xbb\xbf" + LINE + b"\n\xef\xbb\xbf" + LINE
    yield "overlong.jsonl", b'{"data": ["\xc0\xaf", "\xe0\x80\xaf"]}\n' + LINE
    yield "surrogates-in-utf8.jsonl", b'{"data": ["\xed\xa0\x80", "x"]}\n' + LINE
    yield "beyond-unicode.jsonl", b'{"data": ["\xf4\x90\x80\x80", "x"]}\n' + LINE
    yield "cut-character.jsonl", LINE + b'\n{"data": ["\xe4\xbd'
    yield "nuls.jsonl", LINE + b"\n" + b"\0" * 5000 + b"\n" + LINE.replace(b"Hi", b"H\0i")
    yield "escaped-nul.jsonl", LINE.replace(b"Hi", b"H\\u0000i")
    yield "nested.jsonl", b"[" * 100_000 + b"\n" + b'{"a":' * 100_000 + b"\n" + LINE
    yield "nested-closed.jsonl", b'{"data": ' + b"[" * 900 + b"]" * 900 + b"}\n" + LINE
    yield "nested.json", b"[" + b"[" * 100_000 + b"]" * 100_000 + b", " + LINE + b"]"
    yield "nested-open.json", b"[" + b"[{" * 200_000
    yield "huge-number.jsonl", b'{"id": ' + b"9" * 100_000 + b', "data": ["a", "b"]}\n' + LINE
    yield (
        "numbers.jsonl",
        b'{"id": NaN, "data": ["a", "b"]}\n{"data": [NaN, Infinity]}\n{"id": 1e999, "data": ["a", "b"]}',
    )
    yield "duplicate-keys.jsonl", b'{"data": ["a", "b"], "data": ["c", "d"]}\n' + LINE
    yield "duplicate-ids.jsonl", (LINE + b"\n") * 50
    yield "ids.jsonl", "\n".join(json.dumps({"id": i, "data": ["a", "b"]}) for i in (*IDS, *IDS)).encode()
    yield "crlf.jsonl", LINE + b"\r\n" + LINE + b"\r\n"
    yield "cr.jsonl", LINE + b"\r" + LINE + b"\r"
    yield "mixed-ends.jsonl", b"\r\n".join([LINE, LINE + b"\r" + LINE, LINE + b"\n\r" + LINE])
    yield "trailing-comma.json", b"[" + LINE + b"," + LINE + b",]"
    yield "trailing-comma.jsonl", LINE + b",\n" + LINE + b",\n"
    yield "comments.json", b"// rows\n[" + LINE + b"]"
    yield "two-arrays.json", b"[" + LINE + b"][" + LINE + b"]"
    yield "unclosed.json", b"[" + LINE + b', {"data": ["x'
    yield "quote-never-closed.json", b'["' + b"x" * 100_000
    yield "only-bracket.json", b"["
    yield "wrong-bracket.json", b"[" + LINE + b"}"
    yield "scalar.json", b"42"
    yield "null.jsonl", b"null\n" + LINE
    yield "empty.jsonl", b""
    yield "blank.jsonl", b" \r\n\t\n\x0b\x0c\n"
    yield "not-text.jsonl", bytes(range(256)) * 40
    whole = gzip.compress(LINE + b"\n" + LINE)
    yield "cut.jsonl.gz", whole[: len(whole) // 2]
    yield "no-gzip.jsonl.gz", LINE
    yield "empty.jsonl.gz", b""
    yield "garbage-behind.jsonl.gz", whole + b"garbage"
    yield "wrong-sum.jsonl.gz", whole[:-8] + b"\0\0\0\0" + whole[-4:]
    yield "two-members.jsonl.gz", gzip.compress(LINE + b"\n") + gzip.compress(LINE)


def gzip_of_zeros(path: Path, n: int) -> None:
    """A file that unpacks to `n` bytes, written without holding them."""
    gzip_of(path, lambda: (b"\0" * (1 << 20) for _ in range(n >> 20)))


def gzip_of(path: Path, pieces: Callable[[], Iterator[bytes]]) -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    with path.open("wb") as file:
        for piece in pieces():
            file.write(packer.compress(piece))
        file.write(packer.flush())


def long_line(path: Path, n: int) -> None:
    """A row, a line of `n` bytes, a row."""
    with path.open("wb") as file:
        file.write(LINE + b'\n{"data": ["')
        for _ in range(n >> 20):
            file.write(b"x" * (1 << 20))
        file.write(b'", "b"]}\n' + LINE)


def odd_places(folder: Path) -> Iterator[tuple[Path, str]]:
    """Paths that are no files to read, each with what its message must say."""
    pipe = folder / "pipe.jsonl"
    os.mkfifo(pipe)
    yield pipe, "no regular file"
    (folder / "pipe.parquet").unlink(missing_ok=True)
    os.mkfifo(folder / "pipe.parquet")
    yield folder / "pipe.parquet", "no regular file"
    loop = folder / "loop.jsonl"
    loop.symlink_to(loop)
    yield loop, "leads nowhere"
    nowhere = folder / "nowhere.jsonl"
    nowhere.symlink_to(folder / "not-there")
    yield nowhere, "leads nowhere"
    (folder / "empty-folder.jsonl").mkdir()
    yield folder / "empty-folder.jsonl", "in this folder"
    round_ = folder / "round"
    round_.mkdir()
    (round_ / "again").symlink_to(round_)
    yield round_, "in this folder"
    yield Path("/dev/zero"), "no regular file"
    yield folder / ("n" * 300 + ".jsonl"), "no such file"
    yield Path(f"{folder}/a\0b.jsonl"), "no such file"
    yield Path(f"{folder}/\ud800.jsonl"), "no such file"


# --- strategies ---------------------------------------------------------------------------------------------

ANY_TEXT = st.text(st.characters(), max_size=30) | st.sampled_from([*IDS, *(t[:200] for t in TEXTS.values())])
"""Lone halves of surrogate pairs too."""
ANY_VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.integers(-(10**300), 10**300) | st.floats() | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(ANY_TEXT, inner, max_size=4),
    max_leaves=8,
)


@st.composite
def spoilt(draw: st.DrawFn, whole: bytes) -> bytes:
    """`whole` with pieces taken out, doubled, overwritten or turned around."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        n = draw(st.integers(0, 12))
        kind = draw(st.sampled_from(("cut", "insert", "double", "flip", "end")))
        if kind == "cut":
            del data[at : at + n]
        elif kind == "insert":
            pieces = [
                b'"',
                b"\\",
                b"[",
                b"{",
                b"]",
                b"}",
                b",",
                b"\n",
                b"\r",
                b"\0",
                b"\xff",
                b"\xef\xbb\xbf",
                b"\xed\xa0\x80",
            ]
            data[at:at] = draw(st.sampled_from(pieces) | st.binary(max_size=n))
        elif kind == "double":
            data[at:at] = data[at : at + n]
        elif kind == "flip" and at < len(data):
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "end":
            del data[at:]
    return bytes(data)
