"""A conversation whose speaker cannot be synthesized well enough gets another one."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from duplexdata.dialogue import Script
from duplexdata.rng import rng_for
from duplexdata.speech.base import Voice


def recast(
    script: Script, refused: str, voices: Mapping[str, Voice], given_up: Collection[str], seed: int
) -> Script | None:
    """The script with another voice of the same split for everything that `refused` says.

    Args:
        voices: the bank, by id.
        given_up: voices that were tried for this conversation before.

    Returns: None where no voice is left, or where the assistant is refused: it has one voice in all conversations.
    """
    if refused == script.assistant_voice:
        return None
    heard = {script.assistant_voice, *(u.voice for u in script.utterances)}
    split = voices[refused].split
    left = sorted(v.id for v in voices.values() if v.split == split and v.id not in heard and v.id not in given_up)
    if not left:
        return None
    rng = rng_for(seed, script.id, f"recast/{refused}/{len(given_up)}")
    new = left[int(rng.integers(len(left)))]
    return replace(
        script,
        user_voice=new if script.user_voice == refused else script.user_voice,
        utterances=tuple(replace(u, voice=new) if u.voice == refused else u for u in script.utterances),
    )
