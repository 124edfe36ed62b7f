"""Where a channel holds speech: from its tokens, or from its sound.

Sources: arXiv 2606.14528, section 4 (Silero VAD on the sound); the table of silent tokens is ours.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from duplexdata import vad as energy_vad
from duplexdata.codecs.base import SpeechTokenizer
from duplexdata.conversation import Conversation
from duplexdata.dialogue import Channel
from duplexdata.errors import ConfigError, DatasetError
from duplexdata.records import Codes, read_codes, read_conversations
from duplexdata.scoring.activity import Int64, runs
from duplexdata.units import SAMPLE_RATE

Float32 = npt.NDArray[np.float32]
Int32 = npt.NDArray[np.int32]
Bool = npt.NDArray[np.bool_]
Vad = Callable[[Float32], Int64]
"""Mono sound at 16 kHz to spans of speech, samples (start, end), shape (n, 2)."""

VADS = ("silero", "energy")
_MOST = 2000
"""Conversations that a table of silent tokens is learnt from: far more than it takes."""
VAD_RESOLUTION = SAMPLE_RATE // 10
"""Silero VAD decides on windows of 32 ms and pads by 30 ms."""


class Detector(Protocol):
    """
    Attributes:
        resolution: samples that an edge may lie from where it is found.
    """

    resolution: int

    def spans(self, tokens: Int32) -> Int64:
        """Speech in a stretch of a channel's tokens: samples (start, end) from its beginning, shape (n, 2)."""
        ...


class TokenDetector:
    """Speech is every token that is not in the table of silent ones."""

    def __init__(self, silent: Bool, frame_samples: int) -> None:
        self._silent, self.resolution = silent, frame_samples

    def spans(self, tokens: Int32) -> Int64:
        return runs(~self._silent[tokens], self.resolution)


class SoundDetector:
    """Tokens are made sound again, and a VAD says where it is speech.

    Raises: ConfigError: the codec cannot decode.
    """

    def __init__(self, codec: SpeechTokenizer, vad: Vad) -> None:
        if not codec.can_decode:
            raise ConfigError(f"the codec {codec.name} makes no sound of tokens: score from tokens")
        self._codec, self._vad, self.resolution = codec, vad, VAD_RESOLUTION

    def spans(self, tokens: Int32) -> Int64:
        if not len(tokens):
            return np.zeros((0, 2), np.int64)
        return self._vad(self._codec.decode(tokens))


def make_vad(name: str) -> Vad:
    """Raises ConfigError: unknown, or its package is not installed."""
    if name == "energy":
        return _energy
    if name == "silero":
        return _silero()
    raise ConfigError(f"the VAD is {name!r}, expected one of {', '.join(VADS)}")


def _energy(samples: Float32) -> Int64:
    """Frames of 10 ms that are neither 40 dB below the loudest one nor digital silence: for clean recordings."""
    energy = energy_vad.frame_energy(samples)
    active = energy_vad.speech_frames(energy) & (energy > 10 ** (energy_vad.FLOOR_DBFS / 10))
    return runs(active, energy_vad.FRAME)


@cache
def _silero() -> Vad:
    import torch

    threads = torch.get_num_threads()
    try:
        import silero_vad
    except ImportError as error:
        raise ConfigError("Silero VAD is not installed: pip install 'duplexdata[vad]', or --vad energy") from error
    finally:
        # Importing it sets this to 1, for the whole process.
        torch.set_num_threads(threads)
    model = silero_vad.load_silero_vad()

    def detect(samples: Float32) -> Int64:
        with torch.inference_mode():
            found: list[dict[str, Any]] = silero_vad.get_speech_timestamps(
                torch.from_numpy(np.ascontiguousarray(samples)), model, sampling_rate=SAMPLE_RATE
            )
        return np.array([(x["start"], x["end"]) for x in found], np.int64).reshape(-1, 2)

    return detect


@cache
def silent_tokens(dataset: Path, fingerprint: str, codebook_size: int) -> Bool:
    """Which speech tokens are silence, shape (codebook_size,), learnt from a dataset's training split.

    A token is silence if most of its occurrences lie where the record says that nobody speaks on that channel. Frames
    on an utterance's edge are left out. A token that never occurs is speech.

    Args:
        fingerprint: the manifest's; a dataset that has been built anew is read anew.

    Raises: DatasetError: no training split, or no token that is silence.
    """
    quiet, spoken = np.zeros(codebook_size, np.int64), np.zeros(codebook_size, np.int64)
    known: dict[str, Conversation] = {}
    for path in sorted((dataset / "conversations").glob("train-*.parquet")):
        for conversation in read_conversations(path):
            if len(known) < _MOST:
                known[conversation.id] = conversation
    for path in sorted((dataset / "codes").glob("train-*.parquet")):
        for codes in read_codes(path):
            if (of := known.get(codes.id)) is not None:
                count_tokens(of, codes, quiet, spoken)
    if not quiet.sum():
        raise DatasetError(
            f"{dataset}: no training split of conversations and codes to learn from which tokens are silence"
        )
    silent = np.asarray(quiet > spoken)
    if not silent.any():
        raise DatasetError(f"{dataset}: no speech token occurs mostly where nobody speaks: score from the sound")
    return silent


def count_tokens(conversation: Conversation, codes: Codes, quiet: Int64, spoken: Int64) -> None:
    """Add a conversation's tokens to the counts of those where nobody speaks and those inside an utterance."""
    frame = conversation.n_samples // max(1, len(codes.user))
    for channel, tokens in ((Channel.USER, codes.user), (Channel.ASSISTANT, codes.assistant)):
        starts = np.arange(len(tokens), dtype=np.int64) * frame
        touched, inside = np.zeros(len(tokens), bool), np.zeros(len(tokens), bool)
        for u in conversation.utterances:
            if u.channel is channel:
                touched |= (starts + frame > u.start) & (starts < u.end)
                inside |= (starts >= u.start) & (starts + frame <= u.end)
        quiet += np.bincount(tokens[~touched], minlength=len(quiet))
        spoken += np.bincount(tokens[inside], minlength=len(spoken))
