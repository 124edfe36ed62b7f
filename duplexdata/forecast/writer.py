"""What a language model's part of a build will take: calls, tokens, cost and hours. Pure: counts of a sample in.

Tokens are estimated, for no tokenizer is that of every model: a token for every four characters of alphabetic text,
and one for each ideograph.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from duplexdata.config import TextConfig, WriterConfig
from duplexdata.words import CHARACTERS_PER_SECOND, CJK
from duplexdata.writer.types import Task

CHARACTERS_PER_TOKEN = 4.0
TOKENS_PER_IDEOGRAPH = 1.0
REPAIRED = 0.05
"""Share of texts that take a second call. [ours]: a guess that a model's first thousand replies put right."""
TOKENS_PER_SECOND = 50.0
"""At which a reply is received. [ours]: what hosted models give about."""
FIRST_TOKEN_SEC = 0.5
BATCH_HOURS = 24.0
"""Within which the Batch API promises a batch."""
ROUNDS = (("rewrite",), ("follow_up",), ("termination", "regeneration", "reset", "back_on_topic", "interweaving"))
"""What a shard asks for at once, one after the other; distractors come last."""

_REPLY_TOKENS = {
    "follow_up": 130,
    "distractor": 40,
    "termination": 20,
    "regeneration": 85,
    "reset": 45,
    "back_on_topic": 70,
    "interweaving": 18,
}
"""Of a usual reply with its JSON; of a rewrite it depends on the dialogue."""
_JSON_TOKENS = 14
"""Around each turn of a rewrite."""
_TOKENS_PER_MESSAGE = 4
_IDEOGRAPH = re.compile(f"[{CJK}]")
_MATERIAL = re.compile(r"^\{.*\}$", re.MULTILINE)


def likely_tokens(text: str) -> float:
    ideographs = len(_IDEOGRAPH.findall(text)) if not text.isascii() else 0
    return (len(text) - ideographs) / CHARACTERS_PER_TOKEN + ideographs * TOKENS_PER_IDEOGRAPH


@dataclass(slots=True)
class Measured:
    """What the texts of one kind came to in a sample."""

    items: int = 0
    prompt_tokens: float = 0.0
    completion_tokens: float = 0.0

    def add(self, task: Task, config: WriterConfig, text: TextConfig) -> None:
        told = sum(likely_tokens(m.content) + _TOKENS_PER_MESSAGE for m in task.messages)
        if config.structured != "none":
            told += likely_tokens(json.dumps(task.prompt.schema))
        self.items += 1
        self.prompt_tokens += told
        self.completion_tokens += min(_reply_tokens(task, text), task.prompt.max_tokens)


def _reply_tokens(task: Task, text: TextConfig) -> float:
    if task.prompt.name in _REPLY_TOKENS:
        return _REPLY_TOKENS[task.prompt.name]
    found = _MATERIAL.search(task.messages[-1].content)
    assert found is not None
    most = {
        role: seconds * CHARACTERS_PER_SECOND / CHARACTERS_PER_TOKEN
        for role, seconds in (("user", text.max_query_sec), ("assistant", text.max_reply_sec))
    }
    return sum(min(likely_tokens(t["text"]), most[t["role"]]) + _JSON_TOKENS for t in json.loads(found[0])["turns"])


@dataclass(frozen=True, slots=True)
class KindForecast:
    """Attributes:
    texts: to be written.
    calls: with repairs.
    prompt_tokens, completion_tokens: of all calls.
    """

    kind: str
    texts: int
    calls: int
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class WriterForecast:
    """Attributes:
    conversations, sampled: of the build, and of those it was told from.
    usd: None without prices.
    hours: by requests in flight and by tokens per minute, the larger; in batch mode within what the Batch API
        promises.
    over_budget: settings that the run will be stopped by ("writer.max_usd").
    """

    model: str
    mode: str
    conversations: int
    sampled: int
    kinds: tuple[KindForecast, ...]
    usd: float | None
    hours: float
    seconds_per_call: float
    over_budget: tuple[str, ...] = field(default=())

    @property
    def total(self) -> KindForecast:
        sums = [sum(getattr(k, n) for k in self.kinds) for n in _SUMMED]
        return KindForecast("all", *sums)

    def as_dict(self) -> dict[str, object]:
        """Plain values, with the assumptions."""
        return {
            **asdict(self),
            "kinds": [asdict(k) for k in self.kinds],
            "total": asdict(self.total),
            "over_budget": list(self.over_budget),
            "assumed": {
                "characters_per_token": CHARACTERS_PER_TOKEN,
                "tokens_per_ideograph": TOKENS_PER_IDEOGRAPH,
                "repaired_share": REPAIRED,
                "replies_known_already": 0,
            },
        }


