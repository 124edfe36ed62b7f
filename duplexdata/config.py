"""The configuration: typed, every default with its source. Reading YAML and presets is `config_file.py`'s.

Sources: [B] BayLing-Duplex, arXiv 2606.14528; [U] Duplex-UltraChat, arXiv 2406.15718v2; [D] DUO, arXiv 2409.11727;
[C] CosyVoice: what its code asserts and its issue tracker reports; [ours] where they leave a choice open.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from dataclasses import dataclass, field

from duplexdata.augment.config import AugmentConfig
from duplexdata.dialogue import Scenario
from duplexdata.errors import ConfigError

_TAG = re.compile(r"(?=.{2,35}$)[A-Za-z]{2,3}(-[A-Za-z0-9]{1,8})*")
"""A language's."""
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
    """"espeak"; "speech_http": servers that clone voices; "cosyvoice": the same, started by the build itself; "tone"
    and "tone_untimed": bursts of sound for tests, with and without word times; "nominal": no sound, times from a
    nominal speaking rate (text-only layouts)."""
    level_dbfs: float = -26.0
    """Active speech level that every utterance is brought to (ITU-T P.56's usual level). [ours]"""
    timeout_sec: float = 30.0
    """espeak: of one utterance. Servers have `answer_timeout_sec`."""

    model: str | None = None
    """speech_http: the model's name, for servers that do not report it or have several. cosyvoice: its folder."""
    piece_characters: int = 240
    """speech_http, cosyvoice: a longer text is spoken in pieces; an ideograph counts as four. About 60 of the model's
    text tokens, the shortest piece of CosyVoice's own splitter. [ours]"""
    sample_rate: int = 24_000
    """speech_http, cosyvoice: what servers answer at, Hz: CosyVoice 2 and 3. Anything else is refused."""

    servers: tuple[str, ...] = ()
    """speech_http: base addresses, such as http://127.0.0.1:8000. No part of any fingerprint, nor is what follows."""
    api_key_env: str | None = None
    """speech_http: the environment variable that holds the servers' key."""
    register_voices: bool = True
    """Send each voice to a server once, where it takes voices; else its recording goes with every request."""
    in_flight: int = 16
    """Requests at a time, of one worker process to all servers. GPUs are busy from 8 to 16 on. [ours]"""
    answer_timeout_sec: float = 120.0
    """Of one request to a server, its wait in the server's queue included. [ours]"""
    request_attempts: int = 4
    """Requests made for one utterance that keep failing. [ours]"""
    patience_sec: float = 120.0
    """How long all servers may be gone, or one utterance be put off by a busy one. [ours]"""

    checkout: str | None = None
    """cosyvoice: a folder with the official code."""
    python: str | None = None
    """cosyvoice: the interpreter (or folder) of the environment that the official code runs in."""
    devices: tuple[str, ...] = ()
    """cosyvoice: "cpu", "cuda:0", …; none: all GPUs of the machine, the CPU where there is none."""
    processes_per_device: int = 1
    """cosyvoice: each speaks one utterance at a time. [ours]"""


@dataclass(frozen=True, slots=True)
class PromptLimits:
    """What a recording must be like to be cloned from. Bounds are inclusive; starting values, not laws of nature."""

    seconds: Range = (3.0, 10.0)
    """Of the whole file. Longer prompts leave a word or two of the text unsaid. [C, issue 764]"""
    level_dbfs: Range = (-38.0, -12.0)
    """RMS of what is speech in it; clones keep their prompt's level. [C, issue 400]"""
    clipped_share: float = 0.0005
    """Most samples at the recording's own ceiling, as a share of all. [C]"""
    edge_silence_sec: Range = (0.02, 0.5)
    """At either end. Less: a word may be cut; more: the clone pauses so as well. [C, issue 1756]"""
    ms_per_character: Range = (40.0, 140.0)
    """Speech for each letter or space of the transcript: outside, it is not what is said. [C, issue 1597]"""
    least_sample_rate: int = 16_000
    """Hz. [C: asserted]"""
    least_bandwidth_hz: float = 5_000.0
    """Below this, telephone speech was stretched over a higher rate. [ours]"""
    least_snr_db: float = 20.0
    """Noise is cloned too; LibriTTS left out at 20 dB what is noisy (arXiv 1904.02882). [ours]"""

    def __post_init__(self) -> None:
        for name in ("seconds", "level_dbfs", "edge_silence_sec", "ms_per_character"):
            low, high = getattr(self, name)
            if not low <= high:
                raise ConfigError(f"voices.limits.{name} is {[low, high]}, expected least <= most")


