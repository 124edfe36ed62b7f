"""A shard's dialogues become its scripts."""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from duplexdata.dialogue import Channel, Dialogue, Kind, Pause, Rejected, Scenario, Script, Utterance
from duplexdata.errors import ShardError
from duplexdata.interactions import Material, Planned, can_lend, dialogues_needed, fits, plan_drafts
from duplexdata.resources import banks
from duplexdata.rng import rng_for, stable_hash
from duplexdata.shards import FileFacts, sha256, write_text
from duplexdata.spoken import speakable_dialogue
from duplexdata.stages.ingest import read_pool
from duplexdata.stages.plan import Plan
from duplexdata.stages.work import Counts, Marker, Shard, at_hand, read_marker, shards_of, write_marker
from duplexdata.stages.writing import Scribe
from duplexdata.talk import Cast
from duplexdata.voices.deck import Deck
from duplexdata.voices.fit import speakers_needed

_LOOK_AHEAD = 64
"""Dialogues looked through for one that a scenario fits before another scenario is taken."""


def write_scripts(plan: Plan, shard: Shard) -> Marker:
    """One JSON line per script.

    Raises: WriterError, BudgetError: a language model is configured and cannot go on; what it wrote is kept.
    """
    if found := read_marker(plan.store, scripts_marker_path(plan, shard), plan.scripts):
        return found
    if plan.config.writer.model is None:
        return keep_scripts(plan, shard, plan_scripts(plan, shard))
    with Scribe.of(plan) as scribe:
        return keep_scripts(plan, shard, plan_scripts(plan, shard, scribe))


@dataclass(frozen=True, slots=True)
class Scripted:
    """A shard's scripts, what was dropped on the way, and the marker's facts."""

    scripts: tuple[Script, ...]
    counts: tuple[Counts, ...]
    facts: Mapping[str, object]


def plan_scripts(plan: Plan, shard: Shard, scribe: Scribe | None = None) -> Scripted:
    """A shard's scripts, without a file.

    Args:
        scribe: puts the texts of a language model into them; None: templates write everything.
    """
    pool, duplicates = read_pool(plan, shard)
    planner = _Planner(plan, shard, pool)
    if scribe is None:
        scripts = tuple(planner.scripts())
        return Scripted(scripts, planner.counts(duplicates, len(scripts)), planner.facts())
    scripts = tuple(planner.written_scripts(scribe))
    counts = (*planner.counts(duplicates, len(scripts)), *scribe.counts())
    return Scripted(scripts, counts, {**planner.facts(), "writing": scribe.facts()})


def keep_scripts(plan: Plan, shard: Shard, planned: Scripted) -> Marker:
    """Write a shard's scripts down; the stages that follow find them."""
    path = scripts_path(plan, shard)
    lines = [json.dumps(asdict(s), ensure_ascii=False) + "\n" for s in planned.scripts]
    write_text(path, "".join(lines))
    files = {path.name: FileFacts(len(lines), path.stat().st_size, sha256(path))}
    marker = Marker(plan.scripts, files, planned.counts, planned.facts)
    return write_marker(plan.store, scripts_marker_path(plan, shard), marker)


def scripts_marker_path(plan: Plan, shard: Shard) -> Path:
    return scripts_path(plan, shard).with_suffix(".done.json")


def scripts_path(plan: Plan, shard: Shard) -> Path:
    return plan.stage_folder("scripts") / f"{shard.name}.jsonl"


def read_scripts(plan: Plan, shard: Shard) -> Iterator[Script]:
    path = scripts_path(plan, shard)
    at_hand(plan.store, scripts_marker_path(plan, shard), plan.scripts)
    try:
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                yield _script(json.loads(line))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ShardError(f"{path}: cannot be read ({error}); remove it and run the build again") from error


def _script(raw: dict[str, Any]) -> Script:
    utterances = tuple(_utterance(u) for u in raw.pop("utterances"))
    raw["source_ids"] = tuple(raw["source_ids"])
    raw["scenario"], raw["asked"] = Scenario(raw["scenario"]), Scenario(raw["asked"])
    return Script(**raw, utterances=utterances)


