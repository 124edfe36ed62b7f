"""The one vocabulary of a dataset: a text tokenizer with state tokens and speech tokens appended.

`make_tokenizer` makes the folder `tokenizer/` once; workers read it with `Vocabulary.read`. Both need only the small
`tokenizers` library and take milliseconds; `transformers` is loaded for sources that are not in its format yet.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import AddedToken, Tokenizer

from duplexdata.errors import TokenizerError
from duplexdata.layouts.interleaved import StateTokens
from duplexdata.layouts.tokens import (
    ASSISTANT,
    ASSISTANT_GLM,
    EOS,
    EPAD,
    NON_QUERY,
    PAD,
    QUERY,
    SILENCE,
    audio_token,
)
from duplexdata.resources import data_file
from duplexdata.shards import temporary_name, write_json
from duplexdata.text.types import DuoTokens, Encoded

EMBEDDED = "embedded"
_REMEMBERED = 8192
"""Texts, about 30 MB."""


class Vocabulary:
    """Attributes:
    state: ids of the interleaved layout's state tokens and of speech token 0.
    duo: ids of DUO's state tokens and of the end of an answer.
    codebook_size: speech tokens in it, contiguous from `state.speech_offset`.
    """

    def __init__(self, tokenizer: Tokenizer, name: str) -> None:
        self._tokenizer = tokenizer
        self._known: dict[str, Encoded] = {}
        # A text that holds "<eos>" is text: only layouts place special tokens.
        tokenizer.encode_special_tokens = True
        found = {t: tokenizer.token_to_id(t) for t in _state_tokens(tokenizer)}
        missing = [t for t, i in found.items() if i is None]
        if missing:
            raise TokenizerError(f"the tokenizer {name} lacks {', '.join(missing)}: it is none of a dataset of ours")
        silence, assistant, pad, epad, query, non_query, eos = (i for i in found.values() if i is not None)
        offset, self.codebook_size = _speech_range(tokenizer, name)
        self.state = StateTokens(silence, assistant, pad, epad, offset)
        self.duo = DuoTokens(query, non_query, eos)

    @classmethod
    def read(cls, folder: Path) -> Vocabulary:
        """A dataset's own `tokenizer/`. Raises TokenizerError where it is missing or not one of ours."""
        return cls(_read(folder / "tokenizer.json"), str(folder))

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        """Tokens of each text alone, without anything put before or behind.

        The last few thousand texts are remembered: transitions, backchannels and regenerated replies come often.
        """
        known = self._known
        new = [t for t in dict.fromkeys(texts) if t not in known]
        found = self._tokenizer.encode_batch(new, add_special_tokens=False)
        fresh = {t: Encoded(np.array(e.ids, np.int32), e) for t, e in zip(new, found, strict=True)}
        answer = [fresh.get(t) or known[t] for t in texts]
        if len(known) + len(fresh) > _REMEMBERED:
            known.clear()
        known |= fresh
        return answer

    def decode(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(map(int, ids)), skip_special_tokens=False))

    def __len__(self) -> int:
        return int(self._tokenizer.get_vocab_size(with_added_tokens=True))

    def facts(self) -> dict[str, object]:
        """The vocabulary's layout, for the manifest and the files' metadata."""
        s, d = self.state, self.duo
        return {
            "codebook_size": self.codebook_size,
            "speech_offset": s.speech_offset,
            "vocabulary_size": len(self),
            "state_tokens": {
                "silence": s.silence,
                "assistant": s.assistant,
                "pad": s.pad,
                "epad": s.epad,
                "query": d.query,
                "non_query": d.non_query,
                "eos": d.eos,
            },
        }


def make_tokenizer(source: str, codebook_size: int, folder: Path, *, trust_remote_code: bool = False) -> None:
    """Write `folder` for `AutoTokenizer.from_pretrained`: the source's tokens, then what it lacks of ours.

    A source that has the speech tokens already (GLM-4-Voice) keeps them as they are.

    Args:
        source: "embedded", or a folder or hub id that `AutoTokenizer` loads.
        codebook_size: of the codec whose tokens the vocabulary must hold.

    Raises: TokenizerError: it cannot be loaded, is no fast tokenizer, or its speech tokens are not those of the codec.
    """
    temporary = temporary_name(folder)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        _fetch(source, temporary, trust_remote_code)
        _extend(temporary, codebook_size, source)
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")