_SUMMED = ("texts", "calls", "prompt_tokens", "completion_tokens")


def forecast_writer(
    measured: Mapping[str, Measured],
    config: WriterConfig,
    *,
    conversations: int,
    sampled: int,
    workers: int,
    shards: int = 1,
    seconds_per_call: float | None = None,
) -> WriterForecast:
    """From a sample of a build's conversations to all of them.

    Args:
        sampled: conversations that were `measured`, at least 1.
        shards: of the build; each waits for its own batches.
        workers: processes, each with `writer.in_flight` requests on their way.
        seconds_per_call: None: from the length of replies, at a usual speed.
    """
    assert config.model is not None and sampled > 0
    scale = conversations / sampled
    kinds = tuple(_kind(kind, of, scale) for kind, of in sorted(measured.items()) if of.items)
    calls, sent, received = (sum(getattr(k, n) for k in kinds) for n in _SUMMED[1:])
    if seconds_per_call is None:
        seconds_per_call = FIRST_TOKEN_SEC + received / max(1, calls) / TOKENS_PER_SECOND
    usd = _usd(sent, received, config)
    return WriterForecast(
        model=config.model,
        mode=config.mode,
        conversations=conversations,
        sampled=sampled,
        kinds=kinds,
        usd=usd,
        hours=(
            _batch_hours(kinds, config, -(-shards // workers), shards)
            if config.mode == "batch"
            else _hours(calls, sent + received, config, workers, seconds_per_call)
        ),
        seconds_per_call=seconds_per_call,
        over_budget=tuple(
            name
            for name, needed, most in (
                ("writer.max_usd", usd, config.max_usd),
                ("writer.max_tokens", sent + received, config.max_tokens),
            )
            if needed is not None and most is not None and needed > most
        ),
    )


def _kind(kind: str, of: Measured, scale: float) -> KindForecast:
    """A repair sends the request again with the faulty reply and what is wrong with it."""
    texts = of.items * scale
    repairs = REPAIRED * texts
    sent = of.prompt_tokens * scale + REPAIRED * scale * (of.prompt_tokens + of.completion_tokens)
    received = of.completion_tokens * scale * (1 + REPAIRED)
    return KindForecast(kind, round(texts), math.ceil(texts + repairs), math.ceil(sent), math.ceil(received))


def _usd(sent: int, received: int, config: WriterConfig) -> float | None:
    if config.usd_per_million_input is None or config.usd_per_million_output is None:
        return None
    return (sent * config.usd_per_million_input + received * config.usd_per_million_output) / 1e6


def _hours(calls: int, tokens: int, config: WriterConfig, workers: int, seconds_per_call: float) -> float:
    hours = calls * seconds_per_call / (config.in_flight * workers) / 3600
    if config.tokens_per_minute is not None:
        hours = max(hours, tokens / config.tokens_per_minute / 60)
    return hours


def _batch_hours(kinds: tuple[KindForecast, ...], config: WriterConfig, turns: int, shards: int) -> float:
    """`turns` shards after each other, each in rounds that wait for each other. Repairs are asked for one by one."""
    texts = {k.kind: k.texts for k in kinds}
    rounds = [sum(texts.get(kind, 0) for kind in kinds) for kinds in (*ROUNDS, ("distractor",))]
    at_once = config.batch_requests * config.batches * shards
    waits = sum(math.ceil(n / at_once) for n in rounds if n)
    return BATCH_HOURS * turns * waits
