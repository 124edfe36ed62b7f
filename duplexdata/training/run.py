"""A whole run: SFT or DPO from settings to a model's folder. Called again, it goes on where it stopped."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from duplexdata import __version__
from duplexdata.config import as_dict
from duplexdata.errors import ConfigError, DatasetError, TrainingError
from duplexdata.shards import write_json
from duplexdata.training import checkpoints
from duplexdata.training.classes import TokenTable
from duplexdata.training.config import BUILT_IN_MODELS, DpoConfig, SftConfig, TrainConfig, deciding
from duplexdata.training.data import DatasetFacts, Rows
from duplexdata.training.devices import Devices
from duplexdata.training.dpo import Dpo, ReferenceCache, reference_key, reference_log_probs
from duplexdata.training.logs import read_log
from duplexdata.training.loop import Finished, Job, Objective, Report, train
from duplexdata.training.models import Loaded, load_model, n_parameters, positions_of, read_metadata, resolve
from duplexdata.training.predictor import Predictor
from duplexdata.training.sft import Sft

log = logging.getLogger(__name__)
CONFIG = "config.json"
_OURS = {CONFIG, "log.jsonl", "tensorboard", "checkpoints", "final", "reference"}
_SFT = {"pretrained": 1e-5, "random": 2e-3, "warmup": 0.1}
_DPO = {"pretrained": 3e-7, "random": 1e-4, "warmup": 0.05}
DPO_STEPS = 200


def run(config: TrainConfig, out: Path, report: Report) -> Finished:
    """Train, or go on with a run that was interrupted.

    Args:
        config: an SftConfig or a DpoConfig says which of the two.
        out: the run's folder: a new one, or that of an earlier run of the same settings.

    Raises:
        ConfigError, DatasetError, TokenizerError: before anything is written.
        TrainingError: also while training; what has been learned by the last checkpoint is kept.
    """
    facts = DatasetFacts.read(config.data.dataset)
    dpo = isinstance(config, DpoConfig)
    rows_of = "dpo" if dpo else config.data.rows
    facts.count(rows_of, config.data.split)
    _check_origin(config)
    decided_by = {"stage": "dpo" if dpo else "sft", "dataset": facts.fingerprint, **deciding(config)}
    _check_target(out, decided_by)
    if finished := _finished(out):
        return finished
    devices = Devices(config.model)
    try:
        return _run(config, facts, rows_of, out, devices, decided_by, report)
    finally:
        devices.close()


def _run(
    config: TrainConfig,
    facts: DatasetFacts,
    rows_of: str,
    out: Path,
    devices: Devices,
    decided_by: Mapping[str, Any],
    report: Report,
) -> Finished:
    resumed = checkpoints.last_checkpoint(out)
    start = config.model if resumed is None else replace(config.model, name=str(resumed.folder))
    loaded = devices.main_first(lambda: load_model(start, facts, config.seed))
    if resumed is None and isinstance(config, SftConfig) and loaded.metadata:
        _warn_of_other_rows(loaded.metadata, rows_of)
    longest = min(config.data.max_tokens, positions_of(loaded.model) or config.data.max_tokens)
    rows = devices.main_first(lambda: Rows(facts, rows_of, config.data, config.seed, longest))
    steps = _steps(config, rows)
    table = TokenTable.make(facts.vocabulary, config.weights)
    if devices.is_main:
        out.mkdir(parents=True, exist_ok=True)
        checkpoints.remove_leftovers(out)
        write_json(out / CONFIG, {"decided_by": dict(decided_by), "config": as_dict(config)})
    devices.wait()
    predictor = Predictor(loaded.model, config.model, devices.place)
    objective = _objective(config, facts, predictor, rows, steps, table, out, devices, report)
    job = Job(
        run=out,
        model=loaded.model,
        tokenizer=facts.tokenizer,
        objective=objective,
        rows=rows,
        devices=devices,
        steps=steps,
        peak=_peak(config, loaded),
        warmup=_default(config, "warmup") if config.optim.warmup is None else config.optim.warmup,
        seed=config.seed,
        optim=config.optim,
        settings=config.run,
        metadata=_metadata(config, facts, loaded),
        decided_by=decided_by,
    )
    if config.model.compile:
        objective.predictor.compile_model()
    return train(job, resumed, report)


def _objective(
    config: TrainConfig,
    facts: DatasetFacts,
    predictor: Predictor,
    rows: Rows,
    steps: int,
    table: TokenTable,
    out: Path,
    devices: Devices,
    report: Report,
) -> Objective:
    capacity = config.data.max_tokens
    if not isinstance(config, DpoConfig):
        return Sft(predictor, table, capacity)
    # The reference is the checkpoint that a run started from, also when the run goes on from one of its own.
    source = resolve(config.model.name)
    key = reference_key(Path(source), facts.fingerprint, config.data.split, predictor.place.bf16)
    reference_model = predictor
    cache = ReferenceCache(out / "reference", key)
    wanted = rows.rows_until(steps)
    if checkpoints.last_checkpoint(out) is not None and not set(wanted) <= set(cache.read()):
        original = load_model(config.model, facts, config.seed)
        reference_model = Predictor(original.model, config.model, devices.place)
    reference = reference_log_probs(
        cache,
        reference_model,
        rows,
        wanted,
        table,
        2 * capacity,
        devices,
        lambda done, of: report(0, steps, {"reference": float(done), "of": float(of)}),
    )
    return Dpo(predictor, table, 2 * capacity, beta=config.beta, sft_weight=config.sft_weight, reference=reference)


def _check_origin(config: TrainConfig) -> None:
    if not isinstance(config, DpoConfig):
        return
    if config.model.name in BUILT_IN_MODELS:
        raise ConfigError(
            f"model.name is {config.model.name!r}: preference optimisation starts from a trained model; "
            "name the folder of an SFT run (--model RUN)"
        )
    if config.data.streaming:
        raise ConfigError("data.streaming: the reference's log-probabilities belong to numbered pairs; leave it off")
    if not Path(resolve(config.model.name)).is_dir():
        raise ConfigError(f"model.name is {config.model.name!r}: expected a folder, that of an SFT run")


def _check_target(out: Path, decided_by: Mapping[str, Any]) -> None:
    """Raises: DatasetError: the folder holds something else. ConfigError: a run of other settings."""
    if out.exists() and not out.is_dir():
        raise DatasetError(f"{out} is a file; name a folder for the run")
    if not out.exists():
        return
    foreign = sorted(p.name for p in out.iterdir() if p.name not in _OURS and not p.name.startswith("."))
    if foreign:
        raise DatasetError(f"{out} holds other files ({', '.join(foreign[:5])}); name an empty or a new folder")
    before = _decided_by(out)
    if before is None:
        return
    for key in sorted({*_flat(before), *_flat(decided_by)}):
        old, new = _flat(before).get(key), _flat(decided_by).get(key)
        if old != new:
            raise ConfigError(
                f"{out} holds a run of other settings: {key} is {new!r}, there it is {old!r}; name another folder, "
                "or remove that one"
            )


def _decided_by(out: Path) -> Mapping[str, Any] | None:
    import json

    file = out / CONFIG
    if not file.is_file():
        return None
    try:
        return dict(json.loads(file.read_text(encoding="utf-8"))["decided_by"])
    except (ValueError, KeyError, TypeError) as error:
        raise TrainingError(f"{file} cannot be read ({error}); name another folder, or remove that one") from error


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def _finished(out: Path) -> Finished | None:
    folder = checkpoints.final_folder(out)
    metadata = read_metadata(str(folder))
    if metadata is None:
        return None
    last = (read_log(out) or [{}])[-1]
    return Finished(folder, int(metadata["step"]), int(last.get("tokens", 0)), 0.0, last, {}, made=False)


def _steps(config: TrainConfig, rows: Rows) -> int:
    if config.optim.steps is not None:
        return config.optim.steps
    if isinstance(config, DpoConfig) and config.optim.epochs is None:
        return DPO_STEPS
    return rows.n_steps(config.optim.epochs or 1)


def _default(config: TrainConfig, name: str) -> float:
    return (_DPO if isinstance(config, DpoConfig) else _SFT)[name]


def _peak(config: TrainConfig, loaded: Loaded) -> float:
    return config.optim.lr or _default(config, "random" if loaded.random else "pretrained")


def _warn_of_other_rows(metadata: Mapping[str, Any], rows: str) -> None:
    before = metadata.get("rows")
    if before not in (rows, "sft" if rows == "dpo" else rows):
        log.warning("the model was trained on rows of %s before, now on those of %s", before, rows)


def _metadata(config: TrainConfig, facts: DatasetFacts, loaded: Loaded) -> dict[str, Any]:
    """What `duplexdata.json` says of a model. No paths."""
    plain = deciding(config)
    before = (loaded.metadata or {}).get("stage")
    stage = "dpo" if isinstance(config, DpoConfig) else "sft"
    plain["model"]["name"] = Path(config.model.name).name
    return {
        "format": 1,
        "package": f"duplexdata {__version__}",
        "stage": stage,
        "rows": "dpo" if stage == "dpo" else config.data.rows,
        "started_from": before if before != stage else (loaded.metadata or {}).get("started_from"),
        "random_weights": loaded.random,
        "dataset": facts.fingerprint,
        "tokenizer": facts.tokenizer_fingerprint,
        "vocabulary": dict(facts.vocabulary),
        "codec": facts.codec,
        "blocks": [facts.n_speech, facts.n_text],
        "parameters": n_parameters(loaded.model),
        "config": plain,
    }
