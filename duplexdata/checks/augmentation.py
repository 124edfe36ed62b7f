"""What a row says was done to its user's channel."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from duplexdata.augment.config import AugmentConfig, Range
from duplexdata.checks.finding import Finding, Record, Settings, name_of

_RULE = "augmentation"


def check_augmentation(record: Record, settings: Settings) -> Iterator[Finding]:
    """Kinds that are configured and no others, their values inside the configured bounds."""
    found, config = record.augmentation, settings.augment
    if config is None or not config.on:
        if found is not None:
            yield Finding(_RULE, "is there, though the manifest configures none")
        return
    values: Mapping[str, Any] = found or {}
    shares = {n: getattr(config, n).share for n in ("gain", "room", "echo", "noise")}
    for name, share in shares.items():
        there = values.get("gain_db" if name == "gain" else name) is not None
        if there and not share > 0:
            yield Finding(_RULE, f"{name} is there, and its share is 0")
        elif not there and share >= 1:
            yield Finding(_RULE, f"{name} is not there, and its share is 1")
    if found is None:
        return
    yield from _check_ranges(values, config)
    if values["noise"] is not None:
        yield from _check_noise(values["noise"], config)
    yield from _check_distances(record, values["distractors"], config)
    if not (math.isfinite(values["scale_db"]) and values["scale_db"] <= 0):
        yield Finding(_RULE, f"scale_db is {values['scale_db']}, expected 0 or less")


def _check_ranges(values: Mapping[str, Any], config: AugmentConfig) -> Iterator[Finding]:
    if values["gain_db"] is not None:
        yield from _inside("gain_db", values["gain_db"], config.gain.db)
    bounds: dict[str, dict[str, Range]] = {
        "room": {"rt60_sec": config.room.rt60_sec, "drr_db": config.room.drr_db},
        "echo": {"delay_ms": config.echo.delay_ms, "attenuation_db": config.echo.attenuation_db},
        "noise": {"snr_db": config.noise.snr_db},
    }
    for kind, ranges in bounds.items():
        for name, range_ in ranges.items() if values[kind] is not None else ():
            yield from _inside(f"{kind}.{name}", values[kind][name], range_)


def _inside(name: str, value: float, bounds: Range) -> Iterator[Finding]:
    if not bounds[0] <= value <= bounds[1]:
        yield Finding(_RULE, f"{name} is {value}, expected {bounds[0]} to {bounds[1]}")


def _check_noise(noise: Mapping[str, Any], config: AugmentConfig) -> Iterator[Finding]:
    if config.noise.folder is not None:
        if noise["kind"] != "file" or not noise["file"] or noise["offset_sec"] is None or noise["offset_sec"] < 0:
            yield Finding(_RULE, f"noise is {dict(noise)}, expected a place in a file of {config.noise.folder}")
    elif noise["kind"] not in config.noise.kinds or noise["seed"] is None or noise["file"] is not None:
        yield Finding(_RULE, f"noise is {dict(noise)}, expected generated {', '.join(config.noise.kinds)}")


def _check_distances(record: Record, distances: list[Mapping[str, Any]], config: AugmentConfig) -> Iterator[Finding]:
    known = config.distractor
    levels = {"side_talk": known.side_talk_db, "background": known.background_db}
    shares = {"side_talk": known.side_talk, "background": known.background}
    all_ = [i for i, u in enumerate(record.utterances) if u.kind == "distractor"]
    named = [d["utterance"] for d in distances]
    if len(set(named)) != len(named) or not set(named) <= set(all_):
        yield Finding(_RULE, f"distractors are the utterances {named}, expected some of {all_}, each once")
        return
    for d in distances:
        name = name_of(d["utterance"], record.utterances[d["utterance"]])
        if not shares.get(d["acoustics"], 0) > 0 or d["level_db"] != levels[d["acoustics"]]:
            yield Finding(_RULE, f"{name}: {d['acoustics']} at {d['level_db']} dB is not configured")
    if sum(shares.values()) >= 1 and set(named) != set(all_):
        yield Finding(_RULE, f"distractors are the utterances {named}, expected all of {all_}")