def _utterance(raw: dict[str, Any]) -> Utterance:
    raw["channel"], raw["kind"] = Channel(raw["channel"]), Kind(raw["kind"])
    if raw["pause"] is not None:
        raw["pause"] = Pause(**raw["pause"])
    return Utterance(**raw)


@dataclass(slots=True)
class _Seat:
    """A deck, and the place in it that the next conversation gets its user from."""

    deck: Deck
    at: int


@dataclass(frozen=True, slots=True)
class Deal:
    """What a conversation is to be made of.

    Attributes:
        dialogues: its own, then those to borrow from; in spoken form by rules.
        repeat: how often its own dialogue came first before.
    """

    asked: Scenario
    dialogues: tuple[Dialogue, ...]
    cast: Cast
    repeat: int


class _Planner:
    """Deals a shard's dialogues out to its conversations; each is used about as often as any other."""

    def __init__(self, plan: Plan, shard: Shard, pool: list[Dialogue]) -> None:
        self._config, self._shard, self._pool = plan.config, shard, pool
        self._key = f"{shard.split}/{shard.index}/{shard.of}"
        self._speakable: dict[str, Dialogue | Rejected] = {}
        self._queue: deque[Dialogue] = deque()
        self._rounds = 0
        self._times_first: Counter[str] = Counter()
        self._used: set[str] = set()
        self._became: Counter[str] = Counter()
        self._lost: set[str] = set()
        self._no_dialogue = self._not_written = 0
        self._bank = plan.bank
        self._seats: dict[str, _Seat | None] = {}
        self._by_users: dict[tuple[str, ...], _Seat] = {}
        # A split's shards go on with one deck where the shard before leaves off.
        earlier = (s for s in shards_of(plan.config) if s.split == shard.split and s.index < shard.index)
        self._first_slot = sum(s.slots for s in earlier)

    def scripts(self) -> Iterator[Script]:
        for deal in self.deals():
            planned = self._plan(deal, deal.dialogues)
            self._used.update(planned.script.source_ids)
            yield planned.script

    def written_scripts(self, scribe: Scribe) -> Iterator[Script]:
        """Scripts with the texts of a language model: first dialogues, as far as any script takes them, then what
        templates wrote in the scripts."""
        deals = list(self.deals())
        raw = {d.id: d for d in self._pool}
        dialogues = scribe.dialogues([(d.asked, d.dialogues) for d in deals], raw)
        planned: list[tuple[Planned, Dialogue]] = []
        for deal in deals:
            found = [dialogues[d.id] for d in deal.dialogues]
            whole = [d for d in found if d is not None]
            if len(whole) < len(found):
                self._lose(d.id for d in deal.dialogues)
            else:
                planned.append((self._plan(deal, tuple(whole)), whole[0]))
        for (before, _), script in zip(planned, scribe.scripts(planned), strict=True):
            if script is None:
                self._lose(before.script.source_ids)
            else:
                self._used.update(script.source_ids)
                yield script

    def deals(self) -> Iterator[Deal]:
        """What each conversation is to be made of."""
        seed = self._config.seed
        shares = self._config.mix.shares()
        for slot in range(self._shard.slots):
            rng = rng_for(seed, f"{self._key}/{slot}", "slot")
            asked = list(shares)[int(rng.choice(len(shares), p=list(shares.values())))]
            first = self._first(asked)
            if first is None:
                self._no_dialogue += 1
                continue
            borrowed = self._borrow(asked, first, dialogues_needed(asked, rng) - 1, rng)
            cast = self._cast(first.language, rng)
            yield Deal(asked, (first, *borrowed), cast, self._times_first[first.id])
            self._times_first[first.id] += 1

    def _plan(self, deal: Deal, dialogues: tuple[Dialogue, ...]) -> Planned:
        planned = plan_drafts(
            deal.asked,
            Material(dialogues, banks(dialogues[0].language), deal.cast),
            repeat=deal.repeat,
            mix=self._config.mix,
            timing=self._config.timing,
            seed=self._config.seed,
        )
        if planned.script.scenario is not deal.asked:
            self._became[f"{deal.asked}_became_{planned.script.scenario}"] += 1
        return planned

    def _lose(self, ids: Iterable[str]) -> None:
        self._not_written += 1
        self._lost.update(ids)

    def counts(self, duplicates: int, made: int) -> tuple[Counts, ...]:
        dropped = Counter({"duplicate": duplicates})
        for item in self._speakable.values():
            if isinstance(item, Rejected):
                dropped[item.reason] += 1
        if lost := self._lost - self._used:
            dropped["not_written"] = len(lost)
        dropped["not_needed"] = len(self._pool) - len(self._used) - dropped.total() + duplicates
        failed = {"no_dialogue": self._no_dialogue, "not_written": self._not_written}
        kept = {reason: n for reason, n in sorted(dropped.items()) if n}
        return (
            Counts("dialogues", len(self._pool) + duplicates, len(self._used), kept),
            Counts("scripts", self._shard.slots, made, {reason: n for reason, n in failed.items() if n}),
        )

    def facts(self) -> Mapping[str, object]:
        return {"fallbacks": dict(sorted(self._became.items()))}

    def _as_speech(self, dialogue: Dialogue) -> Dialogue | None:
        found = self._speakable.get(dialogue.id)
        if found is None:
            text = self._config.text
            if self._deal(dialogue.language) is None:
                detail = f"the voice bank has no voices for {dialogue.language} in {self._shard.split}"
                found = Rejected("no_voice", detail, dialogue.id)
            else:
                found = speakable_dialogue(
                    dialogue,
                    max_query_sec=text.max_query_sec,
                    max_reply_sec=text.max_reply_sec,
                    max_exchanges=text.max_exchanges,
                )
            self._speakable[dialogue.id] = found
        return found if isinstance(found, Dialogue) else None

    def _refill(self) -> None:
        order = rng_for(self._config.seed, self._key, f"order/{self._rounds}").permutation(len(self._pool))
        self._queue.extend(self._pool[int(i)] for i in order)
        self._rounds += 1

    def _first(self, asked: Scenario) -> Dialogue | None:
        """The next dialogue that the scenario fits; the next at all where none in sight does."""
        if len(self._queue) < _LOOK_AHEAD:
            self._refill()
        plain: tuple[int, Dialogue] | None = None
        for i in range(min(_LOOK_AHEAD, len(self._queue))):
            dialogue = self._as_speech(self._queue[i])
            if dialogue is None:
                continue
            plain = plain or (i, dialogue)
            if fits(asked, dialogue, banks(dialogue.language), self._config.timing):
                del self._queue[i]
                return dialogue
        if plain is None:
            return None
        del self._queue[plain[0]]
        return plain[1]

    def _borrow(self, asked: Scenario, first: Dialogue, n: int, rng: np.random.Generator) -> list[Dialogue]:
        """`n` other dialogues of the same language from the shard's own pool; fewer where it has no more."""
        found: list[Dialogue] = []
        if n <= 0:
            return found
        for i in map(int, rng.permutation(len(self._pool))):
            other = self._pool[i]
            if other.id == first.id or other.language != first.language:
                continue
            spoken = self._as_speech(other)
            if spoken is not None and can_lend(asked, spoken, self._config.timing):
                found.append(spoken)
                if len(found) == n:
                    break
        return found

    def _deal(self, language: str) -> _Seat | None:
        """What a language's users are dealt from; None where there are too few. Same users, same deal."""
        if language not in self._seats:
            split, bank = self._shard.split, self._bank
            users = bank.users_of(split, language, speakers=speakers_needed(self._config))
            ids = tuple(v.id for v in users)
            if users and ids not in self._by_users:
                rng = rng_for(self._config.seed, f"{split}/{stable_hash(*sorted(ids))}", "voices")
                self._by_users[ids] = _Seat(Deck(users, bank.evenly_over, rng), self._first_slot)
            self._seats[language] = self._by_users.get(ids)
        return self._seats[language]

    def _cast(self, language: str, rng: np.random.Generator) -> Cast:
        """The next user, the assistant, and somebody else who may be heard."""
        deal = self._deal(language)
        assert deal is not None  # its dialogue would have been left out
        user = deal.deck.at(deal.at)
        deal.at += 1
        bystander = deal.deck.draw(rng, but=user.speaker) if speakers_needed(self._config) > 1 else user
        return Cast(user.id, self._bank.assistant.id, bystander.id)
