"""Makes the weights of the embedded codec: `python -m duplexdata.codecs.fit_mel --out FILE [--seed 0]`.

The package's own corpus is spoken by many voices of espeak-ng, each sentence by one of them; the codes 1 to
1023 are the k-means centres of its frames. The same file comes out for the same corpus, voices, seed,
espeak-ng, libraries and kind of processor.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soxr
import torch
from safetensors.torch import save as to_bytes
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from duplexdata.codecs.base import Float32, Int16
from duplexdata.codecs.mel import CODEBOOK_SIZE, FORMAT, FRAME, SILENCE, MelAnalysis, MelCodec, MelSettings
from duplexdata.errors import SynthesisError
from duplexdata.speech.base import SpeechRequest, Synthesizer, Voice
from duplexdata.speech.espeak import EspeakSynthesizer
from duplexdata.speech.voices import assistant_voice, user_voices
from duplexdata.units import SAMPLE_RATE

CORPUS = Path(__file__).parent.parent / "data" / "corpus.jsonl"
N_DIMS = 48
LEVEL_WEIGHT = 0.6
"""Of the frame's overall level in the distance; below 1 it leaves more codes to tell spectra apart."""
SPEECH_DBFS = -26.0
GAINS_DB = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -6.0, 6.0, -12.0)

_log = logging.getLogger(__name__)


def fit(clips: Iterable[Float32], seed: int = 0, settings: MelSettings | None = None) -> dict[str, torch.Tensor]:
    """The tensors of a `MelCodec`.

    Args:
        clips: mono speech at 16 kHz, float32 (n_samples,); each is framed from its first sample.
        seed: of the k-means starting points.
        settings: of the analysis.

    Returns: `levels`, `projection`, `voicing` and `pitch`; codes are in the order of their loudness.
    Raises: ValueError: fewer frames that sound than codes.
    """
    settings = settings or MelSettings()
    n_codes = CODEBOOK_SIZE - 1
    # several threads would add things up in no fixed order
    with threadpool_limits(limits=1):
        levels, voicing, pitch = _features(clips, settings)
        if len(levels) < n_codes:
            raise ValueError(f"expected at least {n_codes} frames of speech, found {len(levels)}")
        projection = _projection(levels)
        means = KMeans(n_codes, n_init=1, max_iter=100, tol=1e-5, random_state=seed).fit(levels @ projection)
    label = means.labels_
    count = np.bincount(label, minlength=n_codes)
    order = np.argsort(_averages(10 ** (levels / 10), label, count).sum(axis=1), kind="stable")

    code_voicing = _averages(voicing, label, count)
    code_pitch = _averages(np.where(pitch > 0, np.log(np.maximum(pitch, 1.0)), 0.0), label, count)
    voiced_share = _averages((pitch > 0).astype(np.float64), label, count)
    known = voiced_share > 0
    overall = float(np.exp(np.log(pitch[pitch > 0]).mean())) if np.any(pitch > 0) else 120.0
    code_pitch = np.where(known, np.exp(code_pitch / np.where(known, voiced_share, 1.0)), overall)

    shape = (n_codes, settings.sub_frames, settings.bands)
    return {
        "levels": _half(_averages(levels, label, count)[order].reshape(shape)),
        "projection": torch.from_numpy(projection.astype(np.float32)),
        "voicing": _half(code_voicing[order]),
        "pitch": _half(code_pitch[order].reshape(-1)),
    }


def _half(values: npt.NDArray[np.float64]) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(values.astype(np.float16)))


def _averages(
    values: npt.NDArray[np.float64], label: npt.NDArray[np.int32], count: npt.NDArray[np.intp]
) -> npt.NDArray[np.float64]:
    """Mean of each label's rows: (n_frames, n) -> (n_codes, n)."""
    sums = np.stack([np.bincount(label, column, len(count)) for column in values.T], axis=1)
    return sums / np.maximum(count, 1)[:, None]


