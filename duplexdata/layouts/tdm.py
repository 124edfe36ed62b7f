"""Time-division multiplexing: messages alternate, each one time slice of about 2 s.

Source: arXiv 2406.15718v2, section on time slices (user: 4 to 6 words, assistant: 10 tokens).

    user       How do I bake   a crusty loaf   <idle>            No, wait,   <idle>
    assistant  <idle>          Start with a    strong flour and  <idle>      …<eos>

Slicing "clock" is ours: both channels cut at real times, by word times.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from duplexdata.conversation import Conversation, Spoken
from duplexdata.dialogue import Channel
from duplexdata.layouts.tokens import EOS, IDLE
from duplexdata.words import split_words, word_starts

Message = tuple[str, str]
"""(role, content)."""
TokenStarts = npt.NDArray[np.int32]
_Slice = tuple[str, int]
"""Text of one slice, and the sample at which its first word begins."""


def sliced_by_words(
    conversation: Conversation,
    token_starts: Sequence[TokenStarts | None],
    rng: np.random.Generator,
    *,
    user_words: tuple[int, int] = (4, 6),
    assistant_tokens: int = 10,
) -> list[Message]:
    """The paper's slicing: by counting.

    Args:
        token_starts: for each assistant utterance the character at which each token of its `text` begins.
        rng: draws the number of words of each user slice.

    Returns: user, assistant, user, assistant …; the contents of a channel, with <idle> and <eos> left out, are its
        utterances' words in their order. A reply that was cut is closed by no <eos>.
    """
    utterances = conversation.utterances
    ticks: list[tuple[str, str]] = []
    waiting: deque[_Slice] = deque()  # what the assistant has yet to say
    queued: set[int] = set()

    def queue(i: int) -> None:
        starts = token_starts[i]
        assert starts is not None
        if i not in queued:
            waiting.extend(_assistant_slices(utterances[i], starts, assistant_tokens))
            queued.add(i)

    def say(before: int | None = None) -> None:
        """The assistant goes on alone, up to the slice that begins at the sample `before`."""
        while waiting and (before is None or waiting[0][1] < before):
            ticks.append((IDLE, waiting.popleft()[0]))

    for i, u in enumerate(utterances):
        if u.channel is Channel.ASSISTANT:
            queue(i)
            continue
        slices = _user_slices(u.text, rng, user_words)
        if not u.addressed:
            say(before=u.start)
            ticks += [(text, waiting.popleft()[0] if waiting else IDLE) for text in slices]
            continue
        say()
        ticks += [(text, IDLE) for text in slices[:-1]]
        # The first slice of the answer goes with the last slice of the question.
        answer = next((k for k in range(i + 1, len(utterances)) if utterances[k].addressed), None)
        if answer is not None and utterances[answer].channel is Channel.ASSISTANT:
            queue(answer)
        ticks.append((slices[-1], waiting.popleft()[0] if waiting else IDLE))
    say()
    return _messages(ticks)


def sliced_by_clock(conversation: Conversation, slice_samples: int) -> list[Message]:
    """Real slices of `slice_samples`: a word is in the slice in which it begins, on either channel."""
    n = -(-conversation.n_samples // slice_samples)
    texts: dict[Channel, list[str]] = {channel: [""] * n for channel in Channel}
    for u in conversation.utterances:
        lane = texts[u.channel]
        last = -1
        for word, start in _timed_words(u):
            k = min(n - 1, start // slice_samples)
            if lane[k] and (last < 0 or (u.channel is Channel.USER and word[:1].isspace())):
                word = " " + word.lstrip()
            lane[k] += word
            last = k
        if u.channel is Channel.ASSISTANT and not u.cut and last >= 0:
            lane[last] += EOS
    user = [t.strip() or IDLE for t in texts[Channel.USER]]
    return _messages(list(zip(user, (t or IDLE for t in texts[Channel.ASSISTANT]), strict=True)))


def _timed_words(u: Spoken) -> Iterator[_Slice]:
    """Each word begun, with the space in front of it, and the sample at which it begins."""
    spans = split_words(u.text)
    known = len(u.word_starts)
    behind = 0
    for w, span in enumerate(spans):
        if u.cut and known and w >= known:
            return
        share = (u.end - u.start) * w // len(spans)
        start = int(u.word_starts[w]) if w < known else u.start + share
        yield u.text[behind : span.end], start
        behind = span.end


def _messages(ticks: Sequence[tuple[str, str]]) -> list[Message]:
    return [message for user, assistant in ticks for message in (("user", user), ("assistant", assistant))]


def _user_slices(text: str, rng: np.random.Generator, bounds: tuple[int, int]) -> list[str]:
    spans = split_words(text)
    slices, at = [], 0
    for words in rng.integers(bounds[0], bounds[1] + 1, size=-(-len(spans) // bounds[0])).tolist():
        if at == len(spans):
            break
        upto = min(len(spans), at + words)
        slices.append(text[spans[at].start : spans[upto - 1].end])
        at = upto
    return slices


def _assistant_slices(u: Spoken, token_starts: TokenStarts, tokens: int) -> list[_Slice]:
    """Pieces of what was said, `tokens` text tokens each; together they are it, spaces included."""
    said = u.spoken_text
    cuts = [0, *(c for c in token_starts[tokens::tokens].tolist() if 0 < c < len(said)), len(said)]
    # Tokens may lie inside one character (its bytes): equal starts would make empty slices.
    cuts = sorted(set(cuts))
    if not said:
        return []
    begins = word_starts(said)
    times = u.word_starts.tolist()
    slices = []
    for a, b in pairwise(cuts):
        if times:
            # the word that the slice starts in or before
            word = bisect_right(begins, a + 1) - 1
            at = times[max(0, min(word, len(times) - 1))]
        else:
            at = u.start + (u.end - u.start) * a // len(said)
        slices.append((said[a:b], at))
    if not u.cut:
        slices[-1] = (slices[-1][0] + EOS, slices[-1][1])
    return slices
