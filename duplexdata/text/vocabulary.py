"""The one vocabulary of a dataset: a text tokenizer with state tokens and speech tokens appended."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from duplexdata.errors import TokenizerError
from duplexdata.layouts.interleaved import StateTokens
from duplexdata.layouts.tokens import ASSISTANT, ASSISTANT_GLM, EOS, EPAD, NON_QUERY, PAD, QUERY, SILENCE, audio_token
from duplexdata.resources import data_file
from duplexdata.shards import write_text
from duplexdata.text.types import DuoTokens, Encoded

EMBEDDED = "embedded"


class Vocabulary:
    """Attributes:
    state: ids of the interleaved layout's state tokens and of speech token 0.
    duo: ids of DUO's state tokens and of the end of an answer.
    """

    def __init__(self, tokenizer: Any, codebook_size: int, name: str) -> None:
        self._tokenizer, self.codebook_size, self.name = tokenizer, codebook_size, name
        assistant = ASSISTANT_GLM if _id(tokenizer, ASSISTANT_GLM) is not None else ASSISTANT
        self.assistant_token = assistant
        ids = {token: _id(tokenizer, token) for token in (SILENCE, assistant, PAD, EPAD, QUERY, NON_QUERY, EOS)}
        missing = [token for token, i in ids.items() if i is None]
        if missing:
            raise TokenizerError(f"the tokenizer {name} lacks {', '.join(missing)}; give it to `Vocabulary.load`")
        known = {token: i for token, i in ids.items() if i is not None}
        offset = _speech_offset(tokenizer, codebook_size, name)
        self.state = StateTokens(known[SILENCE], known[assistant], known[PAD], known[EPAD], offset)
        self.duo = DuoTokens(known[QUERY], known[NON_QUERY], known[EOS])
        self._backend = tokenizer.backend_tokenizer

    @classmethod
    def load(cls, source: str, codebook_size: int, *, trust_remote_code: bool = False) -> Vocabulary:
        """The tokenizer of a folder or hub id ("embedded": the package's own), extended by what it lacks.

        Raises: TokenizerError: it cannot be loaded, is no fast tokenizer, or its speech tokens are not contiguous.
        """
        tokenizer = _load(source, trust_remote_code)
        if not getattr(tokenizer, "is_fast", False):
            raise TokenizerError(
                f"the tokenizer {source} is not a fast one: layouts need its character offsets. "
                "Convert it with `PreTrainedTokenizerFast(tokenizer_file=…)` and name the folder you save"
            )
        _extend(tokenizer, codebook_size)
        return cls(tokenizer, codebook_size, source)

    @classmethod
    def read(cls, folder: Path, codebook_size: int) -> Vocabulary:
        """A dataset's own `tokenizer/`, as it stands."""
        return cls(_load(str(folder), False), codebook_size, str(folder))

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        """Tokens of each text alone, without anything put before or behind."""
        found = self._backend.encode_batch(list(texts), add_special_tokens=False)
        return [
            Encoded(
                np.array(e.ids, np.int32),
                np.array(e.offsets, np.int32).reshape(-1, 2)[:, 0],
            )
            for e in found
        ]

    def decode(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))

    def __len__(self) -> int:
        return len(self._tokenizer)

    def facts(self) -> dict[str, object]:
        """The vocabulary's layout, for the manifest and the files' metadata."""
        s = self.state
        return {
            "codebook_size": self.codebook_size,
            "speech_offset": s.speech_offset,
            "vocabulary_size": len(self),
            "state_tokens": {
                "silence": s.silence,
                "assistant": s.assistant,
                "pad": s.pad,
                "epad": s.epad,
                "query": self.duo.query,
                "non_query": self.duo.non_query,
                "eos": self.duo.eos,
            },
        }

    def save(self, folder: Path) -> None:
        """For `AutoTokenizer.from_pretrained`; the same bytes each time."""
        folder.mkdir(parents=True, exist_ok=True)
        self._tokenizer.save_pretrained(folder)
        for path in sorted(folder.glob("*.json")):
            # Local paths must not end up in a dataset.
            text = path.read_text(encoding="utf-8")
            write_text(path, re.sub(r'\n\s*"(name_or_path|_name_or_path)": "[^"]*",?', "", text))


def _id(tokenizer: Any, token: str) -> int | None:
    found = tokenizer.backend_tokenizer.token_to_id(token)
    return None if found is None else int(found)


def _load(source: str, trust_remote_code: bool) -> Any:
    from transformers import AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    path = str(data_file("tokenizer")) if source == EMBEDDED else source
    try:
        return AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError) as error:
        raise TokenizerError(
            f"no tokenizer can be loaded from {source!r}: give a folder with tokenizer.json or a hub id that is "
            f"cached or reachable ({str(error).splitlines()[0]})"
        ) from error


def _extend(tokenizer: Any, codebook_size: int) -> None:
    """Append what is missing: state tokens first, then all speech tokens, so that these are contiguous."""
    from tokenizers import AddedToken

    assistant = ASSISTANT_GLM if _id(tokenizer, ASSISTANT_GLM) is not None else ASSISTANT
    wanted = [SILENCE, assistant, PAD, EPAD, QUERY, NON_QUERY, EOS]
    if _id(tokenizer, audio_token(0)) is None:
        wanted += [audio_token(i) for i in range(codebook_size)]
    new = [AddedToken(t, special=True, normalized=False) for t in wanted if _id(tokenizer, t) is None]
    tokenizer.add_tokens(new, special_tokens=True)


def _speech_offset(tokenizer: Any, codebook_size: int, name: str) -> int:
    first = _id(tokenizer, audio_token(0))
    if first is None:
        raise TokenizerError(f"the tokenizer {name} has no {audio_token(0)}")
    for i in range(codebook_size):
        if _id(tokenizer, audio_token(i)) != first + i:
            raise TokenizerError(
                f"the tokenizer {name} has {audio_token(i)} at {_id(tokenizer, audio_token(i))}, expected {first + i}: "
                f"the {codebook_size} speech tokens of the codec must be there, in a row"
            )
    return int(first)
