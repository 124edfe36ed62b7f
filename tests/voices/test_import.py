"""Banks are made from small corpora in their publishers' layouts."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import soxr
from voice_prompts import Float32, Prompt

from duplexdata.config import PromptLimits, VoicesConfig
from duplexdata.errors import ConfigError, SourceError
from duplexdata.voices.corpora import read_corpus
from duplexdata.voices.importing import ImportSettings, import_corpus
from duplexdata.voices.judge import Measured, measure
from duplexdata.voices.load import load_bank, survey


def write(path: Path, samples: Float32, rate: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    sf.write(path, samples, rate)


def at(prompt: Prompt, rate: int) -> Float32:
    found: Float32 = soxr.resample(prompt.samples, prompt.rate, rate, quality="HQ").astype(np.float32)
    return found


def noisy(samples: Float32, snr_db: float = 25.0) -> Float32:
    level = float(np.sqrt(np.mean(np.square(samples)))) * 10 ** (-snr_db / 20)
    found: Float32 = samples + np.random.default_rng(3).standard_normal(len(samples)).astype(np.float32) * level
    return found


SEXES = "FM"


@pytest.fixture
def libritts(tmp_path: Path, made_prompts: list[Prompt]) -> Path:
    """Six readers with two utterances each (one of them noisier), one of whom has only clipped ones."""
    root = tmp_path / "LibriTTS"
    lines = ["READER\tGENDER\tSUBSET\tNAME"]
    for i, prompt in enumerate(made_prompts[:6]):
        reader = str(100 + i)
        lines.append(f"{reader}\t{SEXES[i % 2]}\ttrain-clean-100\tSomebody {i}")
        chapter = root / "train-clean-100" / reader / "7000"
        for k, other in enumerate((prompt, made_prompts[(i + 6) % 12])):
            samples = at(other, 24_000)
            if i == 5:
                samples = np.clip(samples * 20, -1, 1)
            stem = f"{reader}_7000_000001_00000{k}"
            write(chapter / f"{stem}.wav", noisy(samples) if k else samples, 24_000)
            (chapter / f"{stem}.normalized.txt").write_text(other.transcript + "\n")
            (chapter / f"{stem}.original.txt").write_text(other.transcript.upper())
    (root / "speakers.tsv").write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture
def vctk(tmp_path: Path, made_prompts: list[Prompt]) -> Path:
    root = tmp_path / "VCTK-Corpus-0.92"
    accents = ["English", "Scottish", "American", "Unknown"]
    lines = ["ID  AGE  GENDER  ACCENTS  REGION COMMENTS "]
    for i in range(4):
        name = f"p{225 + i}"
        lines.append(f"{name}  23  {SEXES[i % 2]}    {accents[i]}    Southern  England  (mic2 files unavailable)")
        for k in range(3):
            prompt = made_prompts[3 * i + k]
            stem = f"{name}_{k + 1:03d}"
            write(root / "wav48_silence_trimmed" / name / f"{stem}_mic1.flac", at(prompt, 48_000), 48_000)
            write(root / "wav48_silence_trimmed" / name / f"{stem}_mic2.flac", noisy(at(prompt, 48_000)), 48_000)
            (root / "txt" / name).mkdir(parents=True, exist_ok=True)
            text = prompt.transcript if k else prompt.transcript.replace("the", "9")
            (root / "txt" / name / f"{stem}.txt").write_text(text + "\n")
    # p315 has no text in the published corpus
    write(root / "wav48_silence_trimmed" / "p315" / "p315_001_mic1.flac", at(made_prompts[0], 48_000), 48_000)
    (root / "speaker-info.txt").write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture
def common_voice(tmp_path: Path, made_prompts: list[Prompt]) -> Path:
    root = tmp_path / "cv-corpus-19.0" / "en"
    columns = "client_id path sentence_id sentence sentence_domain up_votes down_votes age gender accents variant"
    lines = [f"{columns} locale segment".replace(" ", "\t")]
    genders = ["female_feminine", "male_masculine", "", "male"]
    accents = ["United States English|Midwestern", "", "England English", "Scottish English"]
    for i, prompt in enumerate(made_prompts[:8]):
        client, path = f"{i % 4:0128x}", f"common_voice_en_{i}.mp3"
        write(root / "clips" / path, at(prompt, 32_000), 32_000)
        sentence = prompt.transcript.replace("the", 'the "') if i == 7 else prompt.transcript
        row = [client, path, "s", sentence, "", "2", "0", "", genders[i % 4], accents[i % 4], "", "en", ""]
        lines.append("\t".join(row))
    (root / "validated.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root


Corpus = tuple[str, Path, int]


@pytest.fixture(params=["libritts", "vctk", "common-voice"])
def corpus(request: pytest.FixtureRequest) -> Corpus:
    """Name, folder, and how many of its speakers have a usable recording."""
    folder = request.getfixturevalue(request.param.replace("-", "_"))
    return request.param, folder, {"libritts": 5, "vctk": 4, "common-voice": 4}[request.param]


def rows(bank: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (bank / "voices.jsonl").read_text(encoding="utf-8").splitlines()]


def hashes(bank: Path) -> dict[str, str]:
    return {
        str(p.relative_to(bank)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(bank.rglob("*"))
        if p.is_file()
    }


def test_what_is_imported_passes_its_own_check(corpus: Corpus, tmp_path: Path) -> None:
    name, folder, usable = corpus
    made = import_corpus(name, folder, tmp_path / "bank", ImportSettings())
    assert made.voices == made.counts.items_out == usable
    assert made.counts.items_in == usable + sum(made.counts.dropped.values())
    found = survey(VoicesConfig(bank=str(tmp_path / "bank")))
    assert [s.faults for s in found] == [[]] * usable
    assert made.train + made.test == usable and made.test >= 1
    bank = load_bank(VoicesConfig(bank=str(tmp_path / "bank"), assistant=found[0].where))
    assert len(bank.users) == usable - 1


def test_prompts_have_one_level_and_short_silences_and_their_own_words(
    corpus: Corpus, tmp_path: Path, made_prompts: list[Prompt]
) -> None:
    name, folder, _ = corpus
    import_corpus(name, folder, tmp_path / "bank", ImportSettings())
    texts = {p.transcript for p in made_prompts}
    for row in rows(tmp_path / "bank"):
        samples, rate = sf.read(tmp_path / "bank" / row["file"], dtype="float32")
        assert row["transcript"].replace('the "', "the") in texts
        assert 16_000 <= rate <= 24_000 and samples.ndim == 1
        m = measure(samples, rate, row["transcript"])
        assert isinstance(m, Measured)
        assert m.peak <= 0.801
        assert m.level_dbfs == pytest.approx(-26, abs=0.3) or m.peak == pytest.approx(0.8, abs=0.01)
        assert 0.1 <= m.lead_sec <= 0.2 and 0.1 <= m.tail_sec <= 0.2


def test_the_same_corpus_gives_the_same_bytes(corpus: Corpus, tmp_path: Path) -> None:
    name, folder, _ = corpus
    for out in ("one", "two", "two"):
        import_corpus(name, folder, tmp_path / out, ImportSettings())
    assert hashes(tmp_path / "one") == hashes(tmp_path / "two")
    assert not list(tmp_path.rglob("*.tmp"))


def test_libritts_says_who_reads(libritts: Path, tmp_path: Path) -> None:
    made = import_corpus("libritts", libritts, tmp_path / "bank", ImportSettings())
    found = rows(tmp_path / "bank")
    assert [r["id"] for r in found] == [f"libritts-{100 + i}" for i in range(5)]
    assert [r["sex"] for r in found] == ["female", "male", "female", "male", "female"]
    assert {(r["licence"], r["language"]) for r in found} == {("CC-BY-4.0", "en")}
    assert all(r["consent"] and "openslr" in r["source"] for r in found)
    assert made.counts.dropped == {"clipped": 1}


def test_the_quieter_room_is_chosen(libritts: Path, tmp_path: Path, made_prompts: list[Prompt]) -> None:
    import_corpus("libritts", libritts, tmp_path / "bank", ImportSettings())
    assert [r["transcript"] for r in rows(tmp_path / "bank")] == [p.transcript for p in made_prompts[:5]]


def test_several_recordings_of_a_speaker_stay_in_one_split(libritts: Path, tmp_path: Path) -> None:
    made = import_corpus("libritts", libritts, tmp_path / "bank", ImportSettings(per_speaker=2))
    found = rows(tmp_path / "bank")
    assert made.voices == 10 and made.counts.items_out == 5
    assert {r["id"] for r in found} >= {"libritts-100", "libritts-100-2"}
    by_speaker: dict[str, set[str]] = {}
    for r in found:
        by_speaker.setdefault(r["speaker"], set()).add(r["split"])
    assert all(len(splits) == 1 for splits in by_speaker.values())


def test_a_subset_may_be_named_by_itself_and_bars_are_read_as_well(libritts: Path, tmp_path: Path) -> None:
    (libritts / "speakers.tsv").unlink()
    lines = [";ID  |SEX| SUBSET           |MINUTES| NAME"]
    lines += [f"{100 + i:<4} | {SEXES[i % 2]} | train-clean-100  | 25.03 | Some | Body" for i in range(6)]
    (libritts / "SPEAKERS.txt").write_text("\n".join(lines) + "\n")
    import_corpus("libritts", libritts / "train-clean-100", tmp_path / "bank", ImportSettings())
    assert Counter(r["sex"] for r in rows(tmp_path / "bank")) == {"female": 3, "male": 2}


def test_what_a_corpus_keeps_for_testing_is_the_test_split(libritts: Path, tmp_path: Path) -> None:
    for reader in ("103", "104"):
        target = libritts / "test-clean" / reader
        target.parent.mkdir(exist_ok=True)
        (libritts / "train-clean-100" / reader).rename(target)
    import_corpus("libritts", libritts, tmp_path / "bank", ImportSettings())
    assert {r["id"] for r in rows(tmp_path / "bank") if r["split"] == "test"} == {"libritts-103", "libritts-104"}


def test_libritts_r_is_named(libritts: Path, tmp_path: Path) -> None:
    restored = libritts.rename(tmp_path / "LibriTTS_R")
    import_corpus("libritts", restored, tmp_path / "bank", ImportSettings(limit=1))
    assert rows(tmp_path / "bank")[0]["source"].startswith("LibriTTS-R")


def test_vctk_says_accents_and_the_first_microphone_is_taken(vctk: Path, tmp_path: Path) -> None:
    made = import_corpus("vctk", vctk, tmp_path / "bank", ImportSettings(per_speaker=3))
    found = rows(tmp_path / "bank")
    assert [r["accent"] for r in found if "-2" not in r["id"][5:]] == ["English", "Scottish", "American", ""]
    assert len(found) == 8  # what is written with digits is left out
    assert not any("9" in r["transcript"] for r in found)
    for row in found:
        samples, rate = sf.read(tmp_path / "bank" / row["file"], dtype="float32")
        measured = measure(samples, rate, row["transcript"])
        assert isinstance(measured, Measured) and measured.snr_db > 35  # the second one is noisier
    assert made.counts.dropped == {"no_recordings": 1}


def test_common_voice_clips_of_a_speaker_belong_together(common_voice: Path, tmp_path: Path) -> None:
    import_corpus("common-voice", common_voice, tmp_path / "bank", ImportSettings(per_speaker=2))
    found = rows(tmp_path / "bank")
    assert len(found) == 8 and len({r["speaker"] for r in found}) == 4
    assert Counter(r["sex"] for r in found) == {"male": 4, "female": 2, "": 2}
    assert {r["accent"] for r in found} == {"United States English", "", "England English", "Scottish English"}
    assert all(r["id"].startswith("cv-en-") and len(r["speaker"]) < 20 for r in found)
    assert {r["licence"] for r in found} == {"CC0-1.0"}
    assert any('"' in r["transcript"] for r in found)  # a quotation mark is a character, not the start of a cell


def test_few_speakers_are_chosen_evenly(libritts: Path, tmp_path: Path) -> None:
    made = import_corpus("libritts", libritts, tmp_path / "bank", ImportSettings(limit=4))
    assert Counter(r["sex"] for r in rows(tmp_path / "bank")) == {"female": 2, "male": 2}
    assert made.counts.dropped["not_needed"] >= 1
    chosen = set()
    for seed in range(6):
        import_corpus("libritts", libritts, tmp_path / f"{seed}", ImportSettings(limit=2, seed=seed))
        chosen.add(tuple(r["id"] for r in rows(tmp_path / f"{seed}")))
    assert len(chosen) > 1


def test_a_second_corpus_is_added_to_a_bank(libritts: Path, vctk: Path, tmp_path: Path) -> None:
    import_corpus("libritts", libritts, tmp_path / "bank", ImportSettings())
    before = rows(tmp_path / "bank")
    import_corpus("vctk", vctk, tmp_path / "bank", ImportSettings())
    found = rows(tmp_path / "bank")
    assert len(found) == 9 and [r for r in found if r["id"].startswith("libritts")] == before
    again = import_corpus("libritts", libritts, tmp_path / "bank", ImportSettings(consent="asked each of them"))
    assert again.voices == 5 and len(rows(tmp_path / "bank")) == 9
    assert {r["consent"] for r in rows(tmp_path / "bank") if r["id"].startswith("libritts")} == {"asked each of them"}


def test_limits_may_be_set(libritts: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="too_short"):
        import_corpus("libritts", libritts, tmp_path / "bank", ImportSettings(limits=PromptLimits(seconds=(9.5, 10.0))))
    assert not (tmp_path / "bank" / "voices.jsonl").exists()


@pytest.mark.parametrize(
    ("name", "make", "says"),
    [
        ("timit", lambda p: p, "libritts, vctk, common-voice"),
        ("libritts", lambda p: p, "train-clean-100"),
        ("vctk", lambda p: p, "wav48_silence_trimmed"),
        ("common-voice", lambda p: p, r"validated\.tsv"),
        ("vctk", lambda p: p / "nowhere", "no folder"),
    ],
)
def test_a_folder_of_another_layout_is_one_clear_error(
    name: str, make: Callable[[Path], Path], says: str, tmp_path: Path
) -> None:
    with pytest.raises(SourceError, match=says):
        read_corpus(name, make(tmp_path))


def test_a_list_without_its_columns_is_named(tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    (tmp_path / "validated.tsv").write_text("path\tsentence\n")
    with pytest.raises(SourceError, match="client_id"):
        read_corpus("common-voice", tmp_path)


def test_a_clip_outside_the_corpus_is_not_read(common_voice: Path, tmp_path: Path) -> None:
    text = (common_voice / "validated.tsv").read_text().replace("common_voice_en_0.mp3", "../../../secret.mp3")
    (common_voice / "validated.tsv").write_text(text)
    found = read_corpus("common-voice", common_voice)
    assert not any("secret" in str(c.path) for s in found.speakers for c in s.clips())


def test_a_bank_is_no_file(libritts: Path, tmp_path: Path) -> None:
    (tmp_path / "bank").write_text("")
    with pytest.raises(ConfigError, match="is a file"):
        import_corpus("libritts", libritts, tmp_path / "bank", ImportSettings())
