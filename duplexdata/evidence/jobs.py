"""The pieces of work, each finished once its file is there: a dataset, a control, a model, a model's score."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from duplexdata.build import build
from duplexdata.evidence.control import write_control
from duplexdata.evidence.settings import AFTER, ARMS, Evidence
from duplexdata.scoring import Score, score_dataset, write_report
from duplexdata.scoring.events import Asked, Asking
from duplexdata.scoring.judge import Judgement
from duplexdata.shards import write_json
from duplexdata.training.config import TrainConfig
from duplexdata.training.run import run as train

Report = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Job:
    """An arm with one seed."""

    arm: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.arm}-{self.seed}"

    @property
    def after(self) -> Job | None:
        return Job(AFTER[self.arm], self.seed) if self.arm in AFTER else None

    @classmethod
    def of(cls, name: str) -> Job:
        arm, _, seed = name.rpartition("-")
        return cls(arm, int(seed))


def jobs_of(evidence: Evidence) -> list[Job]:
    """All of them, the ones that others wait for first."""
    arms = sorted(ARMS, key=lambda arm: (arm in AFTER, arm not in AFTER.values()))
    return [Job(arm, seed) for seed in evidence.seeds for arm in arms]


def make_data(evidence: Evidence, out: Path, workers: int, report: Report) -> None:
    build(evidence.dataset, out / "dataset", workers=workers, report=lambda _, n: report(n))
    write_control(out / "dataset", out / "control", evidence.dataset.seed)


def score_path(out: Path, job: Job) -> Path:
    return out / "scores" / job.name / "judgements.json"


def do(job: Job, evidence: Evidence, out: Path, report: Callable[[str], None]) -> None:
    """Train and score, as far as it is not done yet."""
    path = score_path(out, job)
    if path.exists():
        return
    model = _train(job, evidence, out, report)
    score = score_dataset(
        model,
        out / "dataset",
        limit=evidence.scored,
        settings=evidence.decoding(job.seed),
        device="cpu",
        report=lambda _: None,
    )
    write_report(score, path.parent)
    write_json(path, [_plain(j) for j in score.judgements])


def _train(job: Job, evidence: Evidence, out: Path, report: Callable[[str], None]) -> Path:
    data = str(out / ("control" if job.arm == "shuffled" else "dataset"))
    config: TrainConfig = evidence.sft(data, job.seed, uniform=job.arm == "uniform")
    if job.after is not None:
        config = evidence.dpo(data, job.seed, str(out / "models" / job.after.name / "final"))
    told = 0

    def say(step: int, steps: int, log: Mapping[str, float]) -> None:
        nonlocal told
        if "loss" in log and step * 10 // max(1, steps) > told:
            told = step * 10 // max(1, steps)
            report(f"{job.name}: step {step} of {steps}, loss {log['loss']:.2f}")

    return train(config, out / "models" / job.name, say).folder


def reference(evidence: Evidence, out: Path, which: str) -> Score:
    """The recorded assistant, or what the preference pairs reject, by the same scorer."""
    return score_dataset(None, out / "dataset", limit=evidence.scored, reference=which)


def read_judgements(out: Path, jobs: Sequence[Job]) -> list[Judgement]:
    """Of several runs, one after the other."""
    return [_judgement(j) for job in jobs for j in json.loads(score_path(out, job).read_text(encoding="utf-8"))]


def _plain(judgement: Judgement) -> dict[str, Any]:
    return {**asdict(judgement), "values": {k: list(v) for k, v in judgement.values.items()}}


def _judgement(raw: dict[str, Any]) -> Judgement:
    event = Asking(**{**raw["event"], "kind": Asked(raw["event"]["kind"])})
    values = {k: (float(a), float(b)) for k, (a, b) in raw["values"].items()}
    return Judgement(event, raw["outcome"], raw["counted"], values, raw["badness"])
