"""A conversation whose speaker cannot be synthesized well enough gets another one."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from duplexdata.dialogue import Script
from duplexdata.rng import rng_for


def recast(
    script: Script, refused: str, candidates: Sequence[str], given_up: Collection[str], seed: int
) -> Script | None:
    """The script with another voice for everything that `refused` says.

    Args:
        candidates: voices of the same split that speak the language.
        given_up: voices that were tried for this conversation before.

    Returns: None where no voice is left, or where the assistant is refused: it has one voice in all conversations.
    """
    if refused == script.assistant_voice:
        return None
    heard = {script.assistant_voice, *(u.voice for u in script.utterances)}
    left = sorted(v for v in candidates if v not in heard and v not in given_up)
    if not left:
        return None
    rng = rng_for(seed, script.id, f"recast/{refused}/{len(given_up)}")
    new = left[int(rng.integers(len(left)))]
    return replace(
        script,
        user_voice=new if script.user_voice == refused else script.user_voice,
        utterances=tuple(replace(u, voice=new) if u.voice == refused else u for u in script.utterances),
    )
