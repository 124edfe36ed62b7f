"""CosyVoice's official code behind the bridge, in its own environment: `make test-cosyvoice`.

It is given by COSYVOICE_CHECKOUT and COSYVOICE_ENV. The model is COSYVOICE_MODEL, or tiny ones of versions 2 and 3 with
random weights, made by COSYVOICE_MAKER (../shared/tools/make_tiny_cosyvoice.py). Skipped where one of these is missing.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from duplexdata.errors import SpeechServerError, SynthesisError
from duplexdata.speech.base import Speech, SpeechRequest, Voice, VoicePrompt
from duplexdata.speech.cosyvoice.bridge import Bridge, BridgeSettings
from duplexdata.speech.http.synthesizer import HttpSynthesizer

pytestmark = pytest.mark.cosyvoice

SHARED = Path(os.environ.get("DUPLEXDATA_SHARED", Path(__file__).resolve().parents[3] / "shared"))
TEXT = "The train to the coast leaves at noon, and it never waits."


def given(name: str, default: str | None = None) -> Path:
    value = os.environ.get(name, default)
    if not value or not Path(value).exists():
        pytest.skip(f"{name} is {value!r}, which is not there; COSYVOICE_CHECKOUT=DIR make test-cosyvoice")
    return Path(value).resolve() if name != "COSYVOICE_ENV" else Path(value).absolute()


@pytest.fixture(scope="session")
def checkout() -> Path:
    return given("COSYVOICE_CHECKOUT")


@pytest.fixture(scope="session")
def environment() -> Path:
    return given("COSYVOICE_ENV")


@pytest.fixture(scope="session", params=[2, 3])
def model(
    request: pytest.FixtureRequest, checkout: Path, environment: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    if "COSYVOICE_MODEL" in os.environ:
        if request.param == 3:
            pytest.skip("the model is COSYVOICE_MODEL; it is tested once")
        return given("COSYVOICE_MODEL")
    maker = given("COSYVOICE_MAKER", str(SHARED / "tools" / "make_tiny_cosyvoice.py"))
    folder = tmp_path_factory.mktemp("models") / f"tiny{request.param}"
    command = [str(environment / "bin" / "python"), str(maker), str(folder), "--version", str(request.param)]
    subprocess.run([*command, "--source", str(checkout)], check=True, capture_output=True, timeout=600)
    return folder


@pytest.fixture(scope="session")
def bridge(model: Path, checkout: Path, environment: Path) -> Iterator[Bridge]:
    with Bridge(settings(model, checkout, environment, per_device=2)) as found:
        yield found


@pytest.fixture(scope="session")
def voices(tmp_path_factory: pytest.TempPathFactory) -> list[Voice]:
    """Two: their recordings are harmonic tones, which random weights do not mind."""
    found = []
    for name, pitch in (("low", 110), ("high", 210)):
        path = tmp_path_factory.mktemp("prompts") / f"{name}.wav"
        phase = 2 * np.pi * pitch * np.arange(4 * 24_000) / 24_000
        sf.write(path, 0.05 * sum(np.sin(k * phase) / k for k in range(1, 12)), 24_000)
        prompt = VoicePrompt(
            str(path), "I hope you can do better than me.", hashlib.sha256(path.read_bytes()).hexdigest()
        )
        found.append(Voice(name, "train", (), prompt))
    return found


def settings(model: Path, checkout: Path, environment: Path, per_device: int = 1) -> BridgeSettings:
    return BridgeSettings(checkout, model, str(environment), devices=("cpu",), per_device=per_device)


def health(bridge: Bridge) -> dict[str, object]:
    with urllib.request.urlopen(f"{bridge.url}/health", timeout=30) as answer:
        return dict(json.load(answer))


def test_it_decodes_rightly_and_says_what_it_is(bridge: Bridge) -> None:
    found = health(bridge)
    assert found["ready"] == 2
    assert found["sample_rate"] == 24_000
    assert float(str(found["difference"])) < 1e-3
    assert str(found["model"]).startswith(f"cosyvoice{found['version']}/")


def test_same_seed_same_bytes_in_either_process(bridge: Bridge, voices: list[Voice]) -> None:
    wanted = [SpeechRequest(TEXT, voice, seed=seed) for seed in (1, 2) for voice in voices]
    with closing(HttpSynthesizer([bridge.url], in_flight=4, timeout_sec=300)) as spoken:
        found = [s for s in spoken.synthesize_many(wanted * 3) if isinstance(s, Speech)]
    sounds = [s.samples.tobytes() for s in found]
    assert len(sounds) == 12
    assert sounds[:4] == sounds[4:8] == sounds[8:]
    assert len(set(sounds)) == 4
    for speech in found[:4]:
        assert 0.04 < speech.duration / len(TEXT) < 0.2
        assert np.isfinite(speech.samples).all()
        assert np.abs(speech.samples).max() > 0.01


def test_what_cannot_be_spoken_is_refused(bridge: Bridge, voices: list[Voice]) -> None:
    with closing(HttpSynthesizer([bridge.url])) as spoken:
        [found] = spoken.synthesize_many([SpeechRequest("12 345", voices[0])])  # digits are for whoever normalises
        assert isinstance(found, SynthesisError)
        assert not found.retryable


def test_a_killed_process_is_replaced_and_nothing_lost(bridge: Bridge, voices: list[Voice]) -> None:
    wanted = [SpeechRequest(f"{TEXT} {'It never does. ' * (i % 3)}", voices[i % 2], seed=i) for i in range(8)]
    with closing(HttpSynthesizer([bridge.url], in_flight=4, timeout_sec=300)) as spoken:
        before = list(spoken.synthesize_many(wanted))
        results = spoken.synthesize_many(wanted)
        first = next(results)
        os.kill(bridge.pool.pids[0], signal.SIGKILL)
        after = [first, *results]
        assert spoken.counts["failed"] == 0
    for a, b in zip(before, after, strict=True):
        assert isinstance(a, Speech)
        assert isinstance(b, Speech)
        assert np.array_equal(a.samples, b.samples)
    end = time.monotonic() + 300
    while bridge.pool.ready < 2 and time.monotonic() < end:
        time.sleep(0.5)
    assert bridge.pool.counts["restarts"] >= 1
    assert health(bridge)["ready"] == 2


def test_wrong_decoding_is_refused(model: Path, checkout: Path, environment: Path, tmp_path: Path) -> None:
    """As transformers 4.53 and later decode: each step sees one position only. The mask that hides the rest is made
    here, whatever is installed."""
    broken = tmp_path / "checkout"
    (broken / "third_party").mkdir(parents=True)
    for item in checkout.iterdir():
        if item.name not in ("cosyvoice", "third_party", ".git"):
            (broken / item.name).symlink_to(item)
    subprocess.run(["cp", "-r", str(checkout / "cosyvoice"), str(broken / "cosyvoice")], check=True)
    code = broken / "cosyvoice" / "llm" / "llm.py"
    right = "            past_key_values=cache,\n"
    text = code.read_text(encoding="utf-8")
    assert text.count(right) == 1
    hidden = "None if cache is None else type(cache)()"
    code.write_text(text.replace(right, f"            past_key_values={hidden},\n"), encoding="utf-8")
    never = BridgeSettings(broken, model, str(environment), devices=("cpu",), override="never")
    with pytest.raises(SpeechServerError, match="gibberish"), Bridge(never):
        pass
