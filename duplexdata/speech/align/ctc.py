"""Word times by forced alignment: a CTC model's letters, in the order of the text, where they fit best.

Source: Kürzinger et al., "CTC-segmentation", arXiv 2007.09127, section 2, with the whole text known and in order.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soxr
import torch
from transformers import AutoFeatureExtractor, AutoModelForCTC, AutoTokenizer

from duplexdata.codecs.checkpoint import checkpoint_folder, pick_device
from duplexdata.errors import CodecError, ConfigError
from duplexdata.speech.align.base import AlignmentError, placed
from duplexdata.speech.align.features import HOP_SEC, frames, log_mel, loudness, silence_threshold, silences
from duplexdata.speech.base import Float32, Speech, SpeechRequest, WordTime
from duplexdata.words import split_words

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]

ANY = -1
"""A token for a character that the model does not know: it costs what the frame's likeliest letter does."""
_PAUSE = frames(0.12)


def letter_spans(log_probs: Float32, tokens: Sequence[int], blank: int) -> Int64:
    """When each token is said, by the likeliest path that says them all, in order.

    Args:
        log_probs: of each token in each frame, shape (n_frames, n_vocabulary).
        tokens: shape (n_tokens,), at least one, none the blank; `ANY` stands for any letter.

    Returns: first and behind-last frame of each token, shape (n_tokens, 2), every token at least one frame long.
    Raises: AlignmentError: there are fewer frames than the tokens need.
    """
    n_frames, n = len(log_probs), len(tokens)
    repeats = sum(a == b != ANY for a, b in pairwise(tokens))
    if n_frames < n + repeats:
        raise AlignmentError(f"{n_frames} frames are too few for {n} letters")
    ids = np.array(tokens, np.int64)
    # States: blank, token, blank, token, ..., blank.
    emitted = np.empty((n_frames, 2 * n + 1), np.float64)
    emitted[:, ::2] = log_probs[:, blank, None]
    letters = log_probs[:, np.maximum(ids, 0)].astype(np.float64)
    if (ids == ANY).any():
        likeliest = np.delete(log_probs, blank, axis=1).max(axis=1)
        letters[:, ids == ANY] = likeliest[:, None]
    emitted[:, 1::2] = letters
    # A blank between two letters may be left out unless they are the same.
    may_skip = np.zeros(2 * n + 1, bool)
    may_skip[3::2] = (ids[1:] != ids[:-1]) | (ids[1:] == ANY)
    score = np.full(2 * n + 1, -np.inf)
    score[:2] = emitted[0, :2]
    steps = np.zeros((n_frames, 2 * n + 1), np.uint8)
    padded = np.full(2 * n + 3, -np.inf)
    for t in range(1, n_frames):
        padded[2:] = score
        one, two = padded[1:-1], np.where(may_skip, padded[:-2], -np.inf)
        best = np.maximum(np.maximum(score, one), two)
        steps[t] = np.where(score >= best, 0, np.where(one >= best, 1, 2))
        score = best + emitted[t]
    state = 2 * n if score[-1] >= score[-2] else 2 * n - 1
    path = np.empty(n_frames, np.int64)
    for t in range(n_frames - 1, -1, -1):
        path[t] = state
        state -= int(steps[t, state])
    first = np.searchsorted(path, np.arange(1, 2 * n, 2), "left")
    behind = np.searchsorted(path, np.arange(1, 2 * n, 2), "right")
    return np.stack([first, behind], axis=1)


def spell_out(text: str, vocabulary: Mapping[str, int], delimiter: str | None) -> tuple[list[int], list[int]]:
    """The text's letters as tokens, and of each the word it belongs to (-1 for what stands between words).

    A letter is looked up as it is, then in the other case, then without its accent; marks that the model does not know
    are silent. A word of which no letter is known is one `ANY`.
    """
    tokens: list[int] = []
    owners: list[int] = []
    for number, span in enumerate(split_words(text)):
        if number and delimiter is not None and delimiter in vocabulary:
            tokens.append(vocabulary[delimiter])
            owners.append(-1)
        found = [t for ch in text[span.start : span.end] if (t := _token(ch, vocabulary)) is not None]
        if not found or all(t == ANY for t in found):
            found = [ANY]
        tokens += found
        owners += [number] * len(found)
    return tokens, owners


def _token(ch: str, vocabulary: Mapping[str, int]) -> int | None:
    plain = unicodedata.normalize("NFKD", ch)[:1]
    for form in (ch, ch.upper(), ch.lower(), plain, plain.upper(), plain.lower()):
        if form in vocabulary:
            return vocabulary[form]
    return ANY if ch.isalnum() else None


