"""Voices are dealt evenly, whatever the bank is like; speakers belong to one split."""

from __future__ import annotations

from collections import Counter
from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from duplexdata.errors import ConfigError
from duplexdata.rng import rng_for
from duplexdata.speech.base import Voice, VoicePrompt
from duplexdata.voices.bank import ANY_LANGUAGE, BankVoice, VoiceBank
from duplexdata.voices.deck import Deck, dealt, held_out
from duplexdata.voices.embedded import embedded_voices

LEVELS = ("sex", "accent")


def voice(
    id_: str, sex: str = "", accent: str = "", *, speaker: str = "", split: str = "train", language: str = "en"
) -> BankVoice:
    return BankVoice(Voice(id_, split), speaker or id_, language, sex, accent)


@st.composite
def crowds(draw: st.DrawFn) -> list[BankVoice]:
    """Speakers of few sexes and accents, very unequal in number, some with several voices."""
    n = draw(st.integers(1, 40))
    found = []
    for i in range(n):
        sex, accent = draw(st.sampled_from("fffffm")), draw(st.sampled_from("aaaaaabc"))
        for k in range(draw(st.integers(1, 2))):
            found.append(voice(f"{i}-{k}", sex, accent, speaker=f"s{i}"))
    return found


def spread(counts: Counter[str]) -> int:
    return max(counts.values()) - min(counts.values())


@given(crowds(), st.integers(0, 5), st.integers(1, 200), st.integers(0, 1000))
def test_any_stretch_of_draws_is_even_at_every_level(crowd: list[BankVoice], seed: int, draws: int, start: int) -> None:
    deck = Deck(crowd, LEVELS, rng_for(seed, "x", "test"))
    found = [deck.at(start + i) for i in range(draws)]
    sexes = Counter({v.sex: 0 for v in crowd})
    sexes.update(v.sex for v in found)
    assert spread(sexes) <= 1
    for sex in sexes:
        accents = Counter({v.accent: 0 for v in crowd if v.sex == sex})
        accents.update(v.accent for v in found if v.sex == sex)
        assert spread(accents) <= 1
        for accent in accents:
            here = [v for v in crowd if (v.sex, v.accent) == (sex, accent)]
            speakers = Counter({v.speaker: 0 for v in here})
            speakers.update(v.speaker for v in found if (v.sex, v.accent) == (sex, accent))
            assert spread(speakers) <= 1


@given(crowds(), st.integers(0, 5))
def test_an_order_depends_on_the_seed_and_not_on_the_banks_order(crowd: list[BankVoice], seed: int) -> None:
    one, other = (Deck(c, LEVELS, rng_for(seed, "x", "test")) for c in (crowd, crowd[::-1]))
    assert [one.at(i).id for i in range(60)] == [other.at(i).id for i in range(60)]


def test_another_seed_is_another_order() -> None:
    crowd = embedded_voices()
    orders = {tuple(Deck(crowd, LEVELS, rng_for(s, "x", "t")).at(i).id for i in range(20)) for s in range(8)}
    assert len(orders) == 8


def test_without_levels_only_speakers_are_even() -> None:
    crowd = [voice(str(i), "f" if i else "m") for i in range(10)]
    deck = Deck(crowd, (), rng_for(0, "x", "test"))
    assert set(Counter(deck.at(i).id for i in range(30)).values()) == {3}


@given(crowds(), st.integers(0, 5))
def test_dealing_out_gives_each_voice_once(crowd: list[BankVoice], seed: int) -> None:
    found = list(dealt(crowd, LEVELS, rng_for(seed, "x", "test")))
    assert sorted(v.id for v in found) == sorted(v.id for v in crowd)


def test_dealing_out_is_even_for_as_long_as_it_can_be() -> None:
    crowd = [voice(f"f{i}", "f", "ab"[i % 2]) for i in range(20)] + [voice(f"m{i}", "m", "a") for i in range(5)]
    first = list(islice(dealt(crowd, LEVELS, rng_for(0, "x", "test")), 10))
    assert Counter(v.sex for v in first) == {"f": 5, "m": 5}
    assert Counter(v.accent for v in first if v.sex == "f")["a"] in (2, 3)


def test_in_place_of_one_that_is_not_taken_comes_another_of_its_group() -> None:
    crowd = [voice(f"f{i}", "f", "a") for i in range(9)] + [voice(f"m{i}", "m", "a") for i in range(9)]
    asked: list[str] = []

    def take(v: BankVoice) -> bool:
        asked.append(v.id)
        return v.id not in ("m1", "m2", "m3", "m4", "m5")

    found = list(islice(dealt(crowd, LEVELS, rng_for(0, "x", "test"), take), 8))
    assert Counter(v.sex for v in found) == {"f": 4, "m": 4}
    assert len(asked) == len(set(asked))


