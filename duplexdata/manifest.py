"""`manifest.json`: what was made from what, by what, and what was dropped. No clock times, host names or paths."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from duplexdata import __version__
from duplexdata.errors import DatasetError
from duplexdata.files import open_regular
from duplexdata.names import lies_inside
from duplexdata.shards import FileFacts
from duplexdata.speech.gate import Tally
from duplexdata.stages.plan import Plan, published
from duplexdata.stages.statistics import Statistics
from duplexdata.stages.work import Counts, Marker, sum_counts
from duplexdata.voices.bank import VoiceBank
from duplexdata.voices.report import refused_names, shares, voice_table
from duplexdata.writer.usage import Tally as UsageTally

FORMAT = 1
NAME = "manifest.json"


@dataclass(frozen=True, slots=True)
class Markers:
    """What the stages of a build left behind, shard by shard in order."""

    ingest: Marker
    scripts: Sequence[Marker]
    speech: Sequence[Marker]
    codes: Sequence[Marker]
    layouts: Sequence[Marker]


def build_manifest(
    plan: Plan, markers: Markers, files: Mapping[str, FileFacts], vocabulary: Mapping[str, object]
) -> dict[str, Any]:
    statistics = Statistics()
    quality = Tally()
    left_out: Counter[str] = Counter()
    fallbacks: Counter[str] = Counter()
    tokens: Counter[str] = Counter()
    for marker in markers.speech:
        statistics.merge(Statistics.from_dict(_mapping(marker.facts["statistics"])))
        left_out.update(_mapping(marker.facts["left_out"]))
        quality.merge(Tally.from_dict(_mapping(marker.facts["quality"])))
    for marker in markers.scripts:
        fallbacks.update(_mapping(marker.facts["fallbacks"]))
    for marker in markers.layouts:
        tokens.update(_mapping(marker.facts["tokens"]))
    stages = [markers.ingest, *markers.scripts, *markers.speech, *markers.codes, *markers.layouts]
    codec = markers.codes[0].facts if markers.codes else None
    voices = voice_table(plan.bank, statistics.speech)
    summary = statistics.summary()
    summary["voices"]["users"] = shares(voices)
    return {
        "format": FORMAT,
        "package": f"duplexdata {__version__}",
        "fingerprint": plan.config_fingerprint,
        "seed": plan.config.seed,
        "config": published(plan.config),
        "made_by": dict(plan.made_by),
        # The blocks that conversations were made a whole number of; `config` may be that of a later emission.
        "scheduled_for": {"n_speech": plan.config.layout.n_speech, "n_text": plan.config.layout.n_text},
        "backends": {
            "synthesizer": plan.synthesizer,
            "speech_tokenizer": _mapping(codec["codec"]) if codec else None,
            "prompt_version": plan.prompt_version,
        },
        "clock": _mapping(codec["clock"]) if codec else None,
        "vocabulary": dict(vocabulary),
        "files": {name: asdict(facts) for name, facts in sorted(files.items())},
        "stages": [asdict(c) for c in sum_counts([_voice_counts(plan.bank), *(c for m in stages for c in m.counts)])],
        "rejected_examples": markers.ingest.facts.get("rejected", []),
        "fallbacks": dict(sorted(fallbacks.items())),
        **_writing(plan, markers),
        "left_out": dict(sorted(left_out.items())),
        "statistics": {**summary, "quality": quality.summary()},
        "tokens": dict(sorted(tokens.items())),
        "licences": sorted(statistics.counters["licences"]),
        "voices": voices,
        "refused_voices": refused_names(plan.bank),
    }


def _voice_counts(bank: VoiceBank) -> Counts:
    dropped = Counter(r.fault.reason for r in bank.refused)
    used = sum(1 for _ in bank)
    return Counts("voices", used + dropped.total(), used, dict(sorted(dropped.items())))


def _writing(plan: Plan, markers: Markers) -> dict[str, Any]:
    """Who wrote (by what stands in an utterance's `writer`), and what their replies took; {} without a model.

    Usage is that of the replies in this dataset, and the cost what they cost where none is known yet: the same however
    many of them were.
    """
    if plan.config.writer.model is None:
        return {}
    tally, writers = UsageTally(), {}
    for marker in markers.scripts:
        facts = _mapping(marker.facts["writing"])
        writers.update(_mapping(facts["writers"]))
        tally.merge(_mapping(facts["usage"]))
    return {
        "writers": dict(sorted(writers.items())),
        "writing": {"usage": tally.facts(), "nominal_usd": tally.nominal_usd(plan.config.writer)},
    }


class Said(dict[str, Any]):
    """What a manifest says. Asking for a part that it lacks raises DatasetError."""

    where = NAME

    def __missing__(self, key: str) -> Any:
        raise DatasetError(f"{self.where} lacks {key!r}: it is damaged, or of another version of duplexdata")


def read_manifest(dataset: Path) -> dict[str, Any]:
    """Raises DatasetError: there is none, or it is no JSON of ours."""
    path = dataset / NAME
    try:
        with open_regular(path) as file:
            text = file.read().decode("utf-8")
    except FileNotFoundError:
        raise DatasetError(
            f"{dataset} has no {NAME}: it is no dataset of duplexdata, or its build is not finished "
            "(run the same `duplexdata build` again to resume it)"
        ) from None
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path} cannot be read: {error}") from error
    return parse_manifest(text, str(path))


def parse_manifest(text: str, where: str) -> dict[str, Any]:
    """Raises DatasetError: it is no JSON of ours, or names files outside. `where` it stands is for the message."""
    try:
        manifest = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{where} cannot be read: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT or "files" not in manifest:
        raise DatasetError(f"{where} is no manifest of format {FORMAT}")
    for key, kind in _KINDS.items():
        if not isinstance(manifest.get(key, kind()), kind):
            raise DatasetError(f"{where}: {key} is a {type(manifest[key]).__name__}, expected a {kind.__name__}")
    for name, facts in manifest["files"].items():
        if not lies_inside(name):
            raise DatasetError(f"{where}: files: {name[:200]!r} lies outside the dataset")
        if not is_facts(facts):
            raise DatasetError(f"{where}: files: {name[:200]!r}: expected its rows, bytes and sha256")
    for counts in manifest.get("stages", []):
        if not _is_counts(counts):
            raise DatasetError(f"{where}: stages: expected the items in and out of each, and those dropped by reason")
    said = Said(manifest)
    said.where = where
    return said


_KINDS: Mapping[str, type] = {
    "fingerprint": str, "seed": int, "config": dict, "made_by": dict, "backends": dict, "vocabulary": dict,
    "files": dict, "stages": list, "statistics": dict, "rejected_examples": list, "voices": list,
}  # fmt: skip


def _is_counts(value: object) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("stage"), str):
        return False
    dropped = value.get("dropped")
    numbers = [
        value.get("items_in"),
        value.get("items_out"),
        *(dropped.values() if isinstance(dropped, dict) else [None]),
    ]
    return all(isinstance(n, int) for n in numbers)


def is_facts(value: object) -> bool:
    """Whether a value says of a file what a manifest says of it."""
    kinds = {"rows": int, "bytes": int, "sha256": str}
    return isinstance(value, dict) and {k: type(v) for k, v in value.items()} == kinds


def dropped_table(stages: Sequence[Mapping[str, Any]]) -> list[tuple[str, int, int, str]]:
    """(stage, in, out, dropped by reason) for people."""
    return [
        (
            s["stage"],
            s["items_in"],
            s["items_out"],
            ", ".join(f"{reason} {n}" for reason, n in sorted(s["dropped"].items())) or "-",
        )
        for s in stages
    ]


def _mapping(value: object) -> dict[str, Any]:
    assert isinstance(value, dict)
    return value


__all__ = ["NAME", "Markers", "build_manifest", "dropped_table", "is_facts", "parse_manifest", "read_manifest"]