@dataclass(frozen=True, slots=True)
class VoicesConfig:
    """Who speaks."""

    bank: str = "embedded"
    """"embedded": espeak-ng's speakers; a folder with voices.jsonl; or a hub dataset with its columns."""
    name: str | None = None
    """Of the hub dataset's configuration."""
    assistant: str | None = None
    """Id of the voice that speaks every reply, and is no user's; None: the one whose `split` is "assistant"."""
    test_fraction: float = 0.2
    """Share of the speakers that only the test split hears, of those whose entry names no split. [ours]"""
    allow_unlicensed: bool = False
    """Whether recordings without a licence or the speaker's consent are used."""
    licences: tuple[str, ...] = ()
    """Licences of recordings that are used; empty: any."""
    evenly_over: tuple[str, ...] = ("sex", "accent")
    """Users are drawn evenly over these, each inside the one before it, then over speakers. [ours]"""
    cross_lingual: bool = False
    """Whether a language that the bank has no voices of is spoken by those of others; else it is left out."""
    check: bool = True
    """Whether recordings are judged by `limits` before they are used."""
    limits: PromptLimits = field(default_factory=PromptLimits)

    def __post_init__(self) -> None:
        if not self.bank.strip():
            raise ConfigError("voices.bank is empty: name a folder, a hub id, or 'embedded'")
        if not 0 < self.test_fraction < 1:
            raise ConfigError(f"voices.test_fraction is {self.test_fraction}, expected between 0 and 1")
        for name in self.evenly_over:
            _one_of("voices.evenly_over", name, ("sex", "accent"))


@dataclass(frozen=True, slots=True)
class QualityConfig:
    """What a synthesized utterance must be like, and what happens to one that is not.

    Sources: [C] what users of CosyVoice report, and the bound that catches it; [E] what espeak-ng's voices reach on
    real text, which must pass; [ours].
    """

    check: bool = True
    attempts: int = 4
    """Takes of an utterance, each with another seed, where the backend takes seeds. [C]"""
    on_failure: str = "drop"
    """"drop": the conversation is left out; "another_voice": its user is cast again. The assistant has one voice."""
    recasts: int = 2
    """Voices tried after the first one. [ours]"""

    clipped_from: float = 0.985  # of full scale; CosyVoice limits itself at 0.99 [C]
    clipped_share: float = 0.0005  # [C]; an engine may allow itself more (espeak-ng's loudest variant) [E]
    level_dbfs: Range = (-38.0, -10.0)  # of the frames that are speech; [C] has -12, espeak-ng reaches -12.2 [E]
    sec_per_letter: Range = (0.035, 0.14)  # letters and spaces; [C] has 0.04, espeak-ng's fastest voice 0.038 [E]
    short_letters: int = 15  # below this the two bounds that follow hold: seconds, and seconds a letter [C]
    short_least_sec: tuple[float, float] = (0.05, 0.025)  # [C] has 0.15 and 0.03, "uh-huh" takes 0.21 s [E]
    short_most_sec: tuple[float, float] = (0.8, 0.16)  # [C]
    sec_per_mark: float = 0.25  # added to the upper bound for punctuation inside the text [E]
    other_languages_slack: float = 1.5  # other alphabets than English's: bounds are this factor wider [E]
    runaway_sec_per_token: float = 0.784  # 0.98 of the 0.8 s at which CosyVoice gives up on a text token [C]
    lead_sec: float = 1.5  # silence before and behind is trimmed; more than this means that words are missing [C]
    tail_sec: float = 1.5  # [C]
    pause_sec: float = 0.8  # [C]
    pause_in_clause_sec: float = 0.35  # away from punctuation, where word times are known [C]
    click_ratio: float = 0.5  # a lone step in the last 50 ms, by the largest of the rest; espeak-ng reaches 0.42 [E]
    repeat_sec: float = 0.6  # [C]
    repeat_likeness: float = 0.92  # mean cosine of log-mel frames [ours]; espeak-ng reaches 0.91 [E]
    leak_sec: float = 0.5  # [ours]
    leak_likeness: float = 0.83  # [ours]; other texts of one espeak-ng voice reach 0.78 [E]

    asr: str | None = None
    """A folder or hub id of a speech recogniser that `transformers` loads: what was said is compared with the text."""
    asr_device: str = "auto"
    """"auto", "cpu", "cuda" or "cuda:N". No part of any fingerprint."""
    word_error: float = 0.1  # [C]
    short_words: int = 6  # below this one edit is allowed instead [C]
    prompt_words: int = 4  # what was said must not begin with so many or fewer of a prompt's last words [C]

    def __post_init__(self) -> None:
        _at_least("quality.attempts", self.attempts, 1)
        _at_least("quality.recasts", self.recasts, 0)
        _at_least("quality.short_words", self.short_words, 0)
        _at_least("quality.prompt_words", self.prompt_words, 0)
        _one_of("quality.on_failure", self.on_failure, ("drop", "another_voice"))
        _device("quality.asr_device", self.asr_device)
        for name in ("level_dbfs", "sec_per_letter"):
            low, high = getattr(self, name)
            if not low < high:
                raise ConfigError(f"quality.{name} is {[low, high]}, expected the lower bound first")
        for name in ("repeat_sec", "leak_sec"):
            if not 0.2 <= getattr(self, name) <= 10:
                raise ConfigError(f"quality.{name} is {getattr(self, name)}, expected 0.2 to 10 seconds")
        if self.other_languages_slack < 1:
            raise ConfigError(f"quality.other_languages_slack is {self.other_languages_slack}, expected 1 or more")


