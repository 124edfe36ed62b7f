"""The encoding stage: the tokens of the stored sound, whatever the windows, threads, processes, kills and errors."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from datasets import Features, List, Value, load_dataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from duplexdata import backends
from duplexdata.audio import from_flac
from duplexdata.backends import checkpoint_identity, codebook_size, device_count, make_speech_tokenizer
from duplexdata.build import Workers, build, encoders, prepare, speak_shard
from duplexdata.codecs.glm4voice import Glm4VoiceTokenizer
from duplexdata.config import CodecConfig, Config, LayoutConfig, ShardConfig
from duplexdata.conversation import Negative
from duplexdata.errors import CodecError, ConfigError, ShardError
from duplexdata.layouts.interleaved import IGNORED
from duplexdata.manifest import read_manifest
from duplexdata.records import code_columns, read_codes
from duplexdata.schema import CODES_OF_SEVERAL, DICTIONARY, SHAPES, arrow_schema, codes_shape
from duplexdata.shards import ShardWriter
from duplexdata.stages import encode as stage
from duplexdata.stages.encode import ahead, behind, codes_path, encode, is_encoded, release_tokenizer
from duplexdata.stages.ingest import ingest
from duplexdata.stages.plan import Plan, make_plan
from duplexdata.stages.speak import reading
from duplexdata.stages.work import Shard, shards_of
from duplexdata.storage import Store, folder_at

sys.path.insert(0, str(Path(__file__).parent / "codecs"))
from glm4voice_plain import TINY, write_checkpoint
from test_mimi import write_tiny_mimi

pytest.importorskip("espeakng_loader")
SMALL = Config(
    conversations=6, shards=ShardConfig(conversations=4, test_fraction=0.3), layout=LayoutConfig(emit=("sft", "dpo"))
)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    release_tokenizer()


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("checkpoints")
    return {
        "glm4voice": write_checkpoint(folder / "glm", TINY),
        "mimi": write_tiny_mimi(folder / "mimi"),
        "other mimi": write_tiny_mimi(folder / "another", seed=1),
    }


def with_codec(checkpoint: Path, name: str, **options: Any) -> Config:
    return replace(SMALL, codec=CodecConfig(name, str(checkpoint), **{"device": "cpu", **options}))


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory, checkpoints: dict[str, Path]) -> Plan:
    """A run of GLM-4-Voice's tokenizer of which everything up to the sound is done."""
    plan = make_plan(with_codec(checkpoints["glm4voice"], "glm4voice"), Store(tmp_path_factory.mktemp("work")))
    ingest(plan)
    prepare(plan)
    for shard in shards_of(plan.config):
        speak_shard(plan, shard)
    return plan


@pytest.fixture
def train(spoken: Plan) -> Iterator[Shard]:
    """A shard of several conversations, not encoded yet."""
    shard = shards_of(spoken.config)[0]
    _forget(spoken, shard)
    yield shard
    _forget(spoken, shard)


def _forget(plan: Plan, shard: Shard) -> None:
    release_tokenizer()
    for path in plan.stage_folder("codes").glob(f"*{shard.name}*"):
        path.unlink()


def _expected(plan: Plan, shard: Shard) -> list[tuple[str, Any, Any, Any]]:
    """Id and tokens of the user, the assistant and the assistant in the negative, each clip encoded alone."""
    tokenizer = make_speech_tokenizer(plan.config.codec)
    found = []
    for row in reading(plan, shard):
        assert row.audio is not None
        late = row.audio[:, 0].copy()
        late[row.patch.start : row.patch.start + len(row.patch.samples)] = row.patch.samples
        clips = [np.ascontiguousarray(row.audio[:, 1]), np.ascontiguousarray(row.audio[:, 0]), late]
        user, assistant, rejected = (tokenizer.encode([clip])[0].tolist() for clip in clips)
        assert assistant != rejected
        found.append((row.conversation.id, user, assistant, rejected))
    return found


def _stored(path: Path) -> list[tuple[str, Any, Any, Any]]:
    rows = pq.read_table(path).to_pylist()
    return [(r["id"], r["user"], r["assistant"], r["negatives"][0]["assistant"]) for r in rows]


def _no_thread_is_left() -> bool:
    return not any(t.name.startswith(("reading", "writing")) for t in threading.enumerate())


