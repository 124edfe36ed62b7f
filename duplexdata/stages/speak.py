"""A shard's scripts are spoken: synthesized, scheduled, rendered. Writes `conversations`, and what negatives add."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from duplexdata import __version__
from duplexdata.audio import Recording, from_flac, record, render, render_assistant, to_flac
from duplexdata.backends import make_synthesizer
from duplexdata.config import Config
from duplexdata.conversation import Conversation, Negative, negative_spans
from duplexdata.dialogue import Kind, Script, Utterance
from duplexdata.errors import ScriptError, ShardError, SynthesisError, UtteranceRejected
from duplexdata.interactions import as_turn_taking, resume
from duplexdata.records import Provenance, conversation_columns, conversations_from
from duplexdata.rng import stable_hash
from duplexdata.shards import ShardWriter, batches
from duplexdata.speech.base import Speech, SpeechRequest, Synthesizer, Voice, takes_seed
from duplexdata.speech.gate import SEED_BITS, Tally
from duplexdata.stages.negatives import NegativeWriter, Patch, read_negatives
from duplexdata.stages.plan import Plan
from duplexdata.stages.recast import recast
from duplexdata.stages.scripts import read_scripts
from duplexdata.stages.statistics import Statistics
from duplexdata.stages.work import Counts, Marker, Shard, at_hand, read_marker, write_marker
from duplexdata.timeline import Cut, Take, plan_cut, schedule, with_word_times
from duplexdata.units import Grid, to_samples
from duplexdata.voices.bank import BankVoice
from duplexdata.windows import windows

Int16 = npt.NDArray[np.int16]
_WINDOW = 16
"""Conversations in memory at a time."""
Augment = Callable[[Conversation, Int16], Mapping[str, Any] | None]
"""Changes the user's channel of (assistant, user) in place, and says how."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """A conversation with its sound.

    Attributes:
        audio: int16, shape (n_samples, 2): assistant, user; None without sound.
        patch: turns the assistant's channel into the negative's.
        augmentation: what was done to the user's channel, as it stands in the row.
    """

    conversation: Conversation
    negative: Negative
    audio: Int16 | None
    patch: Patch
    augmentation: Mapping[str, Any] | None = None

    def negative_channel(self, start: int, end: int) -> Int16:
        """The assistant's channel in the negative, from sample `start` to `end`."""
        assert self.audio is not None
        channel = self.audio[start:end, 0].copy()
        # The part of the patch that lies inside.
        first, last = max(start, self.patch.start), min(end, self.patch.start + len(self.patch.samples))
        if first < last:
            channel[first - start : last - start] = self.patch.samples[
                first - self.patch.start : last - self.patch.start
            ]
        return channel


def grid_of(config: Config) -> Grid:
    return Grid(config.layout.n_speech, config.layout.n_text)


def conversations_path(plan: Plan, shard: Shard) -> Path:
    return plan.stage_folder("speech") / f"{shard.name}.parquet"


def _negatives_path(plan: Plan, shard: Shard) -> Path:
    return plan.stage_folder("speech") / f"{shard.name}.negatives.parquet"


def marker_path(plan: Plan, shard: Shard) -> Path:
    return plan.stage_folder("speech") / f"{shard.name}.done.json"


def is_spoken(plan: Plan, shard: Shard, *, check: bool = True) -> Marker | None:
    return read_marker(plan.store, marker_path(plan, shard), plan.speech, check=check)


def speak(plan: Plan, shard: Shard) -> Marker:
    """The stage by itself: everything is written, nothing handed on."""
    if found := is_spoken(plan, shard):
        return found
    for _ in speaking(plan, shard):
        pass
    found = is_spoken(plan, shard, check=False)
    assert found is not None
    return found