def test_who_is_drawn_besides_is_of_another_speaker_and_as_even() -> None:
    crowd = [voice(f"f{i}", "f", "a") for i in range(30)] + [voice("m", "m", "a"), voice("m2", "m", "a", speaker="m")]
    deck = Deck(crowd, LEVELS, rng_for(0, "x", "test"))
    rng = np.random.default_rng(0)
    found = [deck.draw(rng, but="f3") for _ in range(2000)]
    assert "f3" not in {v.speaker for v in found}
    assert sum(v.sex == "m" for v in found) / 2000 == pytest.approx(0.5, abs=0.05)
    assert {deck.draw(rng, but="m").sex for _ in range(50)} == {"f"}


# -- splits


@given(crowds(), st.sampled_from([0.1, 0.2, 0.5]))
def test_a_share_of_the_speakers_is_held_out_of_each_sex(crowd: list[BankVoice], fraction: float) -> None:
    test = held_out(crowd, fraction)
    assert test == held_out(crowd[::-1], fraction)
    speakers = {v.speaker: v.sex for v in crowd}
    n = len(speakers)
    assert len(test) == max(int(n * fraction + 1e-9), min(2, n // 2))
    for sex in set(speakers.values()):
        share = sum(speakers[s] == sex for s in test)
        expected = sum(s == sex for s in speakers.values()) * len(test) / n
        assert abs(share - expected) <= 1


def test_every_language_has_its_own_share() -> None:
    crowd = [voice(f"{t}{i}", language=t) for t in ("en-GB", "zh") for i in range(10)]
    assert Counter(s[:2] for s in held_out(crowd, 0.2)) == {"en": 2, "zh": 2}


# -- the bank


ASSISTANT = voice("bot", split="both")


def test_a_speaker_in_two_splits_is_refused() -> None:
    users = (voice("a", speaker="s"), voice("b", speaker="s", split="test"))
    with pytest.raises(ConfigError, match=r"a \(train\) and b \(test\)"):
        VoiceBank("x", users, ASSISTANT)


def test_the_assistants_speaker_is_no_user() -> None:
    with pytest.raises(ConfigError, match="one speaker's"):
        VoiceBank("x", (voice("a", speaker="bot"),), ASSISTANT)


def test_an_id_stands_once() -> None:
    with pytest.raises(ConfigError, match="same id: a"):
        VoiceBank("x", (voice("a", speaker="s"), voice("a", speaker="s")), ASSISTANT)


@pytest.mark.parametrize("language", ["en", "en-GB", "EN-us"])
def test_a_language_is_spoken_by_its_own_voices(language: str) -> None:
    bank = VoiceBank("x", (voice("a", language="en-US"), voice("z", language="zh")), ASSISTANT)
    assert [v.id for v in bank.users_of("train", language)] == ["a"]
    assert bank.users_of("test", language) == ()


def test_a_language_without_voices_has_all_of_them_if_the_bank_may_speak_across_languages() -> None:
    users = (voice("a"), voice("b"), voice("z", language="zh"))
    assert VoiceBank("x", users, ASSISTANT).users_of("train", "de") == ()
    bank = VoiceBank("x", users, ASSISTANT, cross_lingual=True)
    assert len(bank.users_of("train", "de")) == 3
    assert [v.id for v in bank.users_of("train", "en")] == ["a", "b"]
    # too few of its own
    assert len(bank.users_of("train", "zh", speakers=2)) == 3
    assert [v.id for v in bank.users_of("train", "cmn")] == ["z"]


def test_an_engines_voice_speaks_any_language() -> None:
    bank = VoiceBank("x", (voice("a", language=ANY_LANGUAGE),), ASSISTANT)
    assert bank.users_of("train", "yo")


def test_two_voices_of_one_speaker_are_one_speaker() -> None:
    bank = VoiceBank("x", (voice("a", speaker="s"), voice("b", speaker="s")), ASSISTANT)
    assert len(bank.users_of("train", "en")) == 2
    assert bank.users_of("train", "en", speakers=2) == ()


def test_paths_and_refusals_decide_on_no_sound_and_no_casting() -> None:
    def bank(path: str, sha: str, licence: str, sex: str) -> VoiceBank:
        spoken = Voice("a", "train", (), VoicePrompt(path, "hello", sha))
        return VoiceBank("x", (BankVoice(spoken, "a", "en", sex, licence=licence),), ASSISTANT)

    base = bank("/one/a.wav", "1", "CC0-1.0", "f")
    moved, other_sound = bank("/two/a.wav", "1", "CC0-1.0", "f"), bank("/one/a.wav", "2", "CC0-1.0", "f")
    relicensed, other_sex = bank("/one/a.wav", "1", "CC-BY-4.0", "f"), bank("/one/a.wav", "1", "CC0-1.0", "m")
    assert (base.casting(), base.sounds(), base.facts()) == (moved.casting(), moved.sounds(), moved.facts())
    assert base.casting() == other_sound.casting() and base.sounds() != other_sound.sounds()
    assert (base.casting(), base.sounds()) == (relicensed.casting(), relicensed.sounds())
    assert base.facts() != relicensed.facts()
    assert base.casting() != other_sex.casting()
