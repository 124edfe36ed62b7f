"""A build from a bank: who is heard, what the manifest and the card say of it, what is made again when it changes."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from voice_prompts import Prompt, write_bank_to

from duplexdata import backends
from duplexdata.build import build
from duplexdata.card import dataset_card
from duplexdata.config import (
    Config,
    LayoutConfig,
    MixConfig,
    ShardConfig,
    SourceConfig,
    SpeechConfig,
    VoicesConfig,
    as_dict,
)
from duplexdata.errors import ConfigError, SynthesisError
from duplexdata.manifest import read_manifest
from duplexdata.speech.base import Speech, SpeechRequest, Synthesizer, Voice
from duplexdata.speech.espeak import EspeakSynthesizer
from duplexdata.stages.plan import make_plan, public_config
from duplexdata.storage import Store, folder_at
from duplexdata.units import to_samples
from duplexdata.verify import verify
from duplexdata.verify.voices import check_voices
from duplexdata.voices.load import load_bank

pytest.importorskip("espeakng_loader")
WriteBank = Callable[..., Path]
SHARDS = ShardConfig(conversations=6, test_fraction=0.25)
TDM = LayoutConfig(emit=("tdm",))
TEXT_ONLY = {"speech": SpeechConfig(backend="nominal"), "layout": TDM}


def run(config: Config, out: Path) -> dict[str, Any]:
    build(config, out, workers=1, report=lambda *_: None)
    return read_manifest(out)


def rows(dataset: Path, split: str) -> list[dict[str, Any]]:
    columns = ["id", "language", "user_voice", "assistant_voice", "utterances"]
    files = sorted((dataset / "conversations").glob(f"{split}-*.parquet"))
    return [row for f in files for row in pq.read_table(f, columns=columns).to_pylist()]


# -- the embedded bank


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("embedded") / "dataset"
    run(Config(conversations=160, shards=replace(SHARDS, conversations=40), **TEXT_ONLY), out)  # type: ignore[arg-type]
    return out


def test_users_of_each_split_are_even_over_sex_accent_and_speaker_through_all_shards(embedded: Path) -> None:
    bank = {v.id: v for v in load_bank(VoicesConfig())}
    for split, n in (("train", 120), ("test", 40)):
        users = [bank[row["user_voice"]] for row in rows(embedded, split)]
        assert len(users) == n and {v.split for v in users} == {split}
        sexes = Counter(v.sex for v in users)
        assert max(sexes.values()) - min(sexes.values()) <= 1
        for sex in sexes:
            accents = Counter({v.accent: 0 for v in bank.values() if (v.split, v.sex) == (split, sex)})
            accents.update(v.accent for v in users if v.sex == sex)
            assert max(accents.values()) - min(accents.values()) <= 1


def test_the_table_of_voices_has_everyone_who_is_heard(embedded: Path) -> None:
    manifest = read_manifest(embedded)
    heard = {u["voice"] for split in ("train", "test") for row in rows(embedded, split) for u in row["utterances"]}
    table = {v["id"]: v for v in manifest["voices"]}
    assert set(table) == heard
    users = [v for v in table.values() if v["role"] == "user"]
    assert sum(v["share"] for v in users) == pytest.approx(1, abs=1e-4)
    assert table["assistant"]["share"] == 1
    by = manifest["statistics"]["voices"]["users"]
    for key in ("sex", "accent", "language", "licence"):
        assert sum(g["voices"] for g in by[key].values()) == len(users)
        assert sum(g["share"] for g in by[key].values()) == pytest.approx(1, abs=1e-4)
    assert by["sex"]["female"]["seconds"] == pytest.approx(
        sum(v["seconds"] for v in users if v["sex"] == "female"), abs=0.1
    )


def test_a_long_table_is_cut_on_the_card_and_whole_in_the_manifest(embedded: Path) -> None:
    card = (embedded / "README.md").read_text()
    manifest = read_manifest(embedded)
    users = sorted((v for v in manifest["voices"] if v["role"] == "user"), key=lambda v: (-v["seconds"], v["id"]))
    assert len(users) > 20
    assert all(f"| {v['id']} |" in card for v in (*users[:10], *users[-10:]))
    assert f"| {users[15]['id']} |" not in card
    for sex in ("female", "male"):
        assert f"| {sex} |" in card
    assert "## Licences of the voices" in card


# -- espeak-ng's voices, the user's own


def write_espeak_bank(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    lines = [{"id": "butler", "settings": {"accent": "en-gb-x-rp", "variant": "m7"}, "split": "assistant"}]
    for i in range(8):
        settings = {"accent": ("en-us", "en-029")[i // 4], "variant": f"{'fm'[i % 2]}{i // 2 + 1}", "rate": 160}
        lines.append(
            {"id": f"guest-{i}", "settings": settings, "sex": "fm"[i % 2], "split": ("train", "test")[i // 2 % 2]}
        )
    (folder / "voices.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    bank = write_espeak_bank(folder / "guests")
    voices, mix = VoicesConfig(bank=str(bank)), MixConfig(distractor=0.5)
    run(Config(conversations=12, shards=SHARDS, voices=voices, mix=mix, layout=TDM), folder / "dataset")
    return folder / "dataset"


def test_a_dataset_of_own_espeak_voices_is_whole(own: Path) -> None:
    assert not list(verify(own))
    manifest = read_manifest(own)
    assert {row["assistant_voice"] for s in ("train", "test") for row in rows(own, s)} == {"butler"}
    assert {v["id"] for v in manifest["voices"]} <= {"butler", *(f"guest-{i}" for i in range(8))}
    assert {v["accent"] for v in manifest["voices"] if v["role"] == "user"} == {"en-us", "en-029"}
    assert manifest["config"]["voices"]["bank"] == "guests"
    (counts,) = [s for s in manifest["stages"] if s["stage"] == "voices"]
    assert counts == {"stage": "voices", "items_in": 9, "items_out": 9, "dropped": {}}


# -- cloned voices


class CloningSynthesizer:
    """A stand-in for a model that clones: its voice follows from the recording's bytes, and from nothing else."""

    name = "clones/1"

    def __init__(self) -> None:
        self._espeak = EspeakSynthesizer()

    def synthesize_many(self, requests: Iterable[SpeechRequest]) -> Iterator[Speech | SynthesisError]:
        return self._espeak.synthesize_many(replace(r, voice=self._clone(r.voice)) for r in requests)

    @staticmethod
    def _clone(voice: Voice) -> Voice:
        prompt = voice.prompt
        assert prompt is not None and prompt.transcript
        data = Path(prompt.path).read_bytes()
        assert hashlib.sha256(data).hexdigest() == prompt.sha256
        settings = {"variant": f"m{data[-1] % 8 + 1}", "pitch": str(30 + data[-3] % 40), "rate": "170"}
        return replace(voice, settings=tuple(settings.items()), prompt=None)

    def describe(self) -> dict[str, str]:
        return {"name": self.name}

    def close(self) -> None:
        self._espeak.close()


