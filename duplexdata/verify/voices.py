"""The manifest's table of voices, against those that the rows are spoken by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from typing import Any

from duplexdata.checks import Finding
from duplexdata.units import SAMPLE_RATE
from duplexdata.voices.report import shares

_RULE = "voices"
_WITHIN_SEC, _WITHIN_SHARE = 0.01, 1e-5


def check_voices(
    manifest: Mapping[str, Any], speech: Mapping[str, int], users: Mapping[str, Set[str]]
) -> Iterator[Finding]:
    """
    Args:
        speech: samples by voice, counted from the rows.
        users: the voices of the user's channel, by split.
    """
    try:
        table = {row["id"]: row for row in manifest["voices"]}
        yield from _check_table(table, speech, users)
        if len(table) < len(manifest["voices"]):
            yield Finding(_RULE, "a voice stands in the table twice")
        if manifest["statistics"]["voices"]["users"] != shares(list(table.values())):
            yield Finding(_RULE, "statistics.voices.users are not the sums of the table")
    except (KeyError, TypeError, AttributeError) as error:
        yield Finding(_RULE, f"the table of voices cannot be read ({type(error).__name__}: {error})")


def _check_table(
    table: Mapping[str, Mapping[str, Any]], speech: Mapping[str, int], users: Mapping[str, Set[str]]
) -> Iterator[Finding]:
    for id_ in sorted(set(table) ^ set(speech)):
        yield Finding(_RULE, f"{id_} is {'not heard' if id_ in table else 'heard and not in the table'}")
    totals = dict.fromkeys(("user", "assistant"), 0)
    for id_, row in table.items():
        totals[row["role"]] += speech.get(id_, 0)
    of_speaker: dict[str, str] = {}
    for id_, row in sorted(table.items()):
        split = next((s for s, voices in users.items() if id_ in voices), None)
        stated = row["split"] if row["role"] == "user" else None
        if stated != split:
            yield Finding(_RULE, f"{id_} is a {row['role']} of {row['split']}, as a user it is heard in {split}")
        if of_speaker.setdefault(row["speaker"], row["split"]) != row["split"]:
            yield Finding(_RULE, f"{id_}: its speaker {row['speaker']} is in {of_speaker[row['speaker']]} too")
        samples = speech.get(id_, 0)
        seconds, share = samples / SAMPLE_RATE, samples / max(1, totals[row["role"]])
        if abs(row["seconds"] - seconds) > _WITHIN_SEC or abs(row["share"] - share) > _WITHIN_SHARE:
            found = f"{row['seconds']} s, a share of {row['share']}"
            yield Finding(_RULE, f"{id_}: {found}; the rows give {seconds:.2f} s, {share:.6f}")
