"""Rows of `tdm`: time slices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from duplexdata.checks.finding import Finding, Record, Said, Settings, Text, name_of, samples_of, unspaced
from duplexdata.words import split_words

IDLE, EOS = "<idle>", "<eos>"


def check_tdm(
    record: Record, messages: Sequence[tuple[str, str]], tokens: Sequence[Text], settings: Settings
) -> Iterator[Finding]:
    """Args:
    messages: (role, content).
    """
    if len(messages) % 2 or any(r != ("assistant" if i % 2 else "user") for i, (r, _) in enumerate(messages)):
        yield Finding("tdm-turns", "messages do not alternate user, assistant")
        return
    user, assistant = [c for _, c in messages[::2]], [c for _, c in messages[1::2]]
    conserved = True
    for channel, slices in (("user", user), ("assistant", assistant)):
        found = unspaced("".join(c for c in slices if c != IDLE))
        spoken = [u for u in record.utterances if u.channel == channel]
        expected = "".join(unspaced(u.spoken_text) + _closing(u) for u in spoken)
        if found == expected:
            continue
        conserved = False
        if found.replace(EOS, "") == expected.replace(EOS, ""):
            yield Finding("tdm-eos", f"{EOS} does not stand behind just the replies that were not cut")
        else:
            yield Finding("tdm-words", f"the {channel}'s slices are not the words of its utterances")
    if not conserved:
        return
    if settings.layout.tdm_slicing == "clock":
        yield from _check_clock_slices(record, user, assistant, settings)
    else:
        yield from _check_counted_slices(record, user, assistant, tokens, settings)


def _closing(u: Said) -> str:
    return EOS if not u.is_user and not u.cut else ""


def _check_clock_slices(
    record: Record, user: Sequence[str], assistant: Sequence[str], settings: Settings
) -> Iterator[Finding]:
    """A word is in the slice in which it begins."""
    length = samples_of(settings.layout.tdm_slice_sec)
    n = -(-record.length // length)
    if len(user) != n:
        yield Finding("tdm-slices", f"{len(user)} slices of {settings.layout.tdm_slice_sec} s, expected {n}")
        return
    for channel, slices in (("user", user), ("assistant", assistant)):
        expected = [""] * n
        texts: list[list[str]] = [[] for _ in range(n)]
        for u in record.utterances:
            if u.channel != channel:
                continue
            if not u.words:
                return  # where nothing knows the words' times, any slice is as good
            for w in u.words:
                k = min(n - 1, w.start // length)
                expected[k] += unspaced(w.text)
                texts[k].append(w.text)
            expected[min(n - 1, u.words[-1].start // length)] += _closing(u)
        for k, (found, dense) in enumerate(zip(slices, expected, strict=True)):
            if unspaced(found.replace(IDLE, "")) != dense:
                yield Finding("tdm-slices", f"the {channel}'s slice {k} is {found!r}, its words are {dense!r}")
                return
            if not _keeps_spaces(found.replace(EOS, " "), texts[k]):
                yield Finding("tdm-words", f"the {channel}'s slice {k}, {found!r}, runs two words together")
                return


def _keeps_spaces(text: str, words: Sequence[str]) -> bool:
    """Whether the words that a space sets apart everywhere are apart in `text`."""
    alone = [w for w in words if w.isascii()]
    return [w for w in text.split() if w.isascii() and w != IDLE] == " ".join(alone).split() or not all(
        w.isascii() for w in words
    )


def _check_counted_slices(
    record: Record,
    user: Sequence[str],
    assistant: Sequence[str],
    tokens: Sequence[Text],
    settings: Settings,
) -> Iterator[Finding]:
    """Slices of so many words and tokens; the assistant waits until the user's last slice."""
    low, high = settings.layout.tdm_user_words
    at = [k for k, c in enumerate(user) if c != IDLE]
    slices = iter(at)
    ends: dict[int, list[int]] = {}  # by utterance: its ticks
    for i, u in enumerate(record.utterances):
        if not u.is_user:
            continue
        spans, done = split_words(u.text), 0
        ends[i] = []
        while done < len(spans):
            tick = next(slices, None)
            if tick is None:
                return
            upto = next(
                (
                    k
                    for k in range(done + 1, len(spans) + 1)
                    if u.text[spans[done].start : spans[k - 1].end] == user[tick]
                ),
                0,
            )
            if not upto or upto - done > high or (upto - done < low and upto < len(spans)):
                yield Finding("tdm-slices", f"{user[tick]!r} is no slice of {low} to {high} words of {name_of(i, u)}")
                return
            ends[i].append(tick)
            done = upto
    pieces = [(i, p) for i, u in enumerate(record.utterances) if not u.is_user for p in _pieces(u, tokens[i], settings)]
    said = [c for c in assistant if c != IDLE]
    if said != [p for _, p in pieces]:
        k = next(
            (k for k, (a, (_, b)) in enumerate(zip(said, pieces, strict=False)) if a != b),
            min(len(said), len(pieces)),
        )
        yield Finding(
            "tdm-slices",
            f"the assistant's slice {k} is no slice of {settings.layout.tdm_assistant_tokens} tokens",
        )
    turns = [i for i, u in enumerate(record.utterances) if u.addressed]
    for i, follows in zip(turns, [*turns[1:], None], strict=True):
        if i not in ends or not ends[i]:
            continue
        *early, last = ends[i]
        if any(assistant[k] != IDLE for k in early):
            yield Finding("tdm-idle", f"the assistant speaks while {name_of(i, record.utterances[i])} goes on")
        answered = (
            follows is not None and not record.utterances[follows].is_user and record.utterances[follows].spoken_text
        )
        if bool(answered) != (assistant[last] != IDLE):
            yield Finding(
                "tdm-idle",
                f"the last slice of {name_of(i, record.utterances[i])} goes with {assistant[last]!r}",
            )


def _pieces(u: Said, encoded: Text, settings: Settings) -> list[str]:
    """What was said, so many tokens at a time."""
    step, said = settings.layout.tdm_assistant_tokens, u.spoken_text
    starts = encoded.starts.tolist()
    edges = [min(starts[k], len(said)) for k in range(step, len(starts), step)]
    pieces = [said[a:b] for a, b in pairwise([0, *edges, len(said)]) if a < b]
    if pieces:
        pieces[-1] += _closing(u)
    return pieces