@pytest.fixture(scope="module")
def cloning() -> Iterator[str]:
    def make(config: SpeechConfig) -> Synthesizer:
        return CloningSynthesizer()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backends, "SYNTHESIZERS", {**backends.SYNTHESIZERS, "cloning": make})
        yield "cloning"


def cloned_config(bank: Path, backend: str, **voices: Any) -> Config:
    return Config(
        conversations=8,
        shards=SHARDS,
        speech=SpeechConfig(backend=backend),
        voices=VoicesConfig(bank=str(bank), **voices),
        mix=MixConfig(distractor=0.5),
        layout=TDM,
    )


@pytest.fixture(scope="module")
def cloned(tmp_path_factory: pytest.TempPathFactory, cloning: str, made_prompts: list[Prompt]) -> Path:
    """Three voices of train and the assistant's are CC0-1.0; one entry has no licence."""
    folder = tmp_path_factory.mktemp("cloned")
    licences = {**dict.fromkeys((0, 2, 6, 9), "CC0-1.0"), 5: "?"}
    bank = write_bank_to(folder / "bank", made_prompts, lambda i, row: {**row, "licence": licences.get(i, "CC-BY-4.0")})
    run(cloned_config(bank, cloning), folder / "dataset")
    return folder / "dataset"


def test_a_dataset_of_cloned_voices_is_whole_and_names_licences(cloned: Path) -> None:
    assert not list(verify(cloned))
    manifest = read_manifest(cloned)
    (counts,) = [s for s in manifest["stages"] if s["stage"] == "voices"]
    assert (counts["items_in"], counts["items_out"], counts["dropped"]) == (12, 11, {"no_licence": 1})
    (refused,) = manifest["refused_voices"]
    assert "no_licence" in refused
    splits = {v["id"]: v["split"] for v in manifest["voices"]}
    for split in ("train", "test"):
        for row in rows(cloned, split):
            assert {splits[u["voice"]] for u in row["utterances"] if u["channel"] == "user"} == {split}
    assert all(len(v["prompt_sha256"]) == 64 for v in manifest["voices"])
    card = (cloned / "README.md").read_text()
    for licence in ("CC0-1.0", "CC-BY-4.0"):
        assert f"| {licence} | given for this test | made for this test |" in card
    assert str(cloned.parent) not in card + json.dumps(manifest)
    # texts and voices have different licences: the hub is not told one
    assert yaml.safe_load(card.split("---\n")[1])["license"] == "other"


