"""The dataset card: YAML that `datasets` reads for configs and splits, and what a reader wants to know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from duplexdata.config import fingerprint
from duplexdata.manifest import dropped_table
from duplexdata.voices.report import card_section, recording_licences

_CONFIG_NOTES = {
    "conversations": "the record of truth: texts, times, two-channel FLAC (left assistant, right user)",
    "codes": "speech tokens of both channels, and of the assistant's in the negative",
    "sft": "interleaved blocks with labels",
    "dpo": "preference pairs: the same words at worse times",
    "tdm": "time slices as chat messages (Duplex-UltraChat)",
    "duo": "turns with state tokens (DUO)",
}
_SPDX_ON_HUB = {
    "Apache-2.0": "apache-2.0",
    "MIT": "mit",
    "CC-BY-NC-4.0": "cc-by-nc-4.0",
    "CC-BY-4.0": "cc-by-4.0",
    "CC0-1.0": "cc0-1.0",
}


def dataset_card(name: str, manifest: Mapping[str, Any], configs: Sequence[str]) -> str:
    head: dict[str, Any] = {
        "license": _licence([*manifest["licences"], *recording_licences(manifest["voices"])]),
        "task_categories": ["text-to-speech", "audio-to-audio", "text-generation"],
        "language": sorted(manifest["statistics"]["languages"]),
        "tags": ["full-duplex", "turn-taking", "barge-in", "duplexdata"],
        "configs": [
            {
                "config_name": config,
                # `datasets` caches a local folder's rows under the folder's name and this head alone: without the
                # files' hash in it, another dataset of the same name, or this one built anew, would give old rows.
                "description": f"{_CONFIG_NOTES[config]} ({files_fingerprint(config, manifest['files'])})",
                **({"default": True} if config == configs[0] else {}),
                "data_files": [{"split": s, "path": f"{config}/{s}-*.parquet"} for s in ("train", "test")],
            }
            for config in configs
        ],
    }
    return (
        "---\n" + yaml.safe_dump(head, sort_keys=False, allow_unicode=True) + "---\n\n" + _body(name, manifest, configs)
    )


def files_fingerprint(config: str, files: Mapping[str, Mapping[str, Any]]) -> str:
    """Changes with any byte of a config's files."""
    return fingerprint(sorted((name, f["sha256"]) for name, f in files.items() if name.startswith(f"{config}/")))


def _licence(licences: Sequence[str]) -> str:
    """Of texts and recorded voices together."""
    return _SPDX_ON_HUB.get(licences[0], "other") if len(set(licences)) == 1 else "other"


def _body(name: str, manifest: Mapping[str, Any], configs: Sequence[str]) -> str:
    statistics = manifest["statistics"]
    parts = [
        f"# {name}",
        f"Conversations for voice models that listen while they speak: {statistics['hours']:.2f} hours on two "
        f"channels, made by {manifest['package']} (config {manifest['fingerprint']}, seed {manifest['seed']}).",
        "```python\nfrom datasets import load_dataset\n"
        f'rows = load_dataset("{name}", "{configs[0]}", split="train")\n```',
        "`duplexdata.load_audio(row)` gives both channels of a row of `conversations` as float32 (2, n): assistant, "
        "user. (Decoding the column through `datasets` averages the channels.)",
        "## Configs",
        _table(("config", "what it holds"), [(c, _CONFIG_NOTES[c]) for c in configs]),
        "## Scenarios",
        _table(("scenario", "conversations"), sorted(statistics["scenarios"].items())),
        "## Timing on the timeline",
        _table(
            ("quantity", "n", "mean s", "std s", "min s", "max s"),
            [
                (q, t["n"], t["mean_sec"], t["std_sec"], t["min_sec"], t["max_sec"])
                for q, t in statistics["timing"].items()
            ],
        ),
        f"Replies that start before any block that has heard their query could speak them (anticipatory): "
        f"{100 * statistics['anticipatory_share']:.2f} %.",
        "## What went in, and what was dropped",
        _table(("stage", "in", "out", "dropped"), dropped_table(manifest["stages"])),
    ]
    for title, key in (
        ("Scenarios that became another", "fallbacks"),
        ("Left out of conversations", "left_out"),
    ):
        if manifest[key]:
            parts.append(f"{title}: " + ", ".join(f"{k} {n}" for k, n in manifest[key].items()) + ".")
    if augment := manifest["config"].get("augment"):
        parts.append(_augmented(augment))
    if quality := statistics.get("quality"):
        parts += _quality(quality)
    if "writers" in manifest:
        columns = ("model", "prompt", "version", "temperature", "top_p", "max_tokens")
        rows = [(name, *(w.get(c, "-") for c in columns)) for name, w in manifest["writers"].items()]
        parts += ["## Texts by a language model", _table(("writer", *columns), rows)]
    parts += [
        "## Voices",
        *card_section(name, manifest),
        "## Writers",
        "Texts by: " + ", ".join(f"{w} {n}" for w, n in statistics["writers"].items()) + ".",
        "## Licences of the sources",
        _table(("licence", "conversations"), sorted(statistics["licences"].items())),
    ]
    return "\n\n".join(parts) + "\n"


