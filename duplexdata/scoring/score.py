"""Scoring a model, or the recorded assistant, on a dataset's split.

Source: arXiv 2606.14528, section 4 (what is measured); the two kinds of history are ours:

    own     the model runs the whole conversation on its own output, the user's channel as recorded
    gold    before each thing that is asked the recorded history is given, and the model goes on freely from the last
            block before the user's onset: what is asked does not depend on what the model did before
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from duplexdata.conversation import Conversation, Negative, Spoken, answered_query, barge_in
from duplexdata.decoding import DecodeSettings, DuplexDecoder, Request, Sampling
from duplexdata.errors import CheckpointError, ConfigError, DatasetError
from duplexdata.scoring.activity import Activity
from duplexdata.scoring.detect import Detector, SoundDetector, TokenDetector, make_vad, silent_tokens
from duplexdata.scoring.events import Asked, Asking, asked, blocks_needed, history_blocks, whole
from duplexdata.scoring.held_out import Split, Talk, read_split
from duplexdata.scoring.judge import Judgement, judge, spoken_share
from duplexdata.scoring.summary import RESAMPLES, Summary, summarise
from duplexdata.text.types import Int32

OFFICIAL = DecodeSettings(text=Sampling(0.8, 0.8), speech=Sampling(0.8, 0.8))
"""The defaults of BayLing-Duplex's own inference code."""
HISTORIES = ("own", "gold")
REFERENCES = ("recorded", "negatives")
WORST = 8
_CONTEXT_BLOCKS = 5
"""Blocks before the free part that are made sound too, so that a stretch under way is seen whole."""


@dataclass(frozen=True, slots=True)
class Case:
    """One thing that was asked, with all that is needed to draw it: the record's utterances, the channel heard."""

    judgement: Judgement
    utterances: tuple[Spoken, ...]
    heard: Activity


@dataclass(frozen=True, slots=True)
class Score:
    """
    Attributes:
        summary: metrics by scenario.
        judgements: all of them; those of several runs can be put together (`summarise`, `difference`).
        facts: what was scored how: plain values.
        dropped: conversations and moments left out, by reason.
        worst: cases to look at, the worst first, at most a few of each kind.
    """

    summary: Summary
    judgements: tuple[Judgement, ...]
    facts: Mapping[str, object]
    dropped: Mapping[str, int] = field(default_factory=dict)
    worst: tuple[Case, ...] = ()


def score_dataset(
    checkpoint: str | Path | None,
    dataset: str | Path,
    *,
    split: str = "test",
    limit: int | None = None,
    history: str = "own",
    speech_from: str = "tokens",
    vad: str = "silero",
    reference: str | None = None,
    settings: DecodeSettings = OFFICIAL,
    device: str = "auto",
    precision: str = "auto",
    model: Any = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
    report: Callable[[int], None] = lambda n: None,
) -> Score:
    """Score a checkpoint on a split.

    Args:
        checkpoint: a folder or hub id; None with `reference` or `model`.
        limit: conversations at most.
        history: "own" or "gold", see above.
        speech_from: "tokens" (a table of silent tokens learnt from the training split), or "audio" (the tokens made
            sound, and a VAD).
        vad: "silero" or "energy", of "audio".
        reference: score no model but the recorded assistant ("recorded": next to everything must be right), or what
            the preference pairs reject, each where it was perturbed ("negatives").
        settings: sampling, seed, batch.
        model: a language model in memory, instead of a checkpoint.
        seed: of the bootstrap.
        report: called with conversations (own) or moments (gold) done.

    Raises:
        DatasetError: no dataset, no such split, or one that lacks what is needed.
        CheckpointError: the checkpoint cannot be loaded or is of another vocabulary.
        ConfigError: unknown settings, or a codec that cannot decode.
    """
    _one_of("history", history, HISTORIES)
    _one_of("speech_from", speech_from, ("tokens", "audio"))
    if reference is not None:
        _one_of("reference", reference, REFERENCES)
    if sum(x is not None for x in (checkpoint, model, reference)) != 1:
        raise ConfigError("name a checkpoint to score, or score the reference: one of them")
    held = read_split(Path(dataset), split, limit)
    detector = make_detector(held, speech_from, vad)
    dropped: Counter[str] = Counter()
    facts = {
        "dataset": held.manifest["fingerprint"],
        "split": split,
        "conversations": len(held.talks),
        "speech_from": speech_from if speech_from == "tokens" else f"audio, {vad}",
    }
    if reference is not None:
        cases = _reference(held, detector, reference == "negatives")
        facts |= {"scored": f"reference, {reference}"}
    else:
        decoder = _decoder(checkpoint, model, held, settings, device, precision)
        run = _own if history == "own" else _gold
        cases = run(held, detector, decoder, dropped, report)
        facts |= {
            "scored": str(checkpoint) if checkpoint is not None else type(model).__name__,
            "history": history,
            "temperature": [settings.text.temperature, settings.speech.temperature],
            "top_p": [settings.text.top_p, settings.speech.top_p],
            "seed": settings.seed,
        }
    if not cases:
        raise DatasetError(f"{held.dataset}: nothing to score in the split {split!r} ({dict(dropped)})")
    judgements = tuple(c.judgement for c in cases)
    summary = summarise(judgements, seed=seed, resamples=resamples)
    return Score(summary, judgements, facts, dict(sorted(dropped.items())), worst_of(cases))


