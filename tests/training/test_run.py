"""Whole runs on a small dataset: what they leave behind, and that nothing but the settings decides on it."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models_for_tests import small_model
from safetensors.torch import load_file

from duplexdata.errors import ConfigError, DatasetError, TokenizerError, TrainingError
from duplexdata.manifest import read_manifest
from duplexdata.training import run as run_module
from duplexdata.training.data import DatasetFacts, Rows
from duplexdata.training.logs import read_log
from duplexdata.training.loop import Finished, learning_rate
from duplexdata.training.run import run
from duplexdata.training.settings import load_dpo, load_sft

Values = Mapping[str, Any]


def settings(dataset: Path, **over: Any) -> dict[str, Any]:
    """A few conversations, a few steps."""
    data = {"dataset": str(dataset), "limit": 8, "max_tokens": 1000, "batch": 2, **over.pop("data", {})}
    optim = {"steps": 4, **over.pop("optim", {})}
    model = {"precision": "fp32", "device": "cpu", **over.pop("model", {})}
    return {"data": data, "optim": optim, "model": model, "run": {"log_every": 1, **over.pop("run", {})}, **over}


def sft(dataset: Path, out: Path, **over: Any) -> Finished:
    return run(load_sft(None, settings(dataset, **over)), out, lambda *_: None)


def dpo(dataset: Path, model: Path, out: Path, **over: Any) -> Finished:
    over["model"] = {"name": str(model), **over.get("model", {})}
    return run(load_dpo(None, settings(dataset, **over)), out, lambda *_: None)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same(a: Path, b: Path) -> bool:
    one, other = weights(a), weights(b)
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


@pytest.fixture(scope="module")
def trained(small_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SFT run. To be read only."""
    out = tmp_path_factory.mktemp("sft") / "run"
    sft(small_dataset, out)
    return out


# -- what a run leaves


