"""How fast the GLM-4-Voice tokenizer is at its real size (random weights), against a plain procedure.

    python tests/benchmarks/bench_glm4voice.py                  # CPU: under three minutes on two cores
    python tests/benchmarks/bench_glm4voice.py --shards 2       # and a build's encoding stage: a minute more
    python tests/benchmarks/bench_glm4voice.py --device cuda    # GPU: every precision, and the stage

The procedure is the reference's: float32, batches of 128 clips in arrival order, each padded to its longest,
a dense mask. On a CPU that takes long; `--timed` clips of the 128 are then run, padded as the whole batch
would be, and the time is scaled to all of them (every padded clip costs the same). Useful FLOPs are counted
clip by clip: products, attention over the pairs that the mask allows, convolutions, spectrum and quantizer;
nothing elementwise, no padding.

With `--shards N` the encoding stage of a build is timed as well, from a Parquet shard of N conversations in FLAC
to the Parquet file of their codes: reading, decoding, the device and writing together. Making the shard and loading
the weights are not timed.
"""

from __future__ import annotations

import argparse
import math
import platform
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from duplexdata.audio import to_flac
from duplexdata.codecs.glm4voice.config import Glm4VoiceConfig
from duplexdata.codecs.glm4voice.features import Packing, mel_filters
from duplexdata.codecs.glm4voice.model import Encoder, Precision, attention_pairs
from duplexdata.codecs.glm4voice.tokenizer import Glm4VoiceTokenizer
from duplexdata.codecs.glm4voice.weights import expected_shapes
from duplexdata.config import CodecConfig, Config
from duplexdata.conversation import Conversation, Negative, Spoken
from duplexdata.dialogue import Channel, Kind, Scenario
from duplexdata.records import Provenance, conversation_columns
from duplexdata.shards import ShardWriter
from duplexdata.stages import encode as stage
from duplexdata.stages.negatives import NegativeWriter, Patch
from duplexdata.stages.plan import Plan, make_plan
from duplexdata.stages.speak import Rendered, _negatives_path, conversations_path, reading
from duplexdata.stages.work import Shard
from duplexdata.storage import Store
from duplexdata.windows import windows

Pcm = npt.NDArray[np.int16]
PRECISIONS: tuple[Precision, ...] = ("fp32", "tf32", "fp16", "bf16")
BLOCK = 12_800
SHARD_CONVERSATIONS = 512
"""As many as a build puts into a shard at most."""


def real_config(layers: int = 16) -> Glm4VoiceConfig:
    """The released configuration."""
    return Glm4VoiceConfig(
        d_model=1280,
        heads=20,
        ffn=5120,
        mels=128,
        vocab=16_384,
        positions=1500,
        layers=layers,
        pool_after=layers,
        pool=4,
        pool_type="avg",
        block=200,
        causal_convs=True,
        positions2_rows=375,
        chunk_samples=480_000,
    )


def random_tensors(config: Glm4VoiceConfig) -> dict[str, Tensor]:
    """Weights that keep the size of what goes through them; the codes are placed by `spread_codes`."""
    draws = torch.Generator().manual_seed(0)
    tensors = {}
    for name, shape in expected_shapes(config).items():
        tensor = torch.empty(shape)
        if "layer_norm" in name:
            tensor.fill_(1.0 if name.endswith("weight") else 0.0)
        elif name.startswith("embed"):
            tensor.normal_(std=0.05, generator=draws)
        elif name.endswith("bias"):
            tensor.normal_(std=0.02, generator=draws)
        else:
            tensor.normal_(std=1 / math.sqrt(math.prod(shape[1:])), generator=draws)
        tensors[name] = tensor
    return tensors


def spread_codes(tensors: dict[str, Tensor], encoder: Encoder, clips: list[Pcm]) -> None:
    """Codes with the mean and the covariance of the encoder's output, so that margins are of a plausible
    size."""
    packing = Packing(tuple(sorted((len(clip) for clip in clips), reverse=True)), encoder.config.pool)
    audio = torch.empty(packing.n_samples, dtype=torch.int16)
    packing.fill(audio.numpy(), sorted(clips, key=len, reverse=True))
    x = encoder.prequant(audio.to(encoder.device), packing).cpu()
    noise = torch.randn(len(tensors["codebook.weight"]), len(x), generator=torch.Generator().manual_seed(1))
    torch.addmm(x.mean(0), noise, x - x.mean(0), alpha=len(x) ** -0.5, out=tensors["codebook.weight"])


