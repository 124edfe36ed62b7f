"""Random conversations for the tests: scripts with their takes, as a synthesizer without a sound would give them."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

from duplexdata.config import TimingConfig
from duplexdata.conversation import Conversation
from duplexdata.dialogue import Channel, Kind, Scenario, Script, Utterance
from duplexdata.layouts.interleaved import StateTokens
from duplexdata.text.types import DuoTokens, Encoded
from duplexdata.text.vocabulary import Vocabulary, make_tokenizer
from duplexdata.timeline import Cut, Take, Timeline, plan_cut, schedule
from duplexdata.units import SAMPLE_RATE, Grid
from duplexdata.words import split_words

TIMING = TimingConfig()
GRID = Grid()
STATE = StateTokens(silence=1, assistant=2, pad=3, epad=4, speech_offset=100_000)
DUO = DuoTokens(query=5, non_query=6, eos=7)
FIRST_TEXT_ID = 1000
_WORDS = [
    "alder",
    "birch,",
    "cedar.",
    "dogwood",
    "elm",
    "fir;",
    "ginkgo",
    "hazel",
    "ivy",
    "juniper,",
    "kapok",
    "larch.",
    "maple",
    "neem",
    "oak",
]


@dataclass(frozen=True, slots=True, repr=False)
class Talk:
    """A script with everything that `schedule` wants."""

    script: Script
    takes: tuple[Take, ...]
    cuts: Mapping[int, Cut]
    seed: int
    timing: TimingConfig = TIMING
    grid: Grid = GRID

    def __repr__(self) -> str:
        lengths = [f"{u.kind} {t.length}" for u, t in zip(self.script.utterances, self.takes, strict=True)]
        return f"<talk {self.script.id}, seed {self.seed}: {', '.join(lengths)}; {dict(self.cuts)}>"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """What hypothesis shows of a failing example."""
        printer.text(repr(self))

    def scheduled(self) -> Timeline:
        return schedule(self.script, self.takes, self.cuts, self.timing, self.seed, self.grid)

    def without_overlays(self) -> Talk:
        n = sum(u.addressed for u in self.script.utterances)
        return replace(self, script=replace(self.script, utterances=self.script.utterances[:n]), takes=self.takes[:n])


def some_words(rng: np.random.Generator, n: int) -> str:
    """`n` words, every one of them another: a number is part of each."""
    return " ".join(f"{_WORDS[int(rng.integers(len(_WORDS)))]}{int(rng.integers(10**9))}" for _ in range(n))


def take_of(text: str, rng: np.random.Generator, *, timed: bool = True) -> Take:
    """Words of 0.35 to 0.6 s with small silences between them, from the first sample to the last."""
    n = len(split_words(text))
    lengths = rng.integers(int(0.35 * SAMPLE_RATE), int(0.6 * SAMPLE_RATE), n)
    behind = np.cumsum(lengths)
    starts, ends = behind - lengths, behind - rng.integers(0, 800, n)
    if n:
        ends[-1] = behind[-1]
    none = np.zeros(0, np.int64)
    return Take(int(lengths.sum()), starts if timed else none, ends if timed else none)


def script_of(utterances: list[Utterance], id_: str = "talk-1", scenario: Scenario = Scenario.UNINTERRUPTED) -> Script:
    return Script(
        id=id_,
        source="made-up",
        source_ids=("made-up/1",),
        scenario=scenario,
        asked=scenario,
        language="en",
        licence="CC0-1.0",
        user_voice="ann",
        assistant_voice="bot",
        utterances=tuple(utterances),
    )


def talk_of(script: Script, rng: np.random.Generator, seed: int = 0, *, timed: bool = True) -> Talk:
    """Takes for each utterance, and the cuts that its interruptions ask for."""
    takes = tuple(take_of(u.text, rng, timed=timed) for u in script.utterances)
    cuts = {
        u.interrupts: plan_cut(script, i, takes[u.interrupts].length, TIMING, seed)
        for i, u in enumerate(script.utterances)
        if u.interrupts is not None
    }
    return Talk(script, takes, cuts, seed)


class Writer:
    """Utterances in the making."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.utterances: list[Utterance] = []

    def user(self, n: int, kind: Kind = Kind.QUERY, **links: int | None) -> int:
        voice = "eve" if kind is Kind.DISTRACTOR else "ann"
        self.utterances.append(Utterance(Channel.USER, kind, some_words(self.rng, n), "made-up", voice, **links))
        return len(self.utterances) - 1

    def assistant(self, n: int, kind: Kind = Kind.REPLY, **links: int | None) -> int:
        text = some_words(self.rng, n)
        self.utterances.append(Utterance(Channel.ASSISTANT, kind, text, "made-up", "bot", **links))
        return len(self.utterances) - 1

    def exchange(self, *, long: bool = False) -> int:
        """A query and its reply, whose index is returned."""
        query = self.user(int(self.rng.integers(1, 25)))
        return self.reply(query, long=long)

    def reply(self, query: int, *, long: bool = False) -> int:
        n = int(self.rng.integers(18, 50)) if long else int(self.rng.integers(1, 30))
        return self.assistant(n, replies_to=query)

    def interruption(self, reply: int) -> int:
        return self.user(int(self.rng.integers(1, 20)), Kind.INTERRUPTION, interrupts=reply)


