"""What a recording to clone from is to the tests, and how they are read and made."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile as sf

Float32 = npt.NDArray[np.float32]

SENTENCES = (
    "We watched the grey gulls circle over the harbour until the last ferry had gone.",
    "My neighbour keeps three hives of bees behind the old brick wall in her garden.",
    "Nobody had told the children that the circus would leave town before the weekend.",
    "The baker on the corner opens long before the first train of the morning arrives.",
    "After the storm the whole village came out to clear the fallen branches away.",
    "He wrote a short letter to his sister and put it under the lamp on the table.",
    "They found a narrow path behind the mill that led straight down to the river.",
    "She has played the second violin in our small orchestra for nearly twenty years.",
    "It took us the better part of an hour to find the right key for that door.",
    "Every summer the swallows come back to the same beam above the stable door.",
    "The doctor asked him to sit down and tell her slowly what had happened.",
    "Most of the apples had fallen before anyone thought of bringing a basket.",
)


@dataclass(frozen=True)
class Prompt:
    id: str
    samples: Float32
    rate: int
    transcript: str
    language: str = "en"


def read_prompts(folder: Path) -> list[Prompt]:
    """Of a bank's folder, as they are."""
    found = []
    for line in (folder / "voices.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        samples, rate = sf.read(folder / row["file"], dtype="float32")
        found.append(Prompt(row["id"], samples, rate, row["transcript"], row["language"]))
    return found


def in_a_room(samples: Float32, n: int) -> Float32:
    """With 0.2 s of it before and behind, at -70 dBFS: no recording is digitally silent."""
    padded = np.pad(samples * np.float32(0.5), 22_050 // 5)
    noise = np.random.default_rng(n).standard_normal(len(padded)).astype(np.float32)
    return padded + noise * np.float32(10 ** (-70 / 20))


SEXES = ("female", "male")
ACCENTS = ("Scottish", "Irish", "American")
Row = dict[str, object]
Change = Callable[[int, Row], Row | None]


def write_bank_to(folder: Path, prompts: Sequence[Prompt], change: Change = lambda i, row: row) -> Path:
    """A bank of twelve: the first the assistant's, four of test, the others of train."""
    folder.mkdir(exist_ok=True)
    lines = []
    for i, prompt in enumerate(prompts):
        sf.write(folder / f"{prompt.id}.wav", prompt.samples, prompt.rate, subtype="PCM_16")
        row: Row = {
            "id": prompt.id,
            "file": f"{prompt.id}.wav",
            "transcript": prompt.transcript,
            "language": "en",
            "sex": SEXES[i % 2],
            "accent": ACCENTS[i % 3],
            "licence": "CC-BY-4.0" if i % 2 else "CC0-1.0",
            "consent": "given for this test",
            "source": "made for this test",
            "split": "assistant" if i == 0 else "test" if i % 3 == 1 else "train",
        }
        changed = change(i, row)
        if changed is not None:
            lines.append(json.dumps(changed) + "\n")
    (folder / "voices.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder
