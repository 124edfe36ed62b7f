"""espeak-ng's speakers as a bank."""

from __future__ import annotations

from duplexdata.speech.base import Voice
from duplexdata.speech.voices import FEMALE_VARIANTS, assistant_voice, user_voices
from duplexdata.voices.bank import ANY_LANGUAGE, NOT_A_RECORDING, BankVoice


def embedded_voices() -> list[BankVoice]:
    """64 users and the assistant. In languages other than English an accent changes nothing, a variant does."""
    return [_entry(v) for v in (*user_voices(), assistant_voice())]


def _entry(voice: Voice) -> BankVoice:
    return BankVoice(
        voice=voice,
        speaker=voice.id,
        language=ANY_LANGUAGE,
        sex="female" if voice.setting("variant") in FEMALE_VARIANTS else "male",
        accent=voice.setting("accent"),
        licence=NOT_A_RECORDING,
        consent=NOT_A_RECORDING,
        source="espeak-ng",
    )
