"""`tdm` rows as text: chat messages by the tokenizer's own template, or by a plain one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from duplexdata.errors import DatasetError
from duplexdata.layouts.interleaved import IGNORED
from duplexdata.layouts.tokens import EOS
from duplexdata.training.packing import Example

Messages = Sequence[Mapping[str, str]]
_Piece = tuple[str | int, bool]
"""A text or a token, and whether the assistant wrote it."""


class ChatFormat:
    """Messages to tokens; what the assistant writes is learned.

    Without a template a message is a line: `user: …` or `assistant: …`. What is learned of the assistant's is its
    content and what ends it.
    """

    def __init__(self, tokenizer: Tokenizer, template: Any | None) -> None:
        """
        Args:
            template: a tokenizer of `transformers` that has a chat template, or None.
        """
        self._tokenizer, self._template = tokenizer, template
        eos = tokenizer.token_to_id(EOS)
        if eos is None:
            raise DatasetError(f"the dataset's tokenizer lacks {EOS}: it is none of ours")
        self._eos = int(eos)
        tokenizer.encode_special_tokens = template is None  # a word like "<1>" is text, unless a template put it there

    @classmethod
    def read(cls, folder: Path) -> ChatFormat:
        template = None
        if (folder / "chat_template.jinja").is_file() or '"chat_template"' in _config(folder):
            from transformers import AutoTokenizer

            template = AutoTokenizer.from_pretrained(folder)
        return cls(Tokenizer.from_file(str(folder / "tokenizer.json")), template)

    def example(self, messages: Messages) -> Example:
        pieces = self._plain(messages) if self._template is None else self._by_template(messages, self._template)
        encoded = self._tokenizer.encode_batch([p for p, _ in pieces if isinstance(p, str)], add_special_tokens=False)
        texts = iter(encoded)
        ids: list[int] = []
        learned: list[bool] = []
        for piece, by_assistant in pieces:
            new = next(texts).ids if isinstance(piece, str) else [piece]
            ids += new
            learned += [by_assistant] * len(new)
        found = np.array(ids, np.int32)
        return Example(found, np.where(np.array(learned, bool), found, np.int32(IGNORED)))

    def _plain(self, messages: Messages) -> list[_Piece]:
        pieces: list[_Piece] = []
        for m in messages:
            own = m["role"] == "assistant"
            content = m["content"].removesuffix(EOS) if own else m["content"]
            pieces += [(f"{m['role']}: ", False), (content, own)]
            if content != m["content"]:
                pieces.append((self._eos, own))
            pieces.append(("\n", own))
        return pieces

    def _by_template(self, messages: Messages, template: Any) -> list[_Piece]:

        def text(upto: int, prompt: bool = False) -> str:
            given = [dict(m) for m in messages[:upto]]
            return str(template.apply_chat_template(given, tokenize=False, add_generation_prompt=prompt))

        pieces: list[_Piece] = []
        behind = ""
        for i, m in enumerate(messages):
            if m["role"] == "assistant":
                head, whole = text(i, prompt=True), text(i + 1)
                if not (head.startswith(behind) and whole.startswith(head)):
                    raise DatasetError(
                        "the tokenizer's chat template writes earlier messages anew when another follows: "
                        "rows of tdm cannot be told apart by it; remove chat_template from the dataset's tokenizer/"
                    )
                pieces += [(head[len(behind) :], False), (whole[len(head) :], True)]
                behind = whole
        return pieces


def _config(folder: Path) -> str:
    file = folder / "tokenizer_config.json"
    return file.read_text(encoding="utf-8") if file.is_file() else ""