def _fetch(source: str, folder: Path, trust_remote_code: bool) -> None:
    """The source's files, as they are where they are at hand, through `transformers` otherwise."""
    where = data_file("tokenizer") if source == EMBEDDED else Path(source)
    if (where / "tokenizer.json").is_file():
        for name in _FILES:
            if (where / name).is_file():
                shutil.copyfile(where / name, folder / name)
        return
    _load(source, trust_remote_code).save_pretrained(folder)
    if not (folder / "tokenizer.json").is_file():
        raise TokenizerError(
            f"the tokenizer {source} is not a fast one: layouts need its character offsets. "
            "Convert it with `PreTrainedTokenizerFast(tokenizer_file=…)` and name the folder you save"
        )


def _extend(folder: Path, codebook_size: int, source: str) -> None:
    file = folder / "tokenizer.json"
    tokenizer = _read(file)
    wanted = _state_tokens(tokenizer)
    if tokenizer.token_to_id(audio_token(0)) is None:
        wanted += [audio_token(i) for i in range(codebook_size)]
    new = [AddedToken(t, special=True, normalized=False) for t in wanted if tokenizer.token_to_id(t) is None]
    tokenizer.add_special_tokens(new)
    _, found = _speech_range(tokenizer, source)
    if found < codebook_size:
        raise TokenizerError(
            f"the tokenizer {source} has {found} speech tokens in a row from {audio_token(0)} on, "
            f"the codec needs {codebook_size}: use the tokenizer that belongs to it, or one without speech tokens"
        )
    tokenizer.save(str(file))
    config_file = folder / "tokenizer_config.json"
    config = json.loads(config_file.read_text(encoding="utf-8")) if config_file.is_file() else {}
    config.setdefault("tokenizer_class", "PreTrainedTokenizerFast")
    config.setdefault("eos_token", EOS)
    # Where the source was is nobody's business.
    config = {k: v for k, v in config.items() if k not in ("name_or_path", "_name_or_path", "local_files_only")}
    write_json(config_file, config)


def _read(file: Path) -> Tokenizer:
    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises bare Exceptions
        raise TokenizerError(f"{file}: cannot be read as a tokenizer ({error})") from error


def _state_tokens(tokenizer: Tokenizer) -> list[str]:
    assistant = ASSISTANT_GLM if tokenizer.token_to_id(ASSISTANT_GLM) is not None else ASSISTANT
    return [SILENCE, assistant, PAD, EPAD, QUERY, NON_QUERY, EOS]


def _speech_range(tokenizer: Tokenizer, name: str) -> tuple[int, int]:
    """Id of speech token 0, and how many follow in a row."""
    first = tokenizer.token_to_id(audio_token(0))
    if first is None:
        raise TokenizerError(f"the tokenizer {name} has no speech tokens ({audio_token(0)})")
    n = 1
    while tokenizer.token_to_id(audio_token(n)) == first + n:
        n += 1
    if (behind := tokenizer.token_to_id(audio_token(n))) is not None:
        raise TokenizerError(
            f"the tokenizer {name} has {audio_token(n)} at {behind}, expected {first + n}: "
            "speech tokens must be contiguous"
        )
    return int(first), n


def _load(source: str, trust_remote_code: bool) -> Any:
    from transformers import AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    try:
        return AutoTokenizer.from_pretrained(source, trust_remote_code=trust_remote_code)
    except Exception as error:  # anything from a missing file to a broken pickle-free format
        raise TokenizerError(
            f"no tokenizer can be loaded from {source!r}: give a folder with tokenizer.json, or a hub id that is "
            f"cached or reachable ({(str(error).strip() or type(error).__name__).splitlines()[0]})"
        ) from error
