"""The client of speech servers, against a real server in a process of its own that fails in every known way."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from duplexdata.errors import ConfigError, SourceError, SpeechServerError, SynthesisError
from duplexdata.speech.base import Speech, SpeechRequest, Voice, VoicePrompt
from duplexdata.speech.http.answers import Fault, Reaction, judge, retry_after
from duplexdata.speech.http.synthesizer import HttpSynthesizer
from duplexdata.speech.wav import write_wav
from tests.speech.server import CHARACTER_SEC, FAULTS, RATE, Behaviour, Running, running

TRANSCRIPT = "the words of the recording"
REQUEST_FAULTS = [f for f in FAULTS if f not in ("slow", "drip", "status_400", "status_429")]


@pytest.fixture(scope="module")
def voice(tmp_path_factory: pytest.TempPathFactory) -> Voice:
    path = tmp_path_factory.mktemp("prompts") / "prompt.wav"
    sf.write(path, 0.1 * np.random.default_rng(0).standard_normal((3 * RATE, 2)), RATE)
    prompt = VoicePrompt(str(path), TRANSCRIPT, hashlib.sha256(path.read_bytes()).hexdigest())
    return Voice("cloned", "train", (), prompt)


@pytest.fixture(scope="module")
def faulty() -> Iterator[Running]:
    with running(Behaviour(by_name=True)) as server:
        yield server


@contextmanager
def speaking(*servers: Running, **settings: object) -> Iterator[HttpSynthesizer]:
    with closing(HttpSynthesizer([s.url for s in servers], **settings)) as found:  # type: ignore[arg-type]
        yield found


def requests(n: int, voice: Voice) -> list[SpeechRequest]:
    """Of different lengths, so that an answer in a wrong place is seen."""
    return [SpeechRequest(f"number {i} " + "la " * (i % 13), voice, seed=i) for i in range(n)]


def check_sound(found: list[Speech | SynthesisError], wanted: list[SpeechRequest]) -> None:
    """Every utterance is there, in its place."""
    assert len(found) == len(wanted)
    for result, request in zip(found, wanted, strict=True):
        assert isinstance(result, Speech), result
        assert result.duration == pytest.approx(CHARACTER_SEC * len(request.text))
        assert result.words is None
        assert np.abs(result.samples).max() > 0.1


def add_up(spoken: HttpSynthesizer, server: Running | None = None) -> None:
    c = spoken.counts
    assert c["requests"] == c["spoken"] + c["failed"]
    assert c["sent"] == c["spoken"] + sum(n for kind, n in c.items() if kind.startswith("fault:"))
    if server is not None:
        counts = server.stats()["counts"]
        assert counts["answered"] == c["spoken"]
        assert counts["received"] == c["sent"]


# -- all is well


def test_every_utterance_comes_back_in_its_place(voice: Voice) -> None:
    wanted = requests(60, voice)
    with running(Behaviour(delay_sec=0.03)) as server, speaking(server, in_flight=8) as spoken:
        found = list(spoken.synthesize_many(iter(wanted)))
        check_sound(found, wanted)
        add_up(spoken, server)
        assert 1 < server.stats()["most_busy"] <= 8
        again = list(spoken.synthesize_many(wanted))
    for a, b in zip(found, again, strict=True):
        assert isinstance(a, Speech)
        assert isinstance(b, Speech)
        assert np.array_equal(a.samples, b.samples)


def test_the_sound_follows_from_text_voice_and_seed(voice: Voice) -> None:
    with running() as server, speaking(server) as spoken:
        resident = Voice("other", "train", (("voice", "resident"),))
        wanted = [SpeechRequest("one two", v, seed=s) for v in (voice, resident) for s in (1, 2)]
        found = [s.samples.tobytes() for s in spoken.synthesize_many(wanted) if isinstance(s, Speech)]
        assert len(set(found)) == 4
        assert spoken.describe() == {"name": "speech_http/test-model", "sample_rate": "24000"}


def test_requests_are_taken_up_as_they_are_needed(voice: Voice) -> None:
    """A stream of any length costs the memory of a few utterances."""
    taken = 0

    def endless() -> Iterator[SpeechRequest]:
        nonlocal taken
        while True:
            taken += 1
            yield SpeechRequest(f"number {taken}", voice)

    with running() as server, speaking(server, in_flight=4) as spoken:
        results = spoken.synthesize_many(endless())
        for _ in range(30):
            next(results)
        assert taken <= 30 + 2 * 4
        results.close()  # type: ignore[attr-defined]
        check_sound(list(spoken.synthesize_many(requests(3, voice))), requests(3, voice))


def test_voices_are_uploaded_once(voice: Voice) -> None:
    other = Voice("other", "train", (), VoicePrompt(voice.prompt.path, "another transcript", ""))  # type: ignore[union-attr]
    wanted = requests(10, voice) + requests(10, other)
    with running(Behaviour(voices=True)) as server, speaking(server) as spoken:
        uploaded = list(spoken.synthesize_many(wanted))
        check_sound(uploaded, wanted)
        with speaking(server) as second:
            check_sound(list(second.synthesize_many(wanted)), wanted)
        assert server.stats()["counts"]["uploads"] == 2
        with speaking(server, register_voices=False) as third:
            inline = list(third.synthesize_many(wanted))
        assert server.stats()["counts"]["uploads"] == 2
    for a, b in zip(uploaded, inline, strict=True):
        assert isinstance(a, Speech)
        assert isinstance(b, Speech)
        assert np.array_equal(a.samples, b.samples)


def test_a_voice_that_a_server_forgot_is_uploaded_again(voice: Voice) -> None:
    wanted = requests(10, voice)
    with running(Behaviour(voices=True, forget_voices=5)) as server, speaking(server, in_flight=1) as spoken:
        check_sound(list(spoken.synthesize_many(wanted)), wanted)
        assert server.stats()["counts"]["uploads"] == 2
        add_up(spoken)


def test_a_server_without_seeds_is_asked_without(voice: Voice) -> None:
    wanted = requests(10, voice)
    with running(Behaviour(takes_seed=False)) as server, speaking(server, in_flight=2) as spoken:
        check_sound(list(spoken.synthesize_many(wanted)), wanted)
        add_up(spoken)


# -- faults


@pytest.mark.parametrize("fault", REQUEST_FAULTS)
def test_a_fault_is_made_good(fault: str, faulty: Running, voice: Voice) -> None:
    wanted = [SpeechRequest(f"{fault if i % 3 == 1 else 'well'} {'la ' * i}", voice, seed=i) for i in range(9)]
    with speaking(faulty, in_flight=4) as spoken:
        check_sound(list(spoken.synthesize_many(wanted)), wanted)
        assert faulty.stats()["counts"][fault] == 3
        assert sum(n for k, n in spoken.counts.items() if k.startswith("fault:")) == 3
        add_up(spoken)


@pytest.mark.parametrize(
    ("fault", "kind"),
    [("status_500", "server_error"), ("empty_body", "empty_body"), ("wrong_rate", "wrong_rate"), ("no_wav", "bad_wav")],
)
def test_a_fault_that_stays_fails_its_utterance_and_no_other(fault: str, kind: str, voice: Voice) -> None:
    wanted = requests(16, voice)
    with running(Behaviour(faults=[fault] * 9, every=4)) as server, speaking(server, attempts=2) as spoken:
        found = list(spoken.synthesize_many(wanted))
        failed = [f for f in found if isinstance(f, SynthesisError)]
        assert 0 < len(failed) < len(wanted)
        assert all(f.retryable and str(f).startswith(f"{kind} after 2 attempts") for f in failed)
        good = [(f, w) for f, w in zip(found, wanted, strict=True) if isinstance(f, Speech)]
        check_sound([f for f, _ in good], [w for _, w in good])
        assert spoken.counts["failed"] == len(failed)
        add_up(spoken, server)


@pytest.mark.parametrize("fault", ["slow", "drip"])
def test_an_answer_that_takes_too_long_is_asked_for_again(fault: str, voice: Voice) -> None:
    wanted = requests(4, voice)
    with running(Behaviour(faults=[fault])) as server, speaking(server, timeout_sec=0.4) as spoken:
        check_sound(list(spoken.synthesize_many(wanted)), wanted)
        assert spoken.counts["fault:timeout"] == 4
        add_up(spoken)


def test_a_busy_server_uses_up_no_attempts(voice: Voice) -> None:
    wanted = requests(24, voice)
    behaviour = Behaviour(capacity=2, delay_sec=0.02, retry_after="0")
    with running(behaviour) as server, speaking(server, in_flight=8, attempts=1) as spoken:
        check_sound(list(spoken.synthesize_many(wanted)), wanted)
        assert spoken.counts["fault:busy"] > 0
        assert server.stats()["most_busy"] == 2
        add_up(spoken, server)


def test_one_that_is_always_put_off_fails_in_the_end(voice: Voice) -> None:
    behaviour = Behaviour(faults=["status_429"] * 1000)
    with running(behaviour) as server, speaking(server, patience_sec=0.5) as spoken:
        [found] = spoken.synthesize_many(requests(1, voice))
        assert isinstance(found, SynthesisError)
        assert found.retryable
        assert "busy" in str(found)


def test_what_cannot_be_spoken_is_not_tried_again(voice: Voice) -> None:
    nobody = Voice("nobody", "train")
    with running(Behaviour(faults=["status_400"] * 9)) as server, speaking(server) as spoken:
        wanted = [SpeechRequest("a b", voice), SpeechRequest("…!", voice), SpeechRequest("a b", nobody)]
        found = list(spoken.synthesize_many(wanted))
        assert all(isinstance(f, SynthesisError) and not f.retryable for f in found), found
        assert server.stats()["counts"]["received"] == 1
        assert "no recording" in str(found[2])
        add_up(spoken)


def test_a_wrong_key_stops_the_run_and_is_in_no_message(voice: Voice, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with running(Behaviour(key="right")) as server:
        with pytest.raises(ConfigError, match="401") as refused, speaking(server, key="wrong-and-secret"):
            pass
        assert "secret" not in str(refused.value)
        with speaking(server, key="right") as spoken:
            check_sound(list(spoken.synthesize_many(requests(2, voice))), requests(2, voice))
    assert "secret" not in caplog.text


def test_a_recording_that_has_changed_stops_the_run(voice: Voice) -> None:
    assert voice.prompt is not None
    changed = Voice("changed", "train", (), VoicePrompt(voice.prompt.path, TRANSCRIPT, "0" * 64))
    missing = Voice("missing", "train", (), VoicePrompt(voice.prompt.path + "x", TRANSCRIPT, ""))
    with running() as server, speaking(server) as spoken:
        with pytest.raises(SourceError, match="has changed"):
            list(spoken.synthesize_many(requests(1, changed)))
        with pytest.raises(SourceError, match="cannot be read"):
            list(spoken.synthesize_many(requests(1, missing)))


# -- several servers


def test_work_goes_to_the_server_that_is_less_busy(voice: Voice) -> None:
    wanted = requests(60, voice)
    with (
        running() as fast,
        running(Behaviour(delay_sec=0.4)) as slow,
        speaking(fast, slow, in_flight=8) as spoken,
    ):
        check_sound(list(spoken.synthesize_many(wanted)), wanted)
        by_fast, by_slow = (s.stats()["counts"]["answered"] for s in (fast, slow))
        assert by_fast > 2 * by_slow > 0
        assert by_fast + by_slow == 60


def test_a_dead_server_is_left_out_and_taken_in_again(voice: Voice) -> None:
    wanted = requests(40, voice)
    with running(Behaviour(delay_sec=0.02)) as good:
        with running(Behaviour(delay_sec=0.02)) as mortal:
            port = int(mortal.url.rpartition(":")[2])
            spoken = HttpSynthesizer([good.url, mortal.url], in_flight=4)
            results = spoken.synthesize_many(wanted)
            found = [next(results) for _ in range(10)]
            mortal.process.kill()
            found += results
        check_sound(found, wanted)
        add_up(spoken)
        with running(Behaviour(port=port)) as back:
            end = time.monotonic() + 20
            while not back.stats()["counts"].get("answered") and time.monotonic() < end:
                check_sound(list(spoken.synthesize_many(wanted[:8])), wanted[:8])
            assert back.stats()["counts"]["answered"] > 0
        spoken.close()


def test_when_all_servers_are_gone_for_too_long_the_run_stops_with_one_error(voice: Voice) -> None:
    with running() as server, speaking(server, patience_sec=0.5) as spoken:
        check_sound(list(spoken.synthesize_many(requests(2, voice))), requests(2, voice))
        server.process.kill()
        with pytest.raises(SpeechServerError, match="start them, and the build again") as stopped:
            list(spoken.synthesize_many(requests(30, voice)))
        assert stopped.value.retryable


def test_a_run_waits_for_a_server_that_is_started_again(voice: Voice) -> None:
    wanted = requests(6, voice)
    with running() as first:
        port = int(first.url.rpartition(":")[2])
        spoken = HttpSynthesizer([first.url], patience_sec=60)
        first.process.kill()
        first.process.wait()
        results = spoken.synthesize_many(wanted)
        with running(Behaviour(port=port)):
            check_sound(list(results), wanted)
        assert spoken.counts["failed"] == 0
        spoken.close()


@pytest.mark.parametrize("model", [None, "test-model"])
def test_servers_of_different_models_are_refused(model: str | None) -> None:
    with (
        running() as one,
        running(Behaviour(model="another")) as other,
        pytest.raises(ConfigError, match="another, expected test-model"),
        speaking(one, other, model=model),
    ):
        pass


def test_a_server_that_does_not_say_its_model_needs_one_configured(voice: Voice) -> None:
    with running(Behaviour(model=None)) as server:
        with pytest.raises(ConfigError, match=r"set speech\.model"), speaking(server):
            pass
        with speaking(server, model="mine") as spoken:
            assert spoken.name == "speech_http/mine"
            check_sound(list(spoken.synthesize_many(requests(2, voice))), requests(2, voice))


def test_no_server_at_all_is_said_at_once() -> None:
    with pytest.raises(SpeechServerError, match="no speech server answers"):
        HttpSynthesizer(["http://127.0.0.1:9"], start_patience_sec=0)


@pytest.mark.parametrize("address", ["127.0.0.1:80", "ftp://x", "http://user:word@x", "http://x?y=1", ""])
def test_a_wrong_address_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match=r"speech\.servers"):
        HttpSynthesizer([address], start_patience_sec=0)


# -- answers by themselves


def test_an_answer_is_judged_by_all_of_it() -> None:
    wav = write_wav(np.full(240, 0.5, np.float32), RATE)
    sound = {"content-type": "audio/wav"}
    good = judge(200, sound, wav, RATE, 0.0)
    assert isinstance(good, Speech)
    assert len(good.samples) == 240
    streamed = wav[:40] + b"\xff\xff\xff\xff" + wav[44:]  # a server that did not know the length
    assert isinstance(judge(200, sound, streamed, RATE, 0.0), Speech)
    for body, kind in (
        (wav[:-2], "bad_wav"),
        (wav[:40], "bad_wav"),
        (b"", "empty_body"),
        (b'{"error": 1}', "json_error"),
    ):
        found = judge(200, sound, body, RATE, 0.0)
        assert isinstance(found, Fault)
        assert (found.kind, found.reaction) == (kind, Reaction.RETRY)
    for status, reaction in (
        (429, Reaction.WAIT),
        (422, Reaction.GIVE_UP),
        (403, Reaction.STOP),
        (503, Reaction.RETRY),
    ):
        found = judge(status, {"retry-after": "7"}, b"x" * 9999, RATE, 0.0)
        assert isinstance(found, Fault)
        assert found.reaction is reaction
        assert len(found.reason) < 300
        assert found.wait_sec == (7.0 if status in (429, 503) else 0.0)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("3", 3.0), ("0.5", 0.5), ("9999", 60.0), ("", 0.0), ("soon", 0.0), ("-1", 0.0)]
    + [("Thu, 01 Jan 1970 00:00:30 GMT", 20.0), ("Thu, 01 Jan 1970 00:00:01 GMT", 0.0)],
)
def test_retry_after_is_seconds_or_a_date(value: str, seconds: float) -> None:
    assert retry_after(value, 10.0) == seconds


def test_the_server_of_the_tests_knows_no_other_fault() -> None:
    assert set(REQUEST_FAULTS) | {"slow", "drip", "status_400", "status_429"} == set(FAULTS)
    assert (Path(__file__).with_name("server.py")).is_file()
