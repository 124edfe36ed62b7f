"""Each check finds nothing in what is right, and just what was broken in what is not."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from strategies import DUO, STATE, Talk, encoded, talks
from tokenizers import Tokenizer

from duplexdata import checks
from duplexdata.audio import from_flac
from duplexdata.augment.config import AugmentConfig, GainConfig
from duplexdata.augment.draw import Augmentation
from duplexdata.checks import Duo, Finding, Ids, Interleaved, Pair, Record, Settings, Text, Word
from duplexdata.config import LayoutConfig, TimingConfig
from duplexdata.conversation import Conversation, negative_spans
from duplexdata.dialogue import Channel
from duplexdata.errors import ScriptError, TimelineError
from duplexdata.layouts import duo, interleaved, tdm
from duplexdata.records import Provenance, conversation_columns
from duplexdata.schema import COLUMNS
from duplexdata.units import SAMPLE_RATE, Grid
from duplexdata.verify import RULES
from duplexdata.verify.joins import _encoded
from duplexdata.verify.settings import read_settings
from duplexdata.verify.views import _codes, _interleaved

IDS = Ids(STATE.silence, STATE.assistant, STATE.pad, STATE.epad, DUO.query, DUO.non_query, DUO.eos, STATE.speech_offset)


def settings_of(n_speech: int = 10, n_text: int = 5, causality: str = "causal") -> Settings:
    layout = LayoutConfig(n_speech=n_speech, n_text=n_text, causality=causality)
    return Settings(TimingConfig(), layout, -26.0, 1280, "mel/1", 1024, (n_speech, n_text), IDS)


def record_of(conversation: Conversation) -> Record:
    """Through its columns, as a reader of the dataset gets it."""
    none = Provenance("CC0-1.0", "", "", "", "")
    columns = conversation_columns([conversation], [None], [none])
    table = pa.table({k: pa.array(columns[k], t) for k, t in COLUMNS["conversations"]})
    return checks.record_of(table.to_pylist()[0])


def texts_of(conversation: Conversation) -> list[Text]:
    return [Text(e.ids, e.starts) for e in (encoded(u.text) for u in conversation.utterances)]


def said_of(conversation: Conversation) -> list[Text]:
    return [Text(e.ids, e.starts) for e in (encoded(u.spoken_text) for u in conversation.utterances)]


# -- by hand


def test_the_slots_of_a_reply_from_3_to_5_seconds() -> None:
    # (3 - 0.8) 12.5 = 27.5 -> 27; 27 / 2 = 13.5 -> 13; - 1 = 12. (5 - 0.8) 12.5 = 52.5 -> 53; 26.5 -> 27.
    assert checks.slots_of(48_000, 80_000, 0, settings_of()) == (12, 27)


def test_a_reply_is_not_decided_before_its_query_has_been_heard() -> None:
    # The query ends at 2.2 s: block 2, which begins with slot 10, is the first to have heard it.
    assert checks.slots_of(48_000, 80_000, 35_200, settings_of(causality="paper")).assistant == 12
    assert checks.slots_of(38_400 + 1, 80_000, 38_400, settings_of()).assistant == 10
    assert checks.slots_of(38_400 + 1, 80_000, 38_400, settings_of(causality="paper")).assistant == 9
    # One that starts before block 3 could speak it stays where it is.
    assert checks.slots_of(38_400 + 1, 80_000, 38_400 + 1, settings_of()).assistant == 9


# -- the same as what makes the rows, derived in another way

TALKS = talks()
_OF_SCRIPTS = ("scenario", "resumption", "overlay")
"""Rules of how a conversation is written: the random ones are wilder."""
BLOCKS = st.sampled_from([(10, 5), (13, 5), (5, 2), (26, 13), (1, 1), (4, 7)])


@given(talk=st.one_of(talks(), talks(timed=False)))
def test_what_is_scheduled_has_no_findings(talk: Talk) -> None:
    timeline = talk.scheduled()
    record = record_of(timeline.conversation)
    assert [f for f in checks.check_record(record, settings_of()) if f.rule not in _OF_SCRIPTS] == []


@given(talk=TALKS, blocks=BLOCKS, causality=st.sampled_from(["causal", "paper"]))
def test_the_text_channel_is_that_of_the_rows(talk: Talk, blocks: tuple[int, int], causality: str) -> None:
    talk = replace(talk, grid=Grid(*blocks))
    timeline = talk.scheduled()
    conversation, record = timeline.conversation, record_of(timeline.conversation)
    settings = settings_of(*blocks, causality=causality)
    n = conversation.n_samples // settings.block - 1
    words = [e.ids if not u.is_user else None for u, e in zip(record.utterances, texts_of(conversation), strict=True)]
    kept: dict[int, int] | None = None
    late = checks.Late(
        timeline.negative.kind, timeline.negative.utterance, timeline.negative.positive, timeline.negative.negative,
        0, 0, np.zeros(0, np.int32),
    )  # fmt: skip
    ours: dict[int, int] | None = None
    for theirs, mine in (
        ([(u.start, u.end) for u in conversation.utterances], [(u.start, u.end) for u in record.utterances]),
        (negative_spans(conversation.utterances, timeline.negative), checks.late_spans(record, late, TimingConfig())),
    ):
        assert theirs == mine
        found = checks.text_channel(record, mine, texts_of(conversation), n, settings, ours)
        try:
            z, kept = interleaved.text_channel(
                conversation.utterances, theirs, words, n, talk.grid, STATE, causal=causality == "causal", kept=kept
            )  # fmt: skip
        except ScriptError as error:
            assert found.problem == error.reason
            return
        except TimelineError:
            assert found.problem in ("collision", "no_room")
            return
        assert found.problem is None
        assert found.z.tolist() == z.tolist()
        ours = dict(found.kept)


@given(talk=st.one_of(talks(), talks(timed=False)))
def test_turns_with_state_tokens_are_those_of_the_rows(talk: Talk) -> None:
    conversation = talk.scheduled().conversation
    row = duo.render(conversation, [encoded(u.spoken_text) for u in conversation.utterances], DUO)
    ours = Duo(row.text, row.input_ids, row.labels, row.channel, row.position)
    found = checks.check_duo(record_of(conversation), ours, said_of(conversation), settings_of(), lambda _: row.text)
    assert list(found) == []


@given(talk=TALKS, seed=st.integers(0, 99), slicing=st.sampled_from(["words", "clock"]))
def test_time_slices_have_no_findings(talk: Talk, seed: int, slicing: str) -> None:
    conversation = talk.scheduled().conversation
    if slicing == "clock":
        messages = tdm.sliced_by_clock(conversation, 2 * SAMPLE_RATE)
    else:
        starts = [encoded(u.text).starts if u.channel is Channel.ASSISTANT else None for u in conversation.utterances]
        messages = tdm.sliced_by_words(conversation, starts, np.random.default_rng(seed))
    settings = settings_of()
    settings = replace(settings, layout=replace(settings.layout, tdm_slicing=slicing))
    found = list(checks.check_tdm(record_of(conversation), messages, texts_of(conversation), settings))
    assert found == []


@given(talk=TALKS, k=st.integers(0, 10**6), what=st.sampled_from(["drop", "swap", "repeat"]))
def test_time_slices_that_lost_a_message_are_found(talk: Talk, k: int, what: str) -> None:
    conversation = talk.scheduled().conversation
    messages = tdm.sliced_by_clock(conversation, 2 * SAMPLE_RATE)
    k = 2 * (k % (len(messages) // 2))
    broken = {
        "drop": messages[:k] + messages[k + 2 :],
        "swap": [*messages[:k], *messages[k + 2 : k + 4], *messages[k : k + 2], *messages[k + 4 :]],
        "repeat": messages[: k + 2] + messages[k:],
    }[what]
    settings = settings_of()
    settings = replace(settings, layout=replace(settings.layout, tdm_slicing="clock"))
    assume(broken != messages)
    assert list(checks.check_tdm(record_of(conversation), broken, texts_of(conversation), settings))


# -- damage to the rows of a real dataset


@dataclass(frozen=True, slots=True)
class Bundle:
    """One conversation with all that was made from it."""

    settings: Settings
    record: Record
    sound: np.ndarray
    codes: checks.Tokens
    encoded: tuple[np.ndarray, np.ndarray]
    sft: Interleaved
    pair: Pair
    messages: list[tuple[str, str]]
    duo: Duo
    texts: list[Text]
    said: list[Text]
    decode: Callable[[Any], str]

    def findings(self) -> Iterable[Finding]:
        record, settings = self.record, self.settings
        yield from checks.check_record(record, settings)
        yield from checks.check_augmentation(record, settings)
        yield from checks.check_sound(record, self.sound, settings)
        yield from checks.check_codes(record, self.codes, settings)
        yield from checks.check_encoding(self.codes, *self.encoded)
        spans = [(u.start, u.end) for u in record.utterances]
        plan = checks.text_channel(record, spans, self.texts, self.sft.n_blocks, settings)
        yield from checks.check_sft(record, self.sft, self.codes, self.texts, plan, settings, self.decode)
        yield from checks.check_pair(record, self.pair, self.sft, self.codes, self.texts, plan, settings)
        yield from checks.check_tdm(record, self.messages, self.texts, settings)
        yield from checks.check_duo(record, self.duo, self.said, settings, self.decode)


@pytest.fixture(scope="session")
def bundles(small_dataset: Path) -> list[Bundle]:
    """Those of the small dataset that are in every config."""
    manifest = json.loads((small_dataset / "manifest.json").read_text(encoding="utf-8"))
    settings, _ = read_settings(manifest)
    assert settings is not None
    tokenizer = Tokenizer.from_file(str(small_dataset / "tokenizer" / "tokenizer.json"))

    def rows(config: str) -> dict[str, dict[str, Any]]:
        files = sorted((small_dataset / config).glob("*.parquet"))
        return {row["id"]: row for f in files for row in pq.read_table(f).to_pylist()}

    def arrays(row: dict[str, Any]) -> dict[str, Any]:
        return {k: np.array(v, np.int32) if isinstance(v, list) and k != "negatives" else v for k, v in row.items()}

    def decode(ids: Any) -> str:
        return str(tokenizer.decode(list(ids), skip_special_tokens=False))

    by = {config: rows(config) for config in COLUMNS}
    found = []
    for id_, row in by["conversations"].items():
        if id_ not in by["dpo"]:
            continue
        record = checks.record_of(row)
        codes, pair, turns = (arrays(by[c][id_]) for c in ("codes", "dpo", "duo"))
        found.append(
            Bundle(
                settings=settings,
                record=record,
                sound=from_flac(row["audio"]["bytes"]),
                codes=_codes(codes),
                encoded=(codes["user"], codes["assistant"]),
                sft=_interleaved(arrays(by["sft"][id_]), ""),
                pair=Pair(
                    pair["kind"],
                    _interleaved(pair, "chosen_"),
                    _interleaved(pair, "rejected_"),
                    checks.samples_of(pair["positive_sec"]),
                    checks.samples_of(pair["negative_sec"]),
                ),
                messages=[(m["role"], m["content"]) for m in by["tdm"][id_]["messages"]],
                duo=Duo(turns["text"], turns["input_ids"], turns["labels"], turns["channel"], turns["position"]),
                texts=[_encoded(e) for e in tokenizer.encode_batch([u.text for u in record.utterances])],
                said=[_encoded(e) for e in tokenizer.encode_batch([u.spoken_text for u in record.utterances])],
                decode=decode,
            )
        )
    return found


def test_the_rows_of_a_dataset_have_no_findings(bundles: list[Bundle]) -> None:
    assert [(b.record.id, f) for b in bundles for f in b.findings()] == []


def test_the_small_dataset_has_everything_in_it(bundles: list[Bundle]) -> None:
    assert len({b.record.scenario for b in bundles}) == 6
    assert {u.kind for b in bundles for u in b.record.utterances} >= {"distractor", "backchannel", "resumption"}
    assert {b.pair.kind for b in bundles} == {"turn_taking", "interruption"}


# Damages: each takes a bundle and gives it back broken, or None where the bundle has nothing to break.

Damage = Callable[[Bundle], "Bundle | None"]


def utterance(of: str, /, only_cut: bool | None = None, **changes: Callable[[checks.Said], object]) -> Damage:
    """Change fields of the first utterance of that kind."""

    def damage(b: Bundle) -> Bundle | None:
        for i, u in enumerate(b.record.utterances):
            if u.kind == of and only_cut in (None, u.cut):
                new = replace(u, **{k: f(u) for k, f in changes.items()})
                return of_record(b, utterances=(*b.record.utterances[:i], new, *b.record.utterances[i + 1 :]))
        return None

    return damage


def of_record(b: Bundle, **changes: Any) -> Bundle:
    return replace(b, record=replace(b.record, **changes))


def moved(kind: str, by: int) -> Damage:
    """An utterance and its words at another time."""

    def words(u: checks.Said) -> tuple[Word, ...]:
        return tuple(Word(t, a + by, e + by) for t, a, e in u.words)

    return utterance(kind, start=lambda u: u.start + by, end=lambda u: u.end + by, words=words)


def first_query(b: Bundle, by: int) -> Bundle:
    """The first query comes earlier or later."""
    u = b.record.utterances[0]
    words = tuple(Word(t, a + by, e + by) for t, a, e in u.words)
    new = replace(u, start=u.start + by, end=u.end + by, words=words)
    return of_record(b, utterances=(new, *b.record.utterances[1:]))


def array(b: Bundle, where: str, name: str, at: int | Callable[[np.ndarray], int], value: Any = None) -> Bundle:
    """Change one number of an array of a part of the bundle; raised by one if no value is given."""
    part = getattr(b, where)
    new = getattr(part, name).copy()
    k = at(new) if callable(at) else at
    new[k] = new[k] + 1 if value is None else value
    return replace(b, **{where: replace(part, **{name: new})})


def text_slot(b: Bundle, row: Interleaved, state: int, value: int | None = None) -> Interleaved:
    """The first slot that holds the state token `state` holds another one."""
    ids, labels = row.input_ids.copy(), row.labels.copy()
    at = int(np.flatnonzero(ids == state)[0])
    ids[at] = labels[at] = b.settings.ids.silence if value is None else value
    return replace(row, input_ids=ids, labels=labels)


def sound(b: Bundle, edit: Callable[[np.ndarray], None]) -> Bundle:
    x = b.sound.copy()
    edit(x)
    return replace(b, sound=x)


def heard(b: Bundle, edit: Callable[[np.ndarray, checks.Said], None], *, cut: bool) -> Bundle | None:
    """Edit the assistant's channel at its first utterance that was (not) cut."""
    for u in b.record.utterances:
        if not u.is_user and u.cut == cut:
            x = b.sound.copy()
            edit(x[:, 0], u)
            return replace(b, sound=x)
    return None