def _projection(levels: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Principal components of the band levels, after the overall level was given less weight: (n, N_DIMS)."""
    n = levels.shape[1]
    weighting = np.eye(n) - (1 - LEVEL_WEIGHT) / n
    weighted = (levels - levels.mean(axis=0)) @ weighting
    _, vectors = np.linalg.eigh(weighted.T @ weighted)
    components = vectors[:, ::-1][:, :N_DIMS]
    # an eigenvector's sign is arbitrary
    components = components * np.sign(components[np.abs(components).argmax(axis=0), np.arange(N_DIMS)])
    # rounded to what the file holds, so that the centres are found where the codec looks for them
    return (weighting @ components).astype(np.float32).astype(np.float64)


def _features(
    clips: Iterable[Float32], settings: MelSettings
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Levels, voicing (n, sub_frames) and pitch (n, 1), in Hz and 0 if unvoiced, of all frames that sound."""
    analysis = MelAnalysis(settings, torch.float64)
    all_levels, all_voicing, all_pitch = [], [], []
    for clip in clips:
        samples = np.clip(np.rint(clip * 32768), -32768, 32767).astype(np.int16)
        n = -(-len(samples) // FRAME)
        frames = np.pad(samples, (0, n * FRAME - len(samples))).reshape(n, FRAME)
        sounding = np.linalg.norm(frames.astype(np.float64), axis=1) >= settings.silence_norm
        if not sounding.any():
            continue
        pitch = pitch_track(frames.reshape(-1), settings.window_samples).reshape(n, settings.sub_frames)
        voiced = pitch > 0
        logs = np.where(voiced, np.log(np.maximum(pitch, 1.0)), 0.0).sum(axis=1)
        mean_pitch = np.where(voiced.any(axis=1), np.exp(logs / np.maximum(voiced.sum(axis=1), 1)), 0.0)
        all_levels.append(analysis.levels(frames[sounding]))
        all_voicing.append(voiced[sounding].astype(np.float64))
        all_pitch.append(mean_pitch[sounding])
    if not all_levels:
        raise ValueError("expected clips of speech, found none that sounds")
    return np.concatenate(all_levels), np.concatenate(all_voicing), np.concatenate(all_pitch)[:, None]


def pitch_track(samples: Int16, step: int, low_hz: float = 60.0, high_hz: float = 400.0) -> npt.NDArray[np.float64]:
    """Pitch by autocorrelation, in windows of 40 ms.

    Args:
        samples: int16 at 16 kHz, shape (n * step,).
        step: samples per value.

    Returns: Hz around the middle of each step, 0 where it is not voiced; shape (n,).
    """
    n, window, n_fft = len(samples) // step, 640, 2048
    padded = np.pad(samples.astype(np.float64), window // 2)
    starts = np.arange(n) * step + step // 2
    taper = np.hanning(window)
    tapered = padded[starts[:, None] + np.arange(window)] * taper
    tapered -= tapered.mean(axis=1, keepdims=True) * taper / taper.mean()
    correlation = np.fft.irfft(np.abs(np.fft.rfft(tapered, n_fft)) ** 2, axis=1)
    reference = np.fft.irfft(np.abs(np.fft.rfft(taper, n_fft)) ** 2)
    first, last = int(SAMPLE_RATE / high_hz), int(SAMPLE_RATE / low_hz) + 1
    energy = correlation[:, :1] / reference[0]
    lags = correlation[:, first : last + 1] / np.maximum(energy, 1e-9) / reference[first : last + 1]
    # the first lag that is nearly as good as the best: its multiples fit just as well
    peak = np.zeros_like(lags, dtype=bool)
    peak[:, 1:-1] = (lags[:, 1:-1] >= lags[:, :-2]) & (lags[:, 1:-1] > lags[:, 2:])
    best = np.where(peak, lags, 0).max(axis=1, keepdims=True)
    chosen = (peak & (lags >= 0.9 * best)).argmax(axis=1)
    audible = np.sqrt(energy[:, 0] / window) > 32768 * 10 ** (-60 / 20)
    return np.where((best[:, 0] > 0.6) & audible, SAMPLE_RATE / (chosen + first), 0.0)


def sentences(corpus: Path = CORPUS) -> list[tuple[str, str]]:
    """(language, sentence) of all turns of the corpus, in its order."""
    found = []
    for line in corpus.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        for message in row["messages"]:
            for text in re.split(r"(?<=[.!?])\s+|(?<=[。！？])", message["content"]):
                if text.strip():
                    found.append((row["language"], text.strip()))
    return found


def training_voices() -> list[Voice]:
    """The users' voices but those kept for tests, and the assistant's as every fourth."""
    users = [voice for voice in user_voices() if voice.split == "train"]
    return users + [assistant_voice()] * (len(users) // 3)


def training_clips(synthesizer: Synthesizer, voices: Sequence[Voice], seed: int = 0) -> Iterator[Float32]:
    """Every sentence of the corpus once, by a voice drawn at random.

    Most are set to one level, the others above or below it. Each starts at a random place within its first
    frame, since no utterance of a conversation starts on the frame clock, and ends in digital silence.

    Yields: float32 at 16 kHz, shape (n_samples,).
    """
    rng = np.random.default_rng(seed)
    requests = [SpeechRequest(text, voices[int(rng.integers(len(voices)))], language) for language, text in sentences()]
    failed = 0
    for request, speech in zip(requests, synthesizer.synthesize_many(requests), strict=True):
        gain, lead = float(rng.choice(GAINS_DB)), int(rng.integers(FRAME))
        if isinstance(speech, SynthesisError):
            failed += 1
            _log.warning("%s: %s", request.text, speech)
            continue
        samples = speech.samples
        if speech.sample_rate != SAMPLE_RATE:
            samples = soxr.resample(samples, speech.sample_rate, SAMPLE_RATE, "HQ")
        scale = 10 ** ((SPEECH_DBFS + gain) / 20) / max(_active_rms(samples), 1e-6)
        yield np.pad(samples * scale, (lead, FRAME)).astype(np.float32)
    if failed:
        _log.warning("%d of %d sentences could not be spoken", failed, len(requests))


def _active_rms(samples: Float32) -> float:
    """Root mean square over the 20 ms steps that are less than 35 dB below the loudest."""
    n = len(samples) // 320
    if not n:
        return float(np.sqrt(np.mean(samples.astype(np.float64) ** 2))) if len(samples) else 0.0
    power = (samples[: n * 320].astype(np.float64) ** 2).reshape(n, 320).mean(axis=1)
    return float(np.sqrt(power[power >= power.max() * 10**-3.5].mean()))


def save(tensors: dict[str, torch.Tensor], path: Path, *, settings: MelSettings, seed: int) -> None:
    """Write a weights file that `MelCodec.load` reads."""
    header = {"format": FORMAT, "settings": asdict(settings), "seed": seed}
    # one entry only: safetensors keeps several in no fixed order
    path.write_bytes(to_bytes(tensors, metadata={"duplexdata": json.dumps(header, sort_keys=True)}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the weights file to write")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    settings = MelSettings()
    synthesizer = EspeakSynthesizer()
    try:
        clips = list(training_clips(synthesizer, training_voices(), arguments.seed))
    finally:
        synthesizer.close()
    print(f"{len(clips)} clips, {sum(map(len, clips)) / SAMPLE_RATE / 60:.1f} minutes, {synthesizer.name}")
    tensors = fit(clips, arguments.seed, settings)
    save(tensors, arguments.out, settings=settings, seed=arguments.seed)

    codec = MelCodec.load(arguments.out)
    samples = [np.rint(np.clip(clip, -1, 32767 / 32768) * 32768).astype(np.int16) for clip in clips]
    tokens = np.concatenate(codec.encode(samples))
    share = np.bincount(tokens, minlength=CODEBOOK_SIZE)[1:] / np.sum(tokens != SILENCE)
    perplexity = 2 ** -np.sum(share[share > 0] * np.log2(share[share > 0]))
    n_frames = np.sum(tokens != SILENCE)
    print(f"{n_frames} frames, {np.sum(share > 0)} codes in use, perplexity {perplexity:.0f}")
    print(f"{arguments.out}: {arguments.out.stat().st_size} bytes, {codec.describe()['weights']}")


if __name__ == "__main__":
    main()