def make_detector(held: Split, speech_from: str, vad: str) -> Detector:
    clock = held.manifest["clock"]
    if speech_from == "tokens":
        silent = silent_tokens(held.dataset.resolve(), held.manifest["fingerprint"], clock["codebook_size"])
        return TokenDetector(silent, held.grid.frame_samples)
    from duplexdata.backends import make_speech_tokenizer
    from duplexdata.config import CodecConfig

    if clock.get("n_codebooks", 1) > 1:
        raise ConfigError("the layout holds one codebook of several, which makes no sound: score from tokens")
    return SoundDetector(make_speech_tokenizer(CodecConfig(**held.manifest["config"]["codec"])), make_vad(vad))


def worst_of(cases: Sequence[Case], most: int = WORST) -> tuple[Case, ...]:
    """The worst cases, of each kind of moment in turn."""
    bad = sorted(
        (c for c in cases if c.judgement.badness >= 1),
        key=lambda c: (-c.judgement.badness, c.judgement.event.conversation, c.judgement.event.start),
    )
    kinds: dict[str, list[Case]] = {}
    for c in bad:
        kinds.setdefault(c.judgement.event.kind, []).append(c)
    found: list[Case] = []
    while len(found) < most and any(kinds.values()):
        found += [of.pop(0) for of in kinds.values() if of]
    return tuple(found[:most])


# -- where the speech comes from


def _reference(held: Split, detector: Detector, negatives: bool) -> list[Case]:
    cases = []
    for talk in held.talks:
        events = asked(talk.record, held.grid)
        recorded = _heard(detector, talk.codes.assistant, 0, talk)
        if not negatives:
            cases += _cases(talk, events, recorded, recorded)
            continue
        for n in talk.codes.negatives:
            heard = _heard(detector, n.assistant, 0, talk)
            worse = [e for e in events if _perturbed(talk.record, e, n.negative)]
            cases += [Case(judge(e, heard), talk.record.utterances, heard) for e in worse]
    return cases


def _perturbed(record: Conversation, event: Asking, negative: Negative) -> bool:
    """Whether a negative is worse at this very thing."""
    if negative.kind == "interruption":
        return event.kind in (Asked.BARGE_IN, Asked.TERMINATION) and event.utterance == barge_in(
            record.utterances, negative.utterance
        )
    asked_by = answered_query(record.utterances, negative.utterance)
    return event.kind in (Asked.QUERY, Asked.BARGE_IN) and event.utterance == asked_by