def random_clips(n: int, seed: int) -> list[Pcm]:
    """Modulated noise of 1 to 30 s, log-uniform, in arrival order."""
    rng = np.random.default_rng(seed)
    clips = []
    for seconds in np.exp(rng.uniform(0, math.log(30), n)):
        n_samples = int(seconds * 16_000)
        envelope = np.repeat(10 ** rng.uniform(-3, -0.5, n_samples // 1600 + 1), 1600)[:n_samples]
        clips.append((rng.standard_normal(n_samples) * envelope * 8000).clip(-32768, 32767).astype(np.int16))
    return clips


def useful_flops(config: Glm4VoiceConfig, n_samples: int) -> float:
    """Of one clip, twice the multiplications of every product whose result a token depends on."""
    total = 0.0
    d, f = config.d_model, config.ffn
    for start in range(0, n_samples, config.chunk_samples):
        packing = Packing((min(config.chunk_samples, n_samples - start),), config.pool)
        frames, tokens = packing.frames[0], packing.tokens[0]
        spectrum = 2.5 * 400 * math.log2(400) + 2 * 201 * config.mels
        total += 2 * frames * (spectrum + 2 * 3 * config.mels * d) + frames * 2 * 3 * d * d
        first = config.pool_after or config.layers
        for layers, n, valid, block in (
            (first, packing.frames, packing.valid_frames, config.block),
            (
                config.layers - first,
                packing.tokens,
                packing.tokens,
                config.block and config.block // config.pool,
            ),
        ):
            pairs = sum(
                (pair.queries[1] - pair.queries[0]) * (pair.keys[1] - pair.keys[0])
                for group in attention_pairs(n, valid, block)
                for pair in group
            )
            total += layers * (n[0] * 2 * (4 * d * d + 2 * d * f) + 4 * d * pairs)
        total += 2 * tokens * d * config.vocab
    return total


class Procedure:
    """The reference's procedure: one padded batch, a dense mask, everything float32."""

    def __init__(self, config: Glm4VoiceConfig, tensors: dict[str, Tensor], device: torch.device) -> None:
        self.config = config
        self.w = {name: tensor.to(device) for name, tensor in tensors.items()}
        self.device = device
        self.window = torch.hann_window(400, device=device)
        self.filters = mel_filters(config.mels).T.contiguous().to(device)

    @torch.inference_mode()
    def encode(self, clips: list[Pcm], n_padded: int) -> list[npt.NDArray[np.int64]]:
        """Tokens of clips of at most 30 s, each padded to `n_padded` samples."""
        config, w = self.config, self.w
        audio = torch.zeros(len(clips), n_padded)
        for row, clip in zip(audio, clips, strict=True):
            row[: len(clip)] = torch.from_numpy(clip.astype(np.float32) / 32768)
        lengths = torch.tensor([len(clip) for clip in clips], device=self.device)
        stft = torch.stft(audio.to(self.device), 400, 160, window=self.window, return_complex=True)
        mel = (self.filters @ stft[..., :-1].abs() ** 2).clamp_(min=1e-10).log10_()
        h = (torch.maximum(mel, mel.amax((1, 2), keepdim=True) - 8) + 4) / 4
        h = functional.gelu(functional.conv1d(functional.pad(h, (2, 0)), w["conv1.weight"], w["conv1.bias"]))
        h = functional.pad(h, (2, 0))
        h = functional.gelu(functional.conv1d(h, w["conv2.weight"], w["conv2.bias"], stride=2)).mT
        n = h.shape[1]
        h = h + w["embed_positions.weight"][:n]
        t = torch.arange(n, device=self.device)
        assert config.block is not None
        blocks = (t[None] <= t[:, None]) | (t[None] // config.block == t[:, None] // config.block)
        valid = 320 * t[None] < lengths[:, None]
        mask = torch.zeros(len(clips), 1, n, n, device=self.device)
        mask.masked_fill_(~(blocks & valid[:, None])[:, None], torch.finfo(torch.float32).min)
        for number in range(config.layers):
            h = self._layer(h, f"layers.{number}.", mask)
        x = h.unflatten(1, (-1, config.pool)).mean(2).flatten(0, 1)
        codes = w["codebook.weight"]
        tokens = [
            (codes.square().sum(1) + part.square().sum(1, keepdim=True) - 2 * part @ codes.T).argmin(1)
            for part in x.split(4096)
        ]
        rows = torch.cat(tokens).unflatten(0, (len(clips), -1)).cpu().numpy()
        return [row[: -(-len(clip) // 1280)] for row, clip in zip(rows, clips, strict=True)]

    def _layer(self, h: Tensor, at: str, mask: Tensor) -> Tensor:
        w, d = self.w, h.shape[-1]

        def norm(name: str) -> Tensor:
            return functional.layer_norm(h, (d,), w[f"{at}{name}.weight"], w[f"{at}{name}.bias"])

        def linear(name: str, x: Tensor) -> Tensor:
            return functional.linear(x, w[f"{at}{name}.weight"], w.get(f"{at}{name}.bias"))

        x = norm("self_attn_layer_norm")
        q, k, v = (
            linear(f"self_attn.{name}_proj", x).unflatten(-1, (self.config.heads, -1)).transpose(1, 2) for name in "qkv"
        )
        seen = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        h = h + linear("self_attn.out_proj", seen.transpose(1, 2).flatten(2))
        return h + linear("fc2", functional.gelu(linear("fc1", norm("final_layer_norm"))))


def wall_seconds(call: Callable[[], object], device: torch.device) -> float:
    started = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def matmul_rate(device: torch.device, dtype: torch.dtype, tf32: bool = False) -> float:
    """FLOP/s of the best of a few large products of the model's widths."""
    rows = 16_384 if device.type == "cuda" else 2048
    best = 0.0
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    for inputs, outputs in ((1280, 5120), (5120, 1280), (1280, 3840)):
        a = torch.randn(rows, inputs, device=device, dtype=dtype)
        b = torch.randn(outputs, inputs, device=device, dtype=dtype).t()
        out = torch.empty(rows, outputs, device=device, dtype=dtype)
        for _ in range(6):
            seconds = wall_seconds(lambda a=a, b=b, out=out: torch.mm(a, b, out=out), device)  # type: ignore[misc]
            best = max(best, 2 * rows * inputs * outputs / seconds)
    torch.set_float32_matmul_precision(before)
    return best


def random_conversation(number: int, noise: Pcm) -> Rendered:
    """Bursts of noise in turn, 20 to 60 s; in the negative the first reply comes 3 s later."""
    rng = np.random.default_rng([9, number])
    n_samples = int(rng.integers(25, 76)) * BLOCK
    audio = np.zeros((n_samples, 2), np.int16)
    utterances, at = [], BLOCK // 2
    for turn in range(100):
        channel = Channel.ASSISTANT if turn % 2 else Channel.USER
        end = at + int(rng.integers(2, 7)) * 16_000
        if end + 4 * 16_000 > n_samples:
            break
        start = int(rng.integers(0, len(noise) - (end - at)))
        audio[at:end, 1 - turn % 2] = noise[start : start + end - at]
        kind = Kind.REPLY if turn % 2 else Kind.QUERY
        none = np.zeros(0, np.int64)
        utterances.append(Spoken(channel, kind, "Some words.", at, end, False, "noise", "noise", none, none))
        at = end + 16_000
    late = utterances[1]
    negative = Negative("turn_taking", 1, 16_000, 4 * 16_000)
    patch = audio[late.start : late.end + 3 * 16_000, 0].copy()
    patch[: 3 * 16_000] = 0
    patch[3 * 16_000 :] = audio[late.start : late.end, 0]
    conversation = Conversation(
        f"c{number:05d}", "noise", ("noise",), Scenario.UNINTERRUPTED, "en", tuple(utterances), n_samples, "u", "a", "-"
    )
    return Rendered(conversation, negative, audio, Patch(late.start, patch))


def write_shard(plan: Plan, shard: Shard) -> float:
    """What a build's speech stage leaves behind. Returns: seconds of audio in all channels, negatives included."""
    rng = np.random.default_rng(0)
    envelope = np.repeat(10 ** rng.uniform(-2, -0.5, 1200), 1600)
    noise = (rng.standard_normal(len(envelope)) * envelope * 8000).clip(-32768, 32767).astype(np.int16)
    path = conversations_path(plan, shard)
    path.parent.mkdir(parents=True, exist_ok=True)
    n_samples = 0
    with ShardWriter(path, "conversations") as writer, NegativeWriter(_negatives_path(plan, shard)) as negatives:
        for numbers in windows(range(shard.slots), 16):
            rows = [random_conversation(number, noise) for number in numbers]
            sound = [to_flac(row.audio) for row in rows if row.audio is not None]
            provenance = [Provenance("-", "noise", "-", "-", "-")] * len(rows)
            writer.write(conversation_columns([row.conversation for row in rows], sound, provenance))
            writer.flush()
            negatives.write([(row.conversation.id, row.negative, row.patch) for row in rows])
            n_samples += 3 * sum(row.conversation.n_samples for row in rows)
        writer.close()
        negatives.close()
    return n_samples / 16_000


def time_shards(
    tensors: dict[str, Tensor],
    config: Glm4VoiceConfig,
    device: torch.device,
    precisions: tuple[Precision, ...],
    n: int,
    token_budget: int | None,
) -> None:
    """The encoding stage on a shard of `n` conversations, and the same clips from memory."""
    shard = Shard("train", 0, 1, n, 0.0, 1.0)
    with tempfile.TemporaryDirectory() as folder:
        # the stage is handed a tokenizer that is loaded already: the checkpoint is only a name
        checkpoint = Path(folder, "checkpoint")
        checkpoint.mkdir()
        run = Config(codec=CodecConfig("glm4voice", str(checkpoint), str(device)))
        audio_sec = write_shard(make_plan(run, Store(Path(folder))), shard)
        say(f"shard of {n} conversations, {audio_sec:.0f} s of audio in all channels")
        for precision in precisions:
            plan = make_plan(replace(run, codec=replace(run.codec, precision=precision)), Store(Path(folder)))
            encoder = Encoder(config, tensors, device, precision)
            codec = Glm4VoiceTokenizer(encoder, weights="random", precision=precision, token_budget=token_budget)
            codec.encode(random_clips(512 if device.type == "cuda" else 1, 1))
            started = time.perf_counter()
            clips = [c for w in stage.windows_of(reading(plan, shard), codec, stage.FRAMES) for c in w.clips]
            read = time.perf_counter() - started
            from_memory = wall_seconds(lambda codec=codec, clips=clips: codec.encode(clips), device)  # type: ignore[misc]
            del clips
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            with mock.patch.object(stage, "tokenizer_of", lambda _, codec=codec: codec):
                seconds = wall_seconds(lambda plan=plan: stage.encode(plan, shard), device)  # type: ignore[misc]
            grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
            rate = audio_sec / seconds
            say(f"{precision}, shard to codes: {rate:.2f} audio s/s = {rate / 3600:.2f} h/s")
            say(
                f"  {from_memory / seconds:.0%} of the rate from memory; reading alone {audio_sec / read:.0f} audio "
                f"s/s; peak memory +{grown:.0f} MB"
            )
            del encoder, codec


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", nargs="*", choices=PRECISIONS, help="default: fp32 on a CPU, all on a GPU")
    parser.add_argument("--clips", type=int, help="clips for the tokenizer; default 25 on a CPU, 4096 on a GPU")
    parser.add_argument("--batch", type=int, default=128, help="clips per batch of the procedure")
    parser.add_argument("--timed", type=int, help="of them, those that are run; default 2 on a CPU, all on a GPU")
    parser.add_argument("--flip-clips", type=int, help="clips compared between precisions; 0: none")
    parser.add_argument("--rounds", type=int, default=None, help="parts timed one by one; default 5, on a GPU 1")
    parser.add_argument("--threads", type=int, help="of the CPU; one is measured well even on a machine in use")
    parser.add_argument("--token-budget", type=int)
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--shards",
        type=int,
        metavar="N",
        help=f"conversations of the shard for the encoding stage; default {SHARD_CONVERSATIONS} on a GPU, else none",
    )
    args = parser.parse_args()
    device = torch.device(args.device)
    on_cuda = device.type == "cuda"
    if args.threads:
        torch.set_num_threads(args.threads)
    args.rounds = args.rounds or (1 if on_cuda else 5)
    name = torch.cuda.get_device_name(device) if on_cuda else f"{platform.machine()}, {torch.get_num_threads()} threads"
    say(f"{name}, torch {torch.__version__}")

    config = real_config(args.layers)
    tensors = random_tensors(config)
    spread_codes(tensors, Encoder(config, tensors, device), random_clips(3, 10_000))
    clips = random_clips(args.clips or (4096 if on_cuda else 25), args.seed)
    audio_sec = sum(map(len, clips)) / 16_000
    flops = sum(useful_flops(config, len(clip)) for clip in clips)
    say(f"{len(clips)} clips, {audio_sec:.0f} s of audio, {flops / audio_sec / 1e9:.1f} useful GFLOP/s of it")

    procedure = Procedure(config, tensors, device)
    arrival = random_clips(args.batch, args.seed + 1)
    timed = arrival[: args.timed or (len(arrival) if on_cuda else 2)]
    n_padded = -(-max(map(len, arrival)) // 1280) * 1280
    if on_cuda:
        procedure.encode(timed, n_padded)
    plain: list[npt.NDArray[np.int64]] = []
    seconds = wall_seconds(lambda: plain.extend(procedure.encode(timed, n_padded)), device)
    seconds *= len(arrival) / len(timed)
    plain_rate = sum(map(len, arrival)) / 16_000 / seconds
    say(
        f"procedure: {plain_rate:.2f} audio s/s (batch of {len(arrival)} padded to {n_padded / 16_000:.1f} "
        f"s, of them {len(timed)} run)"
    )

    for precision in args.precision or (PRECISIONS if on_cuda else ("fp32",)):
        encoder = Encoder(config, tensors, device, precision)
        codec = Glm4VoiceTokenizer(encoder, weights="random", precision=precision, token_budget=args.token_budget)
        if precision == "fp32":
            differing = sum(np.count_nonzero(a != b) for a, b in zip(plain, codec.encode(timed), strict=True))
            say(f"fp32: {differing} of {sum(map(len, plain))} tokens differ from the procedure's")
        else:
            codec.encode(clips if on_cuda else clips[:1])
        # the machine's rate is taken before and after each round: others may be using it
        matmul_rates = [matmul_rate(device, encoder.dtype, precision == "tf32")]
        seconds, shares = 0.0, []
        for part in (clips[start :: args.rounds] for start in range(args.rounds)):
            took = wall_seconds(lambda codec=codec, part=part: codec.encode(part), device)  # type: ignore[misc]
            matmul_rates.append(matmul_rate(device, encoder.dtype, precision == "tf32"))
            done = sum(useful_flops(config, len(clip)) for clip in part)
            shares.append(done / took / (sum(matmul_rates[-2:]) / 2))
            seconds += took
        rate = audio_sec / seconds
        say(
            f"{precision}: {rate:.2f} audio s/s, {rate / plain_rate:.2f} x the procedure "
            f"({encoder.attention} attention, {codec.token_budget} tokens per batch)"
        )
        say(
            f"  {flops / seconds / 1e9:.0f} useful GFLOP/s, {float(np.median(shares)):.0%} of the matmul "
            f"rate (rounds {', '.join(f'{share:.0%}' for share in shares)}; "
            f"matmul GFLOP/s {', '.join(f'{x / 1e9:.0f}' for x in matmul_rates)})"
        )
        del encoder, codec

    n_conversations = args.shards if args.shards is not None else (SHARD_CONVERSATIONS if on_cuda else 0)
    if n_conversations:
        precisions = tuple(args.precision or (("fp16", "bf16") if on_cuda else ("fp32",)))
        time_shards(tensors, config, device, precisions, n_conversations, args.token_budget)

    compared = random_clips(args.flip_clips if args.flip_clips is not None else (512 if on_cuda else 3), args.seed + 2)
    if not compared:
        return
    tokens = {}
    for precision in PRECISIONS:
        codec = Glm4VoiceTokenizer(Encoder(config, tensors, device, precision), weights="", precision=precision)
        tokens[precision] = np.concatenate(codec.encode(compared))
        del codec
        changed = np.count_nonzero(tokens[precision] != tokens["fp32"])
        note = " (on a CPU it is fp32)" if precision == "tf32" and not on_cuda else ""
        say(
            f"{precision}: {changed} of {len(tokens[precision])} tokens differ from fp32's "
            f"({changed / len(tokens[precision]):.2%}){note}"
        )
    say(f"{len(np.unique(tokens['fp32']))} codes used")


if __name__ == "__main__":
    main()
