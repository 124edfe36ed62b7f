"""Banks are read from folders and hub datasets; each entry that will not do is refused with its reason."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile as sf
from voice_prompts import Prompt

from duplexdata.config import Config, MixConfig, PromptLimits, SpeechConfig, VoicesConfig
from duplexdata.errors import ConfigError
from duplexdata.speech.voices import assistant_voice, user_voices
from duplexdata.voices.bank import VoiceBank
from duplexdata.voices.fit import check_fit
from duplexdata.voices.load import load_bank, survey
from duplexdata.voices.rows import BadRow, BankRow, parse_bank_row

Row = dict[str, object]
WriteBank = Callable[..., Path]


def read(folder: Path, **settings: Any) -> VoiceBank:
    return load_bank(VoicesConfig(bank=str(folder), **settings))


def reasons(bank: VoiceBank) -> dict[str, str]:
    return {r.where: r.fault.reason for r in bank.refused}


def changed(i: int, **values: object) -> Callable[[int, Row], Row]:
    """Row number `i` with other values."""
    return lambda n, row: {**row, **values} if n == i else row


# -- the embedded bank


def test_the_embedded_bank_has_espeaks_speakers_and_nothing_is_refused() -> None:
    bank = load_bank(VoicesConfig())
    assert [v.voice for v in bank.users] == list(user_voices())
    assert bank.assistant.voice == assistant_voice()
    assert not bank.refused
    assert {v.sex for v in bank} == {"female", "male"}
    assert all(v.accent == v.voice.setting("accent") for v in bank)
    for split in ("train", "test"):
        assert len(bank.users_of(split, "zh", speakers=2)) == len(bank.users_of(split, "en", speakers=2)) > 0


def test_another_of_its_voices_may_be_the_assistant() -> None:
    bank = load_bank(VoicesConfig(assistant="en-us-f1"))
    assert bank.assistant.id == "en-us-f1" and bank.assistant.split == "both"
    assert "en-us-f1" not in {v.id for v in bank.users}
    assert reasons(bank) == {"assistant": "other_assistant"}


# -- folders


def test_a_good_bank_is_taken_whole(write_bank: WriteBank, made_prompts: list[Prompt]) -> None:
    bank = read(write_bank())
    assert not bank.refused
    assert bank.assistant.id == made_prompts[0].id
    assert {v.id for v in bank} == {p.id for p in made_prompts}
    by_id = {v.id: v for v in bank}
    for p in made_prompts:
        prompt = by_id[p.id].voice.prompt
        assert prompt is not None and prompt.transcript == p.transcript and Path(prompt.path).is_file()
        assert len(prompt.sha256) == 64
    assert bank.name == "bank"


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"licence": ""}, "no_licence"),
        ({"licence": "not stated"}, "no_licence"),
        ({"consent": None}, "no_consent"),
        ({"consent": False}, "no_consent"),
        ({"file": "nowhere.wav"}, "missing_file"),
        ({"file": "../outside.wav"}, "bad_row"),
        ({"file": "/etc/hostname"}, "bad_row"),
        ({"file": ""}, "bad_row"),
        ({"language": ""}, "bad_row"),
        ({"language": "english please"}, "bad_row"),
        ({"split": "holdout"}, "bad_row"),
        ({"transcript": ""}, "no_transcript"),
        ({"transcript": "Too little."}, "too_slow"),
        ({"file": "voices.jsonl"}, "unreadable"),
    ],
)
def test_an_entry_that_will_not_do_is_refused_and_named(
    write_bank: WriteBank, made_prompts: list[Prompt], values: Row, reason: str
) -> None:
    bank = read(write_bank(changed(3, **values)))
    (refused,) = bank.refused
    assert refused.fault.reason == reason
    assert made_prompts[3].id in refused.where
    assert made_prompts[3].id not in {v.id for v in bank}
    assert len(bank.users) == len(made_prompts) - 2


def test_a_line_that_is_no_json_is_refused_by_its_number(write_bank: WriteBank) -> None:
    folder = write_bank()
    with (folder / "voices.jsonl").open("a", encoding="utf-8") as file:
        file.write("{\n\n[1]\n")
    assert reasons(read(folder)) == {"voices.jsonl, row 13": "bad_row", "voices.jsonl, row 15": "bad_row"}


def test_unlicensed_recordings_are_used_if_the_user_says_so(write_bank: WriteBank) -> None:
    folder = write_bank(lambda i, row: {k: v for k, v in row.items() if k not in ("licence", "consent")})
    with pytest.raises(ConfigError, match="12 x no_licence"):
        read(folder)
    bank = read(folder, allow_unlicensed=True)
    assert not bank.refused and {v.licence for v in bank} == {""}


def test_only_some_licences_may_be_let_in(write_bank: WriteBank) -> None:
    bank = read(write_bank(), licences=("CC0-1.0",))
    assert {v.licence for v in bank} == {"CC0-1.0"}
    assert set(reasons(bank).values()) == {"licence_excluded"}
    assert len(bank.users) + 1 + len(bank.refused) == 12


def test_broken_recordings_are_refused_unless_checking_is_off(
    write_bank: WriteBank, made_prompts: list[Prompt]
) -> None:
    folder = write_bank()
    broken = made_prompts[5]
    loud = np.clip(broken.samples * 30, -1, 1)
    sf.write(folder / f"{broken.id}.wav", loud, broken.rate, subtype="PCM_16")
    assert set(reasons(read(folder))) == {broken.id}
    assert not read(folder, check=False).refused
    lenient = PromptLimits(clipped_share=1.0, level_dbfs=(-60, 0), least_snr_db=0)
    assert not read(folder, limits=lenient).refused


def test_the_same_recording_under_two_ids_is_refused(write_bank: WriteBank, made_prompts: list[Prompt]) -> None:
    folder = write_bank()
    first = made_prompts[2]
    # quieter, and in another file format
    sf.write(folder / "again.flac", first.samples * 0.5, first.rate)
    row = {"id": "again", "file": "again.flac", "transcript": first.transcript, "language": "en"}
    row |= {"licence": "CC0-1.0", "consent": "yes", "split": "train"}
    with (folder / "voices.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    (refused,) = read(folder).refused
    assert (refused.where, refused.fault.reason) == ("again", "duplicate_audio")
    assert first.id in refused.fault.detail


def test_a_speaker_under_two_ids_stays_in_one_split(write_bank: WriteBank, made_prompts: list[Prompt]) -> None:
    # 1 and 4 are of test, 2 of train
    folder = write_bank(lambda i, row: {**row, "speaker": "anna"} if i in (1, 2, 4) else row)
    bank = read(folder)
    assert reasons(bank) == {made_prompts[2].id: "speaker_in_two_splits"}
    assert {v.split for v in bank.users if v.speaker == "anna"} == {"test"}


def test_another_recording_of_the_assistants_speaker_is_no_user(
    write_bank: WriteBank, made_prompts: list[Prompt]
) -> None:
    folder = write_bank(lambda i, row: {**row, "speaker": "anna", "split": ""} if i in (0, 2) else row)
    bank = read(folder, assistant=made_prompts[0].id)
    assert reasons(bank) == {made_prompts[2].id: "assistants_speaker"}


def test_an_id_that_stands_twice_is_the_first_ones(write_bank: WriteBank, made_prompts: list[Prompt]) -> None:
    bank = read(write_bank(changed(4, id=made_prompts[3].id)))
    assert reasons(bank) == {made_prompts[3].id: "duplicate_id"}
    assert next(v for v in bank if v.id == made_prompts[3].id).voice.prompt.transcript == made_prompts[3].transcript  # type: ignore[union-attr]


def test_splits_are_drawn_where_none_is_named_and_follow_the_speaker(write_bank: WriteBank) -> None:
    def change(i: int, row: Row) -> Row:
        return {**row, "split": None, "speaker": f"s{i // 2}"}

    folder = write_bank(change)
    rows = [json.loads(line) for line in (folder / "voices.jsonl").read_text().splitlines()]
    bank = read(folder, assistant=rows[0]["id"])
    assert {v.split for v in bank.users} == {"train", "test"}
    # 6 speakers, one of them the assistant's
    assert len({v.speaker for v in bank.users if v.split == "test"}) == 2
    assert reasons(bank) == {rows[1]["id"]: "assistants_speaker"}
    # by name, not by place
    (folder / "voices.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows[::-1]))
    again = read(folder, assistant=rows[0]["id"])
    assert {v.id: v.split for v in bank.users} == {v.id: v.split for v in again.users}


def test_the_assistant_must_be_named_or_marked(write_bank: WriteBank, made_prompts: list[Prompt]) -> None:
    folder = write_bank(changed(0, split="train"))
    with pytest.raises(ConfigError, match=r"voices\.assistant"):
        read(folder)
    with pytest.raises(ConfigError, match="'nobody'"):
        read(folder, assistant="nobody")
    bank = read(folder, assistant=made_prompts[7].id)
    assert bank.assistant.id == made_prompts[7].id and bank.assistant.split == "both"
    with pytest.raises(ConfigError, match="no_licence"):
        read(write_bank(changed(7, licence="")), assistant=made_prompts[7].id)


@pytest.mark.parametrize("bank", ["/no/such/folder", "no such hub id"])
def test_a_bank_that_is_not_there_is_one_clear_error(bank: str) -> None:
    with pytest.raises(ConfigError, match=r"voices\.jsonl"):
        load_bank(VoicesConfig(bank=bank))


def test_an_empty_bank_is_refused(tmp_path: Path) -> None:
    (tmp_path / "voices.jsonl").write_text("\n")
    with pytest.raises(ConfigError, match="no entries"):
        read(tmp_path)


# -- rows


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ({"license": "CC0-1.0", "text": "hi", "lang": "en_GB", "gender": "F"}, ("CC0-1.0", "hi", "en-GB", "female")),
        ({"sentence": "hi", "locale": "EN", "gender": "male_masculine"}, ("", "hi", "en", "male")),
        ({"transcript": "hi", "language": "zh", "sex": "Other", "licence": "NOASSERTION"}, ("", "hi", "zh", "other")),
    ],
)
def test_columns_and_words_of_other_corpora_are_understood(raw: Row, expected: tuple[str, ...]) -> None:
    row = parse_bank_row({"id": "a", "file": "a.wav", **raw}, "row 1")
    assert isinstance(row, BankRow)
    assert (row.licence, row.transcript, row.language, row.sex) == expected


def test_an_id_may_be_left_to_the_files_name() -> None:
    row = parse_bank_row({"path": "clips/anna.flac", "language": "en", "speaker_id": 7}, "row 1")
    assert isinstance(row, BankRow) and (row.name, row.speaker) == ("anna", "7")


def test_a_place_on_a_disk_is_not_published_as_the_source() -> None:
    row = parse_bank_row({"file": "a.wav", "language": "en", "source": "/home/anna/recordings"}, "row 1")
    assert isinstance(row, BankRow) and row.source == "recordings"


@pytest.mark.parametrize(
    "settings", [{"rate": "fast"}, {"rate": 20}, {"pitch": 130}, {"accent": "en us"}, "{", [1], {"rate": [1]}]
)
def test_settings_that_no_engine_takes_are_refused(settings: object) -> None:
    row = parse_bank_row({"id": "a", "settings": settings}, "row 1")
    assert isinstance(row, BadRow) and row.fault.reason == "bad_row" and row.where == "a (row 1)"


# -- a hub dataset's shape, without the hub


def test_a_dataset_with_an_audio_column_is_a_bank(
    write_bank: WriteBank, made_prompts: list[Prompt], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setenv("DUPLEXDATA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    folder = write_bank(changed(3, licence=""))
    rows = [json.loads(line) for line in (folder / "voices.jsonl").read_text().splitlines()]
    for row in rows:
        path = folder / row.pop("file")
        row["audio"] = {"bytes": path.read_bytes(), "path": path.name}
    plain = {"dtype": "string", "_type": "Value"}
    features = {k: {"_type": "Audio"} if k == "audio" else plain for k in rows[0]}
    table = pa.Table.from_pylist(rows)
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    (tmp_path / "hub").mkdir()
    pq.write_table(table, tmp_path / "hub" / "train.parquet")
    bank, same = read(tmp_path / "hub"), read(folder)
    assert reasons(bank) == reasons(same) == {made_prompts[3].id: "no_licence"}
    assert (bank.casting(), bank.sounds()) == (same.casting(), same.sounds())
    kept = list((tmp_path / "cache" / "voices").iterdir())
    assert {p.stem for p in kept} > {v.voice.prompt.sha256 for v in bank if v.voice.prompt}
    before = {p: p.stat().st_mtime_ns for p in kept}
    read(tmp_path / "hub")
    assert {p: p.stat().st_mtime_ns for p in kept} == before


# -- fitting the run


def config(folder: Path, **speech: Any) -> Config:
    return Config(voices=VoicesConfig(bank=str(folder)), speech=SpeechConfig(**speech))


def test_espeak_cannot_speak_from_recordings(write_bank: WriteBank) -> None:
    folder = write_bank()
    with pytest.raises(ConfigError, match=r"espeak cannot clone.*voices\.bank to embedded"):
        check_fit(config(folder), read(folder))


def test_what_clones_needs_recordings() -> None:
    with pytest.raises(ConfigError, match="voices import"):
        check_fit(replace(Config(), speech=SpeechConfig(backend="speech_http")), load_bank(VoicesConfig()))


def test_a_split_needs_somebody_else_who_distracts(write_bank: WriteBank) -> None:
    folder = write_bank(lambda i, row: None if i in (4, 7, 10) else row)  # one of test is left
    one = replace(config(folder), speech=SpeechConfig(backend="speech_http"))
    with pytest.raises(ConfigError, match="1 user for test"):
        check_fit(one, read(folder))
    check_fit(replace(one, mix=MixConfig(distractor=0.0)), read(folder))
    none = write_bank(lambda i, row: None if i % 3 == 1 else row)
    with pytest.raises(ConfigError, match="0 users for test"):
        check_fit(replace(one, mix=MixConfig(distractor=0.0)), read(none))


def test_an_accent_that_espeak_does_not_know_is_found_at_the_start(tmp_path: Path) -> None:
    pytest.importorskip("espeakng_loader")
    rows = [
        {"id": f"v{i}", "settings": {"accent": "en-us", "variant": f"m{i + 1}"}, "split": split}
        for i, split in enumerate(["assistant", "train", "train", "test", "test"])
    ]
    (tmp_path / "voices.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    check_fit(config(tmp_path), read(tmp_path))
    rows[2]["settings"] = {"accent": "en-moon", "variant": "m3"}
    (tmp_path / "voices.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    with pytest.raises(ConfigError, match=r"voice v2 .* 'en-moon\+m3'"):
        check_fit(config(tmp_path), read(tmp_path))


def test_real_prompts_are_refused_for_what_is_not_stated_of_them(real_folder: Path) -> None:
    found = survey(VoicesConfig(bank=str(real_folder)))
    assert {s.faults[0].reason for s in found} == {"no_licence", "no_consent"}
    judged = survey(VoicesConfig(bank=str(real_folder), allow_unlicensed=True))
    assert {s.where: [f.reason for f in s.faults] for s in judged if s.faults} == {"helpful_base_4": ["too_short"]}
