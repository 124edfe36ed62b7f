"""Whole builds through speech servers: the same dataset, whatever the servers do on the way."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_cosyvoice import make_checkout, make_model

from duplexdata.build import build
from duplexdata.config import CacheConfig, Config, QualityConfig, ShardConfig, SpeechConfig, VoicesConfig
from duplexdata.errors import ConfigError, SpeechServerError
from duplexdata.manifest import read_manifest
from duplexdata.verify import verify
from tests.speech.server import Behaviour, running

Build = Callable[..., Path]


@pytest.fixture
def built(tmp_path: Path, write_bank: Callable[..., Path]) -> Build:
    """Builds with a bank of recordings. What the servers say is no speech, and is not judged as such."""
    voices = VoicesConfig(bank=str(write_bank()))

    def run(name: str, **speech: object) -> Path:
        config = Config(
            conversations=6,
            voices=voices,
            quality=QualityConfig(check=False),
            cache=CacheConfig(folder="off"),
            speech=SpeechConfig(**{"backend": "speech_http"} | speech),  # type: ignore[arg-type]
            shards=ShardConfig(test_fraction=0.3),
        )
        build(config, tmp_path / name, workers=1, report=lambda *_: None)
        return tmp_path / name

    return run


def hashes(dataset: Path) -> dict[str, str]:
    names = json.loads((dataset / "manifest.json").read_text(encoding="utf-8"))["files"]
    return {n: hashlib.sha256((dataset / n).read_bytes()).hexdigest() for n in [*names, "manifest.json"]}


@pytest.mark.slow
def test_a_dataset_is_the_same_whatever_its_servers_do(built: Build) -> None:
    with running(Behaviour(voices=True)) as well:
        plain = built("plain", servers=(well.url,))
        answered = well.stats()["counts"]["answered"]
    faults = ("abort_chunked", "status_500", "empty_body")
    with running(Behaviour(faults=faults, every=2)) as bad, running(Behaviour(capacity=3)) as busy:
        again = built("again", servers=(bad.url, busy.url), in_flight=5, patience_sec=60)
        counts = [s.stats()["counts"] for s in (bad, busy)]
    assert hashes(plain) == hashes(again)
    assert sum(c["answered"] for c in counts) == answered
    assert counts[0]["abort_chunked"] > 0
    assert not list(verify(plain))
    manifest = (plain / "manifest.json").read_text(encoding="utf-8")
    assert "127.0.0.1" not in manifest
    assert "speech_http test-model" in manifest
    assert [s["items_out"] for s in read_manifest(plain)["stages"] if s["stage"] == "speech"] == [6]


@pytest.mark.slow
def test_a_build_whose_servers_die_goes_on_where_it_stopped(built: Build) -> None:
    with running() as mortal:
        mortal.process.kill()
        with pytest.raises(SpeechServerError):
            built("plain", servers=(mortal.url,), model="test-model")
    with running() as first:
        plain = built("plain", servers=(first.url,), model="test-model")
    with pytest.raises(ConfigError, match="expected another"), running() as second:
        built("other", servers=(second.url,), model="another")
    assert not list(verify(plain))


@pytest.mark.slow
def test_a_build_starts_cosyvoice_by_itself(built: Build, tmp_path: Path) -> None:
    made = built(
        "made",
        backend="cosyvoice",
        checkout=str(make_checkout(tmp_path / "checkout")),
        model=str(make_model(tmp_path / "model")),
        python=sys.executable,
        devices=("cpu",),
    )
    assert not list(verify(made))
    assert str(tmp_path) not in (made / "manifest.json").read_text(encoding="utf-8")
    assert "cosyvoice cosyvoice2/model@" in (made / "manifest.json").read_text(encoding="utf-8")
