"""The embedded codec: its clock, its independence of the batch, silence, and what survives a round trip."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soxr
import torch
from safetensors.torch import save_file

from duplexdata.codecs.base import Int16, SpeechTokenizer
from duplexdata.codecs.mel import CODEBOOK_SIZE, DEFAULT_WEIGHTS, FRAME, SILENCE, MelCodec
from duplexdata.errors import CodecError


@pytest.fixture(scope="module")
def codec() -> MelCodec:
    return MelCodec.load()


def speech_like(seed: int, seconds: float = 4.0) -> Int16:
    """Syllables of moving formants over a falling pitch, hisses, and digital silence between phrases."""
    rng = np.random.default_rng(seed)
    parts, phase, pitch = [np.zeros(int(rng.integers(200, 3000)))], 0.0, float(rng.uniform(90, 220))
    while sum(map(len, parts)) < seconds * 16_000:
        n = int(rng.integers(1600, 4800))
        t = np.linspace(0, 1, n)
        kind = rng.choice(["vowel", "vowel", "hiss", "pause"])
        if kind == "pause":
            parts.append(np.zeros(n))
            continue
        if kind == "hiss":
            sound = np.diff(rng.standard_normal(n + 1)) * 0.3
        else:
            f0 = pitch * (1 - 0.2 * t)
            angle = phase + 2 * np.pi * np.cumsum(f0) / 16_000
            phase = float(angle[-1])
            sound = np.zeros(n)
            starts, ends = (rng.uniform([250, 800, 2200], [800, 2200, 3200]) for _ in range(2))
            for k in range(1, 30):
                hz = f0 * k
                gain = sum(
                    0.5**i / (1 + ((hz - a - (b - a) * t) / 90) ** 2)
                    for i, (a, b) in enumerate(zip(starts, ends, strict=True))
                )
                sound += (gain + 0.003) * np.cos(k * angle + k * k)
        envelope = np.minimum(1, np.minimum(t, 1 - t) * 6)
        parts.append(sound * envelope * 10 ** rng.uniform(-0.5, 0))
    x = np.concatenate(parts)[: int(seconds * 16_000)]
    x *= 0.05 * 32768 / np.sqrt(np.mean(x[x != 0] ** 2))
    return np.clip(np.rint(x), -32768, 32767).astype(np.int16)


def loudness(codec: MelCodec, tokens: np.ndarray) -> np.ndarray:
    """dBFS of what each token stands for."""
    power = 10 ** (codec._levels / 10)
    return np.append(codec.settings.silence_dbfs, 10 * np.log10(power.sum(axis=2).mean(axis=1)))[tokens]


def test_it_is_a_speech_tokenizer_with_the_default_clock(codec: MelCodec) -> None:
    tokenizer: SpeechTokenizer = codec
    assert tokenizer.name == "mel/1"
    assert tokenizer.sample_rate / tokenizer.frame_rate == FRAME
    assert (tokenizer.codebook_size, tokenizer.n_codebooks, tokenizer.context_samples) == (1024, 1, 0)
    assert tokenizer.can_decode
    assert all(isinstance(value, str) for value in tokenizer.describe().values())


@pytest.mark.parametrize("n", [0, 1, 2, 1279, 1280, 1281, 2559, 2560, 2561, 12_800, 256 * 1280, 300 * 1280 + 7])
def test_a_clip_has_a_token_for_each_frame_it_touches(codec: MelCodec, n: int) -> None:
    noise = (np.random.default_rng(n).standard_normal(n) * 1000).astype(np.int16)
    for clip in (noise, np.zeros(n, np.int16)):
        (tokens,) = codec.encode([clip])
        assert tokens.shape == (-(-n // FRAME),)
        assert tokens.dtype == np.int32
        assert np.all((tokens >= 0) & (tokens < CODEBOOK_SIZE))


def test_no_clips_give_no_tokens(codec: MelCodec) -> None:
    assert codec.encode([]) == []


def test_tokens_do_not_depend_on_batch_or_order(codec: MelCodec) -> None:
    rng = np.random.default_rng(0)
    clips = [speech_like(seed, float(rng.uniform(0.1, 8))) for seed in range(12)]
    clips += [(rng.standard_normal(n) * 30).astype(np.int16) for n in (1, 1280, 70_001)]
    alone = [codec.encode([clip])[0] for clip in clips]
    for _ in range(4):
        order = rng.permutation(len(clips))
        together = codec.encode([clips[i] for i in order])
        for i, tokens in zip(order, together, strict=True):
            np.testing.assert_array_equal(tokens, alone[i])


def test_each_token_depends_on_its_own_frame_only(codec: MelCodec) -> None:
    clip = speech_like(1, 3.0)
    (whole,) = codec.encode([clip])
    frames = [clip[at : at + FRAME] for at in range(0, len(clip), FRAME)]
    np.testing.assert_array_equal(np.concatenate(codec.encode(frames)), whole)
    np.testing.assert_array_equal(codec.encode([clip[: 7 * FRAME]])[0], whole[:7])
    np.testing.assert_array_equal(codec.encode([clip[5 * FRAME :]])[0], whole[5:])


def test_tokens_do_not_depend_on_threads_or_memory_alignment(codec: MelCodec) -> None:
    clip = speech_like(2, 5.0)
    (expected,) = codec.encode([clip])
    shifted = np.concatenate([np.zeros(3, np.int16), clip])[3:]
    strided = np.stack([clip, clip[::-1]], axis=1)[:, 0]
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            for same in (clip, shifted, strided):
                np.testing.assert_array_equal(codec.encode([same])[0], expected)
    finally:
        torch.set_num_threads(before)


def test_close_calls_are_settled_in_64_bits(codec: MelCodec, monkeypatch: pytest.MonkeyPatch) -> None:
    clips = [speech_like(seed) for seed in range(4)]
    quick = codec.encode(clips)
    monkeypatch.setattr("duplexdata.codecs.mel._CLOSE_CALL", float("inf"))
    for tokens, exact in zip(quick, codec.encode(clips), strict=True):
        np.testing.assert_array_equal(tokens, exact)


def test_int16_and_float32_give_the_same_tokens(codec: MelCodec) -> None:
    clip = speech_like(3)
    as_float = clip.astype(np.float32) / np.float32(32768)
    np.testing.assert_array_equal(codec.encode([as_float])[0], codec.encode([clip])[0])
    # beyond full scale it is clipped, not wrapped around
    loud = np.full(FRAME, 1.5, np.float32)
    np.testing.assert_array_equal(codec.encode([loud])[0], codec.encode([np.full(FRAME, 32767, np.int16)])[0])


def test_input_is_not_changed(codec: MelCodec) -> None:
    clip = speech_like(4)
    copy = clip.copy()
    codec.encode([clip])
    np.testing.assert_array_equal(clip, copy)


def test_frames_of_zeros_are_silence_and_nothing_audible_is(codec: MelCodec) -> None:
    assert set(codec.encode([np.zeros(10 * FRAME, np.int16)])[0]) == {SILENCE}
    rng = np.random.default_rng(5)
    for dbfs, silent in ((-3, False), (-26, False), (-50, False), (-59.5, False), (-60.5, True), (-80, True)):
        noise = rng.standard_normal((50, FRAME)) * 3
        noise *= 32768 * 10 ** (dbfs / 20) / np.sqrt(np.mean(noise**2, axis=1, keepdims=True))
        # rounding to int16 adds noise of its own, far below
        (tokens,) = codec.encode([np.clip(np.rint(noise), -32768, 32767).astype(np.int16).reshape(-1)])
        assert np.all((tokens == SILENCE) == silent), dbfs


def test_silence_inside_a_clip_is_found_at_the_right_frames(codec: MelCodec) -> None:
    clip = (np.random.default_rng(6).standard_normal(40 * FRAME) * 1000).astype(np.int16)
    silent = np.random.default_rng(7).random(40) < 0.5
    clip.reshape(40, FRAME)[silent] = 0
    np.testing.assert_array_equal(codec.encode([clip])[0] == SILENCE, silent)


@pytest.mark.parametrize("n", [0, 1, 2, 3, 17])
def test_decoded_sound_has_a_frame_for_each_token(codec: MelCodec, n: int) -> None:
    tokens = np.random.default_rng(n).integers(0, CODEBOOK_SIZE, n).astype(np.int32)
    sound = codec.decode(tokens)
    assert sound.shape == (n * FRAME,)
    assert sound.dtype == np.float32
    assert np.all(np.abs(sound) <= 1)
    np.testing.assert_array_equal(sound, codec.decode(tokens))


def test_every_single_code_can_be_heard_except_silence(codec: MelCodec) -> None:
    assert not np.any(codec.decode(np.zeros(5, np.int32)))
    for code in range(1, CODEBOOK_SIZE, 37):
        sound = codec.decode(np.full(3, code, np.int32))
        assert np.all(np.isfinite(sound)) and np.sqrt(np.mean(sound**2)) > 1e-4


def test_silent_frames_decode_to_zeros_between_sounding_ones(codec: MelCodec) -> None:
    tokens = np.array([500, 500, 0, 0, 800, 0], np.int32)
    sound = codec.decode(tokens).reshape(-1, FRAME)
    np.testing.assert_array_equal(np.any(sound != 0, axis=1), tokens != SILENCE)


def test_joints_between_frames_do_not_click(codec: MelCodec) -> None:
    rng = np.random.default_rng(8)
    sound = codec.decode(rng.integers(1, CODEBOOK_SIZE, 200).astype(np.int32)).astype(np.float64)
    steps = np.abs(np.diff(sound))
    joints = np.arange(FRAME - 1, len(steps), FRAME)
    assert np.sqrt(np.mean(steps[joints] ** 2)) < 1.5 * np.sqrt(np.mean(steps**2))


def test_silence_and_loudness_survive_a_round_trip(codec: MelCodec) -> None:
    before = np.concatenate(codec.encode([speech_like(seed, 10.0) for seed in range(5)]))
    (after,) = codec.encode([codec.decode(before)])
    assert np.mean((before == SILENCE) == (after == SILENCE)) >= 0.95
    sounding = before != SILENCE
    difference = loudness(codec, after)[sounding] - loudness(codec, before)[sounding]
    assert np.mean(np.abs(difference) <= 6) >= 0.9
    assert abs(np.mean(difference)) < 2


def test_level_survives_decoding(codec: MelCodec) -> None:
    clip = speech_like(9, 10.0)
    sound = codec.decode(codec.encode([clip])[0])
    original = 20 * np.log10(np.sqrt(np.mean((clip / 32768) ** 2)))
    assert 20 * np.log10(np.sqrt(np.mean(sound**2))) == pytest.approx(original, abs=6)


def test_what_it_does_not_take_is_refused(codec: MelCodec) -> None:
    with pytest.raises(CodecError, match="mono"):
        codec.encode([np.zeros((2, FRAME), np.int16)])
    with pytest.raises(CodecError, match="float64"):
        codec.encode([np.zeros(FRAME)])  # type: ignore[list-item]
    with pytest.raises(CodecError, match="finite"):
        codec.encode([np.full(FRAME, np.nan, np.float32)])
    for tokens in ([-1], [CODEBOOK_SIZE], [[1, 2]]):
        with pytest.raises(CodecError, match="tokens"):
            codec.decode(np.array(tokens, np.int32))


def test_files_that_are_no_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CodecError, match="cannot be read"):
        MelCodec.load(tmp_path / "none.safetensors")
    (tmp_path / "text").write_text("no weights")
    with pytest.raises(CodecError, match="cannot be read"):
        MelCodec.load(tmp_path / "text")
    save_file({"levels": torch.zeros(3)}, tmp_path / "other")
    with pytest.raises(CodecError, match="format"):
        MelCodec.load(tmp_path / "other")
    with pytest.raises(CodecError, match="levels"):
        MelCodec(MelCodec.load().settings, {"levels": torch.zeros(3)})


def test_the_weights_are_small() -> None:
    assert DEFAULT_WEIGHTS.stat().st_size < 1_000_000


@pytest.mark.slow
def test_fitting_is_repeatable_and_loads() -> None:
    fit_mel = pytest.importorskip("duplexdata.codecs.fit_mel", reason="needs scikit-learn", exc_type=ImportError)
    clips = [speech_like(seed, 10.0).astype(np.float32) / np.float32(32768) for seed in range(12)]
    first, second = fit_mel.fit(clips, seed=1), fit_mel.fit(clips, seed=1)
    assert all(torch.equal(first[key], second[key]) for key in first)
    codec = MelCodec(MelCodec.load().settings, first)
    assert len(set(np.concatenate(codec.encode(clips)))) > 300


def test_pitch_is_found_where_there_is_one() -> None:
    fit_mel = pytest.importorskip("duplexdata.codecs.fit_mel", reason="needs scikit-learn", exc_type=ImportError)
    t = np.arange(3200) / 16_000
    for hz in (80, 125, 220):
        tone = 3000 * np.sum([np.cos(2 * np.pi * hz * k * t) / k for k in range(1, 12)], axis=0)
        pitch = fit_mel.pitch_track(tone.astype(np.int16), 320)
        assert np.all(np.abs(pitch[1:-1] / hz - 1) < 0.03)
    noise = (np.random.default_rng(0).standard_normal(3200) * 1000).astype(np.int16)
    assert np.mean(fit_mel.pitch_track(noise, 320) > 0) < 0.2


def test_sentences_use_many_codes_and_keep_their_pauses(codec: MelCodec) -> None:
    pytest.importorskip("espeakng_loader")
    from duplexdata.speech.base import Speech, SpeechRequest
    from duplexdata.speech.espeak import EspeakSynthesizer
    from duplexdata.speech.voices import user_voices

    texts = (
        "Could you tell me when the next train to the harbour leaves, and whether it is usually on time?",
        "Seven quick foxes jumped over a lazy brown dog; nobody saw them, although everyone was watching.",
        "My sister thinks we should fix the roof before winter. I would rather wait until the spring.",
    )
    synthesizer = EspeakSynthesizer()
    try:
        requests = [SpeechRequest(text, voice) for voice in user_voices()[::4] for text in texts]
        clips = []
        for speech in synthesizer.synthesize_many(requests):
            assert isinstance(speech, Speech)
            sound = soxr.resample(speech.samples, speech.sample_rate, 16_000, "QQ")
            sound *= 0.05 / np.sqrt(np.mean(sound**2))
            clips.append(np.pad(sound, 3 * FRAME).astype(np.float32))
    finally:
        synthesizer.close()
    tokens = codec.encode(clips)
    assert len(set(np.concatenate(tokens))) >= 300
    for before in tokens[::6]:
        assert set(before[[0, 1, -1]]) == {SILENCE}
        (after,) = codec.encode([codec.decode(before)])
        assert np.mean((before == SILENCE) == (after == SILENCE)) >= 0.9
        assert np.mean(np.abs(loudness(codec, before) - loudness(codec, after)) <= 6) >= 0.9
