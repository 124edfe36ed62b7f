"""What stands in data never names a file outside: not in manifests, rows, banks, tokenizers or markers."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile as sf
from typer.testing import CliRunner

from duplexdata import load_audio
from duplexdata.cli import app
from duplexdata.config import VoicesConfig
from duplexdata.dataset import _remove_old
from duplexdata.errors import DatasetError, DuplexDataError, SourceError
from duplexdata.fetch import at_hand
from duplexdata.manifest import read_manifest
from duplexdata.names import file_name, lies_inside, printable
from duplexdata.reemit import reemit
from duplexdata.stages.work import Marker, read_marker, write_marker
from duplexdata.storage import LocalFolder, Store
from duplexdata.training.data import DatasetFacts
from duplexdata.verify import verify
from duplexdata.voices.importing import ImportSettings, import_corpus
from duplexdata.voices.load import survey

OUTSIDE = [
    "../secret",
    "/etc/passwd",
    "conversations/../../secret",
    "a\\..\\secret",
    "a/\0b",
    "",
    ".",
    "a//b",
    "\ud800",
]
SECRET = b"a secret of this machine"


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A folder to work in, with a secret beside it. Afterwards the secret is as it was and nothing else lies there."""
    inside = tmp_path / "outer" / "inside"
    inside.mkdir(parents=True)
    secret = tmp_path / "outer" / "secret"
    secret.write_bytes(SECRET)
    yield inside
    assert secret.read_bytes() == SECRET
    assert sorted(p.name for p in (tmp_path / "outer").iterdir()) == ["inside", "secret"]


@pytest.fixture
def dataset(small_dataset: Path, place: Path) -> Path:
    return shutil.copytree(small_dataset, place / "dataset")


def _change(dataset: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = dataset / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    change(manifest)
    path.write_text(json.dumps(manifest), encoding="utf-8")


def _with_rows(dataset: Path, change: Callable[[dict[str, Any]], None]) -> str:
    """Change the first row of `conversations`, the manifest with it; its file."""
    name = "conversations/test-00000-of-00001.parquet"
    table = pq.read_table(dataset / name)
    rows = table.to_pylist()
    change(rows[0])
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), dataset / name)
    data = (dataset / name).read_bytes()
    facts = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    _change(dataset, lambda m: m["files"][name].update(facts))
    return name


def _run(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, arguments)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        assert isinstance(done.exception, DuplexDataError), repr(done.exception)
        return 1, str(done.exception)
    return done.exit_code, done.output


# -- names


def test_names_inside_and_outside() -> None:
    for name in OUTSIDE:
        assert not lies_inside(name), name
    for name in ("a", "conversations/train-00000-of-00001.parquet", "a/.b", "…/é"):
        assert lies_inside(name), name


def test_texts_become_names_of_files_one_to_one() -> None:
    assert file_name("back-on-topic-f41599d46eb5ec06") == "back-on-topic-f41599d46eb5ec06"
    texts = [
        "../x",
        "/x",
        "x/../..",
        ".x",
        "a/b",
        "a\\b",
        "a_b",
        "",
        ".",
        "..",
        "x" * 500,
        "x" * 501,
        "-rf",
        "a\0b",
        "é" * 300,
    ]
    names = [file_name(t) for t in texts]
    assert len({*names}) == len(names)
    for name in names:
        assert Path(name).name == name and lies_inside(name) and not name.startswith((".", "-"))
        assert len(name.encode()) < 200


def test_texts_cannot_steer_a_terminal() -> None:
    assert printable("a\x1b[2Jb\u202ec\x9bd") == "a\ufffd[2Jb\ufffdc\ufffdd"
    assert printable("tab\tline\n 👩\u200d👧 עברית") == "tab\tline\n 👩\u200d👧 עברית"


# -- manifests


@pytest.mark.parametrize("name", OUTSIDE)
def test_every_command_refuses_a_manifest_that_names_files_outside(dataset: Path, place: Path, name: str) -> None:
    facts = {"rows": 0, "bytes": len(SECRET), "sha256": hashlib.sha256(SECRET).hexdigest()}
    _change(dataset, lambda m: m["files"].update({name: facts}))
    found = list(verify(dataset))
    assert [(v.file, v.rule) for v in found] == [("manifest.json", "manifest")]
    assert "outside" in found[0].detail
    with pytest.raises(DatasetError, match="outside"):
        read_manifest(dataset)
    with pytest.raises(DatasetError, match="outside"):
        DatasetFacts.read(str(dataset))
    for command in (["show", str(dataset), "x"], ["emit", str(dataset), "--out", str(place / "new")]):
        status, output = _run(*command)
        assert status and "outside" in output
    assert not (place / "new").exists()


