"""One conversation's rows in the configs made from it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from duplexdata import checks
from duplexdata.checks import Duo, Finding, Interleaved, Late, Pair, Record, Settings, Text, TextChannel
from duplexdata.verify.rows import Row, lacks

DROPPING = ("sft", "dpo")


class Views:
    """One conversation's rows in the configs made from it."""

    def __init__(
        self,
        settings: Settings,
        record: Record,
        texts: tuple[Sequence[Text], Sequence[Text]],
        speech: tuple[checks.Int32, checks.Int32] | None,
        rows: Mapping[str, Row | None],
        decode: checks.Decode,
    ) -> None:
        self._settings, self._record, self._speech = settings, record, speech
        self._texts, self._said = texts
        self._rows, self._decode = rows, decode
        self.codes: checks.Tokens | None = None
        self.sft: Interleaved | None = None
        self._plan: TextChannel | None = None

    def check(self, config: str, there: bool) -> Iterator[Finding]:
        """Args:
        there: whether the file has a row of this id at all (one out of order is not looked at).
        """
        row = self._rows.get(config)
        if row is None:
            if not there and config in DROPPING:
                yield from self._check_dropped(config)
            return
        if lacks(row):
            yield Finding("null", "a value is missing")
            return
        yield from {
            "codes": self._check_codes,
            "sft": self._check_sft,
            "dpo": self._check_dpo,
            "tdm": self._check_tdm,
            "duo": self._check_duo,
        }[config](row)

    def _check_codes(self, row: Row) -> Iterator[Finding]:
        self.codes = _codes(row)
        yield from checks.check_codes(self._record, self.codes, self._settings)
        if self._speech is not None:
            yield from checks.check_encoding(self.codes, *self._speech)

    def _text(self, codes: checks.Tokens) -> TextChannel:
        if self._plan is None:
            blocks = len(codes.user) // self._settings.layout.n_speech - 1
            spans = [(u.start, u.end) for u in self._record.utterances]
            self._plan = checks.text_channel(self._record, spans, self._texts, blocks, self._settings)
        return self._plan

    def _check_dropped(self, config: str) -> Iterator[Finding]:
        """A row that is not there must be one that cannot be."""
        if self.codes is None:
            return
        plan = self._text(self.codes)
        problems = [plan.problem]
        for late in self.codes.negatives if plan.problem is None else ():
            spans = checks.late_spans(self._record, late, self._settings.timing)
            blocks = len(self.codes.user) // self._settings.layout.n_speech - 1
            problems.append(
                checks.text_channel(self._record, spans, self._texts, blocks, self._settings, plan.kept).problem
            )
        reasons = {"text_overflow", "no_room"}
        if self._settings.emitted_again:
            reasons.add("collision")  # the timeline was made for other blocks
        if reasons.isdisjoint(problems):
            yield Finding("dropped", f"{config} has no row of it, and nothing forbids one")

    def _check_sft(self, row: Row) -> Iterator[Finding]:
        self.sft = _interleaved(row, "")
        if self.codes is not None:
            plan = self._text(self.codes)
            yield from checks.check_sft(
                self._record, self.sft, self.codes, self._texts, plan, self._settings, self._decode
            )
        yield from self._scenario(row)

    def _check_dpo(self, row: Row) -> Iterator[Finding]:
        pair = Pair(
            row["kind"],
            _interleaved(row, "chosen_"),
            _interleaved(row, "rejected_"),
            checks.samples_of(row["positive_sec"]),
            checks.samples_of(row["negative_sec"]),
        )
        if self.codes is None:
            return
        plan = self._text(self.codes)
        if self.sft is None:
            yield from checks.check_sft(
                self._record, pair.chosen, self.codes, self._texts, plan, self._settings, self._decode
            )
        yield from checks.check_pair(self._record, pair, self.sft, self.codes, self._texts, plan, self._settings)

    def _check_tdm(self, row: Row) -> Iterator[Finding]:
        messages = [(m["role"], m["content"]) for m in row["messages"]]
        yield from checks.check_tdm(self._record, messages, self._texts, self._settings)
        yield from self._scenario(row)

    def _check_duo(self, row: Row) -> Iterator[Finding]:
        duo = Duo(row["text"], row["input_ids"], row["labels"], row["channel"], row["position"])
        yield from checks.check_duo(self._record, duo, self._said, self._settings, self._decode)
        yield from self._scenario(row)

    def _scenario(self, row: Row) -> Iterator[Finding]:
        if row["scenario"] != self._record.scenario:
            yield Finding("scenario", f"{row['scenario']!r}, conversations has {self._record.scenario!r}")

    def token_sums(self) -> Counter[str]:
        """Tokens of the SFT row by class."""
        assert self.sft is not None
        layout, ids = self._settings.layout, self._settings.ids
        blocks = self.sft.n_blocks
        z = self.sft.parts()[1]
        state = int(np.isin(z, (ids.silence, ids.assistant, ids.pad, ids.epad)).sum())
        speech = blocks * layout.n_speech
        return Counter(user=speech, assistant=speech, text=len(z) - state, state=state)


def _codes(row: Row) -> checks.Tokens:
    negatives = tuple(
        Late(
            n["kind"],
            n["utterance"],
            checks.samples_of(n["positive_sec"]),
            checks.samples_of(n["negative_sec"]),
            checks.samples_of(n["start"]),
            checks.samples_of(n["end"]),
            *_books(n["assistant"]),
        )
        for n in row["negatives"]
    )
    user, assistant = _books(row["user"]), _books(row["assistant"])
    return checks.Tokens(
        row["id"],
        row["frame_rate"],
        row["codebook_size"],
        row["codec"],
        user[0],
        assistant[0],
        negatives,
        (user[1], assistant[1]),
    )


def _books(tokens: Any) -> tuple[checks.Int32, tuple[checks.Int32, ...]]:
    """The first codebook's tokens, and the others'."""
    if len(tokens) and isinstance(tokens[0], list):
        first, *others = (np.array(book, np.int32) for book in tokens)
        return first, tuple(others)
    return np.asarray(tokens, np.int32), ()


def _interleaved(row: Row, prefix: str) -> Interleaved:
    return Interleaved(
        row[f"{prefix}input_ids"], row[f"{prefix}labels"], row["n_blocks"], row["n_speech"], row["n_text"]
    )
