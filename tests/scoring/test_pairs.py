"""Recordings on disk: what is annotated, what is found in the sound."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from duplexdata.audio import from_flac
from duplexdata.errors import ConfigError, DatasetError, SourceError
from duplexdata.scoring import Score, score_pairs
from duplexdata.shards import batches
from duplexdata.units import SAMPLE_RATE

Spans = list[tuple[float, float]]


def noise(spans: Spans, seconds: float, seed: int = 0) -> np.ndarray:
    sound = np.zeros(int(seconds * SAMPLE_RATE), np.float32)
    rng = np.random.default_rng(seed)
    for start, end in spans:
        a, b = int(start * SAMPLE_RATE), int(end * SAMPLE_RATE)
        sound[a:b] = rng.normal(0, 0.05, b - a)
    return sound


def sample(
    place: Path, user: Spans, assistant: Spans, seconds: float = 24.0, rate: int = SAMPLE_RATE, **annotations: object
) -> None:
    place.mkdir(parents=True)
    sf.write(place / "input.wav", noise(user, seconds), SAMPLE_RATE)
    output = noise(assistant, seconds, 1)
    if rate != SAMPLE_RATE:
        output = np.repeat(output, rate // SAMPLE_RATE)
    sf.write(place / "output.wav", output, rate)
    for name, content in annotations.items():
        (place / f"{name}.json").write_text(json.dumps(content))


def scored(folder: Path, **settings: object) -> Score:
    return score_pairs(folder, vad="energy", resamples=50, **settings)  # type: ignore[arg-type]


def values(score: Score, task: str = "all") -> dict[str, float]:
    return {name: e.value for name, e in score.summary[task].items()}


def test_an_annotated_interruption_and_the_query_before_it(tmp_path: Path) -> None:
    user: Spans = [(0.5, 3.0), (8.0, 10.0)]
    note = [{"context": "a", "interrupt": "b", "timestamp": [8.0, 10.0]}]
    sample(tmp_path / "user_interruption/1", user, [(3.5, 9.2), (11.0, 14.0)], interrupt=note)
    sample(tmp_path / "user_interruption/2", user, [(3.5, 13.0)], interrupt=note)
    sample(tmp_path / "user_interruption/3", user, [(3.5, 6.0), (11.0, 13.0)], interrupt=note)
    found = scored(tmp_path)
    assert values(found)["isr"] == 0.5
    assert values(found)["overlap"] == pytest.approx((1.2 + 5.0) / 2, abs=0.05)
    assert values(found)["barge_in_answered"] == 0.5
    assert values(found)["tt_success"] == 1
    assert values(found)["latency"] == pytest.approx(0.5, abs=0.05)
    assert list(found.summary) == ["all", "user_interruption"]
    assert "recorded_speaking" not in values(found)
    (away,) = [j for j in found.judgements if not j.counted]
    assert away.event.conversation == "user_interruption/3" and away.outcome == "was silent"


def test_annotated_turns_and_pauses(tmp_path: Path) -> None:
    turn = [{"timestamp": [4.0, 4.5]}]
    sample(tmp_path / "turn_taking/1", [(0.5, 4.0)], [(4.6, 8.0)], turn_taking=turn)
    sample(tmp_path / "turn_taking/2", [(0.5, 4.0)], [(2.0, 8.0)], turn_taking=turn, rate=48_000)
    pause = [{"timestamp": [3.0, 4.5]}, {"timestamp": [6.0, 7.0]}]
    sample(tmp_path / "pause_handling/1", [(0.5, 3.0), (4.5, 6.0), (7.0, 9.0)], [(3.4, 4.0)], pause=pause)
    found = scored(tmp_path)
    assert values(found, "turn_taking")["tt_success"] == 0.5
    assert values(found, "pause_handling")["early_start"] == 0.5
    assert "tt_success" not in values(found, "pause_handling")


@pytest.mark.parametrize(
    ("task", "metric"),
    [
        ("user_backchannel", "backchannel_stop"),
        ("talking_to_other", "distractor_stop"),
        ("background_speech", "distractor_stop"),
    ],
)
def test_a_task_is_named_after_its_folder(tmp_path: Path, task: str, metric: str) -> None:
    note = {"context_text": "a", "current_turn_text": "b", "timestamps": [6.0, 7.0]}
    sample(tmp_path / task / "1", [(0.5, 3.0), (6.0, 7.0)], [(3.5, 12.0)], metadata=note)
    sample(tmp_path / task / "2", [(0.5, 3.0), (6.0, 7.0)], [(3.5, 6.8)], metadata=note)
    assert values(scored(tmp_path))[metric] == 0.5
    assert values(scored(tmp_path / task))[metric] == 0.5


def test_without_annotations_turns_come_from_the_sound(tmp_path: Path) -> None:
    user: Spans = [(0.5, 2.0), (2.8, 4.0), (7.0, 9.0), (15.0, 15.4)]
    sample(tmp_path / "1", user, [(4.8, 8.0), (9.9, 18.0)])
    found = scored(tmp_path)
    assert [(j.event.kind.value, j.outcome) for j in found.judgements[:2]] == [
        ("query", "answered"),
        ("barge_in", "stopped"),
    ]
    assert found.dropped == {"short speech over the assistant, not annotated": 1}
    assert values(found)["speaking"] == pytest.approx(11.3 / 24, abs=0.01)


@pytest.mark.parametrize("vad", ["energy", "silero"])
def test_a_datasets_own_channels_score_as_its_record_does(small_dataset: Path, tmp_path: Path, vad: str) -> None:
    if vad == "silero":
        pytest.importorskip("silero_vad")
    import torch

    threads = torch.get_num_threads()
    n = 0
    for path in sorted((small_dataset / "conversations").glob("train-*.parquet")):
        for batch in batches(path, ["id", "scenario", "utterances", "audio"]):
            for row in batch.to_pylist():
                cutters = [u for u in row["utterances"] if u["kind"] == "interruption"]
                if n >= 6 or any(not u["addressed"] for u in row["utterances"]):
                    continue
                place = tmp_path / "talks" / row["id"]
                place.mkdir(parents=True)
                sound = from_flac(row["audio"]["bytes"])
                sf.write(place / "output.wav", sound[:, 0], SAMPLE_RATE)
                sf.write(place / "input.wav", sound[:, 1], SAMPLE_RATE)
                if cutters:
                    note = [{"timestamp": [cutters[0]["start"], cutters[0]["end"]]}]
                    (place / "interrupt.json").write_text(json.dumps(note))
                n += 1
    found = values(score_pairs(tmp_path, vad=vad, resamples=50))
    assert n >= 4
    # A query with a silence of over a second in it is taken for two.
    assert found["tt_success"] > (0.85 if vad == "energy" else 0.6)
    assert found["latency"] == pytest.approx(0.8, abs=0.15)
    assert found.get("isr", 1) > 0.6
    assert torch.get_num_threads() == threads


def test_a_silent_output_does_not_look_good(tmp_path: Path) -> None:
    note = [{"timestamp": [8.0, 10.0]}]
    sample(tmp_path / "t/1", [(0.5, 3.0), (8.0, 10.0)], [], interrupt=note)
    found = scored(tmp_path)
    assert values(found) == {"tt_success": 0, "early_start": 0, "unanswered": 1, "speaking": 0}


# -- bad input


def test_a_folder_without_pairs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no folder"):
        scored(tmp_path / "nowhere")
    (tmp_path / "a").mkdir()
    (tmp_path / "a/output.wav").touch()
    with pytest.raises(DatasetError, match="holds both"):
        scored(tmp_path)
    (tmp_path / "a/input.wav").touch()
    with pytest.raises(SourceError, match=r"input\.wav"):
        scored(tmp_path)


@pytest.mark.parametrize(
    "content", ['[{"timestamp": [3.0]}]', '[{"timestamp": [5.0, 3.0]}]', '[{"timestamp": ["a", "b"]}]', "[3]", "{"]
)
def test_a_broken_annotation_is_named(tmp_path: Path, content: str) -> None:
    sample(tmp_path / "1", [(0.5, 3.0)], [(3.5, 9.2)])
    (tmp_path / "1/interrupt.json").write_text(content)
    with pytest.raises(DatasetError, match=r"1/interrupt\.json"):
        scored(tmp_path)


def test_an_unknown_task_is_counted(tmp_path: Path) -> None:
    sample(tmp_path / "singing/1", [(0.5, 3.0)], [(3.5, 9.2)], metadata={"timestamps": [1, 2]})
    assert scored(tmp_path).dropped == {"task of no known name": 1}


def test_an_unknown_vad_is_refused(tmp_path: Path) -> None:
    sample(tmp_path / "1", [(0.5, 3.0)], [(3.5, 9.2)])
    with pytest.raises(ConfigError, match="silero, energy"):
        score_pairs(tmp_path, vad="ears")
