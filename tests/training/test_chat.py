from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer

from duplexdata.errors import DatasetError
from duplexdata.layouts.interleaved import IGNORED
from duplexdata.training.chat import ChatFormat

TALK = [
    {"role": "user", "content": "How do I bake"},
    {"role": "assistant", "content": "<idle>"},
    {"role": "user", "content": "bread? <1>"},
    {"role": "assistant", "content": "With flour.<eos>"},
]


class Template:
    """A tokenizer of `transformers`, as far as it is used."""

    def __init__(self, rewrites: bool = False) -> None:
        self.rewrites = rewrites

    def apply_chat_template(
        self, messages: list[dict[str, str]], *, tokenize: bool, add_generation_prompt: bool
    ) -> str:
        assert not tokenize
        text = "".join(f"|{m['role']}|{m['content']}." for m in messages)
        head = f"{len(messages)} messages " if self.rewrites else ""
        return head + text + ("|assistant|" if add_generation_prompt else "")


@pytest.fixture
def tokenizer(small_dataset: Path) -> Tokenizer:
    return Tokenizer.from_file(str(small_dataset / "tokenizer" / "tokenizer.json"))


def learned(tokenizer: Tokenizer, template: Template | None) -> tuple[str, str]:
    example = ChatFormat(tokenizer, template).example(TALK)
    chosen = [int(t) for t, label in zip(example.input_ids, example.labels, strict=True) if label != IGNORED]
    assert all(label in (IGNORED, t) for t, label in zip(example.input_ids, example.labels, strict=True))
    return (
        tokenizer.decode(example.input_ids.tolist(), skip_special_tokens=False),
        tokenizer.decode(chosen, skip_special_tokens=False),
    )


def test_what_the_assistant_writes_is_learned_and_nothing_else(tokenizer: Tokenizer) -> None:
    whole, own = learned(tokenizer, None)
    assert whole == "user: How do I bake\nassistant: <idle>\nuser: bread? <1>\nassistant: With flour.<eos>\n"
    assert own == "<idle>\nWith flour.<eos>\n"


def test_only_the_end_of_a_reply_is_the_token(tokenizer: Tokenizer) -> None:
    """A user's word that looks like a state token is text."""
    ids = ChatFormat(tokenizer, None).example(TALK).input_ids.tolist()
    assert tokenizer.token_to_id("<eos>") in ids
    assert tokenizer.token_to_id("<1>") not in ids


def test_a_template_is_followed(tokenizer: Tokenizer) -> None:
    whole, own = learned(tokenizer, Template())
    assert whole == "|user|How do I bake.|assistant|<idle>.|user|bread? <1>.|assistant|With flour.<eos>."
    assert own == "<idle>.With flour.<eos>."


def test_a_template_that_rewrites_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(DatasetError, match="writes earlier messages anew"):
        learned(tokenizer, Template(rewrites=True))