def speaking(plan: Plan, shard: Shard) -> Iterator[Rendered]:
    """The stage as a stream: each conversation is written and handed on; the marker is written at the end."""
    config = plan.config
    path, negatives_path = conversations_path(plan, shard), _negatives_path(plan, shard)
    dropped: Counter[str] = Counter()
    left_out: Counter[str] = Counter()
    statistics = Statistics()
    tally = Tally()
    asked = 0
    cast = Cast({v.id: v.voice for v in plan.bank}, partial(plan.bank.users_of, shard.split))
    augment = make_augment(plan)
    synthesizer = make_synthesizer(config, tally)
    try:
        with (
            ShardWriter(path, "conversations", row_group_rows=config.shards.row_group_rows) as writer,
            NegativeWriter(negatives_path) as negatives,
        ):
            pending_bytes = 0
            for scripts in windows(read_scripts(plan, shard), _WINDOW):
                asked += len(scripts)
                rows: list[Rendered] = []
                for result in perform(scripts, synthesizer, cast, config, tally, augment):
                    if isinstance(result, ScriptError):
                        dropped[result.reason] += 1
                        continue
                    rendered, reasons = result
                    left_out.update(reasons)
                    statistics.add(rendered.conversation, rendered.negative, grid_of(config))
                    rows.append(rendered)
                sound = [None if r.audio is None else to_flac(r.audio) for r in rows]
                if rows:
                    provenance = [_provenance(plan, r.conversation, synthesizer.name) for r in rows]
                    augmentations = [r.augmentation for r in rows]
                    writer.write(conversation_columns([r.conversation for r in rows], sound, provenance, augmentations))
                    negatives.write([(r.conversation.id, r.negative, r.patch) for r in rows])
                pending_bytes += sum(len(s) for s in sound if s)
                if pending_bytes > config.shards.row_group_bytes:
                    writer.flush()
                    pending_bytes = 0
                yield from rows
            files = {path.name: writer.close(), negatives_path.name: negatives.close()}
            made = writer.rows
    finally:
        synthesizer.close()
    counts = Counts("speech", asked, made, dict(sorted(dropped.items())))
    facts = {
        "statistics": statistics.as_dict(),
        "left_out": dict(sorted(left_out.items())),
        "quality": tally.as_dict(),
    }
    write_marker(plan.store, marker_path(plan, shard), Marker(plan.speech, files, (counts,), facts))


def make_augment(plan: Plan) -> Augment | None:
    """What is done to users' channels once they are rendered; None where nothing is."""
    if not plan.config.augment.on:
        return None
    from duplexdata.augment.apply import Augmenter

    return Augmenter(plan.config.augment, plan.config.seed, plan.noise)


@dataclass(frozen=True, slots=True)
class Cast:
    """
    Attributes:
        voices: all of the bank, by id.
        users_of: those of the shard's split that speak a language.
    """

    voices: Mapping[str, Voice]
    users_of: Callable[[str], Sequence[BankVoice]]

    def users(self, language: str) -> list[str]:
        return [v.id for v in self.users_of(language)]


@dataclass(slots=True)
class _Performance:
    """A conversation in the making. Once it has failed, it is left alone, or cast again.

    Attributes:
        refused: the voice that `failed`, where it was one; given_up: those before it.
    """

    script: Script
    recordings: dict[int, Recording] = field(default_factory=dict)
    cuts: dict[int, Cut] = field(default_factory=dict)
    failed: ScriptError | None = None
    became: str | None = None
    refused: str | None = None
    given_up: list[str] = field(default_factory=list)

    def keep(self, index: int, speech: Speech | SynthesisError, config: Config) -> None:
        """Add a recording; the first that cannot be made is why the conversation fails."""
        utterance = self.script.utterances[index]
        try:
            self.recordings[index] = _record(speech, utterance, config)
        except ScriptError as error:
            if self.failed is None:
                self.failed = error
                self.refused = utterance.voice if isinstance(speech, UtteranceRejected) else None

    def recast(self, cast: Cast, seed: int) -> bool:
        """Go on with another voice in place of the refused one, if there is one."""
        if self.refused is None:
            return False
        script = recast(self.script, self.refused, cast.users(self.script.language), self.given_up, seed)
        if script is None:
            return False
        for i, (old, new) in enumerate(zip(self.script.utterances, script.utterances, strict=True)):
            if old.voice != new.voice:
                self.recordings.pop(i, None)
        self.given_up.append(self.refused)
        self.script, self.failed, self.refused = script, None, None
        return True

    def attempt(self, step: Callable[[_Performance], None]) -> None:
        if self.failed is None:
            try:
                step(self)
            except ScriptError as error:
                self.failed = error


