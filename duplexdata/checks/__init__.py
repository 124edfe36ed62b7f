"""What must hold for a row of a dataset: value -> findings. Slow, plain formulas, written from the definitions.

Nothing here is used to make a dataset, and nothing that makes one is used here: the text channel is derived again
with fractions of seconds, the negative's timeline from the recorded gaps, the sound from an energy detector. A check
yields a `Finding` for whatever it does not find as it must be; it raises nothing for a well-typed row.
"""

from __future__ import annotations

from duplexdata.checks.augmentation import check_augmentation
from duplexdata.checks.channel import TextChannel, slots_of, text_channel
from duplexdata.checks.codes import check_codes, check_encoding, late_spans
from duplexdata.checks.duo import Duo, check_duo
from duplexdata.checks.finding import (
    IGNORED,
    Decode,
    Finding,
    Ids,
    Int16,
    Int32,
    Late,
    Record,
    Said,
    Settings,
    Text,
    Tokens,
    Word,
    samples_of,
)
from duplexdata.checks.interleaved import Interleaved, Pair, check_pair, check_sft
from duplexdata.checks.record import check_record, record_of
from duplexdata.checks.sound import check_sound
from duplexdata.checks.sums import Sums
from duplexdata.checks.tdm import check_tdm

__all__ = [
    "IGNORED",
    "Decode",
    "Duo",
    "Finding",
    "Ids",
    "Int16",
    "Int32",
    "Interleaved",
    "Late",
    "Pair",
    "Record",
    "Said",
    "Settings",
    "Sums",
    "Text",
    "TextChannel",
    "Tokens",
    "Word",
    "check_augmentation",
    "check_codes",
    "check_duo",
    "check_encoding",
    "check_pair",
    "check_record",
    "check_sft",
    "check_sound",
    "check_tdm",
    "late_spans",
    "record_of",
    "samples_of",
    "slots_of",
    "text_channel",
]
