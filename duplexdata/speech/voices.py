"""The embedded voice bank: speakers for espeak-ng, and one assistant that no user sounds like."""

from __future__ import annotations

from duplexdata.rng import stable_hash
from duplexdata.speech.base import Voice

ACCENTS = (
    "en-us",
    "en",
    "en-gb-scotland",
    "en-gb-x-rp",
    "en-029",
    "en-gb-x-gbclan",
    "en-gb-x-gbcwmd",
    "en-us-nyc",
)
"""Accents of English that espeak-ng has (en-us: General American; en: British; en-029: Caribbean)."""

VARIANTS = (
    *("f1", "m1", "f3", "m2", "f4", "m3", "f5", "m4", "m5", "m6", "m7", "m8"),
    *(
        "Andrea",
        "Lee",
        "belinda",
        "Mario",
        "linda",
        "Michael",
        "steph",
        "edward",
        "anika",
        "john",
        "shelby",
        "paul",
    ),
)
"""espeak-ng's speaker variants in use. Left out: whispers, robots and effects, and those that clip."""

ASSISTANT_VARIANT = "f2"
FEMALE_VARIANTS = frozenset({"f1", "f2", "f3", "f4", "f5", "Andrea", "belinda", "linda", "steph", "anika", "shelby"})
"""The others are male."""
_PER_ACCENT = 8
_TEST_EVERY = 5


def assistant_voice() -> Voice:
    """The one that speaks every reply; its variant is no user's."""
    settings = {"accent": "en-us", "variant": ASSISTANT_VARIANT, "rate": "155", "pitch": "50", "range": "50"}
    return Voice("assistant", "both", tuple(settings.items()))


def user_voices() -> tuple[Voice, ...]:
    """64 speakers: 8 accents with 8 variants each; pitch, range and rate follow from the id.

    Every fifth speaker belongs to `test`, in all accents and both sexes. Pitch and range stay in the middle of
    espeak-ng's scale and the rate within 145 to 195 words a minute: the band that sounds like a person.
    """
    voices: list[Voice] = []
    for a, accent in enumerate(ACCENTS):
        for k in range(_PER_ACCENT):
            variant = VARIANTS[(a * 5 + k * 3) % len(VARIANTS)]
            id_ = f"{accent}-{variant.lower()}"
            settings = {
                "accent": accent,
                "variant": variant,
                "rate": str(145 + stable_hash(id_, "rate") % 51),
                "pitch": str(35 + stable_hash(id_, "pitch") % 31),
                "range": str(40 + stable_hash(id_, "range") % 31),
            }
            split = "test" if len(voices) % _TEST_EVERY == _TEST_EVERY - 1 else "train"
            voices.append(Voice(id_, split, tuple(settings.items())))
    return tuple(voices)