def test_the_final_model_loads_with_its_tokenizer_and_knows_its_data(small_dataset: Path, trained: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(trained / "final")
    facts = DatasetFacts.read(str(small_dataset))
    assert 1e6 < sum(p.numel() for p in model.parameters()) < 5e6
    tokenizer = AutoTokenizer.from_pretrained(trained / "final")
    assert tokenizer.convert_tokens_to_ids("[ASSISTANT]") == facts.vocabulary["state_tokens"]["assistant"]
    known = json.loads((trained / "final" / "duplexdata.json").read_text())
    assert (known["stage"], known["step"], known["blocks"]) == ("sft", 4, [10, 5])
    assert (known["dataset"], known["tokenizer"]) == (facts.fingerprint, facts.tokenizer_fingerprint)
    assert str(small_dataset) not in json.dumps(known)


def test_what_is_logged(trained: Path) -> None:
    lines = read_log(trained)
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    wanted = {f"loss/{c}" for c in ("silence", "state", "text", "pad", "speech")}
    assert wanted | {"loss", "learning_rate", "tokens_per_second", "real_tokens", "gradient_norm"} <= lines[0].keys()
    assert lines[0]["loss/speech"] == pytest.approx(np.log(9223), rel=0.1)  # random weights know nothing
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert min(line["real_tokens"] for line in lines) >= 0.97
    assert list((trained / "tensorboard").glob("events*"))


def test_a_finished_run_is_found(small_dataset: Path, trained: Path) -> None:
    again = sft(small_dataset, trained)
    assert (again.made, again.steps) == (False, 4)


def test_same_seed_same_weights_and_another_seed_others(small_dataset: Path, trained: Path, tmp_path: Path) -> None:
    sft(small_dataset, tmp_path / "same")
    assert same(trained / "final", tmp_path / "same" / "final")
    sft(small_dataset, tmp_path / "other", seed=1)
    assert not same(trained / "final", tmp_path / "other" / "final")


@pytest.mark.slow
def test_the_size_of_packs_does_not_change_the_loss(small_dataset: Path, tmp_path: Path) -> None:
    """max_tokens decides which rows fit as well: both take the shorter ones."""
    rows = Rows(DatasetFacts.read(str(small_dataset)), "sft", load_sft(None, settings(small_dataset)).data, 0, 1500)
    assert rows.reader.dropped["too_long"] == 0 or len(rows.kept) < 8
    losses = []
    for capacity in (1500, 9000):
        out = tmp_path / str(capacity)
        config = load_sft(None, settings(small_dataset, data={"max_tokens": capacity}, optim={"steps": 3}))
        made = run_with_longest(config, out, 1500)
        losses.append([line["loss"] for line in read_log(made.folder.parent)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def run_with_longest(config: Any, out: Path, longest: int) -> Finished:
    original = run_module.positions_of
    run_module.positions_of = lambda model: longest  # type: ignore[assignment]
    try:
        return run(config, out, lambda *_: None)
    finally:
        run_module.positions_of = original


@pytest.mark.parametrize("rows", ["duo", "tdm"])
def test_rows_of_other_layouts_train(rows: str, small_dataset: Path, tmp_path: Path) -> None:
    config = load_sft(rows, settings(small_dataset))
    assert config.data.rows == rows
    run(config, tmp_path / "run", lambda *_: None)
    lines = read_log(tmp_path / "run")
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert "loss/text" in lines[0]
    assert "loss/state" in lines[0]
    assert "loss/speech" not in lines[0]


def test_streaming_passes_over_every_row_in_each_epoch(small_dataset: Path, tmp_path: Path) -> None:
    config = load_sft(None, settings(small_dataset, data={"streaming": True, "batch": 4, "shuffle_buffer": 3}))
    rows = Rows(DatasetFacts.read(str(small_dataset)), "sft", config.data, 0, 100_000)
    source = rows.steps()
    epoch = [row for _ in range(2) for row in next(source)[0]]
    assert sorted(epoch) == list(range(8))
    assert epoch != sorted(epoch)
    later = rows.steps(1)
    assert next(later)[0] == epoch[4:]
    run(config, tmp_path / "run", lambda *_: None)
    assert read_log(tmp_path / "run")[-1]["step"] == 4


def test_weights_decide_on_the_loss(small_dataset: Path, trained: Path, tmp_path: Path) -> None:
    sft(small_dataset, tmp_path / "uniform", weights="uniform", optim={"steps": 1})
    paper, uniform = read_log(trained)[0], read_log(tmp_path / "uniform")[0]
    assert paper["loss/text"] == pytest.approx(uniform["loss/text"])
    n = {k: paper[f"loss/{k}"] for k in ("silence", "state", "text", "pad", "speech")}
    assert min(n.values()) < uniform["loss"] < max(n.values())
    assert paper["loss"] != pytest.approx(uniform["loss"], rel=1e-6)


def test_the_learning_rate_rises_and_falls() -> None:
    rates = [learning_rate(k, 100, 1.0, 0.1) for k in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == rates[10] == pytest.approx(1.0)
    assert rates[55] == pytest.approx(0.5)
    assert rates == sorted(rates[:10]) + sorted(rates[10:], reverse=True)
    assert 0 < rates[-1] < 0.001


# -- interruptions


class Stop(Exception):
    pass


def stop_at(step: int) -> Callable[[int, int, Values], None]:
    def report(done: int, steps: int, values: Values) -> None:
        if done == step and "reference" not in values:
            raise Stop

    return report


def test_a_run_gone_on_with_ends_where_an_undisturbed_one_does(
    small_dataset: Path, trained: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    config = load_sft(None, settings(small_dataset, run={"checkpoint_every": 2}))
    with pytest.raises(Stop):
        run(config, out, stop_at(3))
    assert [p.name for p in (out / "checkpoints").iterdir()] == ["step-000002"]
    (out / "checkpoints" / ".step-000003.1.tmp").mkdir()  # what a killed run was writing
    seen: list[int] = []
    run(config, out, lambda step, *_: seen.append(step))
    assert seen == [3, 4]
    assert same(trained / "final", out / "final")
    assert [line["step"] for line in read_log(out)] == [1, 2, 3, 4]
    assert not list((out / "checkpoints").glob(".*"))
    before = read_log(trained)
    assert [x["loss"] for x in read_log(out)] == [x["loss"] for x in before]
    assert [x["tokens"] for x in read_log(out)] == [x["tokens"] for x in before]


@pytest.mark.slow
def test_only_the_last_checkpoints_are_kept_and_each_is_a_model(small_dataset: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    out = tmp_path / "run"
    sft(small_dataset, out, run={"checkpoint_every": 1, "keep": 2})
    kept = sorted((out / "checkpoints").iterdir())
    assert [p.name for p in kept] == ["step-000002", "step-000003"]
    AutoModelForCausalLM.from_pretrained(kept[-1])
    assert not list(out.rglob("*.bin")) and not list(out.rglob("*.pt"))  # nothing that could hold a pickle


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_checkpoint(
    small_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    config = load_sft(None, settings(small_dataset, run={"checkpoint_every": 2}))

    def poison(done: int, steps: int, values: Values) -> None:
        if done == 3:
            with torch.no_grad():
                next(models[0].parameters()).fill_(float("nan"))

    models: list[Any] = []
    load = run_module.load_model

    def load_and_keep(*args: Any) -> Any:
        found = load(*args)
        models.append(found.model)
        return found

    monkeypatch.setattr(run_module, "load_model", load_and_keep)
    with pytest.raises(TrainingError, match=r"step 4: the loss is nan.*step-000002"):
        run(config, out, poison)
    assert not (out / "final").exists()
    assert all(bool(torch.isfinite(t).all()) for t in weights(out / "checkpoints" / "step-000002").values())


def test_other_settings_are_not_mixed_into_a_run(small_dataset: Path, trained: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds a run of other settings: optim\.lr is 0\.5"):
        sft(small_dataset, trained, optim={"lr": 0.5})


def test_a_folder_with_other_files_is_left_alone(small_dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(DatasetError, match=r"thesis\.txt"):
        sft(small_dataset, tmp_path)


# -- preference optimisation


def test_preference_optimisation_raises_the_margin_and_makes_the_reference_once(
    small_dataset: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "dpo"
    dpo(small_dataset, trained, out, data={"limit": 6}, optim={"steps": 6, "lr": 5e-4})
    lines = read_log(out)
    assert lines[0]["reward/margin"] == pytest.approx(0, abs=0.02)  # the policy is still the reference
    assert lines[0]["loss/preference"] == pytest.approx(np.log(2), abs=0.01)
    assert lines[-1]["reward/margin"] > 0.5
    assert lines[-1]["reward/accuracy"] == 1
    known = json.loads((out / "final" / "duplexdata.json").read_text())
    assert (known["stage"], known["started_from"]) == ("dpo", "sft")
    # Another rate, the same reference: nothing is computed again.
    other = tmp_path / "other"
    shutil.copytree(out / "reference", other / "reference")
    monkeypatch.setattr("duplexdata.training.dpo._log_probs", None)
    dpo(small_dataset, trained, other, data={"limit": 6}, optim={"steps": 1})
    assert read_log(other)[0]["loss/preference"] == pytest.approx(lines[0]["loss/preference"])


@pytest.mark.slow
def test_an_interrupted_preference_run_keeps_its_first_reference(
    small_dataset: Path, trained: Path, tmp_path: Path
) -> None:
    over: dict[str, Any] = {"data": {"limit": 6}, "optim": {"steps": 3, "lr": 5e-4}, "run": {"checkpoint_every": 2}}
    dpo(small_dataset, trained, tmp_path / "whole", **{k: dict(v) for k, v in over.items()})
    out = tmp_path / "stopped"
    config = load_dpo(None, settings(small_dataset, **{**over, "model": {"name": str(trained)}}))
    with pytest.raises(Stop):
        run(config, out, stop_at(2))
    shutil.rmtree(out / "reference")  # even then
    with pytest.raises(Stop):
        run(config, out, stop_at(2) if not (out / "checkpoints").exists() else stop_at(3))
    run(config, out, lambda *_: None)
    assert same(out / "final", tmp_path / "whole" / "final")


def test_preferences_need_a_trained_model(small_dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="starts from a trained model"):
        run(load_dpo(None, settings(small_dataset)), tmp_path / "out", lambda *_: None)


# -- what does not fit


def changed(dataset: Path, to: Path, **manifest: Any) -> Path:
    """A copy whose manifest says something else."""
    shutil.copytree(dataset, to)
    known = read_manifest(to)
    known.update(manifest)
    (to / "manifest.json").write_text(json.dumps(known))
    return to


def test_rows_that_a_dataset_lacks(small_dataset: Path, tmp_path: Path) -> None:
    files = {k: v for k, v in read_manifest(small_dataset)["files"].items() if not k.startswith("duo/")}
    without = changed(small_dataset, tmp_path / "without", files=files)
    with pytest.raises(DatasetError, match=r"has no rows of duo \(it has dpo, sft, tdm\).*emit"):
        sft(without, tmp_path / "run", data={"rows": "duo"})
    with pytest.raises(DatasetError, match="split 'dev' of sft is empty"):
        sft(small_dataset, tmp_path / "run", data={"split": "dev"})
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_of_another_dataset(small_dataset: Path, trained: Path, tmp_path: Path) -> None:
    layout = read_manifest(small_dataset)["config"]
    layout["layout"]["n_text"] = 4
    other = changed(small_dataset, tmp_path / "other", config=layout)
    with pytest.raises(TrainingError, match=r"another dataset: its blocks N:M is 10:5.*10:4"):
        dpo(other, trained, tmp_path / "run")
    file = other / "tokenizer" / "tokenizer.json"
    file.write_text(file.read_text(encoding="utf-8").replace('"[PAD]"', '"[PADDING]"'), encoding="utf-8")
    with pytest.raises(DatasetError, match=r"tokenizer\.json is not what its manifest\.json says"):
        dpo(other, trained, tmp_path / "run")
    files = read_manifest(other)["files"]
    stated = {**files["tokenizer/tokenizer.json"], "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
    other = changed(other, tmp_path / "third", files={**files, "tokenizer/tokenizer.json": stated})
    with pytest.raises(TrainingError, match="another dataset: its tokenizer is"):
        dpo(other, trained, tmp_path / "run")


def test_a_model_with_another_vocabulary(small_dataset: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    small_model("llama", vocab_size=9300).save_pretrained(model)
    shutil.copytree(small_dataset / "tokenizer", model, dirs_exist_ok=True)
    sft(small_dataset, tmp_path / "fits", model={"name": str(model)}, optim={"steps": 1})
    file = model / "tokenizer.json"
    file.write_text(file.read_text(encoding="utf-8").replace('"[PAD]"', '"[PADDING]"'), encoding="utf-8")
    with pytest.raises(TokenizerError, match=r"\[PADDING\].*duplexdata emit .* --tokenizer"):
        sft(small_dataset, tmp_path / "not", model={"name": str(model)})


def test_rows_too_long_are_left_out_and_counted(small_dataset: Path, tmp_path: Path) -> None:
    made = sft(small_dataset, tmp_path / "run", data={"max_tokens": 700, "limit": 19}, optim={"steps": 1})
    rows = Rows(DatasetFacts.read(str(small_dataset)), "sft", load_sft(None, settings(small_dataset)).data, 0, 700)
    assert made.dropped["too_long"] > 0
    assert len(rows.kept) > 0
    with pytest.raises(DatasetError, match="none of the 8 rows of sft has at most 20 tokens"):
        sft(small_dataset, tmp_path / "none", data={"max_tokens": 20})


def test_a_model_that_is_not_there(small_dataset: Path, tmp_path: Path) -> None:
    empty, broken = tmp_path / "empty", tmp_path / "broken"
    empty.mkdir()
    broken.mkdir()
    (broken / "config.json").write_text("{}")
    with pytest.raises(TrainingError, match=r"holds no model \(no config\.json\)"):
        sft(small_dataset, tmp_path / "run", model={"name": str(empty)})
    with pytest.raises(TrainingError, match="no causal LM can be loaded"):
        sft(small_dataset, tmp_path / "run", model={"name": str(broken)})


def test_a_folder_that_is_no_dataset(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"has no manifest\.json"):
        sft(tmp_path, tmp_path / "run")