def _late_noise(x: np.ndarray, u: checks.Said) -> None:
    x[u.end + 800 : u.end + 4000] = np.resize(np.array([900, -900], np.int16), 3200)


def _hard_stop(x: np.ndarray, u: checks.Said) -> None:
    x[u.end - 160 : u.end] = np.resize(np.array([3000, -3000], np.int16), 160)


def _lose_end(x: np.ndarray, u: checks.Said) -> None:
    x[u.end - 3200 : u.end] = 0


def _quieter(x: np.ndarray, u: checks.Said) -> None:
    x[u.start : u.end] //= 4


def negative(**changes: Callable[[checks.Late], object]) -> Damage:
    def damage(b: Bundle) -> Bundle:
        late = b.codes.negatives[0]
        new = replace(late, **{k: f(late) for k, f in changes.items()})
        return replace(b, codes=replace(b.codes, negatives=(new,)))

    return damage


def _louder(b: Bundle) -> Bundle | None:
    """A token of sound where the negative is silent."""
    late = b.codes.negatives[0]
    tokens = late.assistant.copy()
    tokens[0] = 17
    return replace(b, codes=replace(b.codes, negatives=(replace(late, assistant=tokens),)))


def _silent_negative(b: Bundle) -> Bundle:
    """The late copy says nothing where it was moved to."""
    late = b.codes.negatives[0]
    tokens = late.assistant.copy()
    tokens[tokens != b.codes.assistant] = 0
    return replace(b, codes=replace(b.codes, negatives=(replace(late, assistant=tokens),)))