PARTS = ("plain", "again", "aside", "reset")


def written(
    parts: list[str], *, terminated: bool, overlays: list[tuple[Kind, int]], rng: np.random.Generator
) -> list[Utterance]:
    """The utterances of a conversation with these parts, one after the other.

    Args:
        terminated: it ends with a reply that is cut and not answered.
        overlays: kinds, and a number that picks the assistant's utterance they lie over (-1: none, at the end).
    """
    w = Writer(rng)
    for part in parts:
        if part == "plain":
            w.exchange()
            continue
        reply = w.exchange(long=True)
        cutter = w.interruption(reply)
        answer = w.reply(cutter, long=part == "reset")
        if part == "aside":
            w.assistant(int(rng.integers(3, 25)), Kind.RESUMPTION, resumes=reply)
        if part == "reset":
            w.reply(w.interruption(answer))
    if terminated:
        w.interruption(w.exchange(long=True))
    spoken = [i for i, u in enumerate(w.utterances) if u.channel is Channel.ASSISTANT]
    for kind, over in overlays:
        n = int(rng.integers(1, 3)) if kind is Kind.BACKCHANNEL else int(rng.integers(2, 14))
        w.user(n, kind, over=None if over < 0 else spoken[over % len(spoken)])
    return w.utterances


@st.composite
def talks(draw: st.DrawFn, *, overlays: bool = True, timed: bool = True, interrupted: bool = True) -> Talk:
    """Any conversation that the package can make, and more: all kinds of interruption mixed in one."""
    parts = draw(st.lists(st.sampled_from(PARTS if interrupted else PARTS[:1]), min_size=1, max_size=4))
    terminated = interrupted and draw(st.booleans())
    kinds = st.sampled_from([Kind.DISTRACTOR, Kind.BACKCHANNEL])
    laid = draw(st.lists(st.tuples(kinds, st.integers(-1, 9)), max_size=3)) if overlays else []
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    seed = draw(st.integers(0, 1000))
    utterances = written(parts, terminated=terminated, overlays=laid, rng=rng)
    return talk_of(script_of(utterances, id_=f"talk-{seed}"), rng, seed, timed=timed)


def token_of(word: str) -> int:
    """One token a word; another one for every other word, and none that is a state token."""
    return FIRST_TEXT_ID + int("".join(c for c in word if c.isdigit()) or 0) % 90_000


@dataclass(frozen=True, slots=True)
class Offsets:
    """(start, end) characters of each token."""

    offsets: list[tuple[int, int]]


def encoded(text: str) -> Encoded:
    """One token per word, which begins with the space before it."""
    spans = split_words(text)
    ids = np.array([token_of(text[s.start : s.end]) for s in spans], np.int32)
    return Encoded(ids, Offsets([(max(0, s.start - 1), s.end) for s in spans]))


def assistant_tokens(conversation: Conversation) -> list[np.ndarray | None]:
    return [encoded(u.text).ids if u.channel is Channel.ASSISTANT else None for u in conversation.utterances]


@cache
def embedded_vocabulary(codebook_size: int = 64) -> Vocabulary:
    """The package's own tokenizer with a few speech tokens."""
    with tempfile.TemporaryDirectory() as folder:
        make_tokenizer("embedded", codebook_size, Path(folder) / "tokenizer")
        return Vocabulary.read(Path(folder) / "tokenizer")