@pytest.mark.parametrize("name", OUTSIDE[:3])
def test_a_manifest_behind_a_url_fetches_nothing_outside(
    place: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    import fsspec

    monkeypatch.setenv("DUPLEXDATA_SCRATCH", str(place / "scratch"))
    fs = fsspec.filesystem("memory")
    facts = {"rows": 0, "bytes": 4, "sha256": hashlib.sha256(b"evil").hexdigest()}
    fs.pipe("/untrusted/bad/manifest.json", json.dumps({"format": 1, "files": {name: facts}}).encode())
    fs.pipe("/untrusted/secret", b"evil")
    fs.pipe("/secret", b"evil")
    with pytest.raises(DatasetError, match="outside"):
        at_hand("memory://untrusted/bad")
    assert not list(place.rglob("*"))


def test_a_build_over_another_dataset_removes_only_what_a_dataset_consists_of(dataset: Path) -> None:
    """Its manifest may list what it likes: notes beside it are nobody's to remove."""
    (dataset / "notes.txt").write_bytes(SECRET)
    (dataset / "mine").mkdir()
    (dataset / "mine" / "thesis.txt").write_bytes(SECRET)
    facts = {"rows": 0, "bytes": len(SECRET), "sha256": hashlib.sha256(SECRET).hexdigest()}
    _change(dataset, lambda m: m["files"].update({"notes.txt": facts, "mine/thesis.txt": facts}))
    _remove_old(LocalFolder(dataset))
    assert (dataset / "notes.txt").read_bytes() == (dataset / "mine" / "thesis.txt").read_bytes() == SECRET
    assert not list(dataset.glob("*/*.parquet")) and not (dataset / "manifest.json").exists()


def test_a_marker_that_names_files_outside_vouches_for_nothing(place: Path) -> None:
    store, path = Store(place), place / "speech-1" / "train.done.json"
    facts: Any = {"rows": 0, "bytes": len(SECRET), "sha256": hashlib.sha256(SECRET).hexdigest()}
    for name in ("../../secret", str(place.parent / "secret")):
        write_marker(store, path, Marker("f", {}))
        raw = json.loads(path.read_text())
        path.write_text(json.dumps({**raw, "files": {name: facts}}))
        assert read_marker(store, path, "f") is None
    write_marker(store, path, Marker("f", {}))
    assert read_marker(store, path, "f") is not None


# -- rows


@pytest.mark.parametrize("id_", ["../../secret", "/tmp/escaped-by-an-id", "..", "a/b", "~/x", ".hidden"])
def test_showing_a_conversation_writes_into_the_current_folder_whatever_its_id(
    dataset: Path, place: Path, monkeypatch: pytest.MonkeyPatch, id_: str
) -> None:
    _with_rows(dataset, lambda row: row.update(id=id_))
    here = place / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    status, output = _run("show", str(dataset), id_, "--first")
    assert status == 0, output
    [written] = list(here.iterdir())
    assert written.suffix == ".wav" and not written.name.startswith(".") and sf.info(written).channels == 2
    assert sorted(p.name for p in place.iterdir()) == ["dataset", "here"]
    assert not Path("/tmp/escaped-by-an-id.wav").exists()


def test_a_path_instead_of_sound_is_not_opened(dataset: Path, place: Path) -> None:
    """A real recording lies there: whoever opened it would succeed."""
    real = place / "recording.wav"
    sf.write(real, [[0.1, 0.1]] * 1600, 16_000)
    audio = {"bytes": None, "path": str(real)}
    name = _with_rows(dataset, lambda row: row.update(audio=audio))
    row = pq.read_table(dataset / name).slice(0, 1).to_pylist()[0]
    assert any(v.rule == "audio" and v.row == row["id"] for v in verify(dataset))
    with pytest.raises(ValueError, match="no audio"):
        load_audio(row)
    status, output = _run("show", str(dataset), row["id"], "--wav", str(place / "shown.wav"))
    assert status and "holds no sound" in output
    assert not (place / "shown.wav").exists()


def test_sound_of_another_name_is_reported(dataset: Path) -> None:
    def rename(row: dict[str, Any]) -> None:
        row["audio"]["path"] = "../../secret"

    _with_rows(dataset, rename)
    assert any(v.rule == "audio" and "../../secret" in v.detail for v in verify(dataset))


# -- tokenizers


def test_nothing_that_lies_in_a_tokenizers_folder_unlisted_is_copied_on(dataset: Path, place: Path) -> None:
    """A checkout may hold links: what they lead to must get neither into another dataset nor into a checkpoint."""
    os.symlink(place.parent / "secret", dataset / "tokenizer" / "merges.txt")
    assert any(v.file == "tokenizer/merges.txt" and v.rule == "files" for v in verify(dataset))
    with pytest.raises(DatasetError, match=r"tokenizer/merges\.txt is not in"):
        DatasetFacts.read(str(dataset))
    _emit(dataset, place / "new")
    assert not (place / "new" / "tokenizer" / "merges.txt").exists()
    assert SECRET not in b"".join(p.read_bytes() for p in (place / "new").rglob("*") if p.is_file())


def test_a_tokenizers_file_that_leads_elsewhere_is_refused(dataset: Path, place: Path) -> None:
    file = dataset / "tokenizer" / "tokenizer_config.json"
    file.unlink()
    os.symlink(place.parent / "secret", file)
    assert any(v.file == "tokenizer/tokenizer_config.json" and v.rule == "checksum" for v in verify(dataset))
    with pytest.raises(DatasetError, match="is not what"):
        DatasetFacts.read(str(dataset))
    with pytest.raises(DatasetError, match="is not what"):
        _emit(dataset, place / "new")
    assert not (place / "new" / "tokenizer").exists()


def _emit(dataset: Path, out: Path) -> None:
    reemit(
        dataset, out, tokenizer=None, blocks=None, slicing=None, layouts=("duo",), tdm_jsonl=None,
        trust_remote_code=False, report=lambda n: None,
    )  # fmt: skip


# -- banks of voices


@pytest.mark.parametrize("file", ["../secret.wav", "/etc/passwd", "recordings/../../secret.wav", "a\\b.wav", "a\0.wav"])
def test_a_banks_row_names_no_file_outside(write_bank: Callable[..., Path], tmp_path: Path, file: str) -> None:
    shutil.copyfile(_recording(tmp_path), tmp_path / "secret.wav")
    bank = write_bank(lambda i, row: {**row, "file": file} if i == 0 else row)
    first = survey(VoicesConfig(bank=str(bank)))[0]
    assert [f.reason for f in first.faults] == ["bad_row"] and first.voice is None


def test_a_banks_link_leads_to_no_file_outside(write_bank: Callable[..., Path], tmp_path: Path) -> None:
    bank = write_bank()
    rows = [json.loads(line) for line in (bank / "voices.jsonl").read_text(encoding="utf-8").splitlines()]
    inner, outer = bank / rows[0]["file"], bank / rows[1]["file"]
    (bank / "kept.wav").write_bytes(inner.read_bytes())
    inner.unlink()
    inner.symlink_to(bank / "kept.wav")
    shutil.move(outer, tmp_path / "private.wav")
    outer.symlink_to(tmp_path / "private.wav")
    found = survey(VoicesConfig(bank=str(bank)))
    assert found[0].accepted
    assert [f.reason for f in found[1].faults] == ["outside"]


def test_a_parquet_banks_row_names_no_file_outside(
    write_bank: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows may hold a path in place of the sound: one inside is read, others of this machine are not."""
    monkeypatch.setenv("DUPLEXDATA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "hf"))
    source = write_bank()
    rows = [json.loads(line) for line in (source / "voices.jsonl").read_text(encoding="utf-8").splitlines()][:3]
    parquet = tmp_path / "parquet"
    (parquet / "recordings").mkdir(parents=True)
    inside, outside = parquet / "recordings" / "a.wav", tmp_path / "private.wav"
    shutil.copyfile(source / rows[0]["file"], inside)
    shutil.copyfile(source / rows[1]["file"], outside)
    held = (source / rows[2]["file"]).read_bytes()
    audio = [
        {"bytes": None, "path": str(inside)},
        {"bytes": None, "path": str(outside)},
        {"bytes": held, "path": "c.wav"},
    ]
    columns = {k: [r.get(k) for r in rows] for k in rows[0] if k != "file"}
    table = pa.table({**columns, "audio": pa.array(audio, pa.struct({"bytes": pa.binary(), "path": pa.string()}))})
    features = {name: {"dtype": "string", "_type": "Value"} for name in columns} | {"audio": {"_type": "Audio"}}
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, parquet / "train-00000-of-00001.parquet")
    found = survey(VoicesConfig(bank=str(parquet)))
    assert [[f.reason for f in s.faults] for s in found] == [[], ["outside"], []]


def test_a_corpus_names_no_folder_for_its_voices(tmp_path: Path) -> None:
    """Common Voice's table says which language it is, and the bank's files are named after that."""
    (tmp_path / "corpus" / "clips").mkdir(parents=True)
    rows = ["client_id\tpath\tsentence\tlocale", "a\t../../x.mp3\thello\ten", "b\tx.mp3\thello\t../../out"]
    (tmp_path / "corpus" / "validated.tsv").write_text("\n".join(rows) + "\n")
    with pytest.raises(SourceError, match="language"):
        import_corpus("common-voice", tmp_path / "corpus", tmp_path / "bank", ImportSettings())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["corpus"]


def _recording(folder: Path) -> Path:
    path = folder / "any.wav"
    sf.write(path, [0.1] * 16_000, 16_000)
    return path
