"""What a dataset says of its voices: a table in the manifest, shares in its statistics, a section on its card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from duplexdata.units import to_seconds
from duplexdata.voices.bank import NOT_A_RECORDING, VoiceBank

SHARED_BY = ("sex", "accent", "language", "licence")
NOT_STATED = "not stated"
_MOST_ROWS = 20
_NAMED = 100


def voice_table(bank: VoiceBank, speech: Mapping[str, int]) -> list[dict[str, Any]]:
    """A row for each voice that is heard, by id. `share` is of all speech of its role.

    Args:
        speech: samples by voice.
    """
    roles = {v.id: "assistant" if v.id == bank.assistant.id else "user" for v in bank}
    totals = {role: sum(n for v, n in speech.items() if roles[v] == role) for role in ("user", "assistant")}
    return [
        {
            "id": v.id,
            "role": roles[v.id],
            "split": v.split,
            "speaker": v.speaker,
            "sex": v.sex,
            "accent": v.accent,
            "language": v.language,
            "licence": v.licence,
            "consent": v.consent,
            "source": v.source,
            "prompt_sha256": v.voice.prompt.sha256 if v.voice.prompt is not None else "",
            "seconds": round(to_seconds(speech[v.id]), 2),
            "share": round(speech[v.id] / max(1, totals[roles[v.id]]), 6),
        }
        for v in sorted(bank, key=lambda v: v.id)
        if v.id in speech
    ]


def shares(table: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, dict[str, float]]]:
    """Of what users say: voices, seconds and the share of them by sex, accent, language and licence."""
    users = [row for row in table if row["role"] == "user"]
    total = sum(row["seconds"] for row in users)
    found: dict[str, dict[str, dict[str, float]]] = {}
    for key in SHARED_BY:
        groups: dict[str, list[float]] = {}
        for row in users:
            groups.setdefault(row[key] or NOT_STATED, []).append(row["seconds"])
        found[key] = {
            name: {
                "voices": len(seconds),
                "seconds": round(sum(seconds), 2),
                "share": round(sum(seconds) / total, 6) if total else 0.0,
            }
            for name, seconds in sorted(groups.items())
        }
    return found


def refused_names(bank: VoiceBank) -> list[str]:
    """What was refused and why, the first of many."""
    return [str(r) for r in bank.refused[:_NAMED]]


def recording_licences(table: Sequence[Mapping[str, Any]]) -> list[str]:
    """Licences of the recordings that voices were cloned from; "unknown" where one is not stated."""
    return sorted({row["licence"] or "unknown" for row in table if row["licence"] != NOT_A_RECORDING})


# -- the card


def card_section(name: str, manifest: Mapping[str, Any]) -> list[str]:
    """Paragraphs of Markdown."""
    table = manifest["voices"]
    users = [row for row in table if row["role"] == "user"]
    by = manifest["statistics"]["voices"]["users"]
    parts = [
        f"{len(users)} users and one assistant; users of train and test are different speakers. What they say, "
        "in shares of all that users say:",
    ]
    parts += [_shares_table(key, by[key]) for key in ("sex", "accent")]
    ranked = sorted(users, key=lambda row: (-row["seconds"], row["id"]))
    shown = ranked if len(ranked) <= _MOST_ROWS else ranked[: _MOST_ROWS // 2] + ranked[-(_MOST_ROWS // 2) :]
    rows = [_voice_row(row) for row in [*(r for r in table if r["role"] == "assistant"), *shown]]
    if len(ranked) > _MOST_ROWS:
        rows.insert(1 + _MOST_ROWS // 2, ["…"] * len(rows[0]))
    head = ("voice", "role", "split", "sex", "accent", "licence", "seconds", "share of its role %")
    parts.append(_table(head, rows))
    if len(ranked) > _MOST_ROWS:
        parts.append(f"The {_MOST_ROWS // 2} users who say the most and the least; `voices` in manifest.json has all.")
    if manifest["refused_voices"]:
        n = next(sum(s["dropped"].values()) for s in manifest["stages"] if s["stage"] == "voices")
        parts.append(f"{n} entries of the voice bank were refused; manifest.json says why (`refused_voices`).")
    return [*parts, "## Licences of the voices", *_licences(name, table)]


def _licences(name: str, table: Sequence[Mapping[str, Any]]) -> list[str]:
    if not table:
        return ["No voice is heard."]
    groups: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for row in table:
        key = (row["licence"] or NOT_STATED, row["consent"] or NOT_STATED, row["source"] or NOT_STATED)
        groups.setdefault(key, []).append(row)
    rows = [[*key, len(g), round(sum(r["seconds"] for r in g), 2)] for key, g in sorted(groups.items())]
    return [
        _table(("licence", "consent", "source", "voices", "seconds"), rows),
        "Each utterance names its voice, and `voices` in manifest.json that voice's licence. To keep only "
        "conversations in which nobody with another licence is heard:",
        "```python\nimport json\nfrom datasets import load_dataset\n"
        f'voices = json.load(open("{name}/manifest.json"))["voices"]\n'
        f'allowed = {{v["id"] for v in voices if v["licence"] in {{{rows[0][0]!r}}}}}\n'
        f'rows = load_dataset("{name}", "conversations", split="train")\n'
        'rows = rows.filter(lambda said: allowed >= {u["voice"] for u in said}, input_columns=["utterances"])\n```',
        "The other configs have the same ids: keep the rows whose `id` is left in `rows`.",
    ]


def _shares_table(key: str, groups: Mapping[str, Mapping[str, float]]) -> str:
    rows = [[g, x["voices"], x["seconds"], f"{100 * x['share']:.1f}"] for g, x in groups.items()]
    return _table((key, "voices", "seconds", "share %"), rows)


def _voice_row(row: Mapping[str, Any]) -> list[object]:
    stated = [row[key] or NOT_STATED for key in ("sex", "accent", "licence")]
    return [row["id"], row["role"], row["split"], *stated, row["seconds"], f"{100 * row['share']:.2f}"]


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    def cell(value: object) -> str:
        return str(value).replace("|", "\\|").replace("\n", " ")

    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(map(cell, row)) + " |" for row in rows)])