@dataclass(frozen=True, slots=True)
class CacheConfig:
    """Where synthesized audio is kept between runs. No part of any fingerprint: bytes are the same without it."""

    folder: str = "auto"
    """"auto": the user's cache folder where a backend is slower than a disk, none for espeak-ng; "off"; or a path."""
    max_bytes: int = 20_000_000_000
    """Least recently used audio goes first; 20 GB are about 200 hours of speech."""

    def __post_init__(self) -> None:
        _at_least("cache.max_bytes", self.max_bytes, 1_000_000)


@dataclass(frozen=True, slots=True)
class AlignConfig:
    """Where the word times of voices that give none come from."""

    method: str = "auto"
    """"espeak": warped onto what espeak-ng makes of the text; "ctc": forced alignment by `model`; "characters", "none";
    "auto": ctc if a model is named, else espeak if its extra is installed, else characters."""
    model: str | None = None
    """A folder or hub id of a CTC model that `transformers` loads."""
    device: str = "auto"
    """"auto", "cpu", "cuda" or "cuda:N". No part of any fingerprint."""

    def __post_init__(self) -> None:
        _one_of("align.method", self.method, ("auto", "espeak", "ctc", "characters", "none"))
        if self.method == "ctc" and self.model is None:
            raise ConfigError("align.method 'ctc' needs align.model: a folder or hub id of a CTC model")
        kind, _, number = self.device.partition(":")
        if self.device not in ("auto", "cpu", "cuda") and not (kind == "cuda" and number.isdecimal()):
            raise ConfigError(f"align.device is {self.device!r}, expected auto, cpu, cuda or cuda:N")


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
        _device("codec.device", self.device)
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
class EngineConfig:
    """Where a flow's stages run. Decides on no byte, and stands in no manifest; `duplexdata build` runs locally."""

    kind: str = "local"
    """"local": processes of one machine; "dask", "ray": a cluster; "pool": Prefect workers of one work pool."""
    address: str | None = None
    """Of the cluster ("tcp://scheduler:8786", "ray://head:10001"), or the deployment of the parts ("build-part/part").
    None: a cluster on this machine, for as long as the run takes; the deployment of that name."""
    parts: int = 2
    """Runs that a pool's shards are split into: at least one for each Prefect worker."""
    gpu_resource: str | None = None
    """What Dask workers with a GPU were started with (`--resources GPU=1` is "GPU"); None: any worker tokenizes."""


ENGINES = ("local", "dask", "ray", "pool")