def message(edit: Callable[[list[tuple[str, str]]], list[tuple[str, str]] | None]) -> Damage:
    def damage(b: Bundle) -> Bundle | None:
        new = edit(list(b.messages))
        return None if new is None else replace(b, messages=new)

    return damage


def content(find: Callable[[str, str], bool], change: Callable[[str], str]) -> Damage:
    """Change the first message that is found."""

    def edit(messages: list[tuple[str, str]]) -> list[tuple[str, str]] | None:
        for k, (role, text) in enumerate(messages):
            if find(role, text):
                return [*messages[:k], (role, change(text)), *messages[k + 1 :]]
        return None

    return message(edit)


def _merge_slices(messages: list[tuple[str, str]]) -> list[tuple[str, str]] | None:
    """Two of the user's slices in one."""
    for k in range(0, len(messages) - 3, 2):
        (_, a), (_, b) = messages[k], messages[k + 2]
        if "<idle>" not in (a, b) and messages[k + 1][1] == messages[k + 3][1] == "<idle>":
            return [*messages[:k], ("user", f"{a} {b}"), *messages[k + 3 :]]
    return None


def _early_answer(messages: list[tuple[str, str]]) -> list[tuple[str, str]] | None:
    """The assistant begins while the user goes on."""
    for k in range(0, len(messages) - 3, 2):
        if (
            "<idle>" not in (messages[k][1], messages[k + 2][1])
            and messages[k + 1][1] == "<idle>" != messages[k + 3][1]
        ):
            early = [*messages]
            early[k + 1], early[k + 3] = messages[k + 3], messages[k + 1]
            return early
    return None