class CtcAligner:
    """Any model that `transformers` loads for CTC (wav2vec 2.0, HuBERT, WavLM, MMS) with letters as tokens."""

    def __init__(self, model: Any, extractor: Any, vocabulary: Mapping[str, int], blank: int, name: str) -> None:
        self._model, self._extractor, self._blank = model, extractor, blank
        self._vocabulary = {token: i for token, i in vocabulary.items() if i != blank}
        self._delimiter = next((d for d in ("|", " ") if d in self._vocabulary), None)
        self._rate = int(extractor.sampling_rate)
        self.name = f"ctc-{name}"

    @classmethod
    def load(cls, model: str, device: str = "auto") -> CtcAligner:
        """Raises: ConfigError: it cannot be had, is no CTC model, or has no letters."""
        try:
            place = pick_device(device)
            folder = str(checkpoint_folder(model, _FILES))
            loaded = AutoModelForCTC.from_pretrained(folder, use_safetensors=True).to(place).eval()
            tokenizer = AutoTokenizer.from_pretrained(folder)
            extractor = AutoFeatureExtractor.from_pretrained(folder)
        except (OSError, ValueError, KeyError, RuntimeError, CodecError) as error:
            raise ConfigError(f"align.model: {model} cannot be loaded as a CTC model: {error}") from error
        vocabulary = tokenizer.get_vocab()
        if sum(len(token) == 1 and token.isalpha() for token in vocabulary) < _LEAST_LETTERS:
            raise ConfigError(
                f"align.model: {model} has no letters as tokens, so it cannot be told when a word is said"
            )
        blank = loaded.config.pad_token_id
        return cls(loaded, extractor, vocabulary, int(0 if blank is None else blank), Path(model).name)

    def word_times(self, request: SpeechRequest, speech: Speech) -> tuple[WordTime, ...]:
        words = split_words(request.text)
        if not words:
            return ()
        log_probs = self._listen(speech)
        tokens, owners = spell_out(request.text, self._vocabulary, self._delimiter)
        if all(t == ANY for t, owner in zip(tokens, owners, strict=True) if owner >= 0):
            raise AlignmentError("the model knows no letter of the text")
        spans = letter_spans(log_probs, tokens, self._blank)
        frame_sec = len(speech.samples) / speech.sample_rate / len(log_probs)
        belongs = np.array(owners)
        starts = np.array([spans[belongs == w, 0].min() for w in range(len(words))]) * frame_sec
        ends = np.array([spans[belongs == w, 1].max() for w in range(len(words))]) * frame_sec
        _fill_gaps(starts, ends, speech)
        return placed(request.text, starts, ends, speech)

    def _listen(self, speech: Speech) -> Float32:
        samples = speech.samples
        if speech.sample_rate != self._rate:
            samples = soxr.resample(samples, speech.sample_rate, self._rate, quality="HQ")
        if len(samples) < self._rate // 20:
            raise AlignmentError("the recording is too short")
        inputs = self._extractor(samples, sampling_rate=self._rate, return_tensors="pt").to(self._model.device)
        with torch.inference_mode():
            logits = self._model(**inputs).logits[0]
        return np.asarray(torch.log_softmax(logits.float(), dim=-1).cpu().numpy(), np.float32)

    def describe(self) -> dict[str, str]:
        return {"name": self.name}

    def close(self) -> None:
        pass


_LEAST_LETTERS = 10
_FILES = ("*.json", "*.txt", "*.model", "model*.safetensors")
"""All that is fetched from a hub: no code, no pickles."""


def _fill_gaps(starts: Float64, ends: Float64, speech: Speech) -> None:
    """CTC marks letters by peaks: what lies between two words goes to them, in place, up to the pause or the valley."""
    level = loudness(log_mel(speech.samples, speech.sample_rate))
    pauses = silences(level, silence_threshold(level), _PAUSE)
    for w in range(len(starts) - 1):
        first, behind = int(ends[w] / HOP_SEC), int(np.ceil(starts[w + 1] / HOP_SEC))
        if behind - first < 2:
            continue
        inside = [(max(a, first), min(b, behind)) for a, b in pauses if a < behind and b > first]
        if inside:
            a, b = max(inside, key=lambda pause: pause[1] - pause[0])
        else:
            a = b = first + int(np.argmin(level[first:behind]))
        ends[w], starts[w + 1] = a * HOP_SEC, b * HOP_SEC
