from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# A test process has one core: threads that wait for each other by spinning stand still where others compute.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Machines differ in speed; and a check of a change must say the same twice, so draws are fixed there. Everywhere
# else every run tries new examples.
settings.register_profile("unhurried", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("unhurried")


@pytest.fixture(scope="session", autouse=True)
def cache_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Audio kept between runs is kept between those of one session only; models of the hub stay where they are."""
    with pytest.MonkeyPatch.context() as patch:
        usual = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        patch.setenv("HF_HOME", os.environ.get("HF_HOME") or str(usual / "huggingface"))
        folder = tmp_path_factory.mktemp("cache-home")
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real dialogues that lie beside the repository and are no part of it."""
    beside = Path(__file__).resolve().parents[2] / "shared"
    folder = Path(os.environ.get("DUPLEXDATA_SHARED", beside)) / "data"
    if not folder.is_dir():
        pytest.skip(f"no real data: {folder} is missing, set DUPLEXDATA_SHARED to the folder above it")
    return folder


@pytest.fixture(scope="session")
def small_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished dataset of 24 conversations with everything in it. To be read only: copy it to change it."""
    pytest.importorskip("espeakng_loader")
    from duplexdata.build import build
    from duplexdata.config import Config, MixConfig, ShardConfig

    mix = MixConfig(distractor=0.6, distractor_in_silence=0.4, backchannel=0.4, pause=0.3)
    config = Config(seed=4, conversations=24, mix=mix, shards=ShardConfig(conversations=10, test_fraction=0.2))
    out = tmp_path_factory.mktemp("small") / "dataset"
    build(config, out, workers=1, report=lambda what, n: None)
    return out


@pytest.fixture(scope="session")
def made_prompts() -> list[Any]:
    """Twelve, each of another of the embedded speakers and of another sentence, with a quiet room around it."""
    pytest.importorskip("espeakng_loader")
    from duplexdata.speech.base import Speech, SpeechRequest
    from duplexdata.speech.espeak import EspeakSynthesizer
    from duplexdata.speech.voices import user_voices
    from tests.voices.voice_prompts import SENTENCES, Prompt, in_a_room

    # espeak-ng's paul clips, and its fastest are at the limit of what passes for a person.
    usable = [v for v in user_voices() if v.setting("variant") != "paul" and int(v.setting("rate")) <= 175]
    voices = usable[:: len(usable) // len(SENTENCES)]
    requests = [SpeechRequest(s, v) for s, v in zip(SENTENCES, voices, strict=False)]
    synthesizer = EspeakSynthesizer()
    try:
        speeches = list(synthesizer.synthesize_many(requests))
    finally:
        synthesizer.close()
    found = []
    for n, (request, speech) in enumerate(zip(requests, speeches, strict=True)):
        assert isinstance(speech, Speech)
        found.append(Prompt(request.voice.id, in_a_room(speech.samples, n), speech.sample_rate, request.text))
    return found


@pytest.fixture
def write_bank(tmp_path: Path, made_prompts: list[Any]) -> Callable[..., Path]:
    """Writes a bank of recordings; `change` may change a row, or give None to leave it out."""

    from tests.voices.voice_prompts import write_bank_to

    def write(change: Callable[..., Any] = lambda i, row: row) -> Path:
        return write_bank_to(tmp_path / "bank", made_prompts, change)

    return write
