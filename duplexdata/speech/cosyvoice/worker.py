"""Runs CosyVoice's official code, in the environment that was made for it. A single file: nothing of duplexdata is
imported, and only the standard library at the top.

Started by `process.py` as `python -I worker.py CHECKOUT MODEL THREADS OVERRIDE VOICES`. Frames on stdin and stdout: a
little-endian uint32, that many bytes of JSON, and behind an answer `bytes` bytes of 16-bit mono PCM. The first frame
out says what was loaded, or `fatal`. It ends when its stdin does.

Facts it relies on (found by trying the code of March 2026): sampling draws from the global generators; the text front
end rewrites text, so it is left out; CosyVoice 3 wants a marker before the prompt's transcript; an exception of the
language model's thread is lost, and something else fails later.
"""

from __future__ import annotations

import importlib.metadata
import json
import logging
import os
import queue
import struct
import sys
import threading
import types
from collections import OrderedDict
from pathlib import Path
from typing import Any, BinaryIO

PROMPT_MARK_V3 = "You are a helpful assistant.<|endofprompt|>"
TOLERANCE = 1e-3
"""Of cached decoding against full decoding, in standard deviations of the logits."""
_CHECKED_PROMPT, _CHECKED_STEPS = 24, 12


class CannotSpeak(Exception):
    """The request is wrong, and stays so."""


class Speaker:
    """A loaded model and the voices it knows."""

    def __init__(self, checkout: str, model: str, threads: int, voices: int) -> None:
        import_official(checkout)
        import torch
        from cosyvoice.cli.cosyvoice import AutoModel  # type: ignore[import-not-found]

        logging.disable(logging.WARNING)  # it logs every text
        torch.set_num_threads(threads)
        if torch.cuda.is_available():  # the CPU needs neither, and the second takes seconds to import
            torch.backends.cudnn.benchmark = False
            torch.use_deterministic_algorithms(True, warn_only=True)
        self.model = AutoModel(model_dir=model)
        self.version = next(v for v in (3, 2) if (Path(model) / f"cosyvoice{v}.yaml").is_file())
        self.sample_rate = int(self.model.sample_rate)
        self._most_voices = voices
        self._voices: OrderedDict[str, None] = OrderedDict()

    def speak(self, request: dict[str, Any]) -> bytes:
        """16-bit mono PCM."""
        import torch

        key = self._voice(request)
        seed_all(int(request["seed"]))
        mark = PROMPT_MARK_V3 if self.version == 3 else ""
        pieces = self.model.inference_zero_shot(
            request["text"],
            mark + request["ref_text"],
            request["prompt"],
            zero_shot_spk_id=key,
            stream=False,
            speed=float(request["speed"]),
            text_frontend=False,
        )
        found = [piece["tts_speech"].reshape(-1) for piece in pieces]
        samples = torch.cat(found) if found else torch.zeros(0)
        if not len(samples):
            raise RuntimeError("the model gave no sound")
        if not bool(torch.isfinite(samples).all()):
            raise RuntimeError("the model gave samples that are no numbers")
        pcm: bytes = (samples.clamp(-1, 1) * 32767).round().to(torch.int16).cpu().numpy().tobytes()
        return pcm

    def _voice(self, request: dict[str, Any]) -> str:
        """Its features, made once."""
        key = str(request["voice"])
        if key not in self._voices:
            mark = PROMPT_MARK_V3 if self.version == 3 else ""
            try:
                self.model.add_zero_shot_spk(mark + request["ref_text"], request["prompt"], key)
            except AssertionError as error:  # a recording that it does not take
                raise CannotSpeak(str(error)) from error
            self._voices[key] = None
            while len(self._voices) > self._most_voices:
                self.model.frontend.spk2info.pop(self._voices.popitem(last=False)[0], None)
        self._voices.move_to_end(key)
        return key


def import_official(checkout: str) -> None:
    """Make `import cosyvoice` mean the checkout, whatever of that name is installed."""
    paths = [Path(checkout)]
    matcha = Path(checkout) / "third_party" / "Matcha-TTS"
    if (matcha / "matcha").is_dir():  # else the package matcha-tts
        paths.append(matcha)
    sys.path[:0] = [str(p) for p in paths]
    try:
        import torchaudio  # type: ignore[import-not-found]
    except OSError:
        # The index has it for CUDA only. What CosyVoice takes of it (resampling, filter banks) is plain Python.
        for name in [n for n in sys.modules if n.split(".")[0] == "torchaudio"]:
            del sys.modules[name]
        stub: Any = types.ModuleType("torchaudio._extension")
        stub._IS_TORCHAUDIO_EXT_AVAILABLE = False
        stub.fail_if_no_align = lambda function: function
        sys.modules[stub.__name__] = stub
        import torchaudio
    torchaudio.load = load_with_soundfile  # its own needs TorchCodec since 2.9


def load_with_soundfile(source: Any, *_: Any, **__: Any) -> tuple[Any, int]:
    import soundfile
    import torch

    samples, rate = soundfile.read(source, dtype="float32", always_2d=True)
    return torch.from_numpy(samples.T.copy()), int(rate)


def seed_all(seed: int) -> None:
    import random

    import numpy
    import torch

    random.seed(seed)
    numpy.random.seed(seed % (1 << 32))
    torch.manual_seed(seed)
    torch.cuda.manual_seed_all(seed)


