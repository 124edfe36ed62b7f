"""The real protocol: `transformers serve` with a tiny random model. What it writes is garbage, and must come out so.

It accepts `response_format` and ignores it, and answers with whatever the model makes.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tasks_for_tests import PROMPT, config, task, tasks

from duplexdata.errors import WriterError
from duplexdata.writer.live import LiveWriter
from duplexdata.writer.parsing import FAULTS
from duplexdata.writer.types import Failed
from duplexdata.writer.usage import Tally

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SHORT = replace(PROMPT, max_tokens=24)
_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write_tiny_qwen2(folder: Path) -> Path:
    """A random Qwen2 of some 95,000 parameters, with a byte-level BPE trained on the spot."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    special = ["<|im_start|>", "<|im_end|>", "<|endoftext|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        ["a quiet lake and a train at noon"] * 50,
        trainers.BpeTrainer(vocab_size=328, special_tokens=special, initial_alphabet=alphabet),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=_TEMPLATE
    )
    torch.manual_seed(0)
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(tokenizer), num_key_value_heads=2, max_position_embeddings=2048,
            eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, initializer_range=0.5, **shape,
        )
    )  # fmt: skip
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """The address and the model's name."""
    folder = write_tiny_qwen2(tmp_path_factory.mktemp("qwen2"))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    log = (folder / "log.txt").open("w")
    process = subprocess.Popen(
        [Path(sys.executable).parent / "transformers", "serve", folder, "--host", "127.0.0.1", "--port", str(port),
         "--device", "cpu"],
        env=os.environ | {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"}, stdout=log, stderr=log,
    )  # fmt: skip
    try:
        until = time.monotonic() + 300
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            except (urllib.error.URLError, OSError):
                told = (folder / "log.txt").read_text()[-1000:]
                assert process.poll() is None, told
                assert time.monotonic() < until, told
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1", str(folder)
    finally:
        process.terminate()
        process.wait(30)
        log.close()


def test_garbage_comes_out_as_counted_failures(served: tuple[str, str], tmp_path: Path) -> None:
    url, model = served
    settings = config(url, tmp_path, model=model, in_flight=4, timeout_sec=60.0, patience_sec=60.0)
    asked = [task(i, prompt=SHORT) for i in range(8)]
    tally = Tally()
    with LiveWriter(settings, tmp_path / "run") as writer:
        outcomes = list(writer.write(asked))
        assert all(isinstance(o, Failed) and o.reason in FAULTS and not o.transient for o in outcomes), outcomes
        for outcome in outcomes:
            tally.add(outcome)
        counts = tally.facts()["line"]
        assert counts["items"] == 8 == sum(counts["failed"].values())
        assert counts["replies"] == 16
        spent = writer.ledger.spent()["line"]
        assert spent.replies == 16
        assert spent.prompt_tokens > 16 * 40  # as the server counts them: a token is a byte or two
        assert 0 < spent.completion_tokens <= 16 * SHORT.max_tokens
        again = list(writer.write(asked))
        assert [(o.key, o.reason) for o in again if isinstance(o, Failed)] == [
            (o.key, o.reason) for o in outcomes if isinstance(o, Failed)
        ]
        assert writer.ledger.spent()["line"] == spent


def test_an_unknown_model_stops_the_run(served: tuple[str, str], tmp_path: Path) -> None:
    url, _ = served
    settings = config(url, tmp_path, model="no/such-model", patience_sec=10.0, max_retries=0)
    with (
        LiveWriter(settings, tmp_path / "run") as writer,
        pytest.raises(WriterError, match=r"127\.0\.0\.1.*writer\.model"),
    ):
        list(writer.write(tasks(3)))
