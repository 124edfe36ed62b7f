"""Audio that was made once is not made again, bit by bit the same, whoever else writes and whatever breaks."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from duplexdata.backends import make_synthesizer
from duplexdata.config import CacheConfig, Config, LayoutConfig, SpeechConfig
from duplexdata.errors import ConfigError, SynthesisError
from duplexdata.rng import stable_hash
from duplexdata.speech.base import Speech, SpeechRequest, Voice, VoicePrompt, WordTime
from duplexdata.speech.cache import Cached, SpeechStore, decode, default_folder, encode, key_of

VOICE = Voice("ada", "train", (("rate", "150"),), VoicePrompt("/home/me/ada.wav", "my own words", "ab" * 32))
REQUEST = SpeechRequest("Hello there.", VOICE, "en", 3)
BACKEND = {"name": "engine/1", "sample_rate": "16000"}
MUCH = 1_000_000_000
KEY = key_of(REQUEST, BACKEND)


def _speech(seed: int = 0, n: int = 4_000) -> Speech:
    samples = np.random.default_rng(seed).integers(-32768, 32768, n).astype(np.float32) / 32768
    return Speech(samples, 16_000, (WordTime("Hello", 0, n // 2), WordTime("there.", n // 2, n, estimated=True)))


def _same(a: Speech | None, b: Speech) -> bool:
    return (
        a is not None
        and (a.sample_rate, a.words) == (b.sample_rate, b.words)
        and a.samples.dtype == b.samples.dtype == np.float32
        and a.samples.tobytes() == b.samples.tobytes()
    )


class Counting:
    """Speaks noise that follows from the request, and counts how often it is asked."""

    name = "counting/1"

    def __init__(self, ahead: int = 3) -> None:
        self.asked: list[SpeechRequest] = []
        self._ahead = ahead

    def describe(self) -> dict[str, str]:
        return {"name": self.name}

    def close(self) -> None:
        pass

    def synthesize_many(self, requests: Iterable[SpeechRequest]) -> Iterator[Speech | SynthesisError]:
        waiting: list[SpeechRequest] = []
        for request in requests:
            self.asked.append(request)
            waiting.append(request)
            if len(waiting) > self._ahead:
                yield self.answer(waiting.pop(0))
        for request in waiting:
            yield self.answer(request)

    def answer(self, request: SpeechRequest) -> Speech | SynthesisError:
        if "fail" in request.text:
            return SynthesisError("no")
        return _speech(stable_hash(request.text, request.seed, bits=32), 500)


def _requests(*numbers: int) -> list[SpeechRequest]:
    return [replace(REQUEST, text=f"text {n}") for n in numbers]


# -- the file


@given(
    hnp.arrays(
        np.float32,
        st.integers(0, 400),
        elements=st.one_of(
            st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.5, 32767 / 32768, 1e-40, float("nan"), float("inf"), 3e38]),
            st.floats(-1, 1, width=32),
            st.integers(-32768, 32767).map(lambda i: i / 32768),
        ),
    ),
    st.integers(1, 200_000),
    st.booleans(),
)
def test_any_samples_come_back_bit_by_bit(samples: np.ndarray, rate: int, with_words: bool) -> None:
    words = (WordTime("naïve", 0, 5), WordTime('"quoted"', 5, 9, estimated=True)) if with_words else None
    assert _same(decode(encode(Speech(samples, rate, words), KEY), KEY), Speech(samples, rate, words))


def test_sixteen_bit_sound_takes_less_than_its_samples_do() -> None:
    t = np.arange(48_000) / 24_000
    samples = (np.rint(9_000 * np.sin(2 * np.pi * 200 * t)).astype(np.int16) / 32768).astype(np.float32)
    assert len(encode(Speech(samples, 24_000, None), KEY)) < 2 * len(samples)
    noisy = samples + np.float32(1e-6)
    assert len(encode(Speech(noisy, 24_000, None), KEY)) > 4 * len(samples)


@settings(max_examples=150)
@given(st.data())
def test_no_damage_goes_unnoticed(data: st.DataObject) -> None:
    whole = encode(_speech(n=200), KEY)
    at = data.draw(st.integers(0, len(whole) - 1))
    if data.draw(st.booleans()):
        broken = whole[:at]
    else:
        broken = whole[:at] + bytes([whole[at] ^ data.draw(st.integers(1, 255))]) + whole[at + 1 :]
    with pytest.raises(ValueError):
        decode(broken, KEY)


def test_another_utterances_file_is_not_taken_for_its_own() -> None:
    with pytest.raises(ValueError, match="another utterance"):
        decode(encode(_speech(), KEY), KEY[::-1])


def test_nothing_of_this_machine_is_in_a_file(tmp_path: Path) -> None:
    store = SpeechStore(tmp_path, MUCH)
    list(Cached(Counting(), store).synthesize_many([REQUEST]))
    (file,) = tmp_path.rglob("*.speech")
    for private in (b"/home/me", str(tmp_path).encode(), b"my own words"):
        assert private not in file.read_bytes()


# -- the key


def _changed() -> dict[str, tuple[SpeechRequest, dict[str, str]]]:
    prompt = VOICE.prompt
    assert prompt is not None
    voices = {
        "voice": replace(VOICE, id="bob"),
        "settings": replace(VOICE, settings=(("rate", "151"),)),
        "prompt": replace(VOICE, prompt=replace(prompt, sha256="cd" * 32)),
        "transcript": replace(VOICE, prompt=replace(prompt, transcript="my own word")),
        "no prompt": replace(VOICE, prompt=None),
    }
    return {
        "text": (replace(REQUEST, text="Hello there!"), BACKEND),
        "language": (replace(REQUEST, language="en-GB"), BACKEND),
        "seed": (replace(REQUEST, seed=4), BACKEND),
        "backend": (REQUEST, {**BACKEND, "name": "engine/2"}),
        **{name: (replace(REQUEST, voice=voice), BACKEND) for name, voice in voices.items()},
    }


def test_whatever_decides_on_the_sound_changes_the_key() -> None:
    keys = {name: key_of(request, backend) for name, (request, backend) in _changed().items()}
    assert len({KEY, *keys.values()}) == len(keys) + 1


def test_what_does_not_decide_leaves_the_key() -> None:
    assert VOICE.prompt is not None
    moved = replace(VOICE, prompt=replace(VOICE.prompt, path="/elsewhere/ada.wav"), split="test")
    assert key_of(replace(REQUEST, voice=moved), dict(reversed(BACKEND.items()))) == KEY
    assert key_of(REQUEST, BACKEND) == KEY and len(KEY) == 64


# -- the wrapper


def test_nothing_is_synthesized_twice(tmp_path: Path) -> None:
    first = list(Cached(a := Counting(), SpeechStore(tmp_path, MUCH)).synthesize_many(_requests(*range(30))))
    second = list(Cached(b := Counting(), SpeechStore(tmp_path, MUCH)).synthesize_many(_requests(*range(30))))
    assert len(a.asked) == 30 and not b.asked
    for x, y in zip(first, second, strict=True):
        assert isinstance(x, Speech) and isinstance(y, Speech) and _same(x, y)


def test_failures_are_tried_again(tmp_path: Path) -> None:
    request = replace(REQUEST, text="fail")
    for _ in range(2):
        inner = Counting()
        (result,) = Cached(inner, SpeechStore(tmp_path, MUCH)).synthesize_many([request])
        assert isinstance(result, SynthesisError) and len(inner.asked) == 1


@settings(max_examples=60)
@given(st.lists(st.integers(0, 12), max_size=40), st.sets(st.integers(0, 12)), st.integers(0, 5))
def test_results_are_those_of_the_engine_in_order(
    tmp_path_factory: pytest.TempPathFactory, numbers: list[int], known: set[int], ahead: int
) -> None:
    folder = tmp_path_factory.mktemp("cache")
    list(Cached(Counting(), SpeechStore(folder, MUCH)).synthesize_many(_requests(*sorted(known))))
    inner = Counting(ahead)
    results = list(Cached(inner, SpeechStore(folder, MUCH)).synthesize_many(iter(_requests(*numbers))))
    for request, result in zip(_requests(*numbers), results, strict=True):
        expected = inner.answer(request)
        assert isinstance(result, Speech) and isinstance(expected, Speech) and _same(result, expected)
    assert {r.text for r in inner.asked} == {f"text {n}" for n in set(numbers) - known}


def test_what_is_found_does_not_pile_up_behind_what_is_missing(tmp_path: Path) -> None:
    """One missing utterance, then hundreds that are there: they are not all read before the first is handed on."""
    numbers = [1000, *range(300)]
    list(Cached(Counting(), SpeechStore(tmp_path, MUCH)).synthesize_many(_requests(*range(300))))
    given = 0

    def requests() -> Iterator[SpeechRequest]:
        nonlocal given
        for request in _requests(*numbers):
            given += 1
            yield request

    most = 0
    for got, _ in enumerate(Cached(Counting(), SpeechStore(tmp_path, MUCH)).synthesize_many(requests()), start=1):
        most = max(most, given - got)
    assert given == 301 and most <= 70


def test_a_damaged_file_is_made_again(tmp_path: Path) -> None:
    store = SpeechStore(tmp_path, MUCH)
    store.put(KEY, _speech())
    path = store.path(KEY)
    whole = path.read_bytes()
    for broken in (b"", whole[:-1], whole[: len(whole) // 2], bytes(len(whole)), whole.replace(b"16000", b"24000")):
        path.write_bytes(broken)
        assert store.get(KEY) is None
        assert not path.exists()
        store.put(KEY, _speech())
        assert _same(store.get(KEY), _speech())
    assert store.damaged == 5


def test_a_store_that_cannot_be_written_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = SpeechStore(tmp_path, MUCH)
    for i in range(256):
        (tmp_path / f"{i:02x}").write_text("a file where a folder should be")
    inner = Counting()
    results = list(Cached(inner, store).synthesize_many(_requests(*range(10))))
    assert all(isinstance(r, Speech) for r in results)
    assert sum("going on without" in r.message for r in caplog.records) == 1


def test_a_folder_that_cannot_be_made_is_an_error_of_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"cache\.folder"):
        SpeechStore(tmp_path / "file" / "cache", MUCH)


# -- the bound


def _bytes(folder: Path) -> int:
    return sum(p.stat().st_size for p in folder.rglob("*.speech"))


def test_what_was_used_longest_ago_goes_first(tmp_path: Path) -> None:
    store = SpeechStore(tmp_path, MUCH)
    keys = [key_of(r, BACKEND) for r in _requests(*range(10))]
    now = time.time()
    for age, key in enumerate(keys):
        store.put(key, _speech(age))
        os.utime(store.path(key), (now - 1000 * (age + 1),) * 2)  # the higher the number, the longer ago
    assert store.get(keys[9]) is not None  # the oldest is used again
    size = store.path(keys[0]).stat().st_size
    SpeechStore(tmp_path, int(6.5 * size)).sweep()
    left = [n for n, key in enumerate(keys) if store.path(key).exists()]
    assert left == [0, 1, 2, 3, 9]
    assert _bytes(tmp_path) <= 0.9 * 6.5 * size


def test_the_folder_stays_within_its_bound(tmp_path: Path) -> None:
    most = 400_000
    store = SpeechStore(tmp_path, most)
    for n in range(150):
        store.put(key_of(_requests(n)[0], BACKEND), _speech(n))
        if n % 10 == 0:
            assert _bytes(tmp_path) <= 1.05 * most
    assert _bytes(tmp_path) >= 0.8 * most


def test_a_sweep_leaves_what_is_no_audio_of_ours(tmp_path: Path) -> None:
    store = SpeechStore(tmp_path, 1000)
    (tmp_path / "notes.txt").write_text("mine" * 1000)
    (tmp_path / "ab").mkdir()
    (tmp_path / "ab" / "notes.txt").write_text("mine" * 1000)
    (tmp_path / "ab" / ".young.tmp").write_text("being written")
    old = tmp_path / "ab" / ".old.tmp"
    old.write_text("its process was killed")
    os.utime(old, (time.time() - 7200,) * 2)
    store.put(KEY, _speech())
    store.sweep()
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file() and p.name != ".sweep") == [
        ".young.tmp",
        "notes.txt",
        "notes.txt",
    ]


# -- many processes


def _hammer(folder: str, seed: int, n: int, most: int) -> tuple[int, int]:
    """Read and write the same few hundred utterances as everybody else. Returns: wrong ones, and damaged ones."""
    store = SpeechStore(Path(folder), most)
    rng = np.random.default_rng(seed)
    wrong = 0
    for number in rng.integers(0, 200, n):
        key = key_of(_requests(int(number))[0], BACKEND)
        found = store.get(key)
        if found is None:
            store.put(key, _speech(int(number), 1_000))
        elif not _same(found, _speech(int(number), 1_000)):
            wrong += 1
    return wrong, store.damaged


def test_processes_that_write_and_evict_at_the_same_time_never_read_a_wrong_sound(tmp_path: Path) -> None:
    most = 250_000  # about half of all: there is always something to evict
    with multiprocessing.get_context("fork").Pool(4) as pool:
        found = pool.starmap(_hammer, [(str(tmp_path), seed, 400, most) for seed in range(4)])
    assert found == [(0, 0)] * 4
    assert _bytes(tmp_path) <= 1.1 * most
    assert not list(tmp_path.rglob("*.tmp"))


_WRITE = """
import sys
from pathlib import Path
import numpy as np
from duplexdata.speech.base import Speech
from duplexdata.speech.cache import SpeechStore
store = SpeechStore(Path(sys.argv[1]), 10**9)
print("ready", flush=True)
n = 0
while True:
    n += 1
    samples = (np.arange(200_000) % (n + 7) / 4096).astype(np.float32)
    store.put(f"{n % 50:064x}", Speech(samples, 16000, None))
