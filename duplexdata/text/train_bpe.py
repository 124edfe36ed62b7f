"""Trains the embedded text tokenizer: byte-level BPE on the bundled corpus. `python -m duplexdata.text.train_bpe`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from duplexdata.resources import data_file, folder

VOCABULARY = 8192
_GPT4_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_WORD_TIMES, _HAN_TIMES = 2, 2
"""How often the corpus is joined by lists: most vocabulary goes to words as they are used, then to these."""


def common_han() -> str:
    """The 3,755 characters of GB 2312's first level: the common ones, whatever the corpus happens to hold."""
    rows = (bytes([row, cell]) for row in range(0xB0, 0xD8) for cell in range(0xA1, 0xFF))
    return "".join(b.decode("gb2312", "ignore") for b in rows)


def texts() -> Iterator[str]:
    """Bundled dialogues and phrase banks, common English words, and each common Chinese character on its own."""
    with data_file("corpus.jsonl").open(encoding="utf-8") as f:
        for line in f:
            # Twice: as a sentence opens and as it goes on, and above the characters.
            for message in json.loads(line)["messages"]:
                yield message["content"]
                yield " " + message["content"].lower()
    for bank in sorted(folder("prompts").glob("*/*.yaml")):
        yield from _strings(yaml.safe_load(bank.read_text(encoding="utf-8")))
    words = data_file("words_en.txt").read_text(encoding="utf-8").split()
    for _ in range(_WORD_TIMES):
        yield from (f" {word}" for word in words)
    for _ in range(_HAN_TIMES):
        yield from common_han()


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)


def train(vocabulary: int = VOCABULARY) -> Tokenizer:
    """Deterministic: the trainer breaks ties by token id."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(_regex(), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        min_frequency=1,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts(), trainer)
    return tokenizer


def _regex():  # type: ignore[no-untyped-def]
    from tokenizers import Regex

    return Regex(_GPT4_SPLIT)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=data_file("tokenizer"))
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    train().save(str(out / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    (out / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
