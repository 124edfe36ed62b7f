"""The bridge with real processes, which run a stand-in for the official code (the real one: test_cosyvoice.py)."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
from fake_cosyvoice import make_checkout, make_model

from duplexdata.backends import check_synthesizer
from duplexdata.config import Config, QualityConfig, SpeechConfig
from duplexdata.errors import ConfigError, SpeechServerError, SynthesisError
from duplexdata.speech.base import Speech, SpeechRequest, Voice, VoicePrompt
from duplexdata.speech.cosyvoice.bridge import Bridge, BridgeSettings
from duplexdata.speech.cosyvoice.model import model_identity
from duplexdata.speech.http.synthesizer import HttpSynthesizer
from duplexdata.speech.running import running

if sys.platform != "linux":
    pytest.skip("looks into /proc", allow_module_level=True)

TRANSCRIPT = "the words of the recording"


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkout(tmp_path_factory.mktemp("code") / "checkout")


@pytest.fixture(scope="module")
def bridge(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bridge]:
    model = make_model(tmp_path_factory.mktemp("models") / "model-3", version=3)
    with Bridge(settings(checkout, model, per_device=2, timeout_sec=5.0)) as found:
        yield found


@pytest.fixture(scope="module")
def prompt(tmp_path_factory: pytest.TempPathFactory) -> VoicePrompt:
    path = tmp_path_factory.mktemp("prompts") / "prompt.wav"
    path.write_bytes(wav(3.0, 24_000))
    return VoicePrompt(str(path), TRANSCRIPT, hashlib.sha256(path.read_bytes()).hexdigest())


def settings(checkout: Path, model: Path, **more: Any) -> BridgeSettings:
    return BridgeSettings(checkout, model, sys.executable, devices=("cpu",), **more)


def wav(seconds: float, rate: int) -> bytes:
    out = io.BytesIO()
    sf.write(out, 0.1 * np.sin(np.arange(int(seconds * rate)) / 30), rate, format="WAV")
    return out.getvalue()


def url(sound: bytes) -> str:
    return "data:audio/wav;base64," + base64.b64encode(sound).decode()


def call(bridge: Bridge, path: str, body: object = None) -> tuple[int, bytes]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(bridge.url + path, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=200) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def speech(text: str, **more: object) -> dict[str, object]:
    return {"input": text, "ref_audio": url(wav(3.0, 24_000)), "ref_text": TRANSCRIPT, **more}


def at_once(n: int, work: Callable[[], None]) -> None:
    threads = [threading.Thread(target=work) for _ in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def serve(checkout: Path, model: Path, *, deaf: bool = False) -> subprocess.Popen[str]:
    """`deaf`: to SIGINT, as what a shell starts in the background is."""
    command = [sys.executable, "-m", "duplexdata.cli", "serve-cosyvoice", "--checkout", str(checkout)]
    command += ["--model", str(model), "--python", sys.executable, "--port", "0", "--devices", "cpu"]
    if deaf:
        command = ["sh", "-c", "trap '' INT; exec \"$@\"", "sh", *command]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def metric(bridge: Bridge, name: str) -> float:
    rows = call(bridge, "/metrics")[1].decode().splitlines()
    return sum(float(r.rpartition(" ")[2]) for r in rows if r.startswith(f"duplexdata_bridge_{name}"))


def test_it_says_what_it_is(bridge: Bridge) -> None:
    status, body = call(bridge, "/health")
    found = json.loads(body)
    assert status == 200
    assert (found["status"], found["ready"], found["version"], found["sample_rate"]) == ("ok", 2, 3, 24_000)
    assert found["difference"] < 1e-3
    assert not found["overridden"]
    assert json.loads(call(bridge, "/v1/models")[1])["data"][0]["id"] == found["model"] == bridge.model
    assert bridge.url.startswith("http://127.0.0.1:")
    assert call(bridge, "/v1/nothing")[0] == 404


def test_same_seed_same_bytes_in_whichever_process(bridge: Bridge) -> None:
    answers: list[tuple[int, bytes]] = []
    body = speech("slow and steady", seed=7)
    threads = [
        threading.Thread(target=lambda: answers.append(call(bridge, "/v1/audio/speech", body))) for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {status for status, _ in answers} == {200}
    assert len({sound for _, sound in answers}) == 1
    samples, rate = sf.read(io.BytesIO(answers[0][1]))
    assert (rate, len(samples)) == (24_000, 1920 * len("slow and steady"))
    assert call(bridge, "/v1/audio/speech", speech("slow and steady", seed=8))[1] != answers[0][1]
    faster = call(bridge, "/v1/audio/speech", speech("slow and steady", seed=7, speed=2))[1]
    assert len(faster) < 0.6 * len(answers[0][1])


@pytest.mark.parametrize(
    ("change", "status", "why"),
    [
        ({"input": "..."}, 400, "nothing to speak"),
        ({"input": "a" * 1001}, 400, "at most 1000"),
        ({"input": "hello <|endofprompt|>"}, 400, "marker"),
        ({"ref_text": "hello <|endofprompt|>"}, 400, "marker"),
        ({"ref_text": None}, 400, "ref_text is missing"),
        ({"ref_audio": None}, 400, "ref_audio"),
        ({"ref_audio": "file:///etc/passwd"}, 400, "data URL"),
        ({"ref_audio": "http://127.0.0.1/x.wav"}, 400, "data URL"),
        ({"ref_audio": "data:audio/wav;base64,!!"}, 400, "base64"),
        ({"ref_audio": url(b"no sound")}, 400, "cannot be read"),
        ({"ref_audio": url(wav(3, 8000))}, 400, "8000 Hz"),
        ({"ref_audio": url(wav(31, 16_000))}, 400, "31.00 s"),
        ({"ref_audio": url(wav(0.2, 16_000))}, 400, "0.20 s"),
        ({"seed": -1}, 400, "seed"),
        ({"speed": 9}, 400, "speed"),
        ({"response_format": "mp3"}, 400, "response_format"),
        ({"model": "another"}, 404, "does not exist"),
        ({"ref_audio": None, "voice": "unheard"}, 404, "unknown"),
        ({"input": "explode"}, 500, "ZeroDivisionError"),  # the thread's, not what failed after it
        ({"input": "nan"}, 500, "no numbers"),
        ({"input": "nothing"}, 500, "no sound"),
    ],
)
def test_what_cannot_be_answered_says_why(bridge: Bridge, change: dict[str, object], status: int, why: str) -> None:
    found, body = call(bridge, "/v1/audio/speech", speech("well") | change)
    assert (found, why in json.loads(body)["error"]["message"]) == (status, True), body


@pytest.mark.slow
def test_a_process_that_dies_is_replaced_and_its_utterance_spoken(bridge: Bridge) -> None:
    restarts, before = metric(bridge, "restarts_total"), set(bridge.pool.pids)
    status, sound = call(bridge, "/v1/audio/speech", speech("crash once"))
    assert status == 200
    assert sound == call(bridge, "/v1/audio/speech", speech("crash once"))[1]
    end = time.monotonic() + 60
    while bridge.pool.ready < 2 and time.monotonic() < end:
        time.sleep(0.1)
    assert metric(bridge, "restarts_total") == restarts + 1
    assert len(set(bridge.pool.pids) & before) == 1


def test_the_pipeline_clones_voices_through_it(bridge: Bridge, prompt: VoicePrompt) -> None:
    wanted = [SpeechRequest(f"number {'i' * (i + 1)}", Voice("v", "train", (), prompt), seed=i) for i in range(20)]
    audio = metric(bridge, "audio_seconds_total")
    with closing(HttpSynthesizer([bridge.url], in_flight=6)) as spoken:
        found = list(spoken.synthesize_many([*wanted, SpeechRequest("...", wanted[0].voice)]))
        with closing(HttpSynthesizer([bridge.url], in_flight=1, register_voices=False)) as inline:
            again = list(inline.synthesize_many(wanted))
    assert isinstance(found.pop(), SynthesisError)
    for a, b, request in zip(found, again, wanted, strict=True):
        assert isinstance(a, Speech)
        assert isinstance(b, Speech)
        assert len(a.samples) == 1920 * len(request.text)
        assert np.array_equal(a.samples, b.samples)
    total = 2 * sum(s.duration for s in found if isinstance(s, Speech))
    assert metric(bridge, "audio_seconds_total") - audio == pytest.approx(total, rel=1e-3)
    assert metric(bridge, 'requests_total{endpoint="speech",status="200"}') >= 40
    assert metric(bridge, "queue_length") == metric(bridge, "busy_processes") == 0


@pytest.mark.slow
def test_one_that_hangs_is_ended(checkout: Path, tmp_path: Path) -> None:
    with Bridge(settings(checkout, make_model(tmp_path / "m"), timeout_sec=0.5)) as bridge:
        [pid] = bridge.pool.pids
        status, body = call(bridge, "/v1/audio/speech", speech("hang"))
        assert status == 500
        assert "processes ended" in json.loads(body)["error"]["message"]
        assert pid not in bridge.pool.pids
        assert call(bridge, "/v1/audio/speech", speech("well"))[0] == 200


@pytest.mark.slow
def test_too_many_are_put_off(checkout: Path, tmp_path: Path) -> None:
    with Bridge(settings(checkout, make_model(tmp_path / "m"))) as bridge:
        bridge.pool._most = 1
        answers: list[int] = []
        body = speech("slow")
        at_once(6, lambda: answers.append(call(bridge, "/v1/audio/speech", body)[0]))
    assert set(answers) == {200, 429}


@pytest.mark.slow
def test_a_model_that_decodes_wrongly_is_mended_or_refused(checkout: Path, tmp_path: Path) -> None:
    broken = make_model(tmp_path / "broken", mark="broken")
    with (
        pytest.raises(SpeechServerError, match="gibberish"),
        Bridge(settings(checkout, broken, override="never")),
    ):
        pass
    with Bridge(settings(checkout, broken)) as bridge:
        found = json.loads(call(bridge, "/health")[1])
        assert found["overridden"]
        assert found["difference"] < 1e-3
        assert call(bridge, "/v1/audio/speech", speech("well"))[0] == 200


@pytest.mark.slow
def test_a_model_that_cannot_be_loaded_is_one_error(checkout: Path, tmp_path: Path) -> None:
    model = make_model(tmp_path / "m", mark="unloadable")
    with pytest.raises(SpeechServerError, match="ValueError: not a model at all"), Bridge(settings(checkout, model)):
        pass


def test_what_is_missing_is_named_before_anything_starts(checkout: Path, tmp_path: Path) -> None:
    model = make_model(tmp_path / "m")
    (tmp_path / "empty").mkdir()
    good = SpeechConfig("cosyvoice", checkout=str(checkout), model=str(model), python=sys.executable)
    check_synthesizer(good)
    for change, why in (
        ({"checkout": str(tmp_path)}, "not a checkout"),
        ({"model": str(tmp_path / "empty")}, "no CosyVoice model"),
        ({"python": None}, "cosyvoice-env"),
        ({"python": str(tmp_path / "empty")}, "no interpreter"),
        ({"model": None}, "speech.model"),
    ):
        fields = {f: getattr(good, f) for f in ("checkout", "model", "python")} | change
        with pytest.raises(ConfigError, match=why):
            check_synthesizer(SpeechConfig("cosyvoice", **fields))
    (model / "flow.pt").unlink()
    with pytest.raises(ConfigError, match=r"without flow\.pt"):
        check_synthesizer(good)


def test_the_identity_follows_from_files_and_not_from_their_place(checkout: Path, tmp_path: Path) -> None:
    one, same, other = (make_model(tmp_path / d / "model") for d in "abc")
    (other / "llm.pt").write_bytes(b"y")
    assert model_identity(checkout, one) == model_identity(checkout, same)
    assert model_identity(checkout, one) != model_identity(checkout, other)
    assert model_identity(checkout, one).startswith("cosyvoice2/model@")


@pytest.mark.slow
def test_a_build_starts_it_and_stops_it(checkout: Path, tmp_path: Path, prompt: VoicePrompt) -> None:
    from duplexdata.backends import make_synthesizer

    config = SpeechConfig(
        "cosyvoice",
        checkout=str(checkout),
        model=str(make_model(tmp_path / "m")),
        python=sys.executable,
        devices=("cpu",),
        piece_characters=40,
    )
    with running(config) as started:
        with closing(make_synthesizer(Config(speech=started, quality=QualityConfig(check=False)))) as spoken:
            long = "one two three four five. six seven eight nine ten, eleven twelve."
            [found] = spoken.synthesize_many([SpeechRequest(long, Voice("v", "train", (), prompt))])
        assert isinstance(found, Speech)
        assert spoken.name.startswith("cosyvoice/cosyvoice2/m@")
        port = int(started.servers[0].rpartition(":")[2])
    with socket.socket() as closed:
        assert closed.connect_ex(("127.0.0.1", port)) != 0


@pytest.mark.slow
def test_no_process_outlives_a_bridge_that_is_killed(checkout: Path, tmp_path: Path) -> None:
    with serve(checkout, make_model(tmp_path / "m")) as served:
        assert served.stdout is not None
        line = served.stdout.readline()
        assert "http://127.0.0.1:" in line
        children = Path(f"/proc/{served.pid}/task/{served.pid}/children").read_text().split()
        for task in Path(f"/proc/{served.pid}/task").iterdir():
            children += (task / "children").read_text().split()
        assert children
        served.send_signal(signal.SIGKILL)
    end = time.monotonic() + 20
    while any(_runs(int(pid)) for pid in children) and time.monotonic() < end:
        time.sleep(0.1)
    assert not any(_runs(int(pid)) for pid in children)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize("deaf", [False, True])
def test_it_ends_in_order_when_told_to(checkout: Path, tmp_path: Path, deaf: bool) -> None:
    with serve(checkout, make_model(tmp_path / "m"), deaf=deaf) as served:
        assert served.stdout is not None
        assert "cosyvoice2/m@" in served.stdout.readline()
        os.kill(served.pid, signal.SIGTERM)
        try:
            assert served.wait(timeout=30) == 0
        finally:
            served.kill()


def test_the_worker_imports_nothing_of_ours() -> None:
    import ast

    import duplexdata.speech.cosyvoice as package

    tree = ast.parse((Path(package.__path__[0]) / "worker.py").read_text(encoding="utf-8"))
    names = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    names |= {n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert not any(n.startswith("duplexdata") for n in names)
    outside = {
        n.name.split(".")[0] for s in tree.body if isinstance(s, ast.Import) for n in s.names
    } - sys.stdlib_module_names
    assert not outside