def perform(
    scripts: Sequence[Script],
    synthesizer: Synthesizer,
    cast: Cast,
    config: Config,
    tally: Tally | None = None,
    augment: Augment | None = None,
) -> Iterator[tuple[Rendered, tuple[str, ...]] | ScriptError]:
    """Speak, schedule and render some scripts, in order. One that fails gives its error.

    Two rounds: what a resumption says depends on how far the reply got, so it is synthesized last. (The assistant
    says it, who is never cast again.)

    Args:
        tally: counts the conversations that are cast again.
        augment: what is done to the user's channel. A negative has the same one, with the echo of the chosen side.

    Yields: the rendered conversation, and what was left out of it.
    """
    performances = [_Performance(script) for script in scripts]
    _record_all(performances, lambda u: u.kind is not Kind.RESUMPTION, synthesizer, cast, config)
    recasts = config.quality.recasts if config.quality.on_failure == "another_voice" else 0
    for _ in range(recasts):
        again = [p for p in performances if p.recast(cast, config.seed)]
        if tally is not None:
            tally.recast.update(p.given_up[-1] for p in again)
        _record_all(again, lambda u: u.kind is not Kind.RESUMPTION, synthesizer, cast, config)
    for p in performances:
        p.attempt(lambda p: _plan_cuts_or_none(p, config))
        p.attempt(_resume)
    _record_all(performances, lambda u: u.kind is Kind.RESUMPTION, synthesizer, cast, config)
    for p in performances:
        if p.failed is not None:
            yield p.failed
            continue
        try:
            rendered, left_out = _rendered(p.script, p.recordings, p.cuts, config, augment)
        except ScriptError as error:
            yield error
            continue
        yield rendered, (*left_out, *([p.became] if p.became else []))


def _record_all(
    performances: Sequence[_Performance],
    wanted: Callable[[Utterance], bool],
    synthesizer: Synthesizer,
    cast: Cast,
    config: Config,
) -> None:
    """Add recordings of the wanted utterances that have none."""
    jobs = [
        (p, i)
        for p in performances
        if p.failed is None
        for i, u in enumerate(p.script.utterances)
        if i not in p.recordings and wanted(u)
    ]
    seeded = takes_seed(synthesizer)
    requests = (_request(p.script, i, cast.voices, config.seed if seeded else None) for p, i in jobs)
    for (performance, i), speech in zip(jobs, synthesizer.synthesize_many(requests), strict=True):
        performance.keep(i, speech, config)


def _request(script: Script, index: int, voices: Mapping[str, Voice], seed: int | None) -> SpeechRequest:
    """`seed` None: of an engine that takes none; then equal words are an equal request."""
    u = script.utterances[index]
    own = 0 if seed is None else stable_hash(seed, script.id, index, bits=SEED_BITS)
    return SpeechRequest(u.text, voices[u.voice], script.language, own)


def _record(speech: Speech | SynthesisError, utterance: Utterance, config: Config) -> Recording:
    if isinstance(speech, UtteranceRejected):
        raise ScriptError(f"rejected_{speech.reason}", str(speech))
    if isinstance(speech, SynthesisError):
        raise ScriptError("synthesis_failed", str(speech))
    if not config.has_sound:
        return _soundless(speech)
    return record(speech, level_dbfs=config.speech.level_dbfs, pause=utterance.pause)


def _soundless(speech: Speech) -> Recording:
    words = speech.words or ()
    starts = np.array([w.start for w in words], np.int64)
    ends = np.array([w.end for w in words], np.int64)
    return Recording(Take(len(speech.samples), starts, ends), np.zeros(len(speech.samples), np.int16))


