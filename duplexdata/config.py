"""The configuration: typed, every default with its source. Reading YAML and presets is `config_file.py`'s.

Sources: [B] BayLing-Duplex, arXiv 2606.14528; [U] Duplex-UltraChat, arXiv 2406.15718v2; [D] DUO, arXiv 2409.11727;
[ours] where they leave a choice open.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field

from duplexdata.dialogue import Scenario
from duplexdata.errors import ConfigError

Range = tuple[float, float]
"""Bounds of a uniform law."""


@dataclass(frozen=True, slots=True)
class SourceConfig:
    """One corpus: a local file or folder, a hub id, or "bundled"."""

    path: str = "bundled"
    name: str | None = None
    split: str = "train"
    language: str | None = None
    """BCP 47; None: as the rows say, else English unless most letters are Chinese."""
    licence: str | None = None
    limit: int | None = None
    """Dialogues read at most; None: as many as the run can use."""


@dataclass(frozen=True, slots=True)
class TextConfig:
    """What a person would say in one go."""

    max_query_sec: float = 15.0  # [ours]
    max_reply_sec: float = 20.0  # [ours]
    max_exchanges: int = 4  # [ours]
    dialogues_per_conversation: float = 3.0
    """Dialogues read for each conversation wanted: resets and interweaving use up to five. [ours]"""


@dataclass(frozen=True, slots=True)
class MixConfig:
    """Shares of the scenarios (need not add up to 1), and how often something is laid over a conversation.

    Half turn-taking, half interruption [B, section 3]; inside the second half Duplex-UltraChat's own counts
    [U, data statistics]: 1,468,141 terminations, 806,687 regenerations, 300,318 resets, 327,286 back on topic.
    """

    uninterrupted: float = 0.4  # [ours]: turn-taking's half, with
    topic_interweaving: float = 0.1  # [ours]
    generation_termination: float = 0.5 * 1_468_141 / 2_902_432
    regeneration: float = 0.5 * 806_687 / 2_902_432
    dialogue_reset: float = 0.5 * 300_318 / 2_902_432
    back_on_topic: float = 0.5 * 327_286 / 2_902_432

    distractor: float = 0.25  # share of conversations with a non-query in them [ours]
    distractor_in_silence: float = 0.3  # of those, heard while the assistant is silent [ours]
    backchannel: float = 0.15  # [ours]
    pause: float = 0.15  # conversations with a silence inside a query [ours]

    def shares(self) -> dict[Scenario, float]:
        weights = {s: float(getattr(self, s.value)) for s in Scenario}
        total = sum(weights.values())
        return {s: w / total for s, w in weights.items()}


@dataclass(frozen=True, slots=True)
class TimingConfig:
    """Laws of the timeline, in seconds."""

    lead_in_sec: Range = (0.2, 1.0)  # [ours]
    reply_gap_sec: float = 0.8  # [B, section 3]
    next_turn_gap_sec: Range = (0.5, 3.0)  # [B, section 3]
    reaction_delay_sec: Range = (0.8, 2.0)  # [B, section 3]
    late_gap_sec: Range = (2.0, 5.0)  # negatives: reply gap [B, section 2.3]
    late_delay_sec: Range = (3.0, 5.0)  # negatives: reaction delay [B, section 2.3]
    pause_sec: Range = (0.6, 1.6)  # a silence inside a query, longer than a reply gap at times [ours]
    quiet_after_sec: float = 2.0  # silence kept behind a distractor that nobody answers [ours]
    tail_sec: float = 1.6  # silence kept behind everything, so that blocks of up to 20 frames fit as well [ours]
    fade_sec: float = 0.01  # a cut reply fades out over this [ours]


@dataclass(frozen=True, slots=True)
class SpeechConfig:
    backend: str = "espeak"
    """"espeak"; "nominal": no sound, times from a nominal speaking rate (text-only layouts)."""
    level_dbfs: float = -26.0
    """Active speech level that every utterance is brought to (ITU-T P.56's usual level). [ours]"""
    timeout_sec: float = 30.0


@dataclass(frozen=True, slots=True)
class CodecConfig:
    name: str = "mel"
    checkpoint: str | None = None
    """Folder or hub id of the speech tokenizer's weights, for those that need one."""
    device: str = "auto"
    """"auto", "cpu", "cuda" (with several GPUs: all of them) or "cuda:N". No part of any fingerprint."""
    precision: str = "fp32"
    n_codebooks: int | None = None
    """Codebooks kept, coarse to fine, of a codec that has several; None: as many as is usual (mimi: 8)."""

    def __post_init__(self) -> None:
        kind, _, number = self.device.partition(":")
        if self.device not in ("auto", "cpu", "cuda") and not (kind == "cuda" and number.isdecimal()):
            raise ConfigError(f"codec.device is {self.device!r}, expected auto, cpu, cuda or cuda:N")
        _one_of("codec.precision", self.precision, ("fp32", "tf32", "fp16", "bf16"))
        if self.n_codebooks is not None:
            _at_least("codec.n_codebooks", self.n_codebooks, 1)


@dataclass(frozen=True, slots=True)
class LayoutConfig:
    emit: tuple[str, ...] = ("sft", "dpo", "tdm", "duo")
    n_speech: int = 10  # N [B, section 2.1]
    n_text: int = 5  # M [B, section 2.1]
    causality: str = "causal"
    """"causal": a reply is never decided before its query has been heard [ours]; "paper": the formula alone."""
    tdm_slicing: str = "words"
    """"words": 4 to 6 words and 10 tokens a slice [U]; "clock": real slices of `tdm_slice_sec` [ours]."""
    tdm_slice_sec: float = 2.0  # [U]
    tdm_user_words: tuple[int, int] = (4, 6)  # [U]
    tdm_assistant_tokens: int = 10  # [U]
    tokenizer: str = "embedded"
    """"embedded", or a folder or hub id that `AutoTokenizer` loads."""
    trust_remote_code: bool = False


WRITINGS = (
    "rewrite",
    "follow_up",
    "distractor",
    "termination",
    "regeneration",
    "reset",
    "back_on_topic",
    "interweaving",
)
"""What a language model can write in place of templates."""


@dataclass(frozen=True, slots=True)
class WriterConfig:
    """A language model behind an OpenAI-compatible endpoint, and how it is asked. All [ours].

    `deciding_part` says which of these decide on texts.
    """

    model: str | None = None
    """Name of the model, as the endpoint knows it; None: templates write everything."""
    write: tuple[str, ...] = WRITINGS
    on_failure: str = "template"
    """What becomes of a text that the model could not write: "template", or "drop" what needs it."""
    structured: str = "json_schema"
    """How the endpoint is asked for JSON: "json_schema"; "json_object"; "json_object_schema" (llama.cpp: the schema
    beside the type); "none". Replies are validated anyway."""
    temperature: float | None = None
    """None: as each prompt says."""
    omit: tuple[str, ...] = ()
    """Fields left out of requests, for models that refuse them: temperature, top_p, seed."""

    base_url: str | None = None
    """None: the openai client's (OPENAI_BASE_URL, else api.openai.com)."""
    api_key_env: str = "OPENAI_API_KEY"
    """Environment variable with the key. It may be unset where `base_url` needs none."""
    mode: str = "live"
    """"live", or "batch": through the Batch API, cheaper and later."""
    in_flight: int = 32
    """Requests at a time, in each process."""
    tokens_per_minute: int | None = None
    """Most tokens asked for in a minute by all processes of a run; None: as many as the endpoint takes."""
    timeout_sec: float = 120.0
    """Of one request, from sending it to the last byte of its reply."""
    max_retries: int = 3
    """The client's own retries of a request."""
    patience_sec: float = 600.0
    """An endpoint that answers nothing for so long stops the run; no single wait is longer."""
    max_usd: float | None = None
    max_tokens: int | None = None
    """Most that a run may spend, in all its processes and however often it is resumed; sent and received tokens."""
    usd_per_million_input: float | None = None
    usd_per_million_output: float | None = None
    """Prices of tokens; both or none. With batches: those of single requests, if the budget must hold to the cent,
    since repairs are single requests."""
    cache: str | None = None
    """File with all replies so far; None: duplexdata/replies.sqlite in the user's cache folder."""
    batch_requests: int = 5000
    """Requests in one batch."""
    batches: int = 4
    """Batches at a time, in each process."""
    batch_poll_sec: float = 30.0

    def __post_init__(self) -> None:
        _check_writer(self)

    def deciding_part(self) -> dict[str, object]:
        """The settings that decide on texts, for fingerprints: {} without a model.

        Addresses, keys, prices, budgets, concurrency, timeouts and the mode decide on none.
        """
        if self.model is None:
            return {}
        return {
            "model": self.model,
            "write": list(self.write),
            "on_failure": self.on_failure,
            "structured": self.structured,
            "temperature": self.temperature,
            "omit": list(self.omit),
        }

    def public_part(self) -> WriterConfig:
        """As it may be published: what decides on texts, and the prices that a manifest's costs follow from.

        Everything else is at its default, so that a dataset does not depend on who built it where.
        """
        if self.model is None:
            return WriterConfig()
        return WriterConfig(
            model=self.model,
            write=self.write,
            on_failure=self.on_failure,
            structured=self.structured,
            temperature=self.temperature,
            omit=self.omit,
            usd_per_million_input=self.usd_per_million_input,
            usd_per_million_output=self.usd_per_million_output,
        )


@dataclass(frozen=True, slots=True)
class ShardConfig:
    conversations: int | None = None
    """Most conversations in one file; None: a sixteenth of all, between 32 and 512 (about 350 MB of sound). [ours]"""
    test_fraction: float = 0.1
    row_group_rows: int = 1000
    row_group_bytes: int = 24_000_000
    """Sound is flushed earlier than by rows, so that a writer's memory stays small."""


@dataclass(frozen=True, slots=True)
class Config:
    """Everything that decides on a dataset's bytes. Workers, folders and verbosity are not in it."""

    seed: int = 0
    conversations: int = 100
    sources: tuple[SourceConfig, ...] = (SourceConfig(),)
    text: TextConfig = field(default_factory=TextConfig)
    mix: MixConfig = field(default_factory=MixConfig)
    timing: TimingConfig = field(default_factory=TimingConfig)
    speech: SpeechConfig = field(default_factory=SpeechConfig)
    codec: CodecConfig = field(default_factory=CodecConfig)
    layout: LayoutConfig = field(default_factory=LayoutConfig)
    shards: ShardConfig = field(default_factory=ShardConfig)
    writer: WriterConfig = field(default_factory=WriterConfig)

    def __post_init__(self) -> None:
        check(self)

    @property
    def has_sound(self) -> bool:
        return self.speech.backend != "nominal"


LAYOUTS = ("sft", "dpo", "tdm", "duo")
TEXT_LAYOUTS = ("tdm", "duo")


def check(config: Config) -> None:
    """Raises ConfigError for values that no run can work with, naming the key and the fix."""
    _at_least("conversations", config.conversations, 1)
    if config.shards.conversations is not None:
        _at_least("shards.conversations", config.shards.conversations, 1)
    _at_least("layout.n_speech", config.layout.n_speech, 1)
    _at_least("layout.n_text", config.layout.n_text, 1)
    _at_least("text.max_exchanges", config.text.max_exchanges, 1)
    if not config.sources:
        raise ConfigError("sources is empty: name a file, a folder, a hub id, or 'bundled'")
    if not 0 < config.shards.test_fraction < 1:
        raise ConfigError(f"shards.test_fraction is {config.shards.test_fraction}, expected between 0 and 1")
    for f in dataclasses.fields(config.timing):
        value = getattr(config.timing, f.name)
        low, high = value if isinstance(value, tuple) else (value, value)
        if not 0 <= low <= high:
            raise ConfigError(f"timing.{f.name} is {value}, expected 0 <= low <= high seconds")
    if config.timing.reaction_delay_sec[1] > config.timing.late_delay_sec[0]:
        raise ConfigError("timing.late_delay_sec must lie above timing.reaction_delay_sec: it is the worse answer")
    if config.timing.reply_gap_sec >= config.timing.late_gap_sec[0]:
        raise ConfigError("timing.late_gap_sec must lie above timing.reply_gap_sec: it is the worse answer")
    if not all(x > 0 for x in config.timing.reaction_delay_sec):
        raise ConfigError("timing.reaction_delay_sec must be above 0: a reply stops after the user has barged in")
    weights = [getattr(config.mix, s.value) for s in Scenario]
    if min(weights) < 0 or sum(weights) <= 0:
        raise ConfigError("mix: shares of scenarios must not be negative, and one at least must be above 0")
    for name in ("distractor", "distractor_in_silence", "backchannel", "pause"):
        if not 0 <= getattr(config.mix, name) <= 1:
            raise ConfigError(f"mix.{name} is {getattr(config.mix, name)}, expected a share between 0 and 1")
    low, high = config.layout.tdm_user_words
    if not 1 <= low <= high:
        raise ConfigError(f"layout.tdm_user_words is {[low, high]}, expected 1 <= fewest <= most words")
    _at_least("layout.tdm_assistant_tokens", config.layout.tdm_assistant_tokens, 1)
    _at_least("shards.row_group_rows", config.shards.row_group_rows, 1)
    _at_least("shards.row_group_bytes", config.shards.row_group_bytes, 1)
    for key, seconds in (
        ("layout.tdm_slice_sec", config.layout.tdm_slice_sec),
        ("text.max_query_sec", config.text.max_query_sec),
        ("text.max_reply_sec", config.text.max_reply_sec),
        ("text.dialogues_per_conversation", config.text.dialogues_per_conversation),
        ("speech.timeout_sec", config.speech.timeout_sec),
    ):
        if not seconds > 0:
            raise ConfigError(f"{key} is {seconds}, expected more than 0")
    _one_of("layout.causality", config.layout.causality, ("causal", "paper"))
    _one_of("layout.tdm_slicing", config.layout.tdm_slicing, ("words", "clock"))
    for name in config.layout.emit:
        _one_of("layout.emit", name, LAYOUTS)
    slots = 3 * config.layout.n_speech / config.layout.n_text + 2
    if config.timing.reply_gap_sec < slots / 12.5 and {"sft", "dpo"} & set(config.layout.emit):
        raise ConfigError(
            f"timing.reply_gap_sec is {config.timing.reply_gap_sec}: with blocks of {config.layout.n_speech}:"
            f"{config.layout.n_text} an utterance's [EPAD] and the next one's [ASSISTANT] need {slots / 12.5:.2f} s "
            "between them; take a larger gap, or leave sft and dpo out of layout.emit"
        )
    if not config.has_sound:
        needing = [name for name in config.layout.emit if name not in TEXT_LAYOUTS]
        if needing:
            raise ConfigError(
                f"speech.backend 'nominal' makes no sound, and the layouts {needing} need it: "
                f"set layout.emit to {list(TEXT_LAYOUTS)}"
            )


def _check_writer(writer: WriterConfig) -> None:
    _one_of("writer.on_failure", writer.on_failure, ("template", "drop"))
    _one_of("writer.structured", writer.structured, ("json_schema", "json_object", "json_object_schema", "none"))
    _one_of("writer.mode", writer.mode, ("live", "batch"))
    for name in writer.write:
        _one_of("writer.write", name, WRITINGS)
    for name in writer.omit:
        _one_of("writer.omit", name, ("temperature", "top_p", "seed"))
    if writer.model is not None and not writer.model.strip():
        raise ConfigError("writer.model is empty: name a model, or leave it out")
    if writer.base_url is not None:
        scheme, _, rest = writer.base_url.partition("://")
        host = rest.partition("/")[0]
        if scheme not in ("http", "https") or not host:
            raise ConfigError("writer.base_url is no address such as http://127.0.0.1:8000/v1")
        if "@" in host or "?" in rest or "#" in rest:  # and the value is not shown
            raise ConfigError("writer.base_url holds more than an address: keys come from writer.api_key_env only")
    if not writer.api_key_env.isidentifier():  # perhaps the key itself: not shown
        raise ConfigError("writer.api_key_env is no name of an environment variable; the key itself is not put here")
    _at_least("writer.in_flight", writer.in_flight, 1)
    _at_least("writer.max_retries", writer.max_retries, 0)
    _at_least("writer.batches", writer.batches, 1)
    if not 1 <= writer.batch_requests <= 50_000:
        raise ConfigError(f"writer.batch_requests is {writer.batch_requests}, expected between 1 and 50000")
    if writer.temperature is not None and not 0 <= writer.temperature <= 2:
        raise ConfigError(f"writer.temperature is {writer.temperature}, expected between 0 and 2")
    for name in ("timeout_sec", "patience_sec", "batch_poll_sec", "tokens_per_minute", "max_usd", "max_tokens"):
        value = getattr(writer, name)
        if value is not None and not value > 0:
            raise ConfigError(f"writer.{name} is {value}, expected more than 0")
    prices = writer.usd_per_million_input, writer.usd_per_million_output
    if not all(p is None or p >= 0 for p in prices):
        raise ConfigError("writer.usd_per_million_input and usd_per_million_output must not be negative")
    if (prices[0] is None) != (prices[1] is None) or (writer.max_usd is not None and prices[0] is None):
        raise ConfigError(
            "writer.usd_per_million_input and writer.usd_per_million_output belong together; writer.max_usd needs both"
        )


def as_dict(config: object) -> dict[str, object]:
    """Plain values, in the order of the fields, for YAML, JSON and fingerprints."""
    assert dataclasses.is_dataclass(config) and not isinstance(config, type)
    return dict(json.loads(json.dumps(dataclasses.asdict(config))))


def fingerprint(*parts: object) -> str:
    """16 hex digits that change whenever any of the parts (plain values or dataclasses) does."""
    plain = [as_dict(p) if dataclasses.is_dataclass(p) and not isinstance(p, type) else p for p in parts]
    text = json.dumps(plain, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _at_least(key: str, value: int, least: int) -> None:
    if value < least:
        raise ConfigError(f"{key} is {value}, expected at least {least}")


def _one_of(key: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigError(f"{key} is {value!r}, expected one of {', '.join(known)}")
