"""What a speech server's answer is worth: sound, or a fault and how to react to it. No network here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from enum import Enum

from duplexdata.speech.base import Speech
from duplexdata.speech.wav import read_wav


class Reaction(Enum):
    RETRY = "retry"
    """The same may work again."""
    WAIT = "wait"
    """The server is busy: again, later; no attempt is used up."""
    ELSEWHERE = "elsewhere"
    """The server is gone: another one, or the same when it is back; no attempt is used up."""
    GIVE_UP = "give up"
    """The request is wrong, and stays so."""
    STOP = "stop"
    """Every request would fail so: what was configured is wrong."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Attributes:
    kind: what it is counted under.
    reason: for the user, a line.
    wait_sec: how long the server wants to be left alone.
    """

    kind: str
    reason: str
    reaction: Reaction = Reaction.RETRY
    wait_sec: float = 0.0


_LONGEST_WAIT_SEC = 60.0
_LONGEST_REASON = 160


def judge(status: int, headers: Mapping[str, str], body: bytes, sample_rate: int, now: float) -> Speech | Fault:
    """An answer that arrived whole.

    Args:
        headers: names in lower case.
        sample_rate: Hz, that the sound should have.
        now: seconds since 1970, for dates in `Retry-After`.
    """
    if status != 200:
        return _refusal(status, headers, body, now)
    if not body:
        return Fault("empty_body", "an empty body with status 200")
    kind = headers.get("content-type", "").split(";")[0].strip().lower()
    if kind.startswith("application/json") or body[:1] == b"{":
        return Fault("json_error", f"an error with status 200: {reason_in(body)}")
    try:
        samples, rate = read_wav(body)
    except ValueError as error:
        return Fault("bad_wav", f"{error} in a body of {len(body)} bytes")
    if rate != sample_rate:
        return Fault("wrong_rate", f"sound at {rate} Hz, expected {sample_rate} (speech.sample_rate)")
    return Speech(samples, rate, None)


def _refusal(status: int, headers: Mapping[str, str], body: bytes, now: float) -> Fault:
    reason = f"status {status}: {reason_in(body)}"
    wait_sec = retry_after(headers.get("retry-after", ""), now)
    if status == 429:
        return Fault("busy", reason, Reaction.WAIT, wait_sec)
    if status in (400, 413, 422):
        return Fault("refused", reason, Reaction.GIVE_UP)
    if status in (401, 403):
        return Fault("unauthorized", f"{reason} (speech.api_key_env names the key's variable)", Reaction.STOP)
    if status in (404, 405, 501):
        return Fault("no_such_endpoint", reason, Reaction.STOP)
    if 300 <= status < 400:
        return Fault("redirected", f"{reason} (speech.servers must hold the address itself)", Reaction.STOP)
    return Fault("server_error", reason, wait_sec=wait_sec)


def retry_after(value: str, now: float) -> float:
    """Seconds, of a number or a date; at most a minute; 0 where there is none."""
    value = value.strip()
    if not value:
        return 0.0
    try:
        seconds = float(value) if value[0].isdigit() else parsedate_to_datetime(value).timestamp() - now
    except (ValueError, TypeError, OverflowError):
        return 0.0
    return min(max(seconds, 0.0), _LONGEST_WAIT_SEC)


def reason_in(body: bytes) -> str:
    """What an error's body says, one short line: `error.message`, `detail` or the text itself."""
    text = body[:4000].decode("utf-8", "replace")
    try:
        found = json.loads(body)
    except ValueError:
        found = text
    for key in ("error", "message", "detail"):
        if isinstance(found, dict) and found.get(key):
            found = found[key]
    line = " ".join((found if isinstance(found, str) else json.dumps(found)).split()) or "no reason given"
    return line if len(line) <= _LONGEST_REASON else line[: _LONGEST_REASON - 1] + "…"
