"""Figures that no sample tells, each with where it comes from. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Rates = Mapping[str, tuple[float, float]]
"""Seconds of sound that one GPU works through in a second, least and most, by stage: one of `RATED`."""
RATED = ("speech", "codes", "asr")


@dataclass(frozen=True, slots=True)
class Constant:
    """Attributes:
    least, most: the same unless it is a range.
    how: "measured" by this project; "published" by others; "estimated"; or "given" by the user.
    """

    name: str
    least: float
    most: float
    unit: str
    how: Literal["measured", "published", "estimated", "given"]
    source: str


def _one(
    name: str, value: float, unit: str, how: Literal["measured", "published", "estimated"], source: str
) -> Constant:
    return Constant(name, value, value, unit, how, source)


TASK_BYTES = _one(
    "Prefect's database",
    20_000,
    "bytes a task run",
    "measured",
    "SQLite of Prefect 3.8: 38 MB after 1,900, 124 MB after 6,300",
)
MOST_TASKS = _one(
    "task runs of one flow run, at most",
    2_000,
    "",
    "measured",
    "Prefect 3.8's server is behind for 10 s and more after 1,000 at once",
)
SUBMIT_SEC = _one(
    "handing a task to local processes", 0.0032, "s", "measured", "thread pool of Prefect 3.8, SQLite, two cores"
)
SUBMIT_FAR_SEC = _one(
    "handing a task to Dask or Ray", 0.058, "s", "measured", "52 to 64 ms with Prefect 3.8, SQLite, two cores"
)
CACHE_BYTES = _one(
    "speech cache", 1e8, "bytes an hour of speech", "estimated", "16-bit FLAC at 24 kHz, of clear speech"
)
GPU_RATES = {
    "cosyvoice": Constant(
        "speech on a GPU",
        15.0,
        30.0,
        "seconds of sound a second",
        "published",
        "CosyVoice 2 and 3 on an L20 or H200, batches of 4 to 16: real-time factors of 0.029 to 0.073 in the tables of "
        "its repository and of SGLang-Omni; not measured by this project",
    )
}
"""Of `speech`, by backend. Other backends, codecs and recognizers were never measured on a GPU, nor has anyone said."""
CHUNK = 20_000
"""Dialogues in one file of the work folder, as `stages.ingest` cuts them."""
CODECS = {"mel": (10.0, 1), "glm4voice": (14.0, 1), "mimi": (11.0, 8)}
"""Bits of a token, and codebooks if none are configured. The sample is made with the embedded codec, "mel"."""


def gpu_rate(stage: str, backend: str, rates: Rates) -> Constant | None:
    """None: nobody has said."""
    if stage in rates:
        return Constant(f"{stage} on a GPU", *rates[stage], "seconds of sound a second", "given", "--rate")
    return GPU_RATES.get(backend) if stage == "speech" else None