def test_conversations_are_filtered_by_their_voices_licences_as_the_card_says(
    cloned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    card = (cloned / "README.md").read_text()
    snippet = next(block for block in card.split("```python\n")[1:] if "allowed" in block).split("```")[0]
    monkeypatch.chdir(cloned.parent)
    said: dict[str, Any] = {}
    exec(snippet.replace("{'CC-BY-4.0'}", "{'CC0-1.0'}"), said)
    by_id = {v["id"]: v["licence"] for v in read_manifest(cloned)["voices"]}
    found = rows(cloned, "train")
    expected = [row["id"] for row in found if {by_id[u["voice"]] for u in row["utterances"]} == {"CC0-1.0"}]
    assert 0 < len(expected) < len(found)
    assert list(said["rows"]["id"]) == expected


def test_the_hub_is_told_the_licence_that_texts_and_recordings_have_in_common(own: Path) -> None:
    manifest = read_manifest(own)
    assert "license: apache-2.0" in dataset_card("x", manifest, ("sft",))  # nobody was recorded
    for voice in manifest["voices"]:
        voice["licence"] = "Apache-2.0"
    assert "license: apache-2.0" in dataset_card("x", manifest, ("sft",))
    manifest["voices"][0]["licence"] = "CC-BY-NC-4.0"
    assert "license: other" in dataset_card("x", manifest, ("sft",))
    manifest["voices"][0]["licence"] = ""
    assert "license: other" in dataset_card("x", manifest, ("sft",))


def test_a_bank_that_does_not_fit_the_backend_stops_before_any_work(write_bank: WriteBank, tmp_path: Path) -> None:
    config = cloned_config(write_bank(), "espeak")
    with pytest.raises(ConfigError, match="cannot clone"):
        run(config, tmp_path / "dataset")
    assert not (tmp_path / "dataset").exists() and not folder_at(tmp_path / "dataset").work.path.exists()


# -- what is made again


def test_a_bank_elsewhere_is_the_same_bank_and_another_recording_another(
    write_bank: WriteBank, tmp_path: Path, cloning: str
) -> None:
    bank = write_bank()
    plan = make_plan(cloned_config(bank, cloning), Store(tmp_path))
    moved = shutil.copytree(bank, tmp_path / "elsewhere" / "bank")
    same = make_plan(cloned_config(moved, cloning), Store(tmp_path))
    assert (same.scripts, same.speech, same.config_fingerprint) == (plan.scripts, plan.speech, plan.config_fingerprint)

    lines = [json.loads(line) for line in (moved / "voices.jsonl").read_text().splitlines()]

    def with_change(**values: object) -> Any:
        changed = [lines[0], {**lines[1], **values}, *lines[2:]]
        (moved / "voices.jsonl").write_text("".join(json.dumps(line) + "\n" for line in changed))
        return make_plan(cloned_config(moved, cloning), Store(tmp_path))

    licence = with_change(licence="CC-BY-SA-4.0")
    assert (licence.scripts, licence.speech) == (plan.scripts, plan.speech)
    assert licence.config_fingerprint != plan.config_fingerprint
    accent = with_change(accent="Welsh")
    assert accent.scripts != plan.scripts
    transcript = with_change(transcript=str(lines[1]["transcript"]).replace(".", "!"))
    assert transcript.scripts == plan.scripts and transcript.speech != plan.speech
    (moved / str(lines[1]["file"])).write_bytes((moved / str(lines[1]["file"])).read_bytes() + b"\0")
    sound = with_change()
    assert sound.scripts == plan.scripts and sound.speech != plan.speech


def test_no_path_of_a_bank_is_published(tmp_path: Path) -> None:
    public = public_config(Config(voices=VoicesConfig(bank=str(tmp_path))))
    assert public.voices.bank == tmp_path.name
    assert as_dict(public)["voices"]["bank"] == tmp_path.name  # type: ignore[index]


# -- languages


def two_languages(tmp_path: Path) -> SourceConfig:
    texts = [
        ("en", "What is a good way to start the morning number {}?", "Open the window and drink a glass of water."),
        ("zh", "请问第{}种早餐应该怎么做才好吃呢？", "先把鸡蛋打散，再放一点盐，然后用小火慢慢煎熟就可以了。"),
    ]
    words = "one two three four five six seven eight nine ten".split()
    han = "一二三四五六七八九十"
    lines = [
        json.dumps({"id": f"{t}{a}{b}", "language": t, "data": [q.format(n), f"{r} {n}" if t == "en" else r + n]})
        for t, q, r in texts
        for a in range(10)
        for b in range(10)
        for n in [f"{words[a]} {words[b]}" if t == "en" else han[a] + han[b]]
    ]
    path = tmp_path / "dialogues.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return SourceConfig(str(path), licence="CC0-1.0")


def language_config(tmp_path: Path, bank: Path, **voices: Any) -> Config:
    return Config(
        conversations=20,
        sources=(two_languages(tmp_path),),
        shards=SHARDS,
        voices=VoicesConfig(bank=str(bank), **voices),
        **TEXT_ONLY,  # type: ignore[arg-type]
    )


def test_dialogues_in_a_language_without_voices_are_left_out_and_counted(write_bank: WriteBank, tmp_path: Path) -> None:
    manifest = run(language_config(tmp_path, write_bank()), tmp_path / "dataset")
    assert manifest["statistics"]["languages"] == {"en": 20}
    (counts,) = [s for s in manifest["stages"] if s["stage"] == "dialogues"]
    assert counts["dropped"]["no_voice"] > 0


def test_voices_of_another_language_speak_it_if_they_may(write_bank: WriteBank, tmp_path: Path) -> None:
    manifest = run(language_config(tmp_path, write_bank(), cross_lingual=True), tmp_path / "dataset")
    assert set(manifest["statistics"]["languages"]) == {"en", "zh"}
    assert not list(verify(tmp_path / "dataset"))


def test_each_language_has_its_own_voices(write_bank: WriteBank, tmp_path: Path) -> None:
    bank = write_bank(lambda i, row: {**row, "language": "zh", "accent": ""} if i in (4, 5, 7, 8) else row)
    chinese = {v.id for v in load_bank(VoicesConfig(bank=str(bank), check=False)).users if v.language == "zh"}
    assert len(chinese) == 4
    run(language_config(tmp_path, bank, check=False), tmp_path / "dataset")
    for split in ("train", "test"):
        for row in rows(tmp_path / "dataset", split):
            for u in row["utterances"]:
                if u["channel"] == "user":
                    assert (u["voice"] in chinese) == (row["language"] == "zh")


# -- what verify says


DAMAGES: list[tuple[Callable[[dict[str, Any]], object], str]] = [
    (lambda m: m.pop("voices"), "cannot be read"),
    (lambda m: m["voices"].pop(), "heard and not in the table"),
    (lambda m: m["voices"].append({**m["voices"][-1], "id": "ghost"}), "ghost is not heard"),
    (lambda m: m["voices"].append(m["voices"][-1]), "twice"),
    (lambda m: user(m).update(seconds=user(m)["seconds"] + 1), "the rows give"),
    (lambda m: user(m).update(share=0.5), "the rows give"),
    (lambda m: user(m).update(split={"train": "test", "test": "train"}[user(m)["split"]]), "as a user it is heard in"),
    (lambda m: user(m).update(role="assistant"), "as a user it is heard in"),
    (lambda m: user(m).update(speaker="butler"), "butler is in"),
    (lambda m: m["statistics"]["voices"]["users"]["sex"].popitem(), "not the sums"),
    (lambda m: m["voices"].__setitem__(0, 3), "cannot be read"),
]


def user(manifest: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = next(v for v in manifest["voices"] if v["role"] == "user")
    return found


def check(manifest: dict[str, Any], dataset: Path) -> list[str]:
    """What the rule says of a manifest, without reading all the rest again."""
    speech: Counter[str] = Counter()
    users: dict[str, set[str]] = {"train": set(), "test": set()}
    for split, found in users.items():
        for row in rows(dataset, split):
            for u in row["utterances"]:
                speech[u["voice"]] += to_samples(u["end"]) - to_samples(u["start"])
                if u["channel"] == "user":
                    found.add(u["voice"])
    return [f.detail for f in check_voices(manifest, speech, users)]


@pytest.mark.parametrize(("damage", "says"), DAMAGES, ids=[says for _, says in DAMAGES])
def test_a_wrong_table_of_voices_is_found(own: Path, damage: Callable[[dict[str, Any]], object], says: str) -> None:
    manifest = dict(read_manifest(own))  # plain, as verify reads it
    assert not check(manifest, own)
    damage(manifest)
    assert any(says in detail for detail in check(manifest, own)), check(manifest, own)


def test_verify_reports_it(own: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(own, tmp_path / "copy")
    manifest = read_manifest(copy)
    manifest["voices"].pop()
    (copy / "manifest.json").write_text(json.dumps(manifest))
    assert {v.rule for v in verify(copy)} == {"voices"}