def rejected(edit: Callable[[Bundle, Interleaved], Interleaved]) -> Damage:
    return lambda b: replace(b, pair=replace(b.pair, rejected=edit(b, b.pair.rejected)))


def token(where: int) -> Callable[[Bundle, Interleaved], Interleaved]:
    """Another token in block 1, with its label where it has one."""

    def edit(b: Bundle, row: Interleaved) -> Interleaved:
        ids, labels = row.input_ids.copy(), row.labels.copy()
        at = 2 * row.n_speech + row.n_text + where
        ids[at] += 1
        labels[at] = ids[at] if labels[at] != checks.IGNORED else labels[at]
        return replace(row, input_ids=ids, labels=labels)

    return edit


def sft(edit: Callable[[Bundle, Interleaved], Interleaved]) -> Damage:
    return lambda b: replace(b, sft=edit(b, b.sft))


def _early_decision(b: Bundle, row: Interleaved) -> Interleaved:
    """[ASSISTANT] in the first slot of all."""
    z = row.parts()[1].copy()
    at = int(np.flatnonzero(z == b.settings.ids.assistant)[0])
    z[at], z[0] = z[0], z[at]
    ids = row.input_ids.copy().reshape(row.n_blocks, -1)
    ids[:, row.n_speech : row.n_speech + row.n_text] = z.reshape(row.n_blocks, -1)
    return replace(row, input_ids=ids.ravel())