# ---- tokens and windows


def test_codes_are_those_of_the_stored_sound(spoken: Plan, train: Shard) -> None:
    encode(spoken, train)
    assert _stored(codes_path(spoken, train)) == _expected(spoken, train)
    assert _no_thread_is_left()


@pytest.mark.parametrize("layout", ["checkpoint", "checkpoint_prefixed"])
def test_codes_of_the_golden_checkpoint(spoken: Plan, shared_data: Path, layout: str) -> None:
    golden = shared_data.parent / "golden" / "glm4voice_tokenizer" / layout
    if not golden.is_dir():
        pytest.skip(f"no golden data: {golden} is missing")
    plan = make_plan(with_codec(golden, "glm4voice"), spoken.store)
    shard = shards_of(plan.config)[1]
    assert (plan.speech, plan.codes != spoken.codes) == (spoken.speech, True)
    encode(plan, shard)
    assert _stored(codes_path(plan, shard)) == _expected(plan, shard)


@pytest.mark.parametrize("frames", [1, 1000])
def test_the_bytes_do_not_depend_on_the_windows(
    spoken: Plan, train: Shard, frames: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode(spoken, train)
    whole = codes_path(spoken, train).read_bytes()
    _forget(spoken, train)
    handed = []
    tokens_of = Glm4VoiceTokenizer.encode

    def counted(self: Glm4VoiceTokenizer, clips: Any) -> Any:
        handed.append(len(clips))
        return tokens_of(self, clips)

    monkeypatch.setattr(Glm4VoiceTokenizer, "encode", counted)
    monkeypatch.setattr(stage, "FRAMES", frames)
    encode(spoken, train)
    assert len(handed) > 1 and sum(handed) == 3 * train.slots
    assert codes_path(spoken, train).read_bytes() == whole


def test_a_batch_that_runs_out_of_memory_is_tried_again_at_half(
    spoken: Plan, train: Shard, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode(spoken, train)
    whole = codes_path(spoken, train).read_bytes()
    _forget(spoken, train)
    start, sizes = Glm4VoiceTokenizer._start, []

    def scarce(self: Glm4VoiceTokenizer, chunks: Any) -> Any:
        sizes.append(sum(chunk.n_tokens for chunk in chunks))
        if sizes[-1] > 300:
            raise torch.OutOfMemoryError("no more")
        return start(self, chunks)

    monkeypatch.setattr(Glm4VoiceTokenizer, "_start", scarce)
    encode(spoken, train)
    assert [n > 300 for n in sizes[:3]] == [True, True, False] and sizes[1] <= sizes[0] / 2
    assert codes_path(spoken, train).read_bytes() == whole


# ---- threads


def test_one_item_is_made_ahead_and_no_more() -> None:
    made = []

    def items() -> Iterator[int]:
        for i in range(5):
            made.append(i)
            yield i

    with ahead(items()) as found:
        assert next(found) == 0
        for _ in range(100):
            threading.Event().wait(0.002)
        assert made == [0, 1]
        assert list(found) == [1, 2, 3, 4]
    assert _no_thread_is_left()


def test_leaving_early_ends_the_thread_and_closes_what_it_read() -> None:
    closed = []

    def items() -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            closed.append(True)

    with pytest.raises(KeyError), ahead(items()) as found:
        next(found)
        raise KeyError
    assert closed and _no_thread_is_left()


def test_an_error_of_the_last_call_is_raised_at_the_end() -> None:
    def fails() -> None:
        raise ShardError("disk full")

    with pytest.raises(ShardError, match="disk full"), behind() as write:
        write(fails)
    assert _no_thread_is_left()


def _breaks_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(plan: Plan, shard: Shard) -> Iterator[Any]:
        yield from list(reading(plan, shard))[:2]
        from_flac(b"no FLAC")

    monkeypatch.setattr(stage, "reading", read)


def _breaks_encoding(monkeypatch: pytest.MonkeyPatch) -> None:
    def tokens(self: Glm4VoiceTokenizer, clips: Any) -> Any:
        raise CodecError("the device is gone")

    monkeypatch.setattr(Glm4VoiceTokenizer, "encode", tokens)


def _breaks_writing(monkeypatch: pytest.MonkeyPatch) -> None:
    def write(self: ShardWriter, columns: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(ShardWriter, "write", write)


@pytest.mark.parametrize(
    ("broken", "error", "message"),
    [
        (_breaks_reading, ShardError, "its sound cannot be read"),
        (_breaks_encoding, CodecError, "the device is gone"),
        (_breaks_writing, OSError, "no space left"),
    ],
)
def test_an_error_in_any_thread_is_raised_as_it_is_and_leaves_nothing(
    spoken: Plan,
    train: Shard,
    monkeypatch: pytest.MonkeyPatch,
    broken: Callable[[pytest.MonkeyPatch], None],
    error: type[Exception],
    message: str,
) -> None:
    monkeypatch.setattr(stage, "FRAMES", 1)
    broken(monkeypatch)
    with pytest.raises(error, match=message):
        encode(spoken, train)
    assert _no_thread_is_left()
    assert is_encoded(spoken, train) is None
    assert [p for p in spoken.stage_folder("codes").iterdir() if train.name in p.name] == []


# ---- several codebooks


def test_a_build_with_mimi_holds_all_codebooks_and_interleaves_the_first(
    tmp_path: Path, checkpoints: dict[str, Path]
) -> None:
    out = tmp_path / "dataset"
    config = with_codec(checkpoints["mimi"], "mimi", n_codebooks=4)
    assert build(config, out, workers=1, report=lambda *_: None, keep_work=True)
    plan = make_plan(config, Store(folder_at(out).work.path))
    for shard in shards_of(config):
        assert _stored(out / "codes" / f"{shard.name}.parquet") == _expected(plan, shard)

    manifest = read_manifest(out)
    assert manifest["clock"] == {"frame_rate": 12.5, "codebook_size": 64, "n_codebooks": 4, "codec": "mimi"}
    made_by = manifest["backends"]["speech_tokenizer"]
    assert made_by["device"] == "cpu" and made_by["precision"] == "fp32" and made_by["torch"] == torch.__version__
    assert manifest["config"]["codec"]["device"] == "auto"
    assert str(checkpoints["mimi"]) not in (out / "manifest.json").read_text()

    codes = load_dataset(str(out), "codes", split="train", cache_dir=str(tmp_path / "cache"))
    assert codes.features["user"] == List(List(Value("uint16")))
    assert codes.features["negatives"].feature["assistant"] == List(List(Value("uint16")))
    sft = load_dataset(str(out), "sft", split="train", cache_dir=str(tmp_path / "cache"))
    offset = manifest["vocabulary"]["speech_offset"]
    assert manifest["vocabulary"]["codebook_size"] == 64
    n, m = config.layout.n_speech, config.layout.n_text
    for row, tokens in zip(sft, codes, strict=True):
        assert row["id"] == tokens["id"]
        blocks = np.array(row["input_ids"]).reshape(-1, 2 * n + m)
        assert (blocks[:, :n] - offset).ravel().tolist() == tokens["user"][0][: n * len(blocks)]
        assert (np.array(row["labels"]).reshape(blocks.shape)[:, :n] == IGNORED).all()


@given(data=st.data(), k=st.integers(1, 3), rows=st.integers(1, 4))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_first_codebook_comes_back(tmp_path: Path, data: st.DataObject, k: int, rows: int) -> None:
    def tokens() -> Any:
        n = data.draw(st.integers(0, 4))
        found = np.array(data.draw(st.lists(st.integers(0, 65_535), min_size=k * n, max_size=k * n)), np.int32)
        return found.reshape(k, n) if k > 1 else found

    found = [(tokens(), tokens(), tokens()) for _ in range(data.draw(st.integers(1, 5)))]
    user, assistant, late = (list(column) for column in zip(*found, strict=True))
    clock = {"frame_rate": 12.5, "codebook_size": 65_536, "n_codebooks": k, "codec": "x"}
    negatives = [(Negative("turn_taking", 1, 12_800, 40_000), t, (0, 160)) for t in late]
    path = tmp_path / "codes.parquet"
    with ShardWriter(path, codes_shape(k), facts=clock) as writer:
        writer.write(code_columns([str(i) for i in range(len(found))], user, assistant, negatives, clock))
        writer.close()
    assert [x[1:] for x in _stored(path)] == [tuple(a.tolist() for a in x) for x in found]
    for codes, parts in zip(read_codes(path, rows), found, strict=True):
        for ours, theirs in zip((codes.user, codes.assistant, codes.negatives[0].assistant), parts, strict=True):
            np.testing.assert_array_equal(ours, np.atleast_2d(theirs)[0])


def test_several_codebooks_are_dictionary_encoded_and_known_to_datasets(tmp_path: Path) -> None:
    path = tmp_path / "codes.parquet"
    tokens = np.arange(60).reshape(3, 20) % 7
    clock = {"frame_rate": 12.5, "codebook_size": 7, "n_codebooks": 3, "codec": "x"}
    negative = (Negative("interruption", 0, 1, 2), tokens, (0, 160))
    with ShardWriter(path, CODES_OF_SEVERAL, facts=clock) as writer:
        writer.write(code_columns(["a"] * 50, [tokens] * 50, [tokens] * 50, [negative] * 50, clock))
        writer.close()
    group = pq.ParquetFile(path).metadata.row_group(0)
    columns = [group.column(i) for i in range(group.num_columns)]
    assert {c.path_in_schema for c in columns if "RLE_DICTIONARY" in c.encodings} == set(DICTIONARY[CODES_OF_SEVERAL])
    assert {c.compression for c in columns} == {"ZSTD"}
    features = Features.from_arrow_schema(arrow_schema(CODES_OF_SEVERAL))
    assert features.arrow_schema.metadata == arrow_schema(CODES_OF_SEVERAL).metadata
    assert [name for name, _ in SHAPES[CODES_OF_SEVERAL]] == [name for name, _ in SHAPES["codes"]]


# ---- going on, and starting again


def test_what_is_encoded_is_not_encoded_again(spoken: Plan, train: Shard, monkeypatch: pytest.MonkeyPatch) -> None:
    marker = encode(spoken, train)
    _breaks_encoding(monkeypatch)
    assert encode(spoken, train) == marker


def test_a_build_stopped_between_sound_and_tokens_goes_on(
    tmp_path: Path, checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, undisturbed = tmp_path / "a" / "dataset", tmp_path / "b" / "dataset"
    config = with_codec(checkpoints["glm4voice"], "glm4voice")
    with monkeypatch.context() as patch:
        _breaks_encoding(patch)
        with pytest.raises(CodecError, match="the device is gone"):
            build(config, out, workers=1, report=lambda *_: None)
    sound = {p: p.stat().st_ino for p in folder_at(out).work.path.glob("speech-*/train*.parquet")}
    assert sound and not list(folder_at(out).work.path.glob("codes-*/*.parquet"))
    assert build(config, out, workers=1, report=lambda *_: None, keep_work=True)
    assert {p: p.stat().st_ino for p in sound} == sound
    assert build(config, undisturbed, workers=1, report=lambda *_: None)
    for path in undisturbed.rglob("*"):
        assert path.is_dir() or (out / path.relative_to(undisturbed)).read_bytes() == path.read_bytes()


def test_other_weights_of_the_same_shape_are_encoded_anew(
    tmp_path: Path, checkpoints: dict[str, Path], spoken: Plan
) -> None:
    here = tmp_path / "mimi"
    plans = []
    for name in ("mimi", "other mimi", "mimi"):
        for path in checkpoints[name].iterdir():
            here.mkdir(exist_ok=True)
            (here / path.name).write_bytes(path.read_bytes())
        plans.append(make_plan(with_codec(here, "mimi"), spoken.store))
    assert plans[0].speech == plans[1].speech == spoken.speech
    assert plans[0].codes == plans[2].codes != plans[1].codes
    shard = shards_of(spoken.config)[1]
    # One process, the same path: the weights that were loaded for the one run are not used for the other.
    for plan, name in zip(plans, ("mimi", "other mimi"), strict=False):
        for path in checkpoints[name].iterdir():
            (here / path.name).write_bytes(path.read_bytes())
        encode(plan, shard)
        assert _stored(codes_path(plan, shard)) == _expected(plan, shard)
    assert _stored(codes_path(plans[0], shard)) != _stored(codes_path(plans[1], shard))


def test_the_identity_of_a_checkpoint_is_its_content(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    elsewhere = tmp_path / "copy"
    elsewhere.mkdir()
    for path in checkpoints["mimi"].iterdir():
        (elsewhere / path.name).write_bytes(path.read_bytes())
    first = checkpoint_identity(CodecConfig("mimi", str(checkpoints["mimi"])))
    assert checkpoint_identity(CodecConfig("mimi", str(elsewhere))) == first
    assert checkpoint_identity(CodecConfig("mimi", str(checkpoints["other mimi"]))) != first
    with pytest.raises(CodecError, match="no such folder"):
        checkpoint_identity(CodecConfig("mimi", str(tmp_path / "nothing")))
    with pytest.raises(ConfigError, match=r"codec\.checkpoint"):
        checkpoint_identity(CodecConfig("mimi"))


def test_the_codebook_is_known_without_the_weights(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    for name, size in (("glm4voice", 128), ("mimi", 64)):
        folder = tmp_path / name
        folder.mkdir()
        for path in checkpoints[name].glob("*.json"):
            (folder / path.name).write_bytes(path.read_bytes())
        assert codebook_size(CodecConfig(name, str(folder))) == size
    assert codebook_size(CodecConfig()) == 1024


# ---- devices


def test_no_fingerprint_depends_on_the_device(spoken: Plan) -> None:
    config = spoken.config
    elsewhere = make_plan(replace(config, codec=replace(config.codec, device="cuda:1")), spoken.store)
    assert replace(elsewhere, config=config) == spoken
    other = make_plan(replace(config, codec=replace(config.codec, precision="bf16")), spoken.store)
    assert (other.speech, other.codes == spoken.codes) == (spoken.speech, False)


@pytest.mark.parametrize(
    ("name", "device", "gpus", "expected"),
    [
        ("mel", "cuda", 4, 0),
        ("glm4voice", "cpu", 4, 0),
        ("glm4voice", "auto", 0, 0),
        ("glm4voice", "auto", 4, 4),
        ("mimi", "cuda", 2, 2),
        ("mimi", "cuda:1", 4, 1),
    ],
)
def test_one_process_encodes_for_each_gpu(
    name: str, device: str, gpus: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    codec = CodecConfig(name, "somewhere", device)
    assert device_count(codec) == expected
    assert encoders(replace(SMALL, codec=codec)) == expected


@pytest.mark.parametrize(
    "options", [{"device": "gpu"}, {"device": "cuda:x"}, {"precision": "int8"}, {"n_codebooks": 0}]
)
def test_settings_that_no_codec_has_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"codec.{next(iter(options))}"):
        CodecConfig(**options)


@pytest.mark.parametrize("name", ["mel", "glm4voice"])
def test_several_codebooks_are_refused_where_there_is_one(name: str) -> None:
    with pytest.raises(ConfigError, match=r"codec\.n_codebooks"):
        backends.make_speech_tokenizer(CodecConfig(name, "somewhere", n_codebooks=2))


@pytest.mark.slow
def test_shards_dealt_to_processes_of_their_own_give_the_same_files(
    tmp_path: Path, checkpoints: dict[str, Path]
) -> None:
    config = replace(with_codec(checkpoints["mimi"], "mimi"), shards=ShardConfig(conversations=2, test_fraction=0.3))
    found = []
    for workers, own in ((1, 0), (2, 1), (2, 2)):
        plan = make_plan(config, Store(tmp_path / f"{workers}-{own}"))
        seen: list[int] = []
        with Workers(workers, encoders=own) as pool:
            ingest(plan)
            prepare(plan)
            markers = pool.run(plan, shards_of(config), lambda _, n: seen.append(n))  # noqa: B023
        assert sum(seen) == 6 and all(m.codes is not None for m in markers)
        paths = sorted(p for p in plan.work.rglob("*.parquet"))
        found.append(({p.relative_to(plan.work): p.read_bytes() for p in paths}, markers))
    assert found[0] == found[1] == found[2]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_build_has_the_fingerprint_of_a_cpu_build(tmp_path: Path, checkpoints: dict[str, Path]) -> None:
    found = []
    for device in ("cpu", "cuda"):
        out = tmp_path / device / "dataset"
        build(with_codec(checkpoints["mimi"], "mimi", device=device), out, workers=2, report=lambda *_: None)
        manifest = read_manifest(out)
        assert manifest["backends"]["speech_tokenizer"]["device"] == device
        found.append(manifest["fingerprint"])
    assert found[0] == found[1]