"""


def test_a_killed_process_leaves_nothing_that_is_read(tmp_path: Path) -> None:
    for round_ in range(3):
        process = subprocess.Popen([sys.executable, "-c", _WRITE, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        time.sleep(0.05 + 0.03 * round_)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        store = SpeechStore(tmp_path, MUCH)
        found = [store.get(f"{n:064x}") for n in range(50)]
        assert any(s is not None for s in found) and store.damaged == 0
    for left in tmp_path.rglob("*.tmp"):
        os.utime(left, (time.time() - 7200,) * 2)
    SpeechStore(tmp_path, MUCH).sweep()
    assert not list(tmp_path.rglob("*.tmp"))


# -- in a run


def test_only_backends_slower_than_a_disk_are_cached_by_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("espeakng_loader")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for config in (
        Config(),
        Config(speech=SpeechConfig(backend="nominal"), layout=LayoutConfig(emit=("tdm",))),
        Config(cache=CacheConfig(folder="off")),
    ):
        make_synthesizer(config).close()
    assert not list(tmp_path.iterdir())
    made = make_synthesizer(Config(cache=CacheConfig(folder=str(tmp_path / "mine"))))
    list(made.synthesize_many([SpeechRequest("Hello there, my friend.", Voice("x", "train", (("variant", "f1"),)))]))
    made.close()
    assert len(list((tmp_path / "mine").rglob("*.speech"))) == 1


def test_the_default_folder_is_this_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "duplexdata" / "speech"
    monkeypatch.setenv("XDG_CACHE_HOME", "not/absolute")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert default_folder() == tmp_path / "home" / ".cache" / "duplexdata" / "speech"
    store = SpeechStore(default_folder(), MUCH)
    assert store.get(KEY) is None
    assert default_folder().stat().st_mode & 0o077 == 0  # voices of people are nobody else's