def _other_word(b: Bundle, row: Interleaved) -> Interleaved:
    z = row.parts()[1]
    word = int(z[np.flatnonzero(z == b.settings.ids.assistant)[0] + 1])
    return text_slot(b, row, word, word + 1)


DAMAGES: dict[str, list[Damage]] = {
    "times": [lambda b: of_record(b, length=b.record.utterances[-1].end - 1)],
    "start-order": [lambda b: of_record(b, utterances=b.record.utterances[::-1])],
    "overlap": [utterance("query", end=lambda u: u.end + 600 * SAMPLE_RATE)],
    "blocks": [lambda b: of_record(b, length=b.record.length + 1280)],
    "roles": [
        utterance("reply", channel=lambda u: "user"),
        utterance("distractor", addressed=lambda u: True),
        utterance("query", text=lambda u: " ", spoken_text=lambda u: " ", words=lambda u: ()),
        lambda b: of_record(b, utterances=()),
    ],
    "voice": [
        utterance("query", voice=lambda u: "another"),
        lambda b: utterance("distractor", voice=lambda u: b.record.assistant_voice)(b),
    ],
    "spoken-text": [
        utterance("reply", True, spoken_text=lambda u: u.text),
        utterance("reply", False, spoken_text=lambda u: u.text[:-3]),
        utterance("query", spoken_text=lambda u: "x" + u.text),
    ],
    "words": [
        utterance("query", words=lambda u: u.words[1:]),
        utterance("query", words=lambda u: (Word("x", *u.words[0][1:]), *u.words[1:])),
        utterance("query", words=lambda u: (*u.words[:-1], Word(u.words[-1].text, u.words[-1].start, u.end + 1))),
        utterance("reply", words=lambda u: (Word(u.words[0].text, u.end - 2, u.end - 1), *u.words[1:])),
    ],
    "cut": [
        utterance("reply", False, cut=lambda u: True),
        utterance("reply", True, cut=lambda u: False),
        utterance("interruption", kind=lambda u: "query"),
        moved("interruption", 60 * SAMPLE_RATE),
    ],
    "reaction-delay": [moved("interruption", -SAMPLE_RATE * 3 // 2), moved("interruption", SAMPLE_RATE * 3 // 2)],
    "lead-in": [lambda b: first_query(b, 2 * SAMPLE_RATE), lambda b: first_query(b, -b.record.utterances[0].start)],
    "reply-gap": [moved("reply", SAMPLE_RATE // 5), moved("resumption", -SAMPLE_RATE // 5)],
    "next-turn-gap": [
        lambda b: moved("query", 4 * SAMPLE_RATE)(of_record(b, utterances=b.record.utterances[1:])),
    ],
    "overlay": [moved("backchannel", 100 * SAMPLE_RATE)],
    "scenario": [
        lambda b: of_record(b, scenario="uninterrupted" if b.record.scenario != "uninterrupted" else "regeneration"),
        lambda b: of_record(b, scenario="chat"),
        lambda b: of_record(b, source_ids=(*b.record.source_ids, "a", "b", "c", "d", "e")),
        lambda b: (
            of_record(b, utterances=tuple(u for u in b.record.utterances if u.kind != "reply"))
            if any(u.kind == "query" for u in b.record.utterances)
            else None
        ),
    ],
    "resumption": [utterance("resumption", text=lambda u: u.text + " more")],
    "audio": [lambda b: replace(b, sound=b.sound[:-1280])],
    "sound-outside": [lambda b: replace(b, sound=b.sound[:, ::-1]), lambda b: sound(b, lambda x: x[:1600].fill(900))],
    "after-stop": [lambda b: heard(b, _late_noise, cut=True)],
    "onset": [lambda b: sound(b, lambda x: x.__setitem__(slice(None), np.roll(x, 2560, axis=0)))],
    "offset": [
        lambda b: sound(b, lambda x: x.__setitem__(slice(None), np.roll(x, -2560, axis=0))),
        lambda b: heard(b, _lose_end, cut=False),
    ],
    "level": [lambda b: heard(b, _quieter, cut=False), lambda b: sound(b, lambda x: x.__imul__(2))],
    "clipping": [lambda b: sound(b, lambda x: x.__setitem__((b.record.utterances[0].start + 900, 1), 32767))],
    "click": [lambda b: heard(b, _hard_stop, cut=True)],
    "codes-clock": [lambda b: replace(b, codes=replace(b.codes, frame_rate=25.0))],
    "codes-shape": [
        lambda b: replace(b, codes=replace(b.codes, user=b.codes.user[:-1])),
        lambda b: array(b, "codes", "user", 3, 1024),
    ],
    "codes-audio": [lambda b: array(b, "codes", "user", 3), lambda b: array(b, "codes", "assistant", -1)],
    "negative": [
        negative(kind=lambda n: "other"),
        negative(utterance=lambda n: 0),
        negative(utterance=lambda n: 99),
        negative(positive=lambda n: n.positive + 2),
        negative(negative=lambda n: n.negative + 5 * SAMPLE_RATE),
        negative(start=lambda n: n.start + 2),
        negative(end=lambda n: n.end - 2),
        lambda b: replace(b, codes=replace(b.codes, negatives=())),
    ],
    "negative-tokens": [_louder, _silent_negative, negative(assistant=lambda n: np.zeros_like(n.assistant))],
    "sft-shape": [
        sft(lambda b, r: replace(r, n_speech=8)),
        sft(lambda b, r: replace(r, n_blocks=r.n_blocks - 1)),
        sft(lambda b, r: replace(r, labels=r.labels[:-1])),
    ],
    "sft-user": [sft(token(0))],
    "sft-text": [
        sft(lambda b, r: text_slot(b, r, b.settings.ids.epad, b.settings.ids.pad)),
        sft(_other_word),
    ],
    "sft-assistant": [sft(token(15))],
    "sft-labels": [
        lambda b: array(b, "sft", "labels", 3, 5),
        lambda b: array(b, "sft", "labels", 12, checks.IGNORED),
        lambda b: array(b, "sft", "labels", 20),
    ],
    "sft-states": [sft(lambda b, r: text_slot(b, r, b.settings.ids.epad, b.settings.ids.pad))],
    "sft-decoded": [sft(_other_word)],
    "sft-start": [sft(_early_decision)],
    "causality": [sft(_early_decision)],
    "dpo-shape": [rejected(lambda b, r: replace(r, input_ids=r.input_ids[:-1]))],
    "dpo-labels": [rejected(lambda b, r: replace(r, labels=r.labels + 1))],
    "dpo-chosen": [
        lambda b: replace(b, pair=replace(b.pair, chosen=b.pair.rejected, rejected=b.pair.chosen)),
        lambda b: replace(b, pair=replace(b.pair, chosen=token(17)(b, b.pair.chosen))),
    ],
    "dpo-user": [rejected(token(4))],
    "dpo-text": [rejected(_other_word), rejected(lambda b, r: text_slot(b, r, b.settings.ids.epad))],
    "dpo-assistant": [rejected(token(19))],
    "dpo-record": [lambda b: replace(b, pair=replace(b.pair, negative=b.pair.negative + 1))],
    "dpo-timing": [
        lambda b: replace(b, pair=replace(b.pair, negative=b.pair.negative + SAMPLE_RATE // 2)),
        lambda b: replace(b, pair=replace(b.pair, rejected=b.pair.chosen)),
    ],
    "tdm-turns": [message(lambda m: m[1:]), message(lambda m: m[:-1]), message(lambda m: [m[0], *m])],
    "tdm-words": [
        content(lambda r, c: r == "user" and c != "<idle>", lambda c: c + " so"),
        content(lambda r, c: r == "assistant" and c != "<idle>", lambda c: c[1:]),
        message(lambda m: m[2:]),
    ],
    "tdm-eos": [
        content(lambda r, c: c.endswith("<eos>"), lambda c: c.removesuffix("<eos>")),
        content(lambda r, c: r == "assistant" and c != "<idle>" and "<eos>" not in c, lambda c: c + "<eos>"),
    ],
    "tdm-slices": [message(_merge_slices)],
    "tdm-idle": [message(_early_answer)],
    "duo-shape": [lambda b: replace(b, duo=replace(b.duo, labels=b.duo.labels[:-1]))],
    "duo-text": [lambda b: replace(b, duo=replace(b.duo, text=b.duo.text + "x"))],
    "duo-words": [lambda b: array(b, "duo", "input_ids", 0)],
    "duo-state": [
        lambda b: array(
            b, "duo", "input_ids", lambda x: int(np.flatnonzero(x == b.settings.ids.query)[0]), b.settings.ids.non_query
        ),
    ],
    "duo-labels": [
        lambda b: array(b, "duo", "labels", 0, int(b.duo.input_ids[0])),
        lambda b: array(b, "duo", "labels", lambda x: int(np.flatnonzero(x != checks.IGNORED)[0]), checks.IGNORED),
    ],
    "duo-channel": [lambda b: array(b, "duo", "channel", 0)],
    "augmentation": [
        lambda b: replace(b, record=replace(b.record, augmentation=Augmentation(-3.0).as_row(0.0))),
        lambda b: replace(b, settings=replace(b.settings, augment=AugmentConfig(gain=GainConfig(share=1.0)))),
    ],
    "duo-position": [lambda b: array(b, "duo", "position", -1)],
}


@pytest.mark.parametrize(
    ("rule", "damage"),
    [pytest.param(rule, d, id=f"{rule}-{k}") for rule, damages in DAMAGES.items() for k, d in enumerate(damages)],
)
def test_damage_is_found_by_its_rule(bundles: list[Bundle], rule: str, damage: Damage) -> None:
    broken = next(x for b in bundles if (x := damage(b)) is not None)
    assert rule in {f.rule for f in broken.findings()}


def test_rules_are_named() -> None:
    assert set(DAMAGES) <= set(RULES)


@pytest.mark.parametrize("change", ["hours", "kinds", "timing", "voices"])
def test_sums_that_are_not_those_of_the_rows_are_found(bundles: list[Bundle], small_dataset: Path, change: str) -> None:
    sums = checks.Sums()
    for b in bundles:
        sums.add(b.record, b.settings)
    stated = {
        "hours": round(sums.length / SAMPLE_RATE / 3600, 4),
        "speech_hours": round(sums.speech.total() / SAMPLE_RATE / 3600, 4),
        "anticipatory_share": 0.0,
        **{name: dict(c) for name, c in sums.counters.items()},
        "timing": {
            name: {"n": n, "mean_sec": total / n, "min_sec": least, "max_sec": most}
            for name, (n, total, least, most) in sums.spreads.items()
        },
        "voices": {"count": len(sums.speech), "seconds": {v: n / SAMPLE_RATE for v, n in sums.speech.items()}},
    }
    assert list(sums.check(stated)) == []
    stated[change] = {"hours": 1.0, "kinds": {"reply": 1}, "timing": {}, "voices": {}}[change]
    assert {f.rule for f in sums.check(stated)} == {"statistics"}
