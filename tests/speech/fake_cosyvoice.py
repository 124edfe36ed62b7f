"""A stand-in for CosyVoice's official code: the same names and calls, tones for voices, and faults on demand.

`make_checkout` and `make_model` write folders that the bridge takes for the real ones. Its language model is a running
mean with a cache, which the broken one does not see, as the real one from transformers 4.53 on.
"""

from __future__ import annotations

from pathlib import Path

_CODE = '''
import os, threading, time
from pathlib import Path
from types import SimpleNamespace
import soundfile, torch

class Means:
    """Stands for transformers' model: each output is the mean of all inputs so far."""
    def __call__(self, inputs_embeds, attention_mask=None, past_key_values=None, **_):
        total, n = past_key_values or (torch.zeros_like(inputs_embeds[:, :1]), 0)
        sums = inputs_embeds.cumsum(1) + total
        counts = torch.arange(1, inputs_embeds.shape[1] + 1).reshape(1, -1, 1) + n
        out = sums / counts
        if attention_mask is not None and past_key_values is not None:
            out = inputs_embeds  # the mask hides what is in the cache
        return SimpleNamespace(hidden_states=[out], past_key_values=(sums[:, -1:], n + inputs_embeds.shape[1]))

class Qwen2Encoder:
    def __init__(self, broken):
        self.model, self.broken = Means(), broken
    def __call__(self, xs, xs_lens):
        return self.model(inputs_embeds=xs).hidden_states[-1], None
    def forward_one_step(self, xs, masks, cache=None):
        mask = masks[:, -1, :] if self.broken else None
        outs = self.model(inputs_embeds=xs, attention_mask=mask, past_key_values=cache)
        return outs.hidden_states[-1], outs.past_key_values

class Front:
    def __init__(self):
        self.spk2info = {}

class Model:
    sample_rate = 24000
    def __init__(self, model_dir):
        self.folder = Path(model_dir)
        if (self.folder / "unloadable").exists():
            raise ValueError("not a model at all")
        torch.manual_seed(0)
        embedding = SimpleNamespace(weight=torch.randn(64, 8))
        lm = SimpleNamespace(speech_token_size=64, speech_embedding=embedding, llm_decoder=torch.nn.Linear(8, 64),
                             llm=Qwen2Encoder((self.folder / "broken").exists()))
        self.model = SimpleNamespace(llm=lm)
        self.frontend = Front()
    def add_zero_shot_spk(self, prompt_text, prompt_wav, key):
        samples, rate = soundfile.read(prompt_wav)
        assert rate >= 16000, "wav sample rate must be greater"
        self.frontend.spk2info[key] = (prompt_text, float(abs(samples).mean()))
    def inference_zero_shot(self, text, prompt_text, prompt_wav, zero_shot_spk_id, stream, speed, text_frontend):
        assert text_frontend is False and stream is False
        known, level = self.frontend.spk2info[zero_shot_spk_id]
        assert known == prompt_text
        print("chatter on stdout")
        mark = self.folder / "crashed"
        if "crash" in text and ("always" in text or not mark.exists()):
            mark.touch()
            os._exit(3)
        if "hang" in text:
            time.sleep(60)
        if "slow" in text:
            time.sleep(0.3)
        if "explode" in text:
            thread = threading.Thread(target=lambda: 1 / 0)
            thread.start()
            thread.join()
            raise RuntimeError("a shape that does not fit")
        if "nothing" in text:
            return
        n = int(1920 * len(text) / speed)
        noise = torch.rand(n) * 0.2 - 0.1 + level
        yield {"tts_speech": (noise * float("nan") if "nan" in text else noise).reshape(1, -1)}

def AutoModel(model_dir):
    return Model(model_dir)
'''


def make_checkout(folder: Path) -> Path:
    code = folder / "cosyvoice" / "cli"
    code.mkdir(parents=True)
    (folder / "cosyvoice" / "__init__.py").touch()
    (code / "__init__.py").touch()
    (code / "cosyvoice.py").write_text(_CODE, encoding="utf-8")
    (folder / "torchaudio.py").write_text("def load(*a): raise RuntimeError('needs TorchCodec')\n", encoding="utf-8")
    return folder


def make_model(folder: Path, version: int = 2, mark: str | None = None) -> Path:
    """`mark`: "broken": decodes wrongly; "unloadable"."""
    (folder / "CosyVoice-BlankEN").mkdir(parents=True)
    names = ("llm.pt", "flow.pt", "hift.pt", "campplus.onnx", f"speech_tokenizer_v{version}.onnx")
    for name in (*names, f"cosyvoice{version}.yaml", *([mark] if mark else [])):
        (folder / name).write_bytes(b"x")
    return folder
