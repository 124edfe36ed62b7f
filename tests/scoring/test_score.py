"""Scoring a dataset: a model that says what was recorded scores what the record scores, whichever way it is run."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "decoding"))
from models import llama
from replay import Replay, negative_rows, recorded_rows, silent_rows

from duplexdata.decoding import DecodeSettings
from duplexdata.dialogue import Channel
from duplexdata.errors import CheckpointError, ConfigError, DatasetError
from duplexdata.scoring import BY_NAME, Score, score_dataset, write_report
from duplexdata.scoring.detect import silent_tokens
from duplexdata.scoring.events import Asked
from duplexdata.scoring.held_out import read_split

GREEDY = DecodeSettings()
# The training split of the small dataset is the larger one, and any split can be scored.
SPLIT = "train"
MOST = 10
"""Conversations where a model runs."""


def shares(score: Score) -> dict[str, float]:
    return {name: e.value for name, e in score.summary["all"].items() if BY_NAME[name].better}


def replayed(dataset: Path, rows: dict[str, np.ndarray], history: str) -> Score:
    held = read_split(dataset, SPLIT, MOST)
    model = Replay(rows, len(held.vocabulary), held.grid)
    return score_dataset(
        None, dataset, split=SPLIT, limit=MOST, history=history, model=model, settings=GREEDY, resamples=50
    )


def test_the_recorded_assistant_is_right_and_the_rejected_one_wrong(small_dataset: Path) -> None:
    recorded = score_dataset(None, small_dataset, split=SPLIT, reference="recorded")
    for name, value in shares(recorded).items():
        if BY_NAME[name].unit == "%":
            assert value == (1.0 if BY_NAME[name].better == "high" else 0.0), name
    assert 0.68 < recorded.summary["all"]["latency"].value < 0.82
    assert min(j.values["overlap"][0] for j in recorded.judgements if "overlap" in j.values) >= 0.72
    assert all(j.counted for j in recorded.judgements)
    rejected = score_dataset(None, small_dataset, split=SPLIT, reference="negatives")
    assert shares(rejected)["isr"] == 0
    assert shares(rejected)["tt_success"] < 0.8
    assert shares(rejected)["overlap"] > shares(recorded)["overlap"] + 1
    assert shares(rejected)["latency"] > shares(recorded)["latency"] + 1


@pytest.mark.parametrize("history", ["own", "gold"])
def test_a_model_that_says_what_was_recorded_scores_what_the_record_scores(small_dataset: Path, history: str) -> None:
    found = replayed(small_dataset, recorded_rows(read_split(small_dataset, SPLIT, MOST)), history)
    reference = score_dataset(None, small_dataset, split=SPLIT, limit=MOST, reference="recorded", resamples=50)
    outcomes = {(j.event.conversation, j.event.kind, j.event.start): j.outcome for j in reference.judgements}
    for j in found.judgements:
        assert j.outcome == outcomes[j.event.conversation, j.event.kind, j.event.start], j.event
    without = {
        t.record.id for t in read_split(small_dataset, SPLIT, MOST).talks if t.text is None and history == "gold"
    }
    assert found.dropped.get("no row of sft", 0) == len(without)
    moments = {k: o for k, o in outcomes.items() if k[1] is not Asked.CONVERSATION and k[0] not in without}
    left_out = found.dropped.get("moment at the conversation's end", 0)
    assert sum(j.event.kind is not Asked.CONVERSATION for j in found.judgements) + left_out == len(moments)
    assert left_out <= 0.1 * len(moments)
    assert shares(found)["latency"] == pytest.approx(shares(reference)["latency"], abs=0.02)
    spoken = found.summary["all"]
    # A window of the sound may cut a word off from its sentence.
    assert spoken["speaking"].value == pytest.approx(spoken["recorded_speaking"].value, abs=0.005)


@pytest.mark.parametrize("history", ["own", "gold"])
def test_a_model_that_never_speaks_does_not_look_good(small_dataset: Path, history: str) -> None:
    held = read_split(small_dataset, SPLIT, MOST)
    silent = silent_tokens(small_dataset.resolve(), held.manifest["fingerprint"], held.vocabulary.codebook_size)
    found = replayed(small_dataset, silent_rows(held, int(np.flatnonzero(silent)[0])), history)
    values = shares(found)
    assert values["tt_success"] == 0
    assert found.summary["all"]["speaking"].value == 0
    if history == "own":
        assert "isr" not in values, "there was nothing to stop"
    else:
        assert values["unprompted_stop"] == 1 and values.get("backchannel_stop", 1) == 1
        assert values["barge_in_answered"] == 0


def test_a_model_that_says_what_the_pairs_reject_scores_worse(small_dataset: Path) -> None:
    held = read_split(small_dataset, SPLIT, MOST)
    late = shares(replayed(small_dataset, negative_rows(held), "own"))
    right = shares(replayed(small_dataset, recorded_rows(held), "own"))
    assert late["tt_success"] < right["tt_success"] and late["isr"] < right["isr"]
    assert late["overlap"] > right["overlap"] and late["latency"] > right["latency"]


def test_only_what_was_asked_in_time_is_given_as_history(small_dataset: Path) -> None:
    """A model of random weights on recorded history: everything that it gets wrong, it got wrong itself."""
    held = read_split(small_dataset, SPLIT)
    found = score_dataset(
        None, small_dataset, split=SPLIT, limit=6, history="gold", model=llama(held.vocabulary), settings=GREEDY
    )
    barge_ins = [j for j in found.judgements if j.event.kind in (Asked.BARGE_IN, Asked.TERMINATION)]
    assert barge_ins and all(j.counted for j in barge_ins), "the recorded assistant speaks when the user barges in"


def test_results_do_not_depend_on_the_batch(small_dataset: Path) -> None:
    held = read_split(small_dataset, SPLIT)
    model = llama(held.vocabulary)
    scores = [
        score_dataset(
            None,
            small_dataset,
            split=SPLIT,
            limit=2,
            history=history,
            model=model,
            settings=DecodeSettings(batch_size=size, cache_bytes=room),
            resamples=50,
        )
        for history in ("own", "gold")
        for size, room in ((64, 1 << 30), (3, 1_000_000))
    ]
    for a, b in (scores[:2], scores[2:]):
        assert [(j.event, j.outcome, dict(j.values)) for j in a.judgements] == [
            (j.event, j.outcome, dict(j.values)) for j in b.judgements
        ]


def test_silent_tokens_lie_where_nobody_speaks(small_dataset: Path) -> None:
    held = read_split(small_dataset, "test")
    silent = silent_tokens(small_dataset.resolve(), held.manifest["fingerprint"], held.vocabulary.codebook_size)
    assert 0 < silent.sum() < 100
    for talk in held.talks:
        for u in talk.record.utterances:
            if u.channel is Channel.ASSISTANT:
                a, b = u.start // held.grid.frame_samples + 1, u.end // held.grid.frame_samples
                assert silent[talk.codes.assistant[a:b]].mean() < 0.4
        speaking = np.zeros(len(talk.codes.assistant), bool)
        for u in talk.record.utterances:
            if u.channel is Channel.ASSISTANT:
                speaking[u.start // 1280 : u.end // 1280 + 1] = True
        assert silent[talk.codes.assistant[~speaking]].mean() > 0.98


def test_speech_is_found_in_the_sound_where_it_is_found_in_the_tokens(small_dataset: Path) -> None:
    tokens = score_dataset(None, small_dataset, split="test", reference="recorded", resamples=50)
    sound = score_dataset(
        None, small_dataset, split="test", reference="recorded", speech_from="audio", vad="energy", resamples=50
    )
    for name in ("tt_success", "isr", "early_start"):
        if name in shares(tokens):
            assert shares(sound)[name] == shares(tokens)[name]
    assert shares(sound)["latency"] == pytest.approx(shares(tokens)["latency"], abs=0.1)
    assert sound.summary["all"]["speaking"].value == pytest.approx(tokens.summary["all"]["speaking"].value, abs=0.1)


def test_the_report_holds_everything(small_dataset: Path, tmp_path: Path) -> None:
    score = score_dataset(None, small_dataset, split=SPLIT, reference="negatives", resamples=50)
    written = write_report(score, tmp_path / "report")
    assert [p.name for p in written] == ["score.json", "score.md", "score.png"]
    found = json.loads(written[0].read_text())
    assert found["metrics"]["all"]["isr"]["value"] == 0
    assert set(found["metrics"]) == {"all"} | {j.event.scenario for j in score.judgements}
    assert found["worst"] and found["worst"][0]["outcome"] in ("talked on", "late")
    text = written[1].read_text()
    for metric in score.summary["all"]:
        assert BY_NAME[metric].label in text
    assert written[2].read_bytes()[:4] == b"\x89PNG"


def test_the_same_score_twice(small_dataset: Path) -> None:
    held = read_split(small_dataset, "test")
    a, b = (
        score_dataset(None, small_dataset, split="test", limit=2, model=llama(held.vocabulary), seed=3)
        for _ in range(2)
    )
    assert a.summary == b.summary and a.judgements == b.judgements


# -- bad input


def copy(dataset: Path, to: Path) -> Path:
    shutil.copytree(dataset, to)
    return to


@pytest.mark.parametrize(
    ("settings", "error", "says"),
    [
        ({"split": "validation"}, DatasetError, "validation.*test, train"),
        ({"history": "mine"}, ConfigError, "own, gold"),
        ({"reference": "best"}, ConfigError, "recorded, negatives"),
        ({"speech_from": "air"}, ConfigError, "tokens, audio"),
        ({"speech_from": "audio", "vad": "ears"}, ConfigError, "silero, energy"),
        ({"limit": 0}, DatasetError, "limit"),
    ],
)
def test_wrong_settings_are_refused(
    small_dataset: Path, settings: dict[str, object], error: type[Exception], says: str
) -> None:
    base: dict[str, object] = {} if "reference" in settings or "history" in settings else {"reference": "recorded"}
    checkpoint = "somewhere" if "history" in settings else None
    with pytest.raises(error, match=says):
        score_dataset(checkpoint, small_dataset, **(base | settings))  # type: ignore[arg-type]


def test_one_thing_is_scored(small_dataset: Path) -> None:
    with pytest.raises(ConfigError, match="one of them"):
        score_dataset(None, small_dataset)
    with pytest.raises(ConfigError, match="one of them"):
        score_dataset("checkpoint", small_dataset, reference="recorded")


def test_a_dataset_that_lacks_what_is_needed_is_refused(small_dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no dataset"):
        score_dataset(None, tmp_path, reference="recorded")
    dataset = copy(small_dataset, tmp_path / "dataset")
    held = read_split(dataset, "test")
    shutil.rmtree(dataset / "sft")
    with pytest.raises(DatasetError, match="sft"):
        score_dataset(None, dataset, history="gold", model=llama(held.vocabulary))
    shutil.rmtree(dataset / "codes")
    with pytest.raises(DatasetError, match="codes"):
        score_dataset(None, dataset, reference="recorded")


def test_silence_is_learnt_from_a_training_split(small_dataset: Path, tmp_path: Path) -> None:
    dataset = copy(small_dataset, tmp_path / "dataset")
    for path in dataset.glob("*/train-*.parquet"):
        path.unlink()
    with pytest.raises(DatasetError, match="training split"):
        score_dataset(None, dataset, reference="recorded")


def test_a_checkpoint_of_another_vocabulary_is_refused(small_dataset: Path, tmp_path: Path) -> None:
    held = read_split(small_dataset, "test")
    good = tmp_path / "good"
    llama(held.vocabulary).save_pretrained(good)
    shutil.copytree(small_dataset / "tokenizer", good, dirs_exist_ok=True)
    assert score_dataset(good, small_dataset, limit=1, settings=GREEDY).judgements
    small = tmp_path / "small"
    llama(held.vocabulary, vocab_size=500).save_pretrained(small)
    with pytest.raises(CheckpointError, match="embeddings for 500 tokens"):
        score_dataset(small, small_dataset)
    # The same size, other tokens.
    text = (good / "tokenizer.json").read_text().replace("[EPAD]", "[EPAT]").replace("[PAD]", "[EPAD]")
    (good / "tokenizer.json").write_text(text.replace("[EPAT]", "[PAD]"))
    with pytest.raises(CheckpointError, match="not the dataset's"):
        score_dataset(good, small_dataset)
    (good / "model.safetensors").write_bytes(b"nothing")
    shutil.copytree(small_dataset / "tokenizer", good, dirs_exist_ok=True)
    with pytest.raises(CheckpointError, match="no language model can be loaded"):
        score_dataset(good, small_dataset)
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        score_dataset(tmp_path, small_dataset)


def test_conversations_beyond_the_models_positions_are_counted(small_dataset: Path) -> None:
    held = read_split(small_dataset, SPLIT)
    model = llama(held.vocabulary, max_position_embeddings=1200)
    for history, reason in (
        ("own", "longer than the model's positions"),
        ("gold", "moment beyond the model's positions"),
    ):
        found = score_dataset(None, small_dataset, split=SPLIT, history=history, model=model, settings=GREEDY, limit=8)
        assert found.dropped[reason] > 0 and found.judgements


def test_the_command_prints_a_table_and_writes_the_report(small_dataset: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "duplexdata.cli", "score", "--dataset", str(small_dataset)]
    command += ["--reference", "recorded", "--split", SPLIT, "--out", str(tmp_path / "report")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert result.returncode == 0, result.stderr
    assert "TT SR@3s" in result.stdout and "100.0" in result.stdout
    assert (tmp_path / "report" / "score.json").is_file()