@dataclass(frozen=True, slots=True)
class Config:
    """Everything that decides on a dataset's bytes. Workers, folders and verbosity are not in it."""

    seed: int = 0
    conversations: int = 100
    sources: tuple[SourceConfig, ...] = (SourceConfig(),)
    text: TextConfig = field(default_factory=TextConfig)
    mix: MixConfig = field(default_factory=MixConfig)
    timing: TimingConfig = field(default_factory=TimingConfig)
    voices: VoicesConfig = field(default_factory=VoicesConfig)
    speech: SpeechConfig = field(default_factory=SpeechConfig)
    quality: QualityConfig = field(default_factory=QualityConfig)
    cache: CacheConfig = field(default_factory=CacheConfig)
    align: AlignConfig = field(default_factory=AlignConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    codec: CodecConfig = field(default_factory=CodecConfig)
    layout: LayoutConfig = field(default_factory=LayoutConfig)
    shards: ShardConfig = field(default_factory=ShardConfig)
    writer: WriterConfig = field(default_factory=WriterConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)

    def __post_init__(self) -> None:
        check(self)

    @property
    def has_sound(self) -> bool:
        return self.speech.backend != "nominal"


LAYOUTS = ("sft", "dpo", "tdm", "duo")
TEXT_LAYOUTS = ("tdm", "duo")


MAX_SEC = 3600.0
"""Of a silence, an utterance, a slice. An hour is no turn of a conversation, and a channel of it is 230 MB."""
MAX_SHARDS = 99_999
"""Files of a split: their names have five digits."""
MAX_BLOCK = 10_000
"""Tokens of a block: 13 minutes."""


def check(config: Config) -> None:
    """Raises ConfigError for values that no run can work with, naming the key and the fix."""
    _at_least("conversations", config.conversations, 1)
    for n, source in enumerate(config.sources):
        if source.limit is not None:
            _at_least(f"sources[{n}].limit", source.limit, 1)
        if source.language is not None and not _TAG.fullmatch(source.language):
            raise ConfigError(f"sources[{n}].language is {source.language[:40]!r}, expected a BCP 47 tag such as en")
    if config.shards.conversations is not None:
        _at_least("shards.conversations", config.shards.conversations, 1)
    _at_least("layout.n_speech", config.layout.n_speech, 1)
    _at_least("layout.n_text", config.layout.n_text, 1)
    _at_least("text.max_exchanges", config.text.max_exchanges, 1)
    _at_least("speech.piece_characters", config.speech.piece_characters, 40)
    _at_least("speech.sample_rate", config.speech.sample_rate, 8_000)
    _at_least("speech.in_flight", config.speech.in_flight, 1)
    _at_least("speech.request_attempts", config.speech.request_attempts, 1)
    _at_least("speech.processes_per_device", config.speech.processes_per_device, 1)
    if not config.sources:
        raise ConfigError("sources is empty: name a file, a folder, a hub id, or 'bundled'")
    if not 0 < config.shards.test_fraction < 1:
        raise ConfigError(f"shards.test_fraction is {config.shards.test_fraction}, expected between 0 and 1")
    for f in dataclasses.fields(config.timing):
        value = getattr(config.timing, f.name)
        low, high = value if isinstance(value, tuple) else (value, value)
        if not 0 <= low <= high <= MAX_SEC:
            raise ConfigError(f"timing.{f.name} is {value}, expected 0 <= low <= high <= {MAX_SEC:g} seconds")
    if config.timing.reaction_delay_sec[1] > config.timing.late_delay_sec[0]:
        raise ConfigError("timing.late_delay_sec must lie above timing.reaction_delay_sec: it is the worse answer")
    if config.timing.reply_gap_sec >= config.timing.late_gap_sec[0]:
        raise ConfigError("timing.late_gap_sec must lie above timing.reply_gap_sec: it is the worse answer")
    if not all(x > 0 for x in config.timing.reaction_delay_sec):
        raise ConfigError("timing.reaction_delay_sec must be above 0: a reply stops after the user has barged in")
    weights = [getattr(config.mix, s.value) for s in Scenario]
    if not (min(weights) >= 0 and 0 < sum(weights) < float("inf")):
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
        ("speech.answer_timeout_sec", config.speech.answer_timeout_sec),
        ("speech.patience_sec", config.speech.patience_sec),
    ):
        if not seconds > 0:
            raise ConfigError(f"{key} is {seconds}, expected more than 0")
        if key.startswith(("layout.", "text.max")) and seconds > MAX_SEC:
            raise ConfigError(f"{key} is {seconds}, expected at most {MAX_SEC:g}")
    for key, tokens in (
        ("layout.n_speech", config.layout.n_speech),
        ("layout.n_text", config.layout.n_text),
        ("layout.tdm_assistant_tokens", config.layout.tdm_assistant_tokens),
    ):
        if tokens > MAX_BLOCK:
            raise ConfigError(f"{key} is {tokens}, expected at most {MAX_BLOCK}")
    files = config.conversations / (config.shards.conversations or 512)
    if files > MAX_SHARDS:
        raise ConfigError(
            f"conversations is {config.conversations}, which makes {files:.0f} files of a split, at most {MAX_SHARDS} "
            "can be named; raise shards.conversations"
        )
    _one_of("engine.kind", config.engine.kind, ENGINES)
    _at_least("engine.parts", config.engine.parts, 1)
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
        if config.augment.on:
            raise ConfigError("speech.backend 'nominal' makes no sound that augment could change: leave augment out")
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


def _device(key: str, value: str) -> None:
    kind, _, number = value.partition(":")
    if value not in ("auto", "cpu", "cuda") and not (kind == "cuda" and number.isdecimal()):
        raise ConfigError(f"{key} is {value!r}, expected auto, cpu, cuda or cuda:N")