def _augmented(augment: Mapping[str, Any]) -> str:
    """What was done to the user's channel, and how often; as configured."""
    gain, noise, room, echo, distractor = (augment[k] for k in ("gain", "noise", "room", "echo", "distractor"))
    source = f"of {noise['folder']}" if noise["folder"] is not None else "/".join(noise["kinds"])
    kinds = [
        (gain["share"], f"a gain of {_bounds(gain['db'])} dB"),
        (noise["share"], f"noise ({source}) at {_bounds(noise['snr_db'])} dB SNR"),
        (room["share"], f"a room with an RT60 of {_bounds(room['rt60_sec'])} s"),
        (
            echo["share"],
            f"the assistant's echo {_bounds(echo['delay_ms'])} ms late and {_bounds(echo['attenuation_db'])} dB down",
        ),
    ]
    done = [f"{what} ({100 * share:g} %)" for share, what in kinds if share > 0]
    done += [
        f"distractors {where} at {distractor[f'{key}_db']:g} dB ({100 * distractor[key]:g} % of them)"
        for key, where in (("side_talk", "as side talk"), ("background", "from the background"))
        if distractor[key] > 0
    ]
    return f"The user's channel was augmented (shares of the conversations): {'; '.join(done)}. See `augmentation`."


def _bounds(range_: Sequence[float]) -> str:
    low, high = range_
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def _quality(quality: Mapping[str, Any]) -> list[str]:
    """How many takes of utterances were good enough, and what was wrong with the others."""
    if not quality["takes"]:
        return []
    parts = [
        "## Quality of the speech",
        f"Of {quality['takes']} takes {quality['accepted']} passed every check ({100 * quality['yield']:.2f} %).",
    ]
    if quality["faults"]:
        parts.append(_table(("fault", "takes"), sorted(quality["faults"].items())))
        rows = [
            (voice, v["takes"], f"{100 * v['yield']:.1f} %", ", ".join(f"{k} {n}" for k, n in v["faults"].items()))
            for voice, v in quality["voices"].items()
        ]
        parts.append(_table(("voice", "takes", "yield", "faults"), rows))
    needed = {n: count for n, count in quality["attempts"].items() if n != "1"}
    if needed:
        parts.append("Utterances by takes needed: " + ", ".join(f"{n}: {c}" for n, c in needed.items()) + ".")
    if quality["recast"]:
        given_up = ", ".join(f"{voice} {n}" for voice, n in quality["recast"].items())
        parts.append(f"Conversations that were given another voice, by the voice given up: {given_up}.")
    return parts


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    lines += ["| " + " | ".join(map(str, row)) + " |" for row in rows]
    return "\n".join(lines)
