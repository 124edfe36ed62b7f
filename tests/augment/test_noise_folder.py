"""Recordings of noise: found in any order, read a piece at a time, named where they will not do."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile as sf
import soxr

from duplexdata.augment.config import AugmentConfig, NoiseConfig
from duplexdata.augment.noise import NoiseFolder, check_installed, folder_name, noise_folder
from duplexdata.errors import ConfigError, SourceError

Float32 = npt.NDArray[np.float32]
RATE = 16_000


def hum(seconds: float, rate: int, channels: int = 1, seed: int = 0) -> Float32:
    """A low chord with some hiss, not the same in both channels."""
    t = np.arange(round(seconds * rate)) / rate
    hiss = 0.01 * np.random.default_rng(seed).standard_normal((len(t), channels))
    tones = np.stack([np.sin(2 * np.pi * (110 + 70 * c + 30 * seed) * t) for c in range(channels)], axis=1)
    return (0.2 * tones + hiss).astype(np.float32)


def read_folder(path: Path) -> NoiseFolder:
    found = noise_folder(AugmentConfig(noise=NoiseConfig(share=0.5, folder=str(path))))
    assert found is not None
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "noises"
    (path / "street").mkdir(parents=True)
    sf.write(path / "street" / "b.wav", hum(2.0, RATE), RATE)
    sf.write(path / "a.FLAC", hum(1.5, 44_100, 2, seed=1), 44_100, format="FLAC")
    sf.write(path / "c.ogg", hum(3.0, 48_000, seed=2), 48_000)
    (path / "README.txt").write_text("no noise")
    (path / "._a.wav").write_text("what macOS leaves behind")
    return path


def test_recordings_are_found_by_name_in_all_folders(folder: Path) -> None:
    found = read_folder(folder)
    assert [(f.name, f.length) for f in found.files] == [
        ("a.FLAC", 24_000),
        ("c.ogg", 48_000),
        ("street/b.wav", 32_000),
    ]


def test_no_folder_is_looked_at_that_is_not_used(tmp_path: Path) -> None:
    assert noise_folder(AugmentConfig()) is None
    assert noise_folder(AugmentConfig(noise=NoiseConfig(share=0.0, folder=str(tmp_path / "nowhere")))) is None


def test_a_file_at_16_khz_is_read_as_it_is_from_its_offset_on(folder: Path) -> None:
    whole, _ = sf.read(folder / "street" / "b.wav", dtype="float32")
    assert np.array_equal(read_folder(folder).read("street/b.wav", 1234, 9000), whole[1234 : 1234 + 9000])


@pytest.mark.parametrize("n", [32_000, 40_000, 200_000])
def test_behind_its_end_a_file_begins_again(folder: Path, n: int) -> None:
    whole, _ = sf.read(folder / "street" / "b.wav", dtype="float32")
    found = read_folder(folder).read("street/b.wav", 31_000, n)
    assert np.array_equal(found, np.resize(np.roll(whole, -31_000), n))


def test_other_rates_and_channels_become_16_khz_mono(folder: Path) -> None:
    stereo, rate = sf.read(folder / "a.FLAC", dtype="float32")
    expected = soxr.resample(stereo.mean(axis=1), rate, RATE, quality="HQ")
    found = read_folder(folder).read("a.FLAC", 0, 16_000)
    assert found.shape == (16_000,)
    inside = slice(200, 15_800)
    assert np.abs(found[inside] - expected[inside]).max() < 1e-3


@pytest.mark.parametrize("name", ["a.FLAC", "c.ogg", "street/b.wav"])
def test_any_stretch_has_the_length_that_is_asked_for(folder: Path, name: str) -> None:
    found = read_folder(folder)
    length = {f.name: f.length for f in found.files}[name]
    for offset in (0, 1, length // 2, length - 1):
        for n in (1, 7, 12_800, 100_001):
            x = found.read(name, offset, n)
            assert x.shape == (n,)
            assert np.isfinite(x).all()


def test_no_more_of_a_file_is_in_memory_than_is_heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sf.write(tmp_path / "hour.flac", np.zeros(3600 * RATE, np.int16), RATE)
    asked: list[int] = []
    read = sf.SoundFile.read
    monkeypatch.setattr(sf.SoundFile, "read", lambda self, n, **kw: asked.append(n) or read(self, n, **kw))
    read_folder(tmp_path).read("hour.flac", 3599 * RATE, 5 * RATE)
    assert sum(asked) == 5 * RATE


def test_what_identifies_a_folder_is_what_is_in_it(folder: Path, tmp_path: Path) -> None:
    before = read_folder(folder).identity()
    moved = Path(shutil.copytree(folder, tmp_path / "elsewhere"))
    assert read_folder(moved).identity() == before
    (moved / "c.ogg").rename(moved / "d.ogg")
    assert read_folder(moved).identity() != before
    shutil.copy(folder / "street" / "b.wav", folder / "a.wav")
    assert read_folder(folder).identity() != before


# -- what will not do


def no_audio(path: Path) -> None:
    (path / "bad.wav").write_text("this is no sound")


def no_samples(path: Path) -> None:
    sf.write(path / "bad.wav", np.zeros(0, np.float32), RATE)


def too_slow(path: Path) -> None:
    sf.write(path / "bad.wav", np.zeros(100, np.float32), 1000)


def empty_file(path: Path) -> None:
    (path / "bad.flac").touch()


@pytest.mark.parametrize("spoil", [no_audio, no_samples, too_slow, empty_file])
def test_a_file_that_is_no_recording_is_named(folder: Path, spoil: Callable[[Path], None]) -> None:
    spoil(folder)
    with pytest.raises(ConfigError, match=r"bad\.(wav|flac)"):
        read_folder(folder)


@pytest.mark.parametrize("name", ["two\nlines.wav", "\udce9.wav"])
def test_a_name_that_cannot_stand_in_a_row_is_refused(folder: Path, name: str) -> None:
    shutil.copy(folder / "street" / "b.wav", folder / name)
    with pytest.raises(ConfigError, match="name"):
        read_folder(folder)


@pytest.mark.parametrize(
    ("folder", "published"),
    [("/data/noise/musan", "musan"), ("~/musan", "musan"), ("musan/", "musan"), ("/", "noise"), (None, None)],
)
def test_a_folder_is_published_without_what_is_above_it(folder: str | None, published: str | None) -> None:
    assert folder_name(folder) == published


def test_a_folder_without_recordings_or_that_is_not_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "list.txt").write_text("rain.wav")
    for name in ("empty", "nowhere"):
        with pytest.raises(ConfigError, match=name):
            read_folder(tmp_path / name)


@pytest.mark.parametrize("damage", ["gone", "cut"])
def test_a_file_that_is_damaged_later_is_named(folder: Path, damage: str) -> None:
    found = read_folder(folder)
    file = folder / "a.FLAC"
    data = file.read_bytes()
    file.unlink()
    if damage == "cut":
        file.write_bytes(data[: len(data) // 2])
    with pytest.raises(SourceError, match=r"a\.FLAC"):
        found.read("a.FLAC", 0, 24_000)


def test_a_missing_library_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    check_installed(AugmentConfig())
    with pytest.raises(ConfigError, match=r"duplexdata\[augment\]"):
        check_installed(AugmentConfig(noise=NoiseConfig(share=0.5)))