def _plan_cuts_or_none(p: _Performance, config: Config) -> None:
    """Where a reply turned out too short to be interrupted, the conversation becomes a turn-taking one."""
    try:
        _plan_cuts(p, config)
    except ScriptError as error:
        if error.reason != "reply_too_short":
            raise
        p.became = f"{p.script.scenario}_became_uninterrupted"
        p.script, kept = as_turn_taking(p.script)
        p.cuts.clear()
        p.recordings = {n: p.recordings[i] for n, i in enumerate(kept)}


def _plan_cuts(p: _Performance, config: Config) -> None:
    for i, u in enumerate(p.script.utterances):
        if u.interrupts is not None:
            length = p.recordings[u.interrupts].take.length
            p.cuts[u.interrupts] = plan_cut(p.script, i, length, config.timing, config.seed)


def _resume(p: _Performance) -> None:
    """Give resumptions their text."""
    for i, u in enumerate(p.script.utterances):
        if u.resumes is not None:
            take = with_word_times(p.recordings[u.resumes].take, p.script.utterances[u.resumes].text)
            begun = int(take.word_starts.searchsorted(p.cuts[u.resumes].stop))
            p.script = resume(p.script, i, begun)


def _rendered(
    script: Script,
    recordings: Mapping[int, Recording],
    cuts: Mapping[int, Cut],
    config: Config,
    augment: Augment | None,
) -> tuple[Rendered, tuple[str, ...]]:
    takes = [recordings[i].take for i in range(len(script.utterances))]
    timeline = schedule(script, takes, cuts, config.timing, config.seed, grid_of(config))
    conversation = timeline.conversation
    placed = [recordings[i] for i in timeline.order]
    if not config.has_sound:
        silent = Rendered(conversation, timeline.negative, None, Patch(0, np.zeros(0, np.int16)))
        return silent, timeline.left_out
    fade = to_samples(config.timing.fade_sec)
    audio = render(conversation, placed, fade)
    augmentation = augment(conversation, audio) if augment is not None else None
    patch = _patch(conversation, timeline.negative, placed, fade)
    return Rendered(conversation, timeline.negative, audio, patch, augmentation), timeline.left_out


def _patch(conversation: Conversation, negative: Negative, placed: Sequence[Recording], fade: int) -> Patch:
    """The stretch of the assistant's channel in which the negative differs."""
    spans = negative_spans(conversation.utterances, negative)
    moved = [
        (u.start, u.end, a, b)
        for u, (a, b) in zip(conversation.utterances, spans, strict=True)
        if (u.start, u.end) != (a, b)
    ]
    # A reply that stops late is the same up to its first stop's fade.
    start = min(e - fade if s == a else min(s, a) for s, e, a, _ in moved)
    end = max(max(e, b) for _, e, _, b in moved)
    channel = render_assistant(conversation, placed, spans, fade)
    return Patch(start, channel[start:end])


def _provenance(plan: Plan, conversation: Conversation, synthesizer: str) -> Provenance:
    return Provenance(
        licence=conversation.licence,
        synthesizer=synthesizer,
        prompt_version=plan.prompt_version,
        config=plan.record_fingerprint,
        package=__version__,
    )


def reading(plan: Plan, shard: Shard) -> Iterator[Rendered]:
    """What `speaking` handed on, read back."""
    at_hand(plan.store, marker_path(plan, shard), plan.speech)
    negatives = read_negatives(_negatives_path(plan, shard))
    path = conversations_path(plan, shard)
    for batch in batches(path, None, _WINDOW):
        sound = batch.column("audio").to_pylist()
        for conversation, audio in zip(conversations_from(batch), sound, strict=True):
            id_, negative, patch = next(negatives, ("", None, None))
            if negative is None or patch is None or id_ != conversation.id:
                raise ShardError(f"{path}: its negatives are another run's; remove both and run the build again")
            yield Rendered(conversation, negative, None if audio is None else from_flac(audio["bytes"]), patch)