def _own(
    held: Split, detector: Detector, decoder: DuplexDecoder, dropped: Counter[str], report: Callable[[int], None]
) -> list[Case]:
    n = held.grid.n_speech
    talks, requests = [], []
    for talk in held.talks:
        blocks = max(1, len(talk.codes.user) // n - 1)
        if decoder.max_blocks is not None and blocks > decoder.max_blocks:
            dropped["longer than the model's positions"] += 1
            continue
        talks.append(talk)
        requests.append(Request(talk.record.id, talk.codes.user[: blocks * n]))
    cases = []
    for talk, answer in zip(talks, decoder.decode(requests, report), strict=True):
        heard = _heard(detector, answer.assistant, held.grid.block_samples, talk)
        recorded = _heard(detector, talk.codes.assistant, 0, talk)
        cases += _cases(talk, asked(talk.record, held.grid), heard, recorded)
    return cases


def _gold(
    held: Split, detector: Detector, decoder: DuplexDecoder, dropped: Counter[str], report: Callable[[int], None]
) -> list[Case]:
    n, m, block = held.grid.n_speech, held.grid.n_text, held.grid.block_samples
    if all(talk.text is None for talk in held.talks):
        raise DatasetError(
            f"{held.dataset} has no rows of sft in this split, which hold the recorded text channel: "
            "emit them (`duplexdata emit … --layouts sft`), or score with the model's own history"
        )
    moments: list[tuple[Talk, Asking, int]] = []
    requests = []
    for talk in held.talks:
        if talk.text is None:
            dropped["no row of sft"] += 1
            continue
        known = len(talk.text) // m
        for event in asked(talk.record, held.grid):
            given = min(history_blocks(event, held.grid), known)
            blocks = min(blocks_needed(event, held.grid), len(talk.codes.user) // n)
            if blocks <= given:
                dropped["moment at the conversation's end"] += 1
                continue
            if decoder.max_blocks is not None and blocks > decoder.max_blocks:
                dropped["moment beyond the model's positions"] += 1
                continue
            moments.append((talk, event, given))
            requests.append(
                Request(
                    talk.record.id,
                    talk.codes.user[: blocks * n],
                    talk.text[: given * m],
                    talk.codes.assistant[n : (given + 1) * n],
                )
            )
    cases = []
    scored = {talk.record.id: talk for talk, _, _ in moments}
    channels = {id_: _heard(detector, talk.codes.assistant, 0, talk) for id_, talk in scored.items()}
    for (talk, event, given), answer in zip(moments, decoder.decode(requests, report), strict=True):
        first = max(0, given - _CONTEXT_BLOCKS)
        heard = _heard(detector, answer.assistant[first * n :], (first + 1) * block, talk)
        recorded = channels[talk.record.id]
        found = judge(event, heard)
        share = spoken_share(heard, recorded, (given + 1) * block, min(event.until, heard.last))
        cases.append(Case(replace(found, values={**found.values, **share}), talk.record.utterances, heard))
    return cases


def _cases(talk: Talk, events: Sequence[Asking], heard: Activity, recorded: Activity) -> list[Case]:
    """One channel of a whole conversation: what was asked in it, and how much is spoken."""
    share = spoken_share(heard, recorded, 0, talk.record.n_samples)
    all_of_it = replace(judge(whole(talk.record), heard), values=share)
    return [Case(j, talk.record.utterances, heard) for j in (*(judge(e, heard) for e in events), all_of_it)]


def _heard(detector: Detector, tokens: Int32, first: int, talk: Talk) -> Activity:
    """Activity of a stretch of assistant tokens that begins at the sample `first`."""
    frame = talk.record.n_samples // max(1, len(talk.codes.user))
    spans = detector.spans(np.asarray(tokens, np.int32)) + first
    return Activity.of(spans, first, first + len(tokens) * frame, detector.resolution)


def _decoder(
    checkpoint: str | Path | None, model: Any, held: Split, settings: DecodeSettings, device: str, precision: str
) -> DuplexDecoder:
    if model is not None:
        return DuplexDecoder(model, held.vocabulary, held.grid, settings)
    if checkpoint is None:
        raise CheckpointError("no checkpoint")
    return DuplexDecoder.load(checkpoint, held.vocabulary, held.grid, settings, device=device, precision=precision)


def _one_of(name: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise ConfigError(f"{name} is {value!r}, expected one of {', '.join(known)}")