def decoding_difference(model: Any) -> float:
    """Cached decoding, step by step as in synthesis, against one full pass: the largest difference between logits, in
    multiples of their standard deviation.

    From transformers 4.53 on, the length-1 attention mask that the official code passes makes every new token see
    only the first one: no error, and gibberish. Differences are then 2 and more; 1e-5 where all is well.
    """
    import torch

    lm = model.model.llm
    device = lm.speech_embedding.weight.device
    generator = torch.Generator().manual_seed(0)
    n = _CHECKED_PROMPT + _CHECKED_STEPS
    tokens = torch.randint(0, int(lm.speech_token_size), (n,), generator=generator).to(device)
    with torch.inference_mode():
        inputs = lm.speech_embedding.weight[tokens].unsqueeze(0)
        full, _ = lm.llm(inputs, torch.tensor([n], dtype=torch.int32, device=device))
        wanted = lm.llm_decoder(full)[0, _CHECKED_PROMPT - 1 :]
        parts = [inputs[:, :_CHECKED_PROMPT], *inputs[:, _CHECKED_PROMPT:].split(1, dim=1)]
        cache, rows = None, []
        for part in parts:
            ones = torch.ones((1, part.shape[1], part.shape[1]), device=device)
            out, cache = lm.llm.forward_one_step(part, masks=torch.tril(ones).to(torch.bool), cache=cache)
            rows.append(lm.llm_decoder(out[:, -1])[0])
        found = torch.stack(rows)
    difference = (found - wanted).abs().max() / wanted.std().clamp(min=1.0)
    return float(difference) if bool(torch.isfinite(difference)) else float("inf")


def pass_no_mask(model: Any) -> None:
    """Decode without the attention mask: right with every version, since there is always one sequence."""

    def forward_one_step(self: Any, xs: Any, masks: Any, cache: Any = None) -> tuple[Any, Any]:
        outs = self.model(
            inputs_embeds=xs, output_hidden_states=True, return_dict=True, use_cache=True, past_key_values=cache
        )
        return outs.hidden_states[-1], outs.past_key_values

    type(model.model.llm.llm).forward_one_step = forward_one_step


def checked(speaker: Speaker, override: str) -> dict[str, Any]:
    """What the self-check found. `fatal`: it cannot be served."""
    import torch

    difference = decoding_difference(speaker.model)
    overridden = False
    transformers = importlib.metadata.version("transformers")
    if difference > TOLERANCE and override == "auto":
        broken = difference
        pass_no_mask(speaker.model)
        difference, overridden = decoding_difference(speaker.model), True
        print(f"cached decoding was off by {broken:.3g}; without attention mask by {difference:.3g}", file=sys.stderr)
    found: dict[str, Any] = {
        "version": speaker.version,
        "sample_rate": speaker.sample_rate,
        "difference": difference,
        "overridden": overridden,
        "device": "cuda" if torch.cuda.is_available() else "cpu",
        "torch": torch.__version__,
        "transformers": transformers,
    }
    if difference > TOLERANCE:
        found["fatal"] = (
            f"decoding with a cache differs from full decoding by {difference:.3g} standard deviations, at most "
            f"{TOLERANCE:g} is right: it would speak gibberish. transformers {transformers} is installed, "
            "4.52.4 is known to be right"
        )
    return found


def main(arguments: list[str], stdin: BinaryIO, stdout: BinaryIO) -> int:
    checkout, model, threads, override, voices = arguments
    requests: queue.Queue[dict[str, Any]] = queue.Queue()
    threading.Thread(target=read_requests, args=(stdin, requests), daemon=True).start()
    lost: list[str] = []
    threading.excepthook = lambda failed: lost.append(f"{failed.exc_type.__name__}: {failed.exc_value}")
    try:
        speaker = Speaker(checkout, model, int(threads), int(voices))
        found = checked(speaker, override)
    except Exception as error:
        found = {"fatal": f"the model cannot be loaded: {type(error).__name__}: {error}"}
    send(stdout, found)
    if "fatal" in found:
        return 1
    while True:
        request = requests.get()
        lost.clear()
        try:
            pcm = speaker.speak(request)
        except CannotSpeak as error:
            send(stdout, {"refused": str(error)})
        except Exception as error:
            # The first cause is the language model's thread's, where it failed.
            send(stdout, {"failed": (lost or [f"{type(error).__name__}: {error}"])[0][:300]})
        else:
            send(stdout, {"bytes": len(pcm), "sample_rate": speaker.sample_rate}, pcm)


def read_requests(stdin: BinaryIO, requests: queue.Queue[dict[str, Any]]) -> None:
    """Ends the process, in the middle of whatever it does, when nobody is left to hear it."""
    while len(head := stdin.read(4)) == 4:
        size = struct.unpack("<I", head)[0]
        body = stdin.read(size)
        if len(body) < size:
            break
        requests.put(json.loads(body))
    os._exit(0)


def send(stdout: BinaryIO, message: dict[str, Any], pcm: bytes = b"") -> None:
    body = json.dumps(message).encode()
    stdout.write(struct.pack("<I", len(body)) + body + pcm)
    stdout.flush()


if __name__ == "__main__":
    # What libraries print must not come between the frames.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    sys.exit(main(sys.argv[1:], sys.stdin.buffer, answers))
