"""What is wrong with one synthesized utterance: from its samples, its text and, for a clone, its voice's prompt."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from duplexdata.config import QualityConfig
from duplexdata.quality import likeness
from duplexdata.words import CHARACTERS_PER_SECOND, CJK, SYLLABLES_PER_SECOND

Float32 = npt.NDArray[np.float32]
Spans = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Fault:
    """`reason`: the key it is counted under; `value`: what was measured; `limit`: what was allowed."""

    reason: str
    value: float
    limit: float

    def __str__(self) -> str:
        return f"{self.reason} ({self.value:.4g}, allowed {self.limit:.4g})"


@dataclass(frozen=True, slots=True)
class Words:
    """When words sound.

    Attributes:
        texts: with their punctuation.
        starts: in samples, shape (n_words,).
        estimated: whether the times may be off by a word.
    """

    texts: tuple[str, ...]
    starts: Spans
    estimated: bool = False


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a voice is cloned from: `likeness.features` of the recording, and its transcript."""

    features: Float32
    transcript: str


@dataclass(frozen=True, slots=True)
class Utterance:
    """What is judged.

    Attributes:
        samples: mono, in [-1, 1], shape (n_samples,).
        rate: Hz, as the engine says.
        expected_rate: what it should be; None where that is not known.
    """

    samples: Float32
    rate: int
    text: str
    language: str = "en"
    words: Words | None = None
    prompt: Prompt | None = None
    expected_rate: int | None = None


_RATES = (8_000, 96_000)
_FRAMES_PER_SECOND = 100
_SPEECH_DB = 40.0
"""A frame is speech if it is at most this far below the utterance's loudest (as in `vad`)."""
_END_SEC = 0.05
"""The end that is looked at for a click."""
_LEAST_STEP = 0.05
"""Of full scale: the largest step of speech is rarely smaller."""
_STEPS_OF_A_CLICK = 8
"""Steps of half its size at most; the end of a consonant has dozens."""
_SYLLABIC = re.compile(f"[{CJK}\uac00-\ud7a3]")
_MARK = re.compile(r"[^\w\s'’-]|[-–—]$")
_LEAST_PIECE_SEC = 0.2
"""A shorter piece of text that comes twice explains nothing."""
_FEWEST_SIGNS = 4
"""Letters or ideographs that come twice at least: two Chinese syllables often sound like two others."""
_SLOWEST = 1.3
"""The slowest usual pace, by the average one."""
_SLOW = 1.3
"""How much slower than the utterance's average a repeated piece may be."""
_EDGE_SEC = 0.3
"""Around a piece of text that comes twice: its neighbours sound much the same as well."""
_LEAK_BEGINS_SEC = 2.0
"""How much of an utterance's beginning, and of a prompt's beginning and end, is compared."""


def judge(utterance: Utterance, limits: QualityConfig) -> tuple[Fault, ...]:
    """Everything that is wrong with an utterance, the most telling first; empty if it is good.

    Never raises for samples of any kind. Thresholds and their sources: `QualityConfig`.
    """
    samples, rate = utterance.samples, utterance.rate
    if not len(samples):
        return (Fault("empty", 0.0, 1.0),)
    if not _RATES[0] <= rate <= _RATES[1] or (utterance.expected_rate or rate) != rate:
        return (Fault("wrong_rate", rate, utterance.expected_rate or _RATES[0]),)
    frame = rate // _FRAMES_PER_SECOND
    energy = _frame_energy(samples, frame)
    peak = max(float(samples.max()), -float(samples.min()))
    if not (np.isfinite(energy).all() and np.isfinite(peak)):
        return (Fault("not_finite", float(np.count_nonzero(~np.isfinite(samples))), 0.0),)
    loudest = float(energy.max(initial=0.0))
    if loudest <= 10 ** (limits.level_dbfs[0] / 10) / 100:
        # 20 dB below the least level in its loudest frame: there is nothing in it.
        return (Fault("silent", _db(loudest), limits.level_dbfs[0] - 20),)
    active = energy > loudest * 10 ** (-_SPEECH_DB / 10)
    first, last = int(active.argmax()), len(active) - int(active[::-1].argmax())
    found = [
        *_check_level(samples, peak, float(energy[active].mean()), limits),
        *_check_click(samples, rate, limits),
        *_check_likeness(utterance, (last - first) / _FRAMES_PER_SECOND, limits),
        *_check_duration(utterance, (last - first) / _FRAMES_PER_SECOND, limits),
        *_check_silence(utterance, active, first, last, frame, limits),
    ]
    return tuple(found)


