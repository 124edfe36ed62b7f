"""What is verified, and what is reported where it does not hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

Report = Callable[[str, int], None]
"""Called with what was looked at ("files", "conversations") and how many of it."""

RULES: Mapping[str, str] = {
    # the folder
    "manifest": "manifest.json is there, of the known format, and holds all that the other checks need",
    "files": "every file that the manifest lists exists, and no other lies in the dataset's folders",
    "shards": "the shards of a split are numbered without a gap, and every config has the same ones",
    "size": "files have the size that the manifest states",
    "checksum": "files have the SHA-256 that the manifest states",
    "rows": "files have as many rows as the manifest states",
    "readable": "files can be read to their end, page checksums included",
    "counts": "per stage, items in are items out and dropped; a stage's items are the rows of its files",
    "statistics": "hours, counters, timing and token sums in the manifest are those of the rows",
    "fingerprint": "fingerprints are there, and the manifest's is that of its configuration",
    "paths": "no absolute path stands in the manifest or the tokenizer",
    "card": "the configs and splits in README.md are those of the files",
    "schema": "columns, types and the features for `datasets` are those of the config",
    "vocabulary": "manifest, file metadata and tokenizer/ agree on the vocabulary and the codec's clock",
    # all rows
    "null": "no value is missing",
    "malformed": "values are what their column stands for",
    "id-unique": "an id stands once in a config, over all splits",
    "id-unknown": "an id of a layout is one of `conversations`, in the shard of the same name",
    "id-missing": "every conversation is in every config, but for those that sft and dpo drop and count",
    "row-order": "rows come in the order of `conversations`",
    "dropped": "what sft and dpo lack cannot be laid out",
    "provenance": "a record's source, package and prompt version are the manifest's; all have one configuration",
    "split-sources": "no source dialogue is in train and in test",
    "split-voices": "no user voice is in train and in test",
    "voices": "the manifest's table has just the voices that are heard, with their split, seconds and share",
    # conversations
    "times": "utterances lie inside the conversation and end after they start",
    "start-order": "utterances are in order of their start",
    "overlap": "utterances of one channel do not overlap",
    "blocks": "a conversation is a whole number of blocks long",
    "roles": "channel, kind, addressed and cut fit together; nothing is without text",
    "voice": "utterances are spoken by their channel's voice, distractors not by the assistant's",
    "spoken-text": "spoken_text is the beginning of text, up to the words begun",
    "words": "word times are of the text's words, in order, inside their utterance",
    "cut": "what is cut is what an interruption starts strictly inside of, and nothing else",
    "reaction-delay": "a barge-in's delay is within the configured bounds",
    "lead-in": "the first utterance starts within the configured bounds",
    "reply-gap": "the assistant starts the configured gap after both channels are silent, overlays or not",
    "next-turn-gap": "the user's next turn starts within the configured bounds",
    "overlay": "backchannels are heard during something that the assistant says",
    "scenario": "interruptions, resumptions, answers and sources are those of the scenario",
    "resumption": "a resumption ends with what was left of the reply",
    "augmentation": "what was done to the user's channel is of the configured kinds, with values inside their bounds",
    # the sound
    "audio": "the sound decodes: 16 kHz, two channels, as long as the record says",
    "sound-outside": "a channel is silent where none of its utterances is",
    "after-stop": "a channel is silent behind an interrupted reply's stop",
    "onset": "an utterance is heard from its start on, within 80 ms",
    "offset": "an utterance is heard until its end, within 80 ms",
    "level": "an utterance's active level is the configured one within 3 dB, unless its peak forbids it",
    "clipping": "no sample is at full scale, none of an augmented channel above 0.97 of it",
    "click": "a cut reply fades out before its stop",
    # codes
    "codes-clock": "codec, frame rate and codebook are the manifest's",
    "codes-shape": "as many tokens as frames, all below the codebook's size",
    "codes-audio": "the embedded codec gives these tokens for this sound",
    "negative": "a negative's gap or delay, utterance and times follow from the record and the configured bounds",
    "negative-tokens": "a negative differs where something moved, and sounds where its timeline says so",
    # sft
    "sft-shape": "B (2N + M) tokens, N and M as configured",
    "sft-user": "the user's tokens are those of codes",
    "sft-assistant": "the assistant's tokens are those of codes, one block ahead",
    "sft-text": "the text channel is the one that utterances and tokenizer give",
    "sft-labels": "labels are -100 on the user's tokens and the tokens elsewhere",
    "sft-states": "one [ASSISTANT] and one [EPAD] for each utterance of the assistant",
    "sft-decoded": "the text channel, decoded, is the utterance's text",
    "sft-start": "a reply's start is read back within two text slots",
    "causality": "no reply is decided in a block that has not heard its query's end",
    # dpo
    "dpo-shape": "B (2N + M) tokens in both, N and M as configured",
    "dpo-labels": "labels are -100 on the user's tokens and the tokens elsewhere, in both",
    "dpo-chosen": "the chosen row is the conversation's SFT row",
    "dpo-user": "the user's tokens are the same in both",
    "dpo-text": "each utterance has the same text tokens in both, at the times of the positive and of the negative",
    "dpo-assistant": "the rejected row's speech tokens are those of the negative in codes",
    "dpo-record": "kind, positive_sec and negative_sec are those of codes",
    "dpo-timing": "the gap or delay that the text channels show is the one recorded",
    # tdm
    "tdm-turns": "messages alternate user, assistant, from the user on",
    "tdm-words": "slices hold the words of the utterances, in order",
    "tdm-eos": "<eos> stands behind just the replies that were not cut",
    "tdm-slices": "slices have the configured size",
    "tdm-idle": "the assistant is idle until the user's last slice, and answers with it",
    # duo
    "duo-shape": "the lists have one length",
    "duo-text": "input_ids decode to text",
    "duo-words": "the tokens are those of the utterances, in order",
    "duo-state": "<1> behind what is addressed to the assistant, <2> behind what is not, <eos> behind whole replies",
    "duo-labels": "labels are on state tokens and on what the assistant says",
    "duo-channel": "0 is what comes in, 1 what the assistant says",
    "duo-position": "what comes in during an answer and the answer count from the answer's start",
}
"""What is verified: rule -> what must hold."""


@dataclass(frozen=True, slots=True)
class Violation:
    """Attributes:
    file: relative to the dataset.
    row: id or number of the row; None where it is about the file.
    """

    file: str
    row: str | int | None
    rule: str
    detail: str


def first_line(error: object) -> str:
    return (str(error).strip().splitlines() or [""])[0][:200]
