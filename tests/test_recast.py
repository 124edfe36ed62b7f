"""Whole builds with an engine that fails in ways it is told: every take counted, nothing lost, same bytes always."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from duplexdata import backends
from duplexdata.build import build, prepare
from duplexdata.config import AlignConfig, CacheConfig, Config, QualityConfig, ShardConfig, SpeechConfig
from duplexdata.dialogue import Script
from duplexdata.errors import SynthesisError
from duplexdata.manifest import read_manifest
from duplexdata.records import read_conversations
from duplexdata.rng import unit_interval
from duplexdata.speech.base import Speech, SpeechRequest
from duplexdata.speech.voices import assistant_voice, user_voices
from duplexdata.stages.ingest import ingest
from duplexdata.stages.plan import make_plan
from duplexdata.stages.recast import recast
from duplexdata.stages.scripts import read_scripts, write_scripts
from duplexdata.stages.speak import speak
from duplexdata.stages.work import shards_of
from duplexdata.storage import Store, folder_at
from duplexdata.words import nominal_seconds

RATE = 16_000
Good = Callable[[SpeechRequest], bool]
SMALL = Config(
    conversations=12,
    speech=SpeechConfig(backend="unreliable"),
    align=AlignConfig("none"),
    cache=CacheConfig(folder="off"),
    shards=ShardConfig(conversations=8, test_fraction=0.2),
)


class Unreliable:
    """Noise of another colour for each letter, as long as speech is; much too quiet where it is not good."""

    name = "unreliable/1"
    sample_rate = RATE
    takes_seed = True
    asked = 0

    def __init__(self, good: Good) -> None:
        self._good = good

    def describe(self) -> dict[str, str]:
        return {"name": self.name}

    def close(self) -> None:
        pass

    def synthesize_many(self, requests: Iterable[SpeechRequest]) -> Iterator[Speech | SynthesisError]:
        for request in requests:
            Unreliable.asked += 1
            rng = np.random.default_rng([request.seed, *request.text.encode(), *request.voice.id.encode()])
            n = int(RATE * nominal_seconds(request.text, request.language) / len(request.text))
            noise = rng.standard_normal((len(request.text), n + 3), np.float32)
            taps = rng.standard_normal((len(noise), 4), np.float32)
            parts = sum(taps[:, k : k + 1] * noise[:, k : k + n] for k in range(4)) * np.hanning(n)
            samples = 0.08 * parts.reshape(-1) / parts.std()
            level = 1.0 if self._good(request) else 0.05
            yield Speech((level * samples.clip(-0.97, 0.97)).astype(np.float32), RATE, None)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Good], None]]:
    def use(good: Good) -> None:
        Unreliable.asked = 0
        table = {**backends.SYNTHESIZERS, "unreliable": lambda config: Unreliable(good)}
        monkeypatch.setattr(backends, "SYNTHESIZERS", table)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in a build's workers
    yield use
    torch.set_num_threads(threads)


def _seldom_bad(request: SpeechRequest) -> bool:
    return unit_interval(request.text, request.voice.id, request.seed) > 0.3


def _build(config: Config, out: Path) -> dict[str, Any]:
    build(config, out, workers=1, report=lambda *_: None)
    manifest = read_manifest(out)
    speech = next(s for s in manifest["stages"] if s["stage"] == "speech")
    return {**manifest, "speech": speech}


def _voices(out: Path) -> Counter[str]:
    """Conversations that each voice is heard in."""
    found: Counter[str] = Counter()
    for path in sorted((out / "conversations").glob("*.parquet")):
        for conversation in read_conversations(path):
            assert conversation.user_voice in {u.voice for u in conversation.utterances if u.channel == "user"}
            found.update({u.voice for u in conversation.utterances})
    return found


def _hashes(out: Path) -> dict[str, str]:
    files = [p for p in sorted(out.rglob("*")) if p.is_file()]
    return {str(p.relative_to(out)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_bad_takes_are_repeated_and_counted(engine: Callable[[Good], None], tmp_path: Path) -> None:
    engine(_seldom_bad)
    manifest = _build(SMALL, tmp_path / "dataset")
    quality = manifest["statistics"]["quality"]
    assert quality["takes"] == Unreliable.asked == quality["accepted"] + quality["faults"]["too_quiet"]
    assert set(quality["faults"]) == {"too_quiet"} and 0.6 < quality["yield"] < 0.8
    assert {"1", "2", "3"} <= set(quality["attempts"]) <= {"1", "2", "3", "4"}
    assert sum(v["takes"] for v in quality["voices"].values()) <= quality["takes"]
    speech = manifest["speech"]
    assert speech["items_in"] == 12 == speech["items_out"] + sum(speech["dropped"].values())
    assert set(speech["dropped"]) <= {"rejected_too_quiet"}
    card = (tmp_path / "dataset" / "README.md").read_text()
    assert f"Of {quality['takes']} takes {quality['accepted']} passed" in card and "| too_quiet |" in card


def test_a_voice_that_is_never_good_is_dropped_or_replaced(engine: Callable[[Good], None], tmp_path: Path) -> None:
    engine(lambda r: True)
    usual = _build(SMALL, tmp_path / "usual")
    assert usual["speech"]["items_out"] == 12
    heard = _voices(tmp_path / "usual")
    never = next(v.id for v in user_voices() if v.split == "train" and heard[v.id])

    engine(lambda r: r.voice.id != never)
    dropped = _build(SMALL, tmp_path / "dropped")
    assert dropped["speech"]["dropped"] == {"rejected_too_quiet": heard[never]}
    assert never not in _voices(tmp_path / "dropped")
    assert dropped["statistics"]["quality"]["recast"] == {}

    again = replace(SMALL, quality=QualityConfig(on_failure="another_voice"))
    replaced = _build(again, tmp_path / "replaced")
    assert replaced["speech"]["items_out"] == 12 and replaced["speech"]["dropped"] == {}
    assert replaced["statistics"]["quality"]["recast"] == {never: heard[never]}
    assert never not in _voices(tmp_path / "replaced")
    card = (tmp_path / "replaced" / "README.md").read_text()
    assert f"by the voice given up: {never} {heard[never]}." in card
    _check_splits(tmp_path / "replaced")


def _check_splits(out: Path) -> None:
    splits = {v.id: v.split for v in (*user_voices(), assistant_voice())}
    for path in (out / "conversations").glob("*.parquet"):
        for conversation in read_conversations(path):
            for u in conversation.utterances:
                assert splits[u.voice] in ("both", path.name.split("-")[0])


def test_voices_are_tried_as_often_as_configured(engine: Callable[[Good], None], tmp_path: Path) -> None:
    engine(lambda r: r.voice.id == assistant_voice().id)  # no user is ever good
    for recasts in (0, 2):
        quality = QualityConfig(on_failure="another_voice", attempts=2, recasts=recasts)
        small = replace(SMALL, conversations=6, quality=quality, shards=ShardConfig(test_fraction=0.2))
        manifest = _build(small, tmp_path / f"{recasts}")
        assert manifest["speech"]["dropped"] == {"rejected_too_quiet": 6}
        assert sum(manifest["statistics"]["quality"]["recast"].values()) == recasts * 6


def test_the_assistant_has_one_voice_and_is_not_replaced(engine: Callable[[Good], None], tmp_path: Path) -> None:
    engine(lambda r: r.voice.id != assistant_voice().id or unit_interval(r.text) < 0.9)
    config = replace(SMALL, quality=QualityConfig(on_failure="another_voice", attempts=2))
    manifest = _build(config, tmp_path / "dataset")
    dropped = manifest["speech"]["dropped"]
    assert dropped.keys() == {"rejected_too_quiet"} and 0 < dropped["rejected_too_quiet"] < 12
    assert manifest["statistics"]["quality"]["recast"] == {}


def test_bytes_are_the_same_with_a_cache_and_nothing_is_said_twice(
    engine: Callable[[Good], None], tmp_path: Path
) -> None:
    config = replace(SMALL, quality=QualityConfig(on_failure="another_voice"))
    engine(_seldom_bad)
    _build(replace(config, cache=CacheConfig(folder="off")), tmp_path / "plain" / "dataset")
    takes = Unreliable.asked
    cached = replace(config, cache=CacheConfig(folder=str(tmp_path / "cache")))
    for run in ("first", "second"):
        engine(_seldom_bad)
        _build(cached, tmp_path / run / "dataset")
        assert Unreliable.asked == (takes if run == "first" else 0)
        assert _hashes(tmp_path / run / "dataset") == _hashes(tmp_path / "plain" / "dataset")
    # another block size changes every conversation's length, and no utterance
    engine(_seldom_bad)
    _build(replace(cached, layout=replace(cached.layout, n_text=6)), tmp_path / "third" / "dataset")
    assert Unreliable.asked == 0


def test_the_order_of_shards_and_a_resumption_change_nothing(engine: Callable[[Good], None], tmp_path: Path) -> None:
    config = replace(SMALL, quality=QualityConfig(on_failure="another_voice"))
    engine(_seldom_bad)
    _build(config, tmp_path / "plain" / "dataset")
    out = tmp_path / "resumed" / "dataset"
    plan = make_plan(config, Store(folder_at(out).work.path))
    ingest(plan)
    prepare(plan)
    for shard in reversed(shards_of(config)[1:]):
        write_scripts(plan, shard)
        speak(plan, shard)
    _build(config, out)
    assert _hashes(out) == _hashes(tmp_path / "plain" / "dataset")


def test_what_is_said_of_quality_is_no_violation(engine: Callable[[Good], None], tmp_path: Path) -> None:
    from duplexdata.verify import verify

    engine(_seldom_bad)
    config = replace(SMALL, conversations=10, quality=QualityConfig(on_failure="another_voice"))
    _build(config, tmp_path / "dataset")
    assert not list(verify(tmp_path / "dataset"))


# -- the new cast


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Script:
    plan = make_plan(Config(conversations=40), Store(tmp_path_factory.mktemp("scripts")))
    ingest(plan)
    shard = shards_of(plan.config)[0]
    write_scripts(plan, shard)
    return next(s for s in read_scripts(plan, shard) if len({u.voice for u in s.utterances}) == 3)


def test_a_new_voice_is_a_candidate_and_heard_nowhere_else(script: Script) -> None:
    candidates = [v.id for v in user_voices() if v.split == "train"]
    bystander = next(u.voice for u in script.utterances if u.voice not in (script.user_voice, script.assistant_voice))
    for refused in (script.user_voice, bystander):
        given_up: list[str] = []
        now, new = script, refused
        while (after := recast(now, new, candidates, given_up, 0)) is not None:
            changed = {(a.voice, b.voice) for a, b in zip(now.utterances, after.utterances, strict=True) if a != b}
            assert len(changed) == 1
            ((old, fresh),) = changed
            assert old == new and fresh not in (*given_up, *(u.voice for u in now.utterances))
            assert fresh in candidates
            assert (after.user_voice == fresh) == (refused == script.user_voice)
            assert [u.text for u in after.utterances] == [u.text for u in script.utterances]
            given_up.append(new)
            now, new = after, fresh
        assert len(given_up) == len(candidates) - 2
    assert recast(script, script.assistant_voice, candidates, [], 0) is None


def test_the_new_voice_follows_from_seed_and_conversation(script: Script) -> None:
    candidates = [v.id for v in user_voices() if v.split == "train"]
    found = [recast(script, script.user_voice, candidates, [], seed) for seed in (0, 0, 1, 2, 3, 4)]
    assert found[0] == found[1]
    assert len({s.user_voice for s in found if s}) > 2