def _frame_energy(samples: Float32, frame: int) -> Float32:
    """Mean square of each 10 ms; of all where it is shorter."""
    if len(samples) < frame:
        frame = len(samples)
    frames = samples[: len(samples) // frame * frame].reshape(-1, frame)
    with np.errstate(over="ignore", invalid="ignore"):
        return np.einsum("ij,ij->i", frames, frames) / np.float32(frame)


def _db(mean_square: float) -> float:
    return 10 * float(np.log10(max(mean_square, 1e-20)))


def _check_level(samples: Float32, peak: float, mean_square: float, limits: QualityConfig) -> Iterator[Fault]:
    if peak >= limits.clipped_from:
        share = float(np.count_nonzero(np.abs(samples) >= limits.clipped_from)) / len(samples)
        if share > limits.clipped_share:
            yield Fault("clipping", share, limits.clipped_share)
    low, high = limits.level_dbfs
    level = _db(mean_square)
    if level < low:
        yield Fault("too_quiet", level, low)
    if level > high:
        yield Fault("too_loud", level, high)


def _check_click(samples: Float32, rate: int, limits: QualityConfig) -> Iterator[Fault]:
    """A lone step in the last 50 ms, the fall to nothing behind it included. A consonant is made of many."""
    n = int(rate * _END_SEC)
    if len(samples) < 4 * n:
        return
    end = np.abs(np.diff(samples[-n - 1 :], append=np.float32(0)))
    largest = float(end.max())
    if np.count_nonzero(end >= largest / 2) > _STEPS_OF_A_CLICK:
        return
    rest = samples[:-n]
    ratio = largest / max(float(np.abs(rest[1:] - rest[:-1]).max()), _LEAST_STEP)
    if ratio > limits.click_ratio:
        yield Fault("click_at_end", ratio, limits.click_ratio)


# -- how long a text takes


def letters_of(text: str, language: str) -> tuple[float, float]:
    """How long a text is, in letters and spaces of an alphabet: at least, at most.

    An ideograph, kana or hangul counts as many letters as are said in its time; a digit may be a letter or a word.
    """
    bare = [c for c in " ".join(text.split()) if c.isalnum() or c == " "]
    syllables = len(_SYLLABIC.findall(text)) if not text.isascii() else 0
    digits = sum(map(str.isdigit, bare))
    rate = SYLLABLES_PER_SECOND.get(language.split("-")[0].lower(), SYLLABLES_PER_SECOND["zh"])
    length = len(bare) - syllables + syllables * CHARACTERS_PER_SECOND / rate
    return length, length + 5 * digits


def duration_bounds(text: str, language: str, limits: QualityConfig) -> tuple[float, float]:
    """Seconds of speech that a text takes at least and at most."""
    fewest, most = letters_of(text, language)
    (low, per_letter), (high, per_letter_more) = limits.short_least_sec, limits.short_most_sec
    least = low + per_letter * fewest if fewest < limits.short_letters else limits.sec_per_letter[0] * fewest
    longest = high + per_letter_more * most if most < limits.short_letters else limits.sec_per_letter[1] * most
    longest += limits.sec_per_mark * _inner_marks(text)
    slack = 1.0 if language.split("-")[0].lower() == "en" else limits.other_languages_slack
    return least / slack, longest * slack


def _inner_marks(text: str) -> int:
    """Marks of punctuation that a word follows."""
    behind = next((i for i in range(len(text), 0, -1) if text[i - 1].isalnum()), 0)
    return len(_MARK.findall(text[:behind]))


def _check_duration(utterance: Utterance, seconds: float, limits: QualityConfig) -> Iterator[Fault]:
    least, most = duration_bounds(utterance.text, utterance.language, limits)
    if seconds < least:
        yield Fault("too_short", seconds, least)
    # A decoder that never finds the end stops at so many seconds for each text token: a word or a mark at least.
    tokens = len(utterance.text.split()) + _inner_marks(utterance.text) + 1
    if seconds > max(most, limits.runaway_sec_per_token * tokens):
        yield Fault("runaway", seconds, max(most, limits.runaway_sec_per_token * tokens))
    elif seconds > most:
        yield Fault("too_long", seconds, most)


# -- silence


def _check_silence(
    utterance: Utterance, active: npt.NDArray[np.bool_], first: int, last: int, frame: int, limits: QualityConfig
) -> Iterator[Fault]:
    lead, tail = first / _FRAMES_PER_SECOND, (len(active) - last) / _FRAMES_PER_SECOND
    if lead > limits.lead_sec:
        yield Fault("leading_silence", lead, limits.lead_sec)
    if tail > limits.tail_sec:
        yield Fault("trailing_silence", tail, limits.tail_sec)
    edges = np.flatnonzero(np.diff(active[first:last].view(np.int8))) + first + 1
    pauses = edges.reshape(-1, 2)  # speech at both ends: edges come in pairs
    lengths = (pauses[:, 1] - pauses[:, 0]) / _FRAMES_PER_SECOND
    longest = float(lengths.max(initial=0.0))
    if longest > limits.pause_sec:
        yield Fault("inner_pause", longest, limits.pause_sec)
    elif longest > limits.pause_in_clause_sec and utterance.words is not None:
        inside = [
            float(seconds)
            for seconds, (a, b) in zip(lengths, pauses, strict=True)
            if seconds > limits.pause_in_clause_sec and not _at_mark((a + b) * frame // 2, utterance.words)
        ]
        if inside:
            yield Fault("pause_in_clause", max(inside), limits.pause_in_clause_sec)


def _at_mark(sample: int, words: Words) -> bool:
    """Whether there is punctuation where a pause is: behind the word before it, or before the word after it."""
    i = int(words.starts.searchsorted(sample, side="right"))
    slack = 1 if words.estimated else 0
    before = words.texts[max(0, i - 1 - slack) : i + slack]
    behind = words.texts[max(0, i - slack) : i + 1 + slack]
    return any(_MARK.search(w.lstrip("\"'“‘([")) for w in before) or any(not w[0].isalnum() for w in behind)


# -- what sounds like something else


def _check_likeness(utterance: Utterance, seconds: float, limits: QualityConfig) -> Iterator[Fault]:
    prompt, may_repeat = utterance.prompt, seconds >= 2 * limits.repeat_sec
    if prompt is None and not may_repeat:
        return
    own = likeness.features(utterance.samples, utterance.rate)
    if prompt is not None:
        yield from _check_leak(own, prompt, utterance.text, _pace(utterance, seconds), limits)
    if may_repeat and likeness.repeats(own, limits.repeat_sec, limits.repeat_likeness):
        # Something sounds alike: more than the text gives reason for?
        pace = _pace(utterance, seconds)
        window = max(_FEWEST_SIGNS * pace, _explained_sec(longest_repeat(utterance.text), pace))
        if found := likeness.repeats(own, max(window, limits.repeat_sec), limits.repeat_likeness):
            yield Fault("repeats", found, limits.repeat_likeness)


def _pace(utterance: Utterance, seconds: float) -> float:
    """Seconds a letter, space or ideograph. What was said too often does not make it slow."""
    usual = letters_of(utterance.text, utterance.language)[0] / CHARACTERS_PER_SECOND
    return min(seconds, _SLOWEST * usual) / max(1, len(letters_alone(utterance.text)))


def _check_leak(own: Float32, prompt: Prompt, text: str, pace: float, limits: QualityConfig) -> Iterator[Fault]:
    steps = 2 * likeness.frames_of(_LEAK_BEGINS_SEC)
    letters = round(2 * _LEAK_BEGINS_SEC * CHARACTERS_PER_SECOND)
    said, there = letters_alone(text)[:letters], letters_alone(prompt.transcript)
    window = max(limits.leak_sec, _explained_sec(longest_common(said, there), pace))
    ends = (prompt.features[:steps], prompt.features[-steps:])
    found = max(likeness.occurs(own[:steps], end, window) for end in ends)
    if found > limits.leak_likeness:
        yield Fault("leaks_prompt", found, limits.leak_likeness)


def _explained_sec(letters: int, pace: float) -> float:
    """Seconds that may sound alike because so many letters are the same."""
    seconds = letters * pace
    return seconds * _SLOW + _EDGE_SEC if seconds >= _LEAST_PIECE_SEC else 0.0


def letters_alone(text: str) -> str:
    """Lower-case letters and digits with single spaces."""
    return " ".join("".join(c if c.isalnum() else " " for c in text.lower().replace("'", "")).split())


def longest_repeat(text: str) -> int:
    """Letters and spaces of the longest piece of a text that comes twice (it may overlap itself)."""
    bare = letters_alone(text)
    return _longest(len(bare) - 1, lambda n: _has_repeat(bare, n))


def longest_common(a: str, b: str) -> int:
    """Characters of the longest piece that two texts share."""
    return _longest(min(len(a), len(b)), lambda n: not _pieces(a, n).isdisjoint(_pieces(b, n)))


def _longest(most: int, holds: Callable[[int], bool]) -> int:
    """The largest n up to `most` for which it holds; where it holds for n, it must hold for all below."""
    low, high = 0, max(0, most)
    while low < high:
        # Most texts repeat a few letters and no more.
        middle = min((low + high + 1) // 2, max(8, 2 * low))
        low, high = (middle, high) if holds(middle) else (low, middle - 1)
    return low


def _has_repeat(text: str, n: int) -> bool:
    return len(_pieces(text, n)) < len(text) - n + 1


def _pieces(text: str, n: int) -> set[str]:
    return {text[i : i + n] for i in range(len(text) - n + 1)}
